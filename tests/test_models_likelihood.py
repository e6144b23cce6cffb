"""Likelihoods of many captions given many images, against every caption scored by itself."""

import random

import pytest
import torch

import models.likelihood
from bench.config import DEMO_CHECKPOINT
from bench.data.scenes import make_scene
from models.beam import beam_search
from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig
from models.formats import load_checkpoint
from models.likelihood import caption_log_likelihoods
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

WORDS = ("<pad>", "<start>", "<end>", "<unk>", "a", "red", "blue", "star", "square", "above")
END = 2


def make_captioner(**switches):
    config = DecoderConfig(len(WORDS), 12, embedding_dim=7, hidden_dim=9, attention_dim=6, **switches)
    torch.manual_seed(4)
    captioner = Captioner(
        EncoderConfig("scenes", 4), config, Vocabulary(WORDS, 0, 1, END, 3), Preprocessing(size=32)
    )
    for parameter in captioner.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.6)  # far from even odds
    return captioner.eval()


ANNOTATIONS = torch.randn(5, 16, 12, generator=torch.Generator().manual_seed(1))


def captions(count, seed=0):
    """Captions that often begin alike, some unfinished, some empty, some equal."""
    rng = random.Random(seed)
    made = [tuple(rng.choices(range(4, 8), k=rng.randrange(6))) for _ in range(count)]
    return [caption + (END,) * rng.randrange(2) for caption in made] + made[:3]


@torch.no_grad()
def one_by_one(captioner, annotations, captions):
    """The sum of a caption's word log-probabilities, of one caption and one image at a time."""
    found = torch.zeros(len(captions), len(annotations), dtype=torch.float64)
    for row, caption in enumerate(captions):
        for image in range(len(annotations)) if caption else ():
            words = captioner.word_log_probs(annotations[image : image + 1], torch.tensor([caption]))
            found[row, image] = words.double().sum()
    return found


def tokens(captioner, caption):
    return (*captioner.vocabulary.encode(caption.split()), captioner.vocabulary.end)


SWITCHES = [
    {},
    {"initial_state": "zero", "gate": "none", "first_input": "zeros"},
    {"attention_activation": "relu", "initial_state": "linear", "gate": "vector", "output": "deep"},
]


@pytest.mark.parametrize("switches", SWITCHES)
def test_every_likelihood_is_that_of_its_caption_and_image_alone(switches):
    said = captions(60)
    assert () in said
    assert len(set(said)) < len(said)
    captioner = make_captioner(**switches).double()
    expected = one_by_one(captioner, ANNOTATIONS.double(), said)
    found = caption_log_likelihoods(captioner, ANNOTATIONS.double(), said)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    single = caption_log_likelihoods(captioner.float(), ANNOTATIONS, said)
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rows", [1, 2, 7, 40, 10**6])
def test_likelihoods_do_not_depend_on_how_the_work_is_divided(monkeypatch, rows):
    captioner, said = make_captioner(), captions(60)
    expected = caption_log_likelihoods(captioner, ANNOTATIONS, said)
    numbers = models.likelihood.numbers_per_row(captioner.decoder.config)
    monkeypatch.setitem(models.likelihood._NUMBERS_AT_A_TIME, "cpu", rows * numbers)
    widths = rows_of_steps(captioner)
    divided = caption_log_likelihoods(captioner, ANNOTATIONS, said)
    assert max(widths) <= max(rows, 1)
    torch.testing.assert_close(divided, expected, atol=1e-5, rtol=0)


def rows_of_steps(captioner):
    """How many rows every step from now on is given."""
    seen, step = [], captioner.decoder.step

    def counting(words, state, memory):
        seen.append(len(state.hidden))
        return step(words, state, memory)

    captioner.decoder.step = counting
    return seen


def test_every_prefix_is_computed_once_for_each_image():
    captioner, said = make_captioner(), captions(200)
    widths = rows_of_steps(captioner)
    caption_log_likelihoods(captioner, ANNOTATIONS, said)
    prefixes = {caption[:length] for caption in said for length in range(len(caption))}
    assert sum(widths) == len(prefixes) * len(ANNOTATIONS)


def test_captions_of_all_lengths_that_can_be_said_have_probability_one():
    """Every caption ends with `<end>`, or goes on: at any length, what ended and what is still open sum to 1."""
    captioner = make_captioner().double()
    others = [word for word in range(len(WORDS)) if word != END]
    everything = [(END,), *((first, END) for first in others)]
    everything += [(first, second) for first in others for second in others]
    found = caption_log_likelihoods(captioner, ANNOTATIONS.double(), everything)
    torch.testing.assert_close(found.exp().sum(dim=0), torch.ones(5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_nothing_and_no_image_are_allowed():
    captioner = make_captioner()
    assert caption_log_likelihoods(captioner, ANNOTATIONS, [(), ()]).tolist() == [[0.0] * 5] * 2
    assert caption_log_likelihoods(captioner, ANNOTATIONS, []).shape == (0, 5)
    assert caption_log_likelihoods(captioner, ANNOTATIONS[:0], [(4, END)]).shape == (1, 0)


def test_the_demo_says_of_its_captions_what_its_beam_search_said():
    captioner = load_checkpoint(DEMO_CHECKPOINT).captioner
    scenes = [make_scene("test", index) for index in range(12)]
    with torch.no_grad():
        annotations = captioner.encode(torch.stack([captioner.preprocessing(s.picture()) for s in scenes]))
    found = [hypotheses[0] for hypotheses in beam_search(captioner, annotations, 5)]
    log_likelihoods = caption_log_likelihoods(captioner, annotations, [each.token_ids for each in found])
    searched = torch.tensor([each.log_prob_nats for each in found], dtype=torch.float64)
    torch.testing.assert_close(log_likelihoods.diag(), searched, atol=2e-5, rtol=0)
    said = [tokens(captioner, scene.references[0]) for scene in scenes]
    torch.testing.assert_close(
        caption_log_likelihoods(captioner, annotations, said),
        one_by_one(captioner.double(), annotations.double(), said),
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_finds_the_same_likelihoods():
    captioner, said = make_captioner(), captions(60)
    expected = caption_log_likelihoods(captioner, ANNOTATIONS, said)
    found = caption_log_likelihoods(captioner.cuda(), ANNOTATIONS.cuda(), said)
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=0)
