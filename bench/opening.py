"""What a run begins with: model, data, record and directory."""

import dataclasses
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch

from bench.config import EvalConfig, digest
from bench.data.base import CaptionData, CaptionedImage, data_sha256, references_of, references_sha256
from bench.data.load import load_data
from bench.devices import device_named
from bench.distributed import world
from bench.provenance import collect_provenance, path_sha256
from bench.run_directory import is_scored_as_a_run, is_whole, locked, named, prepare
from models.captioner import Captioner
from models.formats import Checkpoint, load_checkpoint
from reports.records import (
    SCHEMA_VERSION,
    DataInfo,
    ImageCounts,
    ModelInfo,
    Provenance,
    RunRecord,
)
from reports.store import RunStore


def load(config: EvalConfig) -> Checkpoint:
    """The checkpoint, on the device that it is to run on."""
    device = device_named(config.device, world())
    checkpoint = load_checkpoint(
        config.checkpoint, word_map=config.word_map, encoder_weights=config.encoder_weights
    )
    checkpoint.captioner.to(device).encoder_dtype = getattr(torch, config.encoder_dtype)
    checkpoint.captioner.encode_exactly(config.search.decoding == "tutorial")
    return checkpoint


def load_images(config: EvalConfig) -> CaptionData:
    """The data set, with what is known of the places of its words; the methods asked for are checked meanwhile."""
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


class Opened(NamedTuple):
    """A run directory that this run may write to."""

    path: Path
    record: RunRecord
    """With what the directory says of the run already."""
    batch_size: int
    is_finished: bool


def open_run(config: EvalConfig, fitting: EvalConfig, record: RunRecord, stack: ExitStack) -> Opened:
    """Locks the run directory until the stack is closed, and looks how far the run has come."""
    store = RunStore(config.out or Path("runs") / record.name)
    stack.enter_context(locked(store.path))
    earlier = prepare(store, record, fresh=config.fresh)
    if earlier is None:
        return Opened(store.path, record, fitting.images_at_once, is_finished=False)
    size = earlier.config.get("batch_size")
    if config.batch_size is not None or not isinstance(size, int):
        size = fitting.images_at_once
    if is_scored_as_a_run(store, earlier):
        record = dataclasses.replace(
            record,
            metrics=earlier.metrics,
            metric_signature=earlier.metric_signature,
            scoring_warnings=earlier.scoring_warnings,
        )
    record = dataclasses.replace(
        record,
        config=dict(record.config) | {"batch_size": size},  # it stays, as it decides the last digits
        created=earlier.created,
        images=earlier.images,
        stages=earlier.stages,
        explanations=earlier.explanations,
        warnings=tuple(dict.fromkeys((*record.warnings, *earlier.warnings))),
    )
    is_finished = earlier.status == "finished" and is_whole(store, config, record)
    return Opened(store.path, record, size, is_finished)


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
