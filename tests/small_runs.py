"""Evaluations that take seconds: a tiny model of random weights, a few drawn pictures, and ways to break them off."""

import hashlib
import io
import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from bench.cli import main
from bench.data.scenes import make_scene
from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig
from models.formats.native import save_native
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

WORDS = ("<pad>", "<start>", "<end>", "a", "red", "blue", "circle", "square", "is", "above", "below", "near")
PICTURES, SIZES = 40, (1, 3)
EXACT = (
    "captions.jsonl", "failures.jsonl", "scores.parquet", "attributions.parquet", "maps.npz", "sanity.parquet",
    "interventions.parquet",
)  # fmt: skip
"""Files of a run that don't tell how long anything took."""
_PRELOADED = (
    "bench.runner",
    "bench.stages.explain",
    "bench.stages.intervene",
    "reports.html",
    "reports.terminal",
)


def make_inputs(folder: Path) -> list[str]:
    """Writes a model and a data set; the command that evaluates them, without its run directory."""
    vocabulary = Vocabulary(WORDS, pad=0, start=1, end=2)
    sizes = DecoderConfig(len(WORDS), 80, embedding_dim=6, hidden_dim=8, attention_dim=5)
    captioner = Captioner(EncoderConfig("scenes", 4), sizes, vocabulary, Preprocessing(size=32)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in captioner.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            gain = 1.5 if name.startswith("encoder") else 3.5
            parameter.copy_(
                0.3 + values / 10 if values.dim() == 1 else gain * values / values[0].numel() ** 0.5
            )
    save_native(captioner, folder / "tiny.safetensors", training={})
    (folder / "photos/Images").mkdir(parents=True)
    lines = ["image,caption"]
    for index in range(PICTURES):
        scene = make_scene("test", index)
        scene.picture().resize((60, 40)).save(folder / f"photos/Images/{index}.jpg", quality=95)
        lines += [f'"{index}.jpg","{reference} ."' for reference in scene.references]
    (folder / "photos/captions.txt").write_text("\n".join(lines) + "\n")
    (folder / "photos/Images/7.jpg").write_bytes(b"nothing")
    return [
        "eval", str(folder / "tiny.safetensors"), "--data", str(folder / "photos"), "--split", "all",
        "--beam-size", *map(str, SIZES), "--batch-size", "2", "--max-steps", "5", "--explain", "5",
        "--methods", "grid_gradient", "--retrieval", "6",
    ]  # fmt: skip


@cache
def whole_run(folder: Path) -> tuple[list[str], Path, float]:
    """The command of `make_inputs`, a run of it that nothing has broken off, and the seconds that it took."""
    command, begun = make_inputs(folder / "small inputs"), time.monotonic()
    out = folder / "small run"
    said([*command, "--out", str(out)])
    return command, out, time.monotonic() - begun


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of every file of `EXACT`."""
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in EXACT}


def said(arguments: list[str], expected: int = 0) -> str:
    """Runs a command in this process; what it prints on stderr."""
    errors = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(errors):
        assert main(arguments) == expected, errors.getvalue()
    return errors.getvalue()


def start(arguments: list[str], *, stderr: Path | None = None, **environment: object) -> BaseProcess:
    """Starts a command in a process of its own, which has all that is slow to import."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_PRELOADED, __name__])
    told = {name: str(value) for name, value in environment.items()}
    process = context.Process(target=_run, args=(arguments, stderr, told))
    process.start()
    return process


def _run(arguments: list[str], stderr: Path | None, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with (
        (stderr or Path(os.devnull)).open("a") as file,
        redirect_stderr(file),
        redirect_stdout(io.StringIO()),
    ):
        sys.exit(main(arguments))


def start_together(count: int, arguments: list[str], *, stderr: Path) -> list[BaseProcess]:
    """Starts processes that know each other as torchrun's do, which nobody watches over."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port.getsockname()[1], "WORLD_SIZE": count}
    return [start(arguments, stderr=stderr, RANK=n, LOCAL_RANK=n, **place) for n in range(count)]


def killed_when(process: BaseProcess, condition: Callable[[], object]) -> None:
    """Kills a process, and nothing else, as soon as something holds; it must not end before."""
    while not condition():
        assert process.is_alive(), "it has ended by itself"
        time.sleep(0.002)
    process.kill()
    process.join()


def lines(run: Path) -> list[bytes]:
    """The whole lines of captions that a run holds so far, merged or not."""
    files = [run / "captions.jsonl", *run.glob("captions.*.jsonl")]
    return [
        line
        for file in files
        if file.exists()
        for line in file.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
    ]


def pairs(run: Path) -> list[tuple[str, int]]:
    """Image id and beam size of each of these lines."""
    return [(row["image_id"], row["beam_size"]) for row in map(json.loads, lines(run))]
