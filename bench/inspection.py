"""What a checkpoint file is, in words: `gazebench inspect` and `gazebench convert`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.errors import ConfigError
from models.errors import one_line
from models.formats import Checkpoint
from models.formats.native import save_native

SAMPLES = 8
"""Words of the vocabulary that are shown."""


def describe(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything that is known of a checkpoint, as JSON values.

    Args:
        path: the file.
        checkpoint: what it holds.

    Returns:
        The description.
    """
    captioner = checkpoint.captioner
    words = captioner.vocabulary.words
    special = {role: getattr(captioner.vocabulary, role) for role in ("pad", "start", "end", "unk")}
    plain = [word for token_id, word in enumerate(words) if token_id not in special.values()]
    return {
        "file": one_line(path.name),
        "bytes": path.stat().st_size,
        "layout": checkpoint.layout,
        "container": checkpoint.container,
        "origin": checkpoint.origin,
        "encoder": asdict(captioner.encoder_config),
        "preprocessing": asdict(captioner.preprocessing),
        "decoder": asdict(captioner.decoder.config),
        "max_steps": captioner.max_steps,
        "parameters": {
            "encoder": sum(p.numel() for p in captioner.encoder.parameters()),
            "decoder": sum(p.numel() for p in captioner.decoder.parameters()),
        },
        "vocabulary": {
            "words": len(words),
            "special": {
                role: {"id": token_id, "text": one_line(words[token_id], 40)}
                for role, token_id in special.items()
                if token_id is not None
            },
            "samples": [one_line(word, 40) for word in plain[:: max(1, len(plain) // SAMPLES)][:SAMPLES]],
        },
        "training": checkpoint.training,
        "unusual": list(checkpoint.notes),
        "warnings": list(checkpoint.warnings),
    }


def description_text(about: dict[str, Any]) -> str:
    """A description as lines for a terminal.

    Args:
        about: from `describe`.

    Returns:
        The lines.
    """
    encoder, decoder, pictures = about["encoder"], about["decoder"], about["preprocessing"]
    grid, size, parameters = encoder["grid"], pictures["size"], about["parameters"]
    vocabulary = about["vocabulary"]
    special = ", ".join(
        f"{role} {token['text']} ({token['id']})" for role, token in vocabulary["special"].items()
    )
    training = [
        f"{key} {value}"
        for key, value in about["training"].items()
        if key != "layout" and isinstance(value, str | int | float)
    ]
    facts = [
        ("file", f"{about['bytes'] / 1e6:,.1f} MB, {about['container']}"),
        ("layout", f"{about['layout']}, as written by {about['origin']}"),
        (
            "pictures",
            f"{size} x {size} pixels, {'squashed' if pictures['fit'] == 'squash' else 'centre crop'}",
        ),
        (
            "encoder",
            f"{encoder['name']}, {grid} x {grid} annotation vectors of {decoder['annotation_dim']} numbers",
        ),
        (
            "decoder",
            ", ".join(f"{name} {decoder[f'{name}_dim']}" for name in ("embedding", "hidden", "attention")),
        ),
        (
            "",
            f"{'uniform' if decoder['attention'] == 'uniform' else decoder['attention_activation']} attention, "
            f"{decoder['initial_state']} initial state, "
            f"{'no' if decoder['gate'] == 'none' else decoder['gate']} gate, {decoder['output']} output layer",
        ),
        ("captions", f"of up to {about['max_steps']} steps, the end token included"),
        ("weights", f"{parameters['encoder']:,} in the encoder, {parameters['decoder']:,} in the decoder"),
        ("vocabulary", f"{vocabulary['words']:,} words: {', '.join(vocabulary['samples'])}, …"),
        ("", special),
        ("training", ", ".join(training) or "the file does not say"),
        *(("note", note) for note in about["unusual"]),
        *(("warning", warning) for warning in about["warnings"]),
    ]
    return "\n".join([about["file"], *(f"  {name:<12}{text}" for name, text in facts)])


def convert(checkpoint: Checkpoint, source: Path, out: Path) -> None:
    """Writes a checkpoint in our own format, tensors bit for bit as they were (16-bit weights widened to 32).

    Args:
        checkpoint: what was read.
        source: where it was read from.
        out: where to write; must not exist.

    Raises:
        ConfigError: if `out` exists.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; give another name with -o, or remove it first")
    save_native(checkpoint.captioner, out, training=checkpoint.training | {"converted_from": source.name})
