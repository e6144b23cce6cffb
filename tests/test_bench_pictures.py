"""Captions and pages of one's own pictures, on the demo model, with files and names of strangers."""

import base64
import dataclasses
import io
import json
import os
import re
import struct
import sys
import zlib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import html5lib
import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from bench.cli import main
from bench.config import DEMO_CHECKPOINT
from bench.data.scenes import make_scene
from models.formats import load_checkpoint
from models.formats.native import save_native

DEMO = str(DEMO_CHECKPOINT)
BRIEFLY = ("--methods", "grid_integrated_gradients")  # where a test is about something else
SECRET = "51 deg 28' N, taken by Ann Lee"
# How the pixels of a picture lie in a file whose EXIF orientation is the key; reading turns them back.
LAID_DOWN = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture
def pictures(tmp_path):
    make_scene("test", 0).picture().save(tmp_path / "mine.png")
    Image.new("L", (40, 30), 200).save(tmp_path / "grey.png")
    return [str(tmp_path / "mine.png"), str(tmp_path / "grey.png")]


CAPTION_KEYS = {
    "image_id", "beam_size", "caption", "words", "token_ids", "log_prob_nats", "word_log_probs", "score", "finished",
    "alphas",
}  # fmt: skip


def test_own_pictures_are_captioned(pictures, capsys):
    assert main(["caption", DEMO, *pictures, "--json"]) == 0
    mine, grey = json.loads(capsys.readouterr().out)
    assert mine["caption"] in make_scene("test", 0).references
    assert mine["image_id"] == "mine.png"
    assert grey["finished"] in (True, False)
    assert set(mine) == CAPTION_KEYS
    alphas = np.array(mine["alphas"])
    assert alphas.shape == (len(mine["token_ids"]), 14, 14)
    np.testing.assert_allclose(alphas.sum(axis=(1, 2)), 1, atol=1e-4)
    assert (alphas == alphas.round(7)).all()
    length = len(mine["token_ids"])
    assert mine["score"] == pytest.approx(mine["log_prob_nats"] / ((5 + length) / 6) ** 0.7, rel=1e-5)


def test_several_captions_of_a_picture_come_best_first(pictures, capsys):
    options = [DEMO, pictures[0], "--beam-size", "4", "--n-best", "3", "--length-exponent", "0"]
    assert main(["caption", *options, "--json"]) == 0
    (mine,) = json.loads(capsys.readouterr().out)
    assert set(mine) == CAPTION_KEYS | {"alternatives"}
    assert len(mine["alternatives"]) == 2
    for better, worse in zip([mine, *mine["alternatives"]], mine["alternatives"], strict=False):
        assert set(worse) == {"caption", "words", "token_ids", "log_prob_nats", "score", "finished"}
        assert worse["score"] == pytest.approx(worse["log_prob_nats"], rel=1e-5)
        assert better["score"] >= worse["score"]
    assert main(["caption", *options]) == 0
    best, *others = capsys.readouterr().out.splitlines()
    assert best == f"mine.png: {mine['caption']}"
    assert others == [f"  {other['score']:.3f}  {other['caption']}" for other in mine["alternatives"]]


def test_rules_of_decoding_hold(pictures, capsys):
    def say(*options):
        assert main(["caption", DEMO, pictures[0], "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)[0]

    free, shorter, unrepeated = say(), say("--max-steps", "3"), say("--no-repeat", "1")
    assert len(shorter["token_ids"]) == 3
    assert not shorter["finished"]
    assert len(set(free["words"])) < len(free["words"])
    assert len(set(unrepeated["words"])) == len(unrepeated["words"])
    assert say("--decoding", "tutorial") == say("--length-exponent", "0")


def oriented(path, orientation, scene):
    """A JPEG whose pixels lie as the EXIF tag says, with a place, an author and a comment that nobody is to see."""
    turn = LAID_DOWN[orientation]
    picture = scene.picture() if turn is None else scene.picture().transpose(turn)
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    exif[Base.Artist] = SECRET
    exif.get_ifd(IFD.GPSInfo)[GPS.GPSMapDatum] = SECRET
    picture.save(path, quality=95, exif=exif, comment=SECRET.encode())
    assert SECRET.encode() in path.read_bytes()
    return path


def bomb(path):
    """A PNG that claims 20,000 x 20,000 pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def captioned(capsys, *arguments):
    """What `caption --json` prints, and its exit code."""
    code = main(["caption", DEMO, *map(str, arguments), "--json"])
    return json.loads(capsys.readouterr().out), code


def test_pictures_captioned_together_say_what_each_says_alone(tmp_path, capsys):
    paths = [tmp_path / f"{index}.png" for index in range(18)]  # more than are taken at once
    for index, path in enumerate(paths):
        make_scene("test", index).picture().save(path)
    together, code = captioned(capsys, *paths, "--n-best", "2")
    assert code == 0
    assert [found["image_id"] for found in together] == [path.name for path in paths]
    for path, found in zip(paths, together, strict=True):
        (alone,), _ = captioned(capsys, path, "--n-best", "2")
        assert (found["token_ids"], found["caption"]) == (alone["token_ids"], alone["caption"])
        said = [[other["caption"] for other in one["alternatives"]] for one in (found, alone)]
        assert said[0] == said[1]
        np.testing.assert_allclose(found["word_log_probs"], alone["word_log_probs"], atol=1e-4)
        np.testing.assert_allclose(found["alphas"], alone["alphas"], atol=1e-5)


def test_what_cannot_be_read_is_one_sentence_each_and_the_others_are_captioned(tmp_path, capsys):
    good = tmp_path / "good.png"
    make_scene("test", 0).picture().save(good)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "folder").mkdir()
    bomb(tmp_path / "huge.png")
    names = ["empty.png", "good.png", "text.jpg", "folder", "huge.png", "missing.png", "good.png", "n" * 300]
    assert main(["caption", DEMO, *(str(tmp_path / name) for name in names)]) == 2
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert said.out.splitlines()[0] == said.out.splitlines()[1]
    assert said.out.startswith("good.png: ")
    errors = [line for line in said.err.splitlines() if line.startswith("gazebench: error: ")]
    expected = (
        "'empty.png' has 0 bytes", "'text.jpg' is not a picture of a known kind", "'folder' is not a file",
        "'huge.png' is too large", "'missing.png' can't be opened", "nnn' can't be opened",
    )  # fmt: skip
    assert len(errors) == len(expected)
    for error, part in zip(errors, expected, strict=True):
        assert part in error
    assert "captioning: 8 of 8 pictures" in said.err


def test_json_holds_what_could_be_captioned(tmp_path, capsys, pictures):
    found, code = captioned(capsys, tmp_path / "nowhere.png", *pictures)
    assert code == 2
    assert [one["image_id"] for one in found] == ["mine.png", "grey.png"]
    assert captioned(capsys, tmp_path / "nowhere.png") == ([], 2)


def test_help_tells_the_exit_code(capsys):
    with pytest.raises(SystemExit):
        main(["caption", "--help"])
    assert "the others are captioned, and the exit code is 2" in " ".join(capsys.readouterr().out.split())


def test_a_picture_is_captioned_upright_whichever_way_its_camera_was_held(tmp_path, capsys):
    scene = make_scene("test", 3)
    scene.picture().save(tmp_path / "upright.png")
    lying = [oriented(tmp_path / f"{number}.jpg", number, scene) for number in LAID_DOWN]
    (upright, *found), code = captioned(capsys, tmp_path / "upright.png", *lying)
    assert code == 0
    assert "above" in upright["caption"] or "below" in upright["caption"] or "of" in upright["caption"]
    assert [one["caption"] for one in found] == [upright["caption"]] * 8
    # The test can fail: without the tag, what lies on its head is told otherwise.
    scene.picture().transpose(Image.Transpose.ROTATE_180).save(tmp_path / "fallen.png")
    assert captioned(capsys, tmp_path / "fallen.png")[0][0]["caption"] != upright["caption"]


def test_names_of_strangers_stay_on_their_line(tmp_path, capsys):
    names = ["a\nb.png", "a\u2028b.png", "\u202egnp.exe.png", os.fsdecode(b"half\xff.png"), "<script>.png"]
    for name in names:
        make_scene("test", 1).picture().save(tmp_path / name, "PNG")
    assert (
        main(["caption", DEMO, *(str(tmp_path / name) for name in names), str(tmp_path / "no\n\x1b[2J.png")])
        == 2
    )
    said = capsys.readouterr()
    assert [line.rpartition(":")[0] for line in said.out.splitlines()] == [
        "a b.png", "a b.png", "\ufffdgnp.exe.png", "half\ufffd.png", "<script>.png",
    ]  # fmt: skip
    assert "\x1b" not in said.err
    assert len(said.err.splitlines()) == 2  # the error, and how far it is


class Explained:
    """A folder in which `gazebench explain` was run."""

    def __init__(self, folder, capsys, *arguments, expected=0):
        before = set(folder.rglob("*"))
        self.code = main(["explain", DEMO, *map(str, arguments), *BRIEFLY])
        assert self.code == expected
        self.said = capsys.readouterr()
        self.new = sorted(path.name for path in folder.rglob("*") if path not in before)

    def page(self, path):
        text = path.read_text()
        html5lib.HTMLParser(strict=True).parse(text)
        return text


def pictures_in(page):
    """The JPEG pictures of the page's style."""
    return [base64.b64decode(data) for data in re.findall(r"url\(data:image/jpeg;base64,([^)]*)\)", page)]


def plain(content, kind):
    """The picture, if the file holds its pixels and nothing else."""
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        assert picture.format == kind
        assert picture.mode == "RGB"
        assert not picture.getexif()
        assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}
        assert SECRET.encode() not in content
        return picture.copy()


class Said(NamedTuple):
    """What a command printed."""

    out: str
    err: str


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """One page about pictures with hostile names, of which some can't be read."""
    folder = tmp_path_factory.mktemp("home") / "ann" / "secret"
    (folder / "other").mkdir(parents=True)
    names = [
        "</script><script>alert(1)".replace("/", "⁄"), "<img src=x onerror=alert(1)>.png", "a\nb\u2028\u202ec.png",
        os.fsdecode(b"half\xff.png"), "n" * 200 + ".png",
    ]  # fmt: skip
    for index, name in enumerate(names):
        make_scene("test", index).picture().save(folder / name, "PNG")
    oriented(folder / "lying.jpg", 6, make_scene("test", 7))
    make_scene("test", 8).picture().save(folder / "other" / "lying.jpg")
    (folder / "empty<b>.png").write_bytes(b"")
    bomb(folder / "huge.png")
    given = [
        *names,
        "lying.jpg",
        "other/lying.jpg",
        names[0],
        "empty<b>.png",
        "huge.png",
        "other",
        "gone.png",
    ]
    arguments = ["explain", DEMO, *(str(folder / name) for name in given), "-o", str(folder / "page.html")]
    arguments += ["--png", "--json", *BRIEFLY]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["gazebench", *arguments])
        assert main(arguments) == 2  # some can't be read
    return folder, names, Said(out.getvalue(), err.getvalue())


def test_every_picture_is_on_the_page_once_and_failures_with_their_reason(album):
    folder, names, result = album
    page = (folder / "page.html").read_text()
    tree = html5lib.parse(page, namespaceHTMLElements=False)
    shown = [element for element in tree.iter("article") if element.get("class") == "own"]
    assert len(shown) == len(names) + 2
    called = [element.find(".//bdi").text for element in shown]
    assert called == [
        "<⁄script><script>alert(1)", "<img src=x onerror=alert(1)>.png", "a b \ufffdc.png",
        "half\\udcff.png", "n" * 100 + " … (204 characters)", "lying.jpg", "lying.jpg (2)",
    ]  # fmt: skip
    rows = tree.find(".//table[@id='failures']/tbody")
    reasons = {row.find("th").text: row.find("td").text for row in rows}
    assert set(reasons) == {"empty<b>.png", "huge.png", "other", "gone.png"}
    assert reasons["empty<b>.png"].startswith("'empty<b>.png' has 0 bytes")
    assert reasons["huge.png"].startswith("'huge.png' is too large")
    for reason in reasons.values():
        assert f"Note: {reason}" in result.err.splitlines()


def test_nothing_in_a_name_becomes_markup_or_script(album):
    page = (album[0] / "page.html").read_text()
    tree = html5lib.parse(page, namespaceHTMLElements=False)
    scripts = [element.get("type") for element in tree.iter("script")]
    assert scripts.count(None) == 1
    assert set(scripts) == {None, "application/json"}
    for element in tree.iter():
        assert not [name for name in element.attrib if str(name).startswith("on")]
        assert not str(element.get("src", "data:")).startswith("http")
    html5lib.HTMLParser(strict=True).parse(page)


def test_the_word_strips_lie_beside_the_page_under_plain_names(album):
    folder, names, result = album
    written = json.loads(result.out)
    assert written["page"] == str(folder / "page.html")
    strips = [Path(path) for path in written["strips"]]
    assert sorted(strips) == sorted(folder.glob("*page*.png"))
    assert len(strips) == len(names) + 2
    for path in strips:
        assert re.fullmatch(r"page-[\w-]+\.png", path.name)
        assert len(path.name) < 60
        assert plain(path.read_bytes(), "PNG").width > 1000
    assert [path.name for path in strips[-2:]] == ["page-lying.png", "page-lying-2.png"]


def test_page_and_strips_hold_no_folder_no_user_and_no_metadata(album):
    folder, *_ = album
    page = (folder / "page.html").read_text()
    assert "gazebench explain …/scenes.safetensors " in page
    for private in (str(folder), "/ann", "secret", SECRET):
        assert private not in page
    for jpeg in pictures_in(page):
        plain(jpeg, "JPEG")
    assert len(pictures_in(page)) == 7
    for path in folder.glob("page-*.png"):
        assert b"secret" not in path.read_bytes()
        assert b"Exif" not in path.read_bytes()


def test_thumbnails_stand_upright(album):
    page = (album[0] / "page.html").read_text()
    seen = plain(pictures_in(page)[5], "JPEG")
    upright = make_scene("test", 7).picture().resize(seen.size)

    def distance(picture):
        return np.abs(np.asarray(seen, float) - np.asarray(picture, float)).mean()

    turned = [distance(upright.transpose(turn)) for turn in LAID_DOWN.values() if turn is not None]
    assert distance(upright) < min(turned) / 2  # it is encoded twice, and noisy


def test_paths_are_shown_to_those_who_ask_for_them(tmp_path, capsys, pictures):
    out = tmp_path / "page.html"
    run = Explained(tmp_path, capsys, pictures[0], "-o", out, "--with-paths")
    assert str(tmp_path) in run.page(out)
    Explained(tmp_path, capsys, pictures[0], "-o", out)
    assert str(tmp_path) not in out.read_text()


def test_one_picture_has_a_strip_called_after_the_page(tmp_path, capsys, pictures):
    run = Explained(tmp_path, capsys, pictures[0], "-o", tmp_path / "new" / "gaze.html", "--png")
    assert run.new == ["gaze.html", "gaze.png", "new"]
    assert run.said.out.splitlines() == [
        f"wrote {tmp_path / 'new' / name}" for name in ("gaze.html", "gaze.png")
    ]


def test_a_picture_given_twice_is_one_picture(tmp_path, capsys, pictures):
    run = Explained(tmp_path, capsys, pictures[0], pictures[0], "-o", tmp_path / "page.html", "--png")
    assert run.new == ["page.html", "page.png"]


def test_five_captions_are_shown_unless_the_beam_is_smaller_or_fewer_are_asked_for(
    tmp_path, capsys, pictures
):
    out = tmp_path / "page.html"
    for options, captions in (((), 5), (("--beam-size", "3"), 3), (("--n-best", "2"), 2)):
        page = Explained(tmp_path, capsys, pictures[0], "-o", out, *options).page(out)
        tree = html5lib.parse(page, namespaceHTMLElements=False)
        rows = tree.find(".//article//table[@class='grid']/tbody")
        assert len(list(rows)) == captions


def test_where_nothing_can_be_read_nothing_is_written(tmp_path, capsys):
    (tmp_path / "empty.png").write_bytes(b"")
    missing = tmp_path / "missing.png"
    run = Explained(
        tmp_path, capsys, tmp_path / "empty.png", missing, "-o", tmp_path / "p.html", "--png", expected=2
    )
    assert "not one of 2 pictures could be read; the first: 'empty.png' has 0 bytes" in run.said.err
    assert run.new == []


def test_no_file_that_was_given_is_ever_overwritten(tmp_path, capsys, pictures):
    mine, before = Path(pictures[0]), Path(pictures[0]).read_bytes()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.html").symlink_to(mine)
    for arguments, message in (
        ((mine, "-o", mine), "would be overwritten"),
        ((mine, "-o", tmp_path / "mine.html", "--png"), "would be overwritten"),
        ((mine, "-o", tmp_path / "link.html"), "would be overwritten"),
        ((mine, "-o", tmp_path / "new.png", "--png"), "is to be a page and, for --png, a picture"),
        ((mine, "-o", tmp_path / "folder"), "is a folder; expected a file to write"),
    ):
        run = Explained(tmp_path, capsys, *arguments, expected=2)
        assert message in run.said.err
        assert run.said.err.count("\n") == 1
        assert run.new == []
    assert mine.read_bytes() == before


def test_a_folder_that_cannot_be_written_to_leaves_nothing_behind(tmp_path, capsys, pictures):
    (tmp_path / "file").write_text("")
    run = Explained(tmp_path, capsys, pictures[0], "-o", tmp_path / "file" / "p.html", "--png", expected=2)
    assert run.said.err.splitlines()[-1].startswith("gazebench: error: ")
    assert run.new == []


def test_words_of_a_strangers_vocabulary_are_text_everywhere(tmp_path, capsys, pictures):
    captioner = load_checkpoint(DEMO_CHECKPOINT).captioner
    hostile = [
        "</script><script>alert(1)</script>",
        "$x^2$",
        "漢字",
        "\u202eabc",
        "w" * 3000,
        "{{7*7}}",
        "<img>",
    ]
    words = [*captioner.vocabulary.words]
    special = {captioner.vocabulary.pad, captioner.vocabulary.start, captioner.vocabulary.end}
    for place in set(range(len(words))) - special:
        words[place] = f"{hostile[place % len(hostile)]}{place}"
    captioner.vocabulary = dataclasses.replace(captioner.vocabulary, words=tuple(words))
    save_native(captioner, tmp_path / "<b>bad.safetensors", training={})
    out = tmp_path / "page.html"
    code = main(
        ["explain", str(tmp_path / "<b>bad.safetensors"), pictures[0], *BRIEFLY, "--png", "-o", str(out)]
    )
    assert code == 0
    page = out.read_text()
    html5lib.HTMLParser(strict=True).parse(page)
    tree = html5lib.parse(page, namespaceHTMLElements=False)
    assert [element.get("type") for element in tree.iter("script")].count(None) == 1
    assert not [
        element for element in tree.iter("img") if not element.get("src", "").startswith("data:image/png")
    ]
    assert "\u202e" not in page
    plain(out.with_suffix(".png").read_bytes(), "PNG")
    capsys.readouterr()
