"""The command line, `gazebench COMMAND …`: each command imports what it needs, so that `-h` is instant.

Results go to stdout, progress to stderr. Exit codes: 0 done, 2 a mistake in what was given, 130 interrupted; `gate` and
`doctor` have more.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.memory import keep_few_primitives

_FRESH = "start over instead of resuming; leave it out to go on with what it began"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: what follows `gazebench`; None for the process's own arguments.

    Returns:
        The exit code.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # what knows few characters gets the codes of the others
        sys.stdout.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(arguments)
    keep_few_primitives()
    from bench import commands

    return commands.run(options)


class _Version(argparse.Action):
    """Looks for the version when it is asked for: that takes longer than all the rest of `-h`."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        """Prints the version and ends the program."""
        from importlib.metadata import version

        parser.exit(message=f"gazebench {version('gazebench')}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gazebench", description="How good are a captioner's captions, and does it look where it speaks?"
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
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
    _search_options(evaluate, n_best=3)
    _checkpoint_options(evaluate)
    evaluate.add_argument(
        "--encoder-dtype",
        default="float32",
        metavar="TYPE",
        help="float32, or bfloat16, which is faster where the hardware has it and changes numbers",
    )
    evaluate.add_argument(
        "--explain", default="64", metavar="N", help="images to explain, or all (default: 64)"
    )
    _explaining_options(evaluate)
    evaluate.add_argument(
        "--regions",
        type=Path,
        metavar="PATH",
        help="where words are true in photographs: a folder of Flickr30k Entities, or COCO's instances_*.json",
    )
    evaluate.add_argument(
        "--retrieval",
        type=int,
        default=200,
        metavar="N",
        help="images among which captions must find theirs; 0 for none (default: 200)",
    )
    _scoring_options(evaluate)
    evaluate.add_argument("--limit", type=int, metavar="N", help="evaluate only the first N images")
    evaluate.add_argument(
        "--batch-size",
        type=_number_or_auto,
        metavar="B",
        help="images at once, or auto for what memory allows (default: auto)",
    )
    evaluate.add_argument(
        "--max-failures",
        type=_number_or_share,
        metavar="N",
        help="stop where more than N pictures can't be read, or more than a share of them such as 0.01 "
        "(default: go on as long as one can)",
    )
    evaluate.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that explain images (default: two, one for large models)",
    )
    evaluate.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="run directory (default: one under runs/)")
    evaluate.add_argument("--fresh", action="store_true", help=_FRESH)

    train = _command(
        commands,
        "train",
        "train a model by a named recipe",
        "The same command goes on with a training that was ended.",
    )
    _training_options(train)

    caption = _command(
        commands,
        "caption",
        "caption pictures of your own",
        "Pictures that can't be read are named on stderr; the others are captioned, and the exit code is 2.",
    )
    caption.add_argument("checkpoint", type=Path)
    caption.add_argument("pictures", nargs="+", type=Path, metavar="IMAGE")
    caption.add_argument("--beam-size", type=int, default=5, metavar="K", help="default: 5")
    _search_options(caption)
    _checkpoint_options(caption)

    explain = _command(
        commands,
        "explain",
        "write a page about where the model looks in pictures of your own",
        "Pictures that can't be read are named on stderr; the page is about the others, and the exit code is 2.",
    )
    explain.add_argument("checkpoint", type=Path)
    explain.add_argument("pictures", nargs="+", type=Path, metavar="IMAGE")
    explain.add_argument("--beam-size", type=int, default=5, metavar="K", help="default: 5")
    _checkpoint_options(explain)
    _search_options(explain, n_best=5)
    _explaining_options(explain)
    explain.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    explain.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("explanation.html"),
        metavar="FILE",
        help="default: explanation.html",
    )
    explain.add_argument(
        "--png",
        action="store_true",
        help="also write each picture's word strip beside the page, as a picture for papers and slides",
    )
    _paths_option(explain)

    score = _command(
        commands, "score", "score stored captions again, or captions from a file; needs no model"
    )
    score.add_argument("run", nargs="?", type=Path, help="a run directory")
    score.add_argument(
        "--captions", type=Path, metavar="FILE", help="captions of any program, one per picture"
    )
    score.add_argument(
        "--references",
        metavar="D",
        help="scenes, a captions file or a data set folder; its pictures need not be there",
    )
    _scoring_options(score)
    score.add_argument(
        "--out", type=Path, metavar="DIR", help="run directory for --captions (default: one under runs/)"
    )
    score.add_argument("--fresh", action="store_true", help="replace another run in that directory")

    gate = _command(commands, "gate", "hold a run against a blessed baseline; the exit code tells")
    gate.add_argument("run", type=Path, help="a run directory")
    gate.add_argument(
        "--baseline", type=Path, required=True, metavar="FILE", help="what `gazebench bless` wrote"
    )
    gate.add_argument(
        "--strict", action="store_true", help="fail what is inconclusive or better than blessed, too"
    )
    gate.add_argument("--seed", type=int, default=12345, help="of the resampling (default: 12345)")
    gate.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for gate.json, gate.md, gate.junit.xml (default: the run's)",
    )

    bless = _command(commands, "bless", "write the baseline that later runs are held against")
    bless.add_argument("run", type=Path, help="a finished run")
    bless.add_argument("-o", "--out", type=Path, required=True, metavar="FILE", help="TOML file to write")

    report = _command(commands, "report", "write the HTML report of a run again")
    report.add_argument("run", type=Path, help="a run directory")
    report.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="default: report.html in the run directory"
    )
    report.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="write a folder instead of one file, with every picture and map beside the page",
    )
    _page_options(report)

    compare = _command(commands, "compare", "compare two to eight runs over the same images")
    compare.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run directories, the first to compare with; DIR@K for beam size K",
    )
    compare.add_argument(
        "--beam-size",
        type=int,
        metavar="K",
        help="captions to compare (default: of the largest beam size that all runs have)",
    )
    compare.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("compare.html"),
        metavar="FILE",
        help="page; .json and .md are written beside it (default: compare.html)",
    )
    _page_options(compare)

    inspect = _command(commands, "inspect", "say what a checkpoint file is; nothing in it is executed")
    inspect.add_argument("checkpoint", type=Path)
    _checkpoint_options(inspect)

    convert = _command(
        commands, "convert", "write any known checkpoint as one safetensors file, safe to share"
    )
    convert.add_argument("checkpoint", type=Path)
    convert.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="safetensors file to write"
    )
    _checkpoint_options(convert)

    doctor = _command(commands, "doctor", "check whether this machine has what gazebench needs")
    doctor.add_argument("--checkpoint", type=Path, metavar="FILE", help="also check that this can be loaded")
    doctor.add_argument("--data", metavar="D", help="also check this captions file or data set folder")
    doctor.add_argument(
        "--images", type=Path, metavar="DIR", help="folder of its pictures, if it can't be found"
    )
    doctor.add_argument("--out", type=Path, metavar="DIR", help="where runs are to be written")

    throughput = _command(commands, "throughput", "show what `tox -e bench` measured")
    throughput.add_argument("benchmarks", type=Path, metavar="FILE", help="the JSON file that it wrote")
    throughput.add_argument("--run", type=Path, metavar="RUN", help="keep it in a run's throughput.json, too")
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str, more: str = ""
) -> argparse.ArgumentParser:
    described = f"{summary[0].upper()}{summary[1:]}. {more}".strip()
    command = commands.add_parser(name, help=summary, description=described)
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


def _training_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--preset", default="scenes", metavar="P", help="name of the recipe (default: scenes)"
    )
    command.add_argument(
        "--show",
        action="store_true",
        help="print the recipe with all its hyper-parameters, and train nothing",
    )
    _data_options(command, default=None)
    command.add_argument(
        "--out", type=Path, metavar="DIR", help="training directory (default: one under runs/)"
    )
    command.add_argument("--seed", type=int, metavar="N", help="another seed gives another model")
    command.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="passes over the training images in each stage (default: the recipe's; 0 with --self-critical for none)",
    )
    command.add_argument("--limit", type=int, metavar="N", help="a trial: the first N images of either split")
    command.add_argument("--max-steps", type=int, metavar="N", help="a trial: end each stage after N steps")
    command.add_argument(
        "--batch-size", type=int, metavar="B", help="images per step (default: the recipe's)"
    )
    _encoder_weights_option(command, "to start from, or none for random ones (default: the recipe's)")
    command.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE",
        help="text file of word vectors, as GloVe's, to start the word embeddings from",
    )
    command.add_argument(
        "--start",
        type=Path,
        metavar="CHECKPOINT",
        help="go on from a trained model, with its words and its layers",
    )
    command.add_argument(
        "--self-critical",
        type=int,
        metavar="N",
        help="add a stage of N epochs at the end that maximises the CIDEr-D of captions that the model draws",
    )
    command.add_argument(
        "--precision",
        metavar="TYPE",
        help="float32, or bfloat16, which is faster where the hardware has it (default: the recipe's)",
    )
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 … (default: cpu)")
    command.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder for pixels and maps that are computed once; trainings can share it (default: in --out)",
    )
    command.add_argument("--fresh", action="store_true", help=_FRESH)


def _number_or_auto(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} was given; expected a number, or auto") from None


def _number_or_share(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} was given; expected a number of pictures, or a share such as 0.01"
        ) from None


def _page_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--images",
        default="200",
        metavar="N",
        help="images that the page shows with their pictures: a number, all or none (default: 200)",
    )
    _paths_option(command)


def _paths_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--with-paths", action="store_true", help="show folders and absolute paths, which are else left out"
    )


def _explaining_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="NAME",
        help="attribution methods by name, besides attention and the controls (default: seven that are fast)",
    )
    command.add_argument(
        "--thorough", action="store_true", help="every sound method and every measure: minutes become hours"
    )
    command.add_argument(
        "--unsound",
        action="store_true",
        help="also DeepLift and LRP, which break their own promises on this family of models",
    )
    command.add_argument(
        "--redecode",
        action="store_true",
        help="search for captions anew without what a map marks: did the word disappear?",
    )
    command.add_argument(
        "--protocol", metavar="NAME", help="sun2022: the image ablation of Sun et al. 2022, too"
    )


def _scoring_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--frequencies",
        type=Path,
        metavar="D",
        help="captions file whose references give CIDEr's document frequencies (default: the scored images')",
    )


def _search_options(command: argparse.ArgumentParser, *, n_best: int = 1) -> None:
    command.add_argument(
        "--decoding",
        default="default",
        metavar="RULES",
        help="default, or tutorial for sgrvinod's own search",
    )
    command.add_argument(
        "--length-exponent",
        type=float,
        metavar="A",
        help="rank captions by log p / ((5 + length) / 6)^A (default: 0.7; 0 ranks by log p alone)",
    )
    command.add_argument(
        "--n-best",
        type=int,
        metavar="N",
        help=f"captions to report of each picture; a beam holds no more than its size (default: {n_best})",
    )
    command.set_defaults(default_n_best=n_best)
    command.add_argument("--forbid-unknown", action="store_true", help="never say <unk>")
    command.add_argument(
        "--no-repeat",
        type=int,
        metavar="N",
        help="say no run of N words twice in a caption (default: 0, any)",
    )
    command.add_argument(
        "--max-steps",
        type=int,
        metavar="N",
        help="longest caption, <end> included (default: the model's own)",
    )


def _checkpoint_options(command: argparse.ArgumentParser) -> None:
    _word_map_option(command)
    _encoder_weights_option(command, "for a checkpoint without an encoder")


def _encoder_weights_option(command: argparse.ArgumentParser, purpose: str) -> None:
    command.add_argument(
        "--encoder-weights", metavar="W", help=f"file, or torchvision's name, of encoder weights {purpose}"
    )


def _word_map_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--word-map",
        type=Path,
        metavar="FILE",
        help="words of a checkpoint that lacks them (default: look beside it)",
    )


if __name__ == "__main__":
    sys.exit(main())
