"""Training: a recipe, not a library. Presets are data; the loop is short enough to read."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from bench.data.base import CaptionData, CaptionedImage
from bench.errors import ConfigError, DataError
from bench.progress import say, track
from models.beam import beam_search
from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig, build_encoder
from models.errors import PictureError
from models.formats.native import save_native
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary, split_words


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training run yields, apart from the data."""

    data: str | None
    """Data set used when none is given; None if one must be given."""
    encoder: str
    """A key of `models.encoder.ENCODERS`."""
    grid: int
    """Rows and columns of the annotation grid."""
    preprocessing: Preprocessing
    """Size and normalisation of the encoder's input."""
    decoder: dict[str, Any] = field(default_factory=dict)
    """Fields of `models.decoder.DecoderConfig` that differ from its defaults."""
    encoder_weights: str | None = None
    """torchvision weights to start from, by name or file; None trains the encoder from scratch."""
    min_count: int = 1
    """Words seen fewer times in the training captions become `<unk>`."""
    epochs: int = 6
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step."""
    captions_per_image: int = 1
    """Captions drawn for each image each time it is seen; the image is encoded once for all of them."""
    learning_rate: float = 3e-3
    """Peak of the one-cycle schedule (Smith & Topin 2017) that AdamW follows."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    doubly_stochastic: float = 0.0
    """Weight of the term mean((1 - sum_t alpha_t)^2), Xu et al. 2015 eq. 14, as a mean over cells."""
    shift: float = 0.0
    """Largest random shift of a training image, as a share of its size; 0 for none."""
    seed: int = 0
    """Seed of initialisation, order, drawn captions and shifts."""


# The demo model: minutes on one CPU core. Its small field of view keeps "this cell" meaning "this place".
_SCENES = TrainingConfig(
    data="scenes",
    encoder="scenes",
    grid=14,
    preprocessing=Preprocessing(size=112, mean=(0.9, 0.9, 0.9), std=(0.25, 0.25, 0.25)),
    decoder={"embedding_dim": 64, "hidden_dim": 128, "attention_dim": 32, "dropout": 0.0},
    epochs=8,
)


def _control(**decoder: str) -> TrainingConfig:
    return replace(_SCENES, decoder=_SCENES.decoder | decoder)


PRESETS: dict[str, TrainingConfig] = {
    "scenes": _SCENES,
    # Controls, of which it is known how much they rest on attention. "scenes" itself is the leaky one: besides what it
    # attends to, it sees the mean annotation vector before the first word.
    "scenes-tight": _control(initial_state="zero"),  # attention is all it sees by
    "scenes-decoy": _control(gate="shut"),  # attention is computed, and nothing reads it
    "scenes-uniform": _control(attention="uniform"),  # Wiegreffe & Pinter 2019: how far without attention?
    # A ResNet-18 trunk from scratch, for a few hundred photographs and a few minutes on a CPU: the whole pipeline
    # on real pictures, not a good captioner.
    "photos-small": TrainingConfig(
        data=None,
        encoder="resnet18",
        grid=4,
        preprocessing=Preprocessing(size=128),
        decoder={"embedding_dim": 128, "hidden_dim": 256, "attention_dim": 128, "dropout": 0.5},
        min_count=3,
        epochs=8,
        batch_size=32,
        captions_per_image=5,
        learning_rate=2e-3,
        weight_decay=0.01,
        shift=0.1,
    ),
}
"""Name -> recipe for `gazebench train --preset NAME`."""


@dataclass(frozen=True)
class _Examples:
    """A split in memory: every image once, as the model sees it, with all its captions."""

    images: UInt8[Tensor, "image height width 3"]
    captions: tuple[Int[Tensor, "caption step"], ...]
    references: tuple[tuple[str, ...], ...]


def train(config: TrainingConfig, data: CaptionData, out: Path, *, preset: str) -> Captioner:
    """Trains a captioner and writes its checkpoint.

    The loss is the mean cross-entropy over the words that are there (never over padding), plus the doubly stochastic
    term if asked for. After each epoch the validation split is decoded greedily; the weights with the lowest
    validation loss are kept.

    Args:
        config: the recipe.
        data: pictures with captions; its train and val splits are used.
        out: the checkpoint to write, atomically.
        preset: the recipe's name, stored in the checkpoint.

    Returns:
        The trained captioner, in eval mode. A split that is empty, or holds nothing readable, is a `DataError`;
        encoder weights that can't be had are a `CheckpointError`.

    Raises:
        ConfigError: if the loss is no longer a number.
    """
    torch.manual_seed(config.seed)
    draw = torch.Generator().manual_seed(config.seed)
    train_images, val_images = data.select("train"), data.select("val")
    vocabulary = Vocabulary.from_captions(
        (split_words(reference) for image in train_images for reference in image.references),
        min_count=config.min_count,
    )
    captioner = build_captioner(config, vocabulary)
    examples = _read(train_images, config, vocabulary, "reading training pictures")
    validation = _read(val_images, config, vocabulary, "reading validation pictures")
    say(
        f"{len(examples.captions)} training images, {len(vocabulary)} words, "
        f"{sum(p.numel() for p in captioner.parameters()):,} weights"
    )
    steps = -(-len(examples.captions) // config.batch_size)
    optimizer = torch.optim.AdamW(
        captioner.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=steps * config.epochs, pct_start=0.2
    )
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    for epoch in range(1, config.epochs + 1):
        label = f"epoch {epoch} of {config.epochs}"
        loss = _train_epoch(captioner.train(), examples, config, draw, optimizer, schedule, label)
        val_loss, exact = _validate(captioner.eval(), validation, config)
        if not math.isfinite(loss + val_loss):
            raise ConfigError(
                f"training diverged in epoch {epoch}; use another seed or a lower learning rate"
            )
        say(
            f"epoch {epoch}: training loss {loss:.3f} nats per word, validation loss {val_loss:.3f}, "
            f"greedy captions that equal a reference {100 * exact:.1f} %"
        )
        is_best = all(val_loss < earlier["val_loss"] for earlier in history)
        history.append({"epoch": epoch, "loss": loss, "val_loss": val_loss, "val_exact": exact})
        if is_best:
            training = _plain(config) | {"preset": preset, "data": data.name, "history": history[:]}
            save_native(captioner, out, training=training)
            best = {name: tensor.detach().clone() for name, tensor in captioner.state_dict().items()}
    captioner.load_state_dict(best)
    return captioner


def _train_epoch(
    captioner: Captioner,
    examples: _Examples,
    config: TrainingConfig,
    draw: torch.Generator,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    label: str,
) -> float:
    """One pass over the training images in a new order; the mean loss."""
    order = torch.randperm(len(examples.captions), generator=draw)
    batches = _batches(order, config.batch_size)
    total = 0.0
    for batch in track(batches, total=len(batches), label=label, unit="batches"):
        loss = _loss(captioner, examples, batch, config, draw)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(captioner.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        total += loss.item() * len(batch)
    return total / len(order)


def build_captioner(config: TrainingConfig, vocabulary: Vocabulary) -> Captioner:
    """An untrained captioner as the recipe asks for it."""
    encoder = EncoderConfig(config.encoder, config.grid)
    with torch.device("meta"):  # only to learn how long its annotation vectors are
        annotation_dim = build_encoder(encoder).annotation_dim
    assert isinstance(annotation_dim, int)
    decoder = DecoderConfig(vocabulary_size=len(vocabulary), annotation_dim=annotation_dim, **config.decoder)
    return Captioner(
        encoder, decoder, vocabulary, config.preprocessing, encoder_weights=config.encoder_weights
    )


def _plain(config: TrainingConfig) -> dict[str, Any]:
    plain = {f.name: getattr(config, f.name) for f in fields(config)}
    plain["preprocessing"] = asdict(config.preprocessing)
    if config.encoder_weights is not None:
        plain["encoder_weights"] = Path(config.encoder_weights).name  # of a file, its folder is private
    return plain


def _read(
    images: Sequence[CaptionedImage], config: TrainingConfig, vocabulary: Vocabulary, label: str
) -> _Examples:
    pixels, captions, references = [], [], []
    for image in track(images, total=len(images), label=label, unit="images"):
        said = [
            [*vocabulary.encode(words), vocabulary.end]
            for words in map(split_words, image.references)
            if words
        ]
        if not said:
            continue
        try:
            view = config.preprocessing.view(image.picture())
        except PictureError as error:
            say(f"left out: {error}")
            continue
        pixels.append(
            torch.frombuffer(bytearray(view.tobytes()), dtype=torch.uint8).view(view.height, view.width, 3)
        )
        captions.append(_pad([torch.tensor(ids) for ids in said], vocabulary.pad))
        references.append(image.references)
    if not pixels:
        raise DataError(
            "no picture with a caption could be read, so there is nothing to train on; check the data set"
        )
    return _Examples(torch.stack(pixels), tuple(captions), tuple(references))


def _batches(order: Int[Tensor, " image"], size: int) -> list[Int[Tensor, " batch"]]:
    return [order[i : i + size] for i in range(0, len(order), size)]


def _pad(rows: Sequence[Int[Tensor, " step"]], pad: int) -> Int[Tensor, "row step"]:
    padded: Tensor = nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=pad)
    return padded


def _input(
    images: UInt8[Tensor, "batch height width 3"], preprocessing: Preprocessing
) -> Float[Tensor, "batch 3 height width"]:
    mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
    return ((images.float() / 255.0 - mean) / std).permute(0, 3, 1, 2).contiguous()


def _loss(
    captioner: Captioner,
    examples: _Examples,
    batch: Int[Tensor, " image"],
    config: TrainingConfig,
    draw: torch.Generator,
) -> Float[Tensor, ""]:
    images = _input(examples.images[batch], config.preprocessing)
    if config.shift:
        images = _shifted(images, config.shift, draw)
    rows = []
    for index in batch.tolist():
        captions = examples.captions[index]
        rows.extend(captions[torch.randint(len(captions), (config.captions_per_image,), generator=draw)])
    token_ids = _pad(rows, captioner.vocabulary.pad)
    annotations = captioner.encode(images).repeat_interleave(config.captions_per_image, dim=0)
    return _caption_loss(captioner, annotations, token_ids, config.doubly_stochastic)


def _caption_loss(
    captioner: Captioner,
    annotations: Float[Tensor, "row cells dim"],
    token_ids: Int[Tensor, "row step"],
    doubly_stochastic: float,
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood per word in nats, plus the attention term."""
    log_probs, alphas = captioner.decoder(annotations, token_ids, captioner.vocabulary.start)
    said = token_ids != captioner.vocabulary.pad
    chosen = log_probs.gather(2, token_ids.unsqueeze(2)).squeeze(2)
    loss: Tensor = -(chosen * said).sum() / said.sum()
    if doubly_stochastic:
        attended = (alphas * said.unsqueeze(2)).sum(dim=1)  # (row, T, L) -> (row, L)
        loss = loss + doubly_stochastic * ((1.0 - attended) ** 2).mean()
    return loss


def _shifted(
    images: Float[Tensor, "batch 3 height width"], share: float, draw: torch.Generator
) -> Float[Tensor, "batch 3 height width"]:
    """Moves each image by up to `share` of its size; the border is repeated."""
    reach = round(share * images.shape[2])
    padded = nn.functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    moves = torch.randint(2 * reach + 1, (len(images), 2), generator=draw).tolist()
    size = images.shape[2]
    return torch.stack([p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, moves, strict=True)])


@torch.no_grad()
def _validate(captioner: Captioner, examples: _Examples, config: TrainingConfig) -> tuple[float, float]:
    """Mean loss per word over all captions, and the share of greedy captions that equal a reference."""
    loss = words = 0.0
    exact = 0
    for batch in _batches(torch.arange(len(examples.captions)), config.batch_size):
        annotations = captioner.encode(_input(examples.images[batch], config.preprocessing))
        indices = batch.tolist()
        token_ids = _pad([row for i in indices for row in examples.captions[i]], captioner.vocabulary.pad)
        counts = torch.tensor([len(examples.captions[i]) for i in indices])
        said = int((token_ids != captioner.vocabulary.pad).sum())
        loss += said * float(
            _caption_loss(captioner, annotations.repeat_interleave(counts, dim=0), token_ids, 0.0)
        )
        words += said
        if not math.isfinite(loss):
            break  # nothing can be decoded with such weights
        for index, (hypothesis,) in zip(indices, beam_search(captioner, annotations, 1), strict=True):
            spoken = captioner.vocabulary.decode(hypothesis.token_ids)
            exact += any(spoken == split_words(reference) for reference in examples.references[index])
    return loss / words, exact / len(examples.captions)
