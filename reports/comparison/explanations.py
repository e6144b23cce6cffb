"""How explanations of runs differ: in what the measures say of them, and in where their attention lies."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from reports.comparison.runs import ComparedRun
from reports.comparison.scores import SIGNS, outcome_of
from reports.comparison.words import aligned
from reports.legend import Measure, measure_of
from reports.maps import Map, map_key
from reports.stats import (
    Interval,
    PairedTest,
    holm,
    metric_intervals,
    paired_tests,
    rank_biserial,
    ratio_intervals,
)
from reports.summary import struck_methods
from reports.wording import beam, clip, printable

ATTENTION, REFERENCE = "attention", "grid_integrated_gradients"
_COVERAGE = Measure(
    "Attention coverage", "0 to 1", None, "this project",
    "Share of the picture that all words of a caption together look at: near 0 one cell, 1 all cells alike.",
)  # fmt: skip
_FUNCTION = "function"
_PLACES = "localisation"
_OTHER_PLACES = (
    "Pointing, mass and AUC are not compared: "
    "the places of words come from different regions files, or one run had none."
)
_AT_A_TIME = 250  # images whose maps are held


class MeasureOf(NamedTuple):
    """One measure, and where its values are stored."""

    family: str
    """P-values are adjusted for all tests of a family."""
    column: str
    method: str | None
    """Of attributions.parquet; None for what is stored with each caption."""
    content: bool = False
    """Whether function words are left out."""

    @property
    def meaning(self) -> Measure:
        """How to read it."""
        if self.column == "attention_coverage":
            return _COVERAGE
        found = measure_of(self.column)
        if self.method == REFERENCE:
            return found._replace(label="Cosine with integrated gradients (grid)")
        return found


MEASURES = (
    MeasureOf(_PLACES, "pointing", ATTENTION),
    MeasureOf(_PLACES, "mass", ATTENTION),
    MeasureOf(_PLACES, "auc", ATTENTION),
    MeasureOf("faithfulness", "abpc_cells", ATTENTION),
    MeasureOf("attention on trial", "permute_drop", ATTENTION, content=True),
    MeasureOf("attention on trial", "share_now", ATTENTION, content=True),
    MeasureOf("agreement", "cosine", REFERENCE),
    MeasureOf("spread", "attention_entropy", None),
    MeasureOf("spread", "attention_coverage", None),
)
"""What is compared, of attention unless another method is named."""


class MeasureTest(NamedTuple):
    """How the second of two runs differs from the first in one measure."""

    measure: MeasureOf
    first: Interval
    second: Interval
    test: PairedTest
    adjusted_p: float
    """Two-sided, after Holm within the family, over all runs beside the first."""
    effect: float | None
    """Matched-pairs rank-biserial correlation; None if no image differs."""

    @property
    def outcome(self) -> str:
        """Of the second run, as sign and word; what only describes is higher or lower, not better or worse."""
        direction = self.measure.meaning.higher_is_better
        found = outcome_of(self.test, self.adjusted_p, higher_is_better=direction is not False)
        if direction is None:
            return {"better": "▲ higher", "worse": "▼ lower", "level": "= level"}[found]
        return f"{SIGNS[found]} {found}"


class Gaze(NamedTuple):
    """How alike the attention of two runs is while they say the same word; cosines of maps, 0 to 1."""

    cosine: Interval
    """Mean over words that both captions have, interval over images; 1 if both look at the same places."""
    null: float
    """The same with the other run's maps of the other words that both captions of the image have."""
    excess: Interval
    """Cosine less null, word by word."""
    words: int


class ExplanationComparison(NamedTuple):
    """The explanations of the second of two runs beside those of the first."""

    tests: tuple[MeasureTest, ...]
    gaze: Gaze | None
    notes: tuple[str, ...]
    """Why something is missing, or what to know of it, in sentences."""


class _Explained(NamedTuple):
    """The explanations of one run."""

    values: pd.DataFrame
    """One row per image; columns are places in `MEASURES`, as capitals."""
    images: frozenset[str]
    """Those with stored maps of attention."""
    notes: tuple[str, ...]


def explanation_comparisons(runs: Sequence[ComparedRun]) -> tuple[ExplanationComparison, ...]:
    """Compares the explanations of each run with those of the first.

    The unit is the image: its value is the mean over the words of its caption, which need not be the same words in
    both runs. Intervals are of the paired bootstrap, p-values of the sign-flip permutation, as for scores.

    Args:
        runs: all.

    Returns:
        One for each run but the first.
    """
    explained = [_explained(run) for run in runs]
    placed = [_same_places(runs[0], run) for run in runs[1:]]
    found = [
        _tests(explained[0].values, other.values, places=same)
        for other, same in zip(explained[1:], placed, strict=True)
    ]
    for family in dict.fromkeys(measure.family for measure in MEASURES):
        adjusted = holm({
            (run, test.measure.column): test.test.p_differs
            for run, tests in enumerate(found)
            for test in tests
            if test.measure.family == family
        })  # fmt: skip
        found = [
            [
                test._replace(adjusted_p=adjusted[run, test.measure.column])
                if test.measure.family == family
                else test
                for test in tests
            ]
            for run, tests in enumerate(found)
        ]
    comparisons = []
    for run, other, tests, same in zip(runs[1:], explained[1:], found, placed, strict=True):
        gaze, more = _gaze(runs[0], run, explained[0].images & other.images)
        notes = dict.fromkeys([*explained[0].notes, *other.notes])
        if gaze or not notes:  # else these say why there is none
            notes |= dict.fromkeys(more)
        if not same and any(_has_places(one.values) for one in (explained[0], other)):
            notes[_OTHER_PLACES] = None
        comparisons.append(ExplanationComparison(tuple(tests), gaze, tuple(notes)))
    return tuple(comparisons)


def _same_places(first: ComparedRun, second: ComparedRun) -> bool:
    """Whether words were held to lie in the same regions: those of the same file, or of none."""
    ours, theirs = (run.record.provenance.sha256.get("regions") for run in (first, second))
    return ours == theirs


def _has_places(values: pd.DataFrame) -> bool:
    return any(_key(m) in values and values[_key(m)].notna().any() for m in MEASURES if m.family == _PLACES)


def _explained(run: ComparedRun) -> _Explained:
    values = _of_captions(run)
    info, rows = run.record.explanations, None
    if info is None:
        return _Explained(values, frozenset(), (f"“{run.name}” explained no captions.",))
    if info.beam_size != run.beam_size:
        sizes = beam(info.beam_size), beam(run.beam_size)
        note = f"“{run.name}” explained captions of {sizes[0]}; those of {sizes[1]} are compared."
        return _Explained(values, frozenset(), (note,))
    rows = run.store.read_attributions()
    if rows is None:
        return _Explained(values, frozenset(), (f"“{run.name}” holds no explanation.",))
    rows = rows[rows["beam_size"] == run.beam_size]
    left_out = struck_methods(info, rows, run.store.read_sanity())
    rows = rows[rows["method"].isin([ATTENTION, REFERENCE])]
    rows = rows[rows["image_id"].isin(list(run.captions))]
    rows = rows.drop_duplicates(["image_id", "word_index", "method"])
    struck = {name: why for name, why in left_out.items() if name in (ATTENTION, REFERENCE)}
    labels = {method.name: clip(printable(method.label), 80) for method in info.methods}
    notes = [
        f"{labels.get(name, name)} of “{run.name}” is left out: {clip(printable(why))}."
        for name, why in struck.items()
    ]
    rows = rows[~rows["method"].isin(list(struck))]
    if ATTENTION in struck:
        rows = rows[:0]
    looked = frozenset(rows.loc[rows["method"] == ATTENTION, "image_id"])
    return _Explained(pd.concat([values, _of_words(rows)], axis=1), looked, tuple(notes))


def _of_captions(run: ComparedRun) -> pd.DataFrame:
    """Measures that are stored with each caption; one row per image."""
    return pd.DataFrame(
        {
            _key(measure): [getattr(row, measure.column) for row in run.captions.values()]
            for measure in MEASURES
            if measure.method is None
        },
        index=list(run.captions),
        dtype=np.float64,
    )


def _of_words(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over each image's words, of the images that were explained."""
    columns = {}
    for measure in MEASURES:
        if measure.method is not None:
            ours = rows[rows["method"] == measure.method]
            if measure.content:
                ours = ours[ours["word_class"] != _FUNCTION]
            finite = ours[measure.column].where(np.isfinite(ours[measure.column]))
            columns[_key(measure)] = finite.groupby(ours["image_id"]).mean()
    return pd.DataFrame(columns)


def _key(measure: MeasureOf) -> str:
    """In capitals: statistics takes columns in lower case for sums that scores are made of."""
    return measure.column.upper()


def _tests(first: pd.DataFrame, second: pd.DataFrame, *, places: bool) -> list[MeasureTest]:
    """Of all measures, or, if words lie in other places in both runs, of those that ask for no place."""
    found = []
    for measure in MEASURES:
        key = _key(measure)
        if key not in first or key not in second or (measure.family == _PLACES and not places):
            continue
        both = pd.concat([first[key], second[key]], axis=1, keys=["first", "second"]).dropna()
        if both.empty:
            continue
        ours, theirs = (both[[side]].rename(columns={side: key}) for side in ("first", "second"))
        before, after = metric_intervals(ours)[key], metric_intervals(theirs)[key]
        assert before is not None
        assert after is not None
        differences = (both["second"] - both["first"]).to_numpy(np.float64)
        test = paired_tests(ours, theirs)[key]
        found.append(MeasureTest(measure, before, after, test, np.nan, rank_biserial(differences)))
    return found


def _gaze(first: ComparedRun, second: ComparedRun, images: frozenset[str]) -> tuple[Gaze | None, list[str]]:
    """Over the images that both explained; and what is to be known of it."""
    ordered = [image_id for image_id in first.captions if image_id in images]
    per_image, grids = [], set()
    for begun in range(0, len(ordered), _AT_A_TIME):
        some = ordered[begun : begun + _AT_A_TIME]
        ours, theirs = (_maps(run, some) for run in (first, second))
        for image_id in (image_id for image_id in some if image_id in ours and image_id in theirs):
            words = aligned(first.captions[image_id].words, second.captions[image_id].words)
            grids.add((ours[image_id].shape[1:], theirs[image_id].shape[1:]))
            found = _alike(ours[image_id], theirs[image_id], words)
            per_image += [found] if found else []
    if not per_image:
        return None, [
            "No image that both explained has two words that both captions share, with maps of attention."
        ]
    notes = [
        f"The attention grid has {ours[0]} × {ours[1]} cells in “{first.name}” and {theirs[0]} × {theirs[1]} in "
        f"“{second.name}”: to be compared, maps are pooled by area to {min(ours[0], theirs[0])} × "
        f"{min(ours[1], theirs[1])}."
        for ours, theirs in sorted(grids)
        if ours != theirs
    ]
    sums = np.array(per_image, np.float64)
    words_each = np.repeat(sums[:, -1:], 2, axis=1)
    cosine, excess = ratio_intervals(sums[:, :2], words_each, shares=(False, False))
    assert cosine is not None
    assert excess is not None
    return Gaze(cosine, cosine.value - excess.value, excess, int(sums[:, -1].sum())), notes


def _maps(run: ComparedRun, image_ids: Iterable[str]) -> dict[str, Float[np.ndarray, "words rows columns"]]:
    keys = {map_key(image_id, run.beam_size, ATTENTION): image_id for image_id in image_ids}
    found = run.store.read_maps(keys)
    return {keys[key]: _positive(map_) for key, map_ in found.items()}


def _positive(map_: Map) -> Float[np.ndarray, "words rows columns"]:
    """What is not finite counts as 0."""
    values = map_.astype(np.float64)
    return np.where(np.isfinite(values) & (values > 0), values, 0.0)


def _alike(
    ours: Float[np.ndarray, "words rows columns"],
    theirs: Float[np.ndarray, "others rows2 columns2"],
    words: Sequence[tuple[int, int]],
) -> tuple[float, float, int] | None:
    """Sums over the words of an image: of the cosine, of the cosine less null, and their number.

    Args:
        ours: maps of the first run, not negative.
        theirs: of the second.
        words: places of the same word in both captions.

    Returns:
        None if fewer than two of the words have maps that are not dark: there is no null then.
    """
    words = [(i, j) for i, j in words if i < len(ours) and j < len(theirs)]
    if len(words) < 2 or 0 in ours.shape or 0 in theirs.shape:
        return None
    grid = min(ours.shape[1], theirs.shape[1]), min(ours.shape[2], theirs.shape[2])
    first = pooled(ours[[i for i, _ in words]], grid).reshape(len(words), -1)
    second = pooled(theirs[[j for _, j in words]], grid).reshape(len(words), -1)
    lengths = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    lit = (lengths[0] > 0) & (lengths[1] > 0)
    n = int(lit.sum())
    if n < 2:
        return None
    cosines = (first[lit] / lengths[0][lit, None]) @ (second[lit] / lengths[1][lit, None]).T
    same = float(np.trace(cosines))
    return same, same - float(cosines.sum() - same) / (n - 1), n


def pooled(
    maps: Float[np.ndarray, "words rows columns"], grid: tuple[int, int]
) -> Float[np.ndarray, "words rows2 columns2"]:
    """Maps on another grid over the same picture: each cell gives to every new cell the share that lies in it.

    Args:
        maps: any number.
        grid: rows and columns; not more than the maps have.

    Returns:
        Maps with the same sums.
    """
    if maps.shape[1:] == grid:
        return maps
    rows, columns = (_overlap(have, want) for have, want in zip(maps.shape[1:], grid, strict=True))
    result: Float[np.ndarray, "words rows2 columns2"] = rows @ maps @ columns.T
    return result


def _overlap(have: int, want: int) -> Float[np.ndarray, "want have"]:
    """The share of each of `have` equal pieces of a line that lies in each of `want`."""
    old, new = np.arange(have + 1) / have, np.arange(want + 1) / want
    low = np.maximum(new[:-1, None], old[None, :-1])
    high = np.minimum(new[1:, None], old[None, 1:])
    shares: Float[np.ndarray, "want have"] = np.maximum(high - low, 0) * have
    return shares


def by_family(tests: Sequence[MeasureTest]) -> Mapping[str, list[MeasureTest]]:
    """In the order of `MEASURES`."""
    families: dict[str, list[MeasureTest]] = {}
    for test in tests:
        families.setdefault(test.measure.family, []).append(test)
    return families
