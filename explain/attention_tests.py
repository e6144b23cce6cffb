"""Attention on trial: what becomes of a word when the step that says it is made to look elsewhere.

The model keeps the state in which it said the word, its earlier words and what it saw when saying them; only
alpha of this one step is replaced. If the word does not care, attention at this step does not explain it, however
well it points.

Permuted, uniform and adversarial attention follow Jain & Wallace (2019, arXiv:1902.10186), whose criticism is
Wiegreffe & Pinter (2019, arXiv:1908.04626); erasure follows Serrano & Smith (2019, arXiv:1906.03731).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from explain.localisation import mask_on_grid
from explain.methods.base import ExplainedCaption
from explain.target import frozen
from models.decoder import AttentionDecoder, Memory, State

EPSILON = 0.05
"""Total variation distance by which an adversary may move the distribution over words."""
STEPS_NATS = np.geomspace(3.0, 0.3, 30)
"""Length of each of an adversary's steps, in every logit: only the gradient's sign is followed, because its size spans
many orders. `torch.optim` would do, but loading it takes seconds."""
PENALTY = 8.0
"""What an adversary loses per unit of distance beyond `AIM`; the divergence that it gains is at most 1."""
AIM = 0.95 * EPSILON
RETREATS = (1.0, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02, 0.01, 0.0)
"""Where the ascent ends out of bounds, so much of its end is mixed with the rest of the model's own attention."""
NUMBERS_AT_A_TIME = 2**20
"""Word probabilities that are computed together: 4 MB, whatever the vocabulary's size."""
_LEAST = 1e-6  # bounds the logits of a start
_ALMOST_ZERO = 1e-30  # keeps the logarithm of a zero, and its gradient, finite


class Trial(NamedTuple):
    """One number per word.

    A drop is p(word) as the model looks less p(word) as it is made to look, -1 to 1: high where the word rests on
    where this step looks. A distance is the total variation distance of the two distributions over the whole
    vocabulary, 0 to 1: it also notices what the word's own probability does not.
    """

    permute_drop: Float[np.ndarray, " word"]
    """Mean over random permutations of alpha's cells."""
    permute_tvd: Float[np.ndarray, " word"]
    uniform_drop: Float[np.ndarray, " word"]
    """With the same weight on every cell."""
    uniform_tvd: Float[np.ndarray, " word"]
    other_object_drop: Float[np.ndarray, " word"]
    """Looking at the other thing that the caption could speak of; NaN where that is not known."""
    other_object_tvd: Float[np.ndarray, " word"]
    adversarial_drop: Float[np.ndarray, " word"]
    """With the attention that differs most from the model's own while the distance stays within `EPSILON`."""
    adversarial_tvd: Float[np.ndarray, " word"]
    """At most `EPSILON`."""
    adversarial_jsd: Float[np.ndarray, " word"]
    """Jensen-Shannon divergence of the adversary's attention from the model's own in bits, 0 to 1; a lower bound
    of what is possible. Of little weight: an adversary for one word is no model that attends like that (Wiegreffe
    & Pinter), and where annotation vectors have fewer dimensions than there are cells, very different attention
    gives the same context, even in a model whose words rest on where it looks."""
    erase_top_drop: Float[np.ndarray, " word"]
    """Without the cell that has the highest weight, the other weights scaled to sum to 1 again; NaN if they are
    all zero."""
    erase_top_tvd: Float[np.ndarray, " word"]
    erase_random_drop: Float[np.ndarray, " word"]
    """The same for another cell: the mean over all cells but the highest; NaN if there is no other."""
    erase_random_tvd: Float[np.ndarray, " word"]
    gate: Float[np.ndarray, " word"]
    """Mean over channels of the gate beta, 0 to 1: how much the step lets in of what it looks at, which serves as
    a score of how visual a word is; NaN without a gate."""


class _Said(NamedTuple):
    """How the model said each word of a caption."""

    memory: Memory  # of the one image
    blank: bool  # whether the first word is said without reading one; its `read` is then of no meaning
    read: Int[Tensor, " word"]
    state: State  # before each word
    alphas: Float[Tensor, "word cells"]
    probabilities: Float[Tensor, "word vocabulary"]
    beta: Float[Tensor, "word channels"] | None
    token_ids: Int[Tensor, " word"]


def attention_trial(caption: ExplainedCaption, *, draws: int = 100, seed: int) -> Trial:
    """Puts the attention of every word of a caption on trial.

    Erasure is computed for every cell, not drawn. The adversary is sought by gradient ascent on the logits of
    alpha, from uniform attention and from one that favours what the model ignores; unlike Jain & Wallace's, the
    adversaries of one word are sought independently of each other.

    Args:
        caption: with any number of words.
        draws: permutations per word, at least 1.
        seed: of the permutations; not negative.

    Returns:
        One number per word and measure. The captioner is left as it was found.
    """
    assert draws >= 1
    if caption.words == 0:
        return Trial(*(np.zeros(0) for _ in Trial._fields))
    decoder = caption.captioner.decoder
    rng = np.random.default_rng(seed)
    with frozen(caption.captioner):
        said = _said(caption)
        others = torch.from_numpy(_other_objects(caption)).to(said.alphas)
        adversaries = torch.cat([_adversaries(decoder, said, words) for words in _batches(said)])
        columns = [
            _try_word(decoder, said, word, rng=rng, draws=draws, other=others[word], far=adversaries[word])
            for word in range(caption.words)
        ]
    gate = np.full(caption.words, np.nan)
    if said.beta is not None:
        gate = said.beta.mean(dim=1).double().cpu().numpy()
    return Trial(**{name: np.array([word[name] for word in columns]) for name in columns[0]}, gate=gate)


@torch.no_grad()
def _said(caption: ExplainedCaption) -> _Said:
    """Says the caption again, step by step."""
    decoder = caption.captioner.decoder
    annotations = caption.annotations[None].clone()  # what inference mode made is of no use for gradients
    memory, state = decoder.remember(annotations), decoder.initial_state(annotations)
    read = first = decoder.first_words(1, caption.captioner.vocabulary.start)
    token_ids = torch.tensor(caption.token_ids[: caption.words], device=annotations.device)
    states, steps = [], []
    for token_id in torch.split(token_ids, 1):
        states.append(state)
        steps.append(decoder.step(read, state, memory))
        read, state = token_id, steps[-1].state
    before = State(*(torch.cat(parts) for parts in zip(*states, strict=True)))
    return _Said(
        memory,
        blank=first is None,
        read=torch.cat([token_ids[:1] if first is None else first, token_ids[:-1]]),
        state=before,
        alphas=torch.cat([step.alpha for step in steps]),
        probabilities=torch.cat([step.log_probs for step in steps]).exp(),
        beta=decoder.gate_values(before),
        token_ids=token_ids,
    )


def _batches(said: _Said) -> list[slice]:
    """Words that can be said in one batch: all, but a first one that reads nothing is said alone."""
    everything = [slice(0, 1), slice(1, None)] if said.blank else [slice(0, None)]
    return [words for words in everything if len(said.token_ids[words])]


def _probabilities(
    decoder: AttentionDecoder, said: _Said, words: slice, alphas: Float[Tensor, "word look cells"]
) -> Float[Tensor, "word look vocabulary"]:
    """What the model would say in place of each of some words, if it looked there."""
    looks = alphas.shape[1]
    read = None
    if not said.blank or words.start > 0:
        read = said.read[words].repeat_interleave(looks)
    state = State(*(part[words].repeat_interleave(looks, dim=0) for part in said.state))
    step = decoder.step(read, state, said.memory, alpha=alphas.flatten(0, 1))
    return step.log_probs.exp().view(*alphas.shape[:2], -1)


def _other_objects(caption: ExplainedCaption) -> Float[np.ndarray, "word cells"]:
    """Attention spread over the other thing that the caption could speak of; NaN where that is not known."""
    alphas = np.full(caption.alphas.shape, np.nan)
    for word, place in enumerate(caption.places or ()):
        if place is not None and place.other is not None and place.other.any():
            share = mask_on_grid(place.other, caption.captioner.grid).ravel()
            alphas[word] = share / share.sum()
    return alphas


@torch.no_grad()
def _try_word(
    decoder: AttentionDecoder,
    said: _Said,
    word: int,
    *,
    rng: np.random.Generator,
    draws: int,
    other: Float[Tensor, " cells"],
    far: Float[Tensor, "adversary cells"],
) -> dict[str, float]:
    """All that is measured of one word, by column of `Trial`."""
    alpha = said.alphas[word]
    cells = len(alpha)
    permuted = rng.permuted(np.tile(alpha.cpu().numpy(), (draws, 1)), axis=1)
    erased = alpha.repeat(cells, 1).fill_diagonal_(0)
    looks = {
        "permute": torch.from_numpy(permuted).to(alpha),
        "uniform": torch.full_like(alpha, 1 / cells)[None],
        "other_object": other[None],
        "erase": erased / erased.sum(dim=1, keepdim=True),
        "adversarial": far,
    }
    counts = [len(alphas) for alphas in looks.values()]
    moves = _moves(decoder, said, word, torch.cat(list(looks.values())))
    drops, tvds = (dict(zip(looks, np.split(move, np.cumsum(counts)[:-1]), strict=True)) for move in moves)
    top = int(alpha.argmax())
    jsd = _divergence(alpha, far).clamp(0, 1).double().cpu().numpy()
    best = int(np.where(tvds["adversarial"] <= EPSILON, jsd, -1.0).argmax())
    columns: dict[str, float] = {}
    for name in ("permute", "uniform", "other_object"):
        columns |= {f"{name}_drop": drops[name].mean(), f"{name}_tvd": tvds[name].mean()}
    return columns | {
        "adversarial_drop": drops["adversarial"][best],
        "adversarial_tvd": tvds["adversarial"][best],
        "adversarial_jsd": jsd[best],
        "erase_top_drop": drops["erase"][top],
        "erase_top_tvd": tvds["erase"][top],
        "erase_random_drop": np.delete(drops["erase"], top).mean() if cells > 1 else np.nan,
        "erase_random_tvd": np.delete(tvds["erase"], top).mean() if cells > 1 else np.nan,
    }


def _moves(
    decoder: AttentionDecoder, said: _Said, word: int, alphas: Float[Tensor, "look cells"]
) -> tuple[Float[np.ndarray, " look"], Float[np.ndarray, " look"]]:
    """Drop of the word's probability, and total variation distance, when the model looks elsewhere."""
    drops, tvds = [], []
    alpha, own, beta = said.alphas[word], said.probabilities[word], said.beta
    shut = beta is not None and not beta[word].any()
    for part in torch.split(alphas, max(1, NUMBERS_AT_A_TIME // len(own))):
        move = own - _probabilities(decoder, said, slice(word, word + 1), part[None])[0]
        # Rounding depends on the batch: what can't make a difference shall make none.
        idle = part.isfinite().all(dim=1) if shut else (part == alpha).all(dim=1)
        move[idle] = 0
        drops.append(move[:, said.token_ids[word]])
        tvds.append(move.abs().sum(dim=1) / 2)
    return torch.cat(drops).double().cpu().numpy(), torch.cat(tvds).clamp(max=1).double().cpu().numpy()


def _adversaries(
    decoder: AttentionDecoder, said: _Said, words: slice
) -> Float[Tensor, "word adversary cells"]:
    """Attention far from the model's own that hardly changes what is said.

    Maximises divergence - `PENALTY` * (distance - `AIM`)+ of each guess by itself.

    Args:
        decoder: with frozen weights.
        said: the caption.
        words: which words; they are said in one batch.

    Returns:
        Of each start: the most different attention within bounds that was met, or else the last one, and
        `RETREATS` from it. The last retreat is the model's own attention, so that something is within bounds.
    """
    alphas = said.alphas[words, None]
    own = said.probabilities[words, None]
    logits = torch.cat([torch.zeros_like(alphas), -(alphas + _LEAST).log()], dim=1)
    best, highest = logits.softmax(dim=2), logits.new_full(logits.shape[:2], -1.0)
    for length in STEPS_NATS.tolist():
        logits.requires_grad_()
        looks = logits.softmax(dim=2)
        jsd = _divergence(alphas, looks)
        tvd = (_probabilities(decoder, said, words, looks) - own).abs().sum(dim=2) / 2
        (gradient,) = torch.autograd.grad((jsd - PENALTY * (tvd - AIM).relu()).sum(), logits)
        reached = torch.where(tvd <= EPSILON, jsd, -1.0).detach()
        best = torch.where((reached >= highest)[..., None], looks.detach(), best)
        highest = torch.maximum(highest, reached)
        logits = logits.detach() + length * gradient.sign()
    share = torch.tensor(RETREATS).to(alphas)[:, None]
    # (W, S, L) -> (W, S, R, L) -> (W, S R, L)
    return (share * best.unsqueeze(2) + (1 - share) * alphas.unsqueeze(2)).flatten(1, 2)


def adversarial_attention(
    decoder: AttentionDecoder,
    word_ids: Int[Tensor, " row"] | None,
    state: State,
    memory: Memory,
    alphas: Float[Tensor, "row cells"],
) -> Float[Tensor, "row cells"]:
    """Where one step could look instead, as far as possible from where it does, and say almost the same.

    Args:
        decoder: whose weights are not changed, and get no gradient.
        word_ids: what the step reads; None at a first step that reads nothing.
        state: before the step, one row per hypothesis.
        memory: of one image.
        alphas: where the step looks.

    Returns:
        The most different attention that was found whose distribution over words lies within `EPSILON`.
    """
    with torch.inference_mode(False), torch.enable_grad():
        step = decoder.step(word_ids, state, memory, alpha=alphas)
        nothing = torch.zeros(len(alphas), dtype=torch.long, device=alphas.device)
        said = _Said(
            Memory(*(part.detach() for part in memory)),
            blank=word_ids is None,
            read=nothing if word_ids is None else word_ids,
            state=State(*(part.detach() for part in state)),
            alphas=alphas.detach(),
            probabilities=step.log_probs.exp().detach(),
            beta=None,
            token_ids=nothing,
        )
        far = _adversaries(decoder, said, slice(0, None))
        own = said.probabilities[:, None]
        with torch.no_grad():
            tvds = (_probabilities(decoder, said, slice(0, None), far) - own).abs().sum(dim=2) / 2
            jsds = torch.where(tvds <= EPSILON, _divergence(said.alphas[:, None], far), -1.0)
    return far[torch.arange(len(far), device=far.device), jsds.argmax(dim=1)]


def _divergence(
    alphas: Float[Tensor, "*#maps cells"], others: Float[Tensor, "*#maps cells"]
) -> Float[Tensor, "*maps"]:
    """Jensen-Shannon divergence in bits, 0 to 1; as in `explain.agreement`, but its gradient is finite."""
    mean = torch.log2((alphas + others) / 2 + _ALMOST_ZERO)
    kl, reverse_kl = (
        (part * (torch.log2(part + _ALMOST_ZERO) - mean)).sum(dim=-1) for part in (alphas, others)
    )
    return (kl + reverse_kl) / 2
