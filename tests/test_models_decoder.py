"""The decoder's one step, against a literal re-implementation with numpy in float64, for every switch."""

from itertools import product

import numpy as np
import pytest
import torch

from models.decoder import AttentionDecoder, DecoderConfig, State

CELLS, DIM, VOCABULARY = 6, 5, 7


def make_decoder(**switches):
    config = DecoderConfig(
        VOCABULARY, DIM, embedding_dim=4, hidden_dim=3, attention_dim=8, dropout=0.5, **switches
    )
    torch.manual_seed(3)
    return AttentionDecoder(config).double().eval()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def literal_caption(decoder, annotations, token_ids, start):
    """Xu et al. 2015, eq. 1-7 and 13, one image, one loop; returns log-probabilities and alphas per step."""
    c = decoder.config
    w = {name: p.detach().numpy() for name, p in decoder.named_parameters()}

    def linear(name, x):
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    mean = annotations.mean(axis=0)
    for layer in range(c.initial_layers - 1 if c.initial_state != "zero" else 0):
        mean = np.maximum(linear(f"initial_layers.{layer}", mean), 0)
    if c.initial_state == "zero":
        h, cell = np.zeros(c.hidden_dim), np.zeros(c.hidden_dim)
    else:
        squash = np.tanh if c.initial_state == "tanh" else (lambda x: x)
        h, cell = squash(linear("initial_hidden", mean)), squash(linear("initial_cell", mean))
    previous = w["embedding.weight"][start] if c.first_input == "start" else np.zeros(c.embedding_dim)
    log_probs, alphas = [], []
    for token in token_ids:
        scores = []
        for a in annotations:
            projected = linear("annotation_projection", a)
            for layer in range(c.attention_layers - 1):
                projected = np.tanh(linear(f"attention_layers.{layer}", projected))
            hidden = projected + linear("hidden_projection", h)
            hidden = np.tanh(hidden) if c.attention_activation == "tanh" else np.maximum(hidden, 0)
            scores.append(linear("attention_score", hidden)[0])
        alpha = softmax(np.array(scores) if c.attention == "soft" else np.zeros(len(scores)))
        z = sum(alpha[i] * annotations[i] for i in range(len(annotations)))
        if c.gate == "shut":
            z = np.zeros_like(z)
        elif c.gate != "none":
            z = sigmoid(linear("gate", h)) * z
        x = np.concatenate([previous, z])
        i, f, g, o = np.split(
            w["lstm.weight_ih"] @ x + w["lstm.bias_ih"] + w["lstm.weight_hh"] @ h + w["lstm.bias_hh"], 4
        )
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(cell)
        features = h
        if c.output == "deep":
            features = np.tanh(linear("output_hidden", h) + previous + linear("output_context", z))
        log_probs.append(np.log(softmax(linear("output", features))))
        alphas.append(alpha)
        previous = w["embedding.weight"][token]
    return np.array(log_probs), np.array(alphas)


@pytest.mark.parametrize(
    ("attention", "attention_activation", "initial_state", "gate", "output", "first_input"),
    list(
        product(
            ("soft", "uniform"),
            ("tanh", "relu"),
            ("zero", "linear", "tanh"),
            ("none", "scalar", "vector", "shut"),
            ("plain", "deep"),
            ("start", "zeros"),
        )
    ),
)
def test_every_switch_equals_the_papers_equations_computed_literally(
    attention, attention_activation, initial_state, gate, output, first_input
):
    decoder = make_decoder(
        attention=attention,
        attention_activation=attention_activation,
        initial_state=initial_state,
        gate=gate,
        output=output,
        first_input=first_input,
    )
    annotations = torch.randn(2, CELLS, DIM, dtype=torch.float64)
    token_ids = torch.tensor([[3, 1, 6, 2], [5, 5, 0, 4]])
    with torch.no_grad():
        log_probs, alphas = decoder(annotations, token_ids, start=1)
    for row in range(2):
        expected, looked = literal_caption(
            decoder, annotations[row].numpy(), token_ids[row].tolist(), start=1
        )
        np.testing.assert_allclose(log_probs[row], expected, atol=1e-12)
        np.testing.assert_allclose(alphas[row], looked, atol=1e-12)


@pytest.mark.parametrize("attention_activation", ["tanh", "relu"])
@pytest.mark.parametrize("initial_state", ["zero", "linear", "tanh"])
@pytest.mark.parametrize(("initial_layers", "attention_layers"), [(2, 1), (1, 2), (3, 4)])
def test_further_layers_equal_the_papers_programs_computed_literally(
    attention_activation, initial_state, initial_layers, attention_layers
):
    decoder = make_decoder(
        attention_activation=attention_activation,
        initial_state=initial_state,
        initial_layers=initial_layers,
        attention_layers=attention_layers,
    )
    annotations = torch.randn(1, CELLS, DIM, dtype=torch.float64)
    with torch.no_grad():
        log_probs, alphas = decoder(annotations, torch.tensor([[3, 1, 6, 2]]), start=1)
    expected, looked = literal_caption(decoder, annotations[0].numpy(), [3, 1, 6, 2], start=1)
    np.testing.assert_allclose(log_probs[0], expected, atol=1e-12)
    np.testing.assert_allclose(alphas[0], looked, atol=1e-12)


def test_further_layers_add_weights_and_rename_none():
    plain, deep = make_decoder(), make_decoder(initial_layers=3, attention_layers=2)
    added = ["initial_layers.0", "initial_layers.1", "attention_layers.0"]
    assert set(deep.state_dict()) - set(plain.state_dict()) == {
        f"{name}.{part}" for name in added for part in ("weight", "bias")
    }
    assert set(plain.state_dict()) < set(deep.state_dict())
    assert not any("layers" in name for name in plain.state_dict())


def test_the_first_state_drops_units_of_its_hidden_layers_in_training():
    decoder = make_decoder(initial_layers=2).train()
    annotations = torch.randn(1, CELLS, DIM, dtype=torch.float64).expand(400, -1, -1)
    states = decoder.initial_state(annotations).hidden
    assert len(states.unique(dim=0)) > 3
    assert len(make_decoder().train().initial_state(annotations).hidden.unique(dim=0)) == 1


def test_a_step_is_its_two_parts():
    decoder = make_decoder(gate="vector", output="deep")
    memory = decoder.remember(torch.randn(2, CELLS, DIM, dtype=torch.float64))
    state = State(*torch.randn(2, 4, 3, dtype=torch.float64))
    for words in (None, torch.randint(VOCABULARY, (4,))):
        step, embedded = decoder.step(words, state, memory), decoder.embed(words, state)
        after, context, alpha = decoder.advance(embedded, state, memory)
        scores = decoder.score(embedded, after.hidden, context)
        assert torch.equal(step.log_probs, scores.log_softmax(dim=1))
        assert torch.equal(step.alpha, alpha)
        assert all(map(torch.equal, step.state, after))


def test_later_words_never_influence_earlier_steps():
    decoder = make_decoder()
    annotations = torch.randn(1, CELLS, DIM, dtype=torch.float64)
    one = decoder(annotations, torch.tensor([[3, 1, 6, 2]]), start=1).log_probs
    other = decoder(annotations, torch.tensor([[3, 1, 0, 5]]), start=1).log_probs
    assert torch.equal(one[:, :3], other[:, :3])


def test_permuting_the_batch_permutes_the_result():
    decoder = make_decoder(gate="vector", output="deep")
    annotations = torch.randn(3, CELLS, DIM, dtype=torch.float64)
    token_ids = torch.randint(VOCABULARY, (3, 4))
    order = [2, 0, 1]
    straight = decoder(annotations, token_ids, start=1)
    permuted = decoder(annotations[order], token_ids[order], start=1)
    torch.testing.assert_close(straight.log_probs[order], permuted.log_probs, atol=1e-12, rtol=0)


def test_moving_annotation_vectors_to_other_cells_moves_attention_with_them():
    decoder = make_decoder()
    annotations = torch.randn(1, CELLS, DIM, dtype=torch.float64)
    token_ids = torch.randint(VOCABULARY, (1, 4))
    order = torch.randperm(CELLS)
    straight = decoder(annotations, token_ids, start=1)
    moved = decoder(annotations[:, order], token_ids, start=1)
    torch.testing.assert_close(straight.alphas[:, :, order], moved.alphas, atol=1e-12, rtol=0)
    torch.testing.assert_close(straight.log_probs, moved.log_probs, atol=1e-12, rtol=0)


def mixing_decoder(**switches):
    """Wide enough that attention has to be mixed in several pieces, even of one image."""
    config = DecoderConfig(VOCABULARY, DIM, embedding_dim=4, hidden_dim=3, attention_dim=2**17, **switches)
    torch.manual_seed(5)
    return AttentionDecoder(config).double().eval()


@pytest.mark.parametrize("make", [make_decoder, mixing_decoder])
@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("attention_activation", ["tanh", "relu"])
def test_beams_that_share_a_memory_are_as_good_as_beams_with_a_copy_each(attention_activation, beams, make):
    decoder = make(attention_activation=attention_activation, gate="vector")
    annotations = torch.randn(2, CELLS, DIM, dtype=torch.float64, requires_grad=True)
    words = torch.randint(VOCABULARY, (2 * beams,))
    hidden, cell = (torch.randn(2 * beams, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def step(annotations):
        seen = decoder.step(words, State(hidden, cell), decoder.remember(annotations))
        outputs = (seen.log_probs, *seen.state, seen.alpha)
        total = sum((k + 1) * output.sin().sum() for k, output in enumerate(outputs))
        leaves = [annotations, hidden, cell, *decoder.parameters()]
        return outputs, torch.autograd.grad(total, leaves, allow_unused=True)

    shared, shared_gradients = step(annotations)
    copied, copied_gradients = step(annotations.repeat_interleave(beams, dim=0))
    per_image = copied_gradients[0].unflatten(0, (2, beams)).sum(dim=1)
    for ours, expected in zip(shared, copied, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(shared_gradients[0], per_image, atol=1e-10, rtol=0)
    for ours, expected in zip(shared_gradients[1:], copied_gradients[1:], strict=True):
        assert (ours is None) == (expected is None)
        if ours is not None:
            torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-9)


def test_a_step_looks_where_it_is_told():
    decoder = make_decoder(gate="vector")
    memory = decoder.remember(torch.randn(2, CELLS, DIM, dtype=torch.float64))
    state = State(*torch.randn(2, 4, 3, dtype=torch.float64))
    words = torch.randint(VOCABULARY, (4,))
    told = torch.randn(4, CELLS, dtype=torch.float64).softmax(dim=1)
    plain = decoder.step(words, state, memory)
    same = decoder.step(words, state, memory, alpha=decoder.attend(state, memory))
    assert all(torch.equal(a, b) for a, b in zip((plain[0], *plain[1]), (same[0], *same[1]), strict=True))
    seen = decoder.step(words, state, memory, alpha=told)
    assert torch.equal(seen.alpha, told)
    context = torch.einsum("bl,bld->bd", told, memory.annotations.repeat_interleave(2, dim=0))
    hidden, _ = decoder.lstm(
        torch.cat([decoder.embedding(words), decoder.gate_values(state) * context], dim=1), tuple(state)
    )
    torch.testing.assert_close(seen.state.hidden, hidden, atol=1e-12, rtol=0)


def test_memories_that_do_not_fit_the_beams_are_refused():
    decoder = make_decoder()
    memory = decoder.remember(torch.randn(2, CELLS, DIM, dtype=torch.float64))
    state = State(*torch.zeros(2, 3, 3, dtype=torch.float64))
    with pytest.raises(AssertionError):
        decoder.step(torch.zeros(3, dtype=torch.long), state, memory)


@pytest.mark.parametrize("attention_activation", ["tanh", "relu"])
def test_a_step_without_gradients_is_a_step_with_gradients(attention_activation):
    config = DecoderConfig(500, 64, gate="vector", attention_activation=attention_activation)
    torch.manual_seed(4)
    decoder = AttentionDecoder(config).eval()
    annotations, token_ids = torch.randn(3, 16, 64), torch.randint(500, (3, 6))
    expected = decoder(annotations, token_ids, start=1)
    with torch.no_grad():
        found = decoder(annotations, token_ids, start=1)
    torch.testing.assert_close(found.log_probs, expected.log_probs.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.alphas, expected.alphas.detach(), atol=1e-6, rtol=0)
