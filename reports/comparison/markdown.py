"""A comparison as Markdown, to be pasted into a pull request.

Names, captions and settings come from strangers. None of them can end a line, a cell or an element.
"""

from collections.abc import Iterable, Mapping, Sequence

from reports.comparison.compare import Against, Comparison
from reports.comparison.output import Shown, matrix, matrix_cell, score_rows, told_ids
from reports.comparison.runs import ComparedRun
from reports.comparison.words import Change
from reports.tables import number
from reports.verdict import Finding
from reports.wording import beam, defused, printable

MOST_MARKDOWN = 60_000
"""Bytes of compare.md; a comment on GitHub holds 65,536 characters."""
SHOWN_LOSSES = 5
"""Captions in the list of those that lost most."""


def as_markdown(comparison: Comparison, *, shown: Shown = printable) -> str:
    """What one pastes into a pull request: verdict, scores, who beats whom, the captions that lost most."""
    names, ids = [run.name for run in comparison.runs], told_ids(comparison, shown)
    lines = [f"### gazebench compare: {' · '.join(map(defused, names))}", ""]
    for finding in comparison.verdict:
        lines += [_bullet(finding)]
    for against in comparison.against:
        lines += ["", f"**{defused(names[against.run])}** beside {defused(names[0])}", ""]
        lines += [_bullet(finding) for finding in against.verdict]
    lines += ["", *_markdown_scores(comparison)]
    if len(names) > 2:
        lines += ["", *_markdown_matrix(comparison)]
    for against in comparison.against:
        lines += _markdown_losses(comparison, against, ids)
    if comparison.warnings or comparison.left_out:
        lines += ["", "**Warnings**", ""]
        lines += [f"- {defused(text)}" for text in (*comparison.warnings, *comparison.left_out)]
    lines += [
        "",
        f"<sub>{len(comparison.image_ids):,} images; {_beams(comparison.runs)}. Intervals are 95 % over images, "
        "p-values of the two-sided sign-flip test, corrected by Holm over all pairs and metrics here.</sub>",
    ]
    return _cut(lines)


def _cut(lines: Sequence[str]) -> str:
    text, left = "", MOST_MARKDOWN - 100
    for line in lines:
        left -= len(line.encode()) + 1
        if left < 0:
            return f"{text}\n… and more: see the page\n"
        text += f"{line}\n"
    return text


def _bullet(finding: Finding) -> str:
    told = " ".join(finding.sentences)
    return f"- {defused(finding.question)} **{defused(finding.answer)}.** {defused(told, 600)}"


def _beams(runs: Sequence[ComparedRun]) -> str:
    sizes = {run.beam_size for run in runs}
    if len(sizes) == 1:
        return beam(runs[0].beam_size)
    return "; ".join(f"{defused(run.name)}: {beam(run.beam_size)}" for run in runs)


def _markdown_scores(comparison: Comparison) -> list[str]:
    head = (
        "metric", "run", "value (95 %)", "difference", "95 % interval", "corrected p", "effect", "images", "",
    )  # fmt: skip
    rows = [_row(head), _row("---" for _ in head)]
    rows += [_row(map(defused, cells)) for cells in score_rows(comparison)]
    return rows if comparison.metrics else ["No metric could be compared."]


def _markdown_matrix(comparison: Comparison) -> list[str]:
    names, lines = [defused(run.name) for run in comparison.runs], []
    for metric in comparison.metrics[:1]:
        lines += [
            f"**Who beats whom in {defused(metric.name)}**: each row beside each column", "",
            _row(["", *names]), _row("---" for _ in range(len(names) + 1)),
        ]  # fmt: skip
        for name, cells in zip(names, matrix(comparison, metric.name), strict=True):
            lines.append(_row([name, *map(matrix_cell, cells)]))
    return lines


def _markdown_losses(comparison: Comparison, against: Against, ids: Mapping[str, str]) -> list[str]:
    found = against.captions
    if not found.lost:
        return []
    name = defused(comparison.runs[against.run].name)
    head = ("image", found.metric or "", "caption", "a reference")
    lines = [
        "",
        f"**Captions of {name} that lost most**",
        "",
        _row(map(defused, head)),
        _row("---" for _ in head),
    ]
    for row in found.lost[:SHOWN_LOSSES]:
        scores = "" if row.scores is None else f"{number(row.scores[0])} → {number(row.scores[1])}"
        reference = row.references[0] if row.references else ""
        lines.append(
            _row([defused(ids[row.image_id], 60), scores, _marked(row.changes), defused(reference, 160)])
        )
    return lines


def _marked(changes: Iterable[Change]) -> str:
    """Both captions in one line, words that went and words that came being marked."""
    parts = []
    for change in changes:
        before, after = (defused(" ".join(words), 160) for words in (change.before, change.after))
        if change.kind == "same":
            parts.append(before)
        else:
            parts += [f"<del>{before}</del>"] if change.before else []
            parts += [f"<ins>{after}</ins>"] if change.after else []
    return " ".join(parts)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
