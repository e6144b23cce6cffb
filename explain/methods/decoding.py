"""What all words of one caption score over many inputs, and their gradients: each input is decoded once."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from models.captioner import Captioner
from models.decoder import Memory


def word_scores(
    captioner: Captioner, memory: Memory, token_ids: Sequence[int]
) -> Float[Tensor, "input word"]:
    """Scores every word of a caption, the words before it being given.

    Args:
        captioner: in eval mode.
        memory: what the decoder sees: one row per input.
        token_ids: the caption as far as it is scored.

    Returns:
        Log-probabilities in nats; the same as `WordScoreFromGrid`'s, for one decoder step a word and input.
    """
    decoder = captioner.decoder
    inputs = len(memory.annotations)
    state = decoder.initial_state(memory.annotations)
    read = decoder.first_words(inputs, captioner.vocabulary.start)
    scores = []
    for token in token_ids:
        step = decoder.step(read, state, memory)
        scores.append(step.log_probs[:, token])
        read = torch.full((inputs,), token, device=memory.annotations.device)
        state = step.state
    return torch.stack(scores, dim=1)


def word_gradients(
    captioner: Captioner, annotations: Float[Tensor, "input cells dim"], token_ids: Sequence[int]
) -> Float[Tensor, "input word cells dim"]:
    """Gradients of every word's score at the annotation vectors.

    One forward pass serves all words, and there is one backward pass per word over all inputs. For four inputs or
    more that is faster than one row per input and word.

    Args:
        captioner: in eval mode, frozen.
        annotations: of each input.
        token_ids: the caption as far as it is scored.

    Returns:
        Nats per unit of the annotation vectors.
    """
    annotations = annotations.detach().requires_grad_()
    scores = word_scores(captioner, captioner.decoder.remember(annotations), token_ids).sum(dim=0)
    return torch.stack(
        [torch.autograd.grad(score, annotations, retain_graph=True)[0] for score in scores], dim=1
    )
