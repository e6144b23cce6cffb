"""A run's findings in plain words, each by a rule that the docstring of its function states."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from reports.explanations import PATH_MAPS, Comparison
from reports.legend import measure_of
from reports.records import FROM_FILE, PATHS, MetricRow
from reports.summary import ALL, CONTENT, Estimate, Summary
from reports.wording import beam, clip, measured, number, percent, row_span, span

_CAN_NOT = "Can’t be said"
_REFERENCE, _FAITHFULNESS = "grid_integrated_gradients", "abpc_cells"
_STANDS_OUT = 0.05
_SIGNIFICANT = 0.05
_TRUE = re.compile("True .* words")
_NOTHING = "This run explained no captions; `--explain 64` does."


class Finding(NamedTuple):
    """One question that a run answers."""

    question: str
    answer: str
    sentences: tuple[str, ...]


def verdict(summary: Summary) -> tuple[Finding, ...]:
    """Answers the four questions a run is made for."""
    return _captions(summary), _looks(summary), _is_faithful(summary), _fails(summary)


def _captions(summary: Summary) -> Finding:
    """Answered by the share of true words where the data set knows the truth, else by CIDEr, else by BLEU-4.

    A beam size leads beyond noise if the 95 % interval of its paired lead lies above 0.
    """
    question, best, sentences = "How good are the captions?", summary.best, []
    if best is None or best.value is None:
        reason = next((row.reason for row in summary.record.metrics if row.reason), "no caption was scored")
        return Finding(question, _CAN_NOT, (f"Not scored: {reason}.",))
    answer = f"{best.name} {number(best.value)}"
    at_best = {row.name: row for row in summary.record.metrics if row.beam_size == best.beam_size}
    shown = [
        _with_interval(row)
        for name in ("CIDEr", "BLEU-4")
        if (row := at_best.get(name)) and row.value is not None
    ]
    sentences.append(
        f"{' and '.join(shown)}{_at(best.beam_size)}, over {best.n:,} image{'s'[: best.n != 1]}."
    )
    relations: dict[str, list[str]] = {}
    for size, lead in summary.leads.items():
        how = "beyond noise" if lead.low is not None and lead.low > 0 else "by no more than noise"
        relations.setdefault("leads {}, " + how if lead.value else "is level with {}", []).append(str(size))
    for relation, beams in relations.items():
        sentences.append(f"Beam size {best.beam_size} {relation.format(' and '.join(beams))}.")
    if true := summary.true_words:
        answer = f"{percent(true.value)} true"
        share = f"{percent(true.value)} ({span(true, unit='share')})"
        sentences.append(f"{share} of the words that can be checked are true of the picture.")
    exact = at_best.get("Exact match")
    if exact and exact.value:
        sentences.append(f"{percent(exact.value)} of captions equal one of their references word for word.")
    return Finding(question, answer, tuple(sentences))


def _at(beam_size: int) -> str:
    return "" if beam_size == FROM_FILE else f" at {beam(beam_size)}"


def _with_interval(row: MetricRow) -> str:
    ends = row_span(row)
    return f"{row.name} {number(row.value or 0.0)}{f' ({ends})' if ends else ''}"


def _looks(summary: Summary) -> Finding:
    """By pointing, with `_grade`: Yes from two thirds of the way between chance and the best possible."""
    question, explained = "Does it look where it speaks?", summary.record.explanations
    attention = summary.localisation.get("attention", {})
    pointing = attention.get("pointing")
    if "attention" in summary.struck:
        return Finding(question, _CAN_NOT, (_why_not_compared(summary, "attention", None),))
    if pointing is None:
        why = (explained.reason if explained else None) or "this data set has no regions to compare with"
        return Finding(question, _CAN_NOT, (f"{why[:1].upper()}{why[1:]}." if explained else _NOTHING,))
    marks = [span(pointing.interval, unit="share")]
    marks += [f"chance {percent(pointing.null)}"] if pointing.null is not None else []
    marks += [f"best possible {percent(pointing.ceiling)}"] if pointing.ceiling is not None else []
    hits = percent(pointing.interval.value)
    sentences = [
        f"Attention’s brightest cell lies on what the word names {hits} of the time ({', '.join(marks)})."
    ]
    rows = [(name, row["pointing"]) for name, row in summary.attention_by_class.items() if "pointing" in row]
    if len(rows) > 1:
        shown = [
            f"{name} {percent(found.interval.value)}"
            + (f" (chance {percent(found.null)})" if found.null is not None else "")
            for name, found in rows
        ]
        sentences.append(f"By word class: {', '.join(shown)}.")
    if "mass" in attention and "lift" in attention:
        mass, lift = attention["mass"].interval.value, attention["lift"].interval.value
        sentences.append(
            f"{percent(mass)} of its weight lies there, {number(lift, 1)} times what an even map puts there."
        )
    return Finding(question, _grade(pointing, pointing.ceiling or 1.0, 2 / 3), tuple(sentences))


def _grade(found: Estimate, ceiling: float, enough: float) -> str:
    """No if the interval reaches down to chance; else Yes or Partly, by the way towards the ceiling."""
    if found.null is None or found.interval.low is None:
        return _CAN_NOT
    if found.interval.low <= found.null:
        return "No"
    return "Yes" if found.interval.value - found.null >= enough * (ceiling - found.null) else "Partly"


def _is_faithful(summary: Summary) -> Finding:
    """By ABPC, for every way in which things were taken away, against the random map and all other explanations.

    *Yes* if attention is above the random map beyond noise each way, and no explanation is above attention beyond
    noise in any (95 % interval, and p below .05 after Holm's correction); *No* if it is above the random map in none;
    else, and where there is no other explanation, *Partly*.
    """
    question = "Is its attention faithful?"
    ways = [
        c
        for c in summary.comparisons
        if c.method == "random" and c.measure.startswith("abpc_") and c.test.low is not None
    ]
    if not ways or not summary.methods:
        chance = _comparison(summary, "random", _FAITHFULNESS)
        why = _why_not_compared(summary, "random", chance) if summary.methods else _NOTHING
        return Finding(question, _CAN_NOT, (why,))
    above = [way.measure for way in ways if _ahead(way) > 0]
    kinds = {method.name: method for method in summary.methods}
    others = [
        c
        for c in summary.comparisons
        if c.measure in {way.measure for way in ways}
        and c.method in kinds
        and kinds[c.method].kind != "control"
        if c.test.low is not None
    ]
    better = [c for c in others if _ahead(c) < 0 and c.adjusted_p < _SIGNIFICANT]
    best = len(above) == len(ways) and others and not better
    answer = "No" if not above else "Yes" if best else "Partly"
    more = "more" if len(above) == len(ways) else "no more" if not above else "not always more"
    told = ", ".join(_beside_chance(summary, way) for way in ways)
    sentences = [
        f"Taking away first what it marks, not last, costs a word {more} than with a random map (ABPC, −1 to 1): "
        f"{told}.",
        _more_faithful(better, {name: method.label for name, method in kinds.items()}, among=len(others)),
    ]
    lost = (summary.trial.get(CONTENT) or summary.trial.get(ALL, {})).get("permute_drop")
    if lost and lost.interval.low is not None and lost.interval.high is not None:
        ends = f"{_points(lost.interval.low)} to {_points(lost.interval.high)}"
        sentences.append(
            f"Shuffling it costs {_points(lost.interval.value)} points of a word’s probability ({ends})."
        )
    return Finding(question, answer, tuple(sentences))


def _beside_chance(summary: Summary, way: Comparison) -> str:
    """ABPC of attention with its interval, chance and n."""
    found = summary.faithfulness["attention"][way.measure]
    chance = f", chance {number(found.null, 2)}" if found.null is not None else ""
    value = f"{number(found.interval.value, 2)} ({span(found.interval, digits=2)}{chance}; {_images(way)})"
    return f"by {_operator(way)} {value}".replace("-", "−")


def _more_faithful(better: Sequence[Comparison], labels: Mapping[str, str], *, among: int) -> str:
    by: dict[str, list[str]] = {}
    for found in better:
        by.setdefault(labels[found.method], []).append(_operator(found))
    if by:
        listed = "; ".join(f"{label}, by {' and '.join(ways)}" for label, ways in by.items())
        return f"More faithful than attention, beyond noise: {listed}."
    if among:
        return "No other explanation is more faithful beyond noise."
    return "There is no other explanation to compare it with."


def _operator(compared: Comparison) -> str:
    """How things were taken away, one of `OPERATORS`."""
    return compared.measure.rpartition("_")[2]


def _fails(summary: Summary) -> Finding:
    """Names the words that no reference has in more than `_STANDS_OUT` of the pictures they are said of, for certain.

    Of these the first three, by the lower ends of their 95 % intervals. Beside them the class of words that is least
    often true, where the data set knows, and the class that attention hits least often.
    """
    question = "Which words fail?"
    if not summary.words and summary.best is None:
        return Finding(question, _CAN_NOT, ("No caption was scored.",))
    worst = [w for w in summary.words if w.missing.low is not None and w.missing.low > _STANDS_OUT][:3]
    answer = ", ".join(f"“{clip(w.word, 30)}”" for w in worst) or "No word stands out"
    sentences = [
        f"No reference has “{clip(w.word, 30)}” in {percent(w.missing.value)} ({span(w.missing, unit='share')}) "
        f"of the {w.missing.n:,} pictures that it is said of."
        for w in worst
    ] or [
        f"Going by the references, no word is wrong in clearly more than {percent(_STANDS_OUT)} of its pictures."
    ]
    size = summary.best.beam_size if summary.best else None
    metrics = [row for row in summary.record.metrics if row.beam_size == size and row.value is not None]
    true = [row for row in metrics if _TRUE.fullmatch(row.name)]
    if true:
        least = min(true, key=lambda row: row.value or 0.0)
        value = f"{measured(least.value or 0.0, least.unit)} ({row_span(least)})"
        told = f"Least often true of the picture: {least.name.removeprefix('True ')}, {value}."
        sentences.append(
            "All words that can be checked are true of their picture." if least.value == 1 else told
        )
    hits = {name: row["pointing"] for name, row in summary.attention_by_class.items() if "pointing" in row}
    if len(hits) > 1 and "attention" not in summary.struck:
        name = min(hits, key=lambda name: hits[name].interval.value)
        sentences.append(
            f"Attention misses most often on {name} words: it hits {percent(hits[name].interval.value)} "
            f"({span(hits[name].interval, unit='share')})."
        )
    return Finding(question, answer, tuple(sentences))


def _agrees(summary: Summary) -> Finding:
    """By the cosine with integrated gradients on the grid, with `_grade`: Yes from halfway to 1.

    Where they were not run, or failed a gate, the first other method on the grid speaks.
    """
    question = "Does attention agree with gradients?"
    grid = sorted(
        (m for m in summary.methods if m.kind == "grid" and m.name not in (*PATH_MAPS, *summary.struck)),
        key=lambda m: m.name != _REFERENCE,
    )
    if "attention" in summary.struck:
        return Finding(question, _CAN_NOT, (_why_not_compared(summary, "attention", None),))
    method = next((m for m in grid if "cosine" in summary.agreement.get(m.name, {})), None)
    if method is None:
        why = "No gradient method was run on the attention grid." if summary.methods else _NOTHING
        return Finding(question, _CAN_NOT, (why,))
    found = summary.agreement[method.name]["cosine"]
    chance = f"; attention of other images reaches {number(found.null, 2)}" if found.null is not None else ""
    value = f"{number(found.interval.value, 2)} ({span(found.interval, digits=2)})"
    sentences = (f"Cosine with {method.label}: {value}{chance}.", "Agreement proves neither map right.")
    return Finding(question, _grade(found, 1.0, 1 / 2), sentences)


def _accounts(summary: Summary) -> Finding:
    """The mean share of the full gradient that runs through this step's attended context, over all but function words.

    Over all words where no other share is known.
    """
    question = "How much of a word’s evidence can attention account for?"
    paths = summary.paths.get(CONTENT) or summary.paths.get(ALL, {})
    if "attention" in summary.struck:
        return Finding(question, _CAN_NOT, (_why_not_compared(summary, "attention", None),))
    if not set(PATHS) <= set(paths):
        why = "The gradient’s paths were not measured." if summary.methods else _NOTHING
        return Finding(question, _CAN_NOT, (why,))
    now, past, init = (paths[path].interval for path in PATHS)
    which = "a word’s gradient, function words aside," if CONTENT in summary.paths else "a word’s gradient"
    sentences = (
        f"{percent(now.value)} ({span(now, unit='share')}) of {which} runs through what is attended "
        "to while it is said.",
        f"{percent(past.value)} comes through earlier steps and {percent(init.value)} through the initial "
        "state, which no attention map of this step can show.",
    )
    return Finding(question, percent(now.value), sentences)


def headline(summary: Summary) -> tuple[Finding, ...]:
    """What the explanation benchmark found of attention, in five answers; none if nothing was explained."""
    if not summary.methods:
        return ()
    return (
        _agrees(summary),
        _accounts(summary),
        _as_faithful(summary),
        _beats_centre(summary),
        _on_trial(summary),
    )


def _as_faithful(summary: Summary) -> Finding:
    """By the paired difference in ABPC, cells being replaced, between attention and integrated gradients on the grid.

    *More* or *less* if its 95 % interval excludes 0. If it covers 0 no difference shows, which is no proof of equality:
    the interval says how large a difference may have been missed.
    """
    question = "Is attention as faithful as integrated gradients?"
    found = _comparison(summary, _REFERENCE, _FAITHFULNESS)
    if found is None or found.test.low is None or found.test.high is None:
        return Finding(question, _CAN_NOT, (_why_not_compared(summary, _REFERENCE, found),))
    ahead = _ahead(found)
    answer = {1: "More faithful", -1: "Less faithful", 0: "No difference shows"}[ahead]
    told = {
        1: "Attention’s map is more faithful than that of integrated gradients on the grid",
        -1: "Attention’s map is less faithful than that of integrated gradients on the grid",
        0: f"On {_images(found)}",
    }[ahead]
    return Finding(question, answer, (f"{told}: {_difference(found)}.",))


def _beats_centre(summary: Summary) -> Finding:
    """By the paired difference between attention and a spot in the picture's centre, in AUC.

    In mass where there is no AUC, in ABPC (cells) on data without places. *Yes* or *No, the centre is better* if the
    95 % interval excludes 0, else *Not shown*.
    """
    question = "Does attention beat a spot in the picture’s centre?"
    pairs = (_comparison(summary, "centre", measure) for measure in ("auc", "mass", _FAITHFULNESS))
    found = next(filter(None, pairs), None)
    if found is None or found.test.low is None:
        return Finding(question, _CAN_NOT, (_why_not_compared(summary, "centre", found),))
    answer = {1: "Yes", -1: "No, the centre is better", 0: "Not shown"}[_ahead(found)]
    return Finding(
        question, answer, (f"Attention beside the spot, on {_images(found)}: {_difference(found)}.",)
    )


def _on_trial(summary: Summary) -> Finding:
    """What shuffling this step's attention weights costs, over all but function words; over all where there are none.

    *Nothing that shows* if the 95 % interval of the lost probability reaches down to 0.
    """
    question = "What does a word lose when its attention is shuffled?"
    content = summary.trial.get(CONTENT)
    trial = content or summary.trial.get(ALL, {})
    if "permute_drop" not in trial:
        return Finding(question, _CAN_NOT, ("Attention was not put on trial in this run.",))
    lost = trial["permute_drop"].interval
    if lost.low is None or lost.high is None:
        return Finding(question, _CAN_NOT, ("One image has no interval.",))
    ends = f"{_points(lost.low)} to {_points(lost.high)}"
    which = "A word that is no function word" if content else "A word"
    sentence = f"{which} loses {_points(lost.value)} ({ends}) points of its probability"
    if lost.low <= 0:
        return Finding(question, "Nothing that shows", (f"{sentence}, which may be none.",))
    even = trial.get("uniform_drop")
    more = f"; with the same weight on every cell {_points(even.interval.value)}" if even else ""
    return Finding(question, f"{_points(lost.value)} points", (f"{sentence}{more}.",))


def _points(share: float) -> str:
    return f"{100 * share:.1f}".replace("-", "−")


def _comparison(summary: Summary, method: str, measure: str) -> Comparison | None:
    return next((c for c in summary.comparisons if (c.method, c.measure) == (method, measure)), None)


def _ahead(found: Comparison) -> int:
    """1 if attention is better beyond noise, -1 if it is worse, 0 if the interval covers 0."""
    assert found.test.low is not None
    assert found.test.high is not None
    if found.test.low <= 0 <= found.test.high:
        return 0
    return 1 if (found.test.difference < 0) == measure_of(found.measure).higher_is_better else -1


def _difference(found: Comparison) -> str:
    """How far attention lies above or below, with the interval; with signs where the interval covers 0."""
    label, ahead = measure_of(found.measure).label, -found.test.difference
    ends = sorted((0.0 - (found.test.low or 0.0), 0.0 - (found.test.high or 0.0)))
    if ends[0] <= 0 <= ends[1]:
        shown = [number(value).replace("-", "−") for value in (ahead, *ends)]
        return f"its {label} differs by {shown[0]} ({shown[1]} to {shown[2]})"
    low, high = sorted(map(abs, ends))
    where = "higher" if ahead > 0 else "lower"
    return f"its {label} is {number(abs(ahead))} {where} ({number(low)} to {number(high)})"


def _images(found: Comparison) -> str:
    return f"{found.test.n:,} image{'s'[: found.test.n != 1]}"


def _why_not_compared(summary: Summary, method: str, found: Comparison | None) -> str:
    label = next((m.label for m in summary.methods if m.name == method), None)
    for name, shown in (("attention", "Attention"), (method, label)):
        if shown is not None and name in summary.struck:
            return f"{shown} is left out: {summary.struck[name]}."
    if label is None:
        return f"The method “{method}” was not run."
    if found is not None:
        return "One image has no interval."
    return f"No measure is known of attention and of “{label}” on the same words."
