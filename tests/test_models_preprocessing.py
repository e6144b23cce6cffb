import io
import math
import os
import random
import struct
import threading
import warnings
import zlib
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ExifTags import Base

from models.errors import PictureError
from models.preprocessing import MAX_FILE_BYTES, MAX_PIXELS, Preprocessing, read_picture

# A corrupt Exif block makes Pillow warn (never read_picture itself, which leaves the global filters alone).
pillow_warns = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def corners() -> Image.Image:
    """40 x 30, one colour per quarter: any flip or turn shows."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:15, :20], pixels[:15, 20:] = (200, 30, 30), (30, 160, 40)
    pixels[15:, :20], pixels[15:, 20:] = (30, 50, 180), (240, 230, 60)
    return Image.fromarray(pixels)


def encoded(picture, kind, **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


@pytest.fixture
def read(tmp_path):
    def read_bytes(data: bytes, name="picture.jpg") -> Image.Image:
        path = tmp_path / name
        path.write_bytes(data)
        return read_picture(path)

    return read_bytes


def distance(picture, expected) -> float:
    """Largest difference of any pixel, 0 to 255."""
    assert picture.mode == "RGB"
    assert picture.size == expected.size
    return float(np.abs(np.asarray(picture, float) - np.asarray(expected, float)).max())


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *, depth: int, kind: int, data: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


LOSSLESS = {"PNG": {}, "BMP": {}, "WEBP": {"lossless": True}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_pictures_are_read_exactly_whatever_their_name(read, kind):
    assert distance(read(encoded(corners(), kind, **LOSSLESS[kind]), name="page.html"), corners()) == 0


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpegs_are_read(read, options):
    pixels = np.asarray(read(encoded(corners(), "JPEG", quality=95, **options)), float)
    for row, column in ((5, 5), (5, 35), (25, 5), (25, 35)):  # away from the edges, where JPEG blurs
        assert np.abs(pixels[row, column] - corners().getpixel((column, row))).max() < 8


def test_a_cmyk_jpeg_has_the_colours_of_its_rgb_original(read):
    data = encoded(corners().convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(np.asarray(read(data))[2:10, 2:14] - np.array([200.0, 30, 30])).max() < 8


def test_16_bit_greys_are_scaled_not_clipped(read):
    values = np.array([[0, 128, 129, 256], [257, 32768, 65407, 65535]])
    data = encoded(Image.fromarray(values.astype(np.uint16)), "PNG")
    expected = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(np.asarray(read(data)), np.repeat(expected[:, :, None], 3, axis=2))


def test_a_transparent_16_bit_grey_is_white(read):
    rows = struct.pack(">BHH", 0, 1000, 1001)
    data = png(2, 1, depth=16, kind=0, data=rows, extra=chunk(b"tRNS", struct.pack(">H", 1000)))
    assert np.asarray(read(data))[0, :, 0].tolist() == [255, 4]


def test_palette_transparency_is_laid_on_white(read):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putdata([0, 1])
    for transparency in (0, bytes([0, 255])):
        pixels = np.asarray(read(encoded(picture, "PNG", transparency=transparency)))
        assert pixels.tolist() == [[[255, 255, 255], [200, 100, 50]]]
    assert np.asarray(read(encoded(picture, "GIF", transparency=0)))[0, 0].tolist() == [255, 255, 255]


def test_alpha_is_laid_on_white(read):
    half = Image.new("RGBA", (3, 3), (0, 100, 200, 128))
    expected = np.rint(np.array([0, 100, 200]) * 128 / 255 + 255 * 127 / 255)
    assert np.abs(np.asarray(read(encoded(half, "PNG")))[1, 1] - expected).max() <= 1
    assert np.asarray(read(encoded(Image.new("LA", (3, 3), (40, 0)), "PNG")))[1, 1].tolist() == [
        255,
        255,
        255,
    ]
    keyed = encoded(Image.new("RGB", (3, 3), (7, 8, 9)), "PNG", transparency=(7, 8, 9))
    assert np.asarray(read(keyed))[1, 1].tolist() == [255, 255, 255]


def test_one_bit_pictures_are_black_and_white(read):
    picture = Image.fromarray(np.array([[True, False], [False, True]]))
    for kind in ("PNG", "BMP"):
        assert np.asarray(read(encoded(picture, kind)))[:, :, 0].tolist() == [[255, 0], [0, 255]]


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_animations_give_their_first_frame(read, kind, options):
    data = encoded(corners(), kind, save_all=True, append_images=[Image.new("RGB", (40, 30))], **options)
    assert distance(read(data), corners()) < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_every_exif_orientation_is_undone(read, kind, orientation):
    # Where the rows and columns of the stored picture lie in the upright one, from the standard's table:
    # 6 means row 0 is the right edge, column 0 the top; 8 means row 0 is the left edge, column 0 the bottom.
    upright = np.asarray(corners())
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright[:, ::-1].swapaxes(0, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: upright[::-1].swapaxes(0, 1),
    }[orientation]
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **LOSSLESS[kind])
    assert distance(read(data), corners()) == 0


@pillow_warns
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0",  # orientation 99
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\xff\xff\0\x63\0\0",  # a text, cut off
    ],
)
def test_corrupt_metadata_is_ignored(read, exif):
    plain = read(encoded(corners(), "JPEG"))
    assert distance(read(encoded(corners(), "JPEG", exif=exif, icc_profile=b"not a profile")), plain) == 0


def test_a_colour_profile_of_garbage_is_ignored(read):
    assert distance(read(encoded(corners(), "PNG", icc_profile=b"garbage" * 99)), corners()) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1)])
def test_extreme_proportions_are_read_and_fit_the_encoder(read, size):
    picture = read(encoded(Image.new("RGB", size, (1, 2, 3)), "PNG"))
    assert picture.size == size
    for fit in ("squash", "crop"):
        assert Preprocessing(size=8, fit=fit)(picture).shape == (3, 8, 8)


# ---- refusals -------------------------------------------------------------------------------------------


def test_an_empty_file_is_refused(read):
    with pytest.raises(PictureError, match=r"'picture\.jpg' has 0 bytes; expected 1 to"):
        read(b"")


@pytest.mark.parametrize(
    "data", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>", b"\0" * 99, b"%PDF-"]
)
def test_files_of_other_kinds_are_refused_by_content(read, data):
    with pytest.raises(PictureError, match=r"'picture\.jpg' is not a picture of a known kind \(JPEG, PNG"):
        read(data)


def test_a_tiff_is_refused_although_pillow_could_read_it(read):
    with pytest.raises(PictureError, match="not a picture of a known kind"):
        read(encoded(corners(), "TIFF"))


def noise(size=(64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("kept", [0.3, 0.5, 0.9])
def test_truncated_files_are_refused(read, kind, kept):
    data = encoded(noise(), kind)
    with pytest.raises(PictureError, match=r"^'picture\.jpg' .*(can't be read|not a picture)"):
        read(data[: int(len(data) * kept)])


def test_a_png_bomb_is_refused_before_it_is_decoded(read):
    bomb = png(
        20_000, 20_000, depth=8, kind=2, data=b""
    )  # decoding it would complain of missing data instead
    with pytest.raises(PictureError, match=r"'picture\.jpg' is too large"):
        read(bomb)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_picture_just_over_the_limit_is_refused_and_the_message_has_both_numbers(read):
    with pytest.raises(
        PictureError, match=rf"is too large: 90,000,000 pixels, expected up to {MAX_PIXELS:,}"
    ):
        read(png(10_000, 9_000, depth=8, kind=0, data=b""))


def test_a_jpeg_of_thousands_of_scans_is_refused(read):
    data = encoded(Image.new("L", (2048, 2048)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert read(data[:-2] + last * 20 + data[-2:]).size == (2048, 2048)
    with pytest.raises(PictureError, match=r"is too large: 4,194,304 pixels in 1,\d\d\d scans"):
        read(data[:-2] + last * 1000 + data[-2:])


def test_a_file_over_the_size_limit_is_not_opened(tmp_path):
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: takes no room
    with pytest.raises(PictureError, match=r"'huge\.jpg' has 268,435,457 bytes"):
        read_picture(path)


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "folder.jpg", "zero.jpg"):
        with pytest.raises(PictureError, match=rf"^'{name}' is not a file; expected a picture"):
            read_picture(tmp_path / name)


def test_missing_and_impossible_names_are_refused(tmp_path):
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for name in ("missing.jpg", "loop.jpg", "n\0l.jpg", "x" * 300):
        with pytest.raises(PictureError, match=r"can't be opened: \w"):
            read_picture(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_refused(tmp_path):
    path = tmp_path / "secret.jpg"
    path.write_bytes(encoded(corners(), "JPEG"))
    path.chmod(0)
    with pytest.raises(PictureError, match=r"'secret\.jpg' can't be opened: Permission denied"):
        read_picture(path)


def test_a_hostile_name_can_not_break_the_line_of_a_message(tmp_path):
    path = tmp_path / "a\n::error::\x1b[31m.jpg"
    path.write_bytes(b"nothing")
    with pytest.raises(PictureError) as caught:
        read_picture(path)
    assert str(caught.value).isprintable()


@pillow_warns
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_damaged_files_end_in_a_picture_or_a_picture_error(tmp_path, kind):
    rng = random.Random(kind)
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    frames = [noise((20, 24)), corners().resize((24, 20))]
    originals = [encoded(frames[0], kind), encoded(frames[1].convert("L"), kind)]
    if kind not in ("BMP", "JPEG"):
        originals.append(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
        originals.append(encoded(frames[1].convert("P"), kind, transparency=3))
    if kind in ("JPEG", "PNG", "WEBP"):
        originals.append(encoded(frames[1], kind, exif=exif))
    path = tmp_path / "damaged"
    read, refusals = 0, []
    for number in range(300):
        data = bytearray(originals[number % len(originals)])
        if number % 4 == 0:
            del data[rng.randrange(len(data)) :]
        reach = min(len(data), rng.choice((64, 256, 4096)))
        for _ in range(rng.choice((1, 2, 8)) if reach else 0):
            data[rng.randrange(reach)] = rng.choice((0, 127, 255, rng.randrange(256)))
        path.write_bytes(data)
        try:
            picture = read_picture(path)
        except PictureError as error:
            refusals.append(str(error))
        else:
            assert picture.mode == "RGB"
            assert min(picture.size) > 0
            read += 1
    assert read > 0
    assert len(refusals) == 300 - read
    assert all(refusal.startswith("'damaged' ") for refusal in refusals)


def test_reading_in_threads_leaves_the_warning_filters_alone(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(corners(), "PNG"))
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [read_picture(path) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


# ---- the encoder's input ------------------------------------------------------------------------------


def test_preprocessing_normalises_each_channel():
    picture = Image.new("RGB", (9, 5), (51, 102, 255))
    tensor = Preprocessing(size=4, mean=(0.5, 0.25, 0.0), std=(0.5, 0.1, 2.0))(picture)
    expected = torch.tensor([(0.2 - 0.5) / 0.5, (0.4 - 0.25) / 0.1, 1.0 / 2.0])
    torch.testing.assert_close(tensor, expected[:, None, None].expand(3, 4, 4))


def test_squash_keeps_the_whole_picture_and_crop_the_centre():
    small = Preprocessing(size=4).view(corners())
    for here, there in (((0, 0), (0, 0)), ((3, 0), (39, 0)), ((0, 3), (0, 29)), ((3, 3), (39, 29))):
        assert small.getpixel(here) == corners().getpixel(there)
    stripes = Image.fromarray(
        np.repeat(np.arange(30, dtype=np.uint8)[None, :, None] * 8, 10, axis=0).repeat(3, 2)
    )
    cropped = np.asarray(Preprocessing(size=10, fit="crop").view(stripes))
    assert cropped[0, :, 0].tolist() == [8 * column for column in range(10, 20)]


# ---- masks --------------------------------------------------------------------------------------------

MASK_SIZES = [(30, 40), (41, 27), (7, 7), (5, 64), (333, 500), (1, 9), (24, 24)]


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("size", [1, 8, 13, 24])
@pytest.mark.parametrize("shape", MASK_SIZES)
def test_a_mask_is_shown_as_its_picture_is_wherever_that_is_black_or_white(fit, size, shape):
    preprocessing = Preprocessing(size=size, fit=fit)
    rng = np.random.default_rng(shape[0])
    coarse = rng.random((4, 4)) < 0.5
    mask = np.kron(coarse, np.ones((-(-shape[0] // 4), -(-shape[1] // 4)), bool))[: shape[0], : shape[1]]
    shown = preprocessing.view_mask(mask)
    grey = np.asarray(preprocessing.view(Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB")))[
        :, :, 0
    ]
    assert shown.dtype == bool
    assert shown[grey == 255].all()
    assert not shown[grey == 0].any()


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("size", [1, 8, 13, 24])
@pytest.mark.parametrize("shape", MASK_SIZES)
def test_a_masks_pixel_is_the_one_under_the_centre(fit, size, shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    shown = Preprocessing(size=size, fit=fit).view_mask(mask)
    height, width = (Fraction(min(shape)),) * 2 if fit == "crop" else map(Fraction, shape)
    for i in range(size):
        for j in range(size):
            y = (shape[0] - height) / 2 + (i + Fraction(1, 2)) * height / size
            x = (shape[1] - width) / 2 + (j + Fraction(1, 2)) * width / size
            assert shown[i, j] == mask[math.floor(y), math.floor(x)]


def test_a_mask_of_the_models_own_size_is_unchanged_and_the_whole_picture_stays_whole():
    mask = np.random.default_rng(1).random((24, 24)) < 0.5
    for fit in ("squash", "crop"):
        assert np.array_equal(Preprocessing(size=24, fit=fit).view_mask(mask), mask)
        assert Preprocessing(size=9, fit=fit).view_mask(np.ones((31, 17), bool)).all()
