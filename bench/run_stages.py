"""The stages of a run, each with what it needs of a run directory and what it leaves there."""

import dataclasses
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pandas as pd

from bench.config import EvalConfig
from bench.data.base import CaptionData, CaptionedImage
from bench.distributed import broadcast, together, world
from bench.failures import check_failures
from bench.memory import give_back_memory
from bench.progress import say
from bench.run_directory import holds, is_explained
from bench.scoring import Scorer
from bench.stages.decode import decode
from bench.stages.facts import caption_facts, training_captions, with_table
from bench.stages.retrieve import retrieve
from bench.stages.score import score
from bench.stages.stock import Stock
from models.captioner import Captioner
from reports.explained import Chosen, Parts
from reports.records import (
    CaptionRow,
    ExplanationInfo,
    ImageCounts,
    RunRecord,
    StageRow,
)
from reports.store import RunStore
from reports.unfinished import Unfinished


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
        with timed(stages, "decode", int((~done).sum()), "captions"):
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


def score_captions(
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

    unfinished = Unfinished(store.path)
    ranked = _retrieve(config, captioner, images, stock, stages, unfinished) if config.retrieval else None
    give_back_memory()
    with timed(stages, "score", stock.captions, "captions"):
        scored = score(
            scorer,
            store.iter_captions(),
            stock,
            store,
            search_signature=config.signature,
            unknown_word=record.model.unknown_word if record.model else None,
            facts=with_table(facts, ranked),
            unfinished=unfinished,
        )
    record = dataclasses.replace(
        record,
        metrics=scored.metrics,
        metric_signature=f"{scored.signature}|{config.signature}",
        scoring_warnings=scored.warnings,
        stages=added_up(stages),
    )
    store.write_run(record)
    unfinished.clear()
    return record


def _retrieve(
    config: EvalConfig,
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    stock: Stock,
    stages: list[StageRow],
    unfinished: Unfinished,
) -> pd.DataFrame:
    """How well the captions of the largest beam size tell their images apart."""
    chosen = {images[place].image_id: place for place in stock.said}
    with timed(stages, "retrieve", len(chosen) ** 2, "pairs of caption and image"):
        found = retrieve(
            captioner,
            [images[place] for place in chosen.values()],
            {image_id: stock.said[place] for image_id, place in chosen.items()},
            batch_size=config.images_at_once,
            unfinished=unfinished,
        )
    beam_size = max(config.search.beam_sizes)
    return found.rename_axis("image_id").reset_index().assign(beam_size=beam_size)


def count_images(images: Sequence[CaptionedImage], captions: Sequence[CaptionRow]) -> ImageCounts:
    """How many images have captions, and how many failed."""
    failed = {row.image_id for row in captions if row.error is not None}
    return ImageCounts(len(images), len(images) - len(failed), len(failed))


def explained(
    config: EvalConfig,
    captioner: Captioner,
    data: CaptionData,
    images: Sequence[CaptionedImage],
    store: RunStore,
    record: RunRecord,
    stages: list[StageRow],
) -> RunRecord:
    """Explains what was asked for, if that is not done; the record with what was done, as it is stored."""
    if config.explain == 0 or is_explained(store, record):
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
    with timed(stages, "explain", len(chosen.explained), "images"):
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


def intervene_images(
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

    if holds(store, "interventions.parquet"):
        return
    chosen = _to_explain(config, images, store).explained
    by_id = _by_id(images, set(chosen))
    with timed(stages, "intervene", len(chosen), "images"):
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
def timed(stages: list[StageRow], name: str, items: int, unit: str) -> Iterator[None]:
    """Adds a stage with the time that the block takes, if it comes to its end."""
    started = time.perf_counter()
    yield
    stages.append(StageRow(name, time.perf_counter() - started, items, unit))
    say(f"{name}: {stages[-1].seconds:.1f} s")


def added_up(stages: Sequence[StageRow]) -> tuple[StageRow, ...]:
    """Each stage once, with the time and the amount of all the parts that a run was done in."""
    found: dict[str, StageRow] = {}
    for stage in stages:
        earlier = found.get(stage.name, dataclasses.replace(stage, seconds=0.0, items=0))
        seconds, items = earlier.seconds + stage.seconds, earlier.items + stage.items
        found[stage.name] = dataclasses.replace(stage, seconds=seconds, items=items)
    return tuple(found.values())
