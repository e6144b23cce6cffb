"""Gates: a planted fault for each of them, and the shipped methods on the demo and a residual network."""

import copy
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import GuidedBackprop
from torch import nn

from bench.config import DEMO_CHECKPOINT
from bench.data.scenes import load_scenes
from explain.gates import CAUSALITY_LIMIT, COMPLETENESS_LIMIT, FARTHEST, ROW_LIMIT, gates
from explain.methods import METHODS, Method, pool_to_grid
from explain.methods.base import ExplainedCaption, UnexplainableError
from explain.target import WordScore
from models.captioner import Captioner
from models.decoder import AttentionDecoder, DecoderConfig
from models.encoder import EncoderConfig
from models.formats import load_checkpoint
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("<pad>", "<start>", "<end>", *"abcdefgh"), pad=0, start=1, end=2)
TOKENS = (5, 3, 9, 5, 2)
ATTENTION, GRADIENT = METHODS["attention"], METHODS["grid_gradient"]
QUICK = [ATTENTION, GRADIENT, METHODS["pixel_saliency"], METHODS["pixel_guided_backprop"]]
DEFAULT = [method for method in METHODS.values() if method.group == "default"]


def tiny_captioner(encoder="scenes", *, size=32, **switches):
    """Random weights, of a size that makes words depend on the picture."""
    dim = {"scenes": 80, "resnet18": 512}[encoder]
    config = DecoderConfig(len(VOCABULARY), dim, embedding_dim=6, hidden_dim=8, attention_dim=5, **switches)
    captioner = Captioner(EncoderConfig(encoder, 4), config, VOCABULARY, Preprocessing(size=size))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in captioner.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            gain = 1.5 if name.startswith("encoder") else 3.5
            parameter.copy_(
                0.3 + values / 10 if values.dim() == 1 else gain * values / values[0].numel() ** 0.5
            )
    return captioner.eval()


@torch.no_grad()
def caption_for(captioner, *, image=0, tokens=TOKENS, words=4):
    """A caption of noise."""
    size = captioner.preprocessing.size
    picture, other = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(100 + image))
    annotations = captioner.encode(picture[None])
    said = captioner.decoder(annotations, torch.tensor([tokens]), VOCABULARY.start)
    alphas = said.alphas[0, :words].double().numpy()
    baseline = captioner.encode(other[None])[0]
    return ExplainedCaption(captioner, picture, annotations[0], tokens, alphas, baseline, seed=image)


@pytest.fixture(scope="module")
def captioner():
    return tiny_captioner()


@pytest.fixture(scope="module")
def captions(captioner):
    return [caption_for(captioner, image=image) for image in range(2)]


@pytest.fixture(scope="module")
def demo_captions():
    """Two scenes, and a caption of each that another scene could have, too."""
    captioner = load_checkpoint(DEMO_CHECKPOINT, word_map=None, encoder_weights=None).captioner
    vocabulary = captioner.vocabulary
    scenes = [image for image in load_scenes().images if image.split == "test"][:2]
    pictures = torch.stack([captioner.preprocessing(scene.picture()) for scene in scenes])
    said = [tuple(vocabulary.words.index(word) for word in scene.references[0].split()) for scene in scenes]
    with torch.no_grad():
        annotations = captioner.encode(pictures)
        alphas = [
            captioner.decoder(a[None], torch.tensor([ids]), vocabulary.start).alphas[0].double().numpy()
            for a, ids in zip(annotations, said, strict=True)
        ]
    return [
        ExplainedCaption(
            captioner, picture, a, (*ids, vocabulary.end), alpha, annotations.mean(dim=0), seed=0
        )
        for picture, a, ids, alpha in zip(pictures, annotations, said, alphas, strict=True)
    ]


@pytest.mark.parametrize("name", ["pixel_deep_lift", "pixel_lrp"])
def test_methods_that_are_known_to_be_unsound_miss_their_sums(captions, name):
    row = verdict(captions, METHODS[name], "completeness")
    assert row.passed is False
    assert row.value > 2 * row.limit


def planted(compute, *, kind="grid", **fields):
    return Method("planted", "Planted", kind, "this test", compute, **fields)


def gradients(caption):
    return torch.from_numpy(GRADIENT(caption).maps).flatten(1)


def verdict(captions, method, gate):
    (row,) = [row for row in gates(captions, [method]) if row.gate == gate and row.method == method.name]
    return row


def fails(captions, method):
    return [row.gate for row in gates(captions, [method]) if row.passed is False]


def test_shipped_methods_pass_on_the_demo(demo_captions):
    rows = gates(demo_captions, DEFAULT)
    assert [row for row in rows if not row.passed] == []
    assert all(row.value is not None and row.limit is not None and row.n > 0 for row in rows)
    assert all(row.reason is None for row in rows)
    checked = {(row.method, row.gate) for row in rows}
    for method in DEFAULT:
        assert (method.name, "model unchanged") in checked
        assert ((method.name, "completeness") in checked) == method.complete
        for gate in ("row independence", "causality"):
            assert ((method.name, gate) in checked) == (method.kind in ("grid", "pixels"))
    assert ("pixel_guided_backprop", "hook coverage") in checked
    assert "path sum" in {gate for _, gate in checked}


def test_shipped_methods_pass_on_a_residual_network():
    captioner = tiny_captioner("resnet18", size=64)
    rows = gates([caption_for(captioner, words=2)], DEFAULT)
    assert [row for row in rows if not row.passed] == []


def test_a_map_that_mixes_the_words_of_its_batch_is_not_row_independent(captions):
    def mixed(caption):
        maps = gradients(caption)
        return maps + maps.mean(dim=0), None

    row = verdict(captions, planted(mixed), "row independence")
    assert row.passed is False
    assert row.value > 100 * row.limit
    assert row.limit == ROW_LIMIT
    assert row.n == 4  # two of four words of each caption
    assert row.reason.startswith("its maps change with the words beside them by ")


@pytest.mark.parametrize("kind", ["grid", "pixels"])
def test_the_difference_is_that_of_the_worst_word_over_the_larger_map(captions, kind):
    def mixed(caption):
        maps = torch.ones(caption.words, 16)
        maps[0, 0] = caption.words  # 4, 2 and 1 among all, the first half, and alone
        return maps, None

    row = verdict(captions, planted(mixed, kind=kind), "row independence")
    assert row.value == pytest.approx((4 - 1) / 4)
    assert row.reason == "its maps change with the words beside them by 75 %"


def test_a_map_that_is_sometimes_undefined_is_as_far_off_as_can_be(captions):
    def undefined(caption):
        return torch.full((caption.words, 16), 1.0 if caption.words == 4 else torch.nan), None

    assert verdict(captions, planted(undefined), "row independence").value == FARTHEST
    always = planted(lambda caption: (torch.full((caption.words, 16), torch.nan), None))
    assert verdict(captions, always, "row independence").passed


def test_a_map_that_reads_later_words_fails_causality_and_nothing_else(captions):
    def looks_ahead(caption):
        return gradients(caption) * (1 + caption.token_ids[-2]), None

    row = verdict(captions, planted(looks_ahead), "causality")
    assert row.passed is False
    assert row.limit == CAUSALITY_LIMIT
    assert row.n == 4
    assert row.reason.startswith("its maps change with later words by ")
    assert fails(captions, planted(looks_ahead)) == ["causality"]


@pytest.mark.parametrize("factor", [1.5, 1.0])  # the share that is missed is the factor less 1
def test_completeness_is_the_median_of_what_is_missed(captions, factor):
    shipped = METHODS["grid_integrated_gradients"]

    def scaled(caption):
        maps, change = shipped.compute(caption)
        return factor * maps, change

    row = verdict(captions, planted(scaled, complete=True), "completeness")
    errors = np.concatenate([planted(scaled, complete=True)(c).completeness_error for c in captions])
    assert row.value == pytest.approx(np.nanmedian(errors))
    assert row.value == pytest.approx(factor - 1, abs=0.01)
    assert row.passed == (factor == 1.0)
    assert row.limit == COMPLETENESS_LIMIT
    assert row.n == np.isfinite(errors).sum()
    assert row.reason == ("its maps miss the sum that they promise by 50 %" if factor > 1 else None)


def test_maps_without_bounds_fail_without_a_value(captions):
    def endless(caption):
        maps, change = METHODS["grid_integrated_gradients"].compute(caption)
        return maps + torch.inf, change

    row = verdict(captions, planted(endless, complete=True), "completeness")
    assert (row.passed, row.value) == (False, None)
    assert row.reason == "its maps miss the sum that they promise by inf %"
    assert verdict(captions, planted(endless, complete=True), "row independence").value == FARTHEST


def test_completeness_does_not_apply_where_the_picture_changes_no_word(captions):
    still = [replace(caption, annotation_baseline=caption.annotations) for caption in captions]
    row = verdict(still, METHODS["grid_integrated_gradients"], "completeness")
    assert (row.passed, row.value, row.n) == (None, None, 0)
    assert row.reason == "the picture moves no word by 0.01 nats"


class Closure(nn.Module):
    """A word score that hides its model from whoever looks for modules."""

    def __init__(self, captioner):
        super().__init__()
        self.score = WordScore(captioner).forward

    def forward(self, *inputs):
        return self.score(*inputs)


def guided_by_captum(wrap):
    def compute(caption):
        images = caption.image.repeat(caption.words, 1, 1, 1).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            maps = GuidedBackprop(wrap(caption.captioner)).attribute(
                images, additional_forward_args=caption.rows
            )
        return pool_to_grid(maps.detach().abs().amax(dim=1), caption.captioner.grid).flatten(1), None

    relus = lambda captioner: sum(isinstance(m, nn.ReLU) for m in captioner.modules())  # noqa: E731
    return planted(compute, kind="pixels", hooks=relus)


def test_guided_backprop_on_a_closure_fails_hook_coverage_and_nothing_else(captions):
    closed = guided_by_captum(Closure)
    row = verdict(captions, closed, "hook coverage")
    assert row.passed is False
    assert row.value < 1e-6
    assert row.reason == "its maps are those of plain gradients: what it changes in the model has no effect"
    assert fails(captions, closed) == ["hook coverage"]
    registered = verdict(captions, guided_by_captum(WordScore), "hook coverage")
    assert registered.passed
    assert registered.value > 10 * registered.limit
    assert registered.n == 8


def test_hook_coverage_fails_where_the_model_has_nothing_to_hook():
    linear = tiny_captioner()
    linear.encoder.layers = nn.Sequential(*(m for m in linear.encoder.layers if not isinstance(m, nn.ReLU)))
    row = verdict([caption_for(linear)], guided_by_captum(WordScore), "hook coverage")
    assert (row.passed, row.value) == (False, None)
    assert row.reason == "the model has no module that it could change"


class Forgetful(AttentionDecoder):
    """Takes annotation vectors for constants unless they are those it last projected."""

    def remember(self, annotations):
        self.last = annotations
        return super().remember(annotations)

    def initial_state(self, annotations):
        return super().initial_state(annotations if annotations is self.last else annotations.detach())


def test_a_path_that_gets_lost_fails_the_path_sum(captions):
    forgetful = tiny_captioner()
    forgetful.decoder.__class__ = Forgetful
    rows = gates([replace(caption, captioner=forgetful) for caption in captions], [GRADIENT])
    (row,) = [row for row in rows if row.gate == "path sum"]
    assert (row.method, row.passed, row.n) == ("paths", False, 8)
    assert row.value > 100 * row.limit
    assert row.reason.startswith("the paths' gradients miss the full gradient by ")


def test_the_path_sum_belongs_to_the_methods_that_show_paths(captions):
    methods = [replace(GRADIENT, name=name) for name in ("path_now", "path_past", "path_init")]
    rows = [row for row in gates(captions, methods) if row.gate == "path sum"]
    assert [(row.method, row.passed) for row in rows] == [(method.name, True) for method in methods]


def leave_hook(captioner):
    captioner.encoder.layers[2].register_forward_hook(lambda *_: None)


def change_weight(captioner):
    with torch.no_grad():
        captioner.decoder.output.weight[0, 0] += 1e-6


def change_statistics(captioner):
    captioner.encoder.layers[1].running_mean.add_(1.0)


def leave_gradient(captioner):
    bias = captioner.decoder.output.bias.requires_grad_()
    bias.sum().backward()


def leave_mode(captioner):
    captioner.decoder.dropout.train()


def snapshot(captioner):
    return (
        {name: value.clone() for name, value in captioner.state_dict().items()},
        [(parameter.requires_grad, parameter.grad) for parameter in captioner.parameters()],
        [(module.training, len(module._forward_hooks)) for module in captioner.modules()],
    )


@pytest.mark.parametrize(
    ("mischief", "named"),
    [
        (leave_hook, "the hooks on encoder.layers.2"),
        (change_weight, "decoder.output.weight"),
        (change_statistics, "encoder.layers.1.running_mean"),
        (leave_gradient, "the gradient of decoder.output.bias"),
        (leave_mode, "the mode of decoder.dropout"),
    ],
)
def test_what_a_method_leaves_changed_is_named_and_put_right(mischief, named):
    captioner = tiny_captioner()
    captions = [caption_for(captioner)]
    weights, *rest = snapshot(captioner)

    def sloppy(caption):
        maps = gradients(caption)
        mischief(caption.captioner)
        return maps, None

    rows = gates(captions, [planted(sloppy), GRADIENT])
    found = {row.method: row for row in rows if row.gate == "model unchanged"}
    assert found["planted"].passed is False
    assert found["planted"].value >= 1
    assert found["planted"].reason.startswith(f"it changed {named}")
    assert found[GRADIENT.name].passed
    assert found[GRADIENT.name].reason is None
    weights_after, *rest_after = snapshot(captioner)
    assert rest == rest_after
    assert all(torch.equal(weights[name], weights_after[name]) for name in weights)


def test_a_method_that_can_not_explain_the_model_is_not_judged(captions):
    def refuse(caption):
        raise UnexplainableError("the model is made of clay")

    method = planted(refuse, complete=True, hooks=lambda captioner: 1)
    rows = [row for row in gates(captions, [method]) if row.method == "planted"]
    assert {row.gate: row.passed for row in rows} == {
        "completeness": None,
        "row independence": None,
        "causality": None,
        "hook coverage": None,
        "model unchanged": True,
    }
    reasons = {row.reason for row in rows if row.passed is None}
    assert reasons == {"the model is made of clay"}


def test_captions_without_words_tell_nothing_and_those_of_one_word_little(captioner, captions):
    silent = caption_for(captioner, tokens=(VOCABULARY.end,), words=0)
    assert gates([silent], DEFAULT) == []
    assert gates([], DEFAULT) == []
    assert gates([silent, *captions], [GRADIENT]) == gates(captions, [GRADIENT])
    brief = caption_for(captioner, tokens=TOKENS[:1], words=1)
    for gate, reason in (
        ("row independence", "no caption has two words"),
        ("causality", "no word has a later one"),
    ):
        row = verdict([brief], GRADIENT, gate)
        assert (row.passed, row.value, row.n, row.reason) == (None, None, 0, reason)


def test_gates_are_computed_in_float32_whatever_the_run_is():
    captioner = tiny_captioner()
    captioner.encoder_dtype = torch.bfloat16
    seen = []

    def spy(caption):
        seen.append((caption.captioner.encoder_dtype, caption.annotations))
        return gradients(caption), None

    coarse = caption_for(captioner)
    assert fails([coarse], planted(spy)) == []
    assert {dtype for dtype, _ in seen} == {torch.float32}
    assert captioner.encoder_dtype == torch.bfloat16
    assert not any(annotations.requires_grad for _, annotations in seen)
    exact = caption_for(tiny_captioner()).annotations
    assert all(torch.equal(annotations, exact) for _, annotations in seen)
    assert not torch.equal(coarse.annotations, exact)


def test_gates_run_in_inference_mode_too(captions):
    with torch.inference_mode():
        rows = gates(captions, QUICK)
    assert rows == gates(captions, QUICK)
    assert all(row.passed for row in rows)


def test_gates_leave_the_captions_as_they_are(captions):
    before = copy.deepcopy(captions[0].annotations), captions[0].alphas.copy()
    gates(captions, QUICK)
    assert torch.equal(before[0], captions[0].annotations)
    assert np.array_equal(before[1], captions[0].alphas)
