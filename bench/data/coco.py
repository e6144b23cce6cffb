"""COCO's captions JSON: pictures and annotations, joined by number (Chen et al. 2015, arXiv:1504.00325)."""

from collections.abc import Iterator

from bench.data.captions_file import CaptionFile, Entry, json_field
from bench.errors import DataError


def read_coco(file: CaptionFile) -> Iterator[Entry] | None:
    """Reads `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}`.

    Args:
        file: any captions file.

    Returns:
        The entries, one per picture, or None if the file is of another format.
    """
    match file.document:
        case {"images": list(images), "annotations": list(annotations)}:
            return iter(_entries(images, annotations, file.name))
    return None


def _entries(images: list[object], annotations: list[object], name: str) -> list[Entry]:
    entries: dict[str, Entry] = {}
    for index, image in enumerate(images):
        where = f"{name}: images[{index}]"
        image_id = _id(image, "id", where)
        if image_id in entries:
            raise DataError(
                f"{where}: the id {image_id!r:.60} stands twice; expected another id for each picture"
            )
        entries[image_id] = Entry(image_id, json_field(image, "file_name", str, where), [])
    for index, annotation in enumerate(annotations):
        where = f"{name}: annotations[{index}]"
        image_id = _id(annotation, "image_id", where)
        if image_id not in entries:
            raise DataError(f"{where}: there is no picture {image_id!r:.60}; add it, or remove the caption")
        entries[image_id].captions.append(json_field(annotation, "caption", str, where))
    return list(entries.values())


def _id(record: object, key: str, where: str) -> str:
    """An id as text: some tools write 42, others "42"."""
    is_text = isinstance(record, dict) and isinstance(record.get(key), str)
    return str(json_field(record, key, str if is_text else int, where))
