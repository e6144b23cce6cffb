import hashlib
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from bench.data.base import data_sha256
from bench.data.scenes import (
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZE,
    SPLIT_SIZES,
    VARIANTS,
    Figure,
    SceneTruth,
    load_scenes,
    make_scene,
)
from bench.errors import DataError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "scenes.json").read_text())
DRAWN = VARIANTS[:3]
TRUTH = SceneTruth()


@pytest.fixture(scope="module")
def scenes():
    return [make_scene("train", index) for index in range(3000)]


def slot(figure: Figure) -> tuple[int, int]:
    """The third of the picture, down and across, in which a figure stands (112 pixels are 448 quarters)."""
    return figure.y * 3 // 448, figure.x * 3 // 448


def attributes(scene) -> dict[str, str]:
    subject, other = scene.named
    return {
        "subject's colour": subject.colour,
        "subject's shape": subject.shape,
        "object's colour": other.colour,
        "object's shape": other.shape,
        "relation": scene.relation,
    }


def counts(first: list, second: list) -> np.ndarray:
    rows, columns = sorted(set(first)), sorted(set(second))
    seen = Counter(zip(first, second, strict=True))
    return np.array([[seen[row, column] for column in columns] for row in rows])


def judged(scene, caption: str) -> tuple[int, int]:
    """Words that are true and words that are said, of all classes."""
    truth = TRUTH.truth(scene, caption.split()).values()
    return sum(each.true for each in truth), sum(each.said for each in truth)


# ---- the same everywhere ------------------------------------------------------------------------------


@pytest.mark.parametrize("image_id", GOLDEN["pixels_sha256"])
def test_scenes_are_drawn_bit_for_bit_the_same_on_every_machine(image_id):
    _, variant, split, seed, index = image_id.replace("shared-", "shared_").replace("no-", "no_").split("-")
    scene = make_scene(split, int(index), variant=variant.replace("_", "-"), seed=int(seed))
    assert scene.image_id == image_id
    pixels = scene.pixels()
    assert (pixels.shape, pixels.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == GOLDEN["pixels_sha256"][image_id]
    assert np.array_equal(np.asarray(scene.picture()), pixels)


@pytest.mark.parametrize("variant", VARIANTS)
def test_references_of_a_split_are_the_same_on_every_machine(variant):
    text = "\n".join(
        line for index in range(100) for line in make_scene("test", index, variant=variant).references
    )
    assert hashlib.sha256(text.encode()).hexdigest() == GOLDEN["references_sha256"][variant]


def test_a_scene_can_be_read_in_words():
    golden = GOLDEN["scene-main-test-0-00000"]
    scene = make_scene("test", 0)
    assert list(scene.references) == golden["references"]
    assert [[f.colour, f.shape, f.x, f.y, f.radius, f.filled] for f in scene.figures] == golden["figures"]


def test_another_seed_split_or_variant_gives_other_scenes():
    scenes = [
        make_scene(split, index, variant=variant, seed=seed)
        for split, index, variant, seed in itertools.product(("train", "test"), range(20), DRAWN, (0, 1))
    ]
    assert (
        len({scene.figures for scene in scenes}) == len({scene.image_id for scene in scenes}) == len(scenes)
    )


# ---- nothing can be guessed ---------------------------------------------------------------------------


def test_no_attribute_predicts_another(scenes):
    values = {name: [attributes(scene)[name] for scene in scenes] for name in attributes(scenes[0])}
    for first, second in itertools.combinations(values, 2):
        assert chi2_contingency(counts(values[first], values[second])).pvalue > 0.001, (first, second)
    for name in values:
        assert chisquare(list(Counter(values[name]).values())).pvalue > 0.001, name


def test_looks_do_not_predict_the_place(scenes):
    for which, place in itertools.product((0, 1), (0, 1)):
        slots = [slot(scene.named[place]) for scene in scenes]
        for look in ("colour", "shape"):
            looks = [getattr(scene.named[which], look) for scene in scenes]
            assert chi2_contingency(counts(looks, slots)).pvalue > 0.001, (which, look, place)


@pytest.mark.parametrize("which", [0, 1])
def test_named_figures_stand_on_each_slot_equally_often_and_are_not_centre_biased(scenes, which):
    slots = Counter(slot(scene.named[which]) for scene in scenes)
    assert len(slots) == 9
    assert chisquare(list(slots.values())).pvalue > 0.001
    mean = np.mean([scene.named[which].mask for scene in scenes[:1200]], axis=0)
    quarter = mean[SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4].sum() / mean.sum()
    assert 0.22 < quarter < 0.30
    thirds = [part.sum() for rows in np.array_split(mean, 3) for part in np.array_split(rows, 3, axis=1)]
    assert np.allclose(thirds / mean.sum(), 1 / 9, atol=0.03)


def test_a_figures_colour_does_not_say_whether_it_is_named(scenes):
    named = Counter(figure.colour for scene in scenes for figure in scene.named)
    outlined = Counter(figure.colour for scene in scenes for figure in scene.figures[2:])
    table = [[each[colour] for colour in COLOURS] for each in (named, outlined)]
    assert chi2_contingency(table).pvalue > 0.001


# ---- what is drawn ------------------------------------------------------------------------------------


def area_and_perimeter(figure: Figure) -> tuple[float, float]:
    """Of what is drawn, by the shoelace formula, in pixels of four quarters; an outline is three pixels wide."""
    total, length = 0.0, 0.0
    for sign, radius in ((1, figure.radius / 4), *([] if figure.filled else [(-1, figure.radius / 4 - 3)])):
        corners = np.array(SHAPES[figure.shape]) / 1000 * radius
        if corners.size:
            after = np.roll(corners, -1, axis=0)
            total += sign * abs(np.sum(corners[:, 0] * after[:, 1] - corners[:, 1] * after[:, 0])) / 2
            length += np.linalg.norm(after - corners, axis=1).sum()
        else:
            total += sign * np.pi * radius**2
            length += 2 * np.pi * radius
    return total, length


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("radius", [37, 52, 66])
def test_a_figures_coverage_and_mask_have_its_area(shape, filled, radius):
    figure = Figure("red", shape, 223, 226, radius, filled, 100)
    area, perimeter = area_and_perimeter(figure)
    # A straight edge falls at most half a sample (an eighth of a pixel) from where it is drawn; masks: half a pixel.
    assert figure.coverage.sum() / 16 == pytest.approx(area, abs=perimeter / 8)
    assert figure.mask.sum() == pytest.approx(area, abs=perimeter / 2)
    assert figure.coverage.max() == 16


def test_figures_have_their_colours_and_lie_whole_in_the_picture():
    for index in range(40):
        scene = make_scene("val", index)
        pixels = scene.pixels().astype(float)
        for figure in scene.figures:
            ink = np.array(COLOURS[figure.colour]) * figure.brightness / 100
            assert np.abs(pixels[figure.coverage == 16].mean(axis=0) - np.minimum(ink, 255)).max() < 3
            area, perimeter = area_and_perimeter(figure)
            assert figure.coverage.sum() / 16 == pytest.approx(area, abs=perimeter / 8)


@pytest.mark.parametrize("variant", DRAWN)
def test_figures_never_touch_and_all_pixels_are_accounted_for(variant):
    for index in range(60):
        scene = make_scene("test", index, variant=variant)
        assert (sum((figure.coverage > 0).astype(int) for figure in scene.figures) <= 1).all()
        parts = [scene.distractors, scene.background, *(figure.mask for figure in scene.named)]
        assert (sum(part.astype(int) for part in parts) == 1).all()


def test_the_subject_is_the_larger_figure_and_stands_where_the_relation_says(scenes):
    for scene in scenes:
        subject, other = scene.named
        assert subject.radius > other.radius
        down, across = subject.y - other.y, subject.x - other.x
        assert {"above": -down, "below": down, "left": -across, "right": across}[scene.relation] > 0
        assert (abs(down) > abs(across)) == (scene.relation in ("above", "below"))


# ---- variants and splits ------------------------------------------------------------------------------


def test_distractors_share_a_named_colour_only_where_they_should():
    for index in range(500):
        for variant, number, shared in (
            ("main", 2, False),
            ("shared-colour", 2, True),
            ("no-distractor", 0, False),
        ):
            scene = make_scene("test", index, variant=variant)
            distractors = scene.figures[2:]
            assert len(distractors) == number
            assert [f.filled for f in scene.figures] == [True, True, *[False] * number]
            named = {figure.colour for figure in scene.named}
            assert any(figure.colour in named for figure in distractors) == shared


def test_a_blank_scene_shows_and_says_nothing():
    scene = make_scene("test", 3, variant="blank")
    assert (scene.figures, scene.relation) == ((), None)
    assert scene.background.all()
    assert scene.pixels().min() > 180  # paper
    assert all(judged(scene, reference) == (0, 0) for reference in scene.references)
    assert judged(scene, "a red circle above a blue star") == (0, 5)
    assert TRUTH.regions(scene, ["a", "red", "circle"]) == [None] * 3


def test_splits_have_the_promised_sizes_and_no_scene_in_common():
    data = load_scenes()
    assert {split: len(data.select(split)) for split in SPLIT_SIZES} == SPLIT_SIZES
    drawn = Counter(image.figures for image in data.images)
    assert len(drawn) == len({image.image_id for image in data.images}) == len(data.images)
    assert data.split_origin == "given"
    assert data.ground_truth is not None


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_data_sets_by_name_and_seed(variant):
    data = load_scenes(f"scenes:{variant}:7")
    assert data.name == f"scenes:{variant}:7"
    assert data.select("test")[2] == make_scene("test", 2, variant=variant, seed=7)
    assert data_sha256(data.images[:1]) != data_sha256([make_scene("train", 0, variant=variant)])


@pytest.mark.parametrize(
    "spec", ["scenes:other", "scenes:main:x", "scenes:main:-1", "scenes:", "scenes:main:1:2"]
)
def test_unknown_scenes_are_refused_with_the_known_ones(spec):
    with pytest.raises(
        DataError, match=rf"there are no scenes '{spec}'; expected .*main, shared-colour, no-dis"
    ):
        load_scenes(spec)


# ---- captions and their truth -------------------------------------------------------------------------


@pytest.mark.parametrize("variant", DRAWN)
def test_five_different_references_are_wholly_true(variant):
    for index in range(300):
        scene = make_scene("val", index, variant=variant)
        assert len(set(scene.references)) == 5
        for reference in scene.references:
            assert judged(scene, reference) == (5, 5), reference


def different(scenes):
    """A scene whose named figures differ in both looks, so that every exchange of words is wrong."""
    return next(
        s
        for s in scenes
        if all(getattr(s.named[0], a) != getattr(s.named[1], a) for a in ("colour", "shape"))
    )


def wrong_words(scene, word: str) -> list[str]:
    """Words of the same class that are not true in its place; none for function words."""
    if word in RELATIONS:
        return [name for name in RELATIONS if name != word]
    names = next((names for names in (COLOURS, SHAPES) if word in names), ())
    return [name for name in names if name not in attributes(scene).values()]


def test_one_wrong_word_is_one_false_word(scenes):
    unlike = [scene for scene in scenes[:30] if len(set(attributes(scene).values())) == 5]
    for scene, which in itertools.product(unlike, range(5)):
        words = scene.references[which].split()
        for index, word in enumerate(words):
            for wrong in wrong_words(scene, word):
                caption = [*words[:index], wrong, *words[index + 1 :]]
                assert judged(scene, " ".join(caption)) == (4, 5), caption
                assert which or TRUTH.regions(scene, caption)[index] is None


def test_either_relation_is_true_of_two_figures_that_look_the_same(scenes):
    scene = next(
        s for s in scenes if s.named[0].colour == s.named[1].colour and s.named[0].shape == s.named[1].shape
    )
    look = f"{scene.named[0].colour} {scene.named[0].shape}"
    truths = {name: judged(scene, f"a {look} is {name} a {look}") for name in RELATIONS}
    axis = ("above", "below") if scene.relation in ("above", "below") else ("left", "right")
    assert truths == {name: (5, 5) if name in axis else (4, 5) for name in RELATIONS}


def test_exchanged_words_are_false(scenes):
    scene = different(scenes)
    subject, other = scene.named
    here = scene.relation
    there = {"above": "below", "below": "above", "left": "right", "right": "left"}[here]
    said = f"a {subject.colour} {subject.shape} is {here} a {other.colour} {other.shape}"
    assert judged(scene, said) == (5, 5)
    assert judged(scene, said.replace(here, there)) == (4, 5)
    assert judged(scene, f"a {other.colour} {subject.shape} is {here} a {subject.colour} {other.shape}") == (
        3,
        5,
    )
    assert judged(scene, f"a {other.colour} {other.shape} is {here} a {subject.colour} {subject.shape}") == (
        4,
        5,
    )
    assert judged(scene, f"a {other.colour} {other.shape} is {there} a {subject.colour} {subject.shape}") == (
        5,
        5,
    )


def test_distractors_may_not_be_named(scenes):
    scene = different(scenes)
    subject, _, distractor, _ = scene.figures
    caption = f"a {subject.colour} {subject.shape} and a {distractor.colour} thing"
    assert judged(scene, caption) == (2, 3)


def test_a_third_figure_and_a_second_relation_are_false(scenes):
    scene = different(scenes)
    reference = scene.references[0]
    subject = scene.named[0]
    assert judged(scene, f"{reference} and a {subject.colour} {subject.shape}") == (5, 7)
    assert judged(scene, f"{reference} {scene.relation}") == (5, 6)
    assert judged(scene, scene.relation) == (0, 1)
    assert judged(scene, "") == judged(scene, "nothing to see") == (0, 0)


@pytest.mark.parametrize("variant", DRAWN)
def test_a_named_object_is_there_if_any_figure_looks_like_it_outlines_included(variant):
    for index in range(20):
        scene = make_scene("test", index, variant=variant)
        there = {(figure.colour, figure.shape) for figure in scene.figures}
        for colour, shape in itertools.product(COLOURS, SHAPES):
            assert TRUTH.objects(scene, f"a {colour} {shape}".split()) == ((colour, shape) in there, 1)
            assert TRUTH.objects(scene, ["a", shape]) == (any(shape == seen for _, seen in there), 1)
        assert all(TRUTH.objects(scene, reference.split()) == (2, 2) for reference in scene.references)


def test_everything_named_in_a_blank_scene_is_hallucinated(scenes):
    blank = make_scene("test", 0, variant="blank")
    assert {TRUTH.objects(blank, scene.references[0].split()) for scene in scenes[:50]} == {(0, 2)}
    assert all(TRUTH.objects(blank, reference.split()) == (0, 0) for reference in blank.references)


def test_exchanged_colours_are_hallucinated_objects_and_exchanged_places_are_not(scenes):
    scene = next(
        s for s in scenes
        if len({f.shape for f in s.figures}) == 4 and s.named[0].colour != s.named[1].colour
    )  # fmt: skip
    subject, other = scene.named
    x, y = f"{subject.colour} {subject.shape}", f"{other.colour} {other.shape}"
    crossed = f"a {other.colour} {subject.shape} above a {subject.colour} {other.shape}"
    for caption, expected in (
        (f"a {x} above a {y}", (2, 2)),
        (f"a {y} above a {x}", (2, 2)),
        (f"a {x} above a {x}", (2, 2)),
        (f"a {other.colour} {subject.shape} above a {y}", (1, 2)),
        (crossed, (0, 2)),
        (f"{crossed} and a {x}", (1, 3)),
        (f"something {subject.colour}", (0, 0)),
        (f"a {subject.shape} that is {other.colour}", (1, 1)),
        ("", (0, 0)),
    ):
        assert TRUTH.objects(scene, caption.split()) == expected, caption


def test_word_classes_are_those_of_the_vocabulary():
    words = ["a", "red", "star", "is", "left", "of", "a", "black", "square"]
    assert TRUTH.word_classes(words) == [
        "function", "colour", "shape", "function", "relation", "function", "function", "colour", "shape",
    ]  # fmt: skip


@pytest.mark.parametrize("variant", DRAWN)
def test_a_words_region_is_its_figure_and_lies_in_its_union(variant):
    for index in range(10):
        scene = make_scene("test", index, variant=variant)
        subject, other = scene.named
        for reference in scene.references:
            words = reference.split()
            for word, name, region in zip(
                words, TRUTH.word_classes(words), TRUTH.regions(scene, words), strict=True
            ):
                if name == "function":
                    assert region is None
                elif name == "relation":
                    assert region.unique is None
                    assert np.array_equal(region.union, subject.mask | other.mask)
                else:
                    assert any(
                        np.array_equal(region.unique, figure.mask) and word in (figure.colour, figure.shape)
                        for figure in scene.named
                    )
                    alike = [figure.mask for figure in scene.figures if word in (figure.colour, figure.shape)]
                    assert np.array_equal(region.union, np.any(alike, axis=0))
                    assert not (region.unique & ~region.union).any()


@pytest.mark.parametrize("variant", DRAWN)
def test_a_regions_other_is_the_other_named_figure_and_its_distractors_are_the_outlines(variant):
    for index in range(10):
        scene = make_scene("test", index, variant=variant)
        subject, other = scene.named
        for reference in scene.references:
            words = reference.split()
            for word, region in zip(words, TRUTH.regions(scene, words), strict=True):
                if region is None:
                    continue
                if word in RELATIONS:
                    assert region.other is None
                else:
                    assert np.array_equal(region.unique | region.other, subject.mask | other.mask)
                    assert not (region.unique & region.other).any()
                if variant == "no-distractor":
                    assert region.distractors is None
                else:
                    assert np.array_equal(region.distractors, scene.distractors)


def test_a_shared_colour_has_two_places_and_one_figure_that_is_meant():
    scene = make_scene("test", 0, variant="shared-colour")
    meant = next(f for f in scene.named if any(f.colour == d.colour for d in scene.figures[2:]))
    words = next(r for r in scene.references).split()
    index = words.index(meant.colour)
    region = TRUTH.regions(scene, words)[index]
    assert np.array_equal(region.unique, meant.mask)
    assert (region.union & scene.distractors).any()


@pytest.mark.parametrize("template", range(5))
def test_a_decoder_that_is_blind_stays_at_chance(template):
    """The best guess from the words said so far, learned from training captions, is no better than any guess."""
    train = [make_scene("train", index).references[template].split() for index in range(6000)]
    test = [make_scene("test", index).references[template].split() for index in range(500)]
    truth = SceneTruth()
    chance = {"colour": 1 / len(COLOURS), "shape": 1 / len(SHAPES), "relation": 1 / len(RELATIONS)}

    def content(words):
        """The words that need the picture; function words follow from them and from the template."""
        classes = truth.word_classes(words)
        return [(kind, word) for word, kind in zip(words, classes, strict=True) if kind != "function"]

    heard = {}
    for words in train:
        said = content(words)
        for place, (_, word) in enumerate(said):
            heard.setdefault(tuple(said[:place]), Counter())[word] += 1
    hits, guesses = Counter(), Counter()
    for words in test:
        said = content(words)
        for place, (kind, word) in enumerate(said):
            guess = heard.get(tuple(said[:place]), Counter()).most_common(1)
            hits[kind] += bool(guess) and guess[0][0] == word
            guesses[kind] += 1
    for kind, expected in chance.items():
        spread = (expected * (1 - expected) / guesses[kind]) ** 0.5
        assert abs(hits[kind] / guesses[kind] - expected) < 4 * spread, kind
