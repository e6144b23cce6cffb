"""Which captions two runs say differently, in which words, and what that costs or gains."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pandas as pd

from reports.comparison.runs import ComparedRun
from reports.comparison.words import Change, changes
from reports.stats import Interval, share_interval
from reports.terms import DIGITS

SHOWN_CAPTIONS = 10
"""Captions in each of the lists of those that lost and gained most."""
SHOWN_SWAPS = 10
"""Replacements of words in the list of the most frequent."""


class ChangedCaption(NamedTuple):
    """One image of which two runs say different things."""

    image_id: str
    changes: tuple[Change, ...]
    references: tuple[str, ...]
    scores: tuple[float, float] | None
    """Of the first and the second run; None where the image has no score."""

    @property
    def difference(self) -> float | None:
        """Second less first."""
        return None if self.scores is None else self.scores[1] - self.scores[0]


class Swap(NamedTuple):
    """Words that others took the place of."""

    before: str
    after: str
    captions: int
    """In how many captions."""


class CaptionChanges(NamedTuple):
    """What the second of two runs says otherwise than the first."""

    same: Interval
    """Share of images with word for word the same caption."""
    changed: int
    metric: str | None
    """By which captions are ranked; None if nothing was scored."""
    differences: Mapping[str, float | None]
    """By image id, of captions that changed; worst first, those without a score last."""
    lost: tuple[ChangedCaption, ...]
    """Worst first."""
    gained: tuple[ChangedCaption, ...]
    """Best first."""
    swaps: tuple[Swap, ...]
    """Most frequent first."""


def caption_changes(first: ComparedRun, second: ComparedRun, metric: str | None) -> CaptionChanges:
    """Which captions differ, by how much their scores do, and in which words.

    Args:
        first: the run that is compared with.
        second: the run that is judged.
        metric: ranks the captions; None if nothing was scored.

    Returns:
        All that changed, and the words of those that lost and gained most.
    """
    before, after = first.captions, second.captions
    changed = [i for i in before if before[i].caption != after[i].caption]
    scores = _scores(first, second, metric)
    differences = {i: round(scores[i][1] - scores[i][0], DIGITS) for i in changed if i in scores}
    scored = sorted(differences, key=lambda i: (differences[i], i))

    def shown(image_id: str) -> ChangedCaption:
        words = before[image_id].words, after[image_id].words
        return ChangedCaption(
            image_id, changes(*words), before[image_id].references, scores.get(image_id)
        )  # fmt: skip

    lost = [i for i in scored[:SHOWN_CAPTIONS] if differences[i] < 0]
    best = sorted(differences, key=lambda i: (-differences[i], i))
    gained = [i for i in best[:SHOWN_CAPTIONS] if differences[i] > 0]
    return CaptionChanges(
        share_interval(len(before) - len(changed), len(before)),
        len(changed),
        metric,
        {i: differences.get(i) for i in (*scored, *(i for i in changed if i not in scores))},
        tuple(map(shown, lost)),
        tuple(map(shown, gained)),
        _swaps((before[i].words, after[i].words) for i in changed),
    )


def _scores(first: ComparedRun, second: ComparedRun, metric: str | None) -> dict[str, tuple[float, float]]:
    if metric is None or first.scores is None or second.scores is None:
        return {}
    columns = (run.scores[metric] for run in (first, second) if run.scores is not None)
    # As in `compare_scores`: no difference but one that six decimals show.
    both = pd.concat(columns, axis=1).dropna().round(DIGITS)
    return {str(i): (float(a), float(b)) for i, a, b in both.itertuples(name=None)}


def _swaps(captions: Iterable[tuple[tuple[str, ...], tuple[str, ...]]]) -> tuple[Swap, ...]:
    counts: dict[tuple[str, str], int] = {}
    for before, after in captions:
        replaced = {
            (" ".join(change.before), " ".join(change.after))
            for change in changes(before, after)
            if change.kind == "changed"
        }
        for swap in replaced:
            counts[swap] = counts.get(swap, 0) + 1
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_SWAPS]
    return tuple(Swap(*words, number) for words, number in most)
