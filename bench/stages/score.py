"""Scoring: from captions.jsonl to scores.parquet and the metric rows of run.json. Needs no model and no picture."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool

from bench.data.base import references_sha256
from bench.data.results import load_references
from bench.memory import give_back_memory
from bench.pieces import pieces
from bench.progress import say
from bench.scoring import METRICS, Frequencies, Scorer, Scores
from bench.scoring.cider import CiderD
from bench.scoring.engine import AT_ONCE, Pair
from bench.scoring.tally import Measured, Tally
from bench.scoring.variety import Described, Said, retrieval, variety
from bench.stages.attention_seen import AttentionSeen
from bench.stages.facts import KEPT, NO_FACTS, Facts
from bench.stages.stock import Stock
from models.vocabulary import split_words
from reports.records import FROM_FILE, CaptionRow, MetricRow
from reports.stats import Interval, metric_intervals, ratio_interval, share_interval
from reports.store import RunStore
from reports.unfinished import Unfinished

ALARMING_SHARE = 0.5
"""A run with more collapsed captions than this is warned of."""


class Scored(NamedTuple):
    """What scoring yields besides scores.parquet."""

    metrics: tuple[MetricRow, ...]
    signature: str
    """What the signatures of all metrics have in common."""
    warnings: tuple[str, ...]


def load_frequencies(spec: Path | None) -> Frequencies | None:
    """Reads what CIDEr's document frequencies are to be counted over; None for None."""
    if spec is None:
        return None
    references = load_references(str(spec))
    return Frequencies(references.name, references.captions)


def score(
    scorer: Scorer,
    captions: Iterable[CaptionRow],
    stock: Stock,
    store: RunStore,
    *,
    search_signature: str,
    unknown_word: str | None,
    facts: Facts = NO_FACTS,
    unfinished: Unfinished | None = None,
) -> Scored:
    """Scores every beam size and writes scores.parquet, with no more than some hundred images in memory.

    Args:
        scorer: holding the references of all images.
        captions: all rows of the run; failed ones are left out and counted elsewhere.
        stock: of these captions.
        store: where to write to.
        search_signature: how the captions were searched for.
        unknown_word: what the model says for words that it does not know.
        facts: what else is known of captions.
        unfinished: of the run, keeps what was measured of some captions; None to keep nothing.

    Returns:
        Corpus scores, with intervals.
    """
    sizes = [size for size in stock.sizes if stock.captioned[size].any()]
    heaps = {
        size: _Heap(scorer.weights_at(stock.places(size)), stock.captioned[size].copy()) for size in sizes
    }
    give_back_memory()
    rows = (row for row in captions if row.caption is not None and heaps[row.beam_size].take(scorer, row))
    with store.writing_scores() as table:
        for chunk in pieces(rows, AT_ONCE):
            table.append(_measured(scorer, chunk, heaps, facts, unknown_word, unfinished))
    give_back_memory()
    metrics: list[MetricRow] = []
    warnings: list[str] = []
    signature = ""
    for size, heap in heaps.items():
        frame = store.read_scores(beam_size=size)
        assert frame is not None
        empty = [
            c for c in frame if str(c).startswith(KEPT) and frame[c].isna().all()
        ]  # known at other sizes
        frame = frame.drop(columns=["beam_size", *empty]).set_index("image_id")
        result = scorer.scores(frame[scorer.columns], heap.tally, heap.cider)
        signature = result.signature
        suffix = "|".join(filter(None, ["" if size == FROM_FILE else f"beam:{size}", search_signature]))
        found = [
            *_overlap(result),
            *_judged(frame),
            *retrieval(frame),
            *_described(heap, frame),
            *heap.attention.described(),
        ]
        metrics += [_row(each, size, suffix) for each in found]
        place = "" if size == FROM_FILE else f"beam size {size}: "
        warnings += [place + warning for warning in (*result.warnings, *_alarm(found))]
        say(f"scored {len(frame)} captions" + ("" if size == FROM_FILE else f" of beam size {size}"))
        del frame, result
        give_back_memory()
    return Scored(tuple(metrics), signature, tuple(warnings))


class _Heap:
    """What is known of all captions of one beam size, apart from their scores."""

    def __init__(self, cider: CiderD, waited_for: Bool[np.ndarray, " image"]) -> None:
        self.cider, self._waited_for = cider, waited_for
        self.tally, self.said, self.attention = Tally(), Said(), AttentionSeen()

    def take(self, scorer: Scorer, row: CaptionRow) -> bool:
        """Whether a caption is the first of its image."""
        place = scorer.references.place(row.image_id)
        is_first = bool(self._waited_for[place])
        self._waited_for[place] = False
        return is_first

    def add(self, row: CaptionRow) -> None:
        """Adds a caption."""
        self.said.add(row.words, row.references)
        self.attention.add(row)


def _measured(
    scorer: Scorer,
    rows: Sequence[CaptionRow],
    heaps: Mapping[int, _Heap],
    facts: Facts,
    unknown_word: str | None,
    unfinished: Unfinished | None,
) -> pd.DataFrame:
    """Some rows of scores.parquet."""
    frames = []
    places = {size: [n for n, row in enumerate(rows) if row.beam_size == size] for size in heaps}
    for cider in dict.fromkeys(
        heap.cider for heap in heaps.values()
    ):  # one, unless images failed at some sizes only
        ours = sorted(n for size, heap in heaps.items() if heap.cider is cider for n in places[size])
        if not ours:
            continue
        failed = {name for heap in heaps.values() for name in heap.tally.failed}
        pairs = [(rows[n].image_id, rows[n].caption or "") for n in ours]
        measured = _kept(unfinished, scorer, pairs, cider) if unfinished else None
        if measured is None:
            measured = scorer.measure(pairs, cider, without=failed)
            if unfinished and not failed | measured.failed.keys():
                _keep(unfinished, scorer, pairs, cider, measured)
        for size, heap in heaps.items():
            if heap.cider is cider:
                here = set(places[size])
                heap.tally.add(measured, [place for place, n in enumerate(ours) if n in here])
        frames.append(measured.columns.set_axis(ours))
    for row in rows:
        heaps[row.beam_size].add(row)
    keys = pd.DataFrame({"image_id": [r.image_id for r in rows], "beam_size": [r.beam_size for r in rows]})
    own = _facts(rows, unknown_word)
    return pd.concat([keys, pd.concat(frames).sort_index(), own, facts(rows)], axis=1)


_LONGEST, _REFERENCES = "longest", "references"


def _asked(scorer: Scorer, pairs: Sequence[Pair], cider: CiderD) -> tuple[object, ...]:
    """All that decides what is measured of captions."""
    references = references_sha256({image_id: scorer.references[image_id] for image_id, _ in pairs})
    return "score", scorer.tokenizer, scorer.columns, cider.sha256, references, pairs


def _keep(
    unfinished: Unfinished, scorer: Scorer, pairs: Sequence[Pair], cider: CiderD, measured: Measured
) -> None:
    table = measured.columns.assign(**{_LONGEST: measured.words, _REFERENCES: measured.references})
    unfinished.write(table, *_asked(scorer, pairs, cider))


def _kept(unfinished: Unfinished, scorer: Scorer, pairs: Sequence[Pair], cider: CiderD) -> Measured | None:
    """What was measured before the run was broken off."""
    table = unfinished.read(*_asked(scorer, pairs, cider))
    if table is None:
        return None
    longest, references = (table.pop(name).tolist() for name in (_LONGEST, _REFERENCES))
    table.index = pd.Index([image_id for image_id, _ in pairs], name="image_id")
    return Measured(table, [caption for _, caption in pairs], longest, references, {})


def _facts(rows: Sequence[CaptionRow], unknown_word: str | None) -> pd.DataFrame:
    """What every caption says of itself."""
    return pd.DataFrame(
        {
            "Exact match": float(any(list(row.words) == split_words(ref) for ref in row.references)),
            "words": float(len(row.words)),
            "unfinished": float(not row.finished),
        }
        | ({} if unknown_word is None else {"words_unknown": float(row.words.count(unknown_word))})
        for row in rows
    )


def _overlap(result: Scores) -> Iterator[Described]:
    intervals = metric_intervals(result.per_image)
    for name, value in result.corpus.items():
        metric, interval = METRICS[name], intervals.get(name)
        if value is None:
            interval = None
        n = interval.n if interval else len(result.per_image)
        yield Described(
            name,
            metric.unit,
            metric.higher_is_better,
            value,
            interval,
            n,
            reason=result.reasons.get(name),
            signature=result.signatures[name],
        )


def _judged(frame: pd.DataFrame) -> Iterator[Described]:
    """Captions that equal a reference; where the data set knows, words that are true and objects that are not there."""
    yield _share("Exact match", frame["Exact match"], better=True)
    for column in frame.filter(regex="^true_"):
        name = str(column).removeprefix("true_")
        reason = f"no caption says a {name} word"
        yield _ratio(f"True {name} words", frame[column], frame[f"said_{name}"], better=True, reason=reason)
    if "objects_said" in frame:
        said, absent = frame["objects_said"], frame["objects_absent"]
        yield _ratio("Hallucinated objects", absent, said, better=False, reason="no caption names an object")
        yield _share("Hallucinating captions", absent > 0, better=False)
    if "copied" in frame:
        yield _share("Copied captions", frame["copied"], better=None)


def _described(heap: _Heap, frame: pd.DataFrame) -> Iterator[Described]:
    """What the captions are like, good or bad."""
    yield _share("Unfinished captions", frame["unfinished"], better=False)
    if "words_unknown" in frame:
        reason = "no words were said"
        yield _ratio("Unknown words", frame["words_unknown"], frame["words"], better=False, reason=reason)
    yield from variety(heap.said)


def _alarm(found: Sequence[Described]) -> Iterator[str]:
    for each in found:
        if each.name == "Collapsed attention" and each.value is not None and each.value > ALARMING_SHARE:
            yield (
                f"attention is the same for every word in {100 * each.value:.0f} % of the captions; "
                "its maps explain nothing"
            )


def _share(name: str, holds: pd.Series, *, better: bool | None, reason: str | None = None) -> Described:
    """Share of the images for which something holds."""
    n = len(holds)
    interval = share_interval(int(holds.sum()), n) if n else None
    return Described(name, "share", better, interval.value if interval else None, interval, n, reason)


def _ratio(name: str, part: pd.Series, whole: pd.Series, *, better: bool, reason: str) -> Described:
    interval: Interval | None = ratio_interval(part.to_numpy(float), whole.to_numpy(float))
    value = interval.value if interval else None
    return Described(name, "share", better, value, interval, interval.n if interval else len(part), reason)


def _row(found: Described, size: int, suffix: str) -> MetricRow:
    return MetricRow(
        name=found.name,
        beam_size=size,
        value=found.value,
        unit=found.unit,
        higher_is_better=found.higher_is_better,
        ci_low=found.interval.low if found.interval else None,
        ci_high=found.interval.high if found.interval else None,
        n=found.n,
        reason=None if found.value is not None else found.reason,
        signature="|".join(filter(None, [found.signature, suffix])),
    )
