"""Captions of other programs: every usual form is read, and every picture finds its own references."""

import json

import pytest

from bench.data.results import References, by_reference_id, load_references, load_results
from bench.errors import DataError


@pytest.fixture
def written(tmp_path):
    """`written(content, name)` writes text, or JSON, and returns the path."""

    def write(content, name="results.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


COCO = {
    "images": [
        {"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"},
        {"id": 42, "file_name": "COCO_val2014_000000000042.jpg"},
    ],
    "annotations": [
        {"image_id": 391895, "caption": "a man"},
        {"image_id": 391895, "caption": "a man rides"},
        {"image_id": 42, "caption": "a dog"},
    ],
}
KARPATHY = {
    "images": [
        {"filename": "COCO_val2014_000000391895.jpg", "filepath": "val2014", "split": "test",
         "sentences": [{"raw": "a man"}]},
        {"filename": "COCO_val2014_000000000042.jpg", "filepath": "val2014", "split": "val",
         "sentences": [{"raw": "a dog"}]},
    ]
}  # fmt: skip
SAID = {"391895": "a man", "42": "a cat"}


@pytest.mark.parametrize(
    "content",
    [
        [{"image_id": 391895, "caption": "a man"}, {"image_id": 42, "caption": "a cat", "score": 0.5}],
        [{"image_id": "391895", "caption": "a man"}, {"image_id": "42", "caption": "a cat"}],
        {"391895": "a man", "42": "a cat"},
        {"391895": ["a man"], "42": ["a cat"]},
        "image,caption\n391895,a man\n42,a cat\n",
        "391895#0\ta man\n42#0\ta cat\n",
    ],
    ids=["COCO", "COCO with text ids", "mapping", "mapping to lists", "table", "token file"],
)
def test_results_come_in_every_usual_form(written, content):
    assert load_results(written(content)).captions == SAID


@pytest.mark.parametrize(
    "names",
    [
        ("391895", "42"),
        ("000000391895", "000000000042"),
        ("COCO_val2014_000000391895.jpg", "COCO_val2014_000000000042.jpg"),
        ("val2014/COCO_val2014_000000391895.jpg", "val2014/COCO_val2014_000000000042.jpg"),
        ("COCO_val2014_000000391895", "COCO_val2014_000000000042"),
    ],
)
@pytest.mark.parametrize("document", [COCO, KARPATHY], ids=["COCO", "Karpathy"])
def test_pictures_are_found_by_id_or_by_any_usual_form_of_their_file_name(written, document, names):
    references = load_references(str(written(document, "references.json")))
    found = by_reference_id(dict(zip(names, ("first", "second"), strict=True)), references)
    assert {references.captions[image_id][0]: caption for image_id, caption in found.items()} == {
        "a man": "first",
        "a dog": "second",
    }


def test_an_id_counts_before_a_number_in_a_file_name():
    references = References("r", {"7": ("a",), "8": ("b",)}, {"7": "8.jpg", "8": "7.jpg"}, ())
    assert by_reference_id({"7": "first", "8": "second"}, references) == {"7": "first", "8": "second"}


def test_a_number_that_stands_for_two_pictures_stands_for_none():
    references = References("r", {"a": ("a",), "b": ("b",)}, {"a": "train_7.jpg", "b": "val_7.jpg"}, ())
    with pytest.raises(DataError, match="'r' has no references for 1 of 1 captioned pictures: '7'"):
        by_reference_id({"7": "x"}, references)


def test_two_captions_of_one_picture_under_two_names_are_refused():
    references = References("r", {"7": ("a",), "8": ("b",)}, {"7": "7.jpg", "8": "8.jpg"}, ())
    with pytest.raises(DataError, match="has no references for 1 of 2 captioned pictures"):
        by_reference_id({"7": "x", "07": "y"}, references)


def test_scenes_are_references_too():
    references = load_references("scenes:shared-colour")
    assert len(references.captions) == 13_000
    assert all(len(captions) == 5 for captions in references.captions.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}],
            "two captions of '1'; expected one",
        ),
        ([{"image_id": 1}], "expected an object with 'caption' of type str"),
        ([{"caption": "a"}], "expected an object with 'image_id' of type int"),
        ([], "holds no caption"),
        ({"1": ["a", "b"]}, "'1': expected one caption, found"),
        (COCO, "two captions of '391895'"),
        ("hello", "is not a file of captions of a known kind; expected a list of"),
        ("[1", "is not valid JSON"),
    ],
)
def test_what_can_not_be_results_is_refused_in_a_sentence(written, content, message):
    with pytest.raises(DataError, match=message):
        load_results(written(content))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*gone\.json"):
        load_results(tmp_path / "gone.json")
