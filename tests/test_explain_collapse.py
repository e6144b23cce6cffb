"""Whether attention spreads and moves: planted answers, and the formulas written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from explain.collapse import attention_coverage, attention_entropy, attention_movement


def one_hot(*cells, of=16):
    return np.eye(of, dtype=np.float32)[list(cells)]


def test_an_even_map_has_entropy_one_and_a_single_cell_zero():
    assert attention_entropy(np.full((3, 196), 1 / 196, dtype=np.float32)) == pytest.approx(1, abs=1e-6)
    assert attention_entropy(one_hot(3, 7)) == 0


def test_weight_on_four_of_sixteen_cells_has_half_the_entropy():
    alphas = np.zeros((1, 16), np.float32)
    alphas[0, [1, 5, 6, 11]] = 0.25
    assert attention_entropy(alphas) == pytest.approx(0.5)
    assert attention_entropy(np.concatenate([alphas, one_hot(2)])) == pytest.approx(0.25)


def test_maps_that_never_change_do_not_move_and_maps_without_a_common_cell_move_by_one():
    same = np.random.default_rng(0).dirichlet(np.ones(49)).astype(np.float32)
    assert attention_movement(np.stack([same] * 9)) == 0
    assert attention_movement(one_hot(4, 4, 5)) == 1


def test_movement_is_the_share_of_weight_that_changes_place():
    there = np.array([[0.5, 0.5, 0, 0], [0.5, 0.4, 0.1, 0], [0.25, 0.4, 0.1, 0.25]])
    assert attention_movement(there) == pytest.approx(0.35)


def test_coverage_is_the_share_of_the_picture_that_all_words_together_look_at():
    assert attention_coverage(one_hot(3, 3, 3)) == pytest.approx(1 / 16)
    assert attention_coverage(one_hot(1, 4, 9, 12)) == pytest.approx(4 / 16)
    assert attention_coverage(one_hot(*range(16))) == pytest.approx(1)
    assert attention_coverage(np.full((3, 196), 1 / 196, dtype=np.float32)) == pytest.approx(1, abs=1e-6)


def test_what_no_word_says_is_undefined():
    assert attention_entropy(np.zeros((0, 16))) is None
    assert attention_entropy(np.ones((2, 1))) is None
    assert attention_coverage(np.zeros((0, 16))) is None
    assert attention_coverage(np.ones((2, 1))) == 1
    assert attention_movement(one_hot(3)) is None
    assert attention_movement(np.zeros((0, 16))) is None


@given(st.integers(2, 6), st.integers(2, 9), st.floats(0.05, 5), st.integers(0, 10**6))
def test_all_equal_the_formulas_written_out(words, cells, concentration, seed):
    alphas = np.random.default_rng(seed).dirichlet(np.full(cells, concentration), size=words)
    entropies = [-sum(a * math.log(a) for a in map_ if a > 0) / math.log(cells) for map_ in alphas]
    moves = [
        sum(abs(a - b) for a, b in zip(one, other, strict=True)) / 2 for one in alphas for other in alphas
    ]
    assert attention_entropy(alphas) == pytest.approx(sum(entropies) / words, abs=1e-12)
    assert attention_movement(alphas) == pytest.approx(max(moves), abs=1e-12)
    means = [sum(map_[cell] for map_ in alphas) / words for cell in range(cells)]
    perplexity = math.exp(-sum(m * math.log(m) for m in means if m > 0))
    assert attention_coverage(alphas) == pytest.approx(perplexity / cells, abs=1e-12)
