"""Batched beam search against exhaustive enumeration and literal searches of one image at a time."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch

from models.beam import DECODINGS, DecodingRules, beam_search
from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig
from models.errors import CheckpointError
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

PAD, START, END, UNK, A, B = range(6)
WORDS = ("<pad>", "<start>", "<end>", "<unk>", "a", "b")
TUTORIAL = DECODINGS["tutorial"]


def make_captioner(seed=0, *, sharpness=4.0, words=WORDS, end=0.0, special=0.0, **switches):
    """A captioner with random weights; a sharp output layer makes the hypotheses differ.

    `end` and `special` are added to the scores of `<end>`, and of `<pad>`, `<start>` and `<unk>`.
    """
    torch.manual_seed(seed)
    vocabulary = Vocabulary(tuple(words), pad=PAD, start=START, end=END, unk=UNK)
    config = DecoderConfig(
        len(words), 80, embedding_dim=8, hidden_dim=12, attention_dim=8, dropout=0.0, **switches
    )
    captioner = Captioner(EncoderConfig("scenes", 3), config, vocabulary, Preprocessing(size=24)).eval()
    with torch.no_grad():
        captioner.decoder.output.weight *= sharpness
        captioner.decoder.embedding.weight *= 2
        captioner.decoder.output.bias[END] += end
        captioner.decoder.output.bias[[PAD, START, UNK]] += special
    return captioner


def make_annotations(captioner, images, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return captioner.encode(torch.randn(images, 3, 24, 24, generator=generator) * 2)


def in_double(captioner, images, seed=1):
    """Captioner and annotations in which rounding decides nothing."""
    annotations = make_annotations(captioner, images, seed).double()
    captioner.decoder.double()
    return captioner, annotations


def first(captioner):
    return captioner.decoder.first_words(1, captioner.vocabulary.start)


@torch.no_grad()
def the_tutorials_search(captioner, annotations, k, max_steps=51):
    """One image, as caption.py of the PyTorch tutorial does it: the best finished sequence and its raw score.

    Where nothing finishes the tutorial fails; here it is the best of what is left, and False.
    """
    decoder, vocabulary = captioner.decoder, captioner.vocabulary
    memory = decoder.remember(annotations)
    seqs, scores = [[]], [annotations.new_zeros(())]
    states, complete = [decoder.initial_state(annotations)], []
    for _ in range(max_steps):
        steps = [
            decoder.step(torch.tensor(seq[-1:]) if seq else first(captioner), state, memory)
            for seq, state in zip(seqs, states, strict=True)
        ]
        totals = torch.cat([total + step.log_probs[0] for total, step in zip(scores, steps, strict=True)])
        best, flat = totals.topk(k)
        extended = [
            (seqs[parent] + [word], total, steps[parent].state)
            for total, (parent, word) in zip(
                best, [divmod(i, len(vocabulary)) for i in flat.tolist()], strict=True
            )
        ]
        complete += [(seq, total) for seq, total, _ in extended if seq[-1] == vocabulary.end]
        going_on = [entry for entry in extended if entry[0][-1] != vocabulary.end]
        k = len(going_on)
        if k == 0:
            break
        seqs, scores, states = zip(*going_on, strict=True)
    if not complete:
        return tuple(seqs[0]), float(scores[0]), False
    values = [float(total) for _, total in complete]
    best_seq, _ = complete[values.index(max(values))]
    return tuple(best_seq), max(values), True


@torch.no_grad()
def literal_search(captioner, annotations, beam_size, rules, n_best, max_steps):
    """One image by any rules, without early stop: (tokens, score, finished) of the best, best first."""
    decoder, vocabulary = captioner.decoder, captioner.vocabulary
    memory = decoder.remember(annotations)
    beam, ended = [((), 0.0, decoder.initial_state(annotations))], []
    for _ in range(max_steps):
        continuations = []
        for tokens, total, state in beam:
            step = decoder.step(torch.tensor(tokens[-1:]) if tokens else first(captioner), state, memory)
            for token, log_prob in enumerate(step.log_probs[0].tolist()):
                if may_follow(vocabulary, rules, tokens, token) and log_prob > -torch.inf:
                    continuations.append(((*tokens, token), total + log_prob, step.state))
        continuations = sorted(continuations, key=lambda c: -c[1])[: beam_size - len(ended)]
        if not continuations:
            break
        ended += [c for c in continuations if c[0][-1] == vocabulary.end]
        beam = [c for c in continuations if c[0][-1] != vocabulary.end]
        if not beam:
            break
    kept = [c for c in beam if len(c[0]) == max_steps and rules.keep_unfinished]
    ranked = [(tokens, score(rules, total, len(tokens))) for tokens, total, _ in (ended + kept) or beam]
    ranked.sort(key=lambda c: -c[1])
    return [(tokens, value, tokens[-1] == vocabulary.end) for tokens, value in ranked[:n_best]]


def score(rules, log_prob, length):
    return log_prob / ((5 + length) / 6) ** rules.length_exponent


def may_follow(vocabulary, rules, tokens, token):
    if token in (vocabulary.pad, vocabulary.start) and not rules.allow_special:
        return False
    if token == vocabulary.unk and not rules.allow_unknown:
        return False
    return not repeats((*tokens, token), rules.no_repeat)


def repeats(tokens, length):
    runs = [tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1)]
    return length > 0 and len(set(runs)) < len(runs)


RULES = {
    "tutorial": TUTORIAL,
    "default": DecodingRules(),
    "by sum": DecodingRules(length_exponent=0.0),
    "by mean": DecodingRules(length_exponent=1.0, keep_unfinished=False),
    "no pair twice": DecodingRules(no_repeat=2),
    "no word twice": DecodingRules(no_repeat=1, allow_unknown=False, allow_special=True),
    "known words": DecodingRules(length_exponent=0.3, allow_unknown=False, no_repeat=3),
}
KINDS = {
    "any": {},
    "long": {"end": -3.0},
    "without end": {"end": -1e6},
    "says specials": {"special": 4.0},
    "short": {"end": 3.0},
    "from zeros": {"first_input": "zeros", "output": "deep", "gate": "vector", "end": -1.0},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tutorials_search_is_followed_to_the_letter(kind, dtype):
    unfinished = 0
    for seed in range(6):
        captioner = make_captioner(seed, **KINDS[kind])
        annotations = make_annotations(captioner, 2).to(dtype)
        captioner.decoder.to(dtype)
        for beam_size in (1, 2, 3, 5):
            captions = beam_search(captioner, annotations, beam_size, rules=TUTORIAL, max_steps=14)
            for image, (hypothesis,) in enumerate(captions):
                expected = the_tutorials_search(captioner, annotations[image : image + 1], beam_size, 14)
                assert (hypothesis.token_ids, hypothesis.finished) == (expected[0], expected[2])
                assert hypothesis.score == pytest.approx(expected[1], abs=1e-4)
                unfinished += not hypothesis.finished
    assert unfinished == {"without end": 48, "short": 0}.get(kind, unfinished)


def test_fifty_one_steps_are_the_tutorials_limit():
    captioner = make_captioner(0, end=-1e6)
    ((hypothesis,),) = beam_search(captioner, make_annotations(captioner, 1), 2, rules=TUTORIAL)
    assert len(hypothesis.token_ids) == 51
    assert not hypothesis.finished


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_any_rules_give_what_a_literal_search_without_early_stop_gives(rules, kind):
    for seed in range(3):
        captioner, annotations = in_double(make_captioner(seed, **KINDS[kind]), 2)
        for beam_size, n_best in ((1, 1), (2, 2), (4, 1), (4, 3), (5, 7)):
            captions = beam_search(
                captioner, annotations, beam_size, rules=RULES[rules], n_best=n_best, max_steps=9
            )
            for image, ranked in enumerate(captions):
                expected = literal_search(
                    captioner, annotations[image : image + 1], beam_size, RULES[rules], n_best, 9
                )
                assert [(h.token_ids, h.finished) for h in ranked] == [(t, f) for t, _, f in expected]
                assert [h.score for h in ranked] == pytest.approx([s for _, s, _ in expected], abs=1e-9)


@torch.no_grad()
def all_captions(captioner, annotations, rules, max_steps):
    """Every caption that may be said, with its score, best first."""
    vocabulary = captioner.vocabulary
    words = [token for token in range(len(vocabulary)) if token != vocabulary.end]
    captions = [(*said, vocabulary.end) for n in range(max_steps) for said in product(words, repeat=n)]
    if rules.keep_unfinished:
        captions += product(words, repeat=max_steps)
    captions = [c for c in captions if all(may_follow(vocabulary, rules, c[:t], c[t]) for t in range(len(c)))]
    padded = torch.tensor([[*c, *[0] * (max_steps - len(c))] for c in captions])
    log_probs = captioner.word_log_probs(annotations.expand(len(captions), -1, -1), padded)
    scored = [
        (c, score(rules, float(row[: len(c)].sum()), len(c)))
        for c, row in zip(captions, log_probs, strict=True)
    ]
    return sorted(scored, key=lambda c: -c[1])


@pytest.mark.parametrize(
    "rules",
    ["default", "by sum", "by mean", "no pair twice", "no word twice", "known words"],
)
def test_a_beam_as_wide_as_all_captions_ranks_them_all(rules):
    for seed, end in ((0, 0.0), (1, -3.0), (2, 2.0)):
        captioner, annotations = in_double(make_captioner(seed, sharpness=1.0, end=end), 2)
        captions = beam_search(captioner, annotations, 2000, rules=RULES[rules], n_best=40, max_steps=4)
        for image, ranked in enumerate(captions):
            expected = all_captions(captioner, annotations[image : image + 1], RULES[rules], 4)
            assert [h.token_ids for h in ranked] == [c for c, _ in expected[:40]]
            assert [h.score for h in ranked] == pytest.approx([s for _, s in expected[:40]], abs=1e-9)
            assert [h.finished for h in ranked] == [h.token_ids[-1] == END for h in ranked]


def test_a_better_unfinished_hypothesis_is_not_lost():
    captioner, annotations = in_double(make_captioner(1, sharpness=1.0, end=-6.0), 1)
    ((best, *others),) = beam_search(captioner, annotations, 2000, n_best=2000, max_steps=3)
    assert not best.finished
    assert any(other.finished for other in others)
    ((finished,),) = beam_search(captioner, annotations, 2000, rules=TUTORIAL, max_steps=3)
    assert finished.finished
    assert finished.log_prob_nats < best.log_prob_nats


@pytest.mark.parametrize("length", [1, 2, 3])
def test_no_run_of_words_is_said_twice(length):
    repeated = 0
    for seed in range(10):
        captioner = make_captioner(seed, end=-4.0, words=(*WORDS, *"cdefghijkl"))
        annotations = make_annotations(captioner, 4)
        plain = beam_search(captioner, annotations, 3, max_steps=12, n_best=3)
        strict = beam_search(
            captioner, annotations, 3, rules=DecodingRules(no_repeat=length), max_steps=12, n_best=3
        )
        assert not any(repeats(h.token_ids, length) for ranked in strict for h in ranked)
        repeated += sum(repeats(h.token_ids, length) for ranked in plain for h in ranked)
    assert repeated > 10  # so the rule had something to do


def test_a_limit_that_is_never_reached_changes_nothing():
    captioner = make_captioner(3)
    annotations = make_annotations(captioner, 6)
    plain = beam_search(captioner, annotations, 3, max_steps=8, n_best=3)
    strict = beam_search(captioner, annotations, 3, rules=DecodingRules(no_repeat=9), max_steps=8, n_best=3)
    assert [[h.token_ids for h in ranked] for ranked in plain] == [
        [h.token_ids for h in ranked] for ranked in strict
    ]


def test_unknown_words_are_said_unless_forbidden():
    captioner = make_captioner(4, special=6.0)
    annotations = make_annotations(captioner, 6)
    (plain, strict) = (
        beam_search(captioner, annotations, 3, rules=DecodingRules(allow_unknown=allowed), max_steps=8)
        for allowed in (True, False)
    )
    assert all(UNK in ranked[0].token_ids for ranked in plain)
    assert not any(UNK in ranked[0].token_ids for ranked in strict)


def test_pad_and_start_are_said_in_the_tutorials_way_only():
    captioner = make_captioner(7)
    with torch.no_grad():
        captioner.decoder.output.bias[[PAD, START]] = 50.0
    annotations = make_annotations(captioner, 3)
    for (hypothesis,) in beam_search(captioner, annotations, 2, max_steps=6):
        assert not {PAD, START} & set(hypothesis.token_ids)
    for (hypothesis,) in beam_search(captioner, annotations, 2, rules=TUTORIAL, max_steps=6):
        assert {PAD, START} & set(hypothesis.token_ids)


def test_a_token_with_several_roles_can_still_end_a_caption():
    captioner = make_captioner(5, end=2.0)
    captioner.vocabulary = replace(captioner.vocabulary, pad=END, start=END, unk=END)
    rules = DecodingRules(allow_unknown=False)
    for (hypothesis,) in beam_search(captioner, make_annotations(captioner, 3), 2, rules=rules, max_steps=9):
        assert hypothesis.finished


def test_where_every_way_is_forbidden_the_last_hypotheses_are_returned_as_unfinished():
    captioner, annotations = in_double(make_captioner(6), 4)
    with torch.no_grad():
        captioner.decoder.output.bias[END] = -torch.inf
    rules = DecodingRules(no_repeat=1)  # three words may be said, each once
    captions = beam_search(captioner, annotations, 30, rules=rules, n_best=30, max_steps=8)
    for image, ranked in enumerate(captions):
        expected = literal_search(captioner, annotations[image : image + 1], 30, rules, 30, 8)
        assert [(h.token_ids, h.finished) for h in ranked] == [(c, False) for c, _, _ in expected]
        assert {frozenset(h.token_ids) for h in ranked} == {frozenset({UNK, A, B})}
        assert all(h.score > -1e3 and h.alphas.shape == (3, 9) for h in ranked)


@pytest.mark.parametrize("max_steps", [4, 5, 6])
def test_a_dead_end_does_not_hide_the_ways_that_go_on(max_steps):
    captioner, annotations = in_double(make_captioner(6), 4)
    with torch.no_grad():
        captioner.decoder.output.bias[[END, UNK]] = -torch.inf
    # Of two words, "a a b a" can't go on without saying a pair again, but "a a b b a" is possible.
    rules = DecodingRules(no_repeat=2)
    captions = beam_search(captioner, annotations, 40, rules=rules, n_best=40, max_steps=max_steps)
    for image, ranked in enumerate(captions):
        expected = literal_search(captioner, annotations[image : image + 1], 40, rules, 40, max_steps)
        assert [(h.token_ids, h.finished) for h in ranked] == [(c, False) for c, _, _ in expected]
        assert {len(h.token_ids) for h in ranked} == {min(max_steps, 5)}


def scripted_captioner():
    """Says "a" or nothing, each with probability 1/2; after "a", the caption ends for certain."""
    captioner = make_captioner()
    decoder = captioner.decoder
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        decoder.embedding.weight[A, 0] = 1
        input_gate, forget_gate, candidate, output_gate = decoder.lstm.bias_ih.chunk(4)
        input_gate[0], forget_gate[0], output_gate[0] = 50, -50, 50
        decoder.lstm.weight_ih.chunk(4)[2][0, 0] = 50  # the candidate of unit 0 is 1 after "a", else 0
        decoder.output.weight[END, 0] = 1000
        decoder.output.bias += torch.tensor([-1000.0, -1000, 0, -1000, 0, -1000])
        assert candidate.eq(0).all()
    return captioner


@pytest.mark.parametrize("beam_size", [2, 3, 5])
@pytest.mark.parametrize("n_best", [1, 2])
def test_of_equal_sums_the_first_to_finish_wins_unless_length_counts(n_best, beam_size):
    captioner, annotations = scripted_captioner(), torch.ones(2, 9, 80)
    for rules, in_order in ((TUTORIAL, [(END,), (A, END)]), (DecodingRules(), [(A, END), (END,)])):
        for ranked in beam_search(captioner, annotations, beam_size, rules=rules, n_best=n_best):
            assert [h.token_ids for h in ranked] == in_order[:n_best]
            assert all(h.log_prob_nats == pytest.approx(math.log(0.5)) for h in ranked)
    assert the_tutorials_search(captioner, annotations[:1], beam_size)[0] == (END,)


def test_beam_size_one_takes_the_likeliest_word_at_every_step():
    captioner = make_captioner(3)
    annotations = make_annotations(captioner, 4)
    for image, (hypothesis,) in enumerate(beam_search(captioner, annotations, 1, max_steps=10)):
        for t, token in enumerate(hypothesis.token_ids):
            prefix = torch.tensor([[*hypothesis.token_ids[:t], 0]])
            log_probs = captioner.decoder(annotations[image : image + 1], prefix, START).log_probs[0, t]
            log_probs[[PAD, START]] = -torch.inf
            assert token == int(log_probs.argmax())


@pytest.mark.parametrize("decoding", ["default", "tutorial"])
@pytest.mark.parametrize("beam_size", [1, 3, 5])
def test_captions_do_not_depend_on_the_batch_size(beam_size, decoding):
    captioner = make_captioner(4, end=-1.0)
    annotations = make_annotations(captioner, 20)

    def caption(annotations):
        found = beam_search(
            captioner, annotations, beam_size, rules=DECODINGS[decoding], n_best=3, max_steps=15
        )
        return [[h.token_ids for h in ranked] for ranked in found]

    together = caption(annotations)
    for size in (1, 7):
        assert [ranked for part in annotations.split(size) for ranked in caption(part)] == together


@torch.no_grad()
def test_scores_and_alphas_are_those_of_the_caption_read_again():
    captioner = make_captioner(5)
    annotations = make_annotations(captioner, 5)
    for image, ranked in enumerate(beam_search(captioner, annotations, 3, n_best=3, max_steps=15)):
        for hypothesis in ranked:
            token_ids = torch.tensor([hypothesis.token_ids])
            again = captioner.decoder(annotations[image : image + 1], token_ids, START)
            chosen = again.log_probs[0].gather(1, token_ids.T).squeeze(1)
            torch.testing.assert_close(torch.tensor(hypothesis.word_log_probs), chosen, atol=1e-5, rtol=0)
            torch.testing.assert_close(hypothesis.alphas, again.alphas[0], atol=1e-6, rtol=0)
            total = float(chosen.sum())
            assert hypothesis.log_prob_nats == pytest.approx(total, abs=1e-4)
            expected = score(DecodingRules(), total, len(hypothesis.token_ids))
            assert hypothesis.score == pytest.approx(expected, abs=1e-4)


def test_a_memory_that_is_there_already_is_used():
    captioner = make_captioner(5)
    annotations = make_annotations(captioner, 5)
    with torch.no_grad():
        memory = captioner.decoder.remember(annotations)
        projected, looked_at = memory.projected.clone(), memory.annotations.clone()
    given = beam_search(captioner, annotations, 3, memory=memory)
    assert [h.token_ids for (h,) in given] == [h.token_ids for (h,) in beam_search(captioner, annotations, 3)]
    assert torch.equal(memory.projected, projected)
    assert torch.equal(memory.annotations, looked_at)


def test_the_longest_caption_is_the_models_own_unless_said_otherwise():
    captioner = make_captioner(6, end=-1e6)
    captioner.max_steps = 4
    annotations = make_annotations(captioner, 2)
    assert [len(h.token_ids) for (h,) in beam_search(captioner, annotations, 2)] == [4, 4]
    for (hypothesis,) in beam_search(captioner, annotations, 3, max_steps=7):
        assert not hypothesis.finished
        assert len(hypothesis.token_ids) == 7
        assert hypothesis.alphas.shape == (7, 9)


def test_no_images_give_no_captions():
    captioner = make_captioner(8)
    assert beam_search(captioner, torch.zeros(0, 9, 80), 3) == []


def test_decoding_keeps_no_gradients():
    captioner = make_captioner(9)
    ((hypothesis,),) = beam_search(captioner, make_annotations(captioner, 1), 2, max_steps=5)
    assert not hypothesis.alphas.requires_grad


@pytest.mark.parametrize("decoding", ["default", "tutorial"])
@pytest.mark.parametrize("images", [1, 3])
def test_scores_that_are_not_numbers_are_an_error_not_a_missing_caption(images, decoding):
    captioner = make_captioner(10)
    annotations = make_annotations(captioner, images)
    annotations[-1] = torch.nan
    with pytest.raises(CheckpointError, match="word scores are not numbers"):
        beam_search(captioner, annotations, 2, rules=DECODINGS[decoding], max_steps=5)


@pytest.mark.parametrize("decoding", ["default", "tutorial"])
def test_numbers_that_are_lost_on_the_way_are_an_error_even_if_something_has_finished(decoding):
    captioner = scripted_captioner()
    with torch.no_grad():
        captioner.decoder.embedding.weight[A, 1] = torch.nan  # read after "a" only
    with pytest.raises(CheckpointError, match="word scores are not numbers"):
        beam_search(captioner, torch.ones(1, 9, 80), 2, rules=DECODINGS[decoding], n_best=2)


def test_a_model_that_can_say_nothing_is_an_error():
    captioner = make_captioner(11)
    with torch.no_grad():
        captioner.decoder.output.bias[[END, UNK, A, B]] = -torch.inf
    with pytest.raises(CheckpointError, match="word scores are not numbers"):
        beam_search(captioner, make_annotations(captioner, 2), 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("rules", RULES)
def test_a_gpu_says_what_the_cpu_says(rules):
    captioner, annotations = in_double(make_captioner(12, end=-1.0), 8)
    on_cpu = beam_search(captioner, annotations, 4, rules=RULES[rules], n_best=4, max_steps=9)
    on_gpu = beam_search(captioner.cuda(), annotations.cuda(), 4, rules=RULES[rules], n_best=4, max_steps=9)
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        assert [h.token_ids for h in found] == [h.token_ids for h in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.score == pytest.approx(theirs.score, abs=1e-9)
            torch.testing.assert_close(ours.alphas, theirs.alphas)
