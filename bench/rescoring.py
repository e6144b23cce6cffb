"""Scores without a model: stored captions of a run again, or captions that any program wrote into a file."""

import dataclasses
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from bench.command_line import resuming
from bench.data.base import references_sha256
from bench.data.results import by_reference_id, load_references, load_results
from bench.data.texts import TextsByName
from bench.errors import ConfigError, DataError
from bench.provenance import collect_provenance, file_sha256, path_sha256
from bench.run_directory import is_scored_as_a_run, locked, named, prepare
from bench.scoring import Frequencies, Scorer
from bench.stages.facts import NO_FACTS, with_table
from bench.stages.score import load_frequencies, score
from bench.stages.stock import Stock, take_stock
from models.vocabulary import split_words
from reports.html import write_report
from reports.records import (
    FROM_FILE,
    SCHEMA_VERSION,
    CaptionRow,
    DataInfo,
    ImageCounts,
    RunError,
    RunRecord,
    StageRow,
)
from reports.shards import shards
from reports.store import RunStore
from reports.unfinished import Unfinished


def score_run(path: Path, *, frequencies: Path | None = None) -> RunStore:
    """Scores the captions of a run again and writes its report anew.

    What only the model or the data set can say (true words, retrieval) is kept from the scoring before. Where there
    was none, `gazebench eval` finds it when it finishes the run, and scores once more. A run that has yet to find or to
    merge captions is a `ConfigError`.

    Args:
        path: the run directory.
        frequencies: captions file for CIDEr's document frequencies; None for those of the scored images.

    Returns:
        The run.

    Raises:
        RunError: if it can't be read or holds no captions.
    """
    store = RunStore(path)
    store.read_run()  # else there is nothing to lock
    with locked(path):
        record, references = store.read_run(), _references(store)
        stock = take_stock(store.iter_captions(), references)
        _check_whole(store, record, stock)
        if not any(captioned.any() for captioned in stock.captioned.values()):
            raise RunError(f"{path} holds no captions to score; run `gazebench eval` first")
        fixed = load_frequencies(frequencies)
        is_final = record.status == "finished" or is_scored_as_a_run(store, record)
        record = _score(store, record, stock, references, fixed)
        if not is_final:
            record = dataclasses.replace(record, stages=_unscored(record.stages))
        config = dict(record.config) | {"frequencies": frequencies.name if frequencies else None}
        sha256 = {name: value for name, value in record.provenance.sha256.items() if name != "frequencies"}
        provenance = dataclasses.replace(record.provenance, sha256=sha256 | _frequencies_sha256(frequencies))
        store.remove_report()
        store.write_run(dataclasses.replace(record, config=config, provenance=provenance))
        if is_final:  # else `gazebench eval` can do with what was measured
            Unfinished(path).clear()
        write_report(path)
    return store


def _check_whole(store: RunStore, record: RunRecord, stock: Stock) -> None:
    """Refuses a run that has not all its captions: `gazebench eval` would take their scores for those of all."""
    sizes = record.config.get("beam_sizes")
    expected = record.data.images * (len(sizes) if isinstance(sizes, list | tuple) else 1)
    unmerged = bool(shards(store.path))
    if unmerged or (record.status != "finished" and stock.captions < expected):
        state = ", not merged yet" if unmerged else ""
        raise ConfigError(
            f"{store.path} holds {stock.captions:,} of {expected:,} captions{state}; finish it first with: "
            f"{resuming(record.command)}"
        )


def score_file(
    captions: Path,
    references: str,
    out: Path | None,
    *,
    command: str,
    frequencies: Path | None = None,
    fresh: bool = False,
) -> RunStore:
    """Scores captions from anywhere and writes a run directory about them.

    Args:
        captions: see `load_results`.
        references: see `load_references`.
        out: the run directory; None for one under runs/ whose name follows from everything else.
        command: the command line that asked for it, for the record.
        frequencies: captions file for CIDEr's document frequencies; None for those of the scored images.
        fresh: whether another run in the run directory is replaced.

    Returns:
        The run.

    Raises:
        DataError: if captions or references can't be read, or don't fit each other.
    """
    results, known = load_results(captions), load_references(references)
    said = by_reference_id(results.captions, known)
    given = {image_id: known.captions[image_id] for image_id in known.captions if image_id in said}
    if unreferenced := [image_id for image_id, texts in given.items() if not texts]:
        raise DataError(f"{known.name!r} has no caption of {unreferenced[0]!r:.99}; leave the picture out")
    rows = (
        CaptionRow(
            image_id, FROM_FILE, text, tuple(split_words(text)), (), None, (), given[image_id], True, None
        )
        for image_id, text in ((image_id, said[image_id]) for image_id in given)
    )
    left = len(known.captions) - len(given)
    unscored = (
        (f"{left:,} of {len(known.captions):,} pictures with references have no caption",) if left else ()
    )
    counts = [len(texts) for texts in given.values()]
    record = RunRecord(
        schema_version=SCHEMA_VERSION,
        name="",
        status="running",
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        config={
            "captions": captions.name,
            "references": known.name,
            "frequencies": frequencies.name if frequencies else None,
        },
        provenance=collect_provenance(
            device="no model was run",
            threads=0,
            sha256={
                "captions": file_sha256(captions),
                "references": references_sha256(given),
                **_frequencies_sha256(frequencies),
            },
        ),
        model=None,
        data=DataInfo(
            name=known.name,
            split="all captioned pictures",
            images=len(given),
            references_per_image=(min(counts), max(counts)),
            split_origin="given",
            missing=(),
            warnings=(*known.warnings, *results.warnings, *unscored),
            has_ground_truth=False,
        ),
        images=ImageCounts(len(given), len(given), 0),
        stages=(),
        metric_signature="",
        metrics=(),
        explanations=None,
        warnings=(),
    )
    record = named(record, captions.stem)
    fixed = load_frequencies(frequencies)
    store = RunStore(out or Path("runs") / record.name)
    with locked(store.path):
        earlier = prepare(store, record, fresh=fresh)
        if earlier is not None and earlier.status == "finished":
            store.clear()
        store.write_run(record)  # else nobody knows whose the captions are
        store.write_captions(rows)
        texts = TextsByName(given.items())
        stock = take_stock(store.iter_captions(), texts)
        record = _score(store, record, stock, texts, fixed)
        store.remove_report()
        store.write_run(dataclasses.replace(record, status="finished"))
        Unfinished(store.path).clear()
        store.write_throughput(record, record.stages)
        write_report(store.path)
    return store


def _frequencies_sha256(spec: Path | None) -> dict[str, str]:
    return {"frequencies": path_sha256(spec)} if spec is not None and spec.exists() else {}


def _references(store: RunStore) -> TextsByName:
    """The references of all images that a run holds a row of, without more than one row in memory."""
    seen: set[str] = set()

    def first(row: CaptionRow) -> bool:
        is_first = row.image_id not in seen
        seen.add(row.image_id)
        return is_first

    return TextsByName((row.image_id, row.references) for row in store.iter_captions() if first(row))


def _score(
    store: RunStore,
    record: RunRecord,
    stock: Stock,
    references: TextsByName,
    frequencies: Frequencies | None,
) -> RunRecord:
    begun = time.perf_counter()
    with Scorer(references, frequencies=frequencies) as scorer:
        scored = score(
            scorer,
            store.iter_captions(),
            stock,
            store,
            search_signature=record.search_signature,
            unknown_word=record.model.unknown_word if record.model else None,
            facts=with_table(NO_FACTS, store.read_scores()),
            unfinished=Unfinished(store.path),
        )
    stage = StageRow("score", time.perf_counter() - begun, stock.captions, "captions")
    return dataclasses.replace(
        record,
        metrics=scored.metrics,
        metric_signature="|".join(filter(None, [scored.signature, record.search_signature])),
        scoring_warnings=scored.warnings,
        stages=(*_unscored(record.stages), stage),
    )


def _unscored(stages: Iterable[StageRow]) -> tuple[StageRow, ...]:
    return tuple(stage for stage in stages if stage.name != "score")
