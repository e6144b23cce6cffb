"""COCO's instances: outlines of things of named categories (Lin et al. 2014, arXiv:1405.0312).

A word names a category by a list of our own. The idea of such a list, and of counting what captions name against
what the picture holds, is CHAIR's (Rohrbach et al. 2018, arXiv:1809.02156).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from bench.data.base import CaptionedImage, Truth, WordRegion
from bench.data.captions_file import CaptionFile, json_field
from bench.data.category_words import find_categories
from bench.data.outlines import Outline, draw, read_outline
from bench.data.word_classes import word_class
from bench.errors import DataError

MAX_INSTANCES = 10_000
"""Most things, and most polygons, in one picture. COCO's have fewer than a hundred; these take seconds to draw."""

# COCO's own file names end in the picture's number; users' copies are often named by it.
_NUMBERED = re.compile(r"(?:COCO_\w+_)?(\d{1,18})", re.ASCII)
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


class Instance(NamedTuple):
    """One thing, or a crowd of them, in one picture."""

    category: str
    is_crowd: bool
    outline: Outline


class ImageInstances(NamedTuple):
    """What is known of one picture."""

    size: tuple[int, int]
    """Width and height, in pixels."""
    instances: tuple[Instance, ...]
    categories: frozenset[str]
    """All that were looked for, whether they are there or not."""
    notes: tuple[str, ...]
    """Kinds of trouble that the annotations had."""


class InstancesFile:
    """A file of instances: indexed whole, checked picture by picture as they are asked for."""

    def __init__(self, file: CaptionFile) -> None:
        self.name = file.name
        document = file.document
        images, annotations, categories = (
            json_field(document, key, list, file.name) for key in ("images", "annotations", "categories")
        )
        self._annotations = annotations
        self._categories = _categories(categories, file.name)
        self._images: dict[int, int] = {}
        self._by_image: defaultdict[int, list[int]] = defaultdict(list)
        self._rows = images
        files = []
        for index, image in enumerate(images):
            where = f"{file.name}: images[{index}]"
            number = json_field(image, "id", int, where)
            if self._images.setdefault(number, index) != index:
                raise DataError(
                    f"{where}: the id {number} stands twice; expected another id for each picture"
                )
            files.append((PurePosixPath(json_field(image, "file_name", str, where)), number))
        for index, annotation in enumerate(annotations):
            image_id = json_field(annotation, "image_id", int, f"{file.name}: annotations[{index}]")
            self._by_image[image_id].append(index)
        self.names: Sequence[str] = [path.name for path, _ in files]
        self._numbers = _unambiguous(files)

    def read(self, names: Sequence[str]) -> ImageInstances | None:
        """Reads what is known of one picture.

        Args:
            names: what the picture is called, the surest name first, without a suffix or with it; a name that is
                a number, or ends in one as COCO's do, is looked up as an id last.

        Returns:
            Its instances, or None if the file has no such picture.

        Raises:
            DataError: if the picture's annotations are not of COCO's form, or what they draw lies outside reason.
        """
        numbers = [self._numbers[name] for name in names if name in self._numbers]
        numbers += [int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))]
        number = next((number for number in numbers if number in self._images), None)
        if number is None:
            return None
        row, where = self._rows[self._images[number]], f"{self.name}: images[{self._images[number]}]"
        width, height = (json_field(row, side, int, where) for side in ("width", "height"))
        indices = self._by_image.get(number, [])
        if min(width, height) < 1:
            raise DataError(f"{where} has {width} x {height} pixels; expected one pixel or more")
        instances = tuple(self._instance(index, (width, height)) for index in indices)
        parts = sum(max(1, len(instance.outline.polygons)) for instance in instances)
        if parts > MAX_INSTANCES:
            raise DataError(f"{where} has {parts:,} outlines; expected up to {MAX_INSTANCES:,}")
        notes = ("things without an outline, for which their boxes stand",)
        boxed = any(instance.outline.is_box for instance in instances)
        return ImageInstances(
            (width, height), instances, frozenset(self._categories.values()), notes if boxed else ()
        )

    def _instance(self, index: int, size: tuple[int, int]) -> Instance:
        annotation, where = self._annotations[index], f"{self.name}: annotations[{index}]"
        number = json_field(annotation, "category_id", int, where)
        if number not in self._categories:
            raise DataError(f"{where}: there is no category {number}; add it, or remove the annotation")
        is_crowd = "iscrowd" in annotation and json_field(annotation, "iscrowd", int, where) != 0
        return Instance(self._categories[number], is_crowd, read_outline(annotation, size, where))

    def truth(self, pictures: Mapping[str, ImageInstances]) -> "InstancesTruth":
        """The ground truth of pictures that were read, by image id."""
        return InstancesTruth(pictures)


class InstancesTruth:
    """Judges words that name a category by the things of that category (`bench.data.category_words`)."""

    def __init__(self, pictures: Mapping[str, ImageInstances]) -> None:
        self._pictures = pictures

    def word_classes(self, words: Sequence[str]) -> list[str]:
        """The classes of `bench.data.word_classes`."""
        return [word_class(word) for word in words]

    def regions(self, image: CaptionedImage, words: Sequence[str]) -> list[WordRegion | None]:
        """The things of the category that each word names; all words of a term such as "traffic light" have its place.

        Unique where it is one thing and no crowd. `other` is every thing of another category, less what the
        word's own cover.

        Args:
            image: any picture.
            words: of any caption.

        Returns:
            At the annotated size, which is the picture's; None also for words that name no category.
        """
        regions: list[WordRegion | None] = [None] * len(words)
        known = self._pictures.get(image.image_id)
        if known is None:
            return regions
        there = {instance.category for instance in known.instances}
        said = [term for term in find_categories(words, known.categories) if term.category in there]
        if not said:
            return regions
        masks = _masks(known)
        counts = Counter(instance.category for instance in known.instances)
        crowds = {instance.category for instance in known.instances if instance.is_crowd}
        for term in said:
            union = masks[term.category]
            if union.any():  # a thing may be smaller than a pixel
                is_one = counts[term.category] == 1 and term.category not in crowds
                others = [mask for category, mask in masks.items() if category != term.category]
                other = np.any(others, axis=0) & ~union if others else np.zeros_like(union)
                region = WordRegion(union if is_one else None, union, other if other.any() else None)
                regions[term.start : term.end] = [region] * (term.end - term.start)
        return regions

    def truth(self, image: CaptionedImage, words: Sequence[str]) -> dict[str, Truth]:  # noqa: ARG002
        """Nothing: instances know things, not colours or places; `objects` counts the things."""
        return {}

    def objects(self, image: CaptionedImage, words: Sequence[str]) -> Truth:
        """Counts terms that name a category, and those of them whose category is there; the others are hallucinated.

        As CHAIR counts (Rohrbach et al. 2018): a category is there if the picture has an instance of it or a
        reference names it, and each mention counts. The list of words is another, so the numbers are, too.

        Args:
            image: any picture.
            words: of any caption.

        Returns:
            Nothing said for a picture that is not annotated.
        """
        known = self._pictures.get(image.image_id)
        if known is None:
            return Truth(true=0, said=0)
        there = {instance.category for instance in known.instances}
        for reference in image.references:
            there |= {t.category for t in find_categories(_WORD.findall(reference), known.categories)}
        said = find_categories(words, known.categories)
        return Truth(true=sum(term.category in there for term in said), said=len(said))


def _masks(known: ImageInstances) -> dict[str, Bool[np.ndarray, "height width"]]:
    """Where the things of each category are."""
    outlines: defaultdict[str, list[Outline]] = defaultdict(list)
    for instance in known.instances:
        outlines[instance.category].append(instance.outline)
    return {category: draw(several, known.size) for category, several in outlines.items()}


def _categories(rows: Sequence[object], name: str) -> dict[int, str]:
    categories: dict[int, str] = {}
    for index, row in enumerate(rows):
        where = f"{name}: categories[{index}]"
        number, category = json_field(row, "id", int, where), json_field(row, "name", str, where)
        if categories.setdefault(number, category) != category:
            raise DataError(f"{where}: the id {number} stands twice; expected another id for each category")
    return categories


def _unambiguous(files: Collection[tuple[PurePosixPath, int]]) -> dict[str, int]:
    """File names, and their stems, by which one picture is meant."""
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for path, number in files:
        for name in {path.name, path.stem}:
            numbers[name].add(number)
    return {name: next(iter(several)) for name, several in numbers.items() if name and len(several) == 1}
