"""What a decoder's weights are before the first step, where a recipe's source does not leave that to its library."""

import torch
from torch import nn

from bench.training.recipe import Initial
from models.decoder import AttentionDecoder

_TUTORIAL_BOUND = 0.1
_PAPER_DEVIATION = 0.01


@torch.no_grad()
def initialise(decoder: AttentionDecoder, how: Initial) -> None:
    """Draws a decoder's weights anew, from torch's global generator.

    Args:
        decoder: as its layers drew it.
        how: torch leaves it so. tutorial: `init_weights` of the PyTorch tutorial's models.py. paper: `norm_weight` and
            `ortho_weight` of capgen.py in kelvinxu/arctic-captions.
    """
    if how == "tutorial":
        for weight in (decoder.embedding.weight, decoder.output.weight):
            weight.uniform_(-_TUTORIAL_BOUND, _TUTORIAL_BOUND)
        decoder.output.bias.zero_()
    elif how == "paper":
        for name, parameter in decoder.named_parameters():
            if parameter.dim() == 1:
                parameter.zero_()
            elif name == "annotation_projection.weight" or parameter.shape[0] != parameter.shape[1]:
                parameter.normal_(std=_PAPER_DEVIATION)  # the former there on purpose, square or not
            else:
                nn.init.orthogonal_(parameter)
        for gate in decoder.lstm.weight_hh.chunk(4):
            nn.init.orthogonal_(gate)
