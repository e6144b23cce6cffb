"""Drawing scenes: figures, where they stand, and what is said of them.

Bit-identical everywhere: all randomness comes from SHAKE-256 (FIPS 202) and all drawing is integer arithmetic.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from bench.data.base import CaptionedImage, Split

SIZE = 112
"""Height and width of a scene in pixels: eight pixels per cell of a 14 x 14 grid."""
COLOURS = {
    "red": (214, 62, 60),
    "yellow": (238, 206, 62),
    "green": (66, 160, 92),
    "blue": (56, 112, 196),
    "purple": (140, 82, 172),
    "black": (62, 60, 66),
}
# Corners of each shape for a radius of 1000, y downwards; the radii make the areas similar.
SHAPES: dict[str, tuple[tuple[int, int], ...]] = {
    "circle": (),
    "square": ((-860, -860), (860, -860), (860, 860), (-860, 860)),
    "triangle": ((0, -1080), (1080, 800), (-1080, 800)),
    "star": (
        (0, -1100), (306, -421), (1046, -340), (495, 161), (647, 890),
        (0, 520), (-647, 890), (-495, 161), (-1046, -340), (-306, -421),
    ),
}  # fmt: skip
RELATIONS = ("above", "below", "left", "right")
_PHRASES = {"above": "above", "below": "below", "left": "left of", "right": "right of"}
INVERSE = {"above": "below", "below": "above", "left": "right", "right": "left"}
"""Relation -> where the other figure stands, seen from the first."""

# Drawing works in quarter pixels: 4 x 4 samples per pixel decide how much of it a figure covers.
_Q = 4
_SLOTS = tuple((row, column) for row in range(3) for column in range(3))
_SLOT_CENTRES = (22 * _Q + 2, 56 * _Q, 89 * _Q + 2)
_SUBJECT_RADII = (15 * _Q, 16 * _Q + 2)
_OBJECT_RADII = (11 * _Q + 2, 13 * _Q)
_DISTRACTOR_RADII = (9 * _Q, 12 * _Q)
_STROKE = 3 * _Q

VARIANTS = ("main", "shared-colour", "no-distractor", "blank")
SPLIT_SIZES: dict[Split, int] = {"train": 12_000, "val": 500, "test": 500}

_EMPTY_REFERENCES = (
    "an empty picture",
    "there is nothing here",
    "a blank scene without figures",
    "nothing is shown",
    "a plain background with nothing on it",
)


class _Stream:
    """Whole numbers from SHAKE-256 of a key: the same on every machine, in every version of every library."""

    _BLOCK = 1024

    def __init__(self, key: str) -> None:
        self._key, self._at, self._bytes = key, 0, b""

    def below(self, n: int) -> int:
        """The next number in [0, n); its bias is under n / 2^32."""
        at = self._at % self._BLOCK
        if at == 0:
            block = f"{self._key}/{self._at // self._BLOCK}"
            self._bytes = hashlib.shake_256(block.encode()).digest(self._BLOCK)
        self._at += 4
        return int.from_bytes(self._bytes[at : at + 4], "little") % n

    def between(self, low: int, high: int) -> int:
        """The next number in [low, high]."""
        return low + self.below(high - low + 1)


def _slot_pairs() -> tuple[list[tuple[tuple[int, int], tuple[int, int]]], list[int]]:
    """Ordered pairs of slots with a clear relation, and weights that make each slot equally likely.

    A relation is clear if one coordinate differs at least twice as much as the other. A corner slot then
    pairs with 2 corners and 4 edges, an edge slot with 4 corners, 1 edge and the centre, the centre with 4
    edges. The weights below give each slot the same total: 2*2 + 4*2 = 4*2 + 1 + 3 = 4*3 = 12.
    """
    weight = {(0, 0): 2, (0, 1): 2, (1, 1): 1, (1, 2): 3}
    pairs, weights = [], []
    for a, b in product(_SLOTS, repeat=2):
        small, large = sorted((abs(a[0] - b[0]), abs(a[1] - b[1])))
        if large >= 1 and large >= 2 * small:
            pairs.append((a, b))
            kinds = sorted((r == 1) + (c == 1) for r, c in (a, b))  # 0 corner, 1 edge, 2 centre
            weights.append(weight[kinds[0], kinds[1]])
    return pairs, weights


_PAIRS, _WEIGHTS = _slot_pairs()
_CUMULATIVE = np.cumsum(_WEIGHTS)


@dataclass(frozen=True)
class Figure:
    """One drawn figure; lengths in quarter pixels."""

    colour: str
    shape: str
    x: int
    y: int
    radius: int
    filled: bool
    brightness: int
    """Percent of the palette colour's brightness."""

    @property
    def coverage(self) -> Int[np.ndarray, "112 112"]:
        """How many of each pixel's 16 samples the drawn figure covers."""
        # Only whole pixels within reach of the outline are sampled; no corner lies beyond 1.5 radii.
        rows, columns = (
            slice(max((c - self.radius * 3 // 2) // _Q, 0), (c + self.radius * 3 // 2) // _Q + 1)
            for c in (self.y, self.x)
        )
        cover = np.zeros((SIZE, SIZE), dtype=np.int32)
        window = cover[rows, columns]
        # Sample i lies at i + 1/2; lengths are doubled to stay whole.
        y = 2 * (np.arange(window.shape[0] * _Q, dtype=np.int64) + rows.start * _Q - self.y)[:, None] + 1
        x = 2 * (np.arange(window.shape[1] * _Q, dtype=np.int64) + columns.start * _Q - self.x)[None, :] + 1
        inside = _inside(self.shape, 2 * self.radius, y, x)
        if not self.filled:
            inside &= ~_inside(self.shape, 2 * (self.radius - _STROKE), y, x)
        window[:] = inside.reshape(window.shape[0], _Q, window.shape[1], _Q).sum(axis=(1, 3))
        return cover

    @property
    def mask(self) -> Bool[np.ndarray, "112 112"]:
        """Pixels of which the drawn figure covers at least half."""
        return self.coverage >= _Q * _Q // 2


def _inside(
    shape: str, radius: int, y: Int[np.ndarray, "rows 1"], x: Int[np.ndarray, "1 cols"]
) -> Bool[np.ndarray, "rows cols"]:
    """Which points, given relative to the figure's centre, lie inside its outline. Whole numbers only."""
    corners = SHAPES[shape]
    if not corners:
        return np.asarray(x * x + y * y <= radius * radius)
    inside = np.zeros((y.size, x.size), dtype=bool)
    # Even-odd rule: count the edges that a ray to the right crosses. Everything is scaled by 1000.
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        if ay == by:
            continue
        spans = (radius * ay > 1000 * y) != (radius * by > 1000 * y)
        side = (bx - ax) * (1000 * y - radius * ay) - (1000 * x - radius * ax) * (by - ay)
        inside ^= spans & ((side > 0) if by > ay else (side < 0))
    return inside


@dataclass(frozen=True)
class Scene(CaptionedImage):
    """A drawn scene: a captioned image that also knows what it shows."""

    figures: tuple[Figure, ...] = ()
    """Subject, object, then the distractors; empty for a blank scene."""
    relation: str | None = None
    """Where the subject stands, seen from the object."""

    @property
    def named(self) -> tuple[Figure, ...]:
        """Subject and object."""
        return self.figures[:2]

    @property
    def distractors(self) -> Bool[np.ndarray, "112 112"]:
        """All pixels of outlined figures."""
        return union(self.figures[2:])

    @property
    def background(self) -> Bool[np.ndarray, "112 112"]:
        """All pixels outside every figure."""
        return ~union(self.figures)

    def pixels(self) -> UInt8[np.ndarray, "112 112 3"]:
        """The drawn scene. All blank scenes are one picture, so that nothing tells them apart."""
        key = self.image_id if self.figures else "blank"
        stream = _Stream(f"{key}/paper")
        base = np.array([stream.between(222, 242) for _ in range(3)], dtype=np.int32)
        slope_y, slope_x = stream.between(-16, 16), stream.between(-16, 16)
        steps = np.arange(SIZE, dtype=np.int32) * 2 - SIZE + 1  # -111 … 111
        light = (slope_y * steps[:, None] + slope_x * steps[None, :]) // 256
        canvas = base + light[:, :, None]
        for figure in self.figures:
            ink = np.array(COLOURS[figure.colour], dtype=np.int32) * figure.brightness // 100
            cover = figure.coverage[:, :, None]
            canvas = (canvas * (_Q * _Q - cover) + ink * cover + _Q * _Q // 2) // (_Q * _Q)
        noise = hashlib.shake_256(f"{key}/grain".encode()).digest(SIZE * SIZE)
        grain = np.frombuffer(noise, dtype=np.uint8).reshape(SIZE, SIZE, 1).astype(np.int32) * 13 // 256 - 6
        return np.clip(canvas + grain, 0, 255).astype(np.uint8)

    def picture(self) -> Image.Image:
        """The drawn scene as a picture."""
        return Image.fromarray(self.pixels(), mode="RGB")


def union(figures: Sequence[Figure]) -> Bool[np.ndarray, "112 112"]:
    """All pixels of several figures."""
    pixels = np.zeros((SIZE, SIZE), dtype=bool)
    for figure in figures:
        pixels |= figure.mask
    return pixels


def make_scene(split: Split, index: int, *, variant: str = "main", seed: int = 0) -> Scene:
    """Makes one scene.

    Args:
        split: train, val or test; each has scenes of its own.
        index: number within the split.
        variant: one of `VARIANTS`.
        seed: another seed gives another data set.

    Returns:
        The same scene for the same arguments, everywhere.
    """
    image_id = f"scene-{variant}-{split}-{seed}-{index:05d}"
    if variant == "blank":
        return Scene(image_id, _EMPTY_REFERENCES, split)
    stream = _Stream(image_id)
    ticket = stream.below(int(_CUMULATIVE[-1]))
    subject_slot, object_slot = _PAIRS[int(np.searchsorted(_CUMULATIVE, ticket, "right"))]
    colours, shapes = tuple(COLOURS), tuple(SHAPES)
    looks = [(colours[stream.below(6)], shapes[stream.below(4)]) for _ in range(2)]
    free = [slot for slot in _SLOTS if slot not in (subject_slot, object_slot)]
    unused = [colour for colour in colours if colour not in (looks[0][0], looks[1][0])]
    slots, radii = [subject_slot, object_slot], [_SUBJECT_RADII, _OBJECT_RADII]
    for number in range(0 if variant == "no-distractor" else 2):
        colour = unused.pop(stream.below(len(unused)))
        if variant == "shared-colour" and number == 0:
            colour = looks[stream.below(2)][0]
        looks.append((colour, shapes[stream.below(4)]))
        slots.append(free.pop(stream.below(len(free))))
        radii.append(_DISTRACTOR_RADII)
    sizes = [stream.between(low, high) for low, high in radii]
    figures = tuple(
        Figure(colour, shape, x, y, radius, filled=number < 2, brightness=stream.between(92, 106))
        for number, ((colour, shape), (x, y), radius) in enumerate(
            zip(looks, _places(stream, slots, sizes), sizes, strict=True)
        )
    )
    relation = _relation(subject_slot, object_slot)
    return Scene(image_id, _references(figures[0], figures[1], relation), split, None, figures, relation)


def _places(stream: _Stream, slots: Sequence[tuple[int, int]], radii: Sequence[int]) -> list[tuple[int, int]]:
    """Centres (x, y): anywhere in the slot that keeps the figure in the picture and apart from the others."""
    while True:
        places: list[tuple[int, int]] = []
        for (row, column), radius in zip(slots, radii, strict=True):
            jitter = _SLOT_CENTRES[0] - _half_box(radius)
            for _ in range(32):
                x = _SLOT_CENTRES[column] + stream.between(-jitter, jitter)
                y = _SLOT_CENTRES[row] + stream.between(-jitter, jitter)
                if all(
                    max(abs(x - other_x), abs(y - other_y)) >= _half_box(radius) + _half_box(other)
                    for (other_x, other_y), other in zip(places, radii, strict=False)
                ):
                    places.append((x, y))
                    break
        if len(places) == len(slots):
            return places
        # Two neighbours stand so that no place is left between them: begin again.


def _half_box(radius: int) -> int:
    """Half the side of a square that holds any shape of this radius: corners in `SHAPES` stay within 1100."""
    return radius * 11 // 10 + 1


def _relation(subject: tuple[int, int], other: tuple[int, int]) -> str:
    down, across = subject[0] - other[0], subject[1] - other[1]
    if abs(down) > abs(across):
        return "below" if down > 0 else "above"
    return "right" if across > 0 else "left"


def _references(subject: Figure, other: Figure, relation: str) -> tuple[str, ...]:
    x, y = f"{subject.colour} {subject.shape}", f"{other.colour} {other.shape}"
    here, there = _PHRASES[relation], _PHRASES[INVERSE[relation]]
    return (
        f"a {x} with a {y} {there} it",
        f"there is a {x} and a {y} {there} it",
        f"a {x} and {there} it a {y}",
        f"a {x} is {here} a {y}",
        f"a {x} can be seen {here} a {y}",
    )
