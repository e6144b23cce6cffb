"""One evaluation, stage by stage, into a run directory. Issuing the same command again goes on where it stopped."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from bench.config import EvalConfig, digest
from bench.data.base import CaptionData, CaptionedImage, data_sha256
from bench.data.load import load_data
from bench.errors import ConfigError
from bench.progress import say
from bench.provenance import collect_provenance
from bench.scoring import Scorer
from bench.stages.decode import decode
from bench.stages.score import score
from models.captioner import Captioner
from models.formats import load_captioner
from reports.records import SCHEMA_VERSION, DataInfo, ImageCounts, ModelInfo, RunRecord, StageRow
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
    device = _device(config.device)
    captioner, training = load_captioner(config.checkpoint)
    captioner.to(device)
    data = load_data(config.data, images=config.images)
    images = data.select(config.split)[: config.limit]
    record = _new_record(config, command, captioner, training, data, images)
    store = RunStore(config.out or Path("runs") / record.name)
    _prepare(store, record, fresh=config.fresh)
    with _leaving_a_mark(store):
        _run_stages(config, captioner, data, images, store, record)
    return store


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
    done = {(row.image_id, row.beam_size) for row in store.read_captions()}
    with Scorer({image.image_id: image.references for image in images}) as scorer:
        scorer.start()  # the Java processes warm up while captum and seaborn load and the model decodes
        from bench.stages.explain import explain
        from reports.html import write_report

        with _timed(stages, "decode", len(images) * len(config.beam_sizes) - len(done), "captions"):
            decode(
                captioner,
                images,
                store,
                beam_sizes=config.beam_sizes,
                batch_size=config.batch_size,
                done=done,
                begin=lambda: store.write_run(record),
            )
        captions = store.read_captions()
        failed = {row.image_id for row in captions if row.error is not None}
        record = dataclasses.replace(
            record,
            images=ImageCounts(len(images), len(images) - len(failed), len(failed)),
            stages=tuple(stages),
        )
        store.write_run(record)
        with _timed(stages, "score", len(captions), "captions"):
            scored = score(
                scorer,
                captions,
                {image.image_id: image for image in images},
                beam_sizes=config.beam_sizes,
                ground_truth=data.ground_truth,
                vocabulary=captioner.vocabulary,
            )
    store.write_scores(scored.per_image)
    record = dataclasses.replace(
        record,
        metrics=scored.metrics,
        metric_signature=scored.signature,
        warnings=record.warnings + scored.warnings,
        stages=tuple(stages),
    )
    store.write_run(record)
    if config.explain != 0:
        beam_size = max(config.beam_sizes)
        said = {row.image_id: row for row in captions if row.beam_size == beam_size and row.words}
        chosen = [image for image in images if image.image_id in said][: config.explain]
        if chosen:  # a model may say nothing at all
            with _timed(stages, "explain", len(chosen), "images"):
                info = explain(
                    captioner, chosen, said, store, ground_truth=data.ground_truth, seed=config.seed
                )
            record = dataclasses.replace(record, explanations=info, stages=tuple(stages))
    record = dataclasses.replace(record, status="finished")
    store.write_run(record)
    with _timed(stages, "report", 1, "pages"):
        write_report(store.path)
    store.write_throughput(record, stages)


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
    return device


def _prepare(store: RunStore, record: RunRecord, *, fresh: bool) -> None:
    """Makes sure the run directory is empty, or holds this very run."""
    path = store.path
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not (path / "run.json").is_file():
        raise ConfigError(f"{path} exists and is not a run directory; give --out a new or empty folder")
    if fresh:
        store.clear()
        return
    if _identity(store.read_run()) != _identity(record):
        raise ConfigError(
            f"{path} holds a run of another checkpoint, data set or options; "
            "give another --out, or --fresh to replace it"
        )


def _identity(record: RunRecord) -> str:
    """A digest of everything that decides the numbers; the batch size does not."""
    config = {name: value for name, value in record.config.items() if name != "batch_size"}
    return digest({"config": config, "sha256": dict(record.provenance.sha256)})


def _new_record(
    config: EvalConfig,
    command: str,
    captioner: Captioner,
    training: dict[str, Any],
    data: CaptionData,
    images: Sequence[CaptionedImage],
) -> RunRecord:
    provenance = collect_provenance(
        checkpoint=config.checkpoint,
        vocabulary=captioner.vocabulary,
        data_sha256=data_sha256(images),
        device=config.device,
    )
    counts = [len(image.references) for image in images]
    record = RunRecord(
        schema_version=SCHEMA_VERSION,
        name="",
        status="running",
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config=config.as_json(),
        provenance=provenance,
        model=ModelInfo(
            name=config.checkpoint.stem,
            encoder=captioner.encoder_config.name,
            grid=captioner.grid,
            image_size=captioner.preprocessing.size,
            parameters=sum(p.numel() for p in captioner.parameters()),
            vocabulary_size=len(captioner.vocabulary),
            decoder=dataclasses.asdict(captioner.decoder.config),
            training=training or None,
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
        warnings=(),
    )
    stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"{config.checkpoint.stem}-{config.split}")
    return dataclasses.replace(record, name=f"{stem[:60]}-{_identity(record)[:8]}")
