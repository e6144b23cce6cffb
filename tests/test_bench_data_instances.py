"""COCO instances: masks as COCO's own program draws them, words by a list, and files of strangers do no harm."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from bench.data.base import CaptionedImage
from bench.data.category_words import ANIMALS, LONGEST, SYNONYMS, find_categories
from bench.data.outlines import Outline, draw, read_outline
from bench.data.regions import load_regions
from bench.errors import DataError

# What COCO's program does with masks of its own making warns under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WIDTH, HEIGHT = 64, 48
EVERY = frozenset(SYNONYMS)
NAMES = {1: "person", 18: "dog", 10: "traffic light", 17: "cat", 35: "skis"}


def square(left, top, side) -> list[float]:
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def packed(mask) -> dict:
    found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": found["size"], "counts": found["counts"].decode()}


def unpacked(mask) -> dict:
    flat = mask.T.ravel().astype(int)
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": runs if flat[0] == 0 else [0, *runs]}


def instance(number, category, segmentation, **more) -> dict:
    return {
        "id": number,
        "image_id": 42,
        "category_id": category,
        "iscrowd": 0,
        "segmentation": segmentation,
    } | more


CROWD = np.zeros((HEIGHT, WIDTH), bool)
CROWD[30:40, 5:60:2] = True
PEOPLE = [instance(1, 1, [square(4, 4, 10), square(20, 4, 6)]), instance(2, 1, [square(40, 8, 12)])]
DOG = instance(3, 18, [square(10, 8, 20.5)])
LIGHTS = instance(4, 10, unpacked(CROWD), iscrowd=1)


def document(*annotations, **image) -> dict:
    return {
        "info": {},
        "images": [
            {"id": 42, "file_name": "COCO_val2014_000000000042.jpg", "width": WIDTH, "height": HEIGHT}
            | image,
            {"id": 43, "file_name": "COCO_val2014_000000000043.jpg", "width": "never looked at"},
        ],
        "annotations": list(annotations),
        "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
    }


@pytest.fixture
def load(tmp_path):
    """`load(document, references)` writes the file and its picture, and gives its truth and the picture."""

    def write(content, references=(), size=(WIDTH, HEIGHT)):
        path = tmp_path / "instances.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        picture = tmp_path / "COCO_val2014_000000000042.jpg"
        drawn = Image.new("RGB", size, (200, 210, 220))
        ImageDraw.Draw(drawn).rectangle((4, 4, 14, 14), fill=(180, 20, 20))
        drawn.save(picture)
        image = CaptionedImage(picture.name, tuple(references), "test", picture)
        return load_regions(path, [image]).truth, image

    return write


def official(*annotations) -> np.ndarray:
    """COCO's own program's union."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for annotation in annotations:
        packs = coco_mask.frPyObjects(annotation["segmentation"], HEIGHT, WIDTH)
        mask |= coco_mask.decode(coco_mask.merge(packs) if isinstance(packs, list) else packs).astype(bool)
    return mask


# ---- what words point at --------------------------------------------------------------------------------


def test_a_word_has_the_things_of_its_category_as_cocos_own_program_draws_them(load):
    truth, image = load(document(*PEOPLE, DOG, LIGHTS))
    words = ["Two", "men", "walk", "the", "dog", "near", "a", "traffic", "light"]
    two, men, walk, the, dog, near, a, traffic, light = truth.regions(image, words)
    assert [two, walk, the, near, a] == [None] * 5
    people, dogs, lights = official(*PEOPLE), official(DOG), official(LIGHTS)
    assert np.array_equal(men.union, people)
    assert np.array_equal(dog.union, dogs)
    assert np.array_equal(traffic.union, lights)
    assert np.array_equal(light.union, CROWD)
    assert men.unique is None  # two
    assert traffic.unique is None  # a crowd
    assert np.array_equal(dog.unique, dogs)
    assert np.array_equal(men.other, (dogs | lights) & ~people)
    assert np.array_equal(dog.other, (people | lights) & ~dogs)
    assert {region.distractors for region in (men, dog, light)} == {None}
    assert truth.word_classes(words)[:5] == ["number", "content", "content", "function", "content"]


def test_other_is_none_where_there_is_nothing_else_or_the_thing_covers_it(load):
    truth, image = load(document(*PEOPLE))
    assert truth.regions(image, ["people"])[0].other is None
    truth, image = load(document(DOG, instance(5, 17, [square(12, 10, 4)])))
    dog, cat = truth.regions(image, ["dog", "cat"])
    assert dog.other is None
    assert cat.other.sum() == dog.union.sum() - cat.union.sum()


def test_categories_that_are_not_there_and_things_under_a_pixel_have_no_region(load):
    truth, image = load(document(*PEOPLE, instance(5, 17, [[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]])))
    assert truth.regions(image, ["dog", "cat", "zebra", "orange"]) == [None] * 4
    assert truth.objects(image, ["cat"]) == (1, 1)


def test_a_picture_that_is_not_annotated_has_no_regions_and_says_nothing_of_objects(load):
    truth, _ = load(document(*PEOPLE))
    other = CaptionedImage("8.jpg", ("a dog",), "test")
    assert truth.regions(other, ["man"]) == [None]
    assert truth.objects(other, ["man"]) == (0, 0)
    assert truth.truth(other, ["man"]) == {}


def test_objects_count_each_mention_and_are_there_by_instances_or_references(load):
    truth, image = load(document(*PEOPLE), references=["A man and his Cats .", "a zebra"])
    for caption, expected in (
        ("a man", (1, 1)),
        ("a man and a woman and a dog", (2, 3)),
        ("a cat on skis", (1, 2)),
        ("a cat on a pair of skis", (1, 2)),
        ("a zebra", (0, 0)),  # not one of this file's categories
        ("a man at two traffic lights", (1, 2)),
        ("", (0, 0)),
    ):
        assert truth.objects(image, caption.split()) == expected, caption


def test_a_box_stands_for_a_thing_without_an_outline_and_is_reported(load, tmp_path):
    boxed = [
        instance(1, 18, [], bbox=[10, 8, 20, 10]),
        {"id": 2, "image_id": 42, "category_id": 1, "bbox": [60.0, 40, 99, 2]},
    ]
    truth, image = load(document(*boxed))
    dog, man = truth.regions(image, ["dog", "man"])
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[8:18, 10:30] = True
    assert np.array_equal(dog.unique, expected)
    assert man.union.sum() == 4 * 2
    (warning,) = load_regions(tmp_path / "instances.json", [image]).warnings
    assert warning == (
        "'instances.json': 1 pictures have things without an outline, for which their boxes stand"
    )


# ---- outlines -------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
@settings(deadline=None, max_examples=80)
def test_run_lengths_plain_or_packed_are_the_mask_they_were_made_of(seed, height, width, density):
    mask = np.random.default_rng(seed).random((height, width)) < density
    for segmentation in (packed(mask), unpacked(mask)):
        outline = read_outline({"segmentation": segmentation}, (width, height), "here")
        assert np.array_equal(draw([outline], (width, height)), mask)


def test_packed_runs_longer_than_five_bits_are_read():
    mask = np.zeros((700, 900), bool)
    mask[100:650, 333:801] = True
    outline = read_outline({"segmentation": packed(mask)}, (900, 700), "here")
    assert np.array_equal(draw([outline], (900, 700)), mask)


@given(st.lists(st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT)), min_size=3, max_size=12))
@settings(deadline=None, max_examples=80)
def test_polygons_inside_the_picture_are_filled_as_cocos_own_program_fills_them(corners):
    polygon = [value for corner in corners for value in corner]
    outline = read_outline({"segmentation": [polygon]}, (WIDTH, HEIGHT), "here")
    assert np.array_equal(draw([outline], (WIDTH, HEIGHT)), official({"segmentation": [polygon]}))


def test_polygons_that_leave_the_picture_are_cut_at_its_edge():
    outline = read_outline({"segmentation": [[-5, -9, 99, -9, 99, 20, -5, 20]]}, (WIDTH, HEIGHT), "here")
    mask = draw([outline], (WIDTH, HEIGHT))
    assert mask[:20].all()
    assert not mask[20:].any()


def test_the_union_of_no_outlines_is_empty():
    assert draw([], (5, 3)).shape == (3, 5)
    assert not draw([Outline(())], (5, 3)).any()


# ---- words ----------------------------------------------------------------------------------------------


def named(caption: str, categories=EVERY) -> list[str]:
    return [term.category for term in find_categories(caption.split(), frozenset(categories))]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Two MEN and three women", ["person", "person"]),
        ("people and children", ["person", "person"]),
        ("a hot dog on a bun", ["hot dog"]),
        ("hot-dogs", ["hot dog"]),
        ("a dog , hot and tired", ["dog"]),
        ("a teddy bear and a polar bear", ["teddy bear", "bear"]),
        ("wine glasses and glasses", ["wine glass"]),
        ("a bow tie", ["tie"]),
        ("train tracks at a train station", []),
        ("a train on train tracks", ["train"]),
        ("a baby giraffe with its mother", ["giraffe", "person"]),
        ("a baby with a giraffe", ["person", "giraffe"]),
        ("an orange cat eats oranges", ["cat", "orange"]),
        ("a pair of skis and ski poles", ["skis"]),
        ("buses , benches , couches , knives , mice and sheep", ["bus", "bench", "couch", "knife", "mouse", "sheep"]),
        ("a motor bike by a stop sign and a parking-meter", ["motorcycle", "stop sign", "parking meter"]),
        ("a man 's cell phone", ["person", "cell phone"]),
        ("ski lift", []),
        ("something on the grass of a field", []),
    ],
)  # fmt: skip
def test_captions_name_the_categories_they_should(caption, expected):
    assert named(caption) == expected


def test_there_are_cocos_80_categories_and_each_names_itself_in_singular_and_plural():
    assert len(SYNONYMS) == 80
    for category in SYNONYMS:
        expected = [] if category == "orange" else [category]  # alone, a colour
        assert named(category) == expected
        if not category.endswith(("s", "sheep", "knife", "mouse", "person", "broccoli")):
            assert named(category + ("es" if category.endswith(("ch", "x")) else "s")) == [category]
    assert set(ANIMALS) <= EVERY


def test_no_term_names_two_categories_or_is_too_long_to_be_found():
    seen: dict[str, str] = {}
    for category, names in SYNONYMS.items():
        for name in [category, *filter(None, (" ".join(name.split()) for name in names.split(",")))]:
            assert seen.setdefault(name, category) == category
            assert len(name.split()) <= LONGEST
            assert named(name) in ([category], [] if name == "orange" else None), name


def test_a_sets_own_categories_are_named_by_their_names_and_win_over_the_list():
    assert named("a Fire truck and fire-trucks", {"fire_truck", "truck"}) == ["fire_truck", "fire_truck"]
    assert named("a cup of tea on train tracks", {"train track", "tea"}) == ["tea", "train track"]
    assert named("a hot dog", {"dog"}) == []


# ---- files of strangers ---------------------------------------------------------------------------------


def changed(**changes) -> dict:
    return document(DOG | changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(segmentation=[[1, 2, 3, 4]]), r"annotations\[0\]: a polygon has 4 numbers; expected three pairs"),
        (changed(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "a polygon has 7 numbers"),
        (changed(segmentation=[[]]), "a polygon has 0 numbers"),
        (changed(segmentation=[[1, 2, 3, 4, 5, "6"]]), "expected a polygon of finite numbers, found"),
        (changed(segmentation=[[1, 2, 3, 4, 5, None]]), "expected a polygon of finite numbers"),
        (changed(segmentation=[[1, 2, 3, 4, 5, 1e300]]), "expected a polygon of finite numbers"),
        (changed(segmentation=[[1, 2, 3, 4, 5, 10**400]]), "expected a polygon of finite numbers"),
        (changed(segmentation=[5]), "expected a polygon of finite numbers, found 5"),
        (changed(segmentation=[[0, 0, WIDTH, HEIGHT] * 20_000]), r"its polygon is \d,\d+,\d+ pixels long"),
        (changed(segmentation=[square(1, 1, 1)] * 10_001), r"images\[0\] has 10,001 outlines; expected up to 10,000"),
        (changed(segmentation="none"), "expected a segmentation of polygons or run lengths, found 'none'"),
        (changed(segmentation={"counts": [1]}), "expected a segmentation of polygons or run lengths"),
        (changed(segmentation={"size": [HEIGHT, WIDTH], "counts": 3}), "expected a segmentation of polygons"),
        (changed(segmentation={"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]}),
         r"has the size 64 x 48 and 1 runs; expected 48 x 64, with runs that fill it"),
        (changed(segmentation={"size": [10**9, 10**9], "counts": [10**18]}), "has the size 1000000000 x 1000000000"),
        (changed(segmentation={"size": [HEIGHT, WIDTH], "counts": [0, 2**31]}), "with runs that fill it"),
        (changed(segmentation={"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT - 1]}), "with runs that fill it"),
        (changed(segmentation={"size": [HEIGHT, WIDTH], "counts": [-5, WIDTH * HEIGHT + 5]}), "runs that fill it"),
        (changed(segmentation={"size": [HEIGHT, WIDTH], "counts": [1.5, WIDTH * HEIGHT - 1.5]}), "that fill it"),
        (changed(segmentation={"size": [HEIGHT, WIDTH], "counts": "oooooooooooooooooo"}), "counts are damaged at 'o'"),
        (changed(segmentation={"size": [HEIGHT, WIDTH], "counts": "0é"}), "counts are damaged at 'é'"),
        (changed(segmentation={"size": [HEIGHT, WIDTH], "counts": "0o"}), "counts are cut off"),
        (changed(segmentation={"size": [HEIGHT, WIDTH], "counts": "0"}), "with runs that fill it"),
        (changed(segmentation=[]), "expected an object with 'bbox' of type list"),
        (changed(segmentation=[], bbox=[1, 2, 3]), "expected a bbox of four numbers"),
        (changed(category_id=99), r"annotations\[0\]: there is no category 99; add it, or remove"),
        (changed(category_id="dog"), "expected an object with 'category_id' of type int"),
        (changed(iscrowd="no"), "expected an object with 'iscrowd' of type int"),
        (changed(image_id="x"), "expected an object with 'image_id' of type int"),
        (document("dog"), r"annotations\[0\]: expected an object"),
        (document(DOG, width=0), r"images\[0\] has 0 x 48 pixels; expected one pixel or more"),
        (document(DOG, width="64"), r"expected an object with 'width' of type int"),
        (document(DOG, width=10**6, height=10**6), "its picture has 1000000 x 1000000 pixels; expected up to"),
        (document(DOG, id=43), r"images\[1\]: the id 43 stands twice"),
        (document(DOG, file_name=7), "expected an object with 'file_name' of type str"),
        (document() | {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
         r"categories\[1\]: the id 1 stands twice"),
        (document() | {"categories": ["dog"]}, r"categories\[0\]: expected an object"),
        (json.dumps(changed()).replace("10, 8", "NaN, 8", 1), "NaN is not a JSON number"),
        (json.dumps(changed()).replace("10, 8", "1e999, 8", 1), "expected a polygon of finite numbers"),
        ('{"images": ' + "[" * 200_000, "its JSON is nested too deeply"),
        ('{"images": [', "is not valid JSON"),
    ],
)  # fmt: skip
def test_annotations_that_can_not_be_believed_are_refused_in_a_sentence(load, content, message):
    with pytest.raises(DataError, match=message):
        load(content)


def test_only_pictures_that_are_asked_for_are_checked(load):
    truth, image = load(document(*PEOPLE, {"image_id": 43, "category_id": "broken", "segmentation": 7}))
    assert truth.regions(image, ["man"])[0] is not None
