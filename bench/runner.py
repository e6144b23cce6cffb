"""One evaluation, stage by stage, into a run directory. Issuing the same command again goes on where it stopped."""

import dataclasses
import platform
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

from bench.batches import fitted
from bench.config import EvalConfig, digest
from bench.data.base import CaptionData, CaptionedImage, data_sha256, references_of, references_sha256
from bench.data.load import load_data
from bench.distributed import broadcast, together, world
from bench.errors import ConfigError
from bench.failures import check_failures
from bench.memory import give_back_memory
from bench.progress import say
from bench.provenance import collect_provenance, path_sha256
from bench.run_directory import locked, named, prepare
from bench.scoring import Scorer
from bench.stages.decode import decode
from bench.stages.facts import caption_facts, training_captions, with_table
from bench.stages.retrieve import retrieve
from bench.stages.score import load_frequencies, score
from bench.stages.speed import TIMED, measure_speed
from bench.stages.stock import Stock, take_stock
from models.captioner import Captioner
from models.formats import Checkpoint, load_checkpoint
from reports.explained import Chosen, Parts
from reports.records import (
    SCHEMA_VERSION,
    CaptionRow,
    DataInfo,
    ExplanationInfo,
    ImageCounts,
    ModelInfo,
    Provenance,
    RunError,
    RunRecord,
    StageRow,
)
from reports.shards import shards
from reports.store import RunStore


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
        data = _data(config)
        images = data.select(config.split)[: config.limit]
        record = new_record(fitting, command, checkpoint, data, images) if world().is_first else None
    with ExitStack() as stack:
        found = None
        with together():
            if record is not None:
                found = _opened(config, fitting, record, stack)
        opened = broadcast(found)
        assert opened is not None
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


def _data(config: EvalConfig) -> CaptionData:
    data = load_data(config.data, images=config.images)
    if config.explaining.methods:  # captum takes a second, which is else spent while Java starts
        from bench.stages.explain import chosen_methods

        chosen_methods(config.explaining)
    if config.regions is not None:
        from bench.data.regions import load_regions

        loaded = load_regions(config.regions, data.select(config.split)[: config.limit])
        data = dataclasses.replace(
            data, ground_truth=loaded.truth, warnings=(*data.warnings, *loaded.warnings)
        )
    return data


class _Opened(NamedTuple):
    """A run directory that this run may write to."""

    path: Path
    record: RunRecord
    """With what the directory says of the run already."""
    batch_size: int
    is_finished: bool


def _opened(config: EvalConfig, fitting: EvalConfig, record: RunRecord, stack: ExitStack) -> _Opened:
    """Locks the run directory until the stack is closed, and looks how far the run has come."""
    store = RunStore(config.out or Path("runs") / record.name)
    stack.enter_context(locked(store.path))
    earlier = prepare(store, record, fresh=config.fresh)
    if earlier is None:
        return _Opened(store.path, record, fitting.images_at_once, is_finished=False)
    size = earlier.config.get("batch_size")
    if config.batch_size is not None or not isinstance(size, int):
        size = fitting.images_at_once
    record = dataclasses.replace(
        record,
        config=dict(record.config) | {"batch_size": size},  # it stays, as it decides the last digits
        created=earlier.created,
        images=earlier.images,
        stages=earlier.stages,
        metrics=earlier.metrics,
        metric_signature=earlier.metric_signature,
        scoring_warnings=earlier.scoring_warnings,
        explanations=earlier.explanations,
        warnings=tuple(dict.fromkeys((*record.warnings, *earlier.warnings))),
    )
    is_finished = earlier.status == "finished" and _is_whole(store, config, record)
    return _Opened(store.path, record, size, is_finished)


def load(config: EvalConfig) -> Checkpoint:
    """The checkpoint, on the device that it is to run on."""
    device = _device(config.device)
    checkpoint = load_checkpoint(
        config.checkpoint, word_map=config.word_map, encoder_weights=config.encoder_weights
    )
    checkpoint.captioner.to(device).encoder_dtype = getattr(torch, config.encoder_dtype)
    checkpoint.captioner.encode_exactly(config.search.decoding == "tutorial")
    return checkpoint


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


def _is_whole(store: RunStore, config: EvalConfig, record: RunRecord) -> bool:
    """Whether all is there that a finished run consists of."""
    return (
        _holds(store, "captions.jsonl", "failures.jsonl", "throughput.json", "report.html")
        and not shards(store.path)
        and _is_scored(store, record)
        and (config.explain == 0 or record.explanations is None or _is_explained(store, record))
        and (record.explanations is None or _holds(store, "interventions.parquet"))
    )


def _is_scored(store: RunStore, record: RunRecord) -> bool:
    return bool(record.metrics) and _holds(store, "scores.parquet")


def _is_explained(store: RunStore, record: RunRecord) -> bool:
    files = ("attributions.parquet", "maps.npz", "sanity.parquet")
    return record.explanations is not None and _holds(store, *files)


def _holds(store: RunStore, *names: str) -> bool:
    return all((store.path / name).is_file() for name in names)


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
        if place.is_first and not (_is_scored(store, record) and _holds(store, "interventions.parquet")):
            frequencies = load_frequencies(config.frequencies)
            scorer = stack.enter_context(Scorer(references_of(images), frequencies=frequencies))
            del frequencies  # of which the scorer keeps what it needs
            scorer.start()  # the Java processes warm up while captum and seaborn load and the model decodes
        import bench.stages.explain  # noqa: F401 - captum takes a second
        from reports.html import write_report

        decode_images(config, captioner, images, store, record, stages)
        if place.size > 1:  # alone, scores come first
            record = _explained(config, captioner, data, images, store, record, stages)
        if not place.is_first:
            return
        give_back_memory()
        references = scorer.references if scorer is not None else references_of(images)
        stock = take_stock(store.iter_captions(), references, said=config.retrieval)
        counts = ImageCounts(len(images), len(images) - int(stock.failed.sum()), int(stock.failed.sum()))
        record = dataclasses.replace(record, images=counts, stages=added_up(stages))
        store.write_run(record)
        if scorer is not None and not _is_scored(store, record):
            record = _scored(config, captioner, data, images, stock, scorer, store, record, stages)
            give_back_memory()
        if place.size == 1:
            record = _explained(config, captioner, data, images, store, record, stages)
        if scorer is not None and record.explanations is not None:
            _intervene(config, captioner, data, images, scorer, store, stages)
        Parts(store.path).clear()
    if not _is_timed(store):
        with _timed(stages, "speed", 1, "probes"):
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
    store.write_run(dataclasses.replace(record, status="finished"))
    store.write_throughput(record, added_up(stages))
    with _timed(stages, "report", 1, "pages"):
        write_report(store.path)  # the last thing that a finished run must have
    store.write_throughput(record, added_up(stages))


def added_up(stages: Sequence[StageRow]) -> tuple[StageRow, ...]:
    """Each stage once, with the time and the amount of all the parts that a run was done in."""
    found: dict[str, StageRow] = {}
    for stage in stages:
        earlier = found.get(stage.name, dataclasses.replace(stage, seconds=0.0, items=0))
        seconds, items = earlier.seconds + stage.seconds, earlier.items + stage.items
        found[stage.name] = dataclasses.replace(stage, seconds=seconds, items=items)
    return tuple(found.values())


def _is_timed(store: RunStore) -> bool:
    try:
        return store.read_speed() is not None
    except RunError:  # of another version, or damaged
        return False


def _scored(
    config: EvalConfig,
    captioner: Captioner,
    data: CaptionData,
    images: Sequence[CaptionedImage],
    stock: Stock,
    scorer: Scorer,
    store: RunStore,
    record: RunRecord,
    stages: list[StageRow],
) -> RunRecord:
    """Scores the captions; the record with the scores, as it is stored."""
    training, truth = training_captions(data, config.split), data.ground_truth

    def facts(rows: Sequence[CaptionRow]) -> pd.DataFrame:
        seen = {row.image_id: images[scorer.references.place(row.image_id) or 0] for row in rows}
        return caption_facts(rows, seen, ground_truth=truth, training=training)

    ranked = _retrieve(config, captioner, images, stock, stages) if config.retrieval else None
    give_back_memory()
    with _timed(stages, "score", stock.captions, "captions"):
        scored = score(
            scorer,
            store.iter_captions(),
            stock,
            store,
            search_signature=config.signature,
            unknown_word=record.model.unknown_word if record.model else None,
            facts=with_table(facts, ranked),
        )
    record = dataclasses.replace(
        record,
        metrics=scored.metrics,
        metric_signature=f"{scored.signature}|{config.signature}",
        scoring_warnings=scored.warnings,
        stages=added_up(stages),
    )
    store.write_run(record)
    return record


def decode_images(
    config: EvalConfig,
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    store: RunStore,
    record: RunRecord,
    stages: list[StageRow],
) -> None:
    """Captions what the run does not hold yet; then captions.jsonl holds all captions in order.

    Args:
        config: what to evaluate.
        captioner: the model.
        images: all pictures of the run, in order.
        store: the run.
        record: written before the first caption.
        stages: gets the times; those of each beam size are of this process and its share of the images.
    """
    ids, place = [image.image_id for image in images], world()
    with together():  # else a process could count what another has already begun to write
        sizes = config.search.beam_sizes
        done = store.find_captions(ids, sizes).done if place.is_first else None
    done = broadcast(done)
    assert done is not None
    if not done.all():
        with _timed(stages, "decode", int((~done).sum()), "captions"):
            decoded = decode(
                captioner,
                images,
                store,
                beam_sizes=sizes,
                batch_size=config.images_at_once,
                done=done,
                begin=lambda: store.write_run(record),
                rules=config.search.rules,
                n_best=config.search.n_best,
                max_steps=config.search.max_steps,
                max_failures=config.max_failures,
            )
        stages += [
            StageRow(f"decode: {part}", spent, decoded.images, "images")
            for part, spent in decoded.seconds.items()
            if spent
        ]
    with together():  # merging waits until all have written, and what follows until all is merged
        if place.is_first:
            store.merge_captions(ids, sizes)
            check_failures(store.read_failures(), expected=len(images), most=config.max_failures)


def _retrieve(
    config: EvalConfig,
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    stock: Stock,
    stages: list[StageRow],
) -> pd.DataFrame:
    """How well the captions of the largest beam size tell their images apart."""
    chosen = {images[place].image_id: place for place in stock.said}
    with _timed(stages, "retrieve", len(chosen) ** 2, "pairs of caption and image"):
        found = retrieve(
            captioner,
            [images[place] for place in chosen.values()],
            {image_id: stock.said[place] for image_id, place in chosen.items()},
            batch_size=config.images_at_once,
        )
    beam_size = max(config.search.beam_sizes)
    return found.rename_axis("image_id").reset_index().assign(beam_size=beam_size)


def count_images(images: Sequence[CaptionedImage], captions: Sequence[CaptionRow]) -> ImageCounts:
    """How many images have captions, and how many failed."""
    failed = {row.image_id for row in captions if row.error is not None}
    return ImageCounts(len(images), len(images) - len(failed), len(failed))


def _explained(
    config: EvalConfig,
    captioner: Captioner,
    data: CaptionData,
    images: Sequence[CaptionedImage],
    store: RunStore,
    record: RunRecord,
    stages: list[StageRow],
) -> RunRecord:
    """Explains what was asked for, if that is not done; the record with what was done, as it is stored."""
    if config.explain == 0 or _is_explained(store, record):
        return record
    info = explain_images(config, captioner, data, images, store, stages)
    if info is None:
        return record
    left_out = [f"{failure.image_id} is not explained: {failure.reason}" for failure in info.left_out]
    record = dataclasses.replace(
        record,
        explanations=info,
        stages=added_up(stages),
        warnings=tuple(dict.fromkeys((*record.warnings, *left_out))),
    )
    store.write_run(record)
    return record


def explain_images(
    config: EvalConfig,
    captioner: Captioner,
    data: CaptionData,
    images: Sequence[CaptionedImage],
    store: RunStore,
    stages: list[StageRow],
) -> ExplanationInfo | None:
    """Explains captions of the largest beam size; None if there is nothing to explain, or another process tells."""
    from bench.stages.explain import explain
    from bench.stages.workers import default_workers

    with together():
        chosen = _to_explain(config, images, store) if world().is_first else None
    chosen = broadcast(chosen)
    if not chosen or not chosen.explained:  # a model may say nothing at all
        return None
    by_id = _by_id(images, {*chosen.explained, *chosen.others})
    with _timed(stages, "explain", len(chosen.explained), "images"):
        return explain(
            captioner,
            [by_id[image_id] for image_id in chosen.explained],
            _rows_of(chosen.explained, config, store),
            store,
            ground_truth=data.ground_truth,
            options=config.explaining,
            search=config.search,
            others=[by_id[image_id] for image_id in chosen.others],
            seed=config.seed,
            workers=1 if world().size > 1 else config.workers or default_workers(captioner),
        )


def _to_explain(config: EvalConfig, images: Sequence[CaptionedImage], store: RunStore) -> Chosen:
    """The first images whose captions can be explained, and some more; once they are chosen, they stay chosen."""
    from bench.stages.observe import FEWEST_BASELINE_IMAGES

    parts = Parts(store.path)
    chosen = parts.noted(Chosen, "chosen")
    if chosen is None:
        there, beam_size = (
            {image.image_id for image in images if _is_there(image)},
            max(config.search.beam_sizes),
        )
        found = [
            row.image_id
            for row in store.iter_captions()
            if row.beam_size == beam_size and row.image_id in there and _explicable(row)
        ]
        most = len(found) if config.explain is None else config.explain
        chosen = Chosen(tuple(found[:most]), tuple(found[most:][: 2 * FEWEST_BASELINE_IMAGES]))
        if chosen.explained:
            parts.note("chosen", dataclasses.asdict(chosen))
    return chosen


def _by_id(images: Sequence[CaptionedImage], wanted: Collection[str]) -> dict[str, CaptionedImage]:
    return {image.image_id: image for image in images if image.image_id in wanted}


def _rows_of(image_ids: Iterable[str], config: EvalConfig, store: RunStore) -> dict[str, CaptionRow]:
    """The captions of some images at the largest beam size, by image id."""
    wanted, beam_size = set(image_ids), max(config.search.beam_sizes)
    return {
        row.image_id: row
        for row in store.iter_captions()
        if row.beam_size == beam_size and row.image_id in wanted
    }


def _intervene(
    config: EvalConfig,
    captioner: Captioner,
    data: CaptionData,
    images: Sequence[CaptionedImage],
    scorer: Scorer,
    store: RunStore,
    stages: list[StageRow],
) -> None:
    """Decodes what was explained with other attention, if that is not done."""
    from bench.stages.intervene import intervene

    if _holds(store, "interventions.parquet"):
        return
    chosen = _to_explain(config, images, store).explained
    by_id = _by_id(images, set(chosen))
    with _timed(stages, "intervene", len(chosen), "images"):
        store.write_interventions(
            intervene(
                captioner,
                [by_id[image_id] for image_id in chosen],
                _rows_of(chosen, config, store),
                scorer,
                ground_truth=data.ground_truth,
                search=config.search,
                batch_size=config.images_at_once,
                seed=config.seed,
                thorough=config.explaining.thorough,
                parts=Parts(store.path),
            )
        )


def _is_there(image: CaptionedImage) -> bool:
    """Whether a picture's file is still where it was captioned."""
    return image.path is None or image.path.is_file()


def _explicable(row: CaptionRow) -> bool:
    """Whether a caption has words, and step t said word t: the tutorial's rules let `<pad>` come in between."""
    return bool(row.words) and len(row.words) + row.finished == len(row.token_ids)


@contextmanager
def _timed(stages: list[StageRow], name: str, items: int, unit: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    stages.append(StageRow(name, time.perf_counter() - started, items, unit))
    say(f"{name}: {stages[-1].seconds:.1f} s")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None and world().size > 1:
            device = torch.device("cuda", world().local_rank)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name} can't be used on this machine: {str(error).splitlines()[0]}"
        ) from error
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # convolutions that round to 10 bits would change captions
    return device


def new_record(
    config: EvalConfig,
    command: str,
    checkpoint: Checkpoint,
    data: CaptionData,
    images: Sequence[CaptionedImage],
) -> RunRecord:
    """The record of a run that begins; its name follows from everything that decides the numbers."""
    captioner = checkpoint.captioner
    vocabulary = captioner.vocabulary
    counts = [len(image.references) for image in images]
    record = RunRecord(
        schema_version=SCHEMA_VERSION,
        name="",
        status="running",
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=config.as_json(),
        provenance=_provenance(config, captioner, images),
        model=ModelInfo(
            name=config.model_name,
            encoder=captioner.encoder_config.name,
            grid=captioner.grid,
            image_size=captioner.preprocessing.size,
            parameters=sum(p.numel() for p in captioner.parameters()),
            vocabulary_size=len(vocabulary),
            decoder=dataclasses.asdict(captioner.decoder.config),
            training=checkpoint.training or None,
            unknown_word=None if vocabulary.unk is None else vocabulary.words[vocabulary.unk],
        ),
        data=DataInfo(
            name=data.name,
            split=config.split,
            images=len(images),
            references_per_image=(min(counts), max(counts)),
            split_origin=data.split_origin,
            missing=data.missing,
            warnings=data.warnings,
            has_ground_truth=data.ground_truth is not None,
        ),
        images=ImageCounts(len(images), 0, 0),
        stages=(),
        metric_signature="",
        metrics=(),
        explanations=None,
        warnings=checkpoint.warnings,
        search_signature=config.signature,
    )
    return named(record, f"{config.model_name}-{config.split}")


def _provenance(config: EvalConfig, captioner: Captioner, images: Sequence[CaptionedImage]) -> Provenance:
    on_gpu = config.device.startswith("cuda")
    described = torch.cuda.get_device_name(config.device) if on_gpu else platform.machine()
    given = {
        "checkpoint": config.checkpoint,
        "word_map": config.word_map,
        "encoder_weights": Path(config.encoder_weights) if config.encoder_weights else None,
        "frequencies": config.frequencies,
        "regions": config.regions,
    }
    return collect_provenance(
        device=f"{config.device} ({described}), encoder in {config.encoder_dtype}",
        threads=torch.get_num_threads(),
        sha256={
            **{name: path_sha256(path) for name, path in given.items() if path is not None and path.exists()},
            "vocabulary": digest(captioner.vocabulary.words),
            "data": data_sha256(images),
            "references": references_sha256(references_of(images)),
        },
    )
