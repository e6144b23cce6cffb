"""Captioners that look elsewhere, against literal loops over steps that are told where to look."""

import itertools
from dataclasses import replace

import pytest
import torch

from bench.config import DEMO_CHECKPOINT
from bench.data.scenes import load_scenes
from explain.interventions import INTERVENTIONS, _Look, intervened
from explain.localisation import mask_on_grid
from models.beam import beam_search
from models.captioner import Captioner
from models.formats import load_checkpoint

SEED = 4
REARRANGED = ("uniform", "permuted")  # without one cell, most captions stay as they are


@pytest.fixture(scope="module")
def demo():
    return load_checkpoint(DEMO_CHECKPOINT, word_map=None, encoder_weights=None).captioner.eval()


@pytest.fixture(scope="module")
def annotations(demo):
    scenes = load_scenes().select("test")[:5]
    pictures = [demo.preprocessing(demo.preprocessing.view(scene.picture())) for scene in scenes]
    with torch.no_grad():
        return demo.encode(torch.stack(pictures))


def said(captioner, annotations, beam_size=1):
    return [best[0].token_ids for best in beam_search(captioner, annotations, beam_size)]


def permutations(captioner, seed):
    generator = torch.Generator().manual_seed(seed)
    cells = captioner.grid[0] * captioner.grid[1]
    while True:
        yield torch.randperm(cells, generator=generator)


@torch.no_grad()
def literal_greedy(captioner, annotations, elsewhere):
    """The likeliest word of each step, while `elsewhere(alpha, t)` is looked at."""
    decoder, vocabulary = captioner.decoder, captioner.vocabulary
    memory, state = decoder.remember(annotations[None]), decoder.initial_state(annotations[None])
    read, words, looked = decoder.first_words(1, vocabulary.start), [], []
    while vocabulary.end not in words and len(words) < captioner.max_steps:
        looked.append(elsewhere(decoder.attend(state, memory), len(words)))
        step = decoder.step(read, state, memory, alpha=looked[-1])
        step.log_probs[:, [vocabulary.pad, vocabulary.start]] = -torch.inf
        read, state = step.log_probs.argmax(dim=1), step.state
        words.append(read.item())
    return tuple(words), torch.cat(looked)


def test_greedy_decoding_with_uniform_attention_equals_a_literal_loop(demo, annotations):
    uniform = intervened(demo, "uniform", seed=SEED)
    for image in annotations:
        words, looked = literal_greedy(demo, image, lambda alpha, t: torch.full_like(alpha, 1 / 196))
        hypothesis = beam_search(uniform, image[None], 1)[0][0]
        assert hypothesis.token_ids == words
        assert torch.equal(hypothesis.alphas, looked)


def test_greedy_decoding_with_permuted_attention_equals_a_literal_loop(demo, annotations):
    permuted = intervened(demo, "permuted", seed=SEED)
    drawn = permutations(demo, SEED)
    drawn = [next(drawn) for _ in range(demo.max_steps)]
    for image in annotations:
        words, looked = literal_greedy(demo, image, lambda alpha, t: alpha[:, drawn[t]])
        hypothesis = beam_search(permuted, image[None], 1)[0][0]
        assert hypothesis.token_ids == words
        torch.testing.assert_close(hypothesis.alphas, looked)


@pytest.mark.parametrize("kind", REARRANGED)
def test_captions_change_and_the_original_does_not(demo, annotations, kind):
    before = said(demo, annotations, 3)
    parts, config = dict(demo.named_modules()), demo.decoder.config
    twin = intervened(demo, kind, seed=SEED)
    assert sum(a != b for a, b in zip(said(twin, annotations, 3), before, strict=True)) >= 4
    assert said(demo, annotations, 3) == before
    assert dict(demo.named_modules()) == parts
    assert demo.decoder.config is config
    # What is shared is shared, so that a second model takes no memory.
    shared = {name: p.data_ptr() for name, p in demo.named_parameters()}
    assert {name: p.data_ptr() for name, p in twin.named_parameters()} == shared
    assert twin.state_dict().keys() == demo.state_dict().keys()
    assert (twin.grid, twin.device, twin.max_steps) == (demo.grid, demo.device, demo.max_steps)
    assert not twin.training


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.parametrize("kind", INTERVENTIONS)
def test_an_images_caption_does_not_depend_on_its_batch(demo, annotations, kind, beam_size):
    twin = intervened(demo, kind, seed=SEED)
    together = said(twin, annotations, beam_size)
    assert said(twin, annotations.flip(0), beam_size)[::-1] == together
    for image, words in zip(annotations, together, strict=True):
        assert said(twin, image[None], beam_size) == [words]
    memory = demo.decoder.remember(annotations)
    assert [b[0].token_ids for b in beam_search(twin, annotations, beam_size, memory=memory)] == together


def test_the_seed_decides_the_permutations_and_nothing_else(demo, annotations):
    random_state = torch.get_rng_state()
    looked = [
        beam_search(intervened(demo, "permuted", seed=seed), annotations[:1], 1)[0][0].alphas
        for seed in (1, 1, 2)
    ]
    assert torch.equal(looked[0], looked[1])
    assert not torch.equal(looked[0][0], looked[2][0])
    # The first step's weights are the model's own, on other cells.
    assert torch.equal(looked[0][0].sort().values, looked[2][0].sort().values)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_longer_captions_than_the_model_writes_go_on_permuted(demo, annotations):
    short = intervened(demo, "permuted", seed=SEED)
    short.decoder.permutations = short.decoder.permutations[:3]
    drawn = permutations(demo, SEED)
    drawn = [next(drawn) for _ in range(3)]
    words, _ = literal_greedy(demo, annotations[0], lambda alpha, t: alpha[:, drawn[t % 3]])
    assert len(words) > 3
    assert said(short, annotations[:1]) == [words]


@pytest.mark.parametrize(
    "switches",
    [{"gate": "shut"}, {"attention": "uniform"}, {"initial_state": "zero", "first_input": "zeros"}],
)
@pytest.mark.parametrize("kind", REARRANGED)
def test_a_model_that_does_not_care_where_it_looks_says_the_same(demo, annotations, kind, switches):
    config = replace(demo.decoder.config, **switches)
    model = Captioner(demo.encoder_config, config, demo.vocabulary, demo.preprocessing, max_steps=8)
    weights = {
        name: value for name, value in demo.state_dict().items() if name in model.state_dict()
    }  # what the demo has and a control lacks is left out
    model.load_state_dict(weights)
    model.eval()
    same = said(intervened(model, kind, seed=SEED), annotations) == said(model, annotations)
    assert same == ("initial_state" not in switches)


def test_a_step_that_is_told_where_to_look_looks_there(demo, annotations):
    permuted = intervened(demo, "permuted", seed=SEED).decoder
    alpha = torch.rand(5, 196, generator=torch.Generator().manual_seed(0))
    steps = [
        decoder.step(
            decoder.first_words(5, demo.vocabulary.start),
            decoder.initial_state(annotations),
            decoder.remember(annotations),
            alpha=alpha,
        )
        for decoder in (demo.decoder, permuted)
    ]
    assert torch.equal(steps[0].log_probs, steps[1].log_probs)


def test_erasing_takes_the_top_cell_or_another_and_scales_the_rest_up(demo, annotations):
    drawn = next(permutations(demo, SEED))

    def without(cell):
        def look(alpha, t):
            left = alpha.clone()
            left[0, cell(alpha, t)] = 0
            return left / left.sum()

        return look

    def another(alpha, t):
        order = list(itertools.islice(permutations(demo, SEED), t + 1))[t]
        return order[0] if order[0] != alpha.argmax() else order[-1]

    assert len(drawn) == 196
    for image in annotations[:2]:
        for kind, cell in (
            ("top cell erased", lambda alpha, t: alpha.argmax()),
            ("random cell erased", another),
        ):
            words, _ = literal_greedy(demo, image, without(cell))
            assert said(intervened(demo, kind, seed=SEED), image[None]) == [words]


def test_looking_at_the_other_object_makes_the_demo_speak_of_the_other(demo, annotations):
    scenes = load_scenes().select("test")[:5]
    for scene, image in zip(scenes, annotations, strict=True):
        masks = [
            torch.from_numpy(mask_on_grid(figure.mask, demo.grid).ravel()).float() for figure in scene.named
        ]
        other = intervened(demo, "other object", seed=SEED, things=torch.stack(masks))
        _, looked = literal_greedy(demo, image, lambda alpha, t: alpha)
        swapped = other.decoder.change(_Look(looked, None, None, None, None))
        torch.testing.assert_close(swapped.sum(dim=1), torch.ones(len(swapped)))
        for one, two in ((0, 1), (1, 0)):
            moved = (
                swapped @ masks[two]
                >= 0.9 * (looked @ masks[one]) * (masks[two] @ masks[two]) / masks[two].sum()
            )
            assert moved.all()
        assert said(other, image[None]) != said(demo, image[None])


def test_decoding_against_an_adversary_looks_elsewhere_and_says_nearly_the_same(demo, annotations):
    adversarial = intervened(demo, "adversarial", seed=SEED)
    for image in annotations[:3]:
        state, memory = demo.decoder.initial_state(image[None]), demo.decoder.remember(image[None])
        read = demo.decoder.first_words(1, demo.vocabulary.start)
        own = demo.decoder.step(read, state, memory)
        with torch.no_grad():
            looked = adversarial.decoder.step(read, adversarial.decoder.initial_state(image[None]), memory)
        assert (looked.log_probs.exp() - own.log_probs.exp()).abs().sum() / 2 <= 0.05 + 1e-6
        assert (looked.alpha - own.alpha).abs().sum() / 2 > 0.5
        assert said(adversarial, image[None])  # comes to an end


def test_an_unknown_intervention_is_refused(demo):
    with pytest.raises(AssertionError, match="shuffled"):
        intervened(demo, "shuffled", seed=0)
