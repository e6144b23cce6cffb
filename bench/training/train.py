"""From a recipe and a data set to a training directory. Issuing the same command again goes on where it stopped."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from bench.batches import is_out_of_memory
from bench.config import digest
from bench.data.base import CaptionData, CaptionedImage, data_sha256, references_sha256
from bench.devices import device_named
from bench.distributed import World, broadcast, joined, together
from bench.errors import ConfigError
from bench.progress import say
from bench.provenance import collect_provenance, file_sha256
from bench.run_directory import check_shared, locked
from bench.training.initial import initialise
from bench.training.loop import Training
from bench.training.recipe import TrainingConfig
from bench.training.state import BEST, LAST, Last, Progress
from bench.training.steps import trained_children
from bench.training.trunk_weights import trunk_weights
from bench.training.word_vectors import start_embeddings
from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig, build_encoder
from models.formats import load_checkpoint
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary, split_words
from reports.records import RunError
from reports.training import CACHE, RECORD, TrainedModel, TrainingData, TrainingRecord, TrainingStore
from reports.training_page import write_training_page

SCHEMA_VERSION = 1


class _Splits(NamedTuple):
    train: Sequence[CaptionedImage]
    val: Sequence[CaptionedImage]


def train(
    config: TrainingConfig,
    data: CaptionData,
    out: Path,
    *,
    preset: str,
    command: str,
    limit: int | None = None,
    max_steps: int | None = None,
    start: Path | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    fresh: bool = False,
) -> Path:
    """Trains a captioner, or goes on with a training that was ended; alone, or with others that torchrun started.

    Args:
        config: the recipe.
        data: pictures with captions; its train and val splits are used.
        out: the training directory.
        preset: the recipe's name.
        command: the command line, for the record.
        limit: use only the first images of either split; None for all.
        max_steps: after which every stage ends; None for the recipe's epochs.
        start: checkpoint to start from, with its words, sizes and weights; None for what the recipe says.
        device: a torch device.
        cache: folder for pixels and maps that are computed once; None for one in `out`.
        fresh: start over where `out` holds a training.

    Returns:
        The best checkpoint.

    Raises:
        ConfigError: if `out` holds something else, the training diverges, or there is nothing to learn from.
    """
    with joined() as world, ExitStack() as stack:
        placed = device_named(device, world)
        splits = _Splits(*(data.select(split)[:limit] for split in ("train", "val")))
        known = [*data.warnings, *_missing(data)]
        started = _started(config, start) if start is not None else None
        if started is not None:  # its words, sizes and view of a picture are those that are trained
            config = _as_started(config, started.captioner)
        if len(splits.train) < 2 and any(stage.objective == "self-critical" for stage in config.stages):
            raise ConfigError(
                "--self-critical needs two training images at least, to tell rare words from common ones"
            )
        record = _new_record(config, data, splits, preset, command, limit, max_steps, start, placed, world)
        store = TrainingStore(out)
        if _opened(store, record, stack, world, fresh=fresh):
            if world.is_first:
                write_training_page(out)  # which may be what a kill left undone
            say(f"{out} holds this training, finished; nothing is left to do")
            return out / BEST
        with together():  # nobody goes on before all have read what the first is about to replace
            last = Last(out) if (out / LAST).exists() else None
        torch.manual_seed(config.seed)
        if last is None:
            if started is None:
                is_trial = limit is not None or max_steps is not None
                started = _built(config, splits, is_trial, world)
            captioner, origin, warnings = started
            warnings = [*known, *warnings]
            for warning in known if world.is_first else ():
                say(f"WARNING: {warning}")
        else:
            captioner, earlier = last.captioner, store.read_training()
            origin, warnings = earlier.model.weights, list(earlier.warnings)
            record = dataclasses.replace(record, created=earlier.created)
            say(_where(last.progress, config))
        model = _model(captioner, config, origin)
        record = dataclasses.replace(record, model=model, warnings=tuple(warnings))
        progress = last.progress if last else Progress()
        stack.enter_context(_leaving_a_mark(store, world))
        training = Training(
            config,
            captioner.to(placed),
            splits,
            record,
            progress,
            folder=out,
            cache=cache or out / CACHE,
            is_started=start is not None,
            max_steps=max_steps,
            world=world,
        )
        with _enough_memory():
            training.run(last)
    return out / BEST


@contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            "out of memory in reading pictures, in validation or in the optimizer, where nothing can be made smaller; "
            "train where there is more memory, or with another --device"
        ) from error


def _new_record(
    config: TrainingConfig,
    data: CaptionData,
    splits: _Splits,
    preset: str,
    command: str,
    limit: int | None,
    max_steps: int | None,
    start: Path | None,
    device: torch.device,
    world: World,
) -> TrainingRecord:
    """The record of a training that begins; everything that decides its weights is in `config` and the hashes."""
    given = {"start": start, "embeddings": config.embeddings}
    if config.encoder_weights and Path(config.encoder_weights).is_file():
        given["encoder_weights"] = Path(config.encoder_weights)
    return TrainingRecord(
        schema_version=SCHEMA_VERSION,
        name=preset,
        status="running",
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        preset=preset,
        source=config.source,
        config=config.plain() | {"limit": limit, "max_steps": max_steps},
        provenance=collect_provenance(
            device=str(device),
            threads=torch.get_num_threads(),
            sha256={
                **{name: file_sha256(path) for name, path in given.items() if path is not None},
                # The first process compares and writes; the others need not read every picture, too.
                "data": _fingerprint([*splits.train, *splits.val]) if world.is_first else None,
            },
        ),
        data=TrainingData(
            name=data.name,
            train_images=len(splits.train),
            val_images=len(splits.val),
            left_out=(),
            captions=sum(len(image.references) for image in splits.train),
        ),
        model=TrainedModel(0, 0, 0, config.encoder, ""),
        epochs=(),
        best=None,
        warnings=(),
    )


def _missing(data: CaptionData) -> list[str]:
    """One sentence if pictures are not there."""
    if not data.missing:
        return []
    total = len(data.missing) + len(data.images)
    return [
        f"{len(data.missing):,} of the {total:,} pictures that {data.name} names are not there, "
        f"{data.missing[0]!r} for one; the training knows nothing of them"
    ]


def _fingerprint(images: Sequence[CaptionedImage]) -> str:
    """Of pictures and captions; drawn pictures follow from their ids."""
    files = [image for image in images if image.path is not None]
    drawn = {image.image_id: image.references for image in images if image.path is None}
    return digest([data_sha256(files), references_sha256(drawn)])


def _identity(record: TrainingRecord) -> dict[str, Any]:
    """What decides the weights; the recipe's own account of itself does not."""
    return {
        **{name: value for name, value in record.config.items() if name != "source"},
        **{f"SHA-256 of {name}": hash for name, hash in record.provenance.sha256.items()},
    }


def _opened(
    store: TrainingStore, record: TrainingRecord, stack: ExitStack, world: World, *, fresh: bool
) -> bool:
    """Locks the training directory until the stack is closed; whether it holds this training, finished."""
    finished = False
    with together():
        if world.is_first:
            stack.enter_context(locked(store.path, kind="training"))
            _prepare(store, record, fresh=fresh)
            is_known = (store.path / RECORD).exists() and (store.path / BEST).exists()
            finished = is_known and store.read_training().status == "finished"
    with together():
        check_shared(store.path)
    return broadcast(finished)


def _prepare(store: TrainingStore, record: TrainingRecord, *, fresh: bool) -> None:
    """Makes sure that the training directory is empty, or holds this very training."""
    path = store.path
    if not (path / RECORD).is_file():
        return
    if fresh:
        for file in (path / LAST, path / BEST, *path.glob("validation.*.jsonl")):
            file.unlink(missing_ok=True)
        store.write_training(record)  # whatever comes next, the folder stays a training's
        return
    mine = json.loads(json.dumps(_identity(record)))
    theirs = _identity(store.read_training())
    different = [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)]
    if different:
        raise ConfigError(
            f"{path} holds another training: {', '.join(different)} differ{'s' * (len(different) == 1)}; "
            "give another --out, or --fresh to replace it"
        )


class _Started(NamedTuple):
    """A captioner before the first step."""

    captioner: Captioner
    origin: str
    """Where its trunk's weights are from."""
    warnings: list[str]
    """What a reader must know of it."""


def _built(config: TrainingConfig, splits: _Splits, is_trial: bool, world: World) -> _Started:
    trunk = trunk_weights(config.encoder, config.encoder_weights, is_trial=is_trial, world=world)
    vocabulary = Vocabulary.from_captions(
        (split_words(reference) for image in splits.train for reference in image.references),
        min_count=config.min_count,
    )
    captioner = build_captioner(config, vocabulary, weights=trunk.weights)
    if config.embeddings:
        say(start_embeddings(captioner, config.embeddings))
    return _Started(captioner, trunk.origin, [trunk.warning] if trunk.warning else [])


def _started(config: TrainingConfig, start: Path) -> _Started:
    if config.embeddings:
        raise ConfigError("--start and --embeddings were both given; a checkpoint brings its own embeddings")
    checkpoint = load_checkpoint(start, encoder_weights=config.encoder_weights)
    captioner, kind = checkpoint.captioner, checkpoint.captioner.encoder_config.name
    if captioner.vocabulary.unk is None:
        raise ConfigError(
            f"{start.name} has no token for unknown words, which the captions to train on may hold; "
            "start from another checkpoint"
        )
    if kind != config.encoder and any(stage.trained_from for stage in config.stages):
        raise ConfigError(
            f"{start.name} has the encoder {kind}, and the recipe trains a part of {config.encoder}; "
            "give another --preset"
        )
    return _Started(captioner, f"the checkpoint {start.name}", list(checkpoint.warnings))


def _as_started(config: TrainingConfig, captioner: Captioner) -> TrainingConfig:
    """The recipe with the layers, the encoder and the view of a picture that a checkpoint has."""
    decoder = dataclasses.asdict(captioner.decoder.config)
    del decoder["vocabulary_size"], decoder["annotation_dim"]  # they follow from the words and the encoder
    return dataclasses.replace(
        config,
        encoder=captioner.encoder_config.name,
        grid=captioner.encoder_config.grid,
        preprocessing=dataclasses.asdict(captioner.preprocessing),
        decoder=decoder,
    )


def build_captioner(
    config: TrainingConfig, vocabulary: Vocabulary, *, weights: str | None = None
) -> Captioner:
    """An untrained captioner as the recipe asks for it.

    Args:
        config: the recipe.
        vocabulary: its words.
        weights: of the trunk, a file or torchvision's name; None for random ones.

    Returns:
        The captioner, on the CPU.
    """
    encoder = EncoderConfig(config.encoder, config.grid)
    with torch.device("meta"):  # only to learn how long its annotation vectors are
        annotation_dim = build_encoder(encoder).annotation_dim
    assert isinstance(annotation_dim, int)
    decoder = DecoderConfig(vocabulary_size=len(vocabulary), annotation_dim=annotation_dim, **config.decoder)
    captioner = Captioner(
        encoder, decoder, vocabulary, Preprocessing(**config.preprocessing), encoder_weights=weights
    )
    initialise(captioner.decoder, config.initial)
    return captioner


def _model(captioner: Captioner, config: TrainingConfig, origin: str) -> TrainedModel:
    trained = list(captioner.decoder.parameters())
    firsts = [stage.trained_from for stage in config.stages if stage.trained_from is not None]
    if firsts:
        trained += [p for child in trained_children(captioner, min(firsts)) for p in child.parameters()]
    return TrainedModel(
        parameters=sum(p.numel() for p in captioner.parameters()),
        trained=sum(p.numel() for p in trained),
        vocabulary_size=len(captioner.vocabulary),
        encoder=captioner.encoder_config.name,
        weights=origin,
    )


def _where(progress: Progress, config: TrainingConfig) -> str:
    stage = config.stages[progress.stage]
    return f"going on behind step {progress.step} of stage {stage.name!r}"


@contextmanager
def _leaving_a_mark(store: TrainingStore, world: World) -> Iterator[None]:
    """Has training.json say how a training ended. Nothing that goes wrong here may hide what went wrong before."""
    try:
        yield
    except BaseException as error:
        status: Literal["interrupted", "failed"] = "failed"
        if isinstance(error, KeyboardInterrupt):
            status = "interrupted"
        with suppress(OSError, RunError):
            if world.is_first:
                store.write_training(dataclasses.replace(store.read_training(), status=status))
        raise
