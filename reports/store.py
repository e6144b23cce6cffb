"""A run directory: the one place that knows its file names and formats.

Writing is atomic (`os.replace`) or appends whole lines, each followed by fsync. Reading trusts nothing: files
are bounded in size, must lie inside the directory, and nothing in them is executed.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from reports.explained import (
    ATTRIBUTION_KEYS,
    FOLDER,
    NUMBERS,
    Explanations,
    Parts,
    writing_explanations,
)
from reports.files import decode_json, encode_json, write_atomically
from reports.frames import FrameWriter, read_frame
from reports.maps import Map, MapsWriter, map_key, read_maps
from reports.records import (
    CaptionRow,
    Failure,
    RunError,
    RunRecord,
    StageRow,
    from_json,
    to_json,
)
from reports.run_files import RUN_FILES, THUMBS, half_written
from reports.shards import Kind, Places, shards, whole_lines
from reports.speed import SpeedRecord
from reports.thumbs import clean_jpeg
from reports.unfinished import FOLDER as UNFINISHED
from reports.unfinished import Unfinished

__all__ = ["Explanations", "RunStore", "map_key", "write_atomically"]
_R = TypeVar("_R", CaptionRow, Failure)

# Far above what a run writes (a run over 100,000 pictures included), far below what would exhaust a machine.
_MAX_JSON = 64 << 20
_MAX_FILE = 2 << 30
_MAX_LINES = 1 << 40  # of a file that is read line by line; each line is bounded by itself
_MAX_THUMB = 1 << 20
_MAX_RATIO = 1e9
_SCORE_KEYS = ("image_id", "beam_size")
_SANITY_KEYS = ("image_id", "test", "method", "stage", "order")
_INTERVENTION_KEYS = ("image_id", "intervention")


class RunStore:
    """A run directory. Opening one changes nothing; the first write creates it.

    Every reader raises `RunError` if the file is damaged, too large or of another schema.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def clear(self) -> None:
        """Removes every file that a run writes, run.json last; a file of any other name stays."""
        Parts(self.path).clear()
        Unfinished(self.path).clear()
        thumbs = self.path / THUMBS
        files = [self.path / name for name in reversed(RUN_FILES)]
        for path in (*thumbs.glob("*.jpg"), *shards(self.path), *files):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # there is something else in it, or it is not there
            thumbs.rmdir()

    def tidy(self) -> None:
        """Removes what processes that were killed left half written. No other process may be writing to the run."""
        for folder in (self.path, self.path / THUMBS, self.path / FOLDER, self.path / UNFINISHED):
            for path in folder.glob(".*"):
                if half_written(path.name):
                    path.unlink(missing_ok=True)

    def write_run(self, record: RunRecord) -> None:
        """Writes run.json; raises `RunError` if it holds NaN or an infinity, which JSON has no word for."""
        with write_atomically(self.path / "run.json") as file:
            file.write(encode_json(to_json(record), "run.json", indent=1) + b"\n")

    def write_throughput(self, record: RunRecord, stages: Sequence[StageRow]) -> None:
        """Writes throughput.json: how fast each stage was on this machine, a resumed run's rest only."""
        provenance = record.provenance
        content = {
            "schema_version": record.schema_version,
            "device": provenance.device,
            "threads": provenance.threads,
            "platform": provenance.platform,
            "stages": [asdict(stage) | {"per_second": stage.items / stage.seconds} for stage in stages],
        }
        self._write_speeds(content)

    def write_speed(self, speed: SpeedRecord) -> None:
        """Writes what the speed stage measured into throughput.json."""
        self._write_speeds({"speed": asdict(speed)})

    def read_speed(self) -> SpeedRecord | None:
        """What the speed stage measured; None if throughput.json does not hold it."""
        if not (self.path / "throughput.json").exists():
            return None
        path = self._inside("throughput.json", _MAX_JSON)
        content = decode_json(path.read_bytes(), str(path))
        if not isinstance(content, dict):
            raise RunError(f"{path} is not what a run writes; run it again with --fresh")
        speed = content.get("speed")
        record = None if speed is None else from_json(SpeedRecord, speed, f"{path}: speed")
        for row in record.rows if record else ():
            ratios = (*row.cpu_ratios, *row.wall_ratios)
            if any(ratio and not 1 / _MAX_RATIO < abs(ratio) < _MAX_RATIO for ratio in ratios):
                raise RunError(
                    f"{path}: {row.name!r:.80} has times that no machine takes; run it again with --fresh"
                )
        return record

    def _write_speeds(self, content: Mapping[str, object]) -> None:
        """Replaces parts of throughput.json; a damaged one is replaced as a whole."""
        name = "throughput.json"
        try:
            earlier = decode_json(self._inside(name, _MAX_JSON).read_bytes(), name)
        except RunError:
            earlier = {}
        kept = earlier if isinstance(earlier, dict) else {}
        with write_atomically(self.path / name) as file:
            file.write(encode_json(kept | dict(content), name, indent=1) + b"\n")

    def read_run(self) -> RunRecord:
        """Reads run.json.

        Returns:
            The run.

        Raises:
            RunError: if there is none, or it can't be read.
        """
        if not (self.path / "run.json").exists():
            what = "holds no run.json" if self.path.is_dir() else "is not a directory"
            raise RunError(
                f"{self.path} {what}; expected the directory of a run, as `gazebench eval --out` writes it"
            )
        path = self._inside("run.json", _MAX_JSON)
        return from_json(RunRecord, decode_json(path.read_bytes(), str(path)), str(path))

    def append_captions(self, rows: Iterable[CaptionRow]) -> None:
        """Appends to captions.jsonl; a line that an earlier crash left torn is removed first."""
        self._append("captions.jsonl", rows)

    def write_captions(self, rows: Iterable[CaptionRow]) -> None:
        """Writes captions.jsonl, which appears when all rows are written."""
        with write_atomically(self.path / "captions.jsonl") as file:
            for row in rows:
                file.write(encode_json(to_json(row), "captions.jsonl") + b"\n")

    def remove_report(self) -> None:
        """Removes report.html, which a run must have to be finished, because it does not show what the run holds."""
        (self.path / "report.html").unlink(missing_ok=True)

    def iter_captions(self) -> Iterator[CaptionRow]:
        """The rows of captions.jsonl, without a torn last line, and then those that were not merged into it yet."""
        done: set[tuple[str, int]] = set()
        merged = not shards(self.path, "captions")
        for row in self._rows("captions", CaptionRow):
            if merged:
                yield row
            elif (row.image_id, row.beam_size) not in done:
                done.add((row.image_id, row.beam_size))
                yield row

    def read_captions(self) -> list[CaptionRow]:
        """All rows of `iter_captions`."""
        return list(self.iter_captions())

    def append_failures(self, rows: Iterable[Failure]) -> None:
        """Appends to failures.jsonl."""
        self._append("failures.jsonl", rows)

    def read_failures(self) -> list[Failure]:
        """The rows of failures.jsonl, and then those that were not merged into it yet; the first of each picture."""
        found: dict[str, Failure] = {}
        for row in self._rows("failures", Failure):
            found.setdefault(row.image_id, row)
        return list(found.values())

    def find_captions(self, image_ids: Sequence[str], beam_sizes: Sequence[int]) -> Places:
        """Where the captions of a run stand that may not be finished; a `RunError` if there are those of another run.

        Args:
            image_ids: all pictures of the run, in order.
            beam_sizes: all that are decoded.

        Returns:
            The places, in captions.jsonl and in files that were not merged into it yet.
        """
        places = Places(image_ids, beam_sizes)
        for path in self._files("captions"):
            places.add(path)
        return places

    def merge_captions(self, image_ids: Sequence[str], beam_sizes: Sequence[int]) -> None:
        """Writes captions.jsonl and failures.jsonl by picture and beam size, of what all processes decoded.

        A `RunError` if a caption is missing, or a file is damaged: then all stays as it was.

        Args:
            image_ids: all pictures of the run, in order.
            beam_sizes: all that were decoded.
        """
        places = self.find_captions(image_ids, beam_sizes)
        done = shards(self.path)
        if not done and places.is_merged() and (self.path / "failures.jsonl").exists():
            return
        places.merge(self.path / "captions.jsonl")
        reasons = {row.image_id: row for row in self.read_failures()}
        with write_atomically(self.path / "failures.jsonl") as file:
            for image_id in filter(reasons.__contains__, image_ids):
                file.write(encode_json(to_json(reasons[image_id]), "failures.jsonl") + b"\n")
        for path in done:
            path.unlink()

    def write_scores(self, frame: pd.DataFrame) -> None:
        """Writes scores.parquet; NaN becomes null."""
        self._write_frame("scores.parquet", frame)

    @contextmanager
    def writing_scores(self) -> Iterator[FrameWriter]:
        """Writes scores.parquet piece by piece; it appears when all is written."""
        with write_atomically(self.path / "scores.parquet") as file:
            writer = FrameWriter(file)
            yield writer
            writer.close()

    def read_scores(
        self, *, wanted: Callable[[str], bool] | None = None, beam_size: int | None = None
    ) -> pd.DataFrame | None:
        """scores.parquet: one row per (image_id, beam_size).

        Args:
            wanted: which columns are read besides; None for all.
            beam_size: of which rows are wanted; None for all.

        Returns:
            The rows; None if there are none.

        Raises:
            RunError: if the file is damaged, or has an image twice at one beam size.
        """
        frame = self._read_frame("scores.parquet", _SCORE_KEYS, (), wanted=wanted, beam_size=beam_size)
        if frame is not None and frame.duplicated(list(_SCORE_KEYS)).any():
            raise RunError(
                f"{self.path}/scores.parquet has an image twice at one beam size; score the run again"
            )
        return frame

    def write_attributions(self, frame: pd.DataFrame) -> None:
        """Writes attributions.parquet; NaN becomes null."""
        self._write_frame("attributions.parquet", frame)

    def write_maps(self, maps: Mapping[str, Map]) -> None:
        """Writes maps.npz; the names are `map_key`'s."""
        with write_atomically(self.path / "maps.npz") as file, MapsWriter(file) as archive:
            for key, map_ in maps.items():
                archive.add(key, map_)

    def write_thumb(self, image_id: str, jpeg: bytes) -> None:
        """Writes a picture as the model sees it, under a name that follows from its id."""
        with write_atomically(self.path / _thumb_name(image_id), sync=False) as file:
            file.write(jpeg)

    def writing_explanations(self) -> AbstractContextManager[Explanations]:
        """Writes attributions.parquet, sanity.parquet and maps.npz image by image; they appear when all is written."""
        return writing_explanations(self.path)

    def read_attributions(self) -> pd.DataFrame | None:
        """attributions.parquet, every measure a column of floats (null is NaN); None if it holds no row."""
        return self._read_frame("attributions.parquet", ATTRIBUTION_KEYS, NUMBERS)

    def write_sanity(self, frame: pd.DataFrame) -> None:
        """Writes sanity.parquet."""
        self._write_frame("sanity.parquet", frame)

    def read_sanity(self) -> pd.DataFrame | None:
        """sanity.parquet: one row per image, test, method and stage; None if it holds no row."""
        return self._read_frame(
            "sanity.parquet", _SANITY_KEYS, ("cosine", "spearman", "entropy_rise", "words")
        )

    def write_interventions(self, frame: pd.DataFrame) -> None:
        """Writes interventions.parquet."""
        self._write_frame("interventions.parquet", frame)

    def read_interventions(self) -> pd.DataFrame | None:
        """interventions.parquet: one row per image and intervention; None if it holds no row."""
        return self._read_frame("interventions.parquet", _INTERVENTION_KEYS, ("cider", "words_true"))

    def read_maps(self, keys: Iterable[str]) -> dict[str, Map]:
        """The maps of these keys, without those that are not there."""
        return (
            read_maps(self._inside("maps.npz", _MAX_FILE), keys) if (self.path / "maps.npz").exists() else {}
        )

    def read_thumbs(self, image_ids: Iterable[str]) -> dict[str, bytes]:
        """Some pictures as JPEG, encoded anew; those that are not there are left out."""
        return {image_id: self._thumb(image_id) for image_id in image_ids if self.has_thumb(image_id)}

    def has_thumb(self, image_id: str) -> bool:
        """Whether the run holds this picture."""
        return (self.path / _thumb_name(image_id)).exists()

    def _thumb(self, image_id: str) -> bytes:
        path = self._inside(_thumb_name(image_id), _MAX_THUMB)
        try:
            return clean_jpeg(path.read_bytes())
        except ValueError as error:
            raise RunError(f"{path} is {error}; start over with --fresh") from error

    def _inside(self, name: str, limit: int) -> Path:
        """The path of a plain file of the directory, checked; symbolic links may not lead out of it."""
        path = self.path / name
        if not path.is_file() or not path.resolve().is_relative_to(self.path.resolve()):
            raise RunError(f"{path} is missing, or not a plain file inside the run directory")
        if path.stat().st_size > limit:
            raise RunError(f"{path} has {path.stat().st_size:,} bytes; at most {limit:,} are read")
        return path

    def _append(self, name: str, rows: Iterable[CaptionRow] | Iterable[Failure]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        lines = b"".join(encode_json(to_json(row), name) + b"\n" for row in rows)
        with (self.path / name).open("a+b") as file:
            if file.tell():  # opened at its end
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def _files(self, kind: Kind) -> list[Path]:
        """KIND.jsonl, and what processes wrote that was not merged into it yet; each is checked."""
        whole = [self.path / f"{kind}.jsonl"] if (self.path / f"{kind}.jsonl").exists() else []
        return [self._inside(path.name, _MAX_LINES) for path in (*whole, *shards(self.path, kind))]

    def _rows(self, kind: Kind, record: type[_R]) -> Iterator[_R]:
        for path in self._files(kind):
            for number, (_, line) in enumerate(whole_lines(path), start=1):
                where = f"{path}, line {number}"
                yield from_json(record, decode_json(line, where), where)

    def _write_frame(self, name: str, frame: pd.DataFrame) -> None:
        with write_atomically(self.path / name) as file:
            pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), file)

    def _read_frame(
        self,
        name: str,
        keys: Sequence[str],
        numbers: Sequence[str],
        *,
        wanted: Callable[[str], bool] | None = None,
        beam_size: int | None = None,
    ) -> pd.DataFrame | None:
        if not (self.path / name).exists():
            return None
        path = self._inside(name, _MAX_FILE)
        return read_frame(path, keys, numbers, wanted=wanted, beam_size=beam_size)


def _thumb_name(image_id: str) -> str:
    """The file of a picture: an id may be anything, and two may differ in what a file system makes alike."""
    digest = hashlib.sha256(image_id.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{THUMBS}/{digest[:32]}.jpg"
