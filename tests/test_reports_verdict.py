"""The sentences that a run is summed up in."""

import dataclasses
import re
from pathlib import Path

import pytest

from reports.explanations import Comparison
from reports.records import MetricRow
from reports.stats import Interval, PairedTest
from reports.store import RunStore
from reports.summary import ALL, CONTENT, Estimate, Summary, summarise
from reports.terminal import as_text, print_run
from reports.verdict import Finding, headline, verdict
from reports.words import WordFound


@pytest.fixture(scope="module")
def summary(finished_run: Path) -> Summary:
    return summarise(RunStore(finished_run))


def found(value: float, low: float | None, null: float | None, ceiling: float | None = None) -> Estimate:
    return Estimate(Interval(value, low, None if low is None else 1.0, 26), null, ceiling)


def answers(summary: Summary) -> list[str]:
    return [finding.answer for finding in verdict(summary)]


def about(findings: tuple[Finding, ...], question: str) -> Finding:
    (finding,) = (finding for finding in findings if question in finding.question)
    return finding


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
    told = headline(summary._replace(agreement=agreement))
    assert about(told, "agree with gradients").answer == answer


def test_without_integrated_gradients_another_grid_method_speaks(summary: Summary) -> None:
    agreement = {
        "grid_gradient": {"cosine": found(0.61, 0.5, null=0.2)},
        "pixel_saliency": {"cosine": found(0.1, 0.0, null=0.2)},
    }
    finding = about(headline(summary._replace(agreement=agreement)), "agree with gradients")
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
    finding = about(headline(summary._replace(paths={"all words": paths})), "account for")
    assert finding.answer == "34\u00a0%"
    assert (
        "36\u00a0% comes through earlier steps and 30\u00a0% through the initial state"
        in finding.sentences[1]
    )


def test_function_words_are_left_out_of_the_share_where_that_is_known(summary: Summary) -> None:
    def paths(now: float) -> dict[str, Estimate]:
        shares = (("share_now", now), ("share_past", 0.1), ("share_init", 0.9 - now))
        return {path: found(share, share - 0.02, None) for path, share in shares}

    both = summary._replace(paths={ALL: paths(0.2), CONTENT: paths(0.5)})
    told = about(headline(both), "account for")
    assert told.answer == "50\u00a0%"
    assert "function words aside" in told.sentences[0]
    assert about(headline(both._replace(paths={ALL: paths(0.2)})), "account for").answer == "20\u00a0%"


def compared(
    measure: str, method: str, difference: float, low: float | None, high: float | None
) -> Comparison:
    test = PairedTest(difference, low, high, 0.01, 0.02, 26, 26)
    return Comparison("a family", measure, method, test, 0.03, 0.5, 130)


def faithful(summary: Summary, *values: float | None) -> Finding:
    difference, low, high = values
    assert difference is not None
    pair = compared("abpc_cells", "grid_integrated_gradients", difference, low, high)
    return about(headline(summary._replace(comparisons=(pair,))), "as faithful as")


@pytest.mark.parametrize(
    ("values", "answer", "sentence"),
    [
        (
            (0.05, 0.01, 0.09), "Less faithful",
            "Attention’s map is less faithful than that of integrated gradients on the grid: "
            "its ABPC (cells) is 0.050 lower (0.010 to 0.090).",
        ),
        (
            (-0.05, -0.09, -0.01), "More faithful",
            "Attention’s map is more faithful than that of integrated gradients on the grid: "
            "its ABPC (cells) is 0.050 higher (0.010 to 0.090).",
        ),
        (
            (0.05, 0.0, 0.1), "No difference shows",
            "On 26 images: its ABPC (cells) differs by −0.050 (−0.100 to 0.000).",
        ),
        (
            (-0.05, -0.11, 0.01), "No difference shows",
            "On 26 images: its ABPC (cells) differs by 0.050 (−0.010 to 0.110).",
        ),
        ((0.05, None, None), "Can’t be said", "One image has no interval."),
    ],
)  # fmt: skip
def test_faithfulness_is_told_by_whether_the_interval_excludes_zero(
    summary: Summary, values: tuple[float | None, ...], answer: str, sentence: str
) -> None:
    told = faithful(summary, *values)
    assert told.answer == answer
    assert told.sentences == (sentence,)


@pytest.mark.parametrize(
    ("random", "gradients", "answer"),
    [
        ((-0.3, -0.4, -0.2), (-0.1, -0.2, -0.05), "Yes"),
        ((-0.3, -0.4, -0.2), (0.1, -0.2, 0.3), "Yes"),
        ((-0.3, -0.4, -0.2), (0.1, 0.05, 0.2), "Partly"),
        ((-0.3, -0.4, -0.2), None, "Partly"),
        ((-0.1, -0.2, 0.0), (-0.1, -0.2, -0.05), "No"),
        ((0.3, 0.2, 0.4), None, "No"),
        ((-0.3, None, None), None, "Can’t be said"),
        (None, (-0.1, -0.2, -0.05), "Can’t be said"),
    ],
)
def test_attention_is_faithful_if_it_beats_chance_and_does_not_fall_behind_gradients(
    summary: Summary,
    random: tuple[float, float | None, float | None] | None,
    gradients: tuple[float, float | None, float | None] | None,
    answer: str,
) -> None:
    pairs = (("random", random), ("grid_integrated_gradients", gradients))
    made = tuple(compared("abpc_cells", method, *values) for method, values in pairs if values)
    assert about(verdict(summary._replace(comparisons=made)), "faithful").answer == answer


def word(text: str, low: float | None) -> WordFound:
    return WordFound(text, Interval(0.5, low, None if low is None else 0.9, 12), None, None)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ([word("a", 0.3), word("b", 0.2), word("c", 0.1), word("d", 0.06)], "“a”, “b”, “c”"),
        ([word("a", 0.06), word("b", 0.05)], "“a”"),
        ([word("a", 0.0), word("b", None)], "No word stands out"),
        ([], "No word stands out"),
    ],
)
def test_a_word_fails_if_it_is_missing_from_references_for_certain(
    summary: Summary, words: list[WordFound], answer: str
) -> None:
    told = about(verdict(summary._replace(words=tuple(words))), "Which words fail")
    assert told.answer == answer
    if words and words[0].missing.low:
        assert told.sentences[0].startswith("No reference has “a” in 50\u00a0% (")
        assert told.sentences[0].endswith("of the 12 pictures that it is said of.")


def test_the_least_true_class_and_the_least_hit_class_are_named(summary: Summary) -> None:
    rows = tuple(
        MetricRow(f"True {name} words", 5, value, "share", True, value - 0.1, 1.0, 26, None)
        for name, value in (("colour", 0.9), ("shape", 0.8))
    )
    assert summary.best is not None
    hits = {name: {"pointing": found(value, 0.1, 0.1)} for name, value in (("colour", 0.7), ("shape", 0.6))}
    planted = change(summary, metrics=(*summary.record.metrics, *rows))
    planted = planted._replace(best=dataclasses.replace(summary.best, beam_size=5), attention_by_class=hits)
    sentences = about(verdict(planted), "Which words fail").sentences
    assert "Least often true of the picture: shape words, 80\u00a0% (70 to 100\u00a0%)." in sentences
    assert "Attention misses most often on shape words: it hits 60\u00a0% (10 to 100\u00a0%)." in sentences


@pytest.mark.parametrize(
    ("pairs", "answer"),
    [
        ([("auc", -0.3, -0.4, -0.2)], "Yes"),
        ([("auc", 0.3, 0.2, 0.4)], "No, the centre is better"),
        ([("auc", -0.1, -0.2, 0.0)], "Not shown"),
        ([("auc", -0.1, -0.2, 0.1), ("mass", -0.3, -0.4, -0.2)], "Not shown"),
        ([("abpc_cells", -0.3, -0.4, -0.2), ("mass", 0.3, 0.2, 0.4)], "No, the centre is better"),
        ([("abpc_cells", -0.3, -0.4, -0.2)], "Yes"),
        ([("deletion_cells", 0.3, 0.2, 0.4)], "Can’t be said"),
        ([("auc", -0.3, None, None)], "Can’t be said"),
    ],
)
def test_the_centre_is_beaten_in_auc_else_mass_else_abpc(
    summary: Summary, pairs: list[tuple[str, float, float | None, float | None]], answer: str
) -> None:
    made = tuple(compared(measure, "centre", *rest) for measure, *rest in pairs)
    assert about(headline(summary._replace(comparisons=made)), "centre").answer == answer


@pytest.mark.parametrize(
    ("lost", "answer"),
    [((0.18, 0.15), "18.0 points"), ((0.01, 0.0), "Nothing that shows"), ((0.18, None), "Can’t be said")],
)
def test_attention_is_needed_where_shuffling_it_costs_probability(
    summary: Summary, lost: tuple[float, float | None], answer: str
) -> None:
    trial = {CONTENT: {"permute_drop": found(*lost, None), "uniform_drop": found(0.1, 0.05, None)}}
    told = about(headline(summary._replace(trial=trial)), "shuffled")
    assert told.answer == answer
    if answer == "18.0 points":
        assert told.sentences == (
            "A word that is no function word loses 18.0 (15.0 to 100.0) points of its probability; with the same "
            "weight on every cell 10.0.",
        )


def test_a_headline_that_data_do_not_carry_gives_the_reason(summary: Summary) -> None:
    bare = summary._replace(comparisons=(), trial={}, paths={}, agreement={})
    assert [finding.answer for finding in headline(bare)] == ["Can’t be said"] * 5
    no_centre = bare._replace(methods=tuple(m for m in summary.methods if m.name != "centre"))
    assert about(headline(no_centre), "centre").sentences == ("The method “centre” was not run.",)
    struck = bare._replace(struck={"grid_integrated_gradients": "its sum misses"})
    assert about(headline(struck), "as faithful as").sentences == (
        "Integrated gradients (grid) is left out: its sum misses.",
    )


def test_attention_that_fails_a_gate_is_not_spoken_of(summary: Summary) -> None:
    struck = summary._replace(struck={"attention": "its rows depend on each other"}, comparisons=())
    told = (*verdict(struck)[1:3], *headline(struck)[:4])
    assert [finding.answer for finding in told] == ["Can’t be said"] * 6
    assert all("Attention is left out: its rows depend" in finding.sentences[0] for finding in told)


def test_a_method_that_is_struck_out_does_not_speak_for_agreement(summary: Summary) -> None:
    struck = summary._replace(struck={"grid_integrated_gradients": "its sum misses"})
    told = about(headline(struck), "agree with gradients")
    assert told.sentences[0].startswith("Cosine with Gradient (grid)")


def test_a_run_without_explanations_has_no_headline(summary: Summary) -> None:
    assert headline(summary._replace(methods=())) == ()


def test_captions_are_judged_by_truth_where_it_is_known(summary: Summary) -> None:
    told = verdict(summary._replace(true_words=Interval(0.94, 0.9, 0.97, 26)))[0]
    assert told.answer == "94\u00a0% true"
    sentence = "94\u00a0% (90 to 97\u00a0%) of the words that can be checked are true of the picture."
    assert sentence in told.sentences


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
    bare = change(summary, explanations=None)._replace(methods=(), localisation={}, faithfulness={})
    assert answers(bare)[1:3] == ["Can’t be said"] * 2
    assert all("`--explain 64` does" in finding.sentences[0] for finding in verdict(bare)[1:3])


def test_a_run_without_scores_says_why(summary: Summary) -> None:
    row = MetricRow("CIDEr", 1, None, "0 to 10", True, None, None, 0, "no caption was made")
    finding = verdict(change(summary, metrics=(row,))._replace(best=None))[0]
    assert (finding.answer, finding.sentences) == ("Can’t be said", ("Not scored: no caption was made.",))


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
    assert "What does a word lose when its attention is shuffled?" in text
    assert text.count("How much of a word’s evidence") == 1
    assert re.search(r"Attention +0\.9\d\d +0\.\d{3} +0\.\d{3} +–", text)
    assert re.search(r"Guided backprop \(pixels\) +struck out: its maps equal", text)
    assert "signature: bleu|tok:ptb" in text


def test_the_terminal_obeys_no_control_character_of_a_stranger(summary: Summary) -> None:
    hostile = "\x1b[2J\x07\r\n\u202egnihtyna\u2028"
    text = as_text(change(summary, name=hostile, warnings=(hostile,)))
    assert not set("\x1b\x07\r\u202e\u2028") & set(text)
    assert text.startswith("\ufffd[2J\ufffd")
