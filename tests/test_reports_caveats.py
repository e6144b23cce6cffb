"""What a reader is warned of, with a planted run for each warning."""

import dataclasses
from pathlib import Path

import pytest

from reports.caveats import caveats
from reports.overview import Overview
from reports.records import FROM_FILE, CaptionRow, GitState, MetricRow
from reports.store import RunStore
from reports.summary import Summary, summarise

AT_5 = " at beam size 5"
CUT_OFF = "reached the length limit unfinished."


def metric(
    name: str, value: float | None, size: int = 5, *, n: int = 100, reason: str | None = None
) -> MetricRow:
    unit = {"CIDEr": "0 to 10", "BLEU-4": "0 to 1"}.get(name, "share")
    return MetricRow(name, size, value, unit, True, value, value, n, reason)


@pytest.fixture(scope="module")
def sound(finished_run: Path) -> Summary:
    """A run over photographs that nothing is to be said against."""
    summary = summarise(RunStore(finished_run))
    images = dataclasses.replace(summary.record.images, expected=5000, done=5000)
    data = dataclasses.replace(summary.record.data, has_ground_truth=False, references_per_image=(5, 7))
    metrics = [metric("BLEU-4", 0.33), metric("CIDEr", 1.0), metric("Exact match", 0.02)]
    metrics += [metric(name, 0.0) for name in ("Unfinished captions", "Unknown words", "Collapsed attention")]
    metrics.append(metric("Distinct captions", 0.6))
    return change(summary, images=images, data=data, metrics=tuple(metrics))._replace(struck={})


def change(summary: Summary, **fields: object) -> Summary:
    return summary._replace(record=dataclasses.replace(summary.record, **fields))


def told(summary: Summary, *metrics: MetricRow, captions: tuple[CaptionRow, ...] = ()) -> list[str]:
    """What is said of the run with other metrics."""
    planted = change(summary, metrics=metrics) if metrics else summary
    return list(caveats(planted, Overview(captions) if captions else None))


def said(*texts: str, size: int = 5) -> tuple[CaptionRow, ...]:
    return tuple(
        CaptionRow(str(number), size, text, tuple(text.split()), (), None, (), (), True, None)
        for number, text in enumerate(texts)
    )


def test_a_sound_run_has_no_caveats(sound: Summary) -> None:
    assert told(sound) == []
    assert told(sound, captions=said(*(f"a dog and {number} cats" for number in range(12)))) == []


def test_a_run_that_is_not_whole_says_so(sound: Summary) -> None:
    record = sound.record
    images = dataclasses.replace(record.images, done=4000, failed=1000)
    data = dataclasses.replace(record.data, missing=("x", "y"))
    assert told(change(sound, status="interrupted", images=images, data=data)) == [
        "This run is interrupted: 4,000 of 5,000 images are done.",
        "1,000 of 5,000 pictures could not be read: scores are over the other 4,000.",
        "Pictures that the captions name but that are not there: 2.",
    ]
    nothing = dataclasses.replace(record.images, done=0)
    assert told(change(sound, images=nothing)) == ["No image was captioned; there is nothing to judge."]


def test_a_perfect_score_is_not_believed_and_is_told_of_once(sound: Summary) -> None:
    perfect = (
        metric("BLEU-4", 1.0, 1),
        metric("BLEU-4", 1.0, 3),
        metric("CIDEr", 9.0),
        metric("Exact match", 1.0),
    )
    assert told(sound, *perfect) == [
        "BLEU-4 is 1.000 at beam sizes 1 and 3: on real pictures this means that the references were scored against "
        "themselves, or that the model has seen them."
    ]
    drawn = change(sound, data=dataclasses.replace(sound.record.data, has_ground_truth=True))
    (sentence,) = told(drawn, *perfect)
    assert sentence.startswith(
        "BLEU-4 is 1.000 at beam sizes 1 and 3: the sentences of this data set follow rules"
    )


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (metric("BLEU-4", 0.6), f"BLEU-4 is 0.600{AT_5}, far above the best published on photographs, about 0.45"),
        (metric("CIDEr", 3.2), f"CIDEr is 3.200{AT_5}, far above the best published on photographs, about 1.5"),
        (metric("Exact match", 0.5), "50\u00a0% of captions at beam size 5 equal a reference word for word"),
        (metric("BLEU-4", 0.59), None),
        (metric("CIDEr", 2.9), None),
        (metric("Exact match", 0.49), None),
    ],
)  # fmt: skip
def test_scores_far_above_what_was_published_are_doubted_where_truth_is_not_known(
    sound: Summary, row: MetricRow, sentence: str | None
) -> None:
    found = told(sound, row)
    assert [each.partition(":")[0] for each in found] == ([sentence] if sentence else [])
    drawn = change(sound, data=dataclasses.replace(sound.record.data, has_ground_truth=True))
    assert told(drawn, row) == []


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (metric("Unfinished captions", 0.25), f"25\u00a0% of captions{AT_5} {CUT_OFF}"),
        (metric("Unfinished captions", 0.001), f"0.1\u00a0% of captions{AT_5} {CUT_OFF}"),
        (
            metric("Unknown words", 0.08),
            "8\u00a0% of words at beam size 5 are the unknown word: the vocabulary does not fit these pictures.",
        ),
        (metric("Unknown words", 0.05), None),
        (
            metric("Collapsed attention", 0.6),
            "Attention is the same for every word in 60\u00a0% of captions at beam size 5; its maps explain nothing.",
        ),
        (metric("Collapsed attention", 0.5), None),
        (
            metric("Distinct captions", 0.04),
            "There are only 4 different captions for 100 images at beam size 5: the captions may have collapsed.",
        ),
        (
            metric("Distinct captions", 0.01, FROM_FILE),
            "There is only 1 different caption for 100 images: the captions may have collapsed.",
        ),
        (metric("Distinct captions", 0.05), None),
        (metric("Distinct captions", 0.5, n=4), None),
    ],
)  # fmt: skip
def test_captions_that_went_wrong_are_told_of(sound: Summary, row: MetricRow, sentence: str | None) -> None:
    assert told(sound, row) == ([sentence] if sentence else [])


def test_beam_sizes_share_a_sentence(sound: Summary) -> None:
    rows = [
        metric("Unfinished captions", value, size) for size, value in ((5, 0.1), (1, 0.3), (3, 0.1), (2, 0.0))
    ]
    assert told(sound, *rows) == [
        "30\u00a0% of captions at beam size 1 and 10\u00a0% at beam sizes 3 and 5 reached the length limit unfinished."
    ]


@pytest.mark.parametrize(
    ("captions", "sentence"),
    [
        (("a cat",) * 3 + tuple("abcdefghi"), "“a cat” is said of 25\u00a0% of the images at beam size 5"),
        (("a cat",) * 2 + tuple("abc"), None),
        (("a cat",) * 3 + tuple("abcdefghij"), None),
        (("",) * 5, "A caption without a word is said of 100\u00a0% of the images at beam size 5"),
    ],
)
def test_a_caption_of_a_quarter_of_the_images_is_a_collapse(
    sound: Summary, captions: tuple[str, ...], sentence: str | None
) -> None:
    found = told(sound, captions=said(*captions))
    assert [each.partition(":")[0] for each in found] == ([sentence] if sentence else [])


def test_the_beam_size_that_repeats_itself_most_is_named(sound: Summary) -> None:
    rows = said(*("a cat",) * 3, "b", "c", size=1) + said(*("a dog",) * 4, "b", size=3)
    assert told(sound, metric("Distinct captions", 0.01), captions=rows) == [
        "“a dog” is said of 80\u00a0% of the images at beam size 3: the captions may have collapsed."
    ]


def test_few_images_and_single_references_are_told_of(sound: Summary) -> None:
    data = dataclasses.replace(sound.record.data, references_per_image=(1, 1))
    few = dataclasses.replace(sound.record.images, expected=99, done=99)
    assert told(change(sound, images=few, data=data)) == [
        "This run covers only 99 images: intervals are wide, and small differences can’t be told from noise.",
        "There is one reference for each image: scores come out lower and noisier than with the usual five.",
    ]
    some = dataclasses.replace(sound.record.data, references_per_image=(1, 5))
    assert told(change(sound, data=some)) == []


def test_what_was_stored_follows_and_nothing_is_told_twice(sound: Summary) -> None:
    stored = (
        "beam size 5: attention is the same for every word in 60 % of the captions; its maps explain nothing"
    )
    data = dataclasses.replace(sound.record.data, warnings=("the set is small", "a clock jumped"))
    rows = (metric("Collapsed attention", 0.6), metric("METEOR", None, 1, reason="there is no Java"))
    rows += (metric("METEOR", None, 3, reason="there is no Java"), metric("SPICE", None))
    planted = change(sound, data=data, metrics=rows, warnings=("a clock jumped",), scoring_warnings=(stored,))
    struck = {"pixel_integrated_gradients": "its sum misses the score difference by 30 %"}
    assert list(caveats(planted._replace(struck=struck))) == [
        "METEOR was not computed: there is no Java.",
        "SPICE was not computed: no reason was stored.",
        "Integrated gradients (pixels) is struck out and not ranked: its sum misses the score difference by 30 %.",
        "the set is small",
        "a clock jumped",
        stored,
    ]


def test_a_caption_of_any_length_and_kind_fits_into_its_sentence(sound: Summary) -> None:
    (sentence,) = told(sound, captions=said(*("{0} {} %s " + "x" * 5000,) * 3))
    assert sentence.startswith("“{0} {} %s xxx")
    assert len(sentence) < 300


def test_code_that_is_in_no_commit_is_told_of(finished_run: Path) -> None:
    summary = summarise(RunStore(finished_run))
    made = summary.record.provenance
    for dirty in (False, True):
        git = GitState("c0ffee" * 6 + "c0ff", dirty)
        record = dataclasses.replace(summary.record, provenance=dataclasses.replace(made, git=git))
        told = [warning for warning in caveats(summary._replace(record=record)) if "in no commit" in warning]
        assert len(told) == dirty
