"""The page of a comparison, made from run directories alone; compare.json and compare.md are written beside it."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from reports.comparison import figures, tables
from reports.comparison.compare import Comparison, compare
from reports.comparison.markdown import as_markdown
from reports.comparison.output import as_json, shown_ids, told_ids
from reports.comparison.runs import ComparedRun
from reports.comparison.scores import ALPHA
from reports.gallery import Gallery, Wanted, explained_images, gallery, listed
from reports.page import Page, render
from reports.records import RunError
from reports.samples import Variant
from reports.store import write_atomically
from reports.summary import struck_methods


def write_comparison(
    runs: Sequence[str],
    out: Path,
    *,
    beam_size: int | None = None,
    images: Wanted = Wanted(),  # noqa: B008 - never changed
    with_paths: bool = False,
    command: str = "",
) -> Comparison:
    """Compares runs and writes a page, and beside it the same as JSON and as Markdown.

    Args:
        runs: two to eight directories, each maybe with @K for its beam size; the first is what others stand beside.
        out: the page; the other files have its stem.
        beam_size: of runs that name none; None for the largest that all have.
        images: how many pictures the sample browser shows.
        with_paths: whether absolute paths are shown, which name users and machines.
        command: what makes this comparison again.

    Returns:
        What was found; `RunError` if the runs can't be compared or the files would take the place of others, and then
        nothing is written.
    """
    _check_out(out)
    comparison = compare(runs, beam_size=beam_size, with_paths=with_paths, command=command)
    shown = shown_ids(with_paths=with_paths)
    files = {
        out: render_comparison(comparison, images=images, with_paths=with_paths).html,
        out.with_suffix(".json"): as_json(comparison, shown=shown),
        out.with_suffix(".md"): as_markdown(comparison, shown=shown),
    }
    for path, text in files.items():
        with write_atomically(path) as file:
            file.write(text.encode())
    return comparison


def _check_out(out: Path) -> None:
    """Raises `RunError` if the page is no file of its own, or would lie in a run."""
    given, wanted = f"the page is to be written to {out}", "give the path of a .html file outside of runs"
    if not out.name or out.is_dir():
        raise RunError(f"{given}, which is no name of a file; {wanted}")
    if out.suffix.lower() in (".json", ".md"):
        raise RunError(f"{given}, where the comparison’s {out.suffix} file would take its place; {wanted}")
    if (out.parent / "run.json").exists():
        raise RunError(f"{given}, in the directory of a run, whose files it could replace; {wanted}")


def render_comparison(
    comparison: Comparison,
    *,
    images: Wanted = Wanted(),  # noqa: B008 - never changed
    with_paths: bool = False,
) -> Page:
    """The page as text; an equal comparison gives the same text."""
    ids = told_ids(comparison, shown_ids(with_paths=with_paths))
    figure = figures.differences(comparison)
    browser = _gallery(comparison, images, ids)
    return render(
        "compare.html.j2",
        gallery=browser,
        listed=len(browser.listed),
        comparison=comparison,
        names=[run.name for run in comparison.runs],
        warnings=[*comparison.warnings, *comparison.left_out],
        alpha=ALPHA,
        tests=sum(len(pair.tests) for pair in comparison.pairs),
        shown_id=ids.__getitem__,
        pictures=_pictures(comparison),
        # Markup is right here: matplotlib drew the figure and escaped the labels in it as XML.
        figure=Markup(figure) if figure else None,  # noqa: S704
        scores=tables.scores(comparison),
        others=tables.others(comparison),
        matrices=tables.matrices(comparison),
        swaps=[tables.swaps(against) for against in comparison.against],
        explained=[tables.explained(comparison, against) for against in comparison.against],
        paces=[tables.paces(against) for against in comparison.against],
        decoding=tables.decoding(comparison.runs),
        runs=tables.runs(comparison),
        settings=tables.settings(comparison),
    )


def _pictures(comparison: Comparison) -> dict[str, str]:
    """Of the captions that lost and gained most, in base64; the first run that has a picture gives it."""
    shown = [
        row.image_id for a in comparison.against for row in (*a.captions.lost, *a.captions.gained)
    ]  # fmt: skip
    found: dict[str, bytes] = {}
    for run in comparison.runs:
        found |= run.store.read_thumbs(i for i in dict.fromkeys(shown) if i not in found)
    return {image_id: base64.b64encode(jpeg).decode() for image_id, jpeg in found.items()}


def _gallery(comparison: Comparison, wanted: Wanted, ids: Mapping[str, str]) -> Gallery:
    """The sample browser, with a take for each run, the second beside the first."""
    infos, ranking = [run.record.explanations for run in comparison.runs], _ranking(comparison)
    variants = [_variant(run) for run in comparison.runs]
    resolutions = dict.fromkeys(info.resolution for info in infos if info and info.resolution)
    return gallery(
        variants,
        listed(comparison.image_ids, ranking, explained_images(variants), wanted),
        noun="run",
        start=1,
        base=0,
        ranking=ranking,
        wanted=wanted,
        resolution=" ".join(resolutions) or None,
        shown_id=ids.__getitem__,
        more=f"{comparison.command} --images all" if comparison.command else None,
    )


def _variant(run: ComparedRun) -> Variant:
    info = run.record.explanations
    rows = run.store.read_attributions() if info and info.beam_size == run.beam_size else None
    struck: dict[str, str] = {}
    if info and rows is not None:
        rows = rows[rows["beam_size"] == run.beam_size]
        struck = struck_methods(info, rows, run.store.read_sanity())
        rows = rows[rows["image_id"].isin(list(run.captions))]
    return Variant(
        name=run.name,
        store=run.store,
        beam_size=run.beam_size,
        captions=run.captions,
        scores=run.scores,
        attributions=rows,
        methods=info.methods if info and rows is not None else (),
        struck=struck,
        unknown_word=run.record.model.unknown_word if run.record.model else None,
    )


def _ranking(comparison: Comparison) -> list[str]:
    """Images whose captions lost score beside the first run, worst first; then those that gained, best last."""
    worst: dict[str, float] = {}
    for against in comparison.against:
        for image_id, difference in against.captions.differences.items():
            if difference is not None:
                worst[image_id] = min(difference, worst.get(image_id, difference))
    return sorted(worst, key=lambda image_id: (worst[image_id], image_id))
