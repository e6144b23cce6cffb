"""Faithfulness of maps: against literal loops over the whole captioner, laws, planted maps, and other programs."""

import copy
import math
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from demo_captions import demo_captions
from torch import nn

from explain import hiding, perturbing
from explain.faithfulness import Faithfulness, cell_faithfulness, pixel_faithfulness, steps
from explain.hiding import Imputer, cell_of_pixel, hider
from explain.localisation import cell_counts
from explain.methods.base import ExplainedCaption
from explain.perturbing import removal_places, score_kept_cells, score_kept_pixels
from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

CELLS = 196
LADDER = (1, 2, 4, 8, 16, 32, 64, 128)


@pytest.fixture(scope="module")
def caption():
    return demo_captions(8)[0][0]


def exact(caption):
    """The same caption of the same captioner in float64."""
    return replace(
        caption,
        captioner=copy.deepcopy(caption.captioner).double(),
        annotations=caption.annotations.double(),
        annotation_baseline=caption.annotation_baseline.double(),
    )


def random_maps(methods, words, cells=CELLS, seed=0):
    return np.random.default_rng(seed).normal(size=(methods, words, cells))


@torch.no_grad()
def literal_faithfulness(caption, map_, word, see=None):
    """One map, one row at a time, each the whole caption through the captioner."""

    def f(kept):
        if see is None:
            annotations = caption.annotations.clone()
            for cell in range(len(map_)):
                if cell not in kept:
                    annotations[cell] = caption.annotation_baseline[cell]
        else:
            annotations = see(kept)
        said = torch.tensor([caption.token_ids])
        return math.exp(caption.captioner.word_log_probs(annotations[None], said)[0, word].item())

    def area(curve):
        return sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)

    cells = set(range(len(map_)))
    best_first = sorted(cells, key=lambda cell: -map_[cell])
    counts, count = [0], 1
    while count < len(map_):
        counts.append(count)
        count *= 2
    counts.append(len(map_))
    top = set(best_first[: max(1, round(len(map_) / 10))])
    morf = area([f(cells - set(best_first[:k])) for k in counts])
    lerf = area([f(cells - set(best_first[::-1][:k])) for k in counts])
    insertion = area([f(set(best_first[:k])) for k in counts])
    return morf, insertion, lerf - morf, f(cells) - f(cells - top), f(cells) - f(top)


def test_steps_are_the_powers_of_two_below_the_number_of_cells():
    assert steps(196) == LADDER
    assert steps(128) == LADDER[:-1]
    assert steps(2) == (1,)
    assert steps(1) == ()


def test_every_measure_of_replaced_cells_is_its_literal_formula(caption):
    caption = exact(caption)
    words, maps = [3, 8], random_maps(2, 2)
    found = np.stack(cell_faithfulness(caption, maps, words, seed=0))
    for method, place in ((0, 1), (1, 0)):
        expected = literal_faithfulness(caption, maps[method, place], words[place])
        np.testing.assert_allclose(found[:, method, place], expected, rtol=0, atol=1e-12)


def test_measures_in_float32_are_those_in_float64(caption):
    maps = random_maps(4, 3)
    found, expected = (cell_faithfulness(c, maps, [2, 4, 7], seed=0) for c in (caption, exact(caption)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("operator", ["blur", "grey"])
def test_every_measure_of_hidden_pixels_is_its_literal_formula(caption, operator):
    map_, word = random_maps(1, 1, seed=3)[0, 0], 3
    other = hiding.blur(caption.image) if operator == "blur" else torch.zeros_like(caption.image)

    def see(kept):
        picture = caption.image.clone()
        for cell in set(range(CELLS)) - kept:
            y, x = 8 * (cell // 14), 8 * (cell % 14)
            picture[:, y : y + 8, x : x + 8] = other[:, y : y + 8, x : x + 8]
        return caption.captioner.encode(picture[None])[0]

    found = pixel_faithfulness(caption, map_[None, None], [word], operator=operator, seed=0)
    expected = literal_faithfulness(caption, map_, word, see)
    np.testing.assert_allclose(np.stack(found).ravel(), expected, rtol=0, atol=1e-6)


SWITCHES = [
    {"initial_state": "zero"},
    {"initial_state": "linear", "gate": "vector", "attention_activation": "relu"},
    {"output": "deep", "first_input": "zeros"},
    {"attention": "uniform", "gate": "none"},
    {"gate": "shut"},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=lambda switches: "-".join(switches.values()))
@torch.no_grad()
def test_replaced_cells_are_scored_as_the_whole_captioner_does_in_every_decoder(switches, monkeypatch):
    vocabulary = Vocabulary(("<pad>", "<start>", "<end>", *"abcdefgh"), pad=0, start=1, end=2)
    config = DecoderConfig(len(vocabulary), 80, embedding_dim=6, hidden_dim=8, attention_dim=5, **switches)
    torch.manual_seed(0)
    captioner = (
        Captioner(EncoderConfig("scenes", 4), config, vocabulary, Preprocessing(size=32)).double().eval()
    )
    tokens = (5, 3, 9, 5, 2)
    seen, baseline = torch.randn(2, 16, 80, dtype=torch.float64)
    caption = ExplainedCaption(
        captioner, torch.zeros(3, 32, 32), seen, tokens, np.full((4, 16), 1 / 16), baseline, seed=0
    )
    rng = np.random.default_rng(0)
    kept, words = rng.random((30, 16)) < 0.5, rng.integers(0, 4, 30)
    kept[:12] = kept[12:24]  # rows that are alike but for their word
    annotations = torch.where(torch.from_numpy(kept)[:, :, None], seen, baseline)
    expected = captioner.word_log_probs(annotations, torch.tensor(tokens).repeat(30, 1))
    monkeypatch.setattr(perturbing, "BATCH_FLOATS", 16 * 5 * 7)  # seven rows at a time
    found = score_kept_cells(caption, kept, words)
    np.testing.assert_allclose(found, expected[np.arange(30), words], rtol=0, atol=1e-12)


def test_the_size_of_batches_changes_nothing(caption, monkeypatch):
    maps = random_maps(3, 2)
    whole = [cell_faithfulness(caption, maps, [1, 3], seed=0), pixels(caption, maps, [1, 3])]
    monkeypatch.setattr(perturbing, "BATCH_FLOATS", 3 * 112 * 112 * 5)
    parts = [cell_faithfulness(caption, maps, [1, 3], seed=0), pixels(caption, maps, [1, 3])]
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-6)


def pixels(caption, maps, words, operator="grey", seed=0):
    return pixel_faithfulness(caption, maps, words, operator=operator, seed=seed)


def test_a_row_is_computed_once_however_many_methods_and_words_ask_for_it(caption, monkeypatch):
    walked = []
    walk = perturbing._walk
    monkeypatch.setattr(perturbing, "_walk", lambda *args: walked.append(len(args[2])) or walk(*args))
    map_ = random_maps(1, 1)[0, 0]
    found = cell_faithfulness(caption, np.tile(map_, (5, 3, 1)), [2, 3, 8], seed=0)
    assert walked == [3 * len(LADDER) + 4]  # two curves going, one coming, two top tenths, all and nothing
    assert all((measure == measure[0]).all() for measure in found)


def test_words_are_measured_each_by_itself(caption):
    maps = random_maps(2, 3)
    together = cell_faithfulness(caption, maps, [8, 2, 3], seed=0)
    for place, word in enumerate([8, 2, 3]):
        alone = cell_faithfulness(caption, maps[:, place : place + 1], [word], seed=0)
        np.testing.assert_allclose(np.stack(together)[:, :, [place]], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("measure", [lambda *args: cell_faithfulness(*args, seed=0), pixels])
class TestLaws:
    def test_a_positive_factor_changes_nothing(self, caption, measure):
        maps = random_maps(2, 2)
        np.testing.assert_array_equal(measure(caption, 7.5 * maps, [3, 4]), measure(caption, maps, [3, 4]))

    def test_a_change_of_sign_swaps_the_two_orders(self, caption, measure):
        maps = random_maps(2, 2)
        plain, flipped = measure(caption, maps, [3, 4]), measure(caption, -maps, [3, 4])
        np.testing.assert_allclose(flipped.abpc, -plain.abpc, rtol=0, atol=1e-6)
        np.testing.assert_allclose(flipped.deletion, plain.deletion + plain.abpc, rtol=0, atol=1e-6)

    def test_maps_with_nan_are_undefined_and_leave_the_others_alone(self, caption, measure):
        maps = random_maps(2, 2)
        whole = measure(caption, maps, [3, 4])
        maps[1, 0, 5] = np.nan
        holed = measure(caption, maps, [3, 4])
        for before, after in zip(whole, holed, strict=True):
            assert np.isnan(after).tolist() == [[False, False], [True, False]]
            np.testing.assert_allclose(after[~np.isnan(after)], before[~np.isnan(after)], rtol=0, atol=1e-6)

    def test_no_defined_map_is_no_error(self, caption, measure):
        assert all(np.isnan(values).all() for values in measure(caption, np.full((2, 1, CELLS), np.nan), [3]))


def test_no_words_have_no_measures(caption):
    assert {values.shape for values in cell_faithfulness(caption, np.zeros((3, 0, CELLS)), [], seed=0)} == {
        (3, 0)
    }


def test_areas_are_probabilities_and_drops_differences_of_them(caption):
    found = cell_faithfulness(caption, random_maps(5, 4), [2, 3, 7, 8], seed=0)
    assert (
        (found.deletion >= 0) & (found.deletion <= 1) & (found.insertion >= 0) & (found.insertion <= 1)
    ).all()
    for drop in (found.abpc, found.comprehensiveness, found.sufficiency):
        assert (np.abs(drop) <= 1).all()


def test_equal_values_are_ordered_by_seed_and_word_alone():
    flat = np.zeros((2, 3, CELLS))
    places = removal_places(flat, [4, 1, 6], seed=5)
    assert (np.sort(places) == np.arange(CELLS)).all()
    np.testing.assert_array_equal(places[0], places[1])
    np.testing.assert_array_equal(places[:, 1:2], removal_places(flat[:, :1], [1], seed=5))
    assert (places[0, 0] != places[0, 1]).any()
    assert (places != removal_places(flat, [4, 1, 6], seed=6)).any()
    stepped = np.repeat([2.0, 3.0, -1.0, 0.0], CELLS // 4)[None, None]
    assert (
        np.sort(removal_places(stepped, [0], seed=0)[0, 0].reshape(4, -1)) // 49 == [[1], [0], [3], [2]]
    ).all()


def test_the_order_of_ties_is_not_that_of_the_random_control():
    # Or a constant map would be the random control's inverse.
    control = np.random.Generator(np.random.PCG64([3, 2])).random(CELLS)
    places = removal_places(np.zeros((1, 1, CELLS)), [2], seed=3)[0, 0]
    assert abs(np.corrcoef(places, control)[0, 1]) < 0.3


CHANCE = slice(1, 7)


@pytest.fixture(scope="module")
def planted():
    """The mean of every measure over words of scenes: the word's place, six random maps, the other figure."""
    found = []
    for caption, places in demo_captions(8):
        words = list(places)
        if words:
            oracle, other = np.stack(list(places.values()), axis=1)
            maps = np.stack([oracle, *random_maps(6, len(words), seed=caption.seed), other])
            found.append([cell_faithfulness(caption, maps, words, seed=1), pixels(caption, maps, words)])
    assert sum(measures[0].abpc.shape[1] for measures in found) >= 15
    return [Faithfulness(*means) for means in np.concatenate(found, axis=3).mean(axis=3)]


def test_the_words_place_is_more_faithful_than_chance(planted):
    for means in planted:
        assert means.insertion[0] > means.insertion[CHANCE].max() + 0.2
        assert means.abpc[0] > means.abpc[CHANCE].max() + 0.2
        assert means.deletion[0] < means.deletion[CHANCE].min() - 0.2
        assert means.comprehensiveness[0] > means.comprehensiveness[CHANCE].max() + 0.3
        assert means.sufficiency[0] < means.sufficiency[CHANCE].min() - 0.3


def test_the_other_figures_place_brings_a_word_back_later_than_chance(planted):
    for means in planted:
        assert means.insertion[7] < means.insertion[CHANCE].mean()


def test_abpc_of_chance_is_about_zero(planted):
    for means in planted:
        assert abs(means.abpc[CHANCE].mean()) < 0.05


def test_a_pixel_belongs_to_the_cell_that_localisation_gives_it_to():
    for shape, grid in (((112, 112), (14, 14)), ((10, 13), (4, 5)), ((5, 6), (7, 3))):
        cells = cell_of_pixel(shape, grid)
        for row in range(shape[0]):
            mask = np.zeros(shape, dtype=bool)
            mask[row] = True
            inside, total = cell_counts(mask, grid)
            np.testing.assert_array_equal(np.bincount(cells[row], minlength=grid[0] * grid[1]), inside)
            np.testing.assert_array_equal(np.bincount(cells.ravel(), minlength=grid[0] * grid[1]), total)


def test_blur_is_a_gaussian_of_its_width_with_repeated_borders(caption):
    side = 112
    sigma = hiding.BLUR * side
    offsets = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    weights /= weights.sum()
    image = caption.image.double().numpy()
    rows = sum(
        w * image[:, np.clip(np.arange(side) + o, 0, side - 1)] for w, o in zip(weights, offsets, strict=True)
    )
    both = sum(
        w * rows[:, :, np.clip(np.arange(side) + o, 0, side - 1)]
        for w, o in zip(weights, offsets, strict=True)
    )
    np.testing.assert_allclose(hiding.blur(caption.image), both, rtol=0, atol=1e-6)


def test_imputed_pixels_are_weighted_means_of_their_neighbours():
    rng = np.random.default_rng(0)
    image, stays = rng.normal(size=(3, 9, 11)), rng.random((9, 11)) < 0.4
    filled = Imputer(image)(stays)
    np.testing.assert_array_equal(filled[:, stays], image[:, stays])
    for y, x in np.argwhere(~stays):
        total, weight = np.zeros(3), 0.0
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy or dx) and 0 <= y + dy < 9 and 0 <= x + dx < 11:
                    w = 1 / 12 if dy and dx else 1 / 6
                    total, weight = total + w * filled[:, y + dy, x + dx], weight + w
        np.testing.assert_allclose(filled[:, y, x], total / weight, rtol=0, atol=1e-12)


def test_imputation_of_nothing_is_the_picture_and_of_everything_the_mean_colour():
    image = np.random.default_rng(0).normal(size=(3, 6, 6))
    np.testing.assert_array_equal(Imputer(image)(np.ones((6, 6), dtype=bool)), image)
    np.testing.assert_array_equal(Imputer(image)(np.zeros((6, 6), dtype=bool)), 0.0)


def test_road_noise_comes_from_the_seed_and_lies_on_hidden_pixels_alone(caption):
    kept = np.random.default_rng(0).random((2, CELLS)) < 0.5
    first, same, other = (hider(caption.image, (14, 14), "road", seed=seed)(kept) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    stays = torch.from_numpy(kept[:, cell_of_pixel((112, 112), (14, 14))])[:, None].expand(-1, 3, -1, -1)
    assert torch.equal(first[stays], caption.image.expand(2, -1, -1, -1)[stays])
    assert (first - other)[~stays].std().item() == pytest.approx(hiding.ROAD_NOISE * 2**0.5, rel=0.02)


@pytest.fixture
def grad_cam_road():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        return pytest.importorskip(
            "pytorch_grad_cam.metrics.road", reason="pytorch-grad-cam is not installed"
        )


def on_pixels(map_):
    """As fine as the picture."""
    return np.kron(map_.reshape(14, 14), np.ones((8, 8)))


@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_imputation_is_that_of_pytorch_grad_cam(grad_cam_road, caption):
    kept = np.random.default_rng(1).random((3, CELLS)) < [[0.9], [0.5], [0.05]]
    for row in kept:
        stays = on_pixels(row).astype(bool)
        theirs = grad_cam_road.NoisyLinearImputer(noise=0.0)(caption.image, torch.from_numpy(stays).float())
        np.testing.assert_allclose(Imputer(caption.image.double().numpy())(stays), theirs, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array_wrap__")
def test_combined_road_is_that_of_pytorch_grad_cam_but_for_its_noise(grad_cam_road):
    # The place of the word, without ties.
    caption, places = next(found for found in demo_captions(8) if found[1])
    word, (oracle, _) = next(iter(places.items()))
    map_ = (oracle + random_maps(1, 1)[0, 0] / 100).argsort().argsort() / CELLS
    counts = [4, 16, 64]

    class Word(nn.Module):
        def forward(self, pictures):
            said = torch.tensor(caption.token_ids).repeat(len(pictures), 1)
            return caption.captioner.word_log_probs(caption.captioner.encode(pictures), said).exp()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = grad_cam_road.ROADCombined([100 * (1 - k / CELLS) for k in counts])(
            caption.image[None], on_pixels(map_)[None], [lambda p: p[word]], Word()
        )
    order = np.argsort(-map_)
    kept = np.ones((2 * len(counts), CELLS), dtype=bool)
    for row, k in enumerate(counts):
        kept[row, order[:k]] = False
        kept[len(counts) + row, order[::-1][:k]] = False

    def ours(seed):
        hide = hider(caption.image, (14, 14), "road", seed=seed)
        morf, lerf = np.exp(score_kept_pixels(caption, hide, kept, np.full(len(kept), word))).reshape(2, -1)
        return (lerf - morf).mean() / 2

    own = [ours(seed) for seed in range(4)]
    assert abs(np.mean(own)) > 0.01
    assert abs(theirs.item() - np.mean(own)) < max(5 * np.std(own), 1e-4)


def test_deletion_is_pixel_flipping_of_quantus_at_its_steps(caption):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its docstrings, and of what it imports
        quantus = pytest.importorskip("quantus", reason="Quantus is not installed")
    words, maps = [3, 8], np.abs(random_maps(1, 2, seed=5))

    class Switched(nn.Module):
        """Pictures of 14 x 14 switches, 1 where a cell stays; the probability of each of the caption's words."""

        def forward(self, switches):
            stays = switches.flatten(1)[:, :, None] > 0.5
            annotations = torch.where(stays, caption.annotations, caption.annotation_baseline)
            said = torch.tensor(caption.token_ids).repeat(len(switches), 1)
            return caption.captioner.word_log_probs(annotations, said).exp()

    flipping = quantus.PixelFlipping(perturb_baseline=0.0, disable_warnings=True)
    curves = flipping(
        Switched().eval(),
        np.ones((2, 1, 14, 14), np.float32),
        np.array(words),
        maps[0].reshape(2, 1, 14, 14),
        channel_first=True,
        softmax=False,
    )
    whole = Switched()(torch.ones(1, 1, 14, 14))[0, words].detach().numpy()
    curves = np.concatenate([whole[:, None], np.array(curves)], axis=1)[:, [0, *LADDER, CELLS]]
    area = (curves[:, 1:] + curves[:, :-1]).mean(axis=1) / 2
    np.testing.assert_allclose(
        cell_faithfulness(caption, maps, words, seed=0).deletion[0], area, rtol=0, atol=1e-6
    )
