"""Flickr30k Entities: what the files say is what words point at, and files of strangers do no harm."""

import random

import numpy as np
import pytest
from PIL import Image

from bench.data.base import CaptionedImage
from bench.data.entities import MAX_BYTES, EntityFolder
from bench.data.plurals import same_noun, singulars
from bench.data.regions import load_regions
from bench.errors import DataError

WIDTH, HEIGHT = 50, 40
# One picture as the set has it: entities 1 and 4 have two boxes each, one box shows 1 and 6, 10 can't be seen, 9 is
# the scene, 0 stands for phrases that nobody annotated.
XML = f"""<annotation>
  <filename>7.jpg</filename>
  <size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>
  <object><name>1</name><bndbox><xmin>3</xmin><ymin>5</ymin><xmax>10</xmax><ymax>30</ymax></bndbox></object>
  <object><name>1</name><name>6</name>
    <bndbox><xmin>20</xmin><ymin>6</ymin><xmax>31</xmax><ymax>33</ymax></bndbox></object>
  <object><name>7</name><bndbox><xmin>22</xmin><ymin>12</ymin><xmax>29</xmax><ymax>20</ymax></bndbox></object>
  <object><name>4</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>50</xmax><ymax>4</ymax></bndbox></object>
  <object><name>4</name><bndbox><xmin>40</xmin><ymin>20</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object>
  <object><name>9</name><scene>1</scene><nobndbox>0</nobndbox></object>
  <object><name>10</name><scene>0</scene><nobndbox>1</nobndbox></object>
</annotation>"""
SENTENCES = """[/EN#1/people Two young guys] with [/EN#0/notvisual ladders] look at [/EN#9/scene/other the yard] .
[/EN#1/people Two young , White males] are near [/EN#4/scene many Bushes] on top of [/EN#0/notvisual it] .
[/EN#6/people A man] in [/EN#7/clothing a blue shirt] jumps .
[/EN#1/people Two friends] enjoy [/EN#10/other time] spent together .
"""
BOXES = {  # by hand: left, top, right, bottom, from 1, ends included
    "1": [(3, 5, 10, 30), (20, 6, 31, 33)],
    "6": [(20, 6, 31, 33)],
    "7": [(22, 12, 29, 20)],
    "4": [(1, 1, 50, 4), (40, 20, 50, 40)],
}


def filled(*entities) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for left, top, right, bottom in (box for entity in entities for box in BOXES[entity]):
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                mask[y - 1, x - 1] = True
    return mask


@pytest.fixture
def entities(tmp_path):
    """`entities(xml, sentences)` writes the set and its one picture, and gives its truth and the picture."""

    def write(xml=XML, sentences=SENTENCES, stem="7"):
        for folder, suffix, content in (("Annotations", "xml", xml), ("Sentences", "txt", sentences)):
            (tmp_path / folder).mkdir(exist_ok=True)
            data = content if isinstance(content, bytes) else content.encode()
            (tmp_path / folder / f"{stem}.{suffix}").write_bytes(data)
        picture = tmp_path / f"{stem}.jpg"
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 60)).save(picture)
        image = CaptionedImage(picture.name, ("two guys in a yard",), "test", picture)
        return load_regions(tmp_path, [image]).truth, image

    return write


# ---- what words point at --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("guys", "1"), ("GUY", "1"), ("white", "1"), ("two", "1"), ("friend", "1"), ("man", "6"), ("men", "6"),
        ("shirts", "7"), ("blue", "7"), ("bush", "4"), ("bushes", "4"),
    ],
)  # fmt: skip
def test_a_word_of_one_entitys_phrases_has_its_boxes(entities, word, meant):
    truth, image = entities()
    (region,) = truth.regions(image, [word])
    assert np.array_equal(region.unique, filled(meant))
    assert np.array_equal(region.union, filled(meant))
    assert (region.other, region.distractors) == (None, None)


def test_a_word_of_two_entities_has_the_boxes_of_both_and_is_not_unique(entities):
    truth, image = entities(sentences=SENTENCES + "[/EN#4/scene blue bushes] behind .")
    (region,) = truth.regions(image, ["blue"])
    assert region.unique is None
    assert np.array_equal(region.union, filled("7", "4"))


@pytest.mark.parametrize(
    "word", ["a", "it", ",", ".", "in", "top", "yard", "time", "ladders", "dog", "gu", ""]
)
def test_words_of_function_place_scene_and_unseen_or_unnamed_things_have_no_region(entities, word):
    truth, image = entities()
    assert truth.regions(image, [word]) == [None]


def test_relations_have_no_region_even_inside_a_phrase(entities):
    truth, image = entities(sentences=SENTENCES + "[/EN#7/clothing the shirt in front] .")
    assert truth.regions(image, ["in", "front"]) == [None, None]


def test_a_whole_caption_has_one_entry_per_word(entities):
    truth, image = entities()
    words = ["two", "men", "in", "blue", "shirts"]
    regions = truth.regions(image, words)
    assert [region is not None for region in regions] == [True, True, False, True, True]
    assert truth.word_classes(words) == ["number", "content", "relation", "colour", "content"]
    assert truth.regions(image, []) == []


def test_nothing_is_said_of_truth_or_objects_which_phrases_do_not_settle(entities):
    truth, image = entities()
    assert truth.truth(image, ["dog"]) == {}
    assert truth.objects(image, ["dog", "man"]) == (0, 0)


def test_a_picture_that_is_not_annotated_has_no_regions(entities):
    truth, _ = entities()
    assert truth.regions(CaptionedImage("8.jpg", (), "test"), ["man", "a"]) == [None, None]


def test_boxes_are_cut_at_the_pictures_edge_and_those_outside_are_counted(entities, tmp_path):
    xml = XML.replace("<xmin>22</xmin>", "<xmin>-7</xmin>").replace("<ymax>20</ymax>", "<ymax>4000</ymax>")
    xml = xml.replace("<xmin>40</xmin>", "<xmin>51</xmin>")
    truth, image = entities(xml)
    (shirt, bush) = truth.regions(image, ["shirt", "bush"])
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[11:, :29] = True
    assert np.array_equal(shirt.union, expected)
    assert bush.union.sum() == 4 * WIDTH
    assert load_regions(tmp_path, [image]).warnings == (
        f"'{tmp_path.name}': 1 pictures have boxes without a pixel in the picture",
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
def test_declared_encodings_are_read(entities, encoding):
    truth, image = entities(f'<?xml version="1.0" encoding="{encoding}"?>{XML}'.encode(encoding))
    assert truth.regions(image, ["man"])[0] is not None


def test_sentences_may_have_windows_line_ends_a_byte_order_mark_and_damaged_letters(entities):
    text = b"\xef\xbb\xbf" + SENTENCES.replace("\n", "\r\n").encode() + b"[/EN#7/clothing a caf\xe9 shirt ]"
    truth, image = entities(sentences=text)
    assert truth.regions(image, ["shirt"])[0] is not None


def test_a_flickr8k_picture_is_found_by_the_number_that_flickr30k_names_it_by(entities, tmp_path):
    entities(stem="1000268201")
    (tmp_path / "1000268201.jpg").rename(tmp_path / "1000268201_693b08cb0e.jpg")
    image = CaptionedImage("1000268201_693b08cb0e.jpg", (), "test", tmp_path / "1000268201_693b08cb0e.jpg")
    assert load_regions(tmp_path, [image]).covered == 1


# ---- plurals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pair",
    [
        "dog dogs", "bus buses", "box boxes", "beach beaches", "dish dishes", "tomato tomatoes", "shoe shoes",
        "horse horses", "lady ladies", "movie movies", "knife knives", "leaf leaves", "man men", "person people",
        "child children", "mouse mice", "toy toys", "glass glasses", "dress dresses",
    ],
)  # fmt: skip
def test_singular_and_plural_are_one_noun(pair):
    one, several = pair.split()
    assert same_noun(one, several)
    assert same_noun(several, one)
    assert one in singulars(several)


@pytest.mark.parametrize(
    "pair",
    ["plan planes", "gras grass", "bu bus", "thi this", "can canes", "glas glass", "men man's", "a as"],
)
def test_words_that_only_look_alike_are_two(pair):
    assert not same_noun(*pair.split())


# ---- files of strangers ---------------------------------------------------------------------------------

BOMB = """<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>"""
OUTSIDE = '<!DOCTYPE annotation [<!ENTITY f SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (BOMB + XML.replace("<width>50", "<width>&c;"), r"'7\.xml' declares a document type; expected plain"),
        (OUTSIDE + XML.replace("<name>9", "<name>&f;"), r"'7\.xml' declares a document type"),
        ('<!DOCTYPE annotation SYSTEM "http://127.0.0.1:9/x.dtd">' + XML, "declares a document type"),
        (XML.replace("<name>9", "<name>&undeclared;"), r"'7\.xml' is not valid XML: undefined entity"),
        ("", r"'7\.xml' is not valid XML: no element found"),
        ("hello", "is not valid XML: syntax error"),
        (XML[:200], "is not valid XML"),
        (XML + XML, "is not valid XML: junk after document element"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not valid XML"),
        ('<?xml version="1.0" encoding="utf-7"?><a/>', "is not valid XML"),
        ('<?xml version="1.0" encoding="nonsense"?><a/>', "is not valid XML"),
        ("<annotation/>", r"'7\.xml': expected a whole number in <size/width>, found None"),
        (XML.replace("<width>50", "<width>many"), "expected a whole number in <size/width>, found 'many'"),
        (XML.replace("<width>50", "<width>" + "9" * 9999), "expected a whole number in <size/width>, found '999"),
        (XML.replace("<width>50", "<width>nan"), "found 'nan'"),
        (XML.replace("<xmin>3</xmin>", ""), "expected a whole number in <bndbox/xmin>, found None"),
        (XML.replace("<xmin>3<", "<xmin>1e9<"), "expected a whole number in <bndbox/xmin>, found '1e9'"),
        (XML.replace("<width>50", "<width>0"), r"is of a picture of 0 x 40 pixels; expected one"),
        (XML + " " * MAX_BYTES, r"'7\.xml' is larger than 1,048,576 bytes"),
    ],
)  # fmt: skip
def test_annotations_that_can_not_be_believed_are_refused_in_a_sentence(entities, xml, message):
    with pytest.raises(DataError, match=message):
        entities(xml)


def test_elements_nested_140_000_deep_are_read_and_refused(entities):
    with pytest.raises(DataError, match="expected a whole number"):
        entities("<a>" * 140_000 + "</a>" * 140_000)


@pytest.mark.parametrize(
    "sentences",
    [
        "",
        "Two men run .",
        "[/EN#x/people A man] .",
        "[/EN#1/people A man",
        "[/EN#1/people A\nman]",
        "[1 A man]",
    ],
)
def test_sentences_without_a_marked_phrase_are_refused_with_an_example(entities, sentences):
    with pytest.raises(
        DataError, match=r"'7\.txt' marks no phrase; expected sentences such as '\[/EN#7/people"
    ):
        entities(sentences=sentences)


@pytest.mark.parametrize(
    "text", ["[/EN#1/a " * 110_000, "[/EN#1/" + "x" * 10**6, "[/EN#1/a" + " " * 10**6, "[" * 10**6]
)
def test_sentences_made_to_stall_the_reader_do_not(entities, text):
    with pytest.raises(DataError, match="marks no phrase"):
        entities(sentences=text[:MAX_BYTES])


def test_damaged_files_end_in_regions_of_the_pictures_size_or_a_data_error(entities, tmp_path):
    _, image = entities()
    rng, read, refused = random.Random(0), 0, 0
    for number in range(300):
        path = tmp_path / ("Annotations/7.xml", "Sentences/7.txt")[number % 2]
        original = path.read_bytes()
        data = bytearray(original)
        for _ in range(rng.choice((1, 3))):
            data[rng.randrange(len(data))] = rng.choice((0, 45, 57, 60, 62, 91, 93, 255))
        path.write_bytes(data)
        try:
            truth = load_regions(tmp_path, [image]).truth
        except DataError:
            refused += 1
        else:
            read += 1
            for region in truth.regions(image, ["guys", "shirt", "bushes"]):
                assert region is None or region.union.shape == (HEIGHT, WIDTH)
        path.write_bytes(original)
    assert read > 30
    assert refused > 30


def test_links_and_other_files_in_the_folders_are_not_followed(entities, tmp_path):
    entities()
    outside = tmp_path / "outside.xml"
    outside.write_text(XML)
    (tmp_path / "Annotations" / "8.xml").symlink_to(outside)
    (tmp_path / "Annotations" / "9.xml").mkdir()
    for name in "89":
        (tmp_path / "Sentences" / f"{name}.txt").write_text(SENTENCES)
    assert EntityFolder(tmp_path).names == ["7"]


@pytest.mark.parametrize(
    "name",
    ["../Annotations/7", "/etc/passwd", "../../7", "7/../7", "7\0", ".", "", "Annotations/7", "x" * 5000],
)
def test_a_name_is_looked_up_and_never_opened(entities, tmp_path, name):
    entities()
    assert EntityFolder(tmp_path).read([name]) is None
