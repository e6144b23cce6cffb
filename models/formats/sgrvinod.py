"""Checkpoints of sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning and its forks, the most common layout of the family.

Its program pickles whole modules and optimizers: `{epoch, epochs_since_improvement, bleu-4, encoder, decoder,
encoder_optimizer, decoder_optimizer}`. Forks save state dicts, rename the keys, or wrap modules for several GPUs; so
the decoder is recognised by the names of its tensors, wherever they are, and the trunk by its shapes.
"""

from pathlib import Path

from models.captioner import MAX_STEPS
from models.encoder import EncoderConfig
from models.errors import one_line
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
from models.formats.word_map import doubts, find_word_map, read_word_map, vocabulary_from_ids
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

ORIGIN = "sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning, or a fork of it"
_MARKS = ("attention.encoder_att.weight", "decode_step.weight_ih", "fc.weight")
_NAMES = {
    "attention.encoder_att": "annotation_projection",
    "attention.decoder_att": "hidden_projection",
    "attention.full_att": "attention_score",
    "embedding": "embedding",
    "decode_step": "lstm",
    "init_h": "initial_hidden",
    "init_c": "initial_cell",
    "f_beta": "gate",
    "fc": "output",
}
_IMAGE_SIZE = 256  # datasets.py, caption.py: squashed, not cropped
_GRID = 14  # models.py: `encoded_image_size`
_NATIVE_GRID = 8  # of a ResNet at 256 pixels


def recognise(content: Content) -> bool:
    """Whether there is a decoder with this project's names."""
    return find_decoder(content, _MARKS) is not None


def load(content: Content, word_map: Path | None, encoder_weights: str | None) -> Checkpoint:
    """Rebuilds the captioner.

    Args:
        content: a file that `recognise` knows.
        word_map: the word map; None to look for it in the file and beside it.
        encoder_weights: a file of ResNet weights, or torchvision's name of them, for files without an encoder.

    Returns:
        The checkpoint. What does not fit together is a `CheckpointError`.
    """
    name = content.path.name
    root = find_decoder(content, _MARKS)
    assert root is not None
    tensors = renamed(content, root, _NAMES)
    dropout = content.values.get(f"{root}dropout.p")
    decoder = decoder_config(
        name,
        tensors,
        attention_activation="relu",
        initial_state="linear",
        dropout=dropout if isinstance(dropout, float) else 0.5,
    )
    vocabulary, found = _vocabulary(content, word_map, decoder.vocabulary_size)
    trunk = trunk_or_weights(content, encoder_weights, decoder.annotation_dim, "resnet101")
    tensors |= trunk.tensors
    encoder = EncoderConfig(trunk.name, _grid(content))
    captioner = assemble(
        content,
        tensors,
        encoder=encoder,
        decoder=decoder,
        vocabulary=vocabulary,
        preprocessing=Preprocessing(size=_IMAGE_SIZE, fit="squash"),
        max_steps=MAX_STEPS,
        encoder_weights=trunk.torchvision_weights,
    )
    notes = [one_line(f"words from {found}"), *peculiarities(content, tensors)]
    if vocabulary.unk is None:
        notes.append("its words have no token for unknown words")
    if f"{root}decoder_layers" in content.values:
        notes.append("written before August 2018, when the decoder's class changed; its tensors are the same")
    if encoder.grid > _NATIVE_GRID:
        notes.append(
            f"its {encoder.grid} x {encoder.grid} grid is pooled up from {_NATIVE_GRID} x {_NATIVE_GRID} cells, "
            "so attention maps are coarser than they look"
        )
    training = {"layout": "sgrvinod", **facts(content, ("epoch", "epochs_since_improvement", "bleu-4"))}
    doubt = doubts(vocabulary, captioner.decoder.output.bias.detach())
    return Checkpoint(
        captioner, "sgrvinod", content.container, ORIGIN, tuple(notes), (doubt,) if doubt else (), training
    )


def _vocabulary(content: Content, word_map: Path | None, rows: int) -> tuple[Vocabulary, str]:
    """The words, and where they were found."""
    name = content.path.name
    if word_map is not None:
        return read_word_map(word_map, rows, name), word_map.name
    inside = content.root if isinstance(content.root, dict) else {}
    for key in ("word_map", "wordmap", "word2idx", "vocab"):
        if isinstance(inside.get(key), dict):
            return vocabulary_from_ids(
                inside[key], rows, f"the word map in {name}", name
            ), "the checkpoint itself"
    vocabulary, path = find_word_map(content.path, rows)
    return vocabulary, path.name


def _grid(content: Content) -> int:
    """What the encoder pools its map to, where the file says it."""
    for path, value in content.values.items():
        if (
            path.endswith(("enc_image_size", "encoded_image_size"))
            and type(value) is int
            and 1 <= value <= 64
        ):
            return value
    return _GRID
