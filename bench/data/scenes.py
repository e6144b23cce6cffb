"""Scenes: drawn pictures in which every word's place is known exactly.

Each scene shows two *named* filled figures and some *distractors*, drawn as outlines. Five reference captions
speak of the named figures' colours, shapes and relation; the larger one is the subject. Rules, each a test:

* No attribute predicts another: colours, shapes and the relation are drawn independently.
* Nothing is centre-biased: both named figures stand on each of 3 x 3 slots equally often.
* Bit-identical everywhere (`drawing` says how).

The idea of ground-truth masks per word follows CLEVR-XAI (Arras et al. 2022, arXiv:2003.07258).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.data.base import CaptionData, CaptionedImage, Truth, WordRegion
from bench.data.drawing import (
    COLOURS,
    INVERSE,
    RELATIONS,
    SHAPES,
    SIZE,
    SPLIT_SIZES,
    VARIANTS,
    Figure,
    Scene,
    make_scene,
    union,
)
from bench.errors import DataError

__all__ = [
    "COLOURS",
    "RELATIONS",
    "SHAPES",
    "SIZE",
    "SPLIT_SIZES",
    "VARIANTS",
    "Figure",
    "Scene",
    "SceneTruth",
    "load_scenes",
    "make_scene",
]


@dataclass(frozen=True)
class _Reading:
    """A caption read with the scene in view: which figure each phrase speaks of, and which words are true."""

    figure: dict[int, Figure]  # word index -> the figure it speaks of
    true: dict[int, bool]  # word index -> whether it is true


class SceneTruth:
    """Judges any caption by the scene graph.

    A caption is read charitably: its first two phrases "colour shape" are assigned to the two named figures
    in the way that makes more of its words true (the subject first, where both ways are equal). The relation
    word says where the second phrase's figure stands seen from the first's if the caption says "it" ("… below
    it"), and the other way round if it does not ("a … is above a …"). A third phrase, or a figure of a blank
    scene, is false.
    """

    def word_classes(self, words: Sequence[str]) -> list[str]:
        """colour, shape, relation, or function."""
        return [_word_class(word) for word in words]

    def regions(self, image: CaptionedImage, words: Sequence[str]) -> list[WordRegion | None]:
        """Masks of true words.

        A colour's union holds every figure of that colour, outlines included; `other` is the other named figure,
        and `distractors` are the outlines. A relation speaks of both named figures, so it has no other.

        Args:
            image: a scene.
            words: of any caption.

        Returns:
            One region per word; None for function words and false words.
        """
        assert isinstance(image, Scene)
        reading = _read(image, words)
        outlines = image.distractors if len(image.figures) > len(image.named) else None
        regions: list[WordRegion | None] = []
        for index, word in enumerate(words):
            if not reading.true.get(index, False):
                regions.append(None)
            elif word in RELATIONS:
                regions.append(WordRegion(unique=None, union=union(image.named), distractors=outlines))
            else:
                meant = reading.figure[index]
                alike = [f for f in image.figures if word in (f.colour, f.shape)]
                other = next(figure for figure in image.named if figure is not meant)
                regions.append(WordRegion(meant.mask, union(alike), other.mask, outlines))
        return regions

    def truth(self, image: CaptionedImage, words: Sequence[str]) -> dict[str, Truth]:
        """Counts of said and of true words for colour, shape and relation."""
        assert isinstance(image, Scene)
        reading = _read(image, words)
        classes = self.word_classes(words)
        return {
            name: Truth(
                true=sum(reading.true[i] for i, c in enumerate(classes) if c == name),
                said=sum(c == name for c in classes),
            )
            for name in ("colour", "shape", "relation")
        }

    def objects(self, image: CaptionedImage, words: Sequence[str]) -> Truth:
        """Counts objects that are named, and those of them that are there.

        The others are hallucinated, as CHAIR counts them (Rohrbach et al. 2018, arXiv:1809.02156). A phrase names an
        object if it has a shape word. The object is there if any figure of the scene has that shape, and the colour
        if the phrase says one; outlines are there as well, though no reference speaks of them. Where the object
        stands and how often it is named don't matter.

        Args:
            image: a scene.
            words: of any caption.

        Returns:
            Objects named, and how many of them are there.
        """
        assert isinstance(image, Scene)
        phrases = [phrase for phrase in _phrases(words) if "shape" in phrase]
        looks = [{words[index] for index in phrase.values()} for phrase in phrases]
        there = [{figure.colour, figure.shape} for figure in image.figures]
        return Truth(true=sum(any(look <= seen for seen in there) for look in looks), said=len(looks))


def _word_class(word: str) -> str:
    if word in COLOURS:
        return "colour"
    if word in SHAPES:
        return "shape"
    return "relation" if word in RELATIONS else "function"


def _phrases(words: Sequence[str]) -> list[dict[str, int]]:
    """Groups colour and shape words into phrases: a colour opens one, the next shape closes it."""
    phrases: list[dict[str, int]] = []
    is_open = False
    for index, word in enumerate(words):
        kind = _word_class(word)
        if kind == "colour" or (kind == "shape" and not is_open):
            phrases.append({kind: index})
            is_open = kind == "colour"
        elif kind == "shape":
            phrases[-1][kind] = index
            is_open = False
    return phrases


def _read(scene: Scene, words: Sequence[str]) -> _Reading:
    phrases = _phrases(words)
    relations = [index for index, word in enumerate(words) if word in RELATIONS]
    readings = []
    for order in ((0, 1), (1, 0)):
        figure: dict[int, Figure] = {}
        true = dict.fromkeys([*(index for phrase in phrases for index in phrase.values()), *relations], False)
        if scene.named:
            for phrase, which in zip(phrases, order, strict=False):
                for kind, index in phrase.items():
                    figure[index] = scene.named[which]
                    true[index] = words[index] == getattr(scene.named[which], kind)
            if relations and len(phrases) >= 2:
                # The scene's relation places figure 0 seen from figure 1. "it" stands for the first phrase.
                located = order[1] if "it" in words else order[0]
                assert scene.relation is not None
                actual = scene.relation if located == 0 else INVERSE[scene.relation]
                true[relations[0]] = words[relations[0]] == actual
        readings.append(_Reading(figure, true))
    return max(readings, key=lambda reading: sum(reading.true.values()))  # the first of equals


def load_scenes(spec: str = "scenes") -> CaptionData:
    """The scenes data set.

    Args:
        spec: "scenes", or "scenes:VARIANT" with one of `VARIANTS`; "scenes:VARIANT:SEED" for other scenes.

    Returns:
        12,000 training scenes, 500 for validation, 500 for testing. Pictures are drawn when asked for.

    Raises:
        DataError: if the variant is unknown.
    """
    match = re.fullmatch(r"scenes(?::([\w-]+))?(?::(\d{1,9}))?", spec)
    variant = match[1] or "main" if match else None
    if match is None or variant not in VARIANTS:
        raise DataError(
            f"there are no scenes {spec!r}; expected scenes or scenes:VARIANT, {', '.join(VARIANTS)}"
        )
    seed = int(match[2] or 0)
    images = tuple(
        make_scene(split, index, variant=variant, seed=seed)
        for split, size in SPLIT_SIZES.items()
        for index in range(size)
    )
    return CaptionData(spec, images, split_origin="given", ground_truth=SceneTruth())
