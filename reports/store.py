"""A run directory: the one place that knows its file names and formats.

Writing is atomic (`os.replace`) or appends whole lines, each followed by fsync. Reading trusts nothing: files
are bounded in size, must lie inside the directory, and nothing in them is executed.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from reports.maps import Map, MapsWriter, map_key, read_maps
from reports.records import (
    AGREEMENT,
    EXTRAS,
    FAITHFULNESS,
    GATE,
    LOCALISATION,
    NULLS,
    OPERATORS,
    PATHS,
    TRIAL_DISTANCES,
    TRIAL_DROPS,
    CaptionRow,
    Failure,
    RunError,
    RunRecord,
    StageRow,
    from_json,
    refuse_constant,
    to_json,
)
from reports.speed import SpeedRecord
from reports.thumbs import clean_jpeg

__all__ = ["RunStore", "map_key", "write_atomically"]
_R = TypeVar("_R", CaptionRow, Failure)

# Far above what a run writes (a run over 100,000 pictures included), far below what would exhaust a machine.
_MAX_JSON = 64 << 20
_MAX_LINE = 4 << 20
_MAX_FILE = 2 << 30
_MAX_CELLS = 200_000_000
_MAX_THUMB = 1 << 20
_MAX_RATIO = 1e9
_SCORE_KEYS = ("image_id", "beam_size")
_ATTRIBUTION_KEYS = ("image_id", "beam_size", "word_index", "method", "word", "word_class")
_WHOLE = ("beam_size", "word_index", "order")
_FILES = (
    "run.json", "captions.jsonl", "scores.parquet", "attributions.parquet", "maps.npz", "sanity.parquet",
    "interventions.parquet", "failures.jsonl", "throughput.json", "report.html",
)  # fmt: skip
_NUMBERS = (
    *AGREEMENT, *(f"{name}_{null}" for name in AGREEMENT for null in NULLS),
    *LOCALISATION, *(f"{name}_{mark}" for name in LOCALISATION for mark in ("null", "ceiling")),
    *(f"{name}_{operator}" for operator in OPERATORS for name in FAITHFULNESS), *EXTRAS,
    "completeness_error", *PATHS, "path_sum_error", *TRIAL_DROPS, *TRIAL_DISTANCES, GATE,
)  # fmt: skip
_TEXTS = ("region", "reason")
_ATTRIBUTIONS = pa.schema(
    [(name, pa.int64() if name in _WHOLE else pa.string()) for name in (*_ATTRIBUTION_KEYS, *_TEXTS)]
    + [(name, pa.float64()) for name in _NUMBERS]
)
_ROWS_AT_A_TIME = 20_000  # of attributions.parquet; every group of rows has a description of each column
_SANITY_KEYS = ("image_id", "test", "method", "stage", "order")
_INTERVENTION_KEYS = ("image_id", "intervention")


@contextmanager
def write_atomically(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """A file that appears at `path` whole, or not at all; without `sync` a power failure can leave it empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        Path(name).chmod(0o644)  # temporary files are made private
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class RunStore:
    """A run directory. Opening one changes nothing; the first write creates it.

    Every reader raises `RunError` if the file is damaged, too large or of another schema.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def clear(self) -> None:
        """Removes every file that a run writes; a file of any other name stays."""
        for path in (*(self.path / name for name in _FILES), *(self.path / "thumbs").glob("*.jpg")):
            path.unlink(missing_ok=True)

    def write_run(self, record: RunRecord) -> None:
        """Writes run.json; raises `RunError` if it holds NaN or an infinity, which JSON has no word for."""
        with write_atomically(self.path / "run.json") as file:
            file.write(_json(to_json(record), "run.json", indent=1) + b"\n")

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
        content = _decode(path.read_bytes(), str(path))
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
            earlier = _decode(self._inside(name, _MAX_JSON).read_bytes(), name)
        except RunError:
            earlier = {}
        kept = earlier if isinstance(earlier, dict) else {}
        with write_atomically(self.path / name) as file:
            file.write(_json(kept | dict(content), name, indent=1) + b"\n")

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
        return from_json(RunRecord, _decode(path.read_bytes(), str(path)), str(path))

    def append_captions(self, rows: Iterable[CaptionRow]) -> None:
        """Appends to captions.jsonl; a line that an earlier crash left torn is removed first."""
        self._append("captions.jsonl", rows)

    def read_captions(self) -> list[CaptionRow]:
        """The rows of captions.jsonl, without a torn last line."""
        return self._lines("captions.jsonl", CaptionRow)

    def append_failures(self, rows: Iterable[Failure]) -> None:
        """Appends to failures.jsonl."""
        self._append("failures.jsonl", rows)

    def read_failures(self) -> list[Failure]:
        """The rows of failures.jsonl."""
        return self._lines("failures.jsonl", Failure)

    def write_scores(self, frame: pd.DataFrame) -> None:
        """Writes scores.parquet; NaN becomes null."""
        self._write_frame("scores.parquet", frame)

    def read_scores(self) -> pd.DataFrame | None:
        """scores.parquet: one row per (image_id, beam_size); None if it holds no row."""
        frame = self._read_frame("scores.parquet", _SCORE_KEYS, ())
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

    @contextmanager
    def writing_explanations(self) -> Iterator["Explanations"]:
        """Writes attributions.parquet and maps.npz image by image; they appear when all is written."""
        with (
            write_atomically(self.path / "attributions.parquet") as rows,
            write_atomically(self.path / "maps.npz") as maps,
            pq.ParquetWriter(rows, _ATTRIBUTIONS) as table,
            MapsWriter(maps) as archive,
        ):
            explanations = Explanations(table, archive)
            yield explanations
            explanations.flush()

    def read_attributions(self) -> pd.DataFrame | None:
        """attributions.parquet, every measure a column of floats (null is NaN); None if it holds no row."""
        return self._read_frame("attributions.parquet", _ATTRIBUTION_KEYS, _NUMBERS)

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
        lines = b"".join(_json(to_json(row), name) + b"\n" for row in rows)
        with (self.path / name).open("a+b") as file:
            if file.tell():  # opened at its end
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def _lines(self, name: str, kind: type[_R]) -> list[_R]:
        if not (self.path / name).exists():
            return []
        path, rows = self._inside(name, _MAX_FILE), []
        with path.open("rb") as file:
            # Only \n ends a line: captions may hold any other line break.
            for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b""), start=1):
                where = f"{path}, line {number}"
                if not line.endswith(b"\n"):
                    if len(line) == _MAX_LINE:
                        raise RunError(f"{where} is longer than {_MAX_LINE:,} bytes; start over with --fresh")
                    break  # torn: the program ended while writing it
                rows.append(from_json(kind, _decode(line, where), where))
        return rows

    def _write_frame(self, name: str, frame: pd.DataFrame) -> None:
        with write_atomically(self.path / name) as file:
            pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), file)

    def _read_frame(self, name: str, keys: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame | None:
        if not (self.path / name).exists():
            return None
        path = self._inside(name, _MAX_FILE)
        try:
            with pq.ParquetFile(path) as file:
                if file.metadata.num_rows * file.metadata.num_columns > _MAX_CELLS:
                    raise RunError(f"{path} claims {file.metadata.num_rows:,} rows; more than is read")
                frame: pd.DataFrame = file.read().to_pandas(ignore_metadata=True)
        except RunError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise RunError(f"{path} is not a readable parquet file ({error}); score the run again") from error
        if frame.empty:
            return None
        if missing := [key for key in keys if list(frame.columns).count(key) != 1]:
            raise RunError(f"{path} lacks the columns {', '.join(missing)}; score the run again")
        frame = frame.loc[:, ~frame.columns.duplicated()]
        try:
            for column in numbers or frame.columns.difference(list(keys)):
                frame[column] = frame[column].astype("float64") if column in frame else np.nan
            for column in keys:
                if column in _WHOLE:
                    frame[column] = frame[column].astype("int64")
                elif not frame[column].map(lambda value: isinstance(value, str)).all():
                    raise TypeError(f"expected text in every row of {column}")
        except (TypeError, ValueError) as error:
            raise RunError(f"{path} holds values of another kind than a run's ({error})") from error
        return frame


class Explanations:
    """What explaining writes, image by image, so that its memory does not grow with their number."""

    def __init__(self, table: pq.ParquetWriter, archive: MapsWriter) -> None:
        self._table, self._archive = table, archive
        self._rows: list[pd.DataFrame] = []

    def append(self, rows: Sequence[Mapping[str, object]], maps: Mapping[str, Map]) -> None:
        """Adds an image: rows of attributions.parquet (NaN and what is missing become null), maps by key."""
        frame = pd.DataFrame(rows, columns=_ATTRIBUTIONS.names)
        for name in ("image_id", "word"):  # parquet can't hold half a character, which a file's name can
            frame[name] = [text.encode("utf-8", "backslashreplace").decode() for text in frame[name]]
        self._rows.append(frame)
        if sum(map(len, self._rows)) >= _ROWS_AT_A_TIME:
            self.flush()
        for key, map_ in maps.items():
            self._archive.add(key, map_)

    def flush(self) -> None:
        """Writes the rows that are still held."""
        if self._rows:
            table = pa.concat_tables(
                pa.Table.from_pandas(frame, _ATTRIBUTIONS, preserve_index=False) for frame in self._rows
            )
            self._table.write_table(table)
            self._rows.clear()


def _thumb_name(image_id: str) -> str:
    """The file of a picture: an id may be anything, and two may differ in what a file system makes alike."""
    digest = hashlib.sha256(image_id.encode("utf-8", "backslashreplace")).hexdigest()
    return f"thumbs/{digest[:32]}.jpg"


def _json(value: object, where: str, *, indent: int | None = None) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError as error:
        raise RunError(f"{where} can't hold NaN or an infinity ({error}); use None and a reason") from error
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes \udc80, as JSON writes it


def _decode(content: bytes, where: str) -> object:
    try:
        return json.loads(content.decode("utf-8"), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{where} is not JSON ({error}); the run may be damaged: start over with --fresh"
        ) from error
