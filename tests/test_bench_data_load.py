import csv
import hashlib
import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.data.base import CaptionedImage, data_sha256
from bench.data.captions_file import CaptionFile
from bench.data.load import DATASETS, hashed_split, load_data
from bench.data.pictures import check_name
from bench.errors import DataError
from models.preprocessing import read_picture

NAMES = ("b.jpg", "a.jpg", "c d.jpg")
CAPTIONS = {
    "b.jpg": ("A dog , wet , runs .", 'He says " hi "', "A dog , wet , runs ."),
    "a.jpg": ("Ein Bär\u2028 springt", "a ||| b </script>", " leading and trailing "),
    "c d.jpg": ("word " * 2000, "=cmd|' /C calc'!A0", "{{7*7}} ${x} ::error:: \x1b[31m"),
}
ROWS = [(name, caption) for name in NAMES for caption in CAPTIONS[name]]


def karpathy(splits=None) -> str:
    images = [
        {"filename": name, "imgid": n, "sentences": [{"raw": caption} for caption in CAPTIONS[name]]}
        | ({"split": splits[name]} if splits else {})
        for n, name in enumerate(NAMES)
    ]
    return json.dumps({"images": images, "dataset": "x"})


def coco() -> str:
    images = [{"id": n, "file_name": name} for n, name in enumerate(NAMES)]
    annotations = [{"image_id": NAMES.index(name), "id": n, "caption": c} for n, (name, c) in enumerate(ROWS)]
    return json.dumps({"images": images, "annotations": annotations})


def tokens() -> str:
    return "".join(f"{name}#{n}\t{caption}\n" for n, (name, caption) in enumerate(ROWS))


def table(delimiter=",", header=("image", "caption")) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter).writerows([header, *ROWS])
    return stream.getvalue()


def pipes() -> str:
    rows = [f"{name}| {n}| {caption}" for n, (name, caption) in enumerate(ROWS)]
    return "\n".join(["image_name| comment_number| comment", *rows])


SETS = {
    "Karpathy JSON": karpathy(),
    "COCO captions JSON": coco(),
    "Flickr token file": tokens(),
    "table with an image and a caption column": table(),
    "table, tabs": table("\t", ("filename", "text")),
    "table, semicolons": table(";", ("Image", "Comment")),
    "table, pipes": pipes(),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Images").mkdir()
    for n, name in enumerate(NAMES):
        Image.new("RGB", (4, 3), (n, 0, 0)).save(tmp_path / "Images" / name)
    return tmp_path


@pytest.fixture
def load(folder):
    """Loads a set from the text of its captions file."""

    def load_text(text, *, name="captions", **options):
        path = folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_data(str(path), **options)

    return load_text


# ---- formats ------------------------------------------------------------------------------------------


def test_every_format_is_tried_here():
    assert set(DATASETS) <= set(SETS)


@pytest.mark.parametrize("kind", SETS)
def test_a_set_is_read_whole_in_order_and_word_for_word(load, folder, kind):
    data = load(SETS[kind])
    ids = ("0", "1", "2") if kind.startswith("COCO") else NAMES
    assert tuple(image.image_id for image in data.images) == ids
    assert [image.references for image in data.images] == [CAPTIONS[name] for name in NAMES]
    assert [image.path for image in data.images] == [folder / "Images" / name for name in NAMES]
    assert (data.name, data.missing, data.warnings) == ("captions", (), ())
    assert data.ground_truth is None


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("name", ["x.json", "x.csv", "x.txt", "x.jpg"])
def test_a_format_is_recognised_from_content_whatever_the_name(load, kind, name):
    assert len(load(SETS[kind], name=name).images) == 3


@pytest.mark.parametrize("kind", SETS)
def test_windows_line_ends_and_a_byte_order_mark_change_nothing(load, kind):
    plain = load(SETS[kind].replace("\r\n", "\n"))
    windows = SETS[kind].replace("\r\n", "\n").replace("\n", "\r\n")
    assert load(b"\xef\xbb\xbf" + windows.encode()) == plain
    assert load(b"\xff\xfe" + windows.encode("utf-16-le")) == plain


@pytest.mark.parametrize("kind", [kind for kind in SETS if "JSON" not in kind])
def test_latin_1_is_read_with_a_warning(load, kind):
    data = load(SETS[kind].replace("\u2028", "").encode("latin-1"))
    assert data.images[1].references[0] == "Ein Bär springt"
    assert "is not valid UTF-8" in data.warnings[0]
    assert "Latin-1" in data.warnings[0]


@pytest.mark.parametrize("kind", [kind for kind in SETS if "pipes" not in kind and "token" not in kind])
def test_line_breaks_in_quoted_captions_are_kept(load, kind):
    text = SETS[kind].replace(
        "A dog , wet , runs .", "A\\rdog\\nruns" if "JSON" in kind else '"A\rdog\nruns"'
    )
    text = text.replace('""A\rdog\nruns""', '"A\rdog\nruns"')  # where the caption was quoted for its commas
    assert load(text).images[0].references[0] == "A\rdog\nruns"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\0")), min_size=1))
@settings(deadline=None, max_examples=50)
def test_any_caption_survives_the_csv_reader(captions):
    stream = io.StringIO()
    csv.writer(stream).writerows([("image", "caption"), *(("a.jpg", caption) for caption in captions)])
    entries = DATASETS["table with an image and a caption column"](
        CaptionFile(Path("x"), stream.getvalue(), None)
    )
    assert [caption for entry in entries for caption in entry.captions] == captions


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1))
@settings(deadline=None, max_examples=50)
def test_any_caption_survives_the_token_reader(caption):
    entries = DATASETS["Flickr token file"](CaptionFile(Path("x"), f"a.jpg#0\t{caption}\n", None))
    assert [entry.captions for entry in entries] == [[caption.removesuffix("\r")]]


def test_karpathys_tokens_are_joined_where_no_raw_sentence_is_given(load):
    text = json.dumps({"images": [{"filename": "a.jpg", "sentences": [{"tokens": ["a", "dog"]}]}]})
    assert load(text).images[0].references == ("a dog",)


def test_karpathys_filepath_is_where_the_picture_is_looked_for_first(load, folder):
    (folder / "val2014").mkdir()
    (folder / "val2014" / "a.jpg").write_bytes(b"another")
    text = json.dumps({"images": [{"filename": "a.jpg", "filepath": "val2014", "sentences": [{"raw": "x"}]}]})
    image = load(text).images[0]
    assert (image.image_id, image.path) == ("a.jpg", folder / "val2014" / "a.jpg")
    (folder / "val2014" / "a.jpg").unlink()
    assert load(text).images[0].path == folder / "Images" / "a.jpg"


def test_coco_ids_join_as_numbers_or_text(load):
    text = {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": [{"image_id": "7", "caption": "x"}]}
    image = load(json.dumps(text)).images[0]
    assert (image.image_id, image.references) == ("7", ("x",))


def test_captions_of_one_picture_are_gathered_from_all_over_the_file(load):
    data = load("image,caption\na.jpg,one\nb.jpg,two\na.jpg,three\na.jpg,one\n")
    assert [image.references for image in data.images] == [("one", "three", "one"), ("two",)]


def test_flickr30ks_row_without_a_separator_is_repaired_with_a_warning(load):
    header, *rows = pipes().split("\n")
    broken = "b.jpg| 4   A dog runs across the grass ."
    data = load("\n".join([header, *rows[:2], broken, *rows[2:]]))
    assert data.images[0].references[2] == "A dog runs across the grass ."
    assert data.warnings == ("'captions', line 4: a separator is missing after '4'",)


def test_an_unquoted_caption_may_hold_the_delimiter(load):
    assert load("image,caption\na.jpg,wet, cold, tired\n").images[0].references == ("wet, cold, tired",)


def test_a_table_may_have_other_columns_in_any_order(load):
    text = 'id,Caption,"split",Filename\n1,"x, y",train,a.jpg\n2,z,val,b.jpg\n'
    data = load(text)
    assert [(i.image_id, i.references, i.split) for i in data.images] == [
        ("a.jpg", ("x, y",), "train"),
        ("b.jpg", ("z",), "val"),
    ]
    assert data.split_origin == "given"


# ---- folders and pictures -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("name", ["captions.txt", "results.csv", "dataset_flickr8k.json"])
def test_a_folder_with_captions_and_pictures_is_a_data_set(load, folder, kind, name):
    (folder / "readme.txt").write_text("This data set has three pictures.")
    (folder / "license.json").write_text('{"name": "none"}')
    (folder / "archive.zip").write_bytes(b"PK\x03\x04\0\0")
    from_file = load(SETS[kind], name=name)
    from_folder = load_data(str(folder))
    assert from_folder.name == folder.name
    assert from_folder.images == from_file.images


@pytest.mark.parametrize("place", ["", "images", "Flicker8k_Dataset", "flickr30k_images", "val2014"])
def test_pictures_are_found_beside_the_captions_and_in_the_usual_folders(load, folder, place):
    (folder / "Images").rename(folder / "moved")
    (folder / place).mkdir(exist_ok=True)
    for name in NAMES:
        (folder / "moved" / name).rename(folder / place / name)
    assert [image.path for image in load(tokens()).images] == [folder / place / name for name in NAMES]


def test_pictures_are_found_in_the_folder_that_is_asked_for(load, folder):
    (folder / "Images").rename(folder / "elsewhere")
    with pytest.raises(DataError, match=r"none of the 3 pictures .* \(e\.g\. 'b\.jpg'\) lies in .*--images"):
        load(tokens())
    assert len(load(tokens(), images=folder / "elsewhere").images) == 3


def test_missing_pictures_are_listed_and_left_out(load, folder):
    (folder / "Images" / "a.jpg").unlink()
    (folder / "Images" / "b.jpg").unlink()
    (folder / "Images" / "b.jpg").mkdir()
    data = load(tokens())
    assert [image.image_id for image in data.images] == ["c d.jpg"]
    assert data.missing == ("b.jpg", "a.jpg")


def test_pictures_of_a_set_can_be_read(load):
    image = load(tokens()).images[1]
    assert image.picture().tobytes() == read_picture(image.path).tobytes()


def test_scenes_are_a_data_set():
    assert load_data("scenes:blank").name == "scenes:blank"


# ---- splits -------------------------------------------------------------------------------------------


def test_given_splits_are_kept_and_restval_is_training(load):
    data = load(karpathy({"a.jpg": "restval", "b.jpg": "test", "c d.jpg": "val"}))
    assert [image.split for image in data.images] == ["test", "train", "val"]
    assert data.split_origin == "given"
    assert [image.image_id for image in data.select("train")] == ["a.jpg"]


def test_hashed_splits_are_the_same_on_every_machine():
    assert [hashed_split(f"{n}.jpg") for n in range(8)] == [
        ("train", "train", "train", "train", "train", "train", "train", "train", "val", "test")[
            int(hashlib.sha256(f"{n}.jpg".encode()).hexdigest()[:16], 16) % 10
        ]
        for n in range(8)
    ]
    assert hashed_split("1000268201_693b08cb0e.jpg") == "val"


def test_hashed_splits_are_80_10_10():
    splits = [hashed_split(f"{n:012d}.jpg") for n in range(10_000)]
    assert abs(splits.count("train") - 8000) < 120  # three standard deviations
    assert abs(splits.count("val") - 1000) < 90


def test_hashed_splits_do_not_depend_on_order_or_other_pictures(load):
    def splits(text):
        return {image.image_id: image.split for image in load(text).images}

    whole = splits(tokens())
    assert splits("\n".join(reversed(tokens().strip().split("\n")))) == whole
    assert splits("a.jpg#0\tx\n") == {"a.jpg": whole["a.jpg"]}
    assert "SHA-256" in load(tokens()).split_origin


def test_pictures_in_two_splits_are_refused_by_name(load):
    images = [
        {"filename": f"{n}.jpg", "split": split, "sentences": [{"raw": "x"}]}
        for n in range(7)
        for split in ("train", "restval", "test")
    ]
    with pytest.raises(
        DataError, match=r"7 pictures stand in two splits: '0\.jpg' \(test, train\), .*'4.*, …; leave"
    ):
        load(json.dumps({"images": images}))


def test_one_file_under_two_names_may_not_stand_in_two_splits(load):
    rows = "image,caption,split\na.jpg,x,train\nImages/a.jpg,y,test\n"
    with pytest.raises(DataError, match=r"1 pictures stand in two splits: .*a\.jpg' \(test, train\)"):
        load(rows)


def test_two_pictures_of_one_name_are_refused(load):
    images = [
        {"filename": "a.jpg", "filepath": each, "sentences": [{"raw": "x"}]} for each in ("train", "val")
    ]
    with pytest.raises(
        DataError, match=r"two pictures 'a\.jpg' \('train/a\.jpg' and 'val/a\.jpg'\); expected"
    ):
        load(json.dumps({"images": images}))


@pytest.mark.parametrize("split", ["testA", "", "TRAIN\n"])
def test_unknown_splits_are_refused(load, split):
    with pytest.raises(DataError, match=r"puts 'b\.jpg' in the split .*; expected train, restval, val, test"):
        load(karpathy(dict.fromkeys(NAMES, split)))


def test_splits_for_some_pictures_only_are_refused(load):
    images = json.loads(karpathy(dict.fromkeys(NAMES, "train")))
    del images["images"][1]["split"]
    with pytest.raises(DataError, match=r"1 of 3 pictures \(e\.g\. 'a\.jpg'\) have no split; expected"):
        load(json.dumps(images))


def test_an_empty_split_is_refused_with_the_counts(load):
    data = load(karpathy(dict.fromkeys(NAMES, "val")))
    with pytest.raises(DataError, match=r"no picture in split 'test' \(train 0, val 3, test 0\)"):
        data.select("test")
    assert data.select("all") == data.select("val") == data.images


# ---- captions -----------------------------------------------------------------------------------------


def test_empty_captions_are_left_out_and_counted_unless_a_picture_has_no_other(load):
    data = load("image,caption\na.jpg,\na.jpg,x\na.jpg, \nb.jpg,\nb.jpg,\n")
    assert [image.references for image in data.images] == [("x", " "), ("", "")]
    assert data.warnings == (
        "'captions': 3 captions are empty; they are left out of pictures that have others",
    )


def test_pictures_without_captions_are_left_out_and_counted(load):
    text = json.loads(coco())
    text["annotations"] = text["annotations"][:3]
    data = load(json.dumps(text))
    assert [image.image_id for image in data.images] == ["0"]
    assert data.warnings == ("'captions': 2 pictures have no caption; they are left out",)


def test_halves_of_characters_are_replaced_with_a_warning(load):
    data = load('{"images": [{"filename": "a.jpg", "sentences": [{"raw": "a \\ud83d dog"}]}]}')
    assert data.images[0].references == ("a \ufffd dog",)
    assert data.warnings == ("'captions': 1 captions hold halves of characters, read as U+FFFD",)


# ---- refusals -----------------------------------------------------------------------------------------

HOSTILE = [
    "../a.jpg", "x/../../a.jpg", "..", "/etc/passwd", "C:\\a.jpg", "c:a.jpg", "\\\\host\\share\\a.jpg",
    "a\0.jpg", "a\n.jpg", "a\r.jpg", "a\u2028.jpg", "a\x1b[31m.jpg", "\ud800.jpg", "ä" * 128, "",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_could_lead_out_of_the_folder_are_refused(load, name):
    with pytest.raises(DataError, match="path traversal refused") as caught:
        load(json.dumps({"images": [{"filename": name, "sentences": [{"raw": "x"}]}]}))
    assert repr(name[:80]) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name", ["..a.jpg", "a..b.jpg", "./a.jpg", "…", "x/y.jpg", "日本.jpg", "a b'\"$(x).jpg"]
)
def test_harmless_names_are_allowed(name):
    check_name(name, where="captions")


@pytest.mark.parametrize("where", ["split", "filepath"])
def test_other_fields_can_not_lead_out_of_the_folder_either(load, where):
    image = {"filename": "a.jpg", "sentences": [{"raw": "x"}], where: "../.."}
    with pytest.raises(DataError):
        load(json.dumps({"images": [image]}))


def test_coco_ids_are_checked_like_names(load):
    image, annotation = {"id": "../x", "file_name": "a.jpg"}, {"image_id": "../x", "caption": "x"}
    with pytest.raises(DataError, match="path traversal refused"):
        load(json.dumps({"images": [image], "annotations": [annotation]}))


def test_links_that_leave_the_folder_are_refused(load, folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.jpg").write_bytes(b"secret")
    (folder / "Images" / "a.jpg").unlink()
    (folder / "Images" / "a.jpg").symlink_to(outside / "secret.jpg")
    with pytest.raises(
        DataError, match=r"Images/a\.jpg' is a link that leaves .*path traversal refused.*--images"
    ):
        load(tokens())
    (folder / "Images" / "a.jpg").unlink()
    (folder / "Images" / "a.jpg").symlink_to("b.jpg")  # stays inside
    assert len(load(tokens()).images) == 3
    (folder / "images").symlink_to(outside)
    with pytest.raises(DataError, match="images' is a link that leaves"):
        load(tokens())


def test_a_link_to_itself_is_a_missing_picture(load, folder):
    (folder / "Images" / "a.jpg").unlink()
    (folder / "Images" / "a.jpg").symlink_to("a.jpg")
    assert load(tokens()).missing == ("a.jpg",)


def test_a_folder_given_by_the_user_may_be_a_link(load, folder, tmp_path_factory):
    link = tmp_path_factory.mktemp("links") / "pictures"
    link.symlink_to(folder / "Images")
    assert len(load(tokens(), images=link).images) == 3


ONE = '{"images": [{"id": 1, "file_name": "a"}], "annotations": '
BROKEN_JSON = {
    '{"images": [': "is not valid JSON: .*line 1 column 13",
    '{"images": [NaN]}': "is not valid JSON: NaN is not a JSON number",
    '{"images": [], "images": []}': "is not valid JSON: the key 'images' stands twice in one object",
    "[" * 100_000: "nested too deeply",
    '{"images": ' + "9" * 5000 + "}": "is not valid JSON: Exceeds the limit",
    '{"images": []}': "has 0 pictures, none with a caption; expected both",
    '{"images": [7]}': r"images\[0\]: expected an object with 'filename' of type str, found 7",
    '{"images": [{"filename": "a"}]}': r"images\[0\]: expected .*'sentences' of type list, found None",
    '{"images": [{"filename": "a", "sentences": [{"tokens": [1]}]}]}': r"tokens that are words, found \[1\]",
    '{"images": [{"id": null}], "annotations": []}': r"images\[0\]: expected .* 'id' of type int, found None",
    '{"images": [{"id": 1, "file_name": "a"}, {"id": "1"}], "annotations": []}': "the id '1' stands twice",
    ONE + '[{"image_id": 2, "caption": "x"}]}': r"annotations\[0\]: there is no picture '2'; add it",
    ONE + '[{"image_id": 1}]}': r"annotations\[0\]: expected .*'caption' of type str, found None",
    ONE + "[]}": "1 pictures, none with a caption",
    '[{"image_id": 1, "caption": "x"}]': "not a captions file of a known kind; expected Karpathy JSON, COCO",
    '{"images": "a.jpg"}': "not a captions file of a known kind",
}


@pytest.mark.parametrize(("text", "message"), BROKEN_JSON.items(), ids=range(len(BROKEN_JSON)))
def test_broken_json_is_refused_with_its_place(load, text, message):
    with pytest.raises(DataError, match=message) as caught:
        load(text)
    assert len(str(caught.value)) < 400
    assert "'captions'" in str(caught.value)


BROKEN_TEXT = {
    b"": "'captions' is empty; expected captions",
    b" \n\t\n": "'captions' is empty; expected captions",
    b"hello\nworld\n": "not a captions file of a known kind; expected .*Flickr token file, table with",
    b"\x89HDF\r\n\x1a\n\0\0\0": "'captions' is not text; expected a captions file or its folder",
    b"image,caption\n": "has 0 pictures, none with a caption",
    b"image,caption\na.jpg\n": r"line 2: expected 2 cells \(image, caption\), found 1",
    b"caption,image\nx,a.jpg,y\n": "line 2: expected 2 cells",
    b'image,caption\na.jpg,"x\n': "line 2: unexpected end of data; expected cells with quotes",
    b'image,caption\na.jpg,"x" y\n': "line 2: .*; expected cells with quotes",
    b'image,caption\na.jpg,"' + b"x" * 200_000: "field larger than field limit",
    b"image,caption\n" + b"," * 1_100_000: "line 2 is longer than 1,048,576 characters; split it",
    b"a.jpg#0\t" + b"x" * 1_100_000: "line 1 is longer than 1,048,576 characters; split it",
    b"a.jpg#0\tx\nb.jpg\ty\n": r"line 2: expected name#0<TAB>caption, found 'b\.jpg\\ty'",
    b"a.jpg#0\tx\n\n\nb.jpg#1 y\n": "line 4: expected name#0<TAB>caption",
}


@pytest.mark.parametrize(("text", "message"), BROKEN_TEXT.items(), ids=range(len(BROKEN_TEXT)))
def test_broken_tables_and_token_files_are_refused_with_the_line(load, text, message):
    with pytest.raises(DataError, match=message):
        load(text)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=50)
def test_any_bytes_end_in_a_data_set_or_a_data_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "anything"
    path.write_bytes(data)
    with pytest.raises(DataError):
        load_data(str(path))


KEYS = (
    "images", "annotations", "sentences", "raw", "tokens", "filename", "split", "id", "image_id", "file_name",
    "caption",
)  # fmt: skip
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
)


@given(DOCUMENTS)
@settings(deadline=None, max_examples=50)
def test_any_json_ends_in_a_data_error_where_there_are_no_pictures(tmp_path_factory, document):
    path = tmp_path_factory.getbasetemp() / "anything.json"
    path.write_text(json.dumps({"images": [document], "annotations": document} if document else document))
    with pytest.raises(DataError):
        load_data(str(path))


def test_a_folder_without_captions_is_refused(folder):
    with pytest.raises(
        DataError, match=r"holds no captions file; expected Karpathy JSON, COCO captions JSON"
    ):
        load_data(str(folder))
    (folder / "captions.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"holds no captions file \('captions\.json' is not valid JSON"):
        load_data(str(folder))


def test_a_folder_with_two_captions_files_is_refused_with_their_names(folder):
    (folder / "captions.txt").write_text(table())
    (folder / "a.token").write_text(tokens())
    with pytest.raises(
        DataError, match=r"holds 2 captions files: 'a\.token', 'captions\.txt'; pass one of them"
    ):
        load_data(str(folder))


def test_captions_in_a_folder_are_not_read_through_links(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "captions.txt"
    outside.write_text(table())
    (folder / "captions.txt").symlink_to(outside)
    with pytest.raises(DataError, match="holds no captions file"):
        load_data(str(folder))


@pytest.mark.parametrize("spec", ["", "nowhere", "n\0l", "x" * 5000, "scene"])
def test_what_does_not_exist_is_refused(spec):
    with pytest.raises(
        DataError, match=r"there is no data set .*; expected scenes, a captions file, or its folder"
    ):
        load_data(spec)


def test_what_is_no_file_is_refused_without_waiting(folder):
    os.mkfifo(folder / "pipe")
    for path in (folder / "pipe", Path("/dev/zero")):
        with pytest.raises(DataError, match=f"'{path.name}' is neither a file nor a folder; expected"):
            load_data(str(path))


def test_a_file_over_the_size_limit_is_not_read(folder):
    with (folder / "huge.json").open("wb") as file:
        file.truncate((1 << 30) + 1)  # sparse: takes no room
    with pytest.raises(DataError, match=r"'huge\.json' has 1,073,741,825 bytes; expected captions of up to"):
        load_data(str(folder / "huge.json"))


def test_a_wrong_pictures_folder_is_refused(load, folder):
    with pytest.raises(
        DataError, match=r"there is no folder '.*nowhere'; expected the pictures' folder in --images"
    ):
        load(tokens(), images=folder / "nowhere")


# ---- fingerprint --------------------------------------------------------------------------------------


def test_the_fingerprint_is_over_ids_references_and_bytes(load, folder):
    images = load(tokens()).images[:2]
    total = hashlib.sha256()
    for image in images:
        total.update(json.dumps([image.image_id, list(image.references)]).encode())
        total.update(hashlib.sha256(image.path.read_bytes()).digest())
    assert data_sha256(images) == total.hexdigest()


def test_the_fingerprint_changes_with_everything_but_place_and_split(load, folder, tmp_path):
    def image(image_id="a", references=("x", "y"), split="test", data=b"1", name="1.jpg"):
        path = tmp_path / name
        path.write_bytes(data)
        return data_sha256([CaptionedImage(image_id, references, split, path)])

    assert image(split="train") == image(name="2.jpg") == image()
    others = [
        image("b"),
        image(references=("y", "x")),
        image(references=("xy",)),
        image(data=b"2"),
        image(data=b""),
    ]
    assert len({image(), *others}) == 6


def test_a_vanished_picture_still_has_a_fingerprint(tmp_path):
    assert len(data_sha256([CaptionedImage("a", ("x",), "test", tmp_path / "gone.jpg")])) == 64


# ---- real data ----------------------------------------------------------------------------------------

FLICKR = Path(__file__).parents[2] / "shared" / "data" / "flickr8k-mini"


@pytest.mark.skipif(not FLICKR.is_dir(), reason=f"the photographs of {FLICKR} are not on this machine")
def test_flickr8k_is_read_from_its_folder():
    data = load_data(str(FLICKR))
    assert len(data.images) == 796
    assert {len(image.references) for image in data.images} == {5}
    assert data.warnings == data.missing == ()
    assert data.images[0].references[0].startswith("A child in a pink dress is climbing")
