"""The same maps, measured by outside programs: Quantus 0.6, scikit-learn, scikit-image and scipy.

Where a definition differs, the test says how and shows the difference. Quantus (LGPL) and what it brings are used
here only, and only where they are installed.
"""

import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import jensenshannon
from scipy.stats import pearsonr, spearmanr

from bench.data.scenes import SceneTruth, load_scenes
from explain.agreement import agreement
from explain.localisation import area_share, localise, mask_on_grid
from explain.ranking import TOP_SHARE

GRID = (14, 14)


@pytest.fixture(scope="module")
def quantus():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its docstrings, and of what it imports
        return pytest.importorskip("quantus", reason="Quantus is not installed")


@pytest.fixture(scope="module")
def words():
    """Masks of words of real scenes; for each a map that finds it more or less, without ties or negative values."""
    rng = np.random.default_rng(0)
    masks = [
        region.union
        for scene in load_scenes().select("test")[:8]
        for region in SceneTruth().regions(scene, scene.references[0].split())
        if region is not None
    ]
    noise = gaussian_filter(rng.random((len(masks), 112, 112)), (0, 2, 2))
    strength = np.linspace(0, 0.3, len(masks))[:, None, None]
    return noise + strength * gaussian_filter(np.array(masks, dtype=float), (0, 3, 3)), np.array(masks)


def ours(measure, maps, masks):
    return [
        float(getattr(localise(map_[None], mask), measure)[0]) for map_, mask in zip(maps, masks, strict=True)
    ]


def theirs(metric, maps, masks):
    """Quantus asks for a picture and a class as well, but measures nothing of them here."""
    found = metric(
        model=None,
        x_batch=np.zeros((len(maps), 1, *maps.shape[1:])),
        y_batch=np.zeros(len(maps), dtype=int),
        a_batch=maps[:, None].astype(np.float64),
        s_batch=masks[:, None],
    )
    return [float(value) for value in found]


def quiet(metric, **options):
    """As it is given: Quantus would divide by the highest value, or take absolute values, on its own."""
    return metric(**{"abs": False, "normalise": False, "disable_warnings": True} | options)


@pytest.mark.parametrize(
    ("measure", "name"),
    [
        ("mass", "RelevanceMassAccuracy"),
        ("rank", "RelevanceRankAccuracy"),
        ("auc", "AUC"),
        ("pointing", "PointingGame"),
    ],
)
def test_a_measure_is_that_of_quantus_on_maps_without_ties_and_negative_values(quantus, words, measure, name):
    np.testing.assert_allclose(
        ours(measure, *words), theirs(quiet(getattr(quantus, name)), *words), rtol=1e-10
    )


def test_attribution_localisation_of_quantus_is_mass(quantus, words):
    """Its denominator carries 1e-9, and a share above 1 would be NaN; it stops at nothing else here."""
    metric = quiet(quantus.AttributionLocalisation, positive_attributions=True)
    np.testing.assert_allclose(ours("mass", *words), theirs(metric, *words), rtol=1e-9)


def test_top_k_intersection_of_quantus_is_rank_where_k_is_the_size_of_the_mask(quantus, words):
    """It divides by k alone: a share of the top pixels, not the union that its name may suggest."""
    for map_, mask in zip(*words, strict=True):
        metric = quiet(quantus.TopKIntersection, k=int(mask.sum()))
        (share,) = theirs(metric, map_[None], mask[None])
        found = localise(map_[None], mask)
        assert found.rank[0] == pytest.approx(share)
        assert found.topm_iou[0] == pytest.approx(share / (2 - share))
        lifted = quiet(quantus.TopKIntersection, k=int(mask.sum()), concept_influence=True)
        assert theirs(lifted, map_[None], mask[None]) == pytest.approx([share / area_share(mask)])


def test_quantus_takes_signed_maps_as_they_are_where_we_read_the_positive_part(quantus, words):
    maps, masks = words
    signed = maps - 0.5
    assert np.abs(theirs(quiet(quantus.RelevanceMassAccuracy), signed, masks)).max() > 1.0
    positive = np.maximum(signed, 0.0)
    expected = theirs(quiet(quantus.RelevanceMassAccuracy), positive, masks)
    np.testing.assert_allclose(ours("mass", signed, masks), expected, rtol=1e-10)


def each_even(masks):
    """A constant map for each mask; Quantus refuses a batch that is constant as a whole."""
    return np.ones(masks.shape) * np.arange(1, len(masks) + 1)[:, None, None]


def test_quantus_counts_a_tie_at_the_top_as_a_hit_where_we_give_its_chance(quantus, words):
    _, masks = words
    even = each_even(masks)
    assert theirs(quiet(quantus.PointingGame), even, masks) == [1.0] * len(masks)
    assert ours("pointing", even, masks) == [area_share(mask) for mask in masks]


def test_quantus_ranks_ties_as_its_sorting_pleases_where_we_expect(quantus):
    """An even map finds each quarter of the picture as well as the others."""
    quarters = np.repeat(np.eye(4, dtype=bool), 16, axis=1).reshape(4, 8, 8)
    even = each_even(quarters)
    assert np.ptp(theirs(quiet(quantus.RelevanceRankAccuracy), even, quarters)) > 0
    assert ours("rank", even, quarters) == [0.25] * 4


def test_quantus_calls_an_empty_mask_hit_where_we_call_it_undefined(quantus):
    """NaN written into an array of truths is true. Its other measures of an empty mask are NaN, as ours are."""
    maps, masks = np.random.default_rng(0).random((2, 8, 8)), np.zeros((2, 8, 8), dtype=bool)
    masks[0, :4] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert theirs(quiet(quantus.PointingGame), maps, masks)[1] == 1.0
        assert np.isnan(theirs(quiet(quantus.RelevanceMassAccuracy), maps, masks)[1])
    assert np.isnan(np.concatenate(localise(maps[1:], masks[1]))).all()


def test_auc_is_that_of_sklearn_with_ties_and_on_upsampled_grids(words):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    _, masks = words
    rng = np.random.default_rng(1)
    for mask in masks:
        coarse = np.round(rng.random(GRID) + mask_on_grid(mask, GRID), 1)
        fine = np.kron(coarse, np.ones((8, 8)))
        expected = metrics.roc_auc_score(mask.ravel(), fine.ravel())
        assert localise(coarse[None], mask).auc[0] == pytest.approx(expected, rel=1e-12)
        assert localise(fine[None], mask).auc[0] == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def pairs(words):
    """Pairs of maps on the grid: signed, without ties but for the zeros of the positive part."""
    maps, masks = words
    rng = np.random.default_rng(2)
    first = np.stack([mask_on_grid(mask, GRID).ravel() for mask in masks]) + 0.3 * rng.normal(
        size=(len(masks), 196)
    )
    second = maps[:, 4::8, 4::8].reshape(len(maps), -1) - 0.4
    return first, second


def test_agreement_is_that_of_scipy_on_the_positive_part(pairs):
    found = agreement(*pairs)
    first, second = (np.maximum(maps, 0.0) for maps in pairs)
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        assert found.pearson[index] == pytest.approx(pearsonr(a, b).statistic, abs=1e-12)
        assert found.spearman[index] == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
        assert found.root_jsd[index] == pytest.approx(jensenshannon(a, b, base=2), abs=1e-9)


def test_agreement_is_that_of_quantus_whose_cosine_is_a_distance(quantus, pairs):
    found = agreement(*pairs)
    first, second = (np.maximum(maps, 0.0) for maps in pairs)
    for index, (a, b) in enumerate(zip(first, second, strict=True)):
        assert found.cosine[index] == pytest.approx(1 - quantus.similarity_func.cosine(a, b), abs=1e-12)
        assert found.pearson[index] == pytest.approx(
            quantus.similarity_func.correlation_pearson(a, b), abs=1e-12
        )
        assert found.spearman[index] == pytest.approx(
            quantus.similarity_func.correlation_spearman(a, b), abs=1e-12
        )


def test_top_tenths_overlap_as_sets_do_and_openxai_divides_by_their_size(pairs):
    """Feature agreement (Agarwal et al. 2022) is |A n B| / k; the overlap here is |A n B| / |A u B|."""
    top = round(TOP_SHARE * 196)
    for a, b, iou in zip(*pairs, agreement(*pairs).top10_iou, strict=True):
        first, second = (set(np.argsort(-each)[:top].tolist()) for each in (a, b))
        share = len(first & second) / top
        assert iou == pytest.approx(len(first & second) / len(first | second))
        assert iou == pytest.approx(share / (2 - share))


def test_ssim_of_quantus_has_a_window_of_seven_that_its_caller_cannot_see_and_no_part_here(quantus, pairs):
    """Half a grid of 14 cells: what it says depends on the window as much as on the maps, so it is left out.

    Its window is that of scikit-image unless one is given, and a grid with a side under 7 is an error.
    """
    a, b = (np.maximum(maps[0], 0.0).reshape(GRID) for maps in pairs)
    ssim = quantus.similarity_func.ssim
    assert ssim(a, b) == pytest.approx(ssim(a, b, win_size=7))
    cell = np.eye(196)[[105, 106]].reshape(2, *GRID)  # all weight on one cell, and on its neighbour
    assert ssim(*cell, win_size=3) - ssim(*cell, win_size=13) > 0.5
    with pytest.raises(ValueError, match="win_size"):
        ssim(a[:6, :6], b[:6, :6])
