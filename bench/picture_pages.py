"""Pictures of one's own on a page: captioned and explained. Nothing is scored, and no run directory stays behind."""

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.config import EvalConfig
from bench.data.base import CaptionData, CaptionedImage
from bench.errors import ConfigError
from bench.opening import load, new_record
from bench.progress import say
from bench.run_stages import count_images, decode_images, explain_images
from reports.pictures_page import write_pictures_page
from reports.records import Failure, StageRow
from reports.store import RunStore
from reports.wording import printable

_LONGEST_NAME = 40


class Written(NamedTuple):
    """What became of pictures of one's own."""

    page: Path
    strips: tuple[Path, ...]
    failures: tuple[Failure, ...]


def explain_pictures(
    config: EvalConfig,
    pictures: Sequence[Path],
    out: Path,
    *,
    command: str,
    png: bool = False,
    with_paths: bool = False,
) -> Written:
    """Captions pictures of one's own, explains the captions, and writes a page about them.

    Nothing is written before all is done. Pictures that can't be read are listed on the page, if one can.

    Args:
        config: the model and how to decode, at one beam size; its data and run directory are not used.
        pictures: the files; one that is named twice is explained once.
        out: the page to write.
        command: the command line that asked for it, for the record.
        png: whether each picture's word strip is written beside the page, as a picture.
        with_paths: whether the page shows paths as they were given.

    Returns:
        What was written, and which pictures could not be read.

    Raises:
        ConfigError: if what is to be written is a folder, or one of the files given.
    """
    config = dataclasses.replace(config, explaining=dataclasses.replace(config.explaining, checks=False))
    if not out.name:
        raise ConfigError(f"-o is {out}, a folder; expected a file to write, such as page.html")
    named = _named(pictures, with_paths=with_paths)
    strips = _strip_files(named, out) if png else {}
    weights = [Path(config.encoder_weights)] if config.encoder_weights else []
    words = [config.word_map] if config.word_map else []
    _check_outputs([out, *strips.values()], [*pictures, config.checkpoint, *weights, *words])
    checkpoint = load(config)
    images = tuple(CaptionedImage(name, (), "test", path) for name, path in named.items())
    data = CaptionData("pictures of one's own", images, "given")
    record = new_record(config, command, checkpoint, data, images)
    stages: list[StageRow] = []
    with tempfile.TemporaryDirectory(prefix="gazebench-") as folder:
        store = RunStore(Path(folder) / "run")
        decode_images(config, checkpoint.captioner, images, store, record, stages)
        captions = store.read_captions()
        failures = tuple(store.read_failures())
        for failure in failures:
            say(printable(f"Note: {failure.reason}"))
        info = explain_images(config, checkpoint.captioner, data, images, store, stages)
        store.write_run(
            dataclasses.replace(
                record,
                status="finished",
                images=count_images(images, captions),
                explanations=info,
                stages=tuple(stages),
            )
        )
        write_pictures_page(store, out, with_paths=with_paths, strips=strips)
    captioned = {row.image_id for row in captions if row.error is None}
    return Written(out, tuple(path for name, path in strips.items() if name in captioned), failures)


def _named(pictures: Iterable[Path], *, with_paths: bool) -> dict[str, Path]:
    """What each picture is called: its file's name, numbered where several have it."""
    named: dict[str, Path] = {}
    for path in dict.fromkeys(pictures):
        given = str(path) if with_paths else path.name
        name = given.encode("utf-8", "backslashreplace").decode()  # file names can hold half a character
        named[_unique(name, named, " ({})")] = path
    return named


def _strip_files(named: Mapping[str, Path], out: Path) -> dict[str, Path]:
    """Where the word strip of each picture goes: beside the page, called after it and after the picture."""
    if len(named) == 1:
        return dict.fromkeys(named, out.with_name(f"{out.stem}.png"))
    plain: dict[str, str] = {}
    for name, path in named.items():
        letters = "".join(c if c.isalnum() or c in "-_" else "-" for c in path.stem)[:_LONGEST_NAME]
        plain[_unique(letters.casefold(), plain, "-{}")] = name
    return {name: out.with_name(f"{out.stem}-{letters}.png") for letters, name in plain.items()}


def _unique(name: str, taken: Mapping[str, object], number: str) -> str:
    candidate, count = name, 1
    while candidate in taken:
        count += 1
        candidate = name + number.format(count)
    return candidate


def _check_outputs(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    page, *strips = outputs
    if page in strips:
        raise ConfigError(
            f"-o is {page}, which is to be a page and, for --png, a picture; expected one such as page.html"
        )
    for output in outputs:
        if output.is_dir():
            raise ConfigError(f"{output} is a folder; expected a file to write: choose another -o")
        if any(_is_same(output, path) for path in inputs):
            raise ConfigError(
                f"{output} was given as a picture or as the model, and would be overwritten; choose another -o"
            )


def _is_same(output: Path, path: Path) -> bool:
    try:
        return output.samefile(path)
    except (OSError, ValueError):  # one of them is not there, or can't be
        return False
