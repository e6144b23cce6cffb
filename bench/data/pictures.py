"""Finds a data set's picture files below one folder, and nowhere else."""

import os
import re
from pathlib import Path

from bench.errors import DataError

USUAL_FOLDERS = (
    "Images", "images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k_images", "flickr30k-images",
    "train2014", "val2014", "train2017", "val2017",
)  # fmt: skip
"""Folders beside a captions file in which its pictures are looked for, in this order."""
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"})

# Control characters, surrogates, other systems' separators; absolute paths; drive letters; ways up.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\]|^/|^[A-Za-z]:|(?:^|/)\.\.(?:/|$)")


def check_name(name: str, *, where: str) -> None:
    """Refuses a picture's name or id that could lead out of the data set, or break a line of output.

    Args:
        name: as a captions file gives it.
        where: that file, for the message.

    Raises:
        DataError: if the name is empty, longer than 255 bytes, or not a plain relative path.
    """
    if not name or _UNSAFE.search(name) or len(name.encode()) > 255:
        raise DataError(
            f"{where} names the picture {name[:80]!r}; expected a path below the data set's folder, of up "
            "to 255 bytes, without '..', backslashes or control characters (path traversal refused)"
        )


class PictureFolder:
    """A folder of pictures. Listings are read once: it is asked for thousands of pictures."""

    def __init__(self, root: Path) -> None:
        if not os.path.isdir(root):  # noqa: PTH112 (Path's raises on forbidden folders)
            raise DataError(f"there is no folder {str(root)!r}; expected the pictures' folder in --images")
        self.root = root
        self._real_root = Path(os.path.realpath(root))
        self._listings: dict[str, list[dict[str, os.DirEntry[str]]]] = {}

    def find(self, name: str) -> Path | None:
        """Looks for a picture by its path, then by its file name alone, both here and in `USUAL_FOLDERS`.

        A link that leaves this folder is a `DataError`, whether it is the picture or a folder on the way.

        Args:
            name: a relative path that passed `check_name`.

        Returns:
            The file, or None if there is none.
        """
        inner, _, base = name.rpartition("/")
        for listing in self._list(inner) + (self._list("") if inner else []):
            if entry := listing.get(base):
                if entry.is_symlink():
                    self._check_inside(entry.path)
                if (path := Path(entry.path)).is_file():
                    return path
        return None

    def _list(self, inner: str) -> list[dict[str, os.DirEntry[str]]]:
        """The files in `inner`, and in `inner` within each usual folder."""
        if inner not in self._listings:
            folders = [self.root / start / inner for start in ("", *USUAL_FOLDERS)]
            self._listings[inner] = [listing for folder in folders if (listing := self._scan(folder))]
        return self._listings[inner]

    def _scan(self, folder: Path) -> dict[str, os.DirEntry[str]]:
        self._check_inside(folder)
        try:
            with os.scandir(folder) as entries:
                return {entry.name: entry for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise DataError(f"the folder {str(folder)!r} can't be read: {error.strerror or error}") from error

    def _check_inside(self, path: str | Path) -> None:
        if not Path(os.path.realpath(path)).is_relative_to(self._real_root):
            raise DataError(
                f"{str(path)!r} is a link that leaves the data set's folder (path traversal refused); "
                "copy the pictures there, or pass their folder with --images"
            )
