"""A captioner: encoder, decoder, vocabulary and preprocessing, which only make sense together."""

from contextlib import nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.decoder import AttentionDecoder, DecoderConfig
from models.encoder import EncoderConfig, TrunkEncoder, build_encoder
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

MAX_STEPS = 51
"""Longest caption in steps, `<end>` included: 50 words, as in the PyTorch tutorial."""
_PIXELS_AT_A_TIME = {"cpu": 2**18, "cuda": 2**22}
"""Pixels that pass through the encoder together: 4 images of 256 x 256 on a CPU, where more take memory and leave the
cache; 64 on a GPU."""


class Captioner(nn.Module):
    """One Show-Attend-Tell model, ready to encode, decode and be explained.

    Args:
        encoder_config: which encoder, and its grid.
        decoder_config: the decoder's switchboard.
        vocabulary: as many words as the decoder's output layer has rows.
        preprocessing: how a picture becomes the encoder's input.
        encoder_weights: torchvision weights to start from, by name or file; None for random ones.
        max_steps: longest caption in steps, `<end>` included, that the model's own program decodes: 51 in the
            PyTorch tutorial, 20 in mrFahrenhiet's.
    """

    def __init__(
        self,
        encoder_config: EncoderConfig,
        decoder_config: DecoderConfig,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        *,
        encoder_weights: str | None = None,
        max_steps: int = MAX_STEPS,
    ) -> None:
        super().__init__()
        assert decoder_config.vocabulary_size == len(vocabulary)
        self.encoder_config = encoder_config
        self.encoder = build_encoder(encoder_config, weights=encoder_weights)
        self.decoder = AttentionDecoder(decoder_config)
        self.vocabulary = vocabulary
        self.preprocessing = preprocessing
        self.max_steps = max_steps
        # What the encoder computes in where no gradients are wanted; bfloat16 is faster and changes numbers.
        self.encoder_dtype = torch.float32

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the annotation grid, (H_g, W_g)."""
        return self.encoder_config.grid, self.encoder_config.grid

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.embedding.weight.device

    def encode_exactly(self, exact: bool) -> None:
        """Whether `encode` gives up speed to compute, bit for bit, what the program of the checkpoint computes.

        Otherwise annotation vectors differ from that by about 1e-6 of the largest, which changes captions only where
        two are as good as equal.

        Args:
            exact: True for the program's own numbers.
        """
        if isinstance(self.encoder, TrunkEncoder):
            self.encoder.exact = exact

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch cells dim"]:
        """Annotation vectors of preprocessed images, one per grid cell, row by row.

        Without gradients, images pass through the encoder a few at a time, so that the memory which activations
        take does not grow with the batch, and in `encoder_dtype`.

        Args:
            images: on the captioner's device.

        Returns:
            Annotation vectors in float32.
        """
        if self.training or torch.is_grad_enabled():
            return self._encode(images)  # all at once: batch normalisation in training is over the batch
        pixels = images.shape[2] * images.shape[3]
        at_a_time = max(1, _PIXELS_AT_A_TIME.get(images.device.type, 2**22) // pixels)
        if isinstance(self.encoder, TrunkEncoder) and self.encoder.exact:
            at_a_time = 1  # as the tutorial does; the library chooses its kernels by the number of images
        in_float32 = self.encoder_dtype == torch.float32
        with nullcontext() if in_float32 else torch.autocast(images.device.type, self.encoder_dtype):
            return torch.cat([self._encode(part) for part in torch.split(images, at_a_time)]).float()

    def _encode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch cells dim"]:
        features: Tensor = self.encoder(images)
        return features.flatten(2).transpose(1, 2)  # (B, D, H_g, W_g) -> (B, L, D)

    def word_log_probs(
        self, annotations: Float[Tensor, "batch cells dim"], token_ids: Int[Tensor, "batch step"]
    ) -> Float[Tensor, "batch step"]:
        """Log-probability, in nats, of each word of given captions, earlier words being given."""
        log_probs: Tensor = self.decoder(annotations, token_ids, self.vocabulary.start).log_probs
        return log_probs.gather(2, token_ids.unsqueeze(2)).squeeze(2)  # (B, T, V) -> (B, T)
