"""Whether a run is as good as its baseline, by layers of which each asks less of chance than the next.

- Comparability: pictures, references, vocabulary, metric signatures, image ids and beam sizes must be the baseline's.
  If not, no number is compared.
- Identity: the same model on the same kind of device says the same. A caption may differ only where the search was
  undecided: its score moved by less than `NEAR_TIE`, so that rounding decides. And the same caption scores the same.
- Paired tests of what changed: red only if worse than the tolerance and significantly so, by a one-sided sign-flip
  test, with Holm's correction over all metrics and beam sizes that are tested. Worse without significance is
  inconclusive: there are too few images to tell.
- Hard floors and sanity limits: red whatever chance can do.
- Speed: exact counts of work, where the captions are the same; times as ratios to reference kernels that were timed
  in the same process, where the machine is the same. A noisy or another machine is inconclusive, never red.

What the baseline holds and the run lacks is a failure, never passed over.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Literal, NamedTuple

from reports.baseline import read_baseline
from reports.finished_run import (
    FinishedRun,
    hashes,
    is_timed,
    machine_terms,
    model_place,
    read_finished,
    references_sha256,
    sanity,
)
from reports.speed import Clock, Pace, SpeedRecord, SpeedRow, clock, compare_clocks
from reports.stats import PERMUTATIONS, SEED, PairedTest, holm, paired_tests
from reports.terms import (
    DIGITS,
    LIMITS,
    STATISTICS,
    TESTED,
    Baseline,
    BaselineError,
    MachineTerms,
    MetricTerms,
    SpeedTerms,
    within,
)
from reports.wording import beam, clip, printable

NEAR_TIE = 1e-3
"""Nats between search scores below which rounding decides which caption wins."""
PEAK_BYTES_TOL = 0.01
"""Share by which peak memory may differ: allocators round."""

Layer = Literal["run", "comparability", "identity", "quality", "limits", "speed"]
Outcome = Literal[
    "pass", "better", "skipped", "inconclusive", "regression", "incomplete", "incomparable", "usage"
]
_CODES: Mapping[Outcome, int] = {"usage": 2, "incomparable": 3, "incomplete": 4, "regression": 1}
_STRICT: Mapping[Outcome, int] = {**_CODES, "better": 1, "inconclusive": 5}
_INPUTS = {
    "data": "pictures",
    "references": "references",
    "vocabulary": "vocabulary",
    "frequencies": "document frequencies",
}
_LISTED = 10


@dataclass(frozen=True)
class Check:
    """One question that was asked."""

    layer: Layer
    name: str
    outcome: Outcome
    text: str
    """The outcome in words."""
    before: float | None = None
    after: float | None = None
    difference: float | None = None
    """Of scores: after minus before; of times: the share by which they grew."""
    tolerance: float | None = None
    p: float | None = None
    """Of the one-sided paired test, after Holm."""
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class GateResult:
    """All answers of one gate. Every text in it is printable."""

    run: str
    baseline: str
    strict: bool
    seed: int
    checks: tuple[Check, ...]

    def code(self, check: Check) -> int:
        """The exit code that a check asks for."""
        return (_STRICT if self.strict else _CODES).get(check.outcome, 0)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that fail."""
        return tuple(check for check in self.checks if self.code(check))

    @property
    def exit_code(self) -> int:
        """0 pass, 1 regression, 2 usage, 3 incomparable, 4 incomplete, 5 inconclusive; what hides more goes first."""
        codes = {self.code(check) for check in self.failures}
        return next((code for code in (2, 3, 4, 1, 5) if code in codes), 0)

    @property
    def verdict(self) -> str:
        """One line."""
        meaning = {
            0: "PASSED",
            1: "REGRESSION",
            2: "NOT RUN",
            3: "NOT COMPARABLE",
            4: "INCOMPLETE",
            5: "INCONCLUSIVE",
        }
        n, failed = len(self.checks), len(self.failures)
        counts = f"{failed} of {n} checks failed" if failed else f"none of {n} checks failed"
        for outcome, words in (("inconclusive", "inconclusive"), ("better", "better than the baseline")):
            if number := sum(check.outcome == outcome and not self.code(check) for check in self.checks):
                counts += f", {number} {words}"
        return f"{meaning[self.exit_code]}: {counts} (exit code {self.exit_code})"


def gate(run: Path, baseline: Path, *, strict: bool = False, seed: int = SEED) -> GateResult:
    """Compares a run with a baseline. What is wrong with either is a result, too.

    Args:
        run: the directory of the run.
        baseline: the file that `bless` wrote.
        strict: whether what is inconclusive, or better than the baseline, fails as well.
        seed: of the paired tests.

    Returns:
        The checks, their verdict and the exit code.
    """
    checks = tuple(_checks(Path(run), Path(baseline), seed))
    return GateResult(printable(str(run)), printable(str(baseline)), strict, seed, checks)


def _checks(run: Path, baseline: Path, seed: int) -> Iterator[Check]:
    if not run.is_dir():
        text = f"{run} is no directory; give the one that `gazebench eval --out` wrote"
        yield Check("run", "run", "usage", printable(text))
        return
    try:
        blessed = read_baseline(baseline)
    except BaselineError as error:
        yield Check("comparability", "baseline", "incomparable", clip(printable(str(error))))
        return
    try:
        finished = read_finished(run)
    except (ValueError, OSError) as error:  # a RunError, or what damage makes a reader of parquet say
        # The one error of a run that another program could read.
        other = " has schema version " in str(error)
        yield Check("run", "run", "incomparable" if other else "incomplete", clip(printable(str(error))))
        return
    yield Check("run", "run", "pass", "finished, and no image failed")
    comparability = list(_comparability(blessed, finished))
    yield from comparability
    if any(check.outcome == "incomparable" for check in comparability):
        return
    changed = _changed(blessed, finished)
    yield _identity(blessed, finished, changed)
    yield _scoring(blessed, finished, changed)
    yield from _quality(blessed, finished, {size for _, size in changed}, seed)
    yield from _limits(blessed, finished)
    yield from _speed(blessed, finished)


def _comparability(blessed: Baseline, finished: FinishedRun) -> Iterator[Check]:
    terms, record = blessed.terms, finished.record
    yield _equal("beam sizes", set(map(str, blessed.frames)), set(map(str, finished.frames)))
    yield _equal("image ids", {key[0] for key in blessed.captions}, {key[0] for key in finished.captions})
    now = hashes(record)
    for name, words in _INPUTS.items():
        if name in terms.sha256 or name in now:
            yield _equal(words, {terms.sha256.get(name, "")}, {now.get(name, "")})
    yield _equal(
        "references of the captions",
        {terms.captions.references_sha256},
        {references_sha256(finished.captions)},
    )
    before, after = set(), set()
    for held in terms.metric:
        row = finished.metric(held.name, held.beam_size)
        if row is not None and row.value is not None:
            place = f"{held.name}, {beam(held.beam_size)}: "
            before.add(place + (held.signature or terms.signature))
            after.add(place + printable(row.signature or record.metric_signature))
    yield _equal("metric signatures", before, after)


def _equal(name: str, before: set[str], after: set[str]) -> Check:
    """Whether two sets agree."""
    if before == after:
        return Check("comparability", name, "pass", "the same")
    only = [("baseline", before - after), ("run", after - before)]
    text = "; ".join(
        f"only in the {where}: {_some(values)}" for where, values in only if values
    )  # fmt: skip
    return Check("comparability", name, "incomparable", f"not the baseline's, so nothing is compared: {text}")


def _some(values: set[str]) -> str:
    shown = [clip(printable(value), 160) or "(not stated)" for value in sorted(values)[:3]]
    return ", ".join(shown) + (f" and {len(values) - 3:,} more" if len(values) > 3 else "")


def _changed(blessed: Baseline, finished: FinishedRun) -> list[tuple[str, int]]:
    return [key for key, row in blessed.captions.items() if finished.captions[key].caption != row.caption]


def _identity(blessed: Baseline, finished: FinishedRun, changed: list[tuple[str, int]]) -> Check:
    terms, n = blessed.terms, len(blessed.captions)
    now = hashes(finished.record)
    same_model = (
        "checkpoint" in now
        and now == terms.sha256
        and model_place(finished.record) == (terms.device, terms.encoder_dtype)
    )
    if not changed:
        return Check("identity", "captions", "pass", f"all {n:,} are the same", difference=0.0)
    if not same_model:
        text = f"{len(changed):,} of {n:,} changed; the model, or the kind of device, is another one"
        return Check("identity", "captions", "pass", text, difference=len(changed) / n)
    ties = [key for key in changed if _is_near_tie(blessed, finished, key)]
    decided = [key for key in changed if key not in set(ties)]
    share, tolerated = len(decided) / n, terms.captions.max_changed_share
    text = f"{len(decided):,} of {n:,} changed"
    if ties:
        text += f", and {len(ties):,} near-tie{'s'[: len(ties) != 1]} that rounding decides"
    if share <= tolerated:
        return Check("identity", "captions", "pass", text, difference=share, tolerance=tolerated)
    return Check(
        "identity",
        "captions",
        "regression",
        f"{text}, though model and kind of device are the same; if intended, bless the run",
        difference=share,
        tolerance=tolerated,
        details=tuple(
            f"{clip(printable(image_id), 80)}, {beam(size)}: "
            f"“{clip(printable(blessed.captions[image_id, size].caption), 160)}” became "
            f"“{clip(printable(finished.captions[image_id, size].caption or ''), 160)}”"
            for image_id, size in decided[:_LISTED]
        ),
    )


def _is_near_tie(blessed: Baseline, finished: FinishedRun, key: tuple[str, int]) -> bool:
    """Whether another hypothesis won by next to nothing; the same one in other words is no such thing."""
    before, after = blessed.captions[key], finished.captions[key]
    if before.score is None or after.score is None or before.token_ids == after.token_ids:
        return False
    return abs(after.score - before.score) < NEAR_TIE


def _scoring(blessed: Baseline, finished: FinishedRun, changed: list[tuple[str, int]]) -> Check:
    """Whether captions that did not change have kept their scores: they say the same, so only scoring can differ."""
    differing: dict[str, int] = {}
    for size, before in blessed.frames.items():
        kept = before.index.difference([image_id for image_id, beam_size in changed if beam_size == size])
        for name in before.columns.intersection(finished.frames[size].columns):
            moved = (finished.frames[size].loc[kept, name] - before.loc[kept, name]).abs() > 10**-DIGITS
            if moved.any():
                differing[f"{name}, {beam(size)}"] = int(moved.sum())
    n = len(blessed.captions) - len(changed)
    if not differing:
        text = f"{n:,} captions that are the same score the same" if n else "no caption is the same"
        return Check("identity", "scoring", "pass", text)
    return Check(
        "identity",
        "scoring",
        "regression",
        "scoring changed: captions that are the same have other scores; if intended, bless the run",
        details=tuple(f"{name}: {number:,} images" for name, number in list(differing.items())[:_LISTED]),
    )


def _quality(blessed: Baseline, finished: FinishedRun, changed: set[int], seed: int) -> Iterator[Check]:
    """Every metric that the baseline holds; paired tests for the beam sizes of which captions changed."""
    terms = blessed.terms
    held_names = {(held.name, held.beam_size) for held in terms.metric}
    tested = [
        held for held in terms.metric if held.tol is not None and held.name in finished.frames[held.beam_size]
    ]
    family = [(held.name, held.beam_size) for held in tested if held.beam_size in changed]
    # Even after Holm, the least p that so many permutations can give lies below alpha.
    permutations = max(PERMUTATIONS, math.ceil(2 * len(family) / terms.alpha))
    tests: dict[tuple[str, int], PairedTest] = {}
    for size in sorted(changed):
        names = [name for name, beam_size in family if beam_size == size]
        columns = [column for name in names for column in (name, *STATISTICS.get(name, ()))]
        before, after = blessed.frames[size][columns], finished.frames[size][columns]
        found = paired_tests(before, after, permutations=permutations, seed=seed) if names else {}
        tests |= {(name, size): found[name] for name in names}
    adjusted = holm({key: test.p_worse for key, test in tests.items()})
    for held in terms.metric:
        key = (held.name, held.beam_size)
        row = finished.metric(*key)
        name = f"{held.name}, {beam(held.beam_size)}"
        if row is None or row.value is None or (held.tol is not None and held not in tested):
            why = "not among the run's metrics" if row is None else row.reason or "some images have no value"
            yield Check(
                "quality", name, "incomplete", f"not computed: {clip(printable(why))}", before=held.value
            )
            continue
        test = tests.get(key) and _Tested(tests[key], adjusted[key], terms.alpha, len(family))
        yield _judged(held, name, row.value, test)
    for row in finished.record.metrics:
        if row.name in TESTED and row.value is not None and (row.name, row.beam_size) not in held_names:
            name = f"{row.name}, {beam(row.beam_size)}"
            yield Check(
                "quality", name, "skipped", "not in the baseline: bless a run to hold it", after=row.value
            )


class _Tested(NamedTuple):
    """A paired test among others."""

    test: PairedTest
    p: float
    """After Holm."""
    alpha: float
    family: int


def _judged(held: MetricTerms, name: str, value: float, tested: _Tested | None) -> Check:
    difference = tested.test.difference if tested else value - held.value
    loss = -difference if held.higher_is_better else difference
    tolerance = held.hard_tol if held.tol is None else held.tol
    outcome: Outcome = "pass"
    if loss > held.hard_tol:
        outcome, text = "regression", f"worse by more than the hard floor allows ({held.hard_tol:g})"
    elif tested and loss > tolerance and tested.p < tested.alpha:
        outcome, text = "regression", "worse by more than the tolerance, and not by chance"
    elif tested and loss > tolerance:
        outcome, text = "inconclusive", f"worse, but it may be chance{_needed(tested)}"
    elif -loss > tolerance:
        outcome, text = "better", "better by more than the tolerance: bless the run to hold on to it"
    else:
        outcome, text = (
            "pass",
            "within the tolerance" if tested or held.tol is None else "the captions are the same",
        )
    p = tested.p if tested else None
    return Check("quality", name, outcome, text, held.value, value, difference, tolerance, p)


def _needed(tested: _Tested) -> str:
    """How many images would show such a difference in 4 of 5 gates, by the normal approximation."""
    test = tested.test
    if test.low is None or test.high is None or not test.difference:
        return ""
    normal = NormalDist()
    reach = normal.inv_cdf(1 - tested.alpha / tested.family) + normal.inv_cdf(0.8)
    error = (test.high - test.low) / (2 * normal.inv_cdf(0.975))
    images = math.ceil(test.n * (reach * error / test.difference) ** 2)
    return f": about {images:,} images would tell" if images > test.n else ""


def _limits(blessed: Baseline, finished: FinishedRun) -> Iterator[Check]:
    values = sanity(finished)
    for limit in blessed.terms.limit:
        name, value = (
            f"{LIMITS[limit.name]}, {beam(limit.beam_size)}",
            values.get((limit.name, limit.beam_size)),
        )
        bounds = [("at least", limit.at_least), ("at most", limit.at_most)]
        text = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        if value is None:
            yield Check(
                "limits",
                name,
                "incomplete",
                "can't be said of this run, which does not name its unknown word",
            )
        elif within(value, limit):
            yield Check("limits", name, "pass", text or "no limit", after=value)
        else:
            yield Check("limits", name, "regression", f"outside the limits: {text}", after=value)


def _speed(blessed: Baseline, finished: FinishedRun) -> Iterator[Check]:
    speed, machine = finished.speed, blessed.terms.machine
    rows = {printable(row.name): row for row in speed.rows} if speed else {}
    for name, held in blessed.terms.speed.items():
        row = rows.pop(name, None)
        if row is None or speed is None or machine is None:
            yield Check("speed", name, "incomplete", "not measured in the run")
        elif (sizes := {printable(key): size for key, size in row.sizes.items()}) != held.sizes:
            text = (
                f"measured at other sizes: {_sizes(held.sizes)} in the baseline, {_sizes(sizes)} in the run"
            )
            yield Check("speed", name, "incomparable", clip(text))
        else:
            yield from _work(name, held, row, machine.device, printable(speed.device))
            yield from _times(name, held, row, _other(machine, speed), on_cpu=speed.device.startswith("cpu"))
    for name in rows:
        yield Check("speed", name, "skipped", "not in the baseline: bless a run to hold it")


def _other(machine: MachineTerms, speed: SpeedRecord) -> str:
    """In what the run's machine is not the baseline's; empty if in nothing that times depend on."""
    now = machine_terms(speed)
    differing = {
        "processor": machine.processor != now.processor,
        "device": machine.device != now.device,
        "number of threads": machine.threads != now.threads,
    }
    return " and ".join(name for name, differs in differing.items() if differs)


def _work(name: str, held: SpeedTerms, row: SpeedRow, blessed_on: str, run_on: str) -> Iterator[Check]:
    """Counts that are equal for equal work: anywhere; arithmetic on that kind of device, memory on that device."""
    other = set()
    if blessed_on != run_on:
        other.add("peak_bytes")
    if blessed_on.partition(":")[0] != run_on.partition(":")[0]:  # its kernels may go another way
        other.add("flops")
    counts = {printable(key): count for key, count in row.exact.items()}
    for what, before in held.exact.items():
        label, after = f"{name}: {what.replace('_', ' ')}", counts.get(what)
        tolerance = PEAK_BYTES_TOL * before if what == "peak_bytes" else 0.0
        if after is None:
            yield Check("speed", label, "incomplete", "not counted in the run", before)
            continue
        outcome: Outcome = "pass"
        text = "the same"
        if row.captions_sha256 != held.captions_sha256:
            outcome, text = "skipped", "not compared: the captions changed"
        elif what in other:
            outcome, text = "skipped", "not compared: another device"
        elif after > before + tolerance:
            outcome, text = "regression", "more for the same captions"
        elif after < before - tolerance:
            outcome, text = "better", "less for the same captions: bless the run to hold on to it"
        yield Check("speed", label, outcome, text, before, after, after - before, tolerance)


def _times(name: str, held: SpeedTerms, row: SpeedRow, other: str, *, on_cpu: bool) -> Iterator[Check]:
    """Either clock can be the one that shows it: waiting costs no CPU time, and on a GPU only the wall clock counts."""
    clocks = [("wall time", Clock(held.wall_ratio, held.wall_error), row.wall_ratios)]
    if on_cpu and held.cpu_ratio is not None and held.cpu_error is not None:
        clocks.insert(0, ("CPU time", Clock(held.cpu_ratio, held.cpu_error), row.cpu_ratios))
    for clock_name, before, ratios in clocks:
        label = f"{name}: {clock_name}"
        if not is_timed(ratios):
            yield Check("speed", label, "incomplete", "not timed in the run", before.ratio)
            continue
        after = clock(ratios)
        pace = compare_clocks(before, after, tol=held.tol)
        outcome: Outcome = "inconclusive"
        if other:
            text = f"not judged: another {other}"
        elif pace.outcome == "slower":
            outcome, text = "regression", f"slower beyond noise: {_longer(pace)}"
        elif pace.outcome == "faster":
            outcome, text = "better", f"faster beyond noise ({_longer(pace)}): bless the run to hold on to it"
        elif pace.outcome == "same":
            outcome, text = "pass", _longer(pace)
        else:
            text = f"too noisy to tell: {_longer(pace)}"
        yield Check("speed", label, outcome, text, before.ratio, after.ratio, pace.slowdown, held.tol)


def _longer(pace: Pace) -> str:
    return f"takes {100 * pace.slowdown:+.0f} % ({100 * pace.low:+.0f} to {100 * pace.high:+.0f} %) of time"


def _sizes(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "none"
