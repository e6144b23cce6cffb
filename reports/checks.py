"""Tables of what methods, captions and measures were put to: gates, sanity, comparisons, interventions, the audit."""

from collections.abc import Mapping, Sequence

from reports.audit import Audit
from reports.explanations import GATES, VETO_ABOVE, Comparison, Intervention, Sanity, Similarity
from reports.legend import MEASURES, arrow, measure_of
from reports.records import GateRow, MethodInfo
from reports.stats import Interval
from reports.summary import Summary
from reports.tables import EMPTY, Cell, Grid, Row, count, number, span
from reports.wording import percent


def gates(summary: Summary) -> Grid | None:
    """One line per method that was checked, one column per gate; None if none was."""
    gates = summary.record.explanations.gates if summary.record.explanations else ()
    labels = {m.name: m.label for m in summary.methods}
    by_method: dict[str, dict[str, GateRow]] = {}
    for row in gates:
        by_method.setdefault(row.method, {})[row.gate] = row
    if not by_method:
        return None
    names = [gate for gate in GATES if any(gate in found for found in by_method.values())]
    rows = [
        Row(labels.get(name, name), tuple(_gate(found.get(gate)) for gate in names), summary.struck.get(name))
        for name, found in by_method.items()
    ]
    caption = "Gates: what a method must pass before it is ranked. A method that fails one is struck out"
    columns = tuple(Cell(name[:1].upper() + name[1:]) for name in names)
    return Grid(caption, "Method", columns, {"": rows})


def _gate(row: GateRow | None) -> Cell:
    if row is None:
        return EMPTY
    if row.passed is None:
        return Cell("n/a", (row.reason or "it does not apply",))
    value = [] if row.value is None else [f"{row.value:.1g}"]
    bound = [] if row.limit is None else [f"limit {row.limit:.1g}"]
    lines = (" · ".join((*value, *bound)), count(row.n, "word"))
    return Cell("✓ passes" if row.passed else "✗ fails", tuple(line for line in lines if line))


def sanity_checks(summary: Summary) -> list[Grid | None]:
    """The cascade, the stages one by one, and the checks that have a single stage; empty if none was made."""
    if summary.sanity is None:
        return []
    sane = summary.sanity
    labels = {m.name: m.label for m in summary.methods}
    captions = {
        "cascade": "Weights made random from the output layer on, stage after stage: how alike a method’s maps stay "
        f"(Spearman, ↓ lower is better). A method fails if more than {VETO_ABOVE} is left at the end; it is no "
        "reason to rank one method above another. n/a: by construction the map can’t depend on what was changed",
        "independent": "Weights of one stage made random, the others kept: how alike maps stay (Spearman)",
    }
    grids: list[Grid | None] = [
        _by_stage(captions[test], sane, test, labels) for test in captions if sane.found.get(test)
    ]
    return [*grids, _single_checks(sane, labels)]


def _by_stage(caption: str, sane: Sanity, test: str, labels: Mapping[str, str]) -> Grid:
    stages, rows = sane.stages[test], []
    for name, found in sane.found[test].items():
        usual = max((similar for similar in found.values()), key=lambda similar: similar.words)
        cells = [_similarity(found[stage], usual.words) if stage in found else EMPTY for stage in stages]
        struck = sane.vetoed.get(name) if test == "cascade" else None
        rows.append(Row(labels[name], (*cells, _words_and_images(usual)), struck))
    columns = (Cell(f"+ {stage}" if test == "cascade" and i else stage) for i, stage in enumerate(stages))
    return Grid(caption, "Method", (*columns, Cell("Measured on")), {"": rows})


def _similarity(found: Similarity, words: int) -> Cell:
    """The number of words stands in the cell only if the row's is another."""
    if found.spearman is None:
        return Cell("n/a", (found.reason or "it was not measured",))
    cosine = (f"cosine {number(found.cosine.value, 2)}",) if found.cosine else ()
    own = () if found.words == words else (count(found.words, "word"),)
    return Cell(number(found.spearman.value, 2), (span(found.spearman, digits=2), *cosine, *own))


def _words_and_images(found: Similarity) -> Cell:
    known = found.spearman or found.entropy_rise
    return Cell(count(found.words, "word"), (count(known.n, "image"),)) if known else EMPTY


def _single_checks(sane: Sanity, labels: Mapping[str, str]) -> Grid | None:
    """The checks that have a single stage."""
    checks = {test: found for test in ("random word", "entropy") if (found := sane.found.get(test))}
    names = [name for name in labels if any(name in found for found in checks.values())]
    if not names:
        return None
    heads = {
        "random word": Cell("A random word", ("how alike its map is (Spearman)", arrow(False))),
        "entropy": Cell(MEASURES["entropy_rise"].label, (arrow(None),)),
    }
    rows = []
    for name in names:
        cells = []
        for found in checks.values():
            similar = next(iter(found.get(name, {}).values()), None)
            if similar is None:
                cells.append(EMPTY)
            elif similar.entropy_rise:
                value, lines = _interval(similar.entropy_rise)
                cells.append(Cell(value, (*lines, count(similar.words, "word"))))
            else:
                cells.append(_similarity(similar, -1))
        rows.append(Row(labels[name], tuple(cells)))
    caption = "Does a map change with the word that is asked for, and grow more complex when all weights are random?"
    return Grid(caption, "Method", tuple(heads[test] for test in checks), {"": rows})


def _interval(found: Interval, digits: int = 2) -> tuple[str, tuple[str, ...]]:
    return number(found.value, digits), (span(found, digits=digits), count(found.n, "image"))


def tampered_captions(found: Mapping[str, Intervention]) -> Grid | None:
    """One line per intervention, captions as they are first; None if there is none."""
    if not found:
        return None
    rows = []
    for name, row in found.items():
        cells = [
            EMPTY if interval is None else Cell(*_interval(interval))
            for interval in (row.cider, row.cider_change)
        ]
        cells += [
            EMPTY
            if interval is None
            else Cell(percent(interval.value), (span(interval, unit="share"), count(interval.n, "image")))
            for interval in (row.words_true, row.changed)
        ]
        rows.append(Row({"none": "as it is"}.get(name, name), tuple(cells)))
    columns = (
        Cell("CIDEr", ("0 to 10", arrow(True))), Cell("Change of CIDEr", ("same images",)),
        Cell("True words", (arrow(True),)), Cell("Captions that change"),
    )  # fmt: skip
    caption = "Captions decoded with attention tampered with at every step: what is left of them?"
    return Grid(caption, "Attention", columns, {"": rows})


def audited_measures(rows: Sequence[Audit]) -> Grid | None:
    """One line per measure; None where the true places are not known."""
    if not rows:
        return None
    lines = [
        Row(
            measure_of(row.measure).label,
            (
                Cell(row.judgement), Cell(f"{row.oracle_rank} of {row.maps}"), Cell(f"{row.noise_rank} of {row.maps}"),
                Cell(
                    percent(row.separation.value),
                    (f"{span(row.separation, unit='share')}, {count(row.separation.n, 'image')}",),
                ) if row.separation else EMPTY,
                Cell("", (row.note,)),
            ),
        )
        for row in rows
    ]  # fmt: skip
    columns = (
        Cell("Judgement"), Cell("True place’s rank", ("1 is best",)), Cell("Noise’s rank", ("last is best",)),
        Cell("True place beats noise", ("share of images", arrow(True))), Cell("Note"),
    )  # fmt: skip
    caption = (
        "Which measures to believe on this data. Believe: no map comes before the true place, and noise before no "
        "explanation. Beware: noise comes before an explanation, which may be the explanation’s fault. Don’t: a map "
        "comes before the true place. Within the 95 % interval maps tie"
    )
    return Grid(caption, "Measure", columns, {"": lines})


def against_attention(summary: Summary, family: str) -> Grid | None:
    """One line per method, one column per measure of the family; None if nothing was compared."""
    pairs = {(c.method, c.measure): c for c in summary.comparisons if c.family == family}
    measures = list(dict.fromkeys(measure for _, measure in pairs))
    names = dict.fromkeys(method for method, _ in pairs)
    if not pairs:
        return None
    labels = {m.name: m.label for m in summary.methods}
    rows = [Row(labels[name], tuple(_comparison(pairs.get((name, m))) for m in measures)) for name in names]
    columns = tuple(Cell(measure_of(m).label, (arrow(measure_of(m).higher_is_better),)) for m in measures)
    caption = (
        f"Each method less attention on the same words, {family}: mean over images with its 95 % interval; p of the "
        f"sign-flip permutation after Holm over these {len(pairs)} tests; effect size from −1 to 1"
    )
    return Grid(caption, "Method", columns, {"": rows})


def _comparison(pair: Comparison | None) -> Cell:
    if pair is None:
        return EMPTY
    test = pair.test
    ends = span(Interval(test.difference, test.low, test.high, test.n))
    p = "p < 0.001" if pair.adjusted_p < 0.001 else f"p {number(pair.adjusted_p)}"
    effect = "" if pair.effect is None else f" · effect {number(pair.effect, 2)}"
    on = f"{count(test.n, 'image')}, {count(pair.words, 'word')}"
    return Cell(f"{test.difference:+.3f}".replace("-", "−"), (ends, p + effect, on))


def kept_completeness(summary: Summary) -> Grid | None:
    """One line per method whose values should sum to a difference of scores; None if there is none."""
    labels = {m.name: m.label for m in summary.methods}
    rows = [
        Row(
            labels[name],
            (
                Cell(percent(found.median)),
                Cell(f"{percent(found.quartiles[0])} to {percent(found.quartiles[1])}"),
                Cell(f"{found.words:,}"), Cell("✓ yes" if found.holds else "✗ no: don’t rank it"),
            ),
        )
        for name, found in summary.completeness.items()
    ]  # fmt: skip
    caption = (
        "Completeness: how far a map’s sum misses the score difference it should add up to, as a share of it "
        f"({arrow(False)})"
    )
    columns = ("Median", "Middle half of words", "Words", "Holds (median under 5 %)")
    return Grid(caption, "Method", tuple(map(Cell, columns)), {"": rows}) if rows else None


def all_methods(methods: Sequence[MethodInfo]) -> Grid | None:
    """What each method and control is, and what it costs; None if there is none."""
    rows = [
        Row(
            m.label,
            (
                Cell(m.resolution if m.kind != "control" else "–"),
                Cell(" ".join(["signed"] * m.signed + ["complete"] * m.complete) or "–"),
                Cell(m.baseline or "–"), Cell("–" if m.steps is None else f"{m.steps:,}"),
                Cell(f"{m.forward:,} / {m.backward:,}"),
                Cell("–" if m.seconds_per_word is None else f"{1000 * m.seconds_per_word:.2g} ms"),
                Cell("", tuple(text for text in (m.note, m.source) if text)),
            ),
        )
        for m in methods
    ]  # fmt: skip
    columns = (
        Cell("Computed on"), Cell("Values"), Cell("Baseline"), Cell("Steps or samples"),
        Cell("Passes a word", ("forward / backward",)), Cell("CPU time a word"), Cell("Note and source"),
    )  # fmt: skip
    return Grid("The methods and controls of this run", "Method", columns, {"": rows}) if rows else None
