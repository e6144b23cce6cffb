"""The sentences that a run is summed up in."""

import dataclasses
from pathlib import Path

import pytest

from reports.records import MetricRow
from reports.stats import Interval
from reports.store import RunStore
from reports.summary import Completeness, Estimate, Summary, summarise
from reports.terminal import as_text, print_run
from reports.verdict import caveats, verdict


@pytest.fixture(scope="module")
def summary(finished_run: Path) -> Summary:
    return summarise(RunStore(finished_run))


def found(value: float, low: float | None, null: float | None, ceiling: float | None = None) -> Estimate:
    return Estimate(Interval(value, low, None if low is None else 1.0, 26), null, ceiling)


def answers(summary: Summary) -> list[str]:
    return [finding.answer for finding in verdict(summary)]


def change(summary: Summary, **fields: object) -> Summary:
    return summary._replace(record=dataclasses.replace(summary.record, **fields))


@pytest.mark.parametrize(
    ("pointing", "answer"),
    [
        (found(0.90, 0.85, null=0.1, ceiling=1.0), "Yes"),
        (found(0.70, 0.65, null=0.1, ceiling=1.0), "Yes"),
        (found(0.69, 0.65, null=0.1, ceiling=1.0), "Partly"),
        (found(0.40, 0.35, null=0.1, ceiling=0.55), "Yes"),
        (found(0.40, 0.35, null=0.1, ceiling=None), "Partly"),
        (found(0.15, 0.10, null=0.1, ceiling=1.0), "No"),
        (found(0.05, 0.01, null=0.1, ceiling=1.0), "No"),
        (found(0.90, None, null=0.1, ceiling=1.0), "Can’t be said"),
        (found(0.90, 0.85, null=None, ceiling=1.0), "Can’t be said"),
    ],
)
def test_looking_is_graded_between_chance_and_the_ceiling(
    summary: Summary, pointing: Estimate, answer: str
) -> None:
    assert answers(summary._replace(localisation={"attention": {"pointing": pointing}}))[1] == answer


@pytest.mark.parametrize(("cosine", "answer"), [(0.61, "Yes"), (0.59, "Partly"), (0.25, "No")])
def test_agreement_is_graded_from_chance_to_one(summary: Summary, cosine: float, answer: str) -> None:
    agreement = {"grid_integrated_gradients": {"cosine": found(cosine, cosine - 0.05, null=0.2)}}
    assert answers(summary._replace(agreement=agreement))[2] == answer


def test_without_integrated_gradients_another_grid_method_speaks(summary: Summary) -> None:
    agreement = {
        "grid_gradient": {"cosine": found(0.61, 0.5, null=0.2)},
        "pixel_saliency": {"cosine": found(0.1, 0.0, null=0.2)},
    }
    finding = verdict(summary._replace(agreement=agreement))[2]
    assert finding.answer == "Yes"
    assert (
        finding.sentences[0]
        == "Cosine with Gradient (grid): 0.61 (0.50 to 1.00); attention of other images reaches 0.20."
    )


def test_the_share_of_this_step_is_told_in_percent(summary: Summary) -> None:
    paths = {
        p: found(v, v - 0.02, None)
        for p, v in (("share_now", 0.34), ("share_past", 0.36), ("share_init", 0.30))
    }
    finding = verdict(summary._replace(paths={"all words": paths}))[3]
    assert finding.answer == "34\u00a0%"
    assert (
        "36\u00a0% comes through earlier steps and 30\u00a0% through the initial state"
        in finding.sentences[1]
    )


def test_captions_are_judged_by_truth_where_it_is_known(summary: Summary) -> None:
    told = verdict(summary._replace(true_words=Interval(0.94, 0.9, 0.97, 26)))[0]
    assert told.answer == "94\u00a0% true"
    assert (
        told.sentences[0]
        == "94\u00a0% (90 to 97\u00a0%) of the words that can be checked are true of the picture."
    )


def test_captions_are_judged_by_cider_where_truth_is_unknown(summary: Summary) -> None:
    assert answers(summary._replace(true_words=None))[0].startswith("CIDEr ")


@pytest.mark.parametrize(
    ("leads", "sentences"),
    [
        ({1: Interval(0.1, 0.01, 0.2, 26)}, ["Beam size 5 leads 1, beyond noise."]),
        ({1: Interval(0.1, 0.0, 0.2, 26)}, ["Beam size 5 leads 1, by no more than noise."]),
        ({1: Interval(0.1, None, None, 1)}, ["Beam size 5 leads 1, by no more than noise."]),
        (
            {1: Interval(0.3, 0.1, 0.4, 26), 2: Interval(0.2, 0.1, 0.4, 26), 3: Interval(0.0, 0.0, 0.0, 26)},
            ["Beam size 5 leads 1 and 2, beyond noise.", "Beam size 5 is level with 3."],
        ),
    ],
)
def test_a_lead_is_beyond_noise_if_its_interval_excludes_zero(
    summary: Summary, leads: dict[int, Interval], sentences: list[str]
) -> None:
    assert summary.best is not None
    best = dataclasses.replace(summary.best, beam_size=5)
    told = verdict(summary._replace(best=best, leads=leads))[0].sentences
    assert [sentence for sentence in told if sentence.startswith("Beam size")] == sentences


def test_a_data_set_without_regions_says_so(summary: Summary) -> None:
    assert summary.record.explanations is not None
    explained = dataclasses.replace(summary.record.explanations, reason="this data set has no masks")
    finding = verdict(change(summary, explanations=explained)._replace(localisation={}))[1]
    assert (finding.answer, finding.sentences) == ("Can’t be said", ("This data set has no masks.",))


def test_a_run_without_explanations_says_how_to_get_them(summary: Summary) -> None:
    bare = change(summary, explanations=None)._replace(methods=(), localisation={}, agreement={}, paths={})
    assert answers(bare)[1:] == ["Can’t be said"] * 3
    assert all("`--explain 64` does" in finding.sentences[0] for finding in verdict(bare)[1:])


def test_a_run_without_scores_says_why(summary: Summary) -> None:
    row = MetricRow("CIDEr", 1, None, "0 to 10", True, None, None, 0, "no caption was made")
    finding = verdict(change(summary, metrics=(row,))._replace(best=None))[0]
    assert (finding.answer, finding.sentences) == ("Can’t be said", ("Not scored: no caption was made.",))


def test_a_clean_run_has_no_caveats(summary: Summary) -> None:
    assert list(caveats(summary)) == []


def test_each_thing_to_know_is_told(summary: Summary) -> None:
    def metric(name: str, value: float | None, reason: str | None = None) -> MetricRow:
        return MetricRow(name, 5, value, "share", True, None, None, 26, reason)

    record = summary.record
    doubtful = change(
        summary,
        status="interrupted",
        images=dataclasses.replace(record.images, done=0, failed=3),
        data=dataclasses.replace(
            record.data, has_ground_truth=False, missing=("x",), warnings=("the set is small",)
        ),
        metrics=(
            metric("BLEU-4", 1.0),
            metric("Unfinished captions", 0.25),
            metric("METEOR", None, "there is no Java"),
        ),
        warnings=("a clock jumped",),
    )._replace(completeness={"pixel_integrated_gradients": Completeness(0.3, (0.1, 0.5), 90)})
    assert list(caveats(doubtful)) == [
        "This run is interrupted: 0 of 26 images are done.",
        "No image was captioned; there is nothing to judge.",
        "3 of 26 images failed; they are listed under Failures.",
        "Pictures that the captions name but that are not there: 1.",
        "BLEU-4 is 1.000 at beam size 5: on real pictures this means that the references were scored against "
        "themselves, or that the model has seen them.",
        "At beam size 5, 25\u00a0% of captions reached the length limit unfinished.",
        "METEOR was not computed: there is no Java.",
        "Integrated gradients (pixels) misses the score difference it should sum to by 30\u00a0%; "
        "don’t rank it.",
        "the set is small",
        "a clock jumped",
    ]


def test_a_perfect_score_is_believed_where_the_truth_is_known(summary: Summary) -> None:
    row = MetricRow("BLEU-4", 5, 1.0, "0 to 1", True, None, None, 26, None)
    assert list(caveats(change(summary, metrics=(row,)))) == []


def test_the_terminal_shows_verdict_scores_and_notes(
    summary: Summary, example_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_run(RunStore(example_run))
    text = capsys.readouterr().out
    assert text == as_text(summary)
    assert "Does it look where it speaks? Yes." in text
    assert "CIDEr " in text
    assert "0 to 10, ↑ higher is better" in text
    assert "made on cpu" in text
    assert "signature: bleu|tok:ptb" in text


def test_the_terminal_obeys_no_control_character_of_a_stranger(summary: Summary) -> None:
    hostile = "\x1b[2J\x07\r\n\u202egnihtyna\u2028"
    text = as_text(change(summary, name=hostile, warnings=(hostile,)))
    assert not set("\x1b\x07\r\u202e\u2028") & set(text)
    assert text.startswith("\ufffd[2J\ufffd")
