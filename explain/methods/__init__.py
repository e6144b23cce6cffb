"""Every attribution method, by name. A new one is one function and one line here."""

import torch

from explain.methods import controls, grid, pixels
from explain.methods.base import Attributions, ExplainedCaption, Method, WordMaps, pool_to_grid

__all__ = ["METHODS", "ExplainedCaption", "Method", "WordMaps", "pool_to_grid"]


def _attention(caption: ExplainedCaption) -> Attributions:
    return torch.from_numpy(caption.alphas), None


_XU = "Xu et al. 2015, arXiv:1502.03044, eq. 4-6"
_SIMONYAN = "Simonyan et al. 2014, arXiv:1312.6034"
_IXG = "Shrikumar et al. 2016, arXiv:1605.01713; on the annotation grid: HiResCAM, arXiv:2011.08891"
_IG = "Sundararajan et al. 2017, arXiv:1703.01365"
_GBP = "Springenberg et al. 2015, arXiv:1412.6806; largest of the channels"
_OTHER = "attention of the same word class in another image"

_ALL = (
    Method("attention", "Attention", "attention", _XU, _attention),
    Method("grid_gradient", "Gradient (grid)", "grid", f"{_SIMONYAN}; norm over channels", grid.gradient),
    Method(
        "grid_input_x_gradient", "Input × gradient (grid)", "grid", _IXG, grid.input_x_gradient, signed=True
    ),
    Method(
        "grid_integrated_gradients",
        "Integrated gradients (grid)",
        "grid",
        f"{_IG}; from the mean annotation vectors",
        grid.integrated_gradients,
        signed=True,
        complete=True,
    ),
    Method(
        "pixel_saliency",
        "Saliency (pixels)",
        "pixels",
        f"{_SIMONYAN}; largest of the channels",
        pixels.saliency,
    ),
    Method(
        "pixel_integrated_gradients",
        "Integrated gradients (pixels)",
        "pixels",
        f"{_IG}; from the mean picture",
        pixels.integrated_gradients,
        signed=True,
        complete=True,
    ),
    Method("pixel_guided_backprop", "Guided backprop (pixels)", "pixels", _GBP, pixels.guided_backprop),
    Method("uniform", "Uniform", "control", "every cell the same", controls.uniform),
    Method("centre", "Centre", "control", "Gaussian, a quarter of the side wide", controls.centre),
    Method("random", "Random", "control", "independent numbers per cell", controls.random),
    Method("edges", "Edges", "control", "Sobel magnitude of the picture", controls.edges),
    Method("other_image", "Attention of another image", "control", _OTHER, controls.other_image),
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
"""Name -> method."""
