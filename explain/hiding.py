"""Hiding parts of a picture: what a cell's pixels are replaced by."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu
from torch import Tensor

Operator = Literal["blur", "grey", "road"]
"""What hidden pixels show: the blurred picture, the mean colour, or what the pixels around them suggest."""
Hide = Callable[[Bool[np.ndarray, "row cells"]], Float[Tensor, "row 3 height width"]]
"""From the cells that stay to pictures in which all others are hidden."""

BLUR = 20 / 224
"""Standard deviation of the blur, as a share of the picture's side: the widest that TorchRay's extremal perturbations
use (Fong et al. 2019, arXiv:1910.08485). RISE (Petsiuk et al. 2018, arXiv:1806.07421) blurs pictures of 224 pixels with
5, which hides texture and not figures: the demo's words are still at .997 when a whole scene is blurred so."""
ROAD_NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, after normalisation, as in pytorch-grad-cam."""
_NOISE_STREAM = 2


def hider(
    image: Float[Tensor, "3 height width"], grid: tuple[int, int], operator: Operator, *, seed: int
) -> Hide:
    """Prepares a picture for having cells hidden.

    Args:
        image: preprocessed, so that 0 is the mean colour.
        grid: rows and columns of cells; a pixel belongs to the cell where its centre lies.
        operator: "blur" for the picture under a Gaussian blur of `BLUR`; "grey" for the mean colour; "road" for noisy
            linear imputation (`Imputer`, plus noise of `ROAD_NOISE`; where nothing stays, noise on the mean colour).
        seed: of "road"'s noise, which is the same in all pictures.

    Returns:
        A function that hides cells.
    """
    image = image.detach()
    cell = torch.from_numpy(cell_of_pixel((image.shape[1], image.shape[2]), grid))
    if operator == "road":
        rng = np.random.Generator(np.random.PCG64([seed, _NOISE_STREAM]))
        noise = ROAD_NOISE * rng.standard_normal(tuple(image.shape))
        return lambda kept: _impute_rows(image, torch.from_numpy(kept)[:, cell].numpy(), noise)
    other = torch.zeros_like(image) if operator == "grey" else blur(image)

    def hide(kept: Bool[np.ndarray, "row cells"]) -> Float[Tensor, "row 3 height width"]:
        stays = torch.from_numpy(kept)[:, cell].to(image.device)  # (R, L) -> (R, H, W)
        return torch.where(stays.unsqueeze(1), image, other)

    return hide


def cell_of_pixel(shape: tuple[int, int], grid: tuple[int, int]) -> Int[np.ndarray, "height width"]:
    """Which cell each pixel belongs to: the one where its centre lies, as in `explain.localisation.cell_counts`."""
    row, col = ((2 * np.arange(n) + 1) * cells // (2 * n) for n, cells in zip(shape, grid, strict=True))
    return np.asarray(row[:, None] * grid[1] + col)


def blur(image: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 height width"]:
    """The picture under a Gaussian blur of `BLUR`; pixels beyond the border are those nearest to them."""
    widths = (0.0, *(BLUR * side for side in image.shape[1:]))
    blurred = ndimage.gaussian_filter(image.double().cpu().numpy(), widths, mode="nearest")
    return torch.from_numpy(blurred).to(image)


class Imputer:
    """Linear imputation (ROAD, Rong et al. 2022, arXiv:2202.00449), without its noise.

    Each missing pixel is the weighted mean of its neighbours in the picture; direct ones weigh 1/6, diagonal ones 1/12.
    That is one linear system for all missing pixels. Where no pixel is known, all are 0.

    Args:
        image: in float64.
    """

    def __init__(self, image: Float[np.ndarray, "channel height width"]) -> None:
        self._image = image.reshape(len(image), -1)
        self._shape = image.shape
        beside = [
            sparse.diags_array([np.ones(n - 1)] * 2, offsets=(-1, 1), shape=(n, n)) for n in image.shape[1:]
        ]
        here = [sparse.eye_array(n) for n in image.shape[1:]]
        straight = sparse.kron(here[0], beside[1]) + sparse.kron(beside[0], here[1])
        self._weights = sparse.csr_array(straight / 6 + sparse.kron(beside[0], beside[1]) / 12)
        self._total = self._weights.sum(axis=1)

    def __call__(self, stays: Bool[np.ndarray, "height width"]) -> Float[np.ndarray, "channel height width"]:
        """Fills the gaps, where `stays` is false, from the pixels around them."""
        known, missing = np.flatnonzero(stays), np.flatnonzero(~stays)
        if len(known) == 0:
            return np.zeros(self._shape)
        filled = self._image.copy()
        if len(missing):
            weights = self._weights[missing]
            system = sparse.diags_array(self._total[missing]) - weights[:, missing]
            # The matrix is symmetric, which this ordering makes use of.
            solver = splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
            filled[:, missing] = solver.solve(weights[:, known] @ self._image[:, known].T).T
        return filled.reshape(self._shape)


def _impute_rows(
    image: Float[Tensor, "3 height width"],
    stays: Bool[np.ndarray, "row height width"],
    noise: Float[np.ndarray, "3 height width"],
) -> Float[Tensor, "row 3 height width"]:
    imputer = Imputer(image.double().cpu().numpy())
    pictures = [imputer(row) + np.where(row, 0.0, noise) for row in stays]
    return torch.from_numpy(np.stack(pictures)).to(image)
