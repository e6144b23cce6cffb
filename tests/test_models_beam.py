"""Batched beam search against exhaustive search and a literal search of one image at a time."""

from itertools import product

import pytest
import torch

from models.beam import beam_search
from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig
from models.errors import CheckpointError
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

WORDS = ("<pad>", "<start>", "<end>", "<unk>", "a", "b")


def make_captioner(seed=0, *, sharpness=4.0, words=WORDS):
    """A captioner with random weights; a sharp output layer makes the hypotheses differ."""
    torch.manual_seed(seed)
    vocabulary = Vocabulary(tuple(words), pad=0, start=1, end=2, unk=3)
    config = DecoderConfig(len(words), 80, embedding_dim=8, hidden_dim=12, attention_dim=8, dropout=0.0)
    captioner = Captioner(EncoderConfig("scenes", 3), config, vocabulary, Preprocessing(size=24)).eval()
    with torch.no_grad():
        captioner.decoder.output.weight *= sharpness
        captioner.decoder.embedding.weight *= 2
    return captioner


def make_annotations(captioner, images, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return captioner.encode(torch.randn(images, 3, 24, 24, generator=generator) * 2)


def score(captioner, annotations, token_ids):
    return float(captioner.word_log_probs(annotations, torch.tensor([token_ids])).sum())


def literal_beam(captioner, annotations, beam_size, max_steps):
    """One image, lists, no early stop: a finished hypothesis leaves the beam, which goes on one place smaller."""
    decoder, vocabulary = captioner.decoder, captioner.vocabulary
    memory = decoder.remember(annotations)
    beam = [((), 0.0, decoder.initial_state(annotations))]
    finished, places = [], beam_size
    for _ in range(max_steps):
        continuations = []
        for tokens, total, state in beam:
            last = torch.tensor([tokens[-1] if tokens else vocabulary.start])
            step = decoder.step(last, state, memory)
            for token, log_prob in enumerate(step.log_probs[0].tolist()):
                if token not in (vocabulary.pad, vocabulary.start):
                    continuations.append(((*tokens, token), total + log_prob, step.state))
        continuations.sort(key=lambda c: -c[1])
        beam = []
        for continuation in continuations[:places]:
            (finished if continuation[0][-1] == vocabulary.end else beam).append(continuation)
        places -= sum(c[0][-1] == vocabulary.end for c in continuations[:places])
        if not beam:
            break
    chosen = finished or beam
    return max(chosen, key=lambda c: c[1])[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("beam_size", [1, 2, 3, 5])
@torch.no_grad()
def test_batched_search_says_what_a_literal_search_of_each_image_says(seed, beam_size):
    captioner = make_captioner(seed)
    annotations = make_annotations(captioner, 6)
    batched = beam_search(captioner, annotations, beam_size, max_steps=12)
    for image in range(6):
        expected = literal_beam(captioner, annotations[image : image + 1], beam_size, 12)
        assert batched[image].token_ids == expected


@torch.no_grad()
def test_a_beam_as_wide_as_all_captions_finds_the_most_probable_one():
    captioner = make_captioner(2, sharpness=1.0)
    annotations = make_annotations(captioner, 3)
    sayable = [3, 4, 5]
    captions = [(*words, 2) for length in range(4) for words in product(sayable, repeat=length)]
    for image, hypothesis in enumerate(beam_search(captioner, annotations, 200, max_steps=4)):
        best = max(captions, key=lambda c: score(captioner, annotations[image : image + 1], c))
        assert hypothesis.token_ids == best


@torch.no_grad()
def test_beam_size_one_takes_the_likeliest_word_at_every_step():
    captioner = make_captioner(3)
    annotations = make_annotations(captioner, 4)
    for image, hypothesis in enumerate(beam_search(captioner, annotations, 1, max_steps=10)):
        for t, token in enumerate(hypothesis.token_ids):
            prefix = torch.tensor([[*hypothesis.token_ids[:t], 0]])
            log_probs = captioner.decoder(annotations[image : image + 1], prefix, 1).log_probs[0, t]
            log_probs[[0, 1]] = -torch.inf
            assert token == int(log_probs.argmax())


@pytest.mark.parametrize("beam_size", [1, 3, 5])
@torch.no_grad()
def test_captions_do_not_depend_on_the_batch_size(beam_size):
    captioner = make_captioner(4)
    annotations = make_annotations(captioner, 20)
    together = beam_search(captioner, annotations, beam_size, max_steps=15)
    for size in (1, 7):
        parts = [
            h
            for part in annotations.split(size)
            for h in beam_search(captioner, part, beam_size, max_steps=15)
        ]
        assert [h.token_ids for h in parts] == [h.token_ids for h in together]


@torch.no_grad()
def test_scores_and_alphas_are_those_of_the_caption_read_again():
    captioner = make_captioner(5)
    annotations = make_annotations(captioner, 5)
    for image, hypothesis in enumerate(beam_search(captioner, annotations, 3, max_steps=15)):
        again = captioner.decoder(annotations[image : image + 1], torch.tensor([hypothesis.token_ids]), 1)
        chosen = again.log_probs[0].gather(1, torch.tensor(hypothesis.token_ids).unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(torch.tensor(hypothesis.word_log_probs), chosen, atol=1e-5, rtol=0)
        torch.testing.assert_close(hypothesis.alphas, again.alphas[0], atol=1e-6, rtol=0)
        assert hypothesis.log_prob_nats == pytest.approx(float(chosen.sum()), abs=1e-4)


@torch.no_grad()
def test_a_caption_that_never_ends_is_returned_as_unfinished():
    captioner = make_captioner(6)
    captioner.decoder.output.bias[captioner.vocabulary.end] = -1e6
    for hypothesis in beam_search(captioner, make_annotations(captioner, 3), 3, max_steps=7):
        assert not hypothesis.finished
        assert len(hypothesis.token_ids) == 7
        assert hypothesis.alphas.shape == (7, 9)


@torch.no_grad()
def test_pad_and_start_are_never_said_however_likely():
    captioner = make_captioner(7)
    captioner.decoder.output.bias[[captioner.vocabulary.pad, captioner.vocabulary.start]] = 50.0
    for hypothesis in beam_search(captioner, make_annotations(captioner, 3), 2, max_steps=6):
        assert not {captioner.vocabulary.pad, captioner.vocabulary.start} & set(hypothesis.token_ids)


@torch.no_grad()
def test_no_images_give_no_captions():
    captioner = make_captioner(8)
    assert beam_search(captioner, torch.zeros(0, 9, 80), 3) == []


def test_decoding_keeps_no_gradients():
    captioner = make_captioner(9)
    (hypothesis,) = beam_search(captioner, make_annotations(captioner, 1), 2, max_steps=5)
    assert not hypothesis.alphas.requires_grad


@torch.no_grad()
def test_scores_that_are_not_numbers_are_an_error_not_a_missing_caption():
    captioner = make_captioner(10)
    annotations = make_annotations(captioner, 3)
    annotations[1] = torch.nan
    with pytest.raises(CheckpointError, match="word scores are not numbers"):
        beam_search(captioner, annotations, 2, max_steps=5)
