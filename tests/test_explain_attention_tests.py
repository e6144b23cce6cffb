"""Attention on trial: against loops over single steps, on models whose answers are known, and on the demo."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench.config import DEMO_CHECKPOINT
from bench.data.scenes import load_scenes
from explain import attention_tests
from explain.agreement import agreement
from explain.attention_tests import EPSILON, Trial, attention_trial
from explain.methods.base import ExplainedCaption, Place
from models.captioner import Captioner
from models.decoder import AttentionDecoder, DecoderConfig, Memory, State, Step
from models.encoder import EncoderConfig
from models.formats import load_checkpoint
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("<pad>", "<start>", "<end>", *"abcdefgh"), pad=0, start=1, end=2)
TOKENS = (5, 3, 9, 5, 4, 2)
WORDS, CELLS, DIM, DRAWS = 5, 16, 7, 12
MASK = np.zeros((32, 32), bool)
MASK[3:14, 10:31] = True
DROPS = [name for name in Trial._fields if name.endswith("_drop")]
DISTANCES = [name for name in Trial._fields if name.endswith("_tvd")]


def tiny_captioner(*, hidden_dim=9, dtype=torch.float64, **switches):
    config = DecoderConfig(
        len(VOCABULARY), DIM, embedding_dim=6, hidden_dim=hidden_dim, attention_dim=5, **switches
    )
    captioner = Captioner(EncoderConfig("scenes", 4), config, VOCABULARY, Preprocessing(size=32))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in captioner.decoder.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values / 4 if values.dim() == 1 else 3 * values / values[0].numel() ** 0.5)
    return captioner.to(dtype).eval()


def caption_for(captioner, *, tokens=TOKENS, words=WORDS, other=MASK, cells=CELLS, dim=DIM):
    dtype = next(captioner.parameters()).dtype
    annotations = torch.randn(cells, dim, generator=torch.Generator().manual_seed(5)).to(dtype)
    looked = [step.alpha[0].numpy() for step in own_steps(captioner, annotations, tokens[:words])]
    alphas = np.array(looked, np.float64).reshape(words, cells)
    place = Place(~MASK, other)
    return ExplainedCaption(
        captioner, torch.zeros(3, 32, 32), annotations, tokens, alphas, annotations, seed=0,
        places=(None, *[place] * (words - 1)) if words else (),
    )  # fmt: skip


@torch.no_grad()
def own_steps(captioner, annotations, tokens):
    decoder = captioner.decoder
    memory, state = decoder.remember(annotations[None]), decoder.initial_state(annotations[None])
    read = decoder.first_words(1, captioner.vocabulary.start)
    for token in tokens:
        step = decoder.step(read, state, memory)
        yield step
        read, state = torch.tensor([token]), step.state


@torch.no_grad()
def literal_trial(caption, draws, seed):
    """One step and one row at a time."""
    captioner, decoder = caption.captioner, caption.captioner.decoder
    memory = decoder.remember(caption.annotations[None])
    state = decoder.initial_state(caption.annotations[None])
    read = decoder.first_words(1, captioner.vocabulary.start)
    rng = np.random.default_rng(seed)
    rows = []
    for word, token in enumerate(caption.token_ids[: caption.words]):
        own = decoder.step(read, state, memory)
        p, alpha = own.log_probs[0].exp(), own.alpha[0]

        def look(other, *, read=read, state=state, p=p, token=token):
            q = decoder.step(read, state, memory, alpha=other[None]).log_probs[0].exp()
            return (p[token] - q[token]).item(), sum(abs(a - b) for a, b in zip(p, q, strict=True)).item() / 2

        shuffled = rng.permuted(np.tile(alpha.numpy(), (draws, 1)), axis=1)
        permuted = [look(torch.from_numpy(values)) for values in shuffled]
        row = {"permute_drop": np.mean([d for d, _ in permuted])}
        row["permute_tvd"] = np.mean([d for _, d in permuted])
        row["uniform_drop"], row["uniform_tvd"] = look(torch.full_like(alpha, 1 / len(alpha)))
        place = caption.places[word]
        row["other_object_drop"] = row["other_object_tvd"] = np.nan
        if place is not None and place.other is not None:
            share = torch.zeros(4, 4, dtype=alpha.dtype)
            for y, x in zip(*np.nonzero(place.other), strict=True):
                share[y // 8, x // 8] += 1
            row["other_object_drop"], row["other_object_tvd"] = look((share / share.sum()).flatten())
        erased = []
        for cell in range(len(alpha)):
            rest = alpha.clone()
            rest[cell] = 0
            erased.append(look(rest / rest.sum()))
        top = int(alpha.argmax())
        row["erase_top_drop"], row["erase_top_tvd"] = erased[top]
        others = [moved for cell, moved in enumerate(erased) if cell != top]
        row["erase_random_drop"], row["erase_random_tvd"] = np.mean(others, axis=0)
        beta = decoder.gate_values(state)
        row["gate"] = np.nan if beta is None else beta.mean().item()
        rows.append(row)
        read, state = torch.tensor([token]), own.state
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"initial_state": "zero", "first_input": "zeros", "gate": "none", "attention_activation": "relu"},
        {"initial_state": "linear", "gate": "vector", "output": "deep"},
        {"attention": "uniform"},
        {"gate": "shut", "first_input": "zeros"},
    ],
)
def test_every_column_but_the_adversarys_equals_a_loop_over_single_steps(switches):
    caption = caption_for(tiny_captioner(**switches))
    found = attention_trial(caption, draws=DRAWS, seed=3)
    expected = literal_trial(caption, DRAWS, 3)
    assert set(expected) == {name for name in Trial._fields if not name.startswith("adversarial")}
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-9, atol=1e-12, err_msg=name)
    assert np.isnan(found.other_object_drop).tolist() == [True, False, False, False, False]
    assert np.isnan(found.gate).all() == (switches.get("gate") == "none")


class OneCellDecoder(AttentionDecoder):
    """Step t says word 5 with probability 0.1 + 0.8 * (its weight on cell 3 t), and word 4 otherwise."""

    def __init__(self, alphas):
        nn.Module.__init__(self)
        self.alphas = nn.Parameter(alphas)

    def remember(self, annotations):
        return Memory(annotations, annotations)

    def initial_state(self, annotations):
        zeros = annotations.new_zeros(len(annotations), 1)
        return State(zeros, zeros)

    def first_words(self, rows, start):
        return torch.full((rows,), start)

    def gate_values(self, state):
        return None

    def step(self, word_ids, state, memory, *, alpha=None):
        t = state.hidden[:, 0].long()
        if alpha is None:
            alpha = self.alphas[t]
        context = alpha @ memory.annotations[0]  # annotation vectors are unit vectors: the context is alpha
        p = 0.1 + 0.8 * context.gather(1, 3 * t[:, None])[:, 0]
        words = torch.zeros(len(p), len(VOCABULARY)).to(p)
        words = words.index_add(1, torch.tensor([5, 4]), torch.stack([p, 1 - p], dim=1))
        return Step(words.clamp(min=1e-30).log(), State(state.hidden + 1, state.cell), alpha)


class OneCellCaptioner(Captioner):
    grid = (4, 4)
    vocabulary = VOCABULARY

    def __init__(self, alphas):
        nn.Module.__init__(self)
        self.decoder = OneCellDecoder(alphas)


@pytest.fixture(scope="module")
def one_cell():
    """Words 0 to 4, their weights on the cell that counts, and the caption."""
    alphas = torch.rand(WORDS, CELLS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alphas[range(WORDS), range(0, 3 * WORDS, 3)] += torch.tensor([0, 1, 4, 8, 30.0])
    alphas = alphas / alphas.sum(dim=1, keepdim=True)
    captioner = OneCellCaptioner(alphas).eval()
    place = Place(~MASK, MASK)
    caption = ExplainedCaption(
        captioner, torch.zeros(3, 32, 32), torch.eye(CELLS, dtype=torch.float64), (5,) * WORDS,
        alphas.numpy(), torch.zeros(CELLS, CELLS), seed=0, places=(place,) * WORDS,
    )  # fmt: skip
    return caption, alphas.numpy()[range(WORDS), range(0, 3 * WORDS, 3)]


def test_a_word_that_rests_on_one_cell_gets_the_drops_that_follow_from_its_formula(one_cell):
    caption, weight = one_cell
    draws = 4000
    found = attention_trial(caption, draws=draws, seed=0)
    # A permuted cell holds any of the weights: mean 1 / L.
    error = 0.8 * caption.alphas.std(axis=1) / draws**0.5
    assert (abs(found.permute_drop - 0.8 * (weight - 1 / CELLS)) < 4 * error).all()
    np.testing.assert_allclose(found.uniform_drop, 0.8 * (weight - 1 / CELLS))
    np.testing.assert_allclose(found.uniform_tvd, 0.8 * abs(weight - 1 / CELLS))
    share = MASK.reshape(4, 8, 4, 8).sum(axis=(1, 3)).ravel()[: 3 * WORDS : 3] / MASK.sum()
    np.testing.assert_allclose(found.other_object_drop, 0.8 * (weight - share))
    np.testing.assert_allclose(found.other_object_tvd, 0.8 * abs(weight - share))
    for word, alpha in enumerate(caption.alphas):
        top = alpha.argmax()
        without = [0 if cell == 3 * word else weight[word] / (1 - alpha[cell]) for cell in range(CELLS)]
        drops = 0.8 * (weight[word] - np.array(without))
        np.testing.assert_allclose(found.erase_top_drop[word], drops[top])
        np.testing.assert_allclose(found.erase_random_drop[word], np.delete(drops, top).mean())


def divergence(alphas, others):
    return agreement(alphas, others).root_jsd ** 2


def test_the_adversary_of_a_word_that_rests_on_one_cell_comes_near_the_best_there_is(one_cell):
    caption, weight = one_cell
    found = attention_trial(caption, draws=1, seed=0)
    # The divergence is convex, so the best has as much or as little weight as allowed on the cell that counts, and
    # the rest on one other cell.
    best = np.zeros(WORDS)
    for word, alpha in enumerate(caption.alphas):
        for kept in np.clip([weight[word] - EPSILON / 0.8, weight[word] + EPSILON / 0.8], 0, 1):
            for cell in set(range(CELLS)) - {3 * word}:
                other = np.zeros(CELLS)
                other[3 * word], other[cell] = kept, 1 - kept
                best[word] = max(best[word], divergence(alpha, other))
    assert (found.adversarial_jsd <= best + 1e-6).all()
    assert (found.adversarial_jsd >= 0.85 * best).all()
    np.testing.assert_allclose(abs(found.adversarial_drop), found.adversarial_tvd)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hidden_dim", [9, 64])
def test_where_the_gate_is_shut_nothing_moves_and_the_adversary_goes_as_far_as_can_be(hidden_dim, dtype):
    caption = caption_for(tiny_captioner(gate="shut", hidden_dim=hidden_dim, dtype=dtype))
    found = attention_trial(caption, draws=40, seed=0)
    for name in (*DROPS, *DISTANCES):
        values = getattr(found, name)
        assert set(values[~np.isnan(values)].tolist()) == {0.0}, name
    assert not found.gate.any()
    farthest = divergence(caption.alphas[:, None], np.eye(CELLS)[None]).max(axis=1)
    assert (found.adversarial_jsd <= farthest + 1e-6).all()
    assert (found.adversarial_jsd >= 0.99 * farthest).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_attention_can_be_neither_permuted_nor_made_uniform(dtype):
    found = attention_trial(caption_for(tiny_captioner(attention="uniform", dtype=dtype)), draws=40, seed=0)
    for name in ("permute_drop", "permute_tvd", "uniform_drop", "uniform_tvd"):
        assert not getattr(found, name).any(), name
    assert found.other_object_tvd[1:].min() > 0.001


def test_attention_on_a_single_cell_leaves_nothing_when_that_is_erased():
    captioner = tiny_captioner()
    with torch.no_grad():
        captioner.decoder.attention_score.weight.mul_(1e5)
    caption = caption_for(captioner)
    assert (caption.alphas.max(axis=1) == 1).all()
    found = attention_trial(caption, draws=5, seed=0)
    assert np.isnan(found.erase_top_drop).all()
    assert not found.erase_random_drop.any()
    assert np.isfinite(found.adversarial_jsd).all()


def test_what_is_not_known_of_a_caption_is_undefined():
    caption = caption_for(tiny_captioner(gate="none"), other=None)
    for places in (caption.places, None, (Place(MASK, np.zeros_like(MASK)),) * WORDS):
        found = attention_trial(replace(caption, places=places), draws=5, seed=0)
        assert np.isnan([found.other_object_drop, found.other_object_tvd, found.gate]).all()
        assert np.isfinite([found.permute_drop, found.adversarial_drop, found.erase_random_drop]).all()


def test_a_grid_of_one_cell_has_no_other_cell_to_erase():
    caption = caption_for(tiny_captioner(), cells=1, other=None)
    found = attention_trial(caption, draws=3, seed=0)
    assert np.isnan([found.erase_top_drop, found.erase_random_drop]).all()
    assert not np.any([found.permute_drop, found.uniform_drop, found.adversarial_jsd])


@pytest.mark.parametrize("first_input", ["start", "zeros"])
@pytest.mark.parametrize("words", [0, 1])
def test_a_caption_of_no_word_or_one_gets_as_many_numbers(words, first_input):
    found = attention_trial(caption_for(tiny_captioner(first_input=first_input), words=words), seed=0)
    assert {values.shape for values in found} == {(words,)}


def test_the_seed_draws_the_permutations_and_nothing_else():
    caption = caption_for(tiny_captioner())
    one, again, other = (attention_trial(caption, draws=5, seed=seed) for seed in (1, 1, 2))
    for name in Trial._fields:
        assert np.array_equal(getattr(one, name), getattr(again, name), equal_nan=True)
        same = np.array_equal(getattr(one, name), getattr(other, name), equal_nan=True)
        assert same != name.startswith("permute"), name


def test_later_words_have_no_influence():
    captioner = tiny_captioner()
    one = attention_trial(caption_for(captioner), draws=5, seed=1)
    other = attention_trial(caption_for(captioner, tokens=(5, 3, 9, 8, 8, 2)), draws=5, seed=1)
    for name in Trial._fields:
        np.testing.assert_allclose(getattr(one, name)[:3], getattr(other, name)[:3], rtol=1e-9, atol=1e-12)


def test_rows_are_judged_alike_however_many_fit_in_memory(monkeypatch):
    caption = caption_for(tiny_captioner())
    whole = attention_trial(caption, draws=9, seed=0)
    monkeypatch.setattr(attention_tests, "NUMBERS_AT_A_TIME", 3 * len(VOCABULARY))
    for name, values in zip(Trial._fields, attention_trial(caption, draws=9, seed=0), strict=True):
        np.testing.assert_allclose(values, getattr(whole, name), rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.fixture(scope="module")
def demo():
    return load_checkpoint(DEMO_CHECKPOINT, word_map=None, encoder_weights=None).captioner.eval()


@pytest.fixture(scope="module")
def demo_captions(demo):
    data = load_scenes()
    captions = []
    for scene in data.select("test")[:3]:
        words = scene.references[0].lower().split()
        token_ids = tuple(demo.vocabulary.encode(words))
        with torch.no_grad():
            image = demo.preprocessing(demo.preprocessing.view(scene.picture()))
            annotations = demo.encode(image[None])[0]
        alphas = [step.alpha[0].double().numpy() for step in own_steps(demo, annotations, token_ids)]
        regions = data.ground_truth.regions(scene, words)
        named = [figure.mask for figure in scene.named]
        places = tuple(
            None if r is None or r.unique is None else Place(r.unique, named[r.unique is named[0]])
            for r in regions
        )
        captions.append(
            ExplainedCaption(
                demo, image, annotations, token_ids, np.array(alphas), annotations, 0, places=places
            )
        )
    return captions


def random_search(caption, evaluations):
    """The farthest of random attention, mixed with the model's own, that moves the words by at most `EPSILON`."""
    generator = torch.Generator().manual_seed(0)
    decoder, rng = caption.captioner.decoder, np.random.default_rng(0)
    memory = decoder.remember(caption.annotations[None])
    farthest = []
    state = decoder.initial_state(caption.annotations[None])
    read = decoder.first_words(1, caption.captioner.vocabulary.start)
    for own, token in zip(
        own_steps(caption.captioner, caption.annotations, caption.token_ids), caption.token_ids, strict=True
    ):
        concentration = torch.tensor(rng.choice([0.01, 0.1, 1.0], size=(evaluations, 1)))
        noise = torch._standard_gamma(concentration.expand(-1, own.alpha.shape[1]), generator).float() + 1e-20
        share = torch.from_numpy(rng.uniform(size=(evaluations, 1))).float() ** 2
        looks = (1 - share) * own.alpha + share * noise / noise.sum(dim=1, keepdim=True)
        many = State(*(part.expand(evaluations, -1) for part in state))
        moved = decoder.step(read.expand(evaluations), many, memory, alpha=looks).log_probs.exp()
        near = (moved - own.log_probs.exp()).abs().sum(dim=1) / 2 <= EPSILON
        found = divergence(own.alpha.numpy(), looks[near].numpy())
        farthest.append(found.max(initial=0))
        read, state = torch.tensor([token]), own.state
    return np.array(farthest)


def test_adversaries_stay_within_bounds_and_beat_a_random_search_of_equal_cost(demo_captions):
    # Two ascents of which each step costs about three evaluations, and the retreats.
    evaluations = 2 * (3 * len(attention_tests.STEPS_NATS) + len(attention_tests.RETREATS))
    for caption in demo_captions:
        found = attention_trial(caption, draws=1, seed=0)
        assert found.adversarial_tvd.max() <= EPSILON
        with torch.no_grad():
            by_chance = random_search(caption, evaluations)
        assert (found.adversarial_jsd > by_chance).all()
        assert (found.adversarial_jsd > 0.9).all()


def test_no_word_loses_more_than_the_whole_distribution_moves(demo_captions):
    for caption in demo_captions:
        found = attention_trial(caption, draws=20, seed=0)
        for name in ("permute", "uniform", "other_object", "adversarial"):
            drop, distance = (getattr(found, f"{name}_{what}") for what in ("drop", "tvd"))
            defined = ~np.isnan(drop)
            assert defined.sum() >= 4
            assert (abs(drop[defined]) <= distance[defined] + 1e-6).all()
            assert ((distance[defined] >= 0) & (distance[defined] <= 1)).all()


def test_nothing_is_changed_and_the_callers_mode_does_not_matter(demo, demo_captions):
    caption = demo_captions[0]
    before = {name: (p.clone(), p.requires_grad) for name, p in demo.named_parameters()}
    random_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    found = attention_trial(caption, draws=5, seed=0)
    with torch.inference_mode():
        inferred = demo.encode(caption.image[None])[0]
        under_inference = attention_trial(replace(caption, annotations=inferred), draws=5, seed=0)
    for name in Trial._fields:
        np.testing.assert_allclose(
            getattr(under_inference, name), getattr(found, name), atol=1e-5, err_msg=name
        )
    for name, parameter in demo.named_parameters():
        value, flag = before[name]
        assert torch.equal(parameter, value)
        assert parameter.requires_grad == flag
        assert parameter.grad is None
    assert torch.equal(torch.get_rng_state(), random_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
