"""What each command of `gazebench` does, and how errors reach the user."""

import argparse
import dataclasses
import json
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from bench.config import LARGEST_BEAM, EvalConfig
from bench.errors import ConfigError, DataError, ScoringError
from bench.progress import say
from models.errors import CheckpointError, PictureError
from reports.records import RunError

MISTAKES = (CheckpointError, PictureError, DataError, ConfigError, ScoringError, RunError)
"""What users can get wrong: shown as one sentence, exit code 2."""
CAPTION_FIELDS = (
    "image_id",
    "beam_size",
    "caption",
    "words",
    "token_ids",
    "log_prob_nats",
    "word_log_probs",
    "finished",
)
"""What `gazebench caption --json` prints of each picture."""


def run(options: argparse.Namespace) -> int:
    """Runs the parsed command.

    Args:
        options: as `bench.cli` parsed them.

    Returns:
        The exit code.
    """
    commands: dict[str, Callable[[argparse.Namespace], None]] = {
        "eval": _eval,
        "train": _train,
        "caption": _caption,
        "report": _report,
    }
    try:
        _check_imports()
        warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata, which nothing here reads
        commands[options.command](options)
    except BrokenPipeError:  # `gazebench … | head`: nobody listens any more, not at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (*MISTAKES, OSError) as error:
        if options.debug:
            traceback.print_exc()
        say(f"gazebench: error: {_sentence(error)}")
        return 2
    except KeyboardInterrupt:
        how = f"; the same command goes on from here: {_command_line()}" if options.command == "eval" else ""
        say(f"interrupted{how}")
        return 130
    return 0


def _sentence(error: Exception) -> str:
    """One printable line; what the message quotes may come from a file of a stranger."""
    text = (
        f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)
    )
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _check_imports() -> None:
    """Refuses to run with somebody else's `models` package, which a script's folder can put before ours."""
    import models

    if Path(models.__file__ or "").parent.parent != Path(__file__).parent.parent:
        raise ConfigError(
            f"the package `models` was taken from {models.__file__}, which is not gazebench's; "
            "run `gazebench` from another folder, or set PYTHONSAFEPATH=1"
        )


def _command_line() -> str:
    return shlex.join(["gazebench", *sys.argv[1:]])


def _eval(options: argparse.Namespace) -> None:
    if options.explain != "all" and not options.explain.isdecimal():
        raise ConfigError(f"--explain is {options.explain!r}; expected a number of images, or all")
    given = {
        name: getattr(options, name)
        for name in ("data", "images", "split", "limit", "batch_size", "device", "out", "fresh")
    }
    if options.checkpoint is not None:
        given["checkpoint"] = options.checkpoint
    config = EvalConfig(
        **given,
        beam_sizes=tuple(options.beam_size),
        explain=None if options.explain == "all" else int(options.explain),
    )
    from bench.runner import evaluate
    from reports.terminal import print_run

    store = evaluate(config, command=_command_line())
    if options.json:
        print((store.path / "run.json").read_text())
    else:
        print_run(store)
        print(f"\nreport: {store.path / 'report.html'}")


def _train(options: argparse.Namespace) -> None:
    from bench.data.load import load_data
    from bench.training import PRESETS, train

    if options.preset not in PRESETS:
        raise ConfigError(f"there is no preset {options.preset!r}; known presets: {', '.join(PRESETS)}")
    changes = {
        name: getattr(options, name) for name in ("seed", "epochs") if getattr(options, name) is not None
    }
    if changes.get("epochs", 1) < 1:
        raise ConfigError(f"--epochs is {changes['epochs']}; expected at least 1")
    config = dataclasses.replace(PRESETS[options.preset], **changes)
    source = options.data or config.data
    if source is None:
        raise ConfigError(f"preset {options.preset} brings no data set; name one with --data")
    out = options.out or Path("runs") / f"{options.preset}.safetensors"
    captioner = train(config, load_data(source, images=options.images), out, preset=options.preset)
    result = {"checkpoint": str(out), "vocabulary_size": len(captioner.vocabulary)}
    print(
        json.dumps(result)
        if options.json
        else f"wrote {out}\nevaluate it: gazebench eval {shlex.quote(str(out))}"
    )


def _caption(options: argparse.Namespace) -> None:
    import torch

    from bench.data.base import CaptionedImage
    from bench.stages.decode import caption_row
    from models.beam import beam_search
    from models.formats import load_captioner
    from reports.wording import printable

    if not 1 <= options.beam_size <= LARGEST_BEAM:
        raise ConfigError(f"--beam-size is {options.beam_size}; expected 1 to {LARGEST_BEAM}")
    captioner, _ = load_captioner(options.checkpoint)
    results = []
    for path in options.pictures:
        image = CaptionedImage(path.name, (), "test", path)
        with torch.no_grad():
            annotations = captioner.encode(captioner.preprocessing(image.picture()).unsqueeze(0))
        (hypothesis,) = beam_search(captioner, annotations, options.beam_size)
        row = caption_row(captioner, image, options.beam_size, hypothesis)
        results.append({name: getattr(row, name) for name in CAPTION_FIELDS})
        if not options.json:
            print(printable(f"{path.name}: {row.caption}"))
    if options.json:
        print(json.dumps(results))


def _report(options: argparse.Namespace) -> None:
    from reports.html import write_report

    path = write_report(options.run, options.out)
    print(json.dumps({"report": str(path)}) if options.json else f"wrote {path}")
