"""Gradients at the annotation vectors: the encoder runs once per image, the decoder is what is explained."""

from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import Tensor

from explain.methods.base import Attributions, ExplainedCaption, score_difference
from explain.target import WordScoreFromGrid

STEPS = 20
"""Gauss-Legendre nodes of the path integral."""
BATCH_FLOATS = 2**22
"""Numbers in the annotation vectors of one batch of integrated gradients (16 MiB); bounds memory."""


def gradient(caption: ExplainedCaption) -> Attributions:
    """Euclidean norm, over the D entries of each annotation vector, of the gradient."""
    score = Saliency(WordScoreFromGrid(caption.captioner))
    return score.attribute(_inputs(caption), abs=False, additional_forward_args=caption.rows).norm(
        dim=2
    ), None


def input_x_gradient(caption: ExplainedCaption) -> Attributions:
    """Annotation vector times gradient, summed over D: HiResCAM on the annotation grid."""
    score = InputXGradient(WordScoreFromGrid(caption.captioner))
    return score.attribute(_inputs(caption), additional_forward_args=caption.rows).sum(dim=2), None


def integrated_gradients(caption: ExplainedCaption) -> Attributions:
    """Integrated gradients from the data set's mean annotation vectors, summed over D."""
    maps = IntegratedGradients(WordScoreFromGrid(caption.captioner)).attribute(
        _inputs(caption),
        baselines=caption.annotation_baseline.unsqueeze(0),
        additional_forward_args=caption.rows,
        n_steps=STEPS,
        internal_batch_size=max(caption.words, BATCH_FLOATS // caption.annotations.numel()),
    )
    return maps.sum(dim=2), score_difference(caption, caption.annotation_baseline)


def _inputs(caption: ExplainedCaption) -> Tensor:
    return caption.annotations.detach().repeat(caption.words, 1, 1).requires_grad_()  # (L, D) -> (W, L, D)
