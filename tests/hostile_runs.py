"""Runs in which every text that a stranger chooses is an attack."""

import dataclasses
from collections import Counter
from collections.abc import Container

from reports.maps import map_key
from reports.records import CaptionRow, Failure, from_json, to_json
from reports.store import RunStore

ATTACKS = (
    "</script><script>alert(1)</script></title><h1></p><img src=x onerror=alert(1)> {{7*7}}",
    "\"><svg onload=alert(1)>'--></style><b> &lt;b&gt; &amp; ${7*7} {% raw %} $\\frac{1}{ | [x](http://x.y) `*_~",
    "\u202eright to left\u202c שלום \x00\x01\x1b[31m\x85\ufffe\U0001ffff line\r\nbreak\u2028here \udc80",
    "a" * 3000,
)
_FIXED = ("status", "kind", "gate", "group")
"""Fields of few known words, which no attack can stand in."""


def poison(store: RunStore, attack: str, *, spared: Container[str] = ()) -> None:
    """Puts the attack into every text of a run: names, ids, words, captions, references, reasons, settings …

    Args:
        store: a finished run, whose captions of beam size 5 are explained.
        attack: any text.
        spared: fields of run.json that stay as they are.
    """
    record = to_json(store.read_run())
    bad = _poisoned(record, attack, spared)
    for rows in (lambda r: r["metrics"], lambda r: r["explanations"]["methods"]):
        for row, original in zip(rows(bad), rows(record), strict=True):
            row["name"] = original["name"]
    for row, original in zip(bad["explanations"]["gates"], record["explanations"]["gates"], strict=True):
        row["method"] = original["method"]
    bad["explanations"]["gates"].append({**bad["explanations"]["gates"][0], "method": attack})
    bad["explanations"]["settings"] = {attack: attack}
    bad["metrics"] += [{**row, "name": attack, "value": None} for row in bad["metrics"][:1]]
    bad["config"], bad["warnings"] = (
        {attack: attack, f"{store.path.name}{attack}": {attack: attack}},
        [attack],
    )
    store.write_run(from_json(type(store.read_run()), bad, "run.json"))
    store.append_failures([Failure(attack, attack)])
    # Neither parquet nor a zip file can hold a lone surrogate, so no id can either.
    held = attack.encode("utf-8", "replace").decode()
    captions = store.read_captions()
    images = {row.image_id for row in captions}
    (store.path / "captions.jsonl").unlink()
    store.append_captions(
        dataclasses.replace(
            from_json(CaptionRow, _poisoned(to_json(row), attack, ()), "row"), image_id=row.image_id + held
        )
        for row in captions
    )
    for read, write in (
        (store.read_scores, store.write_scores),
        (store.read_attributions, store.write_attributions),
        (store.read_sanity, store.write_sanity),
        (store.read_interventions, store.write_interventions),
    ):
        frame = read()
        if frame is None:
            continue
        texts = ("image_id", "word", "word_class", "stage", "intervention", "caption")
        columns = [name for name in texts if name in frame]
        if "stage" in frame:
            frame["reason"] = frame["reason"].fillna("") + held
        write(frame.assign(**{name: frame[name] + held for name in columns}))
    methods = ("attention", "grid_integrated_gradients", "pixel_saliency")
    maps = store.read_maps(map_key(image_id, 5, method) for image_id in images for method in methods)
    store.write_maps({key.replace("/5/", f"{held}/5/"): value for key, value in maps.items()})
    for image_id, jpeg in store.read_thumbs(images).items():
        store.write_thumb(image_id + held, jpeg)


def _poisoned(value: object, attack: str, spared: Container[str]) -> object:
    """Decoded JSON with the attack at the end of every text that is not one of a few known words."""
    if isinstance(value, dict):
        return {
            key: item
            if key in _FIXED or key in spared or item in ("grid", "pixels")
            else _poisoned(item, attack, spared)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_poisoned(item, attack, spared) for item in value]
    return value + attack if isinstance(value, str) else value


def count_tags(elements: list) -> Counter[str]:
    """HTML elements by their number, and the kinds of SVG elements (a longer label moves the axes' ticks)."""
    tags = Counter(element.tag for element in elements)
    return Counter({tag: 1 if "svg" in tag else count for tag, count in tags.items()})
