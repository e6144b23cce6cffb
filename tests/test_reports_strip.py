"""Word strips as pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from reports.strip import DOTS_PER_INCH, WORDS_A_LINE, draw_strip

WHITE, MARGIN, TILE = 255, 48, 200


@pytest.fixture(scope="module")
def seen() -> bytes:
    """A grey picture, so that all colour in a strip is a map's."""
    content = io.BytesIO()
    Image.new("RGB", (112, 112), (128, 128, 128)).save(content, "JPEG")
    return content.getvalue()


def one_cell(words: int, place: tuple[int, int] = (2, 11), value: float = 1.0) -> np.ndarray:
    maps = np.zeros((words, 14, 14), np.float16)
    maps[:, place[0], place[1]] = value
    return maps


def words_of(text: str) -> list[tuple[str, str]]:
    return [(word, "90 %") for word in text.split()]


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        return np.asarray(picture).astype(int)


def tiles(picture: np.ndarray) -> list[tuple[int, int]]:
    """Left upper corners of the grey squares that maps lie on, read from the drawing itself."""
    is_grey = (np.abs(picture - round(128 * 0.84)).max(axis=2) <= 2).astype(int)
    run = np.cumsum(np.pad(is_grey, ((0, 0), (1, 0))), axis=1)
    wide = np.zeros_like(is_grey)
    wide[:, : is_grey.shape[1] - TILE + 1] = run[:, TILE:] - run[:, :-TILE] == TILE
    rows, columns = np.nonzero(wide)
    return sorted(
        {
            (int(row), int(column))
            for row, column in zip(rows, columns, strict=True)
            if not wide[row - 1, column]
        }
    )


def test_there_is_one_tile_per_word_and_kind_of_map(seen: bytes) -> None:
    flat = {"Attention": np.zeros((3, 14, 14)), "Gradients": np.zeros((3, 14, 14))}
    found = tiles(pixels(draw_strip("a red circle", seen, words_of("a red circle"), flat)))
    rows, columns = ({place[axis] for place in found} for axis in (0, 1))
    assert (len(found), len(rows), len(columns)) == (6, 2, 3)


def test_a_map_glows_where_its_cell_is_and_is_teal_where_it_speaks_against_the_word(seen: bytes) -> None:
    flat = tiles(pixels(draw_strip("red", seen, words_of("red"), {"A": np.zeros((1, 14, 14))})))
    ((top, left),) = flat
    for value, is_right in ((1.0, lambda r, g, b: r > 200 > b), (-1.0, lambda r, g, b: b > r + 40)):
        picture = pixels(draw_strip("red", seen, words_of("red"), {"A": one_cell(1, value=value)}))
        tile = picture[top : top + TILE, left : left + TILE]
        middle = tile[round(2.5 * TILE / 14), round(11.5 * TILE / 14)]
        assert is_right(*middle)
        far = tile[round(10 * TILE / 14) :]
        assert (np.abs(far - far[0, 0]) <= 1).all()


def test_long_captions_go_on_in_further_lines_of_about_equal_length(seen: bytes) -> None:
    text = " ".join(["word"] * (2 * WORDS_A_LINE + 1))
    found = tiles(pixels(draw_strip(text, seen, words_of(text), {"A": np.zeros((17, 14, 14))})))
    rows = sorted({row for row, _ in found})
    assert [sum(row == this for row, _ in found) for this in rows] == [6, 6, 5]


def test_nothing_is_cut_off_at_the_edges(seen: bytes) -> None:
    words = [
        ("Donaudampfschifffahrtsgesellschaftskapitän", "99.9 %"),
        ("w" * 300, "0.1 %"),
        ("a", ""),
        ("$x^2$", ""),
    ]
    captions = ("short", "w" * 1000, "a long caption of many words " * 30)
    for caption in captions:
        for repeated in (1, 3):
            picture = pixels(
                draw_strip(
                    caption, seen, words * repeated, {"An overlong name of a method (grid)": one_cell(12)},
                    notes=["A note that is long. " * 20, "n" * 500],
                )
            )  # fmt: skip
            for edge in (picture[:30], picture[-30:], picture[:, :30], picture[:, -30:]):
                assert (edge == WHITE).all()


def test_a_long_word_does_not_reach_into_its_neighbours_column(seen: bytes) -> None:
    def above(word: str) -> np.ndarray:
        picture = pixels(
            draw_strip("", seen, [("i", ""), (word, ""), ("i", "")], {"A": np.zeros((3, 14, 14))})
        )
        top, left = tiles(picture)[1]
        return picture[:top, left - 6 : left + TILE + 6]

    for word in ("W" * 14, "W" * 300, "漢" * 40):
        drawn = above(word)
        assert (drawn[:, :2] == WHITE).all()
        assert (drawn[:, -2:] == WHITE).all()
        assert (drawn < 128).any()


def test_a_dollar_is_a_dollar(seen: bytes) -> None:
    title = pixels(draw_strip("$$$ $x^2$ $", seen, [("$y$", "")], {"A": one_cell(1)}))[MARGIN : MARGIN + 56]
    columns = np.nonzero((title < 128).any(axis=(0, 2)))[0]
    shorter = pixels(draw_strip("x^2", seen, [("y", "")], {"A": one_cell(1)}))[MARGIN : MARGIN + 56]
    assert np.ptp(columns) > 2 * np.ptp(np.nonzero((shorter < 128).any(axis=(0, 2)))[0])


def test_words_of_any_script_and_signs_that_act_are_drawn_without_complaint(seen: bytes) -> None:
    texts = [
        "漢字",
        "مرحبا",
        "עברית",
        "\u202eabc",
        "a\nb\u2028c",
        "\x00\x1b[2J",
        "\ud800",
        "\U0001f600",
        "ไทย",
        "",
        " ",
    ]
    words = [(text, "5 %") for text in texts]
    picture = pixels(draw_strip(" ".join(texts), seen, words, {"A": one_cell(len(words))}, notes=texts))
    assert picture.shape[1] > 1000


@pytest.mark.parametrize(
    ("words", "maps"),
    [
        ([], {}),
        ([], {"A": np.zeros((0, 14, 14))}),
        ([("a", "1 %"), ("b", "")], {"A": np.full((1, 3, 5), np.nan)}),
        ([("a", "1 %")], {"A": np.full((1, 1, 1), np.inf), "B": np.zeros((4, 20, 20))}),
        ([("a", "")], {str(name): np.zeros((1, 2, 2)) for name in range(5)}),
    ],
)
def test_odd_input_gives_a_whole_picture(seen: bytes, words: list, maps: dict) -> None:
    picture = pixels(draw_strip("a", seen, words, maps))
    assert (picture[:30] == WHITE).all()
    assert (picture < 200).any()


def test_equal_input_gives_equal_bytes_without_metadata(seen: bytes) -> None:
    draw = [draw_strip("a b", seen, words_of("a b"), {"A": one_cell(2)}, notes=["n"]) for _ in range(2)]
    assert draw[0] == draw[1]
    with Image.open(io.BytesIO(draw[0])) as picture:
        picture.load()
        assert set(picture.info) == {"dpi"}
        assert picture.info["dpi"] == pytest.approx((DOTS_PER_INCH, DOTS_PER_INCH), abs=0.1)


def test_the_legend_speaks_of_teal_only_where_there_is_some(seen: bytes) -> None:
    with_teal, without = (
        pixels(draw_strip("a", seen, words_of("a"), {"A": one_cell(1, value=value)})) for value in (-1.0, 1.0)
    )

    def scale(picture: np.ndarray) -> np.ndarray:
        """The left end of the coloured bar: the last coloured pixels of the left margin."""
        column = picture[:, MARGIN + 3]
        return column[np.nonzero(np.ptp(column, axis=1) > 12)[0]]

    assert scale(with_teal).size
    assert (scale(with_teal)[:, 2] > scale(with_teal)[:, 0]).all()
    assert not scale(without).size
