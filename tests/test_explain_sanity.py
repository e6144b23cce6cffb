"""Sanity tests: what is randomised, that all comes back, and methods whose answers are known."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from test_explain_gates import VOCABULARY, caption_for, demo_captions, tiny_captioner
from torch import nn

from explain.methods import METHODS, Method
from explain.methods.base import UnexplainableError
from explain.sanity import (
    FIRST_WORDS,
    GROUPS,
    MOST_WORDS,
    RANDOM_WORDS,
    cut,
    entropy_rise,
    randomised,
    sanity,
    stages,
)
from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import ENCODERS, EncoderConfig
from models.preprocessing import Preprocessing

__all__ = ["demo_captions"]

GRADIENT = METHODS["grid_gradient"]
ATTENTION = METHODS["attention"]
SWITCHES = {
    "tutorial": {},
    "paper": {"gate": "vector", "output": "deep", "initial_state": "linear"},
    "bare": {"gate": "none", "initial_state": "zero"},
    "shut": {"gate": "shut"},
    "uniform": {"attention": "uniform"},
    "deeper": {"initial_layers": 2, "attention_layers": 3},
}
BLIND = Method(
    "blind", "Edges as a method", "pixels", "this test", lambda caption: METHODS["edges"].compute(caption)
)


@pytest.fixture(scope="module")
def captioner():
    return tiny_captioner()


@pytest.fixture(scope="module")
def caption(captioner):
    return caption_for(captioner)


def weights_of(captioner):
    return {name: value.clone() for name, value in captioner.state_dict().items()}


def same(a, b):
    return {name for name in a if torch.equal(a[name], b[name])}


def only(rows, **wanted):
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def on_meta(encoder, **switches):
    with torch.device("meta"):
        dim = getattr(ENCODERS[encoder](EncoderConfig(encoder), None), "annotation_dim")  # noqa: B009
        return Captioner(
            EncoderConfig(encoder),
            DecoderConfig(len(VOCABULARY), dim, **switches),
            VOCABULARY,
            Preprocessing(),
        )


@pytest.mark.parametrize(
    ("encoder", "switches"),
    [*((name, {}) for name in ENCODERS), *(("scenes", switches) for switches in SWITCHES.values())],
)
def test_the_stages_are_all_weights_once(encoder, switches):
    captioner = on_meta(encoder, **switches)
    found = [p for stage in stages(captioner) for module in stage.modules for p in module.parameters()]
    unread = ("annotation_projection", "attention_layers", "hidden_projection", "attention_score")
    expected = [
        parameter
        for name, parameter in captioner.named_parameters()
        if switches.get("attention") != "uniform" or name.split(".")[1] not in unread
    ]
    assert len(found) == len(expected)
    assert {id(p) for p in found} == {id(p) for p in expected}


def test_the_stages_run_from_the_output_to_the_first_convolution():
    names = {key: [stage.name for stage in stages(on_meta("resnet18", **SWITCHES[key]))] for key in SWITCHES}
    trunk = [*(f"encoder layer{k}" for k in (4, 3, 2, 1)), "encoder stem"]
    decoder = ["output", "lstm", "gate", "attention", "initial state", "embedding"]
    assert names["tutorial"] == names["paper"] == decoder + trunk
    assert names["bare"] == ["output", "lstm", "attention", "embedding", *trunk]
    assert names["shut"] == [name for name in decoder if name != "gate"] + trunk
    assert names["uniform"] == [name for name in decoder if name != "attention"] + trunk
    for encoder, blocks in (("scenes", 3), ("vgg19", 5)):
        found = [stage.name for stage in stages(on_meta(encoder))]
        assert found == decoder + [f"encoder block{k}" for k in range(blocks, 0, -1)]
    deep = stages(on_meta("resnet18", **SWITCHES["paper"]))[0]
    assert len(deep.modules) == 3


@pytest.mark.parametrize("encoder", ["scenes", "resnet18"])
def test_a_stage_changes_its_own_weights_and_they_all_come_back(encoder):
    captioner = tiny_captioner(encoder, size=64)
    before = weights_of(captioner)
    paths = {id(module): name for name, module in captioner.named_modules()}
    for stage in stages(captioner):
        with randomised(captioner, [stage], seed=1):
            during = weights_of(captioner)
        own = tuple(f"{paths[id(module)]}." for module in stage.modules)
        kept = {name for name in before if not name.startswith(own)}
        statistics = {name for name in before if "running" in name or "tracked" in name}
        assert same(before, during) == kept | statistics
        assert same(before, weights_of(captioner)) == set(before)


def test_weights_come_back_after_an_error_and_nobody_elses_random_numbers_are_touched(captioner):
    before, state = weights_of(captioner), torch.get_rng_state()

    def fail():
        with randomised(captioner, stages(captioner), seed=1):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert same(before, weights_of(captioner)) == set(before)
    assert torch.equal(state, torch.get_rng_state())


def test_a_stage_is_random_in_the_same_way_whatever_is_random_with_it(captioner):
    every = stages(captioner)
    seen = []
    for chosen, seed in ((every, 1), (every[1:2], 1), (every[1:2], 2)):
        with randomised(captioner, chosen, seed=seed):
            seen.append(captioner.decoder.lstm.weight_ih.clone())
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_random_weights_are_those_of_a_new_layer(captioner):
    with randomised(captioner, stages(captioner)[:1], seed=1):
        weight = captioner.decoder.output.weight
        assert weight.abs().max() <= 1 / weight.shape[1] ** 0.5
        norm = captioner.encoder.layers[1]
    with randomised(captioner, stages(captioner)[-1:], seed=1):
        assert torch.equal(norm.weight, torch.ones_like(norm.weight))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.arange(1.0, 65.0))

    def forward(self, features):
        return features * self.factor[:, None, None]


def test_a_layer_that_can_not_reset_itself_is_shuffled():
    captioner = tiny_captioner()
    captioner.encoder.layers.append(Scale())
    factor = captioner.encoder.layers[-1].factor
    deepest = next(stage for stage in stages(captioner) if stage.name.startswith("encoder"))
    with randomised(captioner, [deepest], seed=1):
        assert not torch.equal(factor, torch.arange(1.0, 65.0))
        assert torch.equal(factor.sort().values, torch.arange(1.0, 65.0))
    assert torch.equal(factor, torch.arange(1.0, 65.0))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("encoder", ["scenes", "resnet18"])
def test_copies_of_weights_that_layers_keep_follow_there_and_back(encoder, mode):
    captioner = tiny_captioner(encoder, size=64)
    pictures = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    token_ids = torch.tensor([[5, 3, 9]])

    def see():
        with mode():
            annotations = captioner.encode(pictures)
            return annotations, captioner.word_log_probs(annotations, token_ids)

    before = see()
    with mode(), randomised(captioner, stages(captioner), seed=1):
        during = see()
        twin = copy.deepcopy(captioner)
        with mode():
            annotations = twin.encode(pictures)
            expected = annotations, twin.word_log_probs(annotations, token_ids)
    for there, here, anew, back in zip(before, during, expected, see(), strict=True):
        assert not torch.allclose(there, here, rtol=1e-2)
        assert torch.equal(here, anew)
        assert torch.equal(there, back)


def test_a_method_that_ignores_the_model_stays_alike_in_every_test(caption):
    rows = sanity(caption, [BLIND], seed=0, thorough=True)
    compared = [row for row in rows if row.test != "entropy"]
    assert {row.test for row in compared} == {"cascade", "independent", "random word"}
    assert [row.cosine for row in compared] == pytest.approx([1.0] * len(compared))
    assert [row.spearman for row in compared] == pytest.approx([1.0] * len(compared))
    (entropy,) = only(rows, test="entropy")
    assert entropy.entropy_rise == 0.0
    assert np.isnan(entropy.cosine)


def test_gradients_and_attention_of_the_demo_fall_as_more_of_it_is_random(demo_captions):
    rows = sanity(demo_captions[0], [ATTENTION, GRADIENT], seed=0, thorough=False)
    for method in (ATTENTION, GRADIENT):
        cascade = only(rows, test="cascade", method=method.name)
        assert [row.stage for row in cascade] == list(GROUPS)
        assert [row.order for row in cascade] == [0, 1, 2, 3]
        assert cascade[3].cosine < 0.3
        assert cascade[3].cosine < cascade[1].cosine < 0.9
        assert all(row.words == MOST_WORDS for row in cascade[1:])
        (entropy,) = only(rows, test="entropy", method=method.name)
        assert entropy.entropy_rise > 1.0


def test_rows_that_mean_nothing_for_attention_say_why(caption):
    rows = sanity(caption, [ATTENTION, GRADIENT], seed=0, thorough=True)
    silent = [row for row in rows if row.reason is not None]
    assert [(row.test, row.stage, row.reason) for row in silent] == [
        ("cascade", "output", "attention does not depend on the output layer"),
        ("independent", "output", "attention does not depend on the output layer"),
        ("random word", "none", "attention does not see the word that it is asked about"),
    ]
    assert all(row.method == "attention" and row.words == 0 for row in silent)
    assert all(np.isnan([row.cosine, row.spearman, row.entropy_rise]).all() for row in silent)
    assert all(np.isfinite(row.cosine) for row in rows if row.reason is None and row.test != "entropy")


def test_uniform_attention_is_not_judged():
    captioner = tiny_captioner(attention="uniform")
    rows = sanity(caption_for(captioner), [ATTENTION], seed=0, thorough=True)
    assert {row.reason for row in rows if row.test in ("cascade", "independent")} == {
        "this model looks at every cell alike"
    }
    (entropy,) = only(rows, test="entropy")
    assert entropy.reason == "no word has two maps with an entropy"
    assert np.isnan(entropy.entropy_rise)


def most_telling(caption, count):
    """Of the first words, those that the picture makes likelier by most than the baseline does."""
    token_ids = torch.tensor([caption.token_ids] * 2)
    both = torch.stack([caption.annotations, caption.annotation_baseline])
    with torch.no_grad():
        here, there = caption.captioner.word_log_probs(both, token_ids)
    gains = (here - there)[: min(caption.words, FIRST_WORDS)]
    return gains.argsort(descending=True)[:count].tolist()


def gradient_by_hand(captioner, image, token_ids, step, *, word=None):
    """Norm of the gradient of one word's log-probability at each annotation vector, in float64."""
    model = copy.deepcopy(captioner).double()
    annotations = model._encode(image.double()[None]).detach().requires_grad_()
    read = torch.tensor([token_ids[: step + 1]])
    log_probs = model.decoder(annotations, read, model.vocabulary.start).log_probs
    log_probs[0, step, token_ids[step] if word is None else word].backward()
    return annotations.grad[0].norm(dim=1).numpy()


def cosine_and_spearman(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b), stats.spearmanr(a, b).statistic


def test_a_cascade_is_what_copies_with_random_weights_give(captioner, caption):
    rows = sanity(caption, [GRADIENT], seed=5, thorough=False)
    every = stages(captioner)
    touched = {
        "output": ["output"],
        "recurrence": ["output", "lstm", "initial state", "embedding"],
        "attention": ["output", "lstm", "initial state", "embedding", "gate", "attention"],
        "encoder": [stage.name for stage in every],
    }
    for group, names in touched.items():
        alone = [name for name in names if group == "output" or name not in touched["output"]]
        if group != "recurrence":
            alone = [name for name in alone if group == "output" or name not in touched["recurrence"]]
        if group == "encoder":
            alone = [name for name in alone if name not in touched["attention"]]
        for test, chosen in (("cascade", names), ("independent", alone)):
            with randomised(captioner, [stage for stage in every if stage.name in chosen], seed=5):
                twin = copy.deepcopy(captioner)
            pairs = [
                cosine_and_spearman(
                    *(
                        gradient_by_hand(model, caption.image, caption.token_ids, step)
                        for model in (captioner, twin)
                    )
                )
                for step in most_telling(caption, MOST_WORDS)
            ]
            (row,) = only(rows, test=test, stage=group)
            assert (row.cosine, row.spearman) == pytest.approx(np.mean(pairs, axis=0), rel=1e-3, abs=2e-3)
            assert row.words == MOST_WORDS


def test_attention_of_a_random_model_is_where_that_model_looks(captioner, caption):
    rows = sanity(caption, [ATTENTION], seed=5, thorough=True)
    attention = next(stage for stage in stages(captioner) if stage.name == "attention")
    with randomised(captioner, [attention], seed=5), torch.no_grad():
        token_ids = torch.tensor([caption.token_ids])
        said = captioner.decoder(caption.annotations[None], token_ids, VOCABULARY.start)
    looked = said.alphas[0].double().numpy()
    expected = [
        cosine_and_spearman(caption.alphas[step], looked[step])[0]
        for step in most_telling(caption, MOST_WORDS)
    ]
    (row,) = only(rows, test="independent", stage="attention")
    assert row.cosine == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_random_word_is_asked_about_at_the_same_step_after_the_same_words(captioner):
    said = (3, 4, 5, 6, 7, 8, 9, 2)  # all words but the last, which is then the only one to be drawn
    caption = caption_for(captioner, tokens=said, words=7)
    other = len(VOCABULARY) - 1
    (row,) = only(sanity(caption, [GRADIENT], seed=0, thorough=False), test="random word")
    pairs = [
        cosine_and_spearman(
            *(gradient_by_hand(captioner, caption.image, said, step, word=word) for word in (None, other))
        )
        for step in most_telling(caption, RANDOM_WORDS)
    ]
    assert (row.cosine, row.spearman) == pytest.approx(np.mean(pairs, axis=0), rel=1e-3, abs=2e-3)
    assert row.words == RANDOM_WORDS


def test_without_another_word_there_is_no_random_one(captioner):
    caption = caption_for(captioner, tokens=tuple(range(3, len(VOCABULARY))), words=5)
    (row,) = only(sanity(caption, [GRADIENT], seed=0, thorough=False), test="random word")
    assert (row.reason, row.words) == ("the vocabulary has no other word", 0)
    assert np.isnan(row.cosine)


def histogram_entropy_by_hand(values):
    low, high = float(min(values)), float(max(values))
    counts = [0] * 100
    for value in values:
        place = int((float(value) - low) / (high - low) * 100)
        counts[min(place, 99)] += 1
    shares = [count / len(values) for count in counts if count]
    return -sum(share * np.log(share) for share in shares)


def test_the_rise_of_the_entropy_is_the_formula():
    generator = np.random.default_rng(0)
    peaked, diffuse = generator.random((2, 6, 196)) ** np.array([8, 1])[:, None, None]
    expected = [
        (histogram_entropy_by_hand(b) - histogram_entropy_by_hand(a)) / histogram_entropy_by_hand(a)
        for a, b in zip(peaked, diffuse, strict=True)
    ]
    np.testing.assert_allclose(entropy_rise(peaked, diffuse), expected, rtol=1e-12)
    assert (entropy_rise(peaked, diffuse) > 0).all()
    np.testing.assert_allclose(entropy_rise(3 * peaked - 1, diffuse), expected, rtol=1e-2)


def test_the_rise_of_the_entropy_is_undefined_for_constant_maps():
    maps = np.stack([np.arange(16.0), np.ones(16), np.full(16, np.nan), np.zeros(16)])
    assert np.isnan(entropy_rise(maps, maps[[0, 0, 0, 0]])).tolist() == [False, True, True, True]
    assert np.isnan(entropy_rise(maps[[0, 0, 0, 0]], maps)).tolist() == [False, True, True, True]


def test_the_entropy_is_that_of_quantus():
    quantus = pytest.importorskip(
        "quantus", reason="a cross-check with another library that is not installed"
    )
    maps = np.random.default_rng(0).normal(size=(2, 4, 196))
    before, after = (
        np.array([quantus.functions.complexity_func.discrete_entropy(m, m, n_bins=100) for m in part])
        for part in maps
    )
    np.testing.assert_allclose(entropy_rise(*maps), (after - before) / before, rtol=1e-9)


def test_the_words_compared_are_those_that_need_the_picture_most(captioner):
    said = (3, 4, 5, 6, 7, 8, 9, 2)
    caption = caption_for(captioner, tokens=said, words=7)
    seen = []

    def spy(caption):
        seen.append(caption)
        return torch.arange(caption.words * 16.0).view(caption.words, 16) ** 2, None

    rows = sanity(caption, [Method("spy", "Spy", "grid", "this test", spy)], seed=0, thorough=False)
    assert seen[0].words == max(most_telling(caption, MOST_WORDS)) + 1 <= FIRST_WORDS
    assert {row.words for row in only(rows, test="cascade")} == {MOST_WORDS}


def test_where_the_encoder_is_random_so_is_the_baseline(captioner, caption):
    seen = []

    def spy(caption):
        seen.append(caption)
        with torch.no_grad():
            pictures = torch.stack([caption.image, torch.zeros_like(caption.image)])
            now = caption.captioner.encode(pictures)
        assert torch.allclose(now[0], caption.annotations, atol=1e-5)
        baselines.append(torch.allclose(now[1], caption.annotation_baseline, atol=1e-5))
        return torch.rand(caption.words, 16), None

    baselines = []
    sanity(caption, [Method("spy", "Spy", "grid", "this test", spy)], seed=0, thorough=False)
    kept = [torch.equal(c.annotation_baseline, caption.annotation_baseline) for c in seen]
    #        original, output, recurrence (both ways), attention (both), encoder (both), random words
    assert kept == [True, True, True, True, True, True, False, False, True, True]
    assert baselines == [not value for value in kept]


def test_controls_and_captions_without_words_have_no_rows(captioner, caption):
    silent = caption_for(captioner, tokens=(VOCABULARY.end,), words=0)
    assert sanity(silent, [GRADIENT], seed=0, thorough=False) == []
    assert sanity(caption, [METHODS["uniform"], METHODS["edges"]], seed=0, thorough=False) == []
    rows = sanity(caption, list(METHODS.values())[:3], seed=0, thorough=False)
    assert {row.method for row in rows} == set(list(METHODS)[:3])


def test_a_method_that_can_not_explain_the_model_says_so(caption):
    def refuse(caption):
        raise UnexplainableError("the model is made of clay")

    rows = sanity(caption, [Method("clay", "Clay", "grid", "this test", refuse)], seed=0, thorough=False)
    assert {row.reason for row in rows} == {"the model is made of clay"}
    assert {row.words for row in rows} == {0}


def test_maps_that_vanish_are_counted_out(captioner, caption):
    before = weights_of(captioner)

    def fades(caption):
        """Zero for a model with other weights, but for the first word."""
        maps = torch.arange(16.0).repeat(caption.words, 1)
        if same(before, weights_of(caption.captioner)) != set(before):
            maps[1:] = 0.0
        return maps, None

    rows = sanity(caption, [Method("fades", "Fades", "grid", "this test", fades)], seed=0, thorough=False)
    for row in only(rows, test="cascade"):
        assert (row.words, row.cosine) == (1, pytest.approx(1.0))
    assert [row.words for row in only(rows, test="entropy")] == [1]


def test_rows_depend_on_the_seed_and_nothing_else(caption):
    methods = [ATTENTION, GRADIENT]
    rows = sanity(caption, methods, seed=3, thorough=False)
    torch.manual_seed(1)
    with torch.inference_mode():
        assert str(sanity(caption, methods, seed=3, thorough=False)) == str(rows)
    assert str(sanity(caption, methods, seed=4, thorough=False)) != str(rows)


def test_a_cut_caption_still_says_all_its_words(caption):
    whole = replace(caption, donor_alphas=caption.alphas[::-1].copy(), places=(None,) * caption.words)
    short = cut(whole, 2)
    assert (short.words, len(short.donor_alphas), len(short.places)) == (2, 2, 2)
    assert short.class_alphas is None
    assert short.token_ids == caption.token_ids
    assert np.array_equal(short.alphas, caption.alphas[:2])
