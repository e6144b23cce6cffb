"""One evaluation, stage by stage, into a run directory. Issuing the same command again goes on where it stopped."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Literal

import numpy as np

from bench.batches import fitted
from bench.config import EvalConfig
from bench.data.base import CaptionData, CaptionedImage, references_of
from bench.distributed import broadcast, together, world
from bench.memory import give_back_memory
from bench.opening import load, load_images, new_record, open_run
from bench.progress import say
from bench.run_directory import check_shared, holds, is_scored, is_timed
from bench.run_stages import added_up, decode_images, explained, intervene_images, score_captions, timed
from bench.scoring import Scorer
from bench.stages.score import load_frequencies
from bench.stages.speed import TIMED, measure_speed
from bench.stages.stock import take_stock
from models.captioner import Captioner
from reports.explained import Parts
from reports.records import (
    ImageCounts,
    RunError,
    RunRecord,
)
from reports.store import RunStore
from reports.unfinished import Unfinished


def evaluate(config: EvalConfig, *, command: str) -> RunStore:
    """Decodes, scores, explains and reports; of a run that was broken off, what is missing.

    What can't be used ends in a `CheckpointError`, `DataError` or `ConfigError`, and leaves no run directory behind.
    Several processes share decoding and explaining; the first does everything else.

    Args:
        config: what to evaluate.
        command: the command line that asked for it, for the record.

    Returns:
        The run directory, finished as far as this process goes.
    """
    with together():
        checkpoint = load(config)
        fitting = fitted(config, checkpoint.captioner)
        data = load_images(config)
        images = data.select(config.split)[: config.limit]
        record = new_record(fitting, command, checkpoint, data, images) if world().is_first else None
    with ExitStack() as stack:
        found = None
        with together():
            if record is not None:
                found = open_run(config, fitting, record, stack)
        opened = broadcast(found)
        assert opened is not None
        with together():
            check_shared(opened.path)
        store = RunStore(opened.path)
        if opened.is_finished:
            say(f"{store.path} is finished, and nothing of it is missing; --fresh starts over")
            return store
        if config.batch_size is None:
            say(f"up to {opened.batch_size} images at once")
        config = dataclasses.replace(config, batch_size=opened.batch_size)
        with _leaving_a_mark(store):
            _run_stages(config, checkpoint.captioner, data, images, store, opened.record)
    return store


@contextmanager
def _leaving_a_mark(store: RunStore) -> Iterator[None]:
    """Makes a run that does not come to its end say so. Nothing is written before the first caption."""
    try:
        yield
    except BaseException as error:
        status: Literal["interrupted", "failed"] = "failed"
        if isinstance(error, KeyboardInterrupt):
            status = "interrupted"
        with suppress(OSError, RunError):  # what has gone wrong is told, not that it could not be noted
            if (store.path / "run.json").exists():
                store.write_run(dataclasses.replace(store.read_run(), status=status))
        raise


def _run_stages(
    config: EvalConfig,
    captioner: Captioner,
    data: CaptionData,
    images: Sequence[CaptionedImage],
    store: RunStore,
    record: RunRecord,
) -> None:
    """Does what is missing of a run; in processes but the first, its share."""
    stages, place = [*record.stages], world()
    with ExitStack() as stack:
        scorer = None
        intervened = config.explain == 0 or holds(store, "interventions.parquet")
        if place.is_first and not (is_scored(store, record) and intervened):
            frequencies = load_frequencies(config.frequencies)
            scorer = stack.enter_context(Scorer(references_of(images), frequencies=frequencies))
            del frequencies  # of which the scorer keeps what it needs
            scorer.start()  # the Java processes warm up while captum and seaborn load and the model decodes
        import bench.stages.explain  # noqa: F401 - captum takes a second
        from reports.html import write_report

        decode_images(config, captioner, images, store, record, stages)
        if place.size > 1:  # alone, scores come first
            record = explained(config, captioner, data, images, store, record, stages)
        if not place.is_first:
            return
        give_back_memory()
        references = scorer.references if scorer is not None else references_of(images)
        stock = take_stock(store.iter_captions(), references, said=config.retrieval)
        counts = ImageCounts(len(images), len(images) - int(stock.failed.sum()), int(stock.failed.sum()))
        record = dataclasses.replace(record, images=counts, stages=added_up(stages))
        store.write_run(record)
        if scorer is not None and not is_scored(store, record):
            record = score_captions(config, captioner, data, images, stock, scorer, store, record, stages)
            give_back_memory()
        if place.size == 1:
            record = explained(config, captioner, data, images, store, record, stages)
        if scorer is not None and record.explanations is not None:
            intervene_images(config, captioner, data, images, scorer, store, stages)
        Parts(store.path).clear()
        Unfinished(store.path).clear()
    if not is_timed(store):
        with timed(stages, "speed", 1, "probes"):
            store.write_speed(
                measure_speed(
                    captioner,
                    [images[place] for place in np.flatnonzero(~stock.failed)[:TIMED].tolist()],
                    beam_size=max(config.search.beam_sizes),
                    rules=config.search.rules,
                    max_steps=config.search.max_steps,
                )
            )
    record = dataclasses.replace(record, stages=added_up(stages))
    store.remove_report()  # one of the unfinished run would make a kill during the last page look like the end
    store.write_run(dataclasses.replace(record, status="finished"))
    store.write_throughput(record, added_up(stages))
    with timed(stages, "report", 1, "pages"):
        write_report(store.path)  # the last thing that a finished run must have
    store.write_throughput(record, added_up(stages))
