"""Recipes by name. A new one is an entry of `PRESETS`; nothing else need be touched."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.errors import ConfigError
from bench.training.recipe import AttentionPenalty, HardAttention, Precision, Stage, TrainingConfig

__all__ = ["PRESETS", "AttentionPenalty", "HardAttention", "Stage", "TrainingConfig", "changed"]

_PASSES = (
    "An epoch here is one pass over the images with one caption drawn for each, so that five make one of the "
    "original, which passes over five captions per image."
)

# The demo model: minutes on one CPU core. Its small field of view keeps "this cell" meaning "this place".
_SCENES = TrainingConfig(
    source="gazebench's own: a small model of drawn scenes, whose true places of words are known",
    data="scenes",
    encoder="scenes",
    grid=14,
    preprocessing={"size": 112, "mean": (0.9, 0.9, 0.9), "std": (0.25, 0.25, 0.25)},
    decoder={"embedding_dim": 64, "hidden_dim": 128, "attention_dim": 32, "dropout": 0.0},
    validation_beam=1,
    self_critical_rate=1e-3,
    stages=(
        Stage(
            name="training",
            epochs=8,
            learning_rate=3e-3,
            optimizer="adamw",
            trained_from=0,
            frozen_statistics=False,
            schedule="one-cycle",
            clip_norm=5.0,
        ),
    ),
)


def _control(source: str, **decoder: str) -> TrainingConfig:
    return replace(
        _SCENES, source=f"gazebench's own: scenes, but {source}", decoder=_SCENES.decoder | decoder
    )


# A ResNet-18 trunk from scratch, for a few hundred photographs and a few minutes on a CPU: the whole pipeline on real
# pictures, not a good captioner.
_PHOTOS_SMALL = TrainingConfig(
    source="gazebench's own: a small trunk from random weights, minutes on a CPU; shows the pipeline, captions badly",
    encoder="resnet18",
    grid=4,
    preprocessing={"size": 128},
    decoder={"embedding_dim": 128, "hidden_dim": 256, "attention_dim": 128, "dropout": 0.5},
    min_count=3,
    stages=(
        Stage(
            name="training",
            epochs=8,
            learning_rate=2e-3,
            batch_size=32,
            captions_per_image=5,
            optimizer="adamw",
            trained_from=0,
            frozen_statistics=False,
            weight_decay=0.01,
            schedule="one-cycle",
            clip_norm=5.0,
            shift=0.1,
        ),
    ),
)

_EXPLAINABLE = TrainingConfig(
    source=(
        "mrFahrenhiet/Explainable_Image_Caption_bot (2a0b668), train.py: Adam 5e-4, 256 captions per step, 35 "
        "epochs, gradients of norm 5 at most, attention 256, LSTM 512, embeddings 300. Otherwise: dropout 0.3 "
        "is applied to the hidden state, since the original drops the words' scores themselves, which teaches "
        "that a word has score 0; splits hold different images, since the original's random_split over "
        "captions puts captions of one image into several; words without punctuation; pictures are squashed "
        "as in its captioning, since a random crop's features can't be kept; weights are chosen by the CIDEr "
        "of searched captions instead of the validation loss; its unused "
        "layer fcn2 is left out. GloVe vectors (glove.42B.300d.txt there) with --embeddings FILE. " + _PASSES
    ),
    encoder="resnet50",
    grid=7,
    preprocessing={"size": 224},
    encoder_weights="IMAGENET1K_V1",
    decoder={
        "embedding_dim": 300,
        "hidden_dim": 512,
        "attention_dim": 256,
        "attention_activation": "tanh",
        "initial_state": "linear",
        "gate": "none",
        "dropout": 0.3,
    },
    min_count=5,
    stages=(
        Stage(name="decoder", epochs=175, learning_rate=5e-4, batch_size=256, clip_norm=5.0, patience=20),
    ),
)

_TUTORIAL_DECODER = Stage(
    name="decoder",
    epochs=25,
    learning_rate=4e-4,
    schedule="plateau",
    clip_value=5.0,
    penalty=AttentionPenalty(1.0, "mean"),
    patience=20,
)
_TUTORIAL_OTHERWISE = (
    "Otherwise: weights are chosen by the BLEU-4 of searched captions, not of words that were each predicted "
    "after the true ones; a frozen encoder's batch normalisation is frozen, too, where the original's running "
    "statistics drift; words are split without punctuation, and counted in the training captions only; an "
    "image's captions are drawn, not "
    "gone through. Validation is once an epoch, and so counts the plateau and the patience. " + _PASSES
)
_FLICKR30K = TrainingConfig(
    source=(
        "sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning (cc9c7e2), train.py: ResNet-101 at 256 pixels, its 8 "
        "x 8 map pooled up to 14 x 14, Adam 4e-4, gradients clipped at 5 by component, rate x 0.8 after 8 bad "
        "epochs, stop after 20, attention term with weight 1 as a mean, embeddings, LSTM and attention 512, "
        "dropout 0.5, captions of up to 50 words. For Flickr30k: 64 captions per step instead of train.py's "
        "32, 5 of its epochs, encoder frozen. " + _TUTORIAL_OTHERWISE
    ),
    encoder="resnet101",
    grid=14,
    preprocessing={"size": 256},
    encoder_weights="IMAGENET1K_V1",
    decoder={
        "embedding_dim": 512,
        "hidden_dim": 512,
        "attention_dim": 512,
        "attention_activation": "relu",
        "initial_state": "linear",
        "gate": "vector",
        "dropout": 0.5,
    },
    min_count=6,  # the tutorial keeps words seen more than 5 times
    max_words=50,
    initial="tutorial",
    selection="BLEU-4",
    stages=(_TUTORIAL_DECODER,),
)
_COCO = replace(
    _FLICKR30K,
    source=(
        "sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning (cc9c7e2), train.py and README: as "
        "tutorial-flickr30k, in the README's two stages: 80 captions per step for 20 of its epochs with the "
        "encoder frozen, then 32 per step for 3 with the trunk's children from the sixth on (layer2 to "
        "layer4) trained at 1e-4. The second stage is end to end. " + _TUTORIAL_OTHERWISE
    ),
    stages=(
        replace(_TUTORIAL_DECODER, epochs=100, batch_size=80, part_size=40),
        replace(
            _TUTORIAL_DECODER,
            name="fine-tuning",
            epochs=15,
            batch_size=32,
            part_size=16,
            encoder_learning_rate=1e-4,
            trained_from=5,
        ),
    ),
)

_PAPER_SOFT = TrainingConfig(
    source=(
        "Xu et al. 2015 (arXiv:1502.03044) and its program kelvinxu/arctic-captions (f4565bf), "
        "evaluate_coco.py: VGG19 without its last pooling, centre crop of 224 pixels, LSTM 1800, embeddings "
        "512, two layers in attention and in the initial state, scalar gate, deep output, Adam at 2e-4 (fixed "
        "in its optimizers.py, whatever its options say), 64 captions per step, attention term with weight 1 "
        "as a sum. Otherwise: words seen at least 5 times instead of the 10,000 most frequent; batches of "
        "mixed lengths, with no padding in the loss; the shorter side becomes 224 pixels, not 256, before the "
        "crop; the program validates every 2,000 steps and stops by likelihood, here every epoch and by "
        "BLEU-4, which the paper chose by. Its bound of 5,000 epochs is never reached; here 100."
    ),
    encoder="vgg19",
    grid=14,
    preprocessing={"size": 224, "fit": "crop"},
    encoder_weights="IMAGENET1K_V1",
    decoder={
        "embedding_dim": 512,
        "hidden_dim": 1800,
        "attention_dim": 512,
        "attention_activation": "tanh",
        "attention_layers": 2,
        "initial_state": "tanh",
        "initial_layers": 2,
        "gate": "scalar",
        "output": "deep",
        "first_input": "zeros",
        "dropout": 0.5,
    },
    min_count=5,
    max_words=100,
    initial="paper",
    selection="BLEU-4",
    stages=(
        Stage(
            name="decoder",
            epochs=100,
            learning_rate=2e-4,
            penalty=AttentionPenalty(1.0, "sum"),
            patience=10,
        ),
    ),
)
_PAPER_HARD = replace(
    _PAPER_SOFT,
    source=_PAPER_SOFT.source
    + (
        " Hard attention as in its capgen.py: a tenth of the REINFORCE term, baseline 0.9 old and 0.1 new, "
        "every second draw soft; the entropy term, which capgen.py leaves out by default, is 0.002. The "
        "program draws one coin for a whole batch, here for each part. Captions are searched for with soft "
        "attention, as its generate_caps.py does."
    ),
    stages=(replace(_PAPER_SOFT.stages[0], objective="hard attention", hard=HardAttention()),),
)

PRESETS: dict[str, TrainingConfig] = {
    "scenes": _SCENES,
    # Controls, of which it is known how much they rest on attention. "scenes" itself is the leaky one: besides what it
    # attends to, it sees the mean annotation vector before the first word.
    "scenes-tight": _control("attention is all it sees by", initial_state="zero"),
    "scenes-decoy": _control("attention is computed, and nothing reads it", gate="shut"),
    "scenes-uniform": _control(
        "with the same weight everywhere (Wiegreffe & Pinter 2019)", attention="uniform"
    ),
    "photos-small": _PHOTOS_SMALL,
    "explainable-captioning": _EXPLAINABLE,
    "tutorial-flickr30k": _FLICKR30K,
    "tutorial-coco": _COCO,
    "paper-soft": _PAPER_SOFT,
    "paper-hard": _PAPER_HARD,
}
"""Name -> recipe for `gazebench train --preset NAME`."""


def changed(
    config: TrainingConfig,
    *,
    seed: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    precision: Precision | None = None,
    encoder_weights: str | None = None,
    embeddings: Path | None = None,
    self_critical: int | None = None,
) -> TrainingConfig:
    """A recipe with what a user wants otherwise; None leaves a value as it is.

    Args:
        config: the recipe.
        seed: of everything random.
        epochs: of each stage of the recipe; 0, together with `self_critical`, to go without them.
        batch_size: of each stage, images per step.
        precision: of each stage.
        encoder_weights: a file, torchvision's name of weights, or "none" for random ones.
        embeddings: a text file of word vectors.
        self_critical: epochs of a stage that is added at the end and maximises the CIDEr-D of drawn captions (Rennie
            et al. 2017): five captions per image, Adam at the recipe's `self_critical_rate`, the encoder at rest, and
            no attention term.

    Returns:
        The changed recipe.

    Raises:
        ConfigError: if a value is out of range.
    """
    given = {"batch_size": batch_size, "precision": precision, "epochs": epochs}
    wanted: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    skipped = epochs == 0 and self_critical is not None
    stages = tuple(replace(stage, **wanted) for stage in (() if skipped else config.stages))
    if self_critical is not None and self_critical < 1:
        raise ConfigError(f"--self-critical is {self_critical}; expected at least 1 epoch")
    if self_critical is not None:
        wanted["epochs"] = self_critical
        stages = (*stages, replace(_self_critical(config.stages[-1], config.self_critical_rate), **wanted))
    if encoder_weights is None:
        encoder_weights = config.encoder_weights
    return replace(
        config,
        seed=config.seed if seed is None else seed,
        encoder_weights=None if encoder_weights == "none" else encoder_weights,
        embeddings=embeddings or config.embeddings,
        stages=stages,
    )


def _self_critical(last: Stage, learning_rate: float) -> Stage:
    return Stage(
        name="self-critical",
        epochs=1,
        learning_rate=learning_rate,
        objective="self-critical",
        batch_size=last.batch_size,
        part_size=last.part_size,
        clip_norm=last.clip_norm,
        clip_value=last.clip_value,
        precision=last.precision,
    )
