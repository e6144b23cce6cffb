"""Annotations that come apart from the captions: recognised from content, joined by name, and never silently wrong."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from bench.data.base import CaptionedImage
from bench.data.load import load_data
from bench.data.regions import load_regions
from bench.data.scenes import make_scene
from bench.errors import DataError
from models.preprocessing import Preprocessing

FLICKR = Path(__file__).parents[2] / "shared" / "data" / "flickr8k-mini"
XML = """<annotation><size><width>40</width><height>30</height></size><object><name>1</name>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>20</xmax><ymax>15</ymax></bndbox></object></annotation>"""
SENTENCE = "[/EN#1/animals A wet dog] runs .\n"


def coco(*files, width=40, height=30) -> dict:
    return {
        "images": [
            {"id": number, "file_name": name, "width": width, "height": height} for number, name in files
        ],
        "annotations": [
            {"image_id": number, "category_id": 1, "segmentation": [[0, 0, 20, 0, 20, 15, 0, 15]]}
            for number, _ in files
        ],
        "categories": [{"id": 1, "name": "dog"}],
    }


@pytest.fixture
def picture(tmp_path):
    """`picture(name)` draws a picture with a red quarter, and gives it as a data set would."""

    def make(name, image_id=None, size=(40, 30), **options):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(exist_ok=True)
        drawn = Image.new("RGB", size, (240, 240, 240))
        drawn.paste((250, 10, 10), (0, 0, size[0] // 2, size[1] // 2))
        drawn.save(path, quality=95, subsampling=0, **options)
        return CaptionedImage(image_id or name, ("a dog",), "test", path)

    return make


@pytest.fixture
def written(tmp_path):
    """`written(content)` writes JSON; `written(*stems)` the folder of Flickr30k Entities."""

    def write(*content):
        if content and isinstance(content[0], dict):
            (tmp_path / "regions.json").write_text(json.dumps(content[0]))
            return tmp_path / "regions.json"
        for folder, suffix, text in (("Annotations", "xml", XML), ("Sentences", "txt", SENTENCE)):
            (tmp_path / "set" / folder).mkdir(parents=True)
            for stem in content:
                (tmp_path / "set" / folder / f"{stem}.{suffix}").write_text(text)
        return tmp_path / "set"

    return write


# ---- which picture --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "image_id"),
    [
        ("1000092795.jpg", "1000092795.jpg"),
        ("1000092795.jpg", "1000092795"),
        ("1000092795.jpg", "17"),
        ("renamed.jpg", "1000092795.jpg"),
        ("renamed.jpg", "flickr30k/1000092795.jpg"),
        ("1000092795.PNG", "0"),
    ],
)
def test_entities_find_their_picture_by_file_name_or_id_with_or_without_suffix(
    written, picture, file, image_id
):
    found = load_regions(written("1000092795", "17a"), [picture(file, image_id)])
    assert (found.covered, found.warnings) == (1, ())


@pytest.mark.parametrize(
    ("file", "image_id"),
    [
        ("COCO_val2014_000000391895.jpg", "COCO_val2014_000000391895.jpg"),
        ("COCO_val2014_000000391895.jpg", "391895"),
        ("000000391895.jpg", "000000391895.jpg"),
        ("391895.jpg", "x"),
        ("renamed.jpg", "391895"),
        ("renamed.jpg", "val2014/COCO_val2014_000000391895.jpg"),
        ("renamed.jpg", "COCO_val2014_000000391895"),
        ("COCO_train2014_000000391895.png", "y"),
    ],
)
@pytest.mark.parametrize("name", ["COCO_val2014_000000391895.jpg", "000000391895.jpg"])
def test_instances_find_their_picture_by_file_name_or_by_cocos_number(written, picture, name, file, image_id):
    found = load_regions(written(coco((391895, name))), [picture(file, image_id)])
    assert (found.covered, found.warnings) == (1, ())


def test_a_file_name_counts_before_a_number(written, picture):
    content = coco((7, "8.jpg"), (8, "7.jpg"))
    content["annotations"][0]["segmentation"] = [[0, 0, 40, 0, 40, 30, 0, 30]]
    seven, eight = picture("7.jpg"), picture("8.jpg")
    truth = load_regions(written(content), [seven, eight]).truth
    assert truth.regions(seven, ["dog"])[0].union.sum() == 20 * 15
    assert truth.regions(eight, ["dog"])[0].union.sum() == 40 * 30


def test_a_file_name_that_two_pictures_have_is_nobodys(written, picture):
    path = written(coco((1, "train/a.jpg"), (2, "val/a.jpg"), (3, "b.jpg")))
    found = load_regions(path, [picture("a.jpg"), picture("b.jpg")])
    assert found.covered == 1
    assert found.warnings == (
        "'regions.json': 1 of 2 pictures are not annotated (e.g. 'a.jpg'); their words have no place",
    )


@pytest.mark.parametrize("name", ["1000268201_0000000042.jpg", "42x.jpg", "x42.jpg", "COCO_42x.jpg"])
def test_a_number_inside_another_name_is_not_cocos(written, picture, name):
    path = written(coco((42, "000000000042.jpg")))
    assert load_regions(path, [picture(name), picture("42.jpg")]).covered == 1


def test_a_loaded_data_set_finds_its_regions(written, picture, tmp_path):
    for number in (5, 6):
        picture(f"COCO_val2014_{number:012d}.jpg")
    captions = {
        "images": [{"id": n, "file_name": f"COCO_val2014_{n:012d}.jpg"} for n in (5, 6)],
        "annotations": [{"image_id": n, "caption": "a dog"} for n in (5, 6)],
    }
    (tmp_path / "pictures" / "captions.json").write_text(json.dumps(captions))
    images = load_data(str(tmp_path / "pictures")).images
    path = written(coco((5, "000000000005.jpg"), (6, "000000000006.jpg")))
    assert load_regions(path, images).covered == 2


@pytest.mark.skipif(not FLICKR.is_dir(), reason=f"needs the photographs in {FLICKR}")
def test_photographs_of_flickr8k_find_what_flickr30k_says_of_them(tmp_path):
    images = load_data(str(FLICKR)).images[::40]
    for folder in ("Annotations", "Sentences"):
        (tmp_path / folder).mkdir()
    for image in images:
        number, (width, height) = image.image_id.split("_")[0], image.picture().size
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        box = f"<xmin>1</xmin><ymin>1</ymin><xmax>{width}</xmax><ymax>9</ymax>"
        thing = f"<object><name>3</name><bndbox>{box}</bndbox></object>"
        (tmp_path / "Annotations" / f"{number}.xml").write_text(f"<annotation>{size}{thing}</annotation>")
        text = "\n".join(f"[/EN#3/other {caption} ]" for caption in image.references)
        (tmp_path / "Sentences" / f"{number}.txt").write_text(text)
    found = load_regions(tmp_path, images)
    assert (found.covered, found.warnings) == (len(images), ())
    for image in images:
        words = image.references[0].split()
        for word, kind, region in zip(
            words, found.truth.word_classes(words), found.truth.regions(image, words), strict=True
        ):
            assert (region is None) == (kind in ("function", "relation")), word
            assert region is None or region.union.sum() == 9 * image.picture().width


# ---- which place ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["1", coco((1, "1.jpg"))], ids=["entities", "instances"])
def test_the_region_of_a_drawn_thing_is_where_it_is_drawn(written, picture, content):
    image = picture("1.jpg")
    truth = load_regions(written(content), [image]).truth
    (region,) = truth.regions(image, ["dog"])
    red = np.asarray(image.picture())[:, :, 1] < 128
    assert np.array_equal(region.unique, red)


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("content", ["1", coco((1, "1.jpg"))], ids=["entities", "instances"])
def test_the_region_that_the_model_sees_is_where_it_sees_the_thing(written, picture, content, fit):
    image = picture("1.jpg")
    preprocessing = Preprocessing(size=24, fit=fit)
    (region,) = load_regions(written(content), [image]).truth.regions(image, ["dog"])
    red = np.asarray(preprocessing.view(image.picture()))[:, :, 1] < 128
    assert (preprocessing.view_mask(region.union) != red).mean() < 0.03  # JPEG and resizing blur the edge


@pytest.mark.parametrize("content", ["1", coco((1, "1.jpg"))], ids=["entities", "instances"])
def test_a_turned_picture_has_the_size_that_people_see(written, picture, content):
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    image = picture("1.jpg", size=(30, 40), exif=exif)
    found = load_regions(written(content), [image])
    assert found.truth.regions(image, ["dog"])[0].union.shape == (30, 40)


@pytest.mark.parametrize(
    "content", [("1", "2"), (coco((1, "1.jpg"), (2, "2.jpg")),)], ids=["entities", "instances"]
)
def test_a_picture_of_another_size_is_left_out_and_reported(written, picture, content):
    images = [picture("1.jpg"), picture("2.jpg", size=(30, 40))]
    path = written(*content)
    found = load_regions(path, images)
    assert found.covered == 1
    assert found.warnings == (
        f"'{path.name}': 1 of 2 pictures are annotated in another size (e.g. '2.jpg', which has 30 x 40 "
        "pixels and is annotated for 40 x 30); their words have no place",
    )
    assert found.truth.regions(images[1], ["dog"]) == [None]
    assert found.truth.objects(images[1], ["dog"]) == (0, 0)


def test_a_damaged_picture_is_no_reason_to_stop_but_its_size_is_not_believed(written, picture):
    images = [picture("1.jpg"), picture("2.jpg")]
    images[1].path.write_bytes(b"nothing")
    content = coco((1, "1.jpg"), (2, "2.jpg"))
    content["images"][1] |= {"width": 9000, "height": 9000}
    found = load_regions(written(content), images)
    assert found.covered == 1
    assert found.warnings == (
        "'regions.json': 1 of 2 pictures can't be read (e.g. '2.jpg'); their words have no place",
    )
    assert found.truth.regions(images[1], ["dog"]) == [None]


# ---- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["5", coco((5, "5.jpg"))], ids=["entities", "instances"])
def test_regions_of_other_pictures_are_refused_with_an_example_of_both(written, picture, content):
    path = written(content)
    expected = rf"'{path.name}' annotates none of the 1 pictures .*\(e\.g\. 'a\.jpg'\); it knows 1 pictures, such as '5"
    with pytest.raises(DataError, match=expected):
        load_regions(path, [picture("a.jpg")])
    with pytest.raises(DataError, match=r"'scene-main-test-0-00001'\); it knows"):
        load_regions(path, [make_scene("test", 1)])
    with pytest.raises(DataError, match="which has 9 x 9 pixels and is annotated for 40 x 30"):
        load_regions(path, [picture("5.jpg", size=(9, 9))])


@pytest.mark.parametrize("content", [(), (coco(),)], ids=["entities", "instances"])
def test_regions_of_no_picture_at_all_are_refused(written, picture, content):
    with pytest.raises(DataError, match=r"it knows 0 pictures; pass"):
        load_regions(written(*content), [picture("a.jpg")])


@pytest.mark.parametrize(
    "content",
    [
        b"", b"hello", b"PK\x03\x04annotations.zip", b"image,caption\na.jpg,x\n", b"[]", b"{}", b"\0" * 9,
        b'{"images": [], "annotations": []}', b'{"images": [], "annotations": {}, "categories": []}',
    ],
)  # fmt: skip
def test_files_of_other_kinds_are_refused_with_those_that_are_known(tmp_path, picture, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"'x\.json' holds no regions of a known kind; expected the folder of Fli"
    ):
        load_regions(path, [picture("a.jpg")])


def test_what_is_not_there_or_no_file_is_refused_without_waiting(tmp_path, picture):
    image = picture("a.jpg")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        DataError, match=r"there is no file or folder .*missing'; expected the folder of Flickr30k"
    ):
        load_regions(tmp_path / "missing", [image])
    with pytest.raises(
        DataError, match=r"holds no Annotations and Sentences; expected the folder of Flickr30k"
    ):
        load_regions(tmp_path, [image])
    with pytest.raises(DataError, match=r"'pipe' holds no regions of a known kind"):
        load_regions(tmp_path / "pipe", [image])


def test_a_hostile_name_can_not_break_the_line_of_a_message(written, picture):
    image = picture("a.jpg", "a\n::error::\x1b[31m")
    path = written(coco((1, "b\n::error::\x1b[31m.jpg")))
    with pytest.raises(DataError) as caught:
        load_regions(path, [image])
    assert str(caught.value).isprintable()
