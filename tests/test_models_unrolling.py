"""Training's way through captions, against the decoder's own step, one caption at a time; every gradient in float64."""

import gc
from itertools import product

import pytest
import torch

from models.decoder import AttentionDecoder, DecoderConfig
from models.unrolling import unroll

CELLS, DIM, VOCABULARY, START = 6, 5, 7, 1
PAPER = {
    "initial_layers": 2,
    "attention_layers": 3,
    "output": "deep",
    "gate": "scalar",
    "first_input": "zeros",
}


def make_decoder(**switches):
    config = DecoderConfig(
        VOCABULARY, DIM, embedding_dim=4, hidden_dim=3, attention_dim=8, dropout=0.0, **switches
    )
    torch.manual_seed(3)
    return AttentionDecoder(config).double().train()


def step_by_step(decoder, annotations, image, token_ids, lengths):
    """Log-probabilities of the words and attention of every caption, from one step of one caption at a time."""
    said, alphas = [], []
    for row, number, length in zip(token_ids, image, lengths, strict=True):
        own = annotations[number : number + 1]
        memory, state, read = decoder.remember(own), decoder.initial_state(own), decoder.first_words(1, START)
        for word in row[:length]:
            step = decoder.step(read, state, memory)
            said.append(step.log_probs[0, word])
            alphas.append(step.alpha[0])
            state, read = step.state, word[None]
    return torch.stack(said), torch.stack(alphas)


def side_by_side(decoder, annotations, image, token_ids, lengths, **more):
    """The same, in the same order, from `unroll`."""
    found = unroll(decoder, annotations, image, token_ids, lengths, start=START, **more)
    order = torch.argsort(found.caption, stable=True)  # words come step by step
    log_probs = decoder.output(found.features).log_softmax(dim=1)
    return log_probs.gather(1, found.target[:, None])[order, 0], found.alphas[order]


def gradients(outputs, leaves):
    total = sum(
        ((k + 1) * output * torch.arange(1, output.numel() + 1).view_as(output)).sin().sum()
        for k, output in enumerate(outputs)
    )
    return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


CAPTIONS = {
    "one each": ([2, 0, 1], [2, 4, 1]),
    "some": ([0, 2, 0, 2, 2, 1], [3, 1, 1, 4, 2, 3]),
    "one image, and others without a caption": ([1, 1], [2, 2]),
    "one word": ([0], [1]),
}


@pytest.mark.parametrize("captions", CAPTIONS)
@pytest.mark.parametrize(
    "switches",
    [
        *(
            {"attention_activation": a, "gate": g, "output": o}
            for a, g, o in product(("tanh", "relu"), ("none", "scalar", "vector", "shut"), ("plain", "deep"))
        ),
        {"attention": "uniform", "initial_state": "zero"},
        PAPER,
    ],
    ids=str,
)
def test_captions_side_by_side_are_captions_one_by_one(switches, captions):
    decoder = make_decoder(**switches)
    annotations = torch.randn(3, CELLS, DIM, dtype=torch.float64, requires_grad=True)
    image, lengths = map(torch.tensor, CAPTIONS[captions])
    token_ids = torch.randint(VOCABULARY, (len(image), int(lengths.max())))
    leaves = [annotations, *decoder.parameters()]
    expected = step_by_step(decoder, annotations, image, token_ids, lengths)
    found = side_by_side(decoder, annotations, image, token_ids, lengths)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    for ours, theirs in zip(gradients(found, leaves), gradients(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


def test_annotations_that_want_no_gradient_change_no_other():
    decoder = make_decoder(gate="vector")
    annotations = torch.randn(2, CELLS, DIM, dtype=torch.float64)
    given = (torch.tensor([0, 1, 1]), torch.randint(VOCABULARY, (3, 4)), torch.tensor([4, 2, 3]))
    fixed = gradients(side_by_side(decoder, annotations, *given), [*decoder.parameters()])
    free = gradients(side_by_side(decoder, annotations.requires_grad_(), *given), [*decoder.parameters()])
    for one, other in zip(fixed, free, strict=True):
        torch.testing.assert_close(one, other, atol=1e-13, rtol=0)


def test_weights_that_want_no_gradient_get_none_and_change_no_other():
    decoder = make_decoder()
    given = (
        torch.randn(2, CELLS, DIM, dtype=torch.float64),
        torch.tensor([0, 1]),
        torch.randint(VOCABULARY, (2, 4)),
        torch.tensor([4, 2]),
    )
    everything = dict(
        zip(
            dict(decoder.named_parameters()),
            gradients(side_by_side(decoder, *given), [*decoder.parameters()]),
            strict=True,
        )
    )
    decoder.attention_score.requires_grad_(False)
    decoder.lstm.weight_hh.requires_grad_(False)
    wanted = {name: p for name, p in decoder.named_parameters() if p.requires_grad}
    for name, ours in zip(wanted, gradients(side_by_side(decoder, *given), [*wanted.values()]), strict=True):
        torch.testing.assert_close(ours, everything[name], atol=1e-13, rtol=0)


def test_a_second_way_back_is_as_good_as_the_first():
    decoder = make_decoder(gate="vector")
    annotations = torch.randn(2, CELLS, DIM, dtype=torch.float64, requires_grad=True)
    said, _ = side_by_side(
        decoder, annotations, torch.tensor([0, 1]), torch.randint(VOCABULARY, (2, 4)), torch.tensor([4, 2])
    )
    leaves = [annotations, *decoder.parameters()]
    first = torch.autograd.grad(said.sum(), leaves, retain_graph=True)
    second = torch.autograd.grad(said.sum(), leaves)
    assert all(map(torch.equal, first, second))


def test_padding_is_never_looked_at():
    decoder = make_decoder()
    annotations = torch.randn(2, CELLS, DIM, dtype=torch.float64)
    image, lengths = torch.tensor([0, 1]), torch.tensor([4, 2])
    token_ids = torch.randint(VOCABULARY, (2, 4))
    padded = torch.cat([token_ids, torch.full((2, 3), -100)], dim=1)
    padded[1, 2:] = 10**9
    one = side_by_side(decoder, annotations, image, token_ids, lengths)
    other = side_by_side(decoder, annotations, image, padded, lengths)
    assert all(map(torch.equal, one, other))


def test_a_step_looks_where_it_is_told_and_says_where_it_would_have_looked():
    decoder = make_decoder(gate="vector")
    annotations = torch.randn(2, CELLS, DIM, dtype=torch.float64)
    image, lengths = torch.tensor([1, 0, 1]), torch.tensor([2, 3, 1])
    token_ids = torch.randint(VOCABULARY, (3, 3))
    told = torch.randn(3, 3, CELLS, dtype=torch.float64).softmax(dim=2)
    seen = []

    def look(alpha, rows, step):
        seen.extend((int(row), step) for row in rows)
        return told[rows, step]

    said, alphas = side_by_side(decoder, annotations, image, token_ids, lengths, look=look)
    expected = []
    for row in range(3):
        own = annotations[image[row]][None]
        memory, state, read = decoder.remember(own), decoder.initial_state(own), decoder.first_words(1, START)
        for t in range(lengths[row]):
            wanted = decoder.attend(state, memory)
            step = decoder.step(read, state, memory, alpha=told[row, t][None])
            expected.append((step.log_probs[0, token_ids[row, t]], wanted[0]))
            state, read = step.state, token_ids[row, t][None]
    torch.testing.assert_close(said, torch.stack([word for word, _ in expected]), atol=1e-12, rtol=0)
    torch.testing.assert_close(alphas, torch.stack([alpha for _, alpha in expected]), atol=1e-12, rtol=0)
    assert sorted(seen) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]


class SideBySide(torch.nn.Module):
    def __init__(self, decoder, *given):
        super().__init__()
        self.decoder, self.given = decoder, given

    def forward(self, annotations):
        return side_by_side(self.decoder, annotations, *self.given)


@pytest.mark.parametrize("attention_activation", ["tanh", "relu"])
def test_gradients_are_differences(attention_activation):
    decoder = make_decoder(attention_activation=attention_activation, gate="vector", output="deep")
    image, lengths = map(torch.tensor, CAPTIONS["some"])
    module = SideBySide(decoder, image, torch.randint(VOCABULARY, (len(image), 4)), lengths)
    names, weights = zip(*module.named_parameters(), strict=True)

    def outputs(annotations, *weights):
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (annotations,))

    annotations = torch.randn(3, CELLS, DIM, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outputs, [annotations, *weights], fast_mode=True)


def test_attention_mixed_in_pieces_is_attention_mixed_at_once(monkeypatch):
    decoder = make_decoder(gate="vector")
    given = (
        torch.randn(4, CELLS, DIM, dtype=torch.float64),
        torch.tensor([0, 1, 2, 2, 3]),
        torch.randint(VOCABULARY, (5, 4)),
        torch.tensor([4, 2, 3, 1, 4]),
    )
    whole = side_by_side(decoder, *given)
    expected = gradients(whole, [*decoder.parameters()])
    monkeypatch.setattr(
        "models.summing._NUMBERS_AT_A_TIME", {"cpu": 200}
    )  # one image with two captions, or two
    pieces = side_by_side(decoder, *given)
    for ours, theirs in zip(
        (*pieces, *gradients(pieces, [*decoder.parameters()])), (*whole, *expected), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("switches", [{"gate": "vector", "attention_activation": "relu"}, PAPER], ids=str)
@pytest.mark.parametrize("tuned", [False, True], ids=["annotations fixed", "annotations trained"])
def test_bfloat16_comes_close_to_float32(switches, tuned):
    decoder = make_decoder(**switches).float()
    annotations = torch.randn(3, CELLS, DIM, requires_grad=tuned)
    image, lengths = map(torch.tensor, CAPTIONS["some"])
    token_ids = torch.randint(VOCABULARY, (len(image), int(lengths.max())))
    leaves = [*decoder.parameters(), *([annotations] if tuned else [])]

    def losses(precise):
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            # What an encoder computes in 16 bits has 16 bits.
            seen = annotations if precise or not tuned else annotations.bfloat16()
            said, alphas = side_by_side(decoder, seen, image, token_ids, lengths)
            total = -said.sum() + alphas.square().sum()
        found = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
        assert {gradient.dtype for gradient in found} == {torch.float32}
        return said.float(), torch.cat([gradient.flatten() for gradient in found])

    (said, gradient), (expected, wanted) = losses(False), losses(True)
    torch.testing.assert_close(said, expected, atol=0.03, rtol=0)
    assert not torch.equal(said, expected)
    assert torch.nn.functional.cosine_similarity(gradient, wanted, dim=0) > 0.999


@pytest.mark.parametrize("learned", [False, True], ids=["annotations given", "annotations learned"])
@pytest.mark.parametrize("attention", ["soft", "uniform"])
def test_nothing_of_a_step_outlives_it_until_the_garbage_collector_comes(learned, attention):
    decoder = make_decoder(attention=attention)
    image, lengths = torch.tensor([0, 1, 1]), torch.tensor([4, 3, 2])
    token_ids = torch.randint(1, VOCABULARY, (3, 4))

    def step():
        annotations = torch.randn(2, CELLS, DIM, dtype=torch.float64, requires_grad=learned)
        found = unroll(decoder, annotations, image, token_ids, lengths, start=START)
        (decoder.output(found.features).logsumexp(1).sum() + found.alphas.square().sum()).backward()
        decoder.zero_grad()

    def tensors():
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    step()
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        for _ in range(3):
            step()
        assert tensors() == before
    finally:
        gc.enable()
