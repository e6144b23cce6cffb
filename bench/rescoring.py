"""Scores without a model: stored captions of a run again, or captions that any program wrote into a file."""

import dataclasses
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.data.base import references_sha256
from bench.data.results import by_reference_id, load_references, load_results
from bench.data.texts import TextsByName
from bench.errors import DataError
from bench.pieces import pieces
from bench.provenance import collect_provenance, file_sha256
from bench.run_directory import locked, named, prepare
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
from reports.store import RunStore


def score_run(path: Path, *, frequencies: Path | None = None) -> RunStore:
    """Scores the captions of a run again and writes its report anew.

    What only the model or the data set can say (true words, retrieval) is kept from the scoring before.

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
        if not any(captioned.any() for captioned in stock.captioned.values()):
            raise RunError(f"{path} holds no captions to score; run `gazebench eval` first")
        record = _score(store, record, stock, references, load_frequencies(frequencies))
        config = dict(record.config) | {"frequencies": frequencies.name if frequencies else None}
        sha256 = {name: value for name, value in record.provenance.sha256.items() if name != "frequencies"}
        provenance = dataclasses.replace(record.provenance, sha256=sha256 | _frequencies_sha256(frequencies))
        store.write_run(dataclasses.replace(record, config=config, provenance=provenance))
        write_report(path)
    return store


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
    store = RunStore(out or Path("runs") / record.name)
    with locked(store.path):
        prepare(store, record, fresh=fresh)
        store.clear()
        for some in pieces(rows, 1_000):
            store.append_captions(some)
        texts = TextsByName(given.items())
        stock = take_stock(store.iter_captions(), texts)
        record = _score(store, record, stock, texts, load_frequencies(frequencies))
        store.write_run(dataclasses.replace(record, status="finished"))
        store.write_throughput(record, record.stages)
        write_report(store.path)
    return store


def _frequencies_sha256(spec: Path | None) -> dict[str, str]:
    return {"frequencies": file_sha256(spec)} if spec is not None and spec.is_file() else {}


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
        )
    stage = StageRow("score", time.perf_counter() - begun, stock.captions, "captions")
    return dataclasses.replace(
        record,
        metrics=scored.metrics,
        metric_signature="|".join(filter(None, [scored.signature, record.search_signature])),
        scoring_warnings=scored.warnings,
        stages=(*(old for old in record.stages if old.name != "score"), stage),
    )
