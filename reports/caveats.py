"""What a reader should know before believing a run's numbers; docstrings state the rules."""

from collections.abc import Collection, Iterator, Sequence

from reports.overview import Overview
from reports.records import FROM_FILE, ImageCounts, MetricRow, RunRecord
from reports.summary import Summary
from reports.tables import count
from reports.wording import beam, clip, measured, percent

# Trained on COCO's photographs, which have the highest published scores: BLEU-4 0.449 and CIDEr 1.549 on Karpathy's
# test split, OFA, Wang et al. 2022, arXiv:2202.03052; Xu et al. 2015, arXiv:1502.03044, table 1, has BLEU-4 0.243.
_PUBLISHED = {"BLEU-4": (0.6, "0.45"), "CIDEr": (3.0, "1.5")}
_PERFECT = 0.999
_COPIED = 0.5
_UNKNOWN = 0.05
_SAME_CAPTION = 0.25
_FEWEST_REPEATS = 3
_COLLAPSED = 0.5
_COLLAPSE_TOLD = "attention is the same for every word"
_FEW_IMAGES = 100


def caveats(summary: Summary, overview: Overview | None = None) -> Iterator[str]:
    """What a reader should know before believing the numbers, one plain sentence each, the gravest first.

    Args:
        summary: of a run.
        overview: of this run; without it, a caption that is said of many images is found only where there are
            hardly any different ones.

    Yields:
        The sentences, none twice.
    """
    record = summary.record
    yield from dict.fromkeys((
        *_progress(record),
        *_too_good(record),
        *_degenerate(record, overview),
        *_few(record),
        *_not_computed(summary),
        *_uncommitted(record),
        *record.data.warnings,
        *record.warnings,
        *record.scoring_warnings,
    ))  # fmt: skip


def unread(images: ImageCounts) -> str:
    """How many pictures of a run could not be read, in a sentence."""
    scored = f": scores are over the other {images.done:,}" if images.done else ""
    return f"{images.failed:,} of {images.expected:,} pictures could not be read{scored}."


def _uncommitted(record: RunRecord) -> Iterator[str]:
    git = record.provenance.git
    if git is not None and git.dirty:
        yield f"The code had changes that are in no commit, so that {git.commit[:10]} does not say what ran."


def _progress(record: RunRecord) -> Iterator[str]:
    """Whatever keeps the run from being whole."""
    images, missing = record.images, record.data.missing
    if record.status != "finished":
        yield f"This run is {record.status}: {images.done:,} of {images.expected:,} images are done."
    if images.done == 0:
        yield "No image was captioned; there is nothing to judge."
    if images.failed:
        yield unread(images)
    if missing:
        yield f"Pictures that the captions name but that are not there: {len(missing):,}."


def _too_good(record: RunRecord) -> Iterator[str]:
    """BLEU-4 above 0.999 is told of everywhere; where truth is not known, scores far above all that was published, too.

    So is half of the captions, or more, equalling a reference.
    """
    perfect = [row for row in _rows(record, "BLEU-4") if (row.value or 0.0) > _PERFECT]
    if perfect and record.data.has_ground_truth:
        yield (
            f"BLEU-4 is {_values(perfect)}: the sentences of this data set follow rules that a model can learn to the "
            "last word, so expect no such score on photographs."
        )
    if record.data.has_ground_truth:
        return
    if perfect:
        yield (
            f"BLEU-4 is {_values(perfect)}: on real pictures this means that the references were scored against "
            "themselves, or that the model has seen them."
        )
        return
    for name, (limit, published) in _PUBLISHED.items():
        if high := [row for row in _rows(record, name) if (row.value or 0.0) >= limit]:
            yield (
                f"{name} is {_values(high)}, far above the best published on photographs, about {published}: check "
                "whether the model has seen these references."
            )
    if copied := [row for row in _rows(record, "Exact match") if (row.value or 0.0) >= _COPIED]:
        yield (
            f"{_values(copied, 'captions')} equal a reference word for word: check whether references were scored "
            "against themselves."
        )


def _degenerate(record: RunRecord, overview: Overview | None) -> Iterator[str]:
    """Captions that were cut off; unknown words above 5 %; the same caption, or the same map, again and again."""
    if unfinished := [row for row in _rows(record, "Unfinished captions") if row.value]:
        yield f"{_values(unfinished, 'captions')} reached the length limit unfinished."
    if unknown := [row for row in _rows(record, "Unknown words") if (row.value or 0.0) > _UNKNOWN]:
        yield f"{_values(unknown, 'words')} are the unknown word: the vocabulary does not fit these pictures."
    yield from _same_caption(record, overview)
    still = [row for row in _rows(record, "Collapsed attention") if (row.value or 0.0) > _COLLAPSED]
    if still and not any(_COLLAPSE_TOLD in warning for warning in record.scoring_warnings):
        yield f"Attention is the same for every word in {_values(still, 'captions')}; its maps explain nothing."


def _same_caption(record: RunRecord, overview: Overview | None) -> Iterator[str]:
    """A caption of a quarter of the images, and of three at least, at the beam size where that share is largest.

    Where captions are not given it is certain only if there are at most four different ones.
    """
    common = [
        (times / captions, size, caption)
        for size, (caption, times, captions) in (overview.common if overview else {}).items()
        if times >= max(_FEWEST_REPEATS, _SAME_CAPTION * captions)
    ]
    if common:
        share, size, caption = max(common)
        which = f"“{clip(caption, 120)}”" if caption.strip() else "A caption without a word"
        yield f"{which} is said of {percent(share)} of the images{_at([size])}: the captions may have collapsed."
    if overview and overview.is_captioned():
        return
    for few in _rows(record, "Distinct captions"):
        different = round((few.value or 0.0) * few.n)
        if different * _SAME_CAPTION <= 1 and few.n > _FEWEST_REPEATS / _SAME_CAPTION:
            told = f"{count(different, 'different caption')} for {few.n:,} images{_at([few.beam_size])}"
            yield f"There {'is' if different == 1 else 'are'} only {told}: the captions may have collapsed."


def _few(record: RunRecord) -> Iterator[str]:
    """Fewer than 100 images; a single reference for each."""
    done = record.images.done
    if 0 < done < _FEW_IMAGES:
        yield (
            f"This run covers only {count(done, 'image')}: intervals are wide, and small differences can’t be told "
            "from noise."
        )
    if record.data.references_per_image == (1, 1):
        yield "There is one reference for each image: scores come out lower and noisier than with the usual five."


def _not_computed(summary: Summary) -> Iterator[str]:
    """Metrics without a value, and methods that are struck out."""
    metrics = summary.record.metrics
    for name, reason in dict.fromkeys((row.name, row.reason) for row in metrics if row.value is None):
        yield f"{name} was not computed: {reason or 'no reason was stored'}."
    labels = {method.name: method.label for method in summary.methods}
    for name, reason in summary.struck.items():
        yield f"{labels[name]} is struck out and not ranked: {reason}."


def _rows(record: RunRecord, name: str) -> list[MetricRow]:
    return sorted(
        (row for row in record.metrics if row.name == name and row.value is not None),
        key=lambda row: row.beam_size,
    )


def _values(rows: Sequence[MetricRow], whole: str = "") -> str:
    """The values and where they are: "25 % of captions at beam size 1 and 12 % at beam sizes 3 and 5"."""
    sizes: dict[str, list[int]] = {}
    for row in rows:
        sizes.setdefault(measured(row.value or 0.0, row.unit), []).append(row.beam_size)
    of = [f" of {whole}" if whole else "", *[""] * (len(sizes) - 1)]
    *first, last = (
        f"{value}{part}{_at(found)}" for part, (value, found) in zip(of, sizes.items(), strict=True)
    )
    return f"{', '.join(first)} and {last}" if first else last


def _at(sizes: Collection[int]) -> str:
    if FROM_FILE in sizes:
        return ""
    if len(sizes) == 1:
        return f" at {beam(next(iter(sizes)))}"
    *first, last = sizes
    return f" at beam sizes {', '.join(map(str, first))} and {last}"
