"""The metrics, and what scoring yields."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.scoring.rouge import RougeL


@dataclass(frozen=True)
class Metric:
    """What a reader needs to know about a score."""

    unit: str
    range: tuple[float, float]
    higher_is_better: bool
    source: str
    signature: str
    """What its numbers depend on besides tokens and references: key:value, more of them joined by `|`."""
    against: Callable[[Sequence[str]], Callable[[str], float]] | None = None
    """For a metric that is a mean over images: given an image's tokenised references, scores a tokenised caption."""


_BLEU = Metric("0 to 1", (0, 1), True, "Papineni et al. 2002; closest reference length", "bleu:closest")
METRICS = {
    **{f"BLEU-{order}": _BLEU for order in range(1, 5)},
    "METEOR": Metric(
        "0 to 1",
        (0, 1),
        True,
        "Denkowski & Lavie 2014; version 1.5, English, normalised",
        "meteor:1.5-en-norm",
    ),
    "ROUGE-L": Metric(
        "0 to 1",
        (0, 1),
        True,
        "Lin 2004; beta 1.2, best precision and best recall",
        "rouge:L-beta-1.2",
        RougeL,
    ),
    "CIDEr": Metric(
        "0 to 10", (0, 10), True, "Vedantam et al. 2015; the CIDEr-D form, sigma 6", "cider:D-sigma-6"
    ),
    "SPICE": Metric("0 to 1", (0, 1), True, "Anderson et al. 2016; where its parser is", "spice:1.0"),
}
"""All metrics in display order. A mean over images is added with one line; capitalise its name."""


@dataclass(frozen=True)
class Scores:
    """Scores of one set of captions. What could not be computed is missing, and `reasons` says why."""

    per_image: pd.DataFrame
    """Index image_id, in the order given; float columns `METRICS`, `BLEU_STATISTICS`, `METEOR_STATISTICS`."""
    corpus: dict[str, float | None]
    """By metric; None unless every image has a score. SPICE, if its parser is there, leaves out images without one."""
    reasons: dict[str, str]
    """By metric that is None."""
    warnings: tuple[str, ...]
    signatures: dict[str, str]
    """By metric, how its scores came about, after sacrebleu (Post 2018): scores are comparable if they agree on it."""
    signature: str
    """What all signatures have in common."""
