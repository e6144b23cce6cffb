"""The command line, `gazebench COMMAND …`: each command imports what it needs, so that `-h` is instant.

Results go to stdout, progress to stderr. Exit codes: 0 done, 2 a mistake in what was given, 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: what follows `gazebench`; None for the process's own arguments.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    from bench import commands

    return commands.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gazebench", description="How good are a captioner's captions, and does it look where it speaks?"
    )
    parser.add_argument("--version", action="version", version="gazebench 0.1.0")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    evaluate = _command(commands, "eval", "decode, score, explain and report: the whole job")
    evaluate.add_argument(
        "checkpoint", nargs="?", type=Path, help="the model (default: the demo model that ships)"
    )
    _data_options(evaluate, default="scenes")
    evaluate.add_argument("--split", default="test", help="train, val, test or all (default: test)")
    evaluate.add_argument(
        "--beam-size", nargs="+", type=int, default=[1, 3, 5], metavar="K", help="default: 1 3 5"
    )
    evaluate.add_argument(
        "--explain", default="64", metavar="N", help="images to explain, or all (default: 64)"
    )
    evaluate.add_argument("--limit", type=int, metavar="N", help="evaluate only the first N images")
    evaluate.add_argument(
        "--batch-size", type=int, default=64, metavar="B", help="images at once (default: 64)"
    )
    evaluate.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="run directory (default: one under runs/)")
    evaluate.add_argument("--fresh", action="store_true", help="start over instead of resuming")

    train = _command(commands, "train", "train a model by a named recipe")
    train.add_argument("--preset", default="scenes", help="name of the recipe (default: scenes)")
    _data_options(train, default=None)
    train.add_argument("--seed", type=int, help="another seed gives another model")
    train.add_argument("--epochs", type=int, help="passes over the training images (default: the recipe's)")
    train.add_argument(
        "--out", type=Path, metavar="FILE", help="checkpoint to write (default: runs/PRESET.safetensors)"
    )

    caption = _command(commands, "caption", "caption pictures of your own")
    caption.add_argument("checkpoint", type=Path)
    caption.add_argument("pictures", nargs="+", type=Path, metavar="IMAGE")
    caption.add_argument("--beam-size", type=int, default=5, metavar="K", help="default: 5")

    report = _command(commands, "report", "write the HTML report of a run again")
    report.add_argument("run", type=Path, help="a run directory")
    report.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="default: report.html in the run directory"
    )
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return command


def _data_options(command: argparse.ArgumentParser, *, default: str | None) -> None:
    command.add_argument(
        "--data",
        default=default,
        metavar="D",
        help="scenes, scenes:VARIANT, a captions file or a data set folder"
        + (f" (default: {default})" if default else " (default: the recipe's)"),
    )
    command.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of the pictures, if it can't be found"
    )


if __name__ == "__main__":
    sys.exit(main())
