"""The reference: beam search as the PyTorch tutorial does it, one image at a time, written out literally.

The tutorial (sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning, `caption.py`) is followed in everything that costs time
or decides a caption: the annotation vectors are laid out once per beam and projected again in every step, all words of
all beams are scored by a full log-softmax, scores are raw float32 sums, what has said `<end>` leaves the beam, which
goes on one place smaller, and after 51 steps the unfinished are dropped. `<pad>`, `<start>` and `<unk>` may be said.
One thing is kinder than the original: no gradients are recorded (it forgets to switch them off, which costs 2 to 5 %).

Only the weights come from our decoder. It shares no code with `models.beam` or `AttentionDecoder`, whose layers know
shortcuts, so that speed and captions can be held against it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from models.captioner import Captioner
from models.decoder import AttentionDecoder


@dataclass(frozen=True)
class LiteralCaption:
    """The most probable finished caption of one image."""

    token_ids: tuple[int, ...]
    """What was said, closing with `<end>`."""
    log_prob_nats: float
    """Raw float32 sum over the words."""
    alphas: Float[Tensor, "step cells"]
    """Where each step looked, on the annotations' device."""


@torch.no_grad()
def literal_search(
    captioner: Captioner, annotations: Float[Tensor, "1 cells dim"], beam_size: int, max_steps: int = 51
) -> LiteralCaption | None:
    """Decodes one image.

    Args:
        captioner: in eval mode.
        annotations: from `captioner.encode`, of one image.
        beam_size: K, at most as many as there are words.
        max_steps: longest caption in steps, `<end>` included.

    Returns:
        The best finished caption, or None where nothing finished: there the tutorial crashes.
    """
    decoder, vocabulary = captioner.decoder, captioner.vocabulary
    _, cells, dim = annotations.shape
    device = annotations.device
    places = beam_size
    annotations = annotations.expand(places, cells, dim)
    hidden, cell = _first_state(decoder, annotations)
    words = torch.full((places, 1), vocabulary.start, dtype=torch.long, device=device)
    captions = words
    scores = torch.zeros(places, 1, device=device)
    alphas = torch.ones(places, 1, cells, device=device)
    finished: list[LiteralCaption] = []
    for t in range(max_steps):
        if t == 0 and decoder.config.first_input == "zeros":
            embedded = torch.zeros(places, decoder.config.embedding_dim, device=device)
        else:
            embedded = functional.embedding(words, decoder.embedding.weight).squeeze(1)
        log_probs, alpha, hidden, cell = _step(decoder, annotations, embedded, hidden, cell)
        totals = scores.expand_as(log_probs) + log_probs
        # In the first step all beams are the same, so only the first is looked at.
        best, flat = (totals[0] if t == 0 else totals.view(-1)).topk(places)
        parents, next_words = flat // len(vocabulary), flat % len(vocabulary)
        captions = torch.cat([captions[parents], next_words.unsqueeze(1)], dim=1)
        alphas = torch.cat([alphas[parents], alpha[parents].unsqueeze(1)], dim=1)
        going_on = [i for i, word in enumerate(next_words.tolist()) if word != vocabulary.end]
        finished += [
            LiteralCaption(tuple(captions[i, 1:].tolist()), float(best[i]), alphas[i, 1:])
            for i in range(places)
            if i not in going_on
        ]
        places = len(going_on)
        if places == 0:
            break
        captions, alphas, annotations = captions[going_on], alphas[going_on], annotations[parents[going_on]]
        hidden, cell = hidden[parents[going_on]], cell[parents[going_on]]
        scores, words = best[going_on].unsqueeze(1), next_words[going_on].unsqueeze(1)
    return max(finished, key=lambda caption: caption.log_prob_nats, default=None)  # the first of equals


def _first_state(
    decoder: AttentionDecoder, annotations: Float[Tensor, "beam cells dim"]
) -> tuple[Float[Tensor, "beam hidden"], Float[Tensor, "beam hidden"]]:
    if decoder.config.initial_state == "zero":
        zeros = torch.zeros(len(annotations), decoder.config.hidden_dim, device=annotations.device)
        return zeros, zeros
    mean = annotations.mean(dim=1)
    hidden, cell = _linear(mean, decoder.initial_hidden), _linear(mean, decoder.initial_cell)
    return (hidden.tanh(), cell.tanh()) if decoder.config.initial_state == "tanh" else (hidden, cell)


def _step(
    decoder: AttentionDecoder,
    annotations: Float[Tensor, "beam cells dim"],
    embedded: Float[Tensor, "beam embedding"],
    hidden: Float[Tensor, "beam hidden"],
    cell: Float[Tensor, "beam hidden"],
) -> tuple[
    Float[Tensor, "beam vocabulary"],
    Float[Tensor, "beam cells"],
    Float[Tensor, "beam hidden"],
    Float[Tensor, "beam hidden"],
]:
    """Log-probabilities of all words, alpha, and the next state."""
    config = decoder.config
    projected = _linear(annotations, decoder.annotation_projection)  # again, for every beam and step
    mixed = projected + _linear(hidden, decoder.hidden_projection).unsqueeze(1)
    mixed = mixed.relu() if config.attention_activation == "relu" else mixed.tanh()
    alpha = _linear(mixed, decoder.attention_score).squeeze(2).softmax(dim=1)
    context = (annotations * alpha.unsqueeze(2)).sum(dim=1)
    if config.gate != "none":
        context = _linear(hidden, decoder.gate).sigmoid() * context
    lstm = decoder.lstm
    hidden, cell = torch.lstm_cell(
        torch.cat([embedded, context], dim=1),
        (hidden, cell),
        lstm.weight_ih,
        lstm.weight_hh,
        lstm.bias_ih,
        lstm.bias_hh,
    )
    features = hidden
    if config.output == "deep":
        deep = _linear(hidden, decoder.output_hidden) + embedded + _linear(context, decoder.output_context)
        features = deep.tanh()
    return _linear(features, decoder.output).log_softmax(dim=1), alpha, hidden, cell


def _linear(rows: Float[Tensor, "*batch inputs"], layer: nn.Linear) -> Float[Tensor, "*batch outputs"]:
    return functional.linear(rows, layer.weight, layer.bias)
