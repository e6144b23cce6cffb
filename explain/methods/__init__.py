"""Every attribution method, by name. A new one is one function and one entry here."""

from explain.methods import attention, controls, grid, pixels, unsound
from explain.methods.answers import ANSWERS, answer_maps, answer_masks
from explain.methods.base import ExplainedCaption, Method, Place, WordMaps, pool_to_grid
from explain.methods.gradients import relu_modules
from models.captioner import Captioner

__all__ = [
    "ANSWERS", "METHODS", "ExplainedCaption", "Method", "Place", "WordMaps", "answer_maps", "answer_masks",
    "pool_to_grid",
]  # fmt: skip

_XU = "Xu et al. 2015, arXiv:1502.03044, eq. 4-6"
_SIMONYAN = "Simonyan et al. 2014, arXiv:1312.6034"
_IXG = "Shrikumar et al. 2016, arXiv:1605.01713"
_HIRES = f"{_IXG}; on the annotation grid: HiResCAM, arXiv:2011.08891"
_PATH = f"{_IXG}; partial gradient by one path"
_IG = "Sundararajan et al. 2017, arXiv:1703.01365"
_SMOOTH = "Smilkov et al. 2017, arXiv:1706.03825"
_ZEILER = "Zeiler & Fergus 2014, arXiv:1311.2901"
_SHAP = "Lundberg & Lee 2017, arXiv:1705.07874"
_GBP = "Springenberg et al. 2015, arXiv:1412.6806"
_CAM = "Selvaraju et al. 2017, arXiv:1610.02391"
_CLASS = "attention of the same word class"

_GREY = "the mean picture"
_MEAN = "the data set's mean annotation vectors"
_CELLS = 14 * 14
_WINDOWS = 13 * 13

_GBP_NOTE = (
    "hardly changes when the decoder's weights are randomised: it shows edges that any encoder would find"
)
_CAM_NOTE = (
    "for comparison with papers; unsuited to soft attention: there is no global average pooling behind the last map, "
    "and averaging gradients over places destroys where attention looks"
)
_ABLATION_NOTE = "one cell at a time: what two cells both show goes unseen"
_SHAP_NOTE = "sums to the difference of the scores only in expectation over its draws"
_KERNEL_NOTE = "fitted to draws: the sum over an object's cells is steadier than one cell"
_DEEP_LIFT_NOTE = (
    "gates and attention multiply two parts that depend on the image, for which DeepLift has no rule, so that it is "
    "not complete through an LSTM; Captum's also depends on the rest of the batch where a model has an nn.Softmax"
)
_LRP_NOTE = (
    "Captum has no rule for LSTM cells, so that only the encoder is explained; through residual networks its numbers "
    "grow without bound and stay finite, which is nonsense without an error"
)
_LAG_NOTE = "of another word's step: tells whether the model looks before or after it speaks"


def _relus(captioner: Captioner) -> int:
    return len(relu_modules(captioner))


_ALL = (
    Method("attention", "Attention", "attention", _XU, attention.attention),
    Method(
        "attention_minus_2",
        "Attention, two steps before",
        "attention",
        f"{_XU}; of another step",
        attention.lagged(-2),
        note=_LAG_NOTE,
    ),
    Method(
        "attention_minus_1",
        "Attention, one step before",
        "attention",
        f"{_XU}; of another step",
        attention.lagged(-1),
        note=_LAG_NOTE,
    ),
    Method(
        "attention_plus_1",
        "Attention, one step after",
        "attention",
        f"{_XU}; of another step",
        attention.lagged(1),
        note=_LAG_NOTE,
    ),
    Method(
        "attention_plus_2",
        "Attention, two steps after",
        "attention",
        f"{_XU}; of another step",
        attention.lagged(2),
        note=_LAG_NOTE,
    ),
    Method(
        "path_now",
        "Path: this step (grid)",
        "grid",
        _PATH,
        grid.path("now"),
        signed=True,
        forward=1,
        backward=1,
    ),
    Method(
        "path_past",
        "Path: earlier steps (grid)",
        "grid",
        _PATH,
        grid.path("past"),
        signed=True,
        forward=1,
        backward=1,
    ),
    Method(
        "path_init",
        "Path: initial state (grid)",
        "grid",
        _PATH,
        grid.path("init"),
        signed=True,
        forward=1,
        backward=1,
    ),
    Method(
        "grid_gradient",
        "Gradient (grid)",
        "grid",
        f"{_SIMONYAN}; norm over channels",
        grid.gradient,
        forward=1,
        backward=1,
    ),
    Method(
        "grid_input_x_gradient",
        "Input × gradient (grid)",
        "grid",
        _HIRES,
        grid.input_x_gradient,
        signed=True,
        forward=1,
        backward=1,
    ),
    Method(
        "grid_integrated_gradients",
        "Integrated gradients (grid)",
        "grid",
        f"{_IG}; from the mean annotation vectors",
        grid.integrated_gradients,
        signed=True,
        complete=True,
        baseline=_MEAN,
        steps=grid.STEPS,
        forward=grid.STEPS,
        backward=grid.STEPS,
    ),
    Method(
        "grid_ablation",
        "Cell ablation (grid)",
        "grid",
        f"{_ZEILER}; one cell after the other replaced",
        grid.ablation,
        signed=True,
        baseline=_MEAN,
        steps=_CELLS,
        forward=_CELLS + 1,
        note=_ABLATION_NOTE,
    ),
    Method(
        "grid_smoothgrad",
        "SmoothGrad (grid)",
        "grid",
        f"{_SMOOTH}; norm over channels of the mean gradient",
        grid.smoothgrad,
        steps=grid.SAMPLES,
        forward=grid.SAMPLES,
        backward=grid.SAMPLES,
        group="thorough",
    ),
    Method(
        "grid_gradient_shap",
        "GradientShap (grid)",
        "grid",
        f"{_SHAP}; from the mean annotation vectors",
        grid.gradient_shap,
        signed=True,
        baseline=_MEAN,
        steps=grid.SAMPLES,
        forward=grid.SAMPLES,
        backward=grid.SAMPLES,
        group="thorough",
        note=_SHAP_NOTE,
    ),
    Method(
        "grid_kernel_shap",
        "KernelShap (grid)",
        "grid",
        f"{_SHAP}; cells as players",
        grid.kernel_shap,
        signed=True,
        complete=True,
        baseline=_MEAN,
        steps=grid.COALITIONS,
        forward=grid.COALITIONS,
        group="thorough",
        note=_KERNEL_NOTE,
    ),
    Method(
        "pixel_saliency",
        "Saliency (pixels)",
        "pixels",
        f"{_SIMONYAN}; largest of the channels",
        pixels.saliency,
        resolution="pixels",
        forward=1,
        backward=1,
    ),
    Method(
        "pixel_input_x_gradient",
        "Input × gradient (pixels)",
        "pixels",
        _IXG,
        pixels.input_x_gradient,
        signed=True,
        group="thorough",
        resolution="pixels",
        forward=1,
        backward=1,
    ),
    Method(
        "pixel_integrated_gradients",
        "Integrated gradients (pixels)",
        "pixels",
        f"{_IG}; from the mean picture",
        pixels.integrated_gradients,
        signed=True,
        complete=True,
        resolution="pixels",
        baseline=_GREY,
        steps=pixels.STEPS,
        forward=pixels.STEPS,
        backward=pixels.STEPS,
    ),
    Method(
        "pixel_guided_backprop",
        "Guided backprop (pixels)",
        "pixels",
        f"{_GBP}; largest of the channels",
        pixels.guided_backprop,
        resolution="pixels",
        forward=1,
        backward=1,
        note=_GBP_NOTE,
        hooks=_relus,
    ),
    Method(
        "pixel_smoothgrad",
        "SmoothGrad (pixels)",
        "pixels",
        f"{_SMOOTH}; largest of the channels of the mean gradient",
        pixels.smoothgrad,
        resolution="pixels",
        steps=pixels.SAMPLES,
        forward=pixels.SAMPLES,
        backward=pixels.SAMPLES,
        group="thorough",
    ),
    Method(
        "pixel_occlusion",
        "Occlusion (pixels)",
        "pixels",
        f"{_ZEILER}; windows of two by two cells",
        pixels.occlusion,
        signed=True,
        resolution="pixels",
        baseline=_GREY,
        steps=_WINDOWS,
        forward=_WINDOWS + 1,
        group="thorough",
    ),
    Method(
        "pixel_grad_cam",
        "Grad-CAM (pixels)",
        "pixels",
        f"{_CAM}; the encoder's last map",
        pixels.grad_cam,
        resolution="grid",
        forward=1,
        backward=1,
        group="comparison",
        note=_CAM_NOTE,
    ),
    Method(
        "pixel_guided_grad_cam",
        "Guided Grad-CAM (pixels)",
        "pixels",
        f"{_CAM}; largest of the channels",
        pixels.guided_grad_cam,
        resolution="pixels",
        forward=2,
        backward=2,
        group="comparison",
        note=_CAM_NOTE,
        hooks=_relus,
    ),
    Method(
        "pixel_deep_lift",
        "DeepLift (pixels)",
        "pixels",
        "Shrikumar et al. 2017, arXiv:1704.02685; rescale rule",
        unsound.deep_lift,
        signed=True,
        complete=True,
        resolution="pixels",
        baseline=_GREY,
        forward=2,
        backward=2,
        group="unsound",
        note=_DEEP_LIFT_NOTE,
        hooks=unsound.deep_lift_modules,
    ),
    Method(
        "pixel_lrp",
        "LRP (pixels)",
        "pixels",
        "Bach et al. 2015, doi:10.1371/journal.pone.0130140; epsilon rule, encoder alone",
        unsound.lrp,
        signed=True,
        complete=True,
        resolution="pixels",
        forward=1,
        backward=1,
        group="unsound",
        note=_LRP_NOTE,
        hooks=unsound.lrp_modules,
    ),
    Method("uniform", "Uniform", "control", "every cell the same", controls.uniform),
    Method("centre", "Centre", "control", "Gaussian, a quarter of the side wide", controls.centre),
    Method("random", "Random", "control", "independent numbers per cell", controls.random),
    Method(
        "smooth_random",
        "Smooth random",
        "control",
        "independent numbers per cell, blurred",
        controls.smooth_random,
    ),
    Method("edges", "Edges", "control", "Sobel magnitude of the picture", controls.edges),
    Method(
        "other_image",
        "Attention of another image",
        "control",
        f"{_CLASS} in another image",
        controls.other_image,
    ),
    Method(
        "class_mean",
        "Mean attention of the word class",
        "control",
        f"mean {_CLASS} in other images",
        controls.class_mean,
    ),
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
"""Name -> method."""
