"""The subject of the suite: a captioner of the PyTorch tutorial's size with random weights, and inputs for it.

Speed does not depend on what the weights say, except through the length of the captions. So one hidden unit of the
LSTM is made a counter, and every caption of every search ends at the step that is asked for. As this is done by the
weights, it holds for any program that runs them.
"""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from models.captioner import Captioner
from models.decoder import AttentionDecoder, DecoderConfig
from models.encoder import EncoderConfig
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

STEPS = 12
"""Steps of a caption: eleven words, as on COCO, and `<end>`."""
WORDS = STEPS - 1
PICTURE_SIZE = (640, 480)
"""Width and height of most COCO pictures, in pixels."""


def full_size_captioner(*, steps: int = STEPS) -> Captioner:
    """ResNet-101 at 256 pixels, a 14 x 14 grid, 512 dimensions, 9,490 words: the tutorial's model on COCO.

    Args:
        steps: of every caption, `<end>` included.

    Returns:
        The captioner with random weights, the same ones every time, in eval mode.
    """
    size = 9490
    words = ("<pad>", *(f"word{number}" for number in range(1, size - 3)), "<unk>", "<start>", "<end>")
    vocabulary = Vocabulary(words, pad=0, unk=size - 3, start=size - 2, end=size - 1)
    config = DecoderConfig(
        size, 2048, attention_activation="relu", initial_state="linear", gate="vector", output="plain"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        captioner = Captioner(EncoderConfig("resnet101", 14), config, vocabulary, Preprocessing(size=256))
    with torch.no_grad():
        captioner.decoder.output.weight.mul_(
            20
        )  # scores as far apart as a trained model's, and few near-ties
        for name, weight in captioner.encoder.named_parameters():
            if name.endswith("bn3.weight"):
                weight.mul_(0.25)  # else 33 residual blocks with random weights multiply what they are given
    end_captions_at(captioner.decoder, steps, vocabulary.end)
    return captioner.eval()


@torch.no_grad()
def end_captions_at(decoder: AttentionDecoder, steps: int, end: int) -> None:
    """Makes hidden unit 0 count the steps, and `<end>` certain at step `steps` and impossible before.

    The unit's cell starts at -(steps - 1/2) / 4 and grows by 1/4 in each step, so that it is positive from step
    `steps` on; `<end>` is scored by that unit alone, and nothing else reads it.

    Args:
        decoder: with a plain output and a linear initial state; changed.
        steps: of every caption, `<end>` included.
        end: token id of `<end>`.
    """
    assert decoder.config.output == "plain"
    assert decoder.config.initial_state == "linear"
    lstm, width = decoder.lstm, decoder.config.hidden_dim
    open_gate = 20.0  # its sigmoid is 1 in float32
    for gate, bias in enumerate(
        (open_gate, open_gate, math.atanh(0.25), open_gate)
    ):  # input, forget, cell, output
        row = gate * width
        lstm.weight_ih[row], lstm.weight_hh[row] = 0.0, 0.0
        lstm.bias_ih[row], lstm.bias_hh[row] = bias, 0.0
    for reader in (
        lstm.weight_hh,
        decoder.hidden_projection.weight,
        decoder.gate.weight,
        decoder.output.weight,
    ):
        reader[:, 0] = 0.0
    for initial, bias in ((decoder.initial_hidden, 0.0), (decoder.initial_cell, -(steps - 0.5) / 4)):
        initial.weight[0], initial.bias[0] = 0.0, bias
    decoder.output.weight[end], decoder.output.bias[end] = 0.0, 0.0
    decoder.output.weight[end, 0] = 400.0  # times tanh(1/8): 50 nats above all other words, or below them


def random_annotations(images: int) -> Float[Tensor, "image cells dim"]:
    """Annotation vectors of the full-size captioner: non-negative, alike within an image, different between images.

    Args:
        images: how many; the first ones are the same, however many are asked for.

    Returns:
        (B, 196, 2048) on the CPU.
    """
    drawn = []
    for number in range(images):
        generator = torch.Generator().manual_seed(number)
        of_image, of_cells = (torch.randn(rows, 2048, generator=generator) for rows in (1, 196))
        drawn.append((of_image + of_cells / 2).relu())
    return torch.stack(drawn)


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Writes JPEG pictures as photographs are: smooth shapes in colour under some noise.

    Args:
        folder: where; made if it is not there.
        count: how many.

    Returns:
        Their paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        shapes = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(shapes.resize(PICTURE_SIZE, Image.Resampling.BICUBIC), dtype=np.float64)
        pixels = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:06d}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths
