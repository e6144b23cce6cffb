"""Checkpoints of mrFahrenhiet/Explainable_Image_Caption_bot.

`{num_epochs, vocab, vocab_size, state_dict, optimizer_denoise_state_dict, training_loss, val_loss}`, where `vocab` is
an instance of the project's own class `Vocabulary`, pickled under `dataset` or `__main__`, depending on what trained.
"""

from pathlib import Path
from typing import Any

from models.encoder import EncoderConfig
from models.errors import CheckpointError
from models.formats.assembly import (
    Checkpoint,
    assemble,
    decoder_config,
    facts,
    find_decoder,
    peculiarities,
    renamed,
)
from models.formats.content import Content
from models.formats.trunks import trunk_or_weights
from models.formats.word_map import read_word_map, vocabulary_from_ids
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

ORIGIN = "mrFahrenhiet/Explainable_Image_Caption_bot, or a fork of it"
_MARKS = ("attention.U.weight", "lstm.weight_ih", "fcn1.weight")
_NAMES = {
    "attention.U": "annotation_projection",
    "attention.W": "hidden_projection",
    "attention.A": "attention_score",
    "embedding": "embedding",
    "lstm": "lstm",
    "init_h": "initial_hidden",
    "init_c": "initial_cell",
    "fcn1": "output",
}
_IMAGE_SIZE = 224  # its app squashes pictures; only its training crops them
_GRID = 7  # of a ResNet at 224 pixels, not pooled
_DROPOUT = 0.3
_MAX_STEPS = 20


def recognise(content: Content) -> bool:
    """Whether there is a decoder with this project's names."""
    return find_decoder(content, _MARKS) is not None


def load(content: Content, word_map: Path | None, encoder_weights: str | None) -> Checkpoint:
    """Rebuilds the captioner.

    Args:
        content: a file that `recognise` knows.
        word_map: words for a file that holds none; None to take those in the file.
        encoder_weights: a file of ResNet weights, or torchvision's name of them, for files without an encoder.

    Returns:
        The checkpoint. What does not fit together is a `CheckpointError`.
    """
    name = content.path.name
    root = find_decoder(content, _MARKS)
    assert root is not None
    tensors = renamed(content, root, _NAMES)
    decoder = decoder_config(
        name, tensors, attention_activation="tanh", initial_state="linear", dropout=_DROPOUT
    )
    trunk = trunk_or_weights(content, encoder_weights, decoder.annotation_dim, "resnet50")
    tensors |= trunk.tensors
    captioner = assemble(
        content,
        tensors,
        encoder=EncoderConfig(trunk.name, _GRID),
        decoder=decoder,
        vocabulary=_vocabulary(content, word_map, decoder.vocabulary_size),
        preprocessing=Preprocessing(size=_IMAGE_SIZE, fit="squash"),
        max_steps=_MAX_STEPS,
        encoder_weights=trunk.torchvision_weights,
    )
    notes = tuple(peculiarities(content, tensors))
    training = {"layout": "mrfahrenhiet", **facts(content, ("num_epochs", "training_loss", "val_loss"))}
    return Checkpoint(captioner, "mrfahrenhiet", content.container, ORIGIN, notes, (), training)


def _vocabulary(content: Content, word_map: Path | None, rows: int) -> Vocabulary:
    if word_map is not None:
        return read_word_map(word_map, rows, content.path.name)
    name = content.path.name
    for path, instance in content.objects.items():
        stoi, itos = (instance.attributes.get(key) for key in ("stoi", "itos"))
        if isinstance(stoi, dict) and isinstance(itos, dict):
            return _agreeing(
                stoi, itos, rows, f"the vocabulary of {name} ({instance.kind}, at {path!r:.40})", name
            )
    raise CheckpointError(
        f"{name} holds no vocabulary (an object with `stoi` and `itos`); give one with --word-map FILE"
    )


def _agreeing(
    stoi: dict[Any, Any], itos: dict[Any, Any], rows: int, what: str, checkpoint: str
) -> Vocabulary:
    """The vocabulary, if both of its directions say the same."""
    vocabulary = vocabulary_from_ids(stoi, rows, what, checkpoint)
    for token_id, word in enumerate(vocabulary.words):
        if itos.get(token_id) != word:
            raise CheckpointError(
                f"{what} contradicts itself: {word!r:.60} has the id {token_id}, but id {token_id} is "
                f"{str(itos.get(token_id))!r:.60}"
            )
    return vocabulary
