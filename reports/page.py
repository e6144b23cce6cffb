"""What every HTML page shares: escaping, the policy that forbids all else, style, script and data.

Every text in a run is a stranger's: Jinja2 escapes all of it, `printable` defuses what escaping does not, data stands
in the page as JSON that no markup can end, and a content security policy forbids whatever these might miss.
"""

import base64
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from reports import wording
from reports.gallery import Gallery
from reports.legend import arrow
from reports.records import RunError
from reports.store import write_atomically

_TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("data.js", "list.js", "gaze.js", "main.js")
"""The script of the sample browser, in the order in which its parts run."""
_WORDING = ("number", "percent", "measured", "span", "row_span", "clip", "signatures", "subject")
_INDEX = "index.html"
_GENERATOR = '<meta name="generator" content="gazebench">'
_BUNDLED = re.compile(r"index\.html|data/(gallery|sample-\d+)\.js|pictures/\d+\.jpg")


class Page(NamedTuple):
    """A page, and the files beside it; there are none if it is not bundled."""

    html: str
    files: Mapping[str, bytes] = {}


def render(
    template: str, *, gallery: Gallery | None = None, bundled: bool = False, **context: object
) -> Page:
    """Makes a page; the same input gives the same text.

    Args:
        template: extends page.html.j2.
        gallery: what its sample browser shows; without one the page runs no script.
        bundled: whether the gallery's data and pictures stand in files beside the page, instead of in it.
        **context: what the template shows.

    Returns:
        The page.
    """
    script = _script() if gallery else None
    chunks = _chunks(gallery, bundled=bundled) if gallery else {}
    html = (
        environment()
        .get_template(template)
        .render(
            policy=_policy(script, bundled=bundled),
            # Markup is right here: the script is ours, and the JSON can't end its element.
            script=Markup(script) if script else None,  # noqa: S704
            chunks={} if bundled else {name: Markup(text) for name, text in chunks.items()},  # noqa: S704
            data_folder="data/" if bundled else "",
            **context,
        )
    )
    if not bundled or gallery is None:
        return Page(html)
    files = {
        f"data/{name}.js": f'gazebench.receive("{name}", {text});\n'.encode() for name, text in chunks.items()
    }
    return Page(html, files | {f"pictures/{place}.jpg": jpeg for place, jpeg in gallery.pictures.items()})


def write_page(page: Page, out: Path) -> None:
    """Writes a page that stands alone."""
    assert not page.files
    with write_atomically(out) as file:
        file.write(page.html.encode())


def write_bundle(page: Page, folder: Path) -> None:
    """Writes a page with the files beside it, as a folder that appears whole.

    Args:
        page: the page; it becomes index.html.
        folder: where to; an earlier bundle there is replaced.

    Raises:
        RunError: if there is anything else.
    """
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or _is_bundle(folder))):
        raise RunError(f"{folder} exists and is not a bundle; give a new or empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        made = Path(scratch) / "bundle"
        for name, content in {_INDEX: page.html.encode(), **page.files}.items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if folder.exists():
            shutil.move(folder, Path(scratch) / "earlier")
        made.replace(folder)


def _is_bundle(folder: Path) -> bool:
    """Whether a folder holds nothing but what a bundle of ours does."""
    index = folder / _INDEX
    if not index.is_file() or _GENERATOR not in index.read_text(encoding="utf-8", errors="replace")[:4096]:
        return False
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return all(_BUNDLED.fullmatch(name) for name in files)


def environment() -> jinja2.Environment:
    """Templates that escape every text, and fail where something is not given."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Markup is a str too: only text that is still to be escaped is made printable.
        finalize=lambda value: wording.printable(value) if type(value) is str else value,
    )
    made.globals |= {name: getattr(wording, name) for name in _WORDING}
    made.globals |= {"beam_name": wording.beam, "arrow": arrow}
    return made


@cache
def _script() -> str:
    parts = [(_TEMPLATES / "gallery" / name).read_text(encoding="utf-8") for name in SCRIPTS]
    script = '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"
    assert "</script" not in script.lower()
    return script


def _policy(script: str | None, *, bundled: bool) -> str:
    """Forbids everything but the page's own style and pictures, this very script, and the bundle's files."""
    beside = " 'self'" if bundled else ""
    rules = ["default-src 'none'", f"img-src data:{beside}", "style-src 'unsafe-inline'"]
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        rules.append(f"script-src 'sha256-{digest}'{beside}")
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def _chunks(gallery: Gallery, *, bundled: bool) -> dict[str, str]:
    """The gallery's data by name, as JSON."""
    index = dict(gallery.index) | {"folder": "pictures/" if bundled else None}
    chunks: dict[str, object] = {"gallery": index}
    if not bundled:
        chunks["pictures"] = {
            str(place): f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
            for place, jpeg in gallery.pictures.items()
        }
    chunks |= {f"sample-{place}": sample for place, sample in gallery.samples.items()}
    return {name: _json(value) for name, value in chunks.items()}


_UNSAFE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def _json(value: object) -> str:
    """JSON without a character that could end or begin markup, or a line of a script."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_UNSAFE)
