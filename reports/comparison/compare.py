"""Two to eight runs over the same images, each beside the first: scores, captions, explanations, speed, settings."""

from collections.abc import Sequence
from typing import NamedTuple

from reports.comparison.captions import CaptionChanges, caption_changes
from reports.comparison.explanations import ExplanationComparison, explanation_comparisons
from reports.comparison.machines import Setting, SpeedComparison, settings, speed
from reports.comparison.runs import ComparedRun, select
from reports.comparison.scores import (
    ComparedMetric,
    OtherMetric,
    Pair,
    best_runs,
    compared_metrics,
    missing_scores,
    other_metrics,
    pairs,
    tested_metrics,
)
from reports.comparison.verdict import answers, overall
from reports.redaction import redacted, without_paths
from reports.verdict import Finding
from reports.wording import printable


class Against(NamedTuple):
    """One run beside the first."""

    run: int
    """Its place among the runs."""
    pair: Pair
    captions: CaptionChanges
    explanations: ExplanationComparison
    speed: SpeedComparison
    verdict: tuple[Finding, ...]


class Comparison(NamedTuple):
    """All that a comparison found."""

    runs: tuple[ComparedRun, ...]
    image_ids: tuple[str, ...]
    """Images that all runs captioned."""
    metrics: tuple[ComparedMetric, ...]
    left_out: tuple[str, ...]
    """Metrics that are not compared, each with the reason, as sentences."""
    others: tuple[OtherMetric, ...]
    pairs: tuple[Pair, ...]
    """All, each of an earlier and a later run."""
    best: tuple[int, ...]
    """Places of the runs that no other run beats."""
    against: tuple[Against, ...]
    """One for each run but the first."""
    verdict: tuple[Finding, ...]
    """Of all runs together; none if there are only two."""
    settings: tuple[Setting, ...]
    warnings: tuple[str, ...]
    command: str


def compare(
    runs: Sequence[str], *, beam_size: int | None = None, with_paths: bool = False, command: str = ""
) -> Comparison:
    """Compares runs; equal runs give an equal comparison.

    Args:
        runs: two to eight directories, as `runs.select` takes them; the first is what others stand beside.
        beam_size: of runs that name none.
        with_paths: whether absolute paths in settings and commands are kept.
        command: what makes this comparison again.

    Returns:
        The comparison; `RunError` says why there is none.
    """
    selected = select(runs, beam_size=beam_size)
    compared, warnings = selected.runs, selected.warnings
    if not with_paths:
        compared = tuple(run._replace(record=redacted(run.record)) for run in compared)
        command = without_paths(command)
    names, left_out = tested_metrics(compared)
    metrics = compared_metrics(compared, names)
    kept = [metric.name for metric in metrics]
    left_out += [
        f"{name} is not compared: no image has it in every run." for name in names if name not in kept
    ]
    warnings += missing_scores(compared, metrics)
    tests = pairs(compared, kept)
    leading = kept[0] if kept else None
    explained = explanation_comparisons(compared)
    against = []
    for place, run in enumerate(compared[1:], start=1):
        beside_first = next(pair for pair in tests if (pair.first, pair.second) == (0, place))
        found = (
            caption_changes(compared[0], run, leading), explained[place - 1], speed(compared[0], run)
        )  # fmt: skip
        verdict = answers(compared[0], run, beside_first, *found)
        against.append(Against(place, beside_first, *found, verdict))
    best = best_runs(len(compared), tests)
    return Comparison(
        compared,
        selected.image_ids,
        metrics,
        tuple(left_out),
        other_metrics(compared, kept),
        tests,
        best,
        tuple(against),
        overall([run.name for run in compared], tests, best) if len(compared) > 2 else (),
        settings(selected.runs, with_paths=with_paths),
        warnings,
        printable(command),
    )
