"""One evaluation, stage by stage, into a run directory. Issuing the same command again goes on where it stopped."""

import dataclasses
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd
import torch

from bench.config import EvalConfig, digest
from bench.data.base import CaptionData, CaptionedImage, data_sha256, references_sha256
from bench.data.load import load_data
from bench.errors import ConfigError
from bench.progress import say
from bench.provenance import collect_provenance, path_sha256
from bench.run_directory import named, prepare
from bench.scoring import Scorer
from bench.stages.decode import decode
from bench.stages.facts import caption_facts, training_captions
from bench.stages.retrieve import retrieve
from bench.stages.score import load_frequencies, score
from bench.stages.speed import measure_speed
from models.captioner import Captioner
from models.formats import Checkpoint, load_checkpoint
from reports.records import (
    SCHEMA_VERSION,
    CaptionRow,
    DataInfo,
    ExplanationInfo,
    ImageCounts,
    ModelInfo,
    Provenance,
    RunRecord,
    StageRow,
)
from reports.store import RunStore


def evaluate(config: EvalConfig, *, command: str) -> RunStore:
    """Decodes, scores, explains and reports.

    What can't be used ends in a `CheckpointError`, `DataError` or `ConfigError`, and leaves no run directory behind.

    Args:
        config: what to evaluate.
        command: the command line that asked for it, for the record.

    Returns:
        The run directory, finished.
    """
    checkpoint = load(config)
    data = load_data(config.data, images=config.images)
    images = data.select(config.split)[: config.limit]
    if config.explaining.methods:  # captum takes a second, which is else spent while Java starts
        from bench.stages.explain import chosen_methods

        chosen_methods(config.explaining)
    if config.regions is not None:
        from bench.data.regions import load_regions

        loaded = load_regions(config.regions, images)
        data = dataclasses.replace(
            data, ground_truth=loaded.truth, warnings=(*data.warnings, *loaded.warnings)
        )
    record = new_record(config, command, checkpoint, data, images)
    store = RunStore(config.out or Path("runs") / record.name)
    prepare(store, record, fresh=config.fresh)
    with _leaving_a_mark(store):
        _run_stages(config, checkpoint.captioner, data, images, store, record)
    return store


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
        if (store.path / "run.json").exists():
            status: Literal["interrupted", "failed"] = "failed"
            if isinstance(error, KeyboardInterrupt):
                status = "interrupted"
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
    stages: list[StageRow] = []
    references = {image.image_id: image.references for image in images}
    with Scorer(references, frequencies=load_frequencies(config.frequencies)) as scorer:
        scorer.start()  # the Java processes warm up while captum and seaborn load and the model decodes
        import bench.stages.explain  # noqa: F401 - captum takes a second
        from reports.html import write_report

        captions = decode_images(config, captioner, images, store, record, stages)
        record = dataclasses.replace(record, images=count_images(images, captions), stages=tuple(stages))
        store.write_run(record)
        known = caption_facts(
            captions,
            {image.image_id: image for image in images},
            ground_truth=data.ground_truth,
            training=training_captions(data, config.split),
        )
        if config.retrieval:
            known = known.merge(
                _retrieve(config, captioner, images, captions, stages),
                how="left",
                on=["image_id", "beam_size"],
            )
        with _timed(stages, "score", len(captions), "captions"):
            scored = score(
                scorer,
                captions,
                search_signature=config.signature,
                unknown_word=record.model.unknown_word if record.model else None,
                known=known,
            )
        store.write_scores(scored.per_image)
        record = dataclasses.replace(
            record,
            metrics=scored.metrics,
            metric_signature=f"{scored.signature}|{config.signature}",
            scoring_warnings=scored.warnings,
            stages=tuple(stages),
        )
        store.write_run(record)
        info = None
        if config.explain != 0:
            info = explain_images(config, captioner, data, images, captions, store, stages, scorer)
    with _timed(stages, "speed", 1, "probes"):
        captioned = {row.image_id for row in captions if row.error is None}
        store.write_speed(
            measure_speed(
                captioner,
                [image for image in images if image.image_id in captioned],
                beam_size=max(config.search.beam_sizes),
                rules=config.search.rules,
                max_steps=config.search.max_steps,
            )
        )
    record = dataclasses.replace(record, status="finished", explanations=info, stages=tuple(stages))
    store.write_run(record)
    with _timed(stages, "report", 1, "pages"):
        write_report(store.path)
    store.write_throughput(record, stages)


def decode_images(
    config: EvalConfig,
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    store: RunStore,
    record: RunRecord,
    stages: list[StageRow],
) -> list[CaptionRow]:
    """Captions what the run does not hold yet; all its captions."""
    done = {(row.image_id, row.beam_size) for row in store.read_captions()}
    todo = sum(
        any((image.image_id, size) not in done for size in config.search.beam_sizes) for image in images
    )
    with _timed(stages, "decode", len(images) * len(config.search.beam_sizes) - len(done), "captions"):
        seconds = decode(
            captioner,
            images,
            store,
            beam_sizes=config.search.beam_sizes,
            batch_size=config.batch_size,
            done=done,
            begin=lambda: store.write_run(record),
            rules=config.search.rules,
            n_best=config.search.n_best,
            max_steps=config.search.max_steps,
        )
    if todo:
        stages += [
            StageRow(f"decode: {part}", spent, todo, "images") for part, spent in seconds.items() if spent
        ]
    return store.read_captions()


def _retrieve(
    config: EvalConfig,
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    captions: Sequence[CaptionRow],
    stages: list[StageRow],
) -> pd.DataFrame:
    """How well the captions of the largest beam size tell their images apart."""
    beam_size = max(config.search.beam_sizes)
    said = {row.image_id: row.token_ids for row in captions if row.beam_size == beam_size and row.token_ids}
    chosen = [image for image in images if image.image_id in said][: config.retrieval]
    with _timed(stages, "retrieve", len(chosen) ** 2, "pairs of caption and image"):
        found = retrieve(
            captioner,
            chosen,
            {image.image_id: said[image.image_id] for image in chosen},
            batch_size=config.batch_size,
        )
    return found.rename_axis("image_id").reset_index().assign(beam_size=beam_size)


def count_images(images: Sequence[CaptionedImage], captions: Sequence[CaptionRow]) -> ImageCounts:
    """How many images have captions, and how many failed."""
    failed = {row.image_id for row in captions if row.error is not None}
    return ImageCounts(len(images), len(images) - len(failed), len(failed))


def explain_images(
    config: EvalConfig,
    captioner: Captioner,
    data: CaptionData,
    images: Sequence[CaptionedImage],
    captions: Sequence[CaptionRow],
    store: RunStore,
    stages: list[StageRow],
    scorer: Scorer | None = None,
) -> ExplanationInfo | None:
    """Explains the captions of the largest beam size; None if there is nothing to explain."""
    from bench.stages.explain import explain
    from bench.stages.intervene import intervene
    from bench.stages.workers import default_workers

    beam_size = max(config.search.beam_sizes)
    said = {row.image_id: row for row in captions if row.beam_size == beam_size and _explicable(row)}
    there = [image for image in images if image.image_id in said and _is_there(image)]
    chosen = there[: config.explain]
    if not chosen:  # a model may say nothing at all
        return None
    with _timed(stages, "explain", len(chosen), "images"):
        info = explain(
            captioner,
            chosen,
            said,
            store,
            ground_truth=data.ground_truth,
            options=config.explaining,
            search=config.search,
            others=there[len(chosen) :],
            seed=config.seed,
            workers=config.workers or default_workers(captioner),
        )
    if scorer:
        with _timed(stages, "intervene", len(chosen), "images"):
            store.write_interventions(
                intervene(
                    captioner,
                    chosen,
                    said,
                    scorer,
                    ground_truth=data.ground_truth,
                    search=config.search,
                    batch_size=config.batch_size,
                    seed=config.seed,
                    thorough=config.explaining.thorough,
                )
            )
    return info


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
            name=config.checkpoint.stem,
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
    return named(record, f"{config.checkpoint.stem}-{config.split}")


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
            "references": references_sha256({image.image_id: image.references for image in images}),
        },
    )
