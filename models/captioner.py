"""A captioner: encoder, decoder, vocabulary and preprocessing, which only make sense together."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.decoder import AttentionDecoder, DecoderConfig
from models.encoder import EncoderConfig, build_encoder
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary


class Captioner(nn.Module):
    """One Show-Attend-Tell model, ready to encode, decode and be explained.

    Args:
        encoder_config: which encoder, and its grid.
        decoder_config: the decoder's switchboard.
        vocabulary: as many words as the decoder's output layer has rows.
        preprocessing: how a picture becomes the encoder's input.
        encoder_weights: name of torchvision weights to start from; None for random ones.
    """

    def __init__(
        self,
        encoder_config: EncoderConfig,
        decoder_config: DecoderConfig,
        vocabulary: Vocabulary,
        preprocessing: Preprocessing,
        *,
        encoder_weights: str | None = None,
    ) -> None:
        super().__init__()
        assert decoder_config.vocabulary_size == len(vocabulary)
        self.encoder_config = encoder_config
        self.encoder = build_encoder(encoder_config, weights=encoder_weights)
        self.decoder = AttentionDecoder(decoder_config)
        self.vocabulary = vocabulary
        self.preprocessing = preprocessing

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the annotation grid, (H_g, W_g)."""
        return self.encoder_config.grid, self.encoder_config.grid

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.embedding.weight.device

    def encode(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch cells dim"]:
        """Annotation vectors of preprocessed images, one per grid cell, row by row."""
        features: Tensor = self.encoder(images)
        return features.flatten(2).transpose(1, 2)  # (B, D, H_g, W_g) -> (B, L, D)

    def word_log_probs(
        self, annotations: Float[Tensor, "batch cells dim"], token_ids: Int[Tensor, "batch step"]
    ) -> Float[Tensor, "batch step"]:
        """Log-probability, in nats, of each word of given captions, earlier words being given."""
        log_probs: Tensor = self.decoder(annotations, token_ids, self.vocabulary.start).log_probs
        return log_probs.gather(2, token_ids.unsqueeze(2)).squeeze(2)  # (B, T, V) -> (B, T)
