"""What a comparison comes to, in plain words and by stated rules.

Each answer's rule stands in the docstring of the function that gives it. *Beyond noise* is told in
`reports.comparison.scores`.
"""

from collections.abc import Sequence
from statistics import mean

from reports.comparison.captions import CaptionChanges
from reports.comparison.explanations import ExplanationComparison, Gaze
from reports.comparison.machines import SLOWER, PaceRow, SpeedComparison
from reports.comparison.runs import ComparedRun
from reports.comparison.scores import MetricTest, Pair, beats
from reports.tables import count, number, span
from reports.verdict import Finding
from reports.wording import percent
from reports.wording import span as plain_span

CAN_NOT = "Can’t be said"
ALIKE = 0.9
"""Mean cosine of two runs' attention from which they look at the same places, whatever chance gives."""
TOWARDS = 2 / 3
"""The way from chance to 1 from which they do."""
EVEN = 0.95
"""Mean entropy of attention, from 0 to 1, above which it looks at nothing in particular."""
LEVEL = f"No difference beyond {percent(2 * SLOWER)}"
_TOLD = ("CIDEr", "BLEU-4")


def answers(
    first: ComparedRun,
    second: ComparedRun,
    pair: Pair,
    captions: CaptionChanges,
    explained: ExplanationComparison,
    speed: SpeedComparison,
) -> tuple[Finding, ...]:
    """The four questions that a second run beside a first one answers."""
    return (
        _better(first.name, second.name, pair),
        _same_words(first, second, captions),
        _elsewhere(second.name, explained, even=_even(first, second)),
        _faster(first, second, speed),
    )


def _better(first: str, second: str, pair: Pair) -> Finding:
    """Yes if some metric is better beyond noise and none is worse; No, worse the other way round; else Mixed.

    If no metric differs beyond noise, no difference shows.
    """
    question = f"Is “{second}” better than “{first}”?"
    if not pair.tests:
        return Finding(question, CAN_NOT, ("No metric could be compared.",))
    ahead, behind = (
        [test for test in pair.tests if test.outcome == outcome] for outcome in ("better", "worse")
    )
    answer = "Mixed" if ahead else "No difference shows"
    answer = {"better": "Yes", "worse": "No, worse", "level": answer}[beats(pair)]
    told = [test for test in pair.tests if test.metric in _TOLD] or list(pair.tests[:1])
    sentences = [f"{_difference(test)}." for test in told]
    if not ahead and not behind:
        sentences.append(
            f"On {count(told[0].test.n, 'image')}, no difference in {_and([t.metric for t in pair.tests])} is "
            "beyond noise."
        )
    for outcome, tests in (("better", ahead), ("worse", behind)):
        if tests:
            sentences.append(f"Beyond noise it is {outcome} in {_and([test.metric for test in tests])}.")
    return Finding(question, answer, tuple(sentences))


def _difference(found: MetricTest) -> str:
    test = found.test
    if test.low is None or test.high is None:
        return f"{found.metric} {signed(test.difference)}; one image has no interval"
    ends = f"{signed(test.low)} to {signed(test.high)}"
    return f"{found.metric} {signed(test.difference)} ({ends}; corrected p {p_value(found.adjusted_p)})"


def _same_words(first: ComparedRun, second: ComparedRun, captions: CaptionChanges) -> Finding:
    """The share of images that both describe in exactly the same words; never rounded to all or none."""
    question, same = "Do they say the same?", captions.same
    lengths = [
        sum(len(row.words) for row in run.captions.values()) / len(run.captions) for run in (first, second)
    ]
    long = (
        f"Captions have {number(lengths[1], 1)} words on average in “{second.name}”, {number(lengths[0], 1)} in "
        f"“{first.name}”."
    )
    if not captions.changed:
        return Finding(question, "Yes, word for word", (f"All {count(same.n, 'caption')} are the same.",))
    share = (
        f"{percent(same.value)} ({plain_span(same, unit='share')}) of the captions are the same word for word"
    )
    told = [f"{share}; {captions.changed:,} of {same.n:,} changed.", long]
    if captions.metric:
        down, up = (
            sum(d is not None and sign * d > 0 for d in captions.differences.values()) for sign in (-1, 1)
        )
        told.append(f"By {captions.metric}, {down:,} of the changed captions lost and {up:,} gained.")
    return Finding(question, f"{percent(same.value)} the same" if same.value else "Never", tuple(told))


def _elsewhere(second: str, explained: ExplanationComparison, *, even: Sequence[str] = ()) -> Finding:
    """By the cosine of both runs' attention for the same word, between chance and 1.

    *No, at the same places* from `ALIKE`. Else the interval counts of what the cosine exceeds chance by. If it reaches
    down to 0: *Yes, elsewhere* only where its upper end lies below 1 - `TOWARDS` of the way from chance to 1, so that
    more is ruled out; else it *can't be said*. If it lies above 0: *No, at the same places* from `TOWARDS` of that way,
    else *Partly*. Chance is the cosine with the other run's maps of the other words of the same image. What looks at
    nothing, `even`, does not look elsewhere: the answer is then *At nothing in particular*.
    """
    question, gaze = f"Does “{second}” look elsewhere?", explained.gaze
    if gaze is None:
        return Finding(question, CAN_NOT, explained.notes[:2] or ("No maps of attention are stored.",))
    where = f"{count(gaze.words, 'word')} that both say, in {count(gaze.cosine.n, 'image')}"
    value = f"{number(gaze.cosine.value, 2)} ({span(gaze.cosine, digits=2)})"
    answer = "At nothing in particular" if even else _gaze_answer(gaze)
    sentences = [
        *even,
        f"Cosine of both runs’ attention for the same word: {value}; 1 is the same map, "
        f"and maps of other words of the image reach {number(gaze.null, 2)}.",
        f"Measured on {where}.",
    ]
    if gaze.excess.low is None:
        sentences.append("One image has no interval.")
    elif answer == CAN_NOT:
        sentences.append(
            f"It exceeds chance by {number(gaze.excess.value, 2)} ({span(gaze.excess, digits=2)}), which is too wide "
            "an interval to tell chance from a likeness that counts."
        )
    return Finding(question, answer, tuple(sentences))


def _even(*runs: ComparedRun) -> list[str]:
    """Says of which runs attention is spread evenly, by its mean entropy over all captions."""
    told = []
    for run in runs:
        entropies = [
            row.attention_entropy for row in run.captions.values() if row.attention_entropy is not None
        ]
        if entropies and (spread := mean(entropies)) > EVEN:
            told.append(f"“{run.name}” spreads its attention evenly: mean entropy {number(spread, 3)} of 1.")
    return told


def _gaze_answer(gaze: Gaze) -> str:
    if gaze.cosine.value >= ALIKE:
        return "No, at the same places"
    if gaze.excess.low is None or gaze.excess.high is None:
        return CAN_NOT
    if gaze.excess.low <= 0:
        return "Yes, elsewhere" if gaze.excess.high < (1 - TOWARDS) * (1 - gaze.null) else CAN_NOT
    return "No, at the same places" if gaze.excess.value >= TOWARDS * (1 - gaze.null) else "Partly"


def _faster(first: ComparedRun, second: ComparedRun, speed: SpeedComparison) -> Finding:
    """Yes, or No, slower, if a clock of some benchmark says so and none says the opposite; Mixed if both occur.

    `LEVEL` if every clock says that times are the same, else *Too noisy to tell*. They are the same if neither outcome
    occurs and the 90 % interval holds neither a slowdown nor a speed-up of twice `SLOWER`.
    """
    question = f"Is “{second.name}” faster than “{first.name}”?"
    outcomes = {row.pace.outcome for row in speed.rows}
    if not outcomes:
        return Finding(question, CAN_NOT, speed.notes)
    answer = "Too noisy to tell" if "inconclusive" in outcomes else LEVEL
    if "faster" in outcomes:
        answer = "Mixed" if "slower" in outcomes else "Yes"
    elif "slower" in outcomes:
        answer = "No, slower"
    telling = [row for row in speed.rows if row.pace.outcome in ("faster", "slower")]
    told = [f"{row.name}, {row.clock}: {pace_text(row)}." for row in telling]
    if not told:
        slowest, fastest = (f(row.pace.slowdown for row in speed.rows) for f in (max, min))
        names = _and(list(dict.fromkeys(row.name for row in speed.rows)))
        told = [f"Times of {names} differ by {change(fastest)} to {change(slowest)}."]
    return Finding(question, answer, (*told, *speed.notes))


def pace_text(row: PaceRow) -> str:
    """By how much a benchmark's time differs, with its 90 % interval, and what that means."""
    outcome = {
        "same": f"no difference beyond {percent(2 * SLOWER)} shows",
        "slower": "slower beyond noise",
        "faster": "faster beyond noise",
        "inconclusive": "too noisy to tell",
    }[row.pace.outcome]
    ends = f"{change(row.pace.low)} to {change(row.pace.high)}"
    return f"{change(row.pace.slowdown)} of time (90 % interval {ends}), {outcome}".replace("%,", "\u00a0%,")


def change(share: float) -> str:
    """A change as a percentage with its sign."""
    return (
        f"{100 * share:+.0f}\u00a0%".replace("-", "−")
        .replace("+0\u00a0", "0\u00a0")
        .replace("−0\u00a0", "0\u00a0")
    )


def overall(names: Sequence[str], tests: Sequence[Pair], best: Sequence[int]) -> tuple[Finding, ...]:
    """Which runs no other beats.

    A run beats another if it is better beyond noise in some metric and worse in none.
    """
    question = "Which run is best?"
    if not any(pair.tests for pair in tests):
        return (Finding(question, CAN_NOT, ("No metric could be compared.",)),)
    quoted = [f"“{name}”" for name in names]
    if len(best) == len(names):
        return (Finding(question, "None stands out", ("No run beats another beyond noise.",)),)
    if not best:
        return (Finding(question, CAN_NOT, ("Each run is beaten by another.",)),)
    shown = [quoted[place] for place in best]
    beaten = [name for place, name in enumerate(quoted) if place not in best]
    sentence = f"No run beats {_and(shown)}; {_and(beaten)} {'is' if len(beaten) == 1 else 'are'} beaten."
    answer = _and(shown) if len(best) < 4 else f"{len(best)} of {len(names)} runs"
    return (Finding(question, answer, (sentence,)),)


def signed(value: float, digits: int = 3) -> str:
    """With its sign, unless it rounds to 0."""
    text = number(value, digits)
    if not any(digit in text for digit in "123456789"):
        return text.lstrip("−")
    return text if text.startswith("−") else f"+{text}"


def p_value(p: float) -> str:
    """With three decimals; never 0."""
    return f"{p:.3f}" if p >= 0.001 else "below 0.001"


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
