"""What each command of `gazebench` does, and how errors reach the user."""

import argparse
import dataclasses
import errno
import json
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.command_line import command_line, resuming
from bench.config import EvalConfig, ExplainConfig, SearchConfig, digest
from bench.errors import ConfigError, DataError, ScoringError
from bench.progress import complain, say
from models.errors import CheckpointError, PictureError
from reports.records import RunError

if TYPE_CHECKING:
    from bench.captioning import Captioned
    from bench.training.recipe import TrainingConfig
    from models.formats import Checkpoint
    from reports.gallery import Wanted
    from reports.records import CaptionRow
    from reports.store import RunStore

MISTAKES = (CheckpointError, PictureError, DataError, ConfigError, ScoringError, RunError)
"""What users can get wrong: shown as one sentence, exit code 2."""
RESUMABLE = ("eval", "train")
"""Commands that go on where they were interrupted."""
CAPTION_FIELDS = (
    "image_id",
    "beam_size",
    "caption",
    "words",
    "token_ids",
    "log_prob_nats",
    "word_log_probs",
    "score",
    "finished",
)
"""What `gazebench caption --json` prints of each picture, besides attention and alternatives."""


_SAME = "the same command"
_CURES = {
    errno.ENOSPC: "; make room, and {command} goes on from there",
    errno.EROFS: "; expected a folder that can be written: name one with --out",
}


def run(options: argparse.Namespace) -> int:
    """Runs the parsed command.

    Args:
        options: as `bench.cli` parsed them.

    Returns:
        The exit code.
    """
    commands: dict[str, Callable[[argparse.Namespace], int | None]] = {
        "eval": _eval,
        "score": _score,
        "gate": _gate,
        "bless": _bless,
        "doctor": _doctor,
        "train": _train,
        "caption": _caption,
        "report": _report,
        "compare": _compare,
        "explain": _explain,
        "inspect": _inspect,
        "convert": _convert,
        "throughput": _throughput,
    }
    try:
        _check_imports()
        warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata, which nothing here reads
        return commands[options.command](options) or 0
    except BrokenPipeError:  # `gazebench … | head`: nobody listens any more, not at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (*MISTAKES, OSError) as error:
        if options.debug:
            traceback.print_exc()
        complain(f"gazebench: error: {_sentence(error, options)}")
        return 2
    except KeyboardInterrupt:
        how = (
            f"; {_resuming(options)} goes on from here: {resuming(command_line())}"
            if options.command in RESUMABLE
            else ""
        )
        say(f"interrupted{how}")
        return 130


def _sentence(error: Exception, options: argparse.Namespace) -> str:
    """One printable line; what the message quotes may come from a file of a stranger."""
    if not isinstance(error, OSError) or not error.strerror:
        return _one_line(str(error))
    where = "" if error.filename is None else f": {error.filename}"
    command = _resuming(options)
    if command != _SAME:
        command += f" ({resuming(command_line())})"
    return _one_line(f"{error.strerror}{where}{_CURES.get(error.errno or 0, '').format(command=command)}")


def _resuming(options: argparse.Namespace) -> str:
    """The command that goes on with this one, in words; where this one starts over, it is another."""
    return "this command" if options.command in RESUMABLE and options.fresh else _SAME


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _check_imports() -> None:
    """Refuses to run with somebody else's `models` package, which a script's folder can put before ours."""
    import models

    if Path(models.__file__ or "").parent.parent != Path(__file__).parent.parent:
        raise ConfigError(
            f"the package `models` was taken from {models.__file__}, which is not gazebench's; "
            "run `gazebench` from another folder, or set PYTHONSAFEPATH=1"
        )


def _eval(options: argparse.Namespace) -> None:
    from bench.distributed import joined, together

    with joined() as place:
        with together():
            config = _eval_config(options)
            from bench.runner import evaluate
        store = evaluate(config, command=command_line())
    if place.is_first:
        _print_run(store, options)


def _eval_config(options: argparse.Namespace) -> EvalConfig:
    if options.explain != "all" and not options.explain.isdecimal():
        raise ConfigError(f"--explain is {options.explain!r}; expected a number of images, or all")
    given = _given(options, EvalConfig) | {
        "search": _search(options, options.beam_size),
        "explain": None if options.explain == "all" else int(options.explain),
        "explaining": _explaining(options),
    }
    if options.checkpoint is None:
        del given["checkpoint"]
    return EvalConfig(**given)


def _print_run(store: "RunStore", options: argparse.Namespace) -> None:
    from reports.terminal import print_run

    if options.json:
        print(json.dumps(json.loads((store.path / "run.json").read_bytes()), indent=1))
    else:
        print_run(store)
        print(f"\nreport: {store.path / 'report.html'}")


def _search(options: argparse.Namespace, beam_sizes: Sequence[int]) -> SearchConfig:
    given = _given(options, SearchConfig) | {"beam_sizes": tuple(beam_sizes)}
    if options.n_best is None:
        given["n_best"] = min(options.default_n_best, max(beam_sizes, default=1))
    return SearchConfig(**given)


def _explaining(options: argparse.Namespace) -> ExplainConfig:
    return ExplainConfig(**_given(options, ExplainConfig) | {"methods": tuple(options.methods)})


def _given(
    options: argparse.Namespace, kind: type[EvalConfig | ExplainConfig | SearchConfig]
) -> dict[str, Any]:
    """The options that fields of a configuration are named after."""
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(kind) if hasattr(options, f.name)}


def _train(options: argparse.Namespace) -> None:
    from bench.training.presets import PRESETS, changed
    from bench.training.showing import complete, meanings_by_part, show

    if options.preset not in PRESETS:
        raise ConfigError(f"there is no preset {options.preset!r}; known presets: {', '.join(PRESETS)}")
    names = ("seed", "epochs", "batch_size", "precision", "encoder_weights", "embeddings", "self_critical")
    config = changed(PRESETS[options.preset], **{name: getattr(options, name) for name in names})
    for name in ("limit", "max_steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(options, name)}; expected at least 1")
    if not options.show:
        _train_now(options, config)
    elif options.json:
        print(
            json.dumps({"preset": options.preset, "config": complete(config), "meanings": meanings_by_part()})
        )
    else:
        print(show(config, options.preset))


def _train_now(options: argparse.Namespace, config: "TrainingConfig") -> None:
    from bench.data.load import load_data
    from bench.distributed import world
    from bench.training.train import train
    from models.formats import checkpoint_file
    from reports.wording import printable

    source = options.data or config.data
    if source is None:
        raise ConfigError(f"preset {options.preset} brings no data set; name one with --data")
    data = load_data(source, images=options.images)
    start = checkpoint_file(options.start) if options.start else None
    best = train(
        config,
        data,
        options.out or Path("runs") / _training_name(options, config, data.name, start),
        preset=options.preset,
        command=command_line(),
        limit=options.limit,
        max_steps=options.max_steps,
        start=start,
        device=options.device,
        cache=options.cache,
        fresh=options.fresh,
    )
    if not world().is_first:
        return
    if options.json:
        print((best.parent / "training.json").read_text(encoding="utf-8"), end="")
    else:
        print(printable(f"wrote {best.parent}"))
        print(printable(f"evaluate it: gazebench eval {shlex.quote(str(best.parent))}"))


def _training_name(
    options: argparse.Namespace, config: "TrainingConfig", data: str, start: Path | None
) -> str:
    """The preset's name, and the beginning of a digest of what is asked for."""
    from bench.provenance import file_sha256

    files = [start, config.embeddings, config.encoder_weights and Path(config.encoder_weights)]
    hashes = [file_sha256(file) if file and file.is_file() else None for file in files]
    asked = digest([config.plain(), data, options.limit, options.max_steps, hashes])
    return f"{options.preset}-{asked[:8]}"


def _caption(options: argparse.Namespace) -> int:
    from bench.captioning import caption_pictures
    from bench.progress import track
    from reports.records import Failure

    search = _search(options, [options.beam_size])
    checkpoint = _checkpoint(options)
    checkpoint.captioner.encode_exactly(search.decoding == "tutorial")
    for warning in checkpoint.warnings:
        say(f"Note: {warning}")
    found = caption_pictures(checkpoint.captioner, options.pictures, search)
    # Captions on a terminal show by themselves how far it is, and a bar would mix in.
    if len(options.pictures) > 1 and (options.json or not sys.stdout.isatty()):
        found = track(found, total=len(options.pictures), label="captioning", unit="pictures")
    results, failed = [], False
    for picture in found:
        if isinstance(picture, Failure):
            say(f"gazebench: error: {_one_line(picture.reason)}")
            failed = True
        elif options.json:
            results.append(_caption_json(picture, alternatives=search.n_best > 1))
        else:
            _print_caption(picture.row)
    if options.json:
        print(json.dumps(results))
    return 2 if failed else 0


def _caption_json(picture: "Captioned", *, alternatives: bool) -> dict[str, object]:
    result = {name: getattr(picture.row, name) for name in CAPTION_FIELDS}
    result["alphas"] = [[[round(x, 7) for x in line] for line in map_] for map_ in picture.alphas.tolist()]
    if alternatives:
        result["alternatives"] = [dataclasses.asdict(other) for other in picture.row.alternatives]
    return result


def _print_caption(row: "CaptionRow") -> None:
    from reports.wording import number, printable

    mark = "" if row.finished else " … (unfinished)"
    print(printable(f"{row.image_id}: {row.caption}{mark}"), flush=True)
    for other in row.alternatives:
        print(printable(f"  {number(other.score)}  {other.caption}"), flush=True)


def _explain(options: argparse.Namespace) -> int:
    from bench.picture_pages import explain_pictures
    from reports.wording import printable

    config = EvalConfig(
        **_given(options, EvalConfig)
        | {
            "search": _search(options, [options.beam_size]),
            "explain": None,
            "explaining": _explaining(options),
            "out": None,
        }
    )
    written = explain_pictures(
        config,
        options.pictures,
        options.out,
        command=command_line(),
        png=options.png,
        with_paths=options.with_paths,
    )
    if options.json:
        print(json.dumps({"page": str(written.page), "strips": [str(path) for path in written.strips]}))
    else:
        for path in (written.page, *written.strips):
            print(printable(f"wrote {path}"))
    return 2 if written.failures else 0


def _score(options: argparse.Namespace) -> None:
    from bench.rescoring import score_file, score_run

    if options.run is not None:
        if options.captions or options.references or options.out:
            raise ConfigError(
                "a run directory was given together with --captions, --references or --out; expected one or the other"
            )
        store = score_run(options.run, frequencies=options.frequencies)
    elif options.captions and options.references:
        store = score_file(
            options.captions,
            options.references,
            options.out,
            command=command_line(),
            frequencies=options.frequencies,
            fresh=options.fresh,
        )
    else:
        raise ConfigError(
            "nothing to score was given; expected a run directory, or --captions and --references"
        )
    _print_run(store, options)


def _gate(options: argparse.Namespace) -> int:
    from reports.gate import gate
    from reports.gate_output import announce, gate_json, gate_table, write_outputs

    result = gate(options.run, options.baseline, strict=options.strict, seed=options.seed)
    if options.out or options.run.is_dir():
        write_outputs(result, options.out or options.run)
    if options.json:
        print(gate_json(result), end="")
    else:
        print(gate_table(result), end="")
        announce(result, os.environ)
    return result.exit_code


def _bless(options: argparse.Namespace) -> None:
    from reports.bless import bless

    bless(options.run, options.out)
    print(json.dumps({"baseline": str(options.out)}) if options.json else f"wrote {options.out}")


def _doctor(options: argparse.Namespace) -> int:
    from bench.doctor import doctor_text, examine

    findings = examine(options.checkpoint, data=options.data, images=options.images, out=options.out)
    if options.json:
        print(json.dumps([finding._asdict() for finding in findings]))
    else:
        print(doctor_text(findings), end="")
    return int(any(finding.state == "failure" for finding in findings))


def _report(options: argparse.Namespace) -> None:
    from reports.html import write_report
    from reports.training import is_training
    from reports.training_page import write_training_page

    if options.bundle and options.out:
        raise ConfigError("--out and --bundle were both given; expected one of them")
    if is_training(options.run):
        if options.bundle:
            raise ConfigError(f"{options.run} holds a training, whose page is one file; expected no --bundle")
        path = write_training_page(options.run, options.out, with_paths=options.with_paths)
        print(json.dumps({"report": str(path)}) if options.json else f"wrote {path}")
        return
    path = write_report(
        options.run,
        options.out,
        wanted=_wanted(options),
        bundle=options.bundle,
        with_paths=options.with_paths,
    )
    print(json.dumps({"report": str(path)}) if options.json else f"wrote {path}")


def _wanted(options: argparse.Namespace) -> "Wanted":
    from reports.gallery import Wanted

    given = options.images
    if given not in ("all", "none") and not given.isdecimal():
        raise ConfigError(f"--images is {given!r}; expected a number of images, all or none")
    return Wanted(None if given == "all" else 0 if given == "none" else int(given))


def _compare(options: argparse.Namespace) -> None:
    from reports.comparison.output import as_json, as_text, shown_ids
    from reports.comparison.page import write_comparison
    from reports.wording import printable

    comparison = write_comparison(
        options.runs,
        options.out,
        beam_size=options.beam_size,
        images=_wanted(options),
        with_paths=options.with_paths,
        command=command_line(),
    )
    if options.json:
        print(as_json(comparison, shown=shown_ids(with_paths=options.with_paths)), end="")
    else:
        print(as_text(comparison))
        print(printable(f"comparison: {options.out}"))


def _checkpoint(options: argparse.Namespace) -> "Checkpoint":
    from models.formats import checkpoint_file, load_checkpoint

    options.checkpoint = checkpoint_file(options.checkpoint)  # which is what the command then speaks of
    return load_checkpoint(
        options.checkpoint, word_map=options.word_map, encoder_weights=options.encoder_weights
    )


def _inspect(options: argparse.Namespace) -> None:
    from bench.inspection import describe, description_text

    checkpoint = _checkpoint(options)
    about = describe(options.checkpoint, checkpoint)
    print(json.dumps(about) if options.json else description_text(about))


def _convert(options: argparse.Namespace) -> None:
    from bench.inspection import convert
    from reports.wording import printable

    convert(_checkpoint(options), options.checkpoint, options.out)
    print(json.dumps({"checkpoint": str(options.out)}) if options.json else printable(f"wrote {options.out}"))


def _throughput(options: argparse.Namespace) -> None:
    from reports.throughput import merge_into, read_benchmarks, throughput_table

    benchmarks = read_benchmarks(options.benchmarks)
    if options.run is not None:
        merge_into(options.run, benchmarks)
    print(
        json.dumps(dataclasses.asdict(benchmarks)) if options.json else throughput_table(benchmarks), end=""
    )
