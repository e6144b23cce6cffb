"""The reference for training: a step as the PyTorch tutorial takes it, written out literally.

The tutorial (sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning, `models.py` and `train.py`) is followed in everything
that costs time or decides the loss: captions are sorted by length and the batch gets smaller as they end; in every
step the annotation vectors are projected again, words are scored, and scores are written into a tensor of all steps,
out of which those that count are packed afterwards; the loss is the mean cross-entropy per word, and the mean over
captions and cells of (1 - sum of attention)^2; gradients are clamped, and Adam follows them. Dropout is left out, so
that losses can be compared.

Only the weights come from our decoder. It shares no code with `models` or `bench.training`, whose layers know
shortcuts.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from models.decoder import AttentionDecoder

ALPHA_C = 1.0
"""Weight of the attention term."""
CLAMP = 5.0
"""Largest value of a gradient."""


def literal_step(
    decoder: AttentionDecoder,
    optimizer: torch.optim.Optimizer,
    annotations: Float[Tensor, "batch cells dim"],
    token_ids: Int[Tensor, "batch step"],
    lengths: Int[Tensor, " batch"],
    start: int,
) -> float:
    """Forward, backward, clamped gradients, and a step of the optimizer.

    Args:
        decoder: with ReLU attention, a linear initial state, a gate per channel and a plain output; it is trained.
        optimizer: of its weights.
        annotations: of each caption's image.
        token_ids: the words to be said, `<end>` included, padded.
        lengths: of the captions.
        start: token id of `<start>`.

    Returns:
        The loss before the step.
    """
    loss = literal_loss(decoder, annotations, token_ids, lengths, start)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None:
                weight.grad.data.clamp_(-CLAMP, CLAMP)
    optimizer.step()
    return loss.item()


def literal_loss(
    decoder: AttentionDecoder,
    annotations: Float[Tensor, "batch cells dim"],
    token_ids: Int[Tensor, "batch step"],
    lengths: Int[Tensor, " batch"],
    start: int,
) -> Float[Tensor, ""]:
    """The tutorial's loss; arguments as in `literal_step`."""
    lengths, order = lengths.sort(descending=True)
    annotations, token_ids = annotations[order], token_ids[order]
    batch, cells, _ = annotations.shape
    steps = int(lengths[0])
    read = torch.cat([torch.full_like(token_ids[:, :1], start), token_ids[:, : steps - 1]], dim=1)
    embedded = functional.embedding(read, decoder.embedding.weight)
    mean = annotations.mean(dim=1)
    hidden, cell = _linear(mean, decoder.initial_hidden), _linear(mean, decoder.initial_cell)
    predictions = annotations.new_zeros(batch, steps, decoder.config.vocabulary_size)
    alphas = annotations.new_zeros(batch, steps, cells)
    for t in range(steps):
        live = sum(length > t for length in lengths.tolist())
        context, alpha = _look(decoder, annotations[:live], hidden[:live])
        context = _linear(hidden[:live], decoder.gate).sigmoid() * context
        lstm = decoder.lstm
        hidden, cell = torch.lstm_cell(
            torch.cat([embedded[:live, t], context], dim=1),
            (hidden[:live], cell[:live]),
            lstm.weight_ih,
            lstm.weight_hh,
            lstm.bias_ih,
            lstm.bias_hh,
        )
        predictions[:live, t] = _linear(hidden, decoder.output)
        alphas[:live, t] = alpha
    scores = pack_padded_sequence(predictions, lengths, batch_first=True).data
    targets = pack_padded_sequence(token_ids[:, :steps], lengths, batch_first=True).data
    loss = functional.cross_entropy(scores, targets)
    return loss + ALPHA_C * ((1.0 - alphas.sum(dim=1)) ** 2).mean()


def _look(
    decoder: AttentionDecoder,
    annotations: Float[Tensor, "batch cells dim"],
    hidden: Float[Tensor, "batch hidden"],
) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch cells"]]:
    projected = _linear(annotations, decoder.annotation_projection)  # again, in every step
    asked = _linear(hidden, decoder.hidden_projection)
    relevance = _linear((projected + asked.unsqueeze(1)).relu(), decoder.attention_score).squeeze(2)
    alpha = relevance.softmax(dim=1)
    return (annotations * alpha.unsqueeze(2)).sum(dim=1), alpha


def _linear(rows: Float[Tensor, "*batch inputs"], layer: nn.Linear) -> Float[Tensor, "*batch outputs"]:
    return functional.linear(rows, layer.weight, layer.bias)
