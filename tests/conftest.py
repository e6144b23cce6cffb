"""What several tests share: a finished run over drawn pictures, made without a model."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from PIL import Image, ImageDraw

from reports.records import (
    AGREEMENT,
    LOCALISATION,
    SCHEMA_VERSION,
    CaptionRow,
    DataInfo,
    ExplanationInfo,
    GitState,
    ImageCounts,
    MethodInfo,
    MetricRow,
    ModelInfo,
    Provenance,
    RunRecord,
    StageRow,
)
from reports.store import RunStore, map_key

# No test waits on a clock, and none leaves a database of examples behind.
settings.register_profile("gazebench", deadline=None, database=None)
settings.load_profile("gazebench")

BEAMS = (1, 3, 5)
CLASSES = dict.fromkeys(("red", "blue", "green"), "colour") | dict.fromkeys(("circle", "square"), "shape")
CLASSES |= {"above": "relation"}
# Name, label, kind, signed, complete, and how wide the made-up maps spread around the word's place, in cells;
# None for maps that know nothing of it.
_METHODS = (
    ("attention", "Attention", "attention", False, False, 1.6),
    ("grid_gradient", "Gradient (grid)", "grid", True, False, 2.6),
    ("grid_input_x_gradient", "Input × gradient (grid)", "grid", True, False, 2.2),
    ("grid_integrated_gradients", "Integrated gradients (grid)", "grid", True, True, 1.9),
    ("pixel_saliency", "Saliency (pixels)", "pixels", False, False, 2.8),
    ("pixel_integrated_gradients", "Integrated gradients (pixels)", "pixels", True, True, 2.4),
    ("pixel_guided_backprop", "Guided backprop (pixels)", "pixels", True, False, 2.2),
    ("uniform", "Uniform", "control", False, False, None),
    ("centre", "Centre", "control", False, False, None),
    ("random", "Random", "control", False, False, None),
    ("edges", "Edges", "control", False, False, None),
    ("other_image", "Attention of another image", "control", False, False, None),
    ("oracle", "Oracle, full resolution", "control", False, False, 1.0),
    ("oracle_grid", "Oracle, on the grid", "control", False, False, 1.2),
)
METHODS = tuple(MethodInfo(*fields, "this project") for *fields, _ in _METHODS)
_WIDTH = {name: width for name, *_, width in _METHODS}


def _jpeg(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    return content.getvalue()


def _scene(rng: np.random.Generator) -> tuple[Image.Image, list[str], dict[str, tuple[float, float]]]:
    """A picture of two figures, a caption, and the place (row, column, in cells) of each word's figure."""
    picture = Image.new("RGB", (112, 112), (236, 233, 226))
    colours = rng.permutation(["red", "blue", "green"])[:2]
    shapes = rng.permutation(["circle", "square"])
    places, draw = {}, ImageDraw.Draw(picture)
    for colour, shape, row in zip(colours, shapes, (30, 80), strict=True):
        column = int(rng.integers(24, 88))
        box = (column - 14, row - 14, column + 14, row + 14)
        (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=str(colour))
        places[str(colour)] = places[str(shape)] = (row / 8, column / 8)
    return picture, f"a {colours[0]} {shapes[0]} above a {colours[1]} {shapes[1]}".split(), places


def _blob(place: tuple[float, float], width: float, rng: np.random.Generator) -> np.ndarray:
    rows, columns = np.mgrid[:14, :14] + 0.5
    blob = np.exp(-((rows - place[0]) ** 2 + (columns - place[1]) ** 2) / (2 * width**2))
    return blob + rng.uniform(0, 0.08, (14, 14))


def _measures(method: MethodInfo, word_class: str, rng: np.random.Generator) -> dict[str, object]:
    row: dict[str, object] = {"region": None, "reason": "a function word has no place"}
    width = _WIDTH[method.name]
    near = 0.0 if width is None else 1 / width
    if method.name != "attention":
        for name in AGREEMENT:
            chance = 0.75 if name == "root_jsd" else 0.12
            found = np.clip(0.15 + 1.2 * near + rng.normal(0, 0.08), 0, 1)
            row |= {name: 1 - found if name == "root_jsd" else found, f"{name}_null": chance}
    if word_class != "function":
        row |= {"region": "union" if word_class == "relation" else "unique", "reason": None}
        for name in LOCALISATION:
            chance = {"lift": 1.0, "auc": 0.5}.get(name, 0.06)
            best = {"lift": 18.0, "auc": 1.0, "pointing": 1.0, "rank": 1.0}.get(name, 0.74)
            part = 1.0 if method.name == "oracle" else np.clip(1.4 * near + rng.normal(0, 0.1), 0, 1)
            value = chance + (best - chance) * part
            if name == "pointing":
                value = float(part > 0.35)
            row |= {name: value, f"{name}_null": chance, f"{name}_ceiling": best}
    if method.complete:
        row["completeness_error"] = abs(rng.normal(0, 0.01))
    if method.name == "attention":
        shares = rng.dirichlet((8, 9, 8))
        row |= dict(zip(("share_now", "share_past", "share_init"), shares, strict=True)) | {
            "path_sum_error": 1e-6
        }
    return row


def _make_run(path: Path, *, images: int = 26, seed: int = 0) -> RunStore:
    """Writes a run directory that looks like a small trained model's."""
    rng, store = np.random.default_rng(seed), RunStore(path)
    captions, scores, rows, maps, thumbs = [], [], [], {}, {}
    for number in range(images):
        image_id = f"scene-{number:03d}"
        picture, truth, places = _scene(rng)
        thumbs[image_id] = _jpeg(picture)
        for beam in BEAMS:
            words = list(truth)
            if rng.random() < 0.3 - 0.03 * beam:
                words[1] = str(rng.choice(["red", "blue", "green"]))
            logs = -rng.exponential(0.05, len(words) + 1)
            captions.append(CaptionRow(
                image_id, beam, " ".join(words), tuple(words), tuple(range(4, 4 + len(words))),
                float(logs.sum()), tuple(logs.tolist()), (" ".join(truth), "there is " + " ".join(truth)),
                True, None,
            ))  # fmt: skip
            right = words[1] == truth[1]
            quality = (0.97 if right else 0.6) + rng.normal(0, 0.01)
            scores.append(
                {
                    "image_id": image_id,
                    "beam_size": beam,
                    "BLEU-4": quality,
                    "METEOR": quality / 2,
                    "ROUGE-L": quality,
                }
                | {
                    "CIDEr": 9 * quality,
                    "Exact match": float(right),
                    "true_colour": 1 + right,
                    "said_colour": 2,
                }
            )
        for method in METHODS:
            stack = []
            for index, word in enumerate(words):
                word_class = CLASSES.get(word, "function")
                row = {"image_id": image_id, "beam_size": 5, "word_index": index, "method": method.name}
                rows.append(
                    row | {"word": word, "word_class": word_class} | _measures(method, word_class, rng)
                )
                width = _WIDTH[method.name]
                cells = (
                    rng.uniform(0, 1, (14, 14))
                    if width is None
                    else _blob(places.get(word, (7, 7)), width, rng)
                )
                stack.append(cells - 0.1 if method.signed else cells / cells.sum())
            maps[map_key(image_id, 5, method.name)] = np.array(stack, np.float16)
    store.append_captions(captions)
    frame = pd.DataFrame(scores)
    store.write_scores(frame)
    store.write_attributions(pd.DataFrame(rows))
    store.write_maps(maps)
    store.write_thumbs(thumbs)
    store.write_run(_record(frame, images, len(rows) // len(METHODS)))
    return store


def _record(scores: pd.DataFrame, images: int, words: int) -> RunRecord:
    metrics = []
    for beam in BEAMS:
        for name in ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "Exact match"):
            value = float(scores.loc[scores["beam_size"] == beam, name].mean())
            unit = "0 to 10" if name == "CIDEr" else "0 to 1"
            metrics.append(MetricRow(name, beam, value, unit, True, value * 0.96, value * 1.03, images, None))
        metrics.append(MetricRow("Mean length", beam, 7.0, "words", None, None, None, images, None))
    return RunRecord(
        SCHEMA_VERSION, "example", "finished", "gazebench eval --data scenes --explain 26 --seed 0",
        "2026-01-02T03:04:05Z", {"checkpoint": "demo", "beam_sizes": list(BEAMS), "seed": 0},
        Provenance(
            {"gazebench": "0.1.0", "torch": "2.15.0"}, GitState("c0ffee" * 6 + "c0ff", False), "cpu", 1,
            "Linux x86_64", "Temurin 25.0.2", {"checkpoint": "ab" * 32, "data": "ef" * 32},
        ),
        ModelInfo("demo", "scenes", (14, 14), 112, 1_234_567, 34, {"attention": "additive"}, None),
        DataInfo("scenes", "test", images, (2, 2), "given", (), (), True),
        ImageCounts(images, images, 0),
        (StageRow("decode", 12.5, 3 * images, "captions"), StageRow("explain", 31.25, images, "captions")),
        "bleu|tok:ptb", tuple(metrics),
        ExplanationInfo(5, images, words, "mean annotation vector", None, METHODS), (),
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_run() -> Callable[..., RunStore]:
    """`make_run(path, images=26, seed=0)` writes a finished run."""
    return _make_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over 26 pictures that all tests share: only to be read."""
    return _make_run(tmp_path_factory.mktemp("runs") / "example").path


@pytest.fixture
def example_run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run over 26 pictures, the test's own copy."""
    return Path(shutil.copytree(finished_run, tmp_path / "example"))
