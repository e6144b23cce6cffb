"""Every loss and its gradient in float64, against the papers' equations, one caption and one step at a time."""

import copy
import itertools
import math

import pytest
import torch

from bench.throughput.literal_training import literal_loss, literal_step
from bench.training.objectives import (
    Captions,
    Whole,
    advantages,
    given_locations,
    hard_attention,
    likelihood,
    sample_captions,
    self_critical,
    teacher_forced,
)
from bench.training.recipe import AttentionPenalty, HardAttention
from models.decoder import AttentionDecoder, DecoderConfig

CELLS, DIM, VOCABULARY = 3, 4, 5
PAD, START, END = 0, 1, 2


def make_decoder(**switches):
    """The paper's decoder, far from even odds."""
    sizes = {"embedding_dim": 3, "hidden_dim": 4, "attention_dim": 3, "dropout": 0.0}
    torch.manual_seed(6)
    decoder = (
        AttentionDecoder(DecoderConfig(VOCABULARY, DIM, output="deep", **sizes | switches)).double().train()
    )
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.8)
    return decoder


@pytest.fixture(scope="module")
def decoder():
    return make_decoder()


@pytest.fixture(scope="module")
def annotations():
    torch.manual_seed(7)
    return torch.randn(3, CELLS, DIM, dtype=torch.float64)


@pytest.fixture(scope="module")
def captions():
    return made_captions([(0, (3, 4, END)), (2, (4, 3, 3, 4, 3, END)), (0, (END,)), (1, (3, END))])


def made_captions(rows, fill=PAD):
    width = max(len(words) for _, words in rows)
    return Captions(
        torch.tensor([image for image, _ in rows]),
        torch.tensor([[*words] + [fill] * (width - len(words)) for _, words in rows]),
        torch.tensor([len(words) for _, words in rows]),
    )


def rows_of(captions):
    return [
        (int(image), tuple(words[:length].tolist()))
        for image, words, length in zip(captions.image, captions.token_ids, captions.lengths, strict=True)
    ]


def whole_of(*parts):
    return Whole(sum(int(part.lengths.sum()) for part in parts), sum(len(part.lengths) for part in parts))


def literal(decoder, own, words, locations=None):
    """Eq. 1-7 and 13 of Xu et al. for one caption: log p of every word, alpha of every step."""
    w, squash = dict(decoder.named_parameters()), torch.tanh

    def layer(name, x):
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    mean = own.mean(dim=0)
    h, c = squash(layer("initial_hidden", mean)), squash(layer("initial_cell", mean))
    read, said, alphas = w["embedding.weight"][START], [], []
    for t, word in enumerate(words):
        relevance = torch.stack(
            [
                layer(
                    "attention_score",
                    torch.tanh(layer("annotation_projection", a) + layer("hidden_projection", h)),
                )[0]
                for a in own
            ]
        )
        alpha = relevance.exp() / relevance.exp().sum()
        seen = (
            sum(a * weight for a, weight in zip(own, alpha, strict=True))
            if locations is None
            else own[locations[t]]
        )
        z = torch.sigmoid(layer("gate", h)) * seen
        gates = w["lstm.weight_ih"] @ torch.cat([read, z]) + w["lstm.bias_ih"]
        i, f, g, o = (gates + w["lstm.weight_hh"] @ h + w["lstm.bias_hh"]).split(len(h))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        scores = layer("output", torch.tanh(layer("output_hidden", h) + read + layer("output_context", z)))
        said.append(scores[word] - scores.exp().sum().log())
        alphas.append(alpha)
        read = w["embedding.weight"][word]
    return torch.stack(said), torch.stack(alphas)


def gradient(value, decoder):
    parameters = [*decoder.parameters()]
    found = torch.autograd.grad(
        value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([each.flatten() for each in found])


def assert_same(decoder, loss, expected, atol=1e-12):
    assert math.isclose(loss.share.item(), expected.item(), abs_tol=atol)
    torch.testing.assert_close(gradient(loss.share, decoder), gradient(expected, decoder), atol=atol, rtol=0)


@pytest.mark.parametrize(
    "penalty", [None, AttentionPenalty(0.7, "mean"), AttentionPenalty(0.7, "sum")], ids=str
)
def test_the_likelihood_is_the_papers_equation_14_over_the_words_that_are_said(
    decoder, annotations, captions, penalty
):
    loss = likelihood(decoder, annotations, captions, whole_of(captions), start=START, penalty=penalty)
    nats, attention = 0.0, 0.0
    for image, words in rows_of(captions):
        said, alphas = literal(decoder, annotations[image], words)
        nats = nats - said.sum()
        attention = attention + sum((1 - alphas[:, cell].sum()) ** 2 for cell in range(CELLS))
    words, rows = whole_of(captions)
    term = torch.zeros(())
    if penalty:
        term = penalty.weight * (attention / words if penalty.over == "sum" else attention / rows / CELLS)
    assert_same(decoder, loss, nats / words + term)
    assert math.isclose(loss.nats, nats.item(), rel_tol=1e-12)
    assert math.isclose(loss.penalty, term.item(), rel_tol=1e-12)
    assert loss.reward == 0.0


SETTINGS = HardAttention(reinforce=0.3, entropy=0.05)
OBJECTIVES = {
    "likelihood": lambda *given, rows: likelihood(*given, start=START, penalty=AttentionPenalty(0.5, "mean")),
    "sum": lambda *given, rows: likelihood(*given, start=START, penalty=AttentionPenalty(0.5, "sum")),
    "hard attention": lambda decoder, annotations, captions, whole, rows: given_locations(
        decoder,
        annotations,
        captions,
        LOCATIONS[rows],
        whole,
        start=START,
        penalty=AttentionPenalty(0.5, "sum"),
        settings=SETTINGS,
        baseline=-3.0,
    ),
    "self-critical": lambda decoder, annotations, captions, whole, rows: self_critical(
        decoder, annotations, captions, ADVANTAGES[rows], whole, start=START
    ),
}
LOCATIONS = torch.randint(CELLS, (4, 6), generator=torch.Generator().manual_seed(2))
ADVANTAGES = torch.randn(4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("cuts", [[2], [1, 2, 3]], ids=["2 parts", "4 parts"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_shares_of_parts_add_up_to_the_whole(decoder, annotations, captions, objective, cuts):
    compute, everything = OBJECTIVES[objective], whole_of(captions)
    whole = compute(decoder, annotations, captions, everything, rows=torch.arange(4))
    parts = [
        compute(decoder, annotations, Captions(*(each[rows] for each in captions)), everything, rows=rows)
        for rows in torch.arange(4).tensor_split(cuts)
    ]
    assert_same(decoder, whole, sum(part.share for part in parts))
    for name in ("nats", "penalty", "reward"):
        assert math.isclose(sum(getattr(part, name) for part in parts), getattr(whole, name), abs_tol=1e-12)


def test_a_long_caption_counts_for_as_many_words_as_it_has(decoder, annotations):
    long, short = made_captions([(0, (3, 4) * 20 + (END,))]), made_captions([(1, (END,))])
    both = made_captions([*rows_of(long), *rows_of(short)])
    alone = [
        likelihood(decoder, annotations, part, whole_of(part), start=START, penalty=None).share.item()
        for part in (long, short)
    ]
    together = likelihood(decoder, annotations, both, whole_of(both), start=START, penalty=None).share.item()
    assert together == pytest.approx((41 * alone[0] + alone[1]) / 42, abs=1e-12)
    assert together != pytest.approx(sum(alone) / 2, rel=0.01)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nothing_enters_but_the_words_that_are_said_and_their_images(
    decoder, annotations, captions, objective
):
    padded = made_captions(rows_of(captions), fill=-(10**9))
    padded = padded._replace(token_ids=torch.cat([padded.token_ids, torch.full((4, 3), 10**9)], dim=1))
    besides = torch.cat([annotations, torch.full_like(annotations[:1], torch.nan)])
    expected, found = (
        OBJECTIVES[objective](decoder, images, rows, whole_of(captions), rows=torch.arange(4))
        for images, rows in ((annotations, captions), (besides, padded))
    )
    assert torch.equal(found.share, expected.share)
    assert torch.equal(gradient(found.share, decoder), gradient(expected.share, decoder))
    assert found[1:] == expected[1:]


def sequences(steps):
    return torch.tensor([*itertools.product(range(CELLS), repeat=steps)])


TWO_WORDS = made_captions([(1, (3, END))])


def exact_bound(decoder, own, words):
    """sum over all locations s of p(s | a) log p(y | s, a), and what it is made of."""
    chances, said = [], []
    for locations in sequences(len(words)):
        log_probs, alphas = literal(decoder, own, words, locations)
        chances.append(alphas[range(len(words)), locations].prod())
        said.append(log_probs.sum())
    chances, said = torch.stack(chances), torch.stack(said)
    assert chances.sum().item() == pytest.approx(1.0, abs=1e-12)
    return (chances * said).sum(), chances.detach(), said.detach()


def estimates(decoder, annotations, settings, baseline):
    """The share's gradient for each sequence of locations, times words."""
    whole = whole_of(TWO_WORDS)
    shares = [
        given_locations(
            decoder,
            annotations,
            TWO_WORDS,
            locations[None],
            whole,
            start=START,
            penalty=None,
            settings=settings,
            baseline=baseline,
        ).share
        for locations in sequences(2)
    ]
    return torch.stack([gradient(share, decoder) for share in shares]) * whole.words


@pytest.mark.parametrize("baseline", [0.0, -2.5, 40.0])
def test_hard_attentions_estimate_is_on_average_the_exact_gradient_of_the_bound(
    decoder, annotations, baseline
):
    bound, chances, _ = exact_bound(decoder, annotations[1], (3, END))
    found = estimates(decoder, annotations, HardAttention(reinforce=1.0, entropy=0.0), baseline)
    expected = -gradient(bound, decoder)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(chances @ found, expected, atol=1e-8, rtol=0)
    without = estimates(decoder, annotations, HardAttention(reinforce=0.0, entropy=0.0), baseline)
    assert (chances @ without - expected).abs().max() > 0.01  # what is left out matters here


def test_drawn_locations_are_attentions(decoder, annotations):
    """The mean of many drawn estimates, each within five standard errors of what enumeration says."""
    bound, chances, said = exact_bound(decoder, annotations[1], (3, END))
    settings, copies = HardAttention(reinforce=1.0, entropy=0.0, soft_share=0.0), 20_000
    many = made_captions([(1, (3, END))] * copies)
    loss = hard_attention(
        decoder,
        annotations,
        many,
        Whole(copies, copies),
        start=START,
        penalty=None,
        settings=settings,
        baseline=bound.item(),
        draw=torch.Generator().manual_seed(5),
    )
    each = estimates(decoder, annotations, settings, bound.item())
    mean = chances @ each
    errors = ((chances @ (each - mean) ** 2) / copies).sqrt()
    assert ((gradient(loss.share, decoder) - mean).abs() <= 5 * errors + 1e-12).all()
    error = math.sqrt(chances @ (said - bound.detach()) ** 2 / copies)
    assert 0 < abs(loss.reward / copies - bound.item()) <= 5 * error
    assert loss.nats == -loss.reward


def test_the_entropy_of_attention_is_rewarded(decoder, annotations, captions):
    def share(settings):
        return given_locations(
            decoder,
            annotations,
            captions,
            LOCATIONS,
            whole_of(captions),
            start=START,
            penalty=None,
            settings=settings,
            baseline=0.0,
        ).share

    entropy = 0.0
    for row, (image, words) in enumerate(rows_of(captions)):
        _, alphas = literal(decoder, annotations[image], words, LOCATIONS[row])
        entropy = entropy - sum(a * a.log() for alpha in alphas for a in alpha)
    found = share(HardAttention(entropy=0.3)) - share(HardAttention(entropy=0.0))
    expected = -0.3 * entropy / whole_of(captions).words
    assert found.item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(gradient(found, decoder), gradient(expected, decoder), atol=1e-12, rtol=0)


def test_attention_without_a_doubt_has_entropy_zero_and_a_gradient(annotations):
    decoder = make_decoder().float()
    with torch.no_grad():
        decoder.attention_score.weight.mul_(1e4)
    loss = given_locations(
        decoder,
        annotations.float(),
        TWO_WORDS,
        torch.zeros(1, 2, dtype=torch.long),
        whole_of(TWO_WORDS),
        start=START,
        penalty=None,
        settings=HardAttention(),
        baseline=0.0,
    )
    assert gradient(loss.share, decoder).isfinite().all()
    assert loss.share.isfinite()


def test_one_draw_decides_for_a_part_whether_attention_is_soft(decoder, annotations, captions):
    def draws(settings, seeds):
        return [
            hard_attention(
                decoder,
                annotations,
                captions,
                whole_of(captions),
                start=START,
                penalty=None,
                settings=settings,
                baseline=0.0,
                draw=torch.Generator().manual_seed(seed),
            )
            for seed in seeds
        ]

    whole = whole_of(captions)
    soft = likelihood(decoder, annotations, captions, whole, start=START, penalty=None)
    always = draws(HardAttention(entropy=0.0, soft_share=1.0), range(3))
    for loss in always:
        assert_same(decoder, loss, soft.share)
        assert loss.reward == pytest.approx(-soft.nats, abs=1e-12)
    found = [loss.reward for loss in draws(HardAttention(soft_share=0.25), range(100))]
    share = sum(abs(reward + soft.nats) < 1e-12 for reward in found) / 100
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 100)
    assert len(set(found)) > 20
    assert found[:5] == [loss.reward for loss in draws(HardAttention(soft_share=0.25), range(5))]


STEPS = 3


def all_captions():
    """Every caption of up to three steps: those that end, and those that are cut off."""
    going_on = [word for word in range(VOCABULARY) if word != END]
    for length in range(1, STEPS + 1):
        for words in itertools.product(going_on, repeat=length - 1):
            yield (*words, END)
    yield from itertools.product(going_on, repeat=STEPS)


def probabilities(decoder, own):
    found = {words: literal(decoder, own, words)[0].sum().exp() for words in all_captions()}
    assert sum(found.values()).item() == pytest.approx(1.0, abs=1e-12)
    return found


def test_the_self_critical_gradient_is_on_average_that_of_the_expected_reward(decoder, annotations):
    chances = probabilities(decoder, annotations[1])
    rewards = dict(zip(chances, torch.rand(len(chances), dtype=torch.float64) * 10, strict=True))
    expected = -gradient(sum(p * rewards[words] for words, p in chances.items()), decoder)
    every = made_captions([(1, words) for words in chances])
    weights = torch.stack([*chances.values()]).detach()
    for baseline in (0.0, 4.0):
        # Linear in the advantages, so that captions weighted by how often they are drawn give the average.
        told = weights * torch.stack([rewards[words] - baseline for words in chances])
        loss = self_critical(decoder, annotations, every, told, Whole(0, 1), start=START)
        torch.testing.assert_close(gradient(loss.share, decoder), expected, atol=1e-10, rtol=0)
    said = sum(literal(decoder, annotations[1], words)[0].sum().item() for words in chances)
    assert loss.nats == pytest.approx(-said, rel=1e-12)


def drawn(decoder, annotations, samples, seed=0, **switches):
    given = {"start": START, "end": END, "max_steps": STEPS} | switches
    draw = torch.Generator().manual_seed(seed)
    return sample_captions(decoder, annotations, samples=samples, draw=draw, **given)


def test_captions_are_drawn_as_often_as_they_are_probable(decoder, annotations):
    count = 20_000
    for image, said in enumerate(drawn(decoder, annotations, count)):
        assert len(said) == count
        for words, chance in probabilities(decoder, annotations[image]).items():
            p = chance.item()
            assert abs(said.count(words) / count - p) <= 5 * math.sqrt(p * (1 - p) / count)


def test_drawn_captions_end_once_or_are_as_long_as_may_be(decoder, annotations):
    for said in drawn(decoder, annotations, 50, max_steps=8):
        for words in said:
            assert END not in words[:-1]
            assert words[-1] == END or len(words) == 8
    assert {len(words) for said in drawn(decoder, annotations, 50, max_steps=8) for words in said} > {2, 3, 8}


def test_captions_are_drawn_and_scored_by_the_same_model_without_dropout(annotations, captions):
    dropping, plain = make_decoder(dropout=0.5), make_decoder()
    dropping.load_state_dict(plain.state_dict())
    assert (
        drawn(dropping, annotations, 5)
        == drawn(plain, annotations, 5)
        != drawn(plain, annotations, 5, seed=1)
    )
    losses = [
        self_critical(decoder, annotations, captions, ADVANTAGES, whole_of(captions), start=START).share
        for decoder in (dropping, plain)
    ]
    assert torch.equal(*losses)
    assert dropping.training
    drawn(dropping.eval(), annotations, 1)
    assert not dropping.training


def test_a_sample_is_compared_with_the_others_of_its_image():
    rewards = torch.tensor([[1.0, 4.0, 7.0], [2.0, 2.0, 2.0]], dtype=torch.float64)
    expected = [
        [row[k] - (sum(row) - row[k]) / (len(row) - 1) for k in range(len(row))] for row in rewards.tolist()
    ]
    torch.testing.assert_close(
        advantages(rewards), torch.tensor(expected, dtype=torch.float64), atol=1e-14, rtol=0
    )


def test_teacher_forcing_says_the_likeliest_word_after_the_true_ones(decoder, annotations, captions):
    told = teacher_forced(decoder.eval(), annotations, captions, start=START)
    decoder.train()
    nats = 0.0
    for (image, words), said in zip(rows_of(captions), told.said, strict=True):
        nats -= literal(decoder, annotations[image], words)[0].sum().item()
        for t in range(len(words)):
            options = [
                literal(decoder, annotations[image], (*words[:t], word))[0][-1].item()
                for word in range(VOCABULARY)
            ]
            assert said[t] == max(range(VOCABULARY), key=options.__getitem__)
        assert len(said) == len(words)
    assert told.nats == pytest.approx(nats, rel=1e-12)
    assert told.words == 12


def test_what_teacher_forcing_says_is_not_what_the_model_says_alone(decoder, annotations, captions):
    told = teacher_forced(decoder, annotations, captions, start=START).said
    alone = []
    for image, words in rows_of(captions):
        own = annotations[image][None]
        memory, state, read = decoder.remember(own), decoder.initial_state(own), decoder.first_words(1, START)
        said = []
        for _ in words:
            step = decoder.step(read, state, memory)
            read, state = step.log_probs.argmax(dim=1), step.state
            said.append(read.item())
        alone.append(tuple(said))
    assert told != alone
    assert [words[0] for words in told] == [words[0] for words in alone]


def test_a_step_of_training_is_the_tutorials_written_out_literally():
    switches = {"attention_activation": "relu", "initial_state": "linear", "gate": "vector"}
    torch.manual_seed(8)
    ours = AttentionDecoder(DecoderConfig(40, 12, 7, 9, 6, dropout=0.0, **switches)).train()
    theirs = copy.deepcopy(ours)
    annotations, lengths = torch.rand(5, 16, 12), torch.tensor([4, 9, 2, 9, 6])
    token_ids = torch.randint(1, 40, (5, 9)).masked_fill(torch.arange(9) >= lengths[:, None], PAD)
    captions = Captions(torch.arange(5), token_ids, lengths)
    optimizers = [torch.optim.Adam(decoder.parameters(), lr=0.01) for decoder in (ours, theirs)]
    for _ in range(3):
        loss = likelihood(
            ours,
            annotations,
            captions,
            whole_of(captions),
            start=START,
            penalty=AttentionPenalty(1.0, "mean"),
        )
        optimizers[0].zero_grad()
        loss.share.backward()
        torch.nn.utils.clip_grad_value_(ours.parameters(), 5.0)
        optimizers[0].step()
        expected = literal_step(theirs, optimizers[1], annotations, token_ids, lengths, START)
        assert loss.share.item() == pytest.approx(expected, abs=1e-5)
    double = copy.deepcopy(ours).double(), annotations.double()
    loss = likelihood(
        *double, captions, whole_of(captions), start=START, penalty=AttentionPenalty(1.0, "mean")
    )
    assert_same(double[0], loss, literal_loss(*double, token_ids, lengths, START))
