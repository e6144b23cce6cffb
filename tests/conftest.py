"""What several tests share: a finished run over drawn pictures, made without a model."""

import dataclasses
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from PIL import Image, ImageDraw

from reports.explanations import ANSWERS
from reports.records import (
    AGREEMENT,
    GATE,
    LOCALISATION,
    NULLS,
    PATHS,
    SCHEMA_VERSION,
    TRIAL_DISTANCES,
    TRIAL_DROPS,
    CaptionRow,
    DataInfo,
    ExplanationInfo,
    GateRow,
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

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# No test waits on a clock, and none leaves a database of examples behind.
settings.register_profile("gazebench", deadline=None, database=None)
settings.load_profile("gazebench")

BEAMS = (1, 3, 5)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: whoever began one as the last would end long after the others."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


CLASSES = dict.fromkeys(("red", "blue", "green"), "colour") | dict.fromkeys(("circle", "square"), "shape")
CLASSES |= {"above": "relation"}
# Name, label, kind, signed, complete, and how wide the made-up maps spread around the word's place, in cells;
# None for maps that know nothing of it.
_METHODS = (
    ("attention", "Attention", "attention", False, False, 1.6),
    ("attention_minus_2", "Attention two steps before", "attention", False, False, 9.0),
    ("attention_minus_1", "Attention one step before", "attention", False, False, 2.4),
    ("attention_plus_1", "Attention one step after", "attention", False, False, 3.2),
    ("attention_plus_2", "Attention two steps after", "attention", False, False, 12.0),
    ("path_now", "Input × gradient, this step", "grid", True, False, 1.8),
    ("path_past", "Input × gradient, earlier steps", "grid", True, False, 4.0),
    ("path_init", "Input × gradient, initial state", "grid", True, False, 9.0),
    ("grid_gradient", "Gradient (grid)", "grid", True, False, 2.6),
    ("grid_input_x_gradient", "Input × gradient (grid)", "grid", True, False, 2.2),
    ("grid_integrated_gradients", "Integrated gradients (grid)", "grid", True, True, 1.5),
    ("pixel_saliency", "Saliency (pixels)", "pixels", False, False, 2.8),
    ("pixel_integrated_gradients", "Integrated gradients (pixels)", "pixels", True, True, 2.4),
    ("pixel_guided_backprop", "Guided backprop (pixels)", "pixels", True, False, 2.2),
    ("pixel_grad_cam", "Grad-CAM (pixels)", "pixels", False, False, 6.0),
    ("uniform", "Uniform", "control", False, False, None),
    ("centre", "Centre", "control", False, False, None),
    ("random", "Random", "control", False, False, None),
    ("edges", "Edges", "control", False, False, None),
    ("other_image", "Attention of another image", "control", False, False, None),
    ("oracle", "True place, full resolution", "control", False, False, 1.0),
    ("oracle_grid", "True place, on the grid", "control", False, False, 1.2),
    ("inverse", "All but the true place, full resolution", "control", False, False, None),
    ("inverse_grid", "All but the true place, on the grid", "control", False, False, None),
)
_WIDTH = {name: width for name, *_, width in _METHODS}
FAILED = "pixel_guided_backprop"
"""A method that fails a gate."""
_DETAILS = {
    "grid_integrated_gradients": {
        "baseline": "mean annotation vector of each cell",
        "steps": 32,
        "forward": 32,
    },
    "pixel_saliency": {"resolution": "pixels", "forward": 1, "backward": 1, "seconds_per_word": 0.0021},
    "pixel_grad_cam": {
        "group": "comparison",
        "note": "for comparison with papers; unsuited to soft attention",
    },
    FAILED: {"resolution": "pixels", "hooks": 4},
}
METHODS = tuple(MethodInfo(*fields, "this project", **_DETAILS.get(fields[0], {})) for *fields, _ in _METHODS)
_FULL = ("oracle", "inverse")
_LAGS = tuple(name for name in _WIDTH if name.startswith("attention_"))


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
    if method.name != "attention" and method.name not in (*_LAGS, *_FULL):
        for name in AGREEMENT:
            chance = {"root_jsd": 0.75, "spearman": 0.0, "pearson": 0.0}.get(name, 0.12)
            found = np.clip(0.15 + 1.2 * near + rng.normal(0, 0.08), 0, 1)
            row |= {name: 1 - found if name == "root_jsd" else found}
            row |= {f"{name}_{null}": chance + 0.02 * n for n, null in enumerate(NULLS)}
    if word_class != "function":
        row |= {"region": "union" if word_class == "relation" else "unique", "reason": None}
        row |= _localisation(method.name, near, rng)
        row |= _faithfulness(method.name, near, rng)
    if method.complete:
        row["completeness_error"] = abs(rng.normal(0, 0.01))
    if method.name == "attention":
        row |= _trial(word_class != "function", rng)
    return row


def _localisation(method: str, near: float, rng: np.random.Generator) -> dict[str, float]:
    row = {}
    for name in LOCALISATION:
        chance = {"lift": 1.0, "auc": 0.5, "inside_outside": 0.5}.get(name, 0.06)
        best = {"lift": 18.0, "auc": 1.0, "pointing": 1.0, "rank": 1.0}.get(name, 0.74)
        part = 1.0 if method == "oracle" else float(np.clip(1.4 * near + rng.normal(0, 0.1), 0, 1))
        value = 0.0 if method.startswith("inverse") else chance + (best - chance) * part
        if name == "pointing":
            value = float(part > 0.35)
        row |= {name: value, f"{name}_null": chance, f"{name}_ceiling": best}
    return row


def _faithfulness(method: str, near: float, rng: np.random.Generator) -> dict[str, float]:
    if method in (*_LAGS, *_FULL):
        return {}
    row = {}
    for operator in ("cells", "blur"):
        good = float(np.clip(0.05 + 0.9 * near + rng.normal(0, 0.05), 0, 1))
        row |= {f"deletion_{operator}": 1 - 0.7 * good, f"insertion_{operator}": 0.2 + 0.6 * good}
        row |= {f"abpc_{operator}": 0.8 * good, f"comprehensiveness_{operator}": 0.9 * good}
        row |= {f"sufficiency_{operator}": 0.9 - 0.8 * good}
    return row


def _trial(visual: bool, rng: np.random.Generator) -> dict[str, float]:
    shares = rng.dirichlet((8, 9, 8) if visual else (2, 9, 14))
    row = dict(zip(PATHS, shares.tolist(), strict=True)) | {"path_sum_error": 1e-6}
    size = 0.4 if visual else 0.03
    row |= {name: float(size / (n + 1) * rng.uniform(0.5, 1)) for n, name in enumerate(TRIAL_DROPS)}
    row |= {name: float(size * rng.uniform(0.5, 1)) for name in TRIAL_DISTANCES}
    return row | {GATE: float(rng.uniform(0.6, 0.9) if visual else rng.uniform(0.1, 0.3))}


def _sanity(image_ids: list[str], rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    stages = ("output", "recurrence", "attention", "encoder")
    for image_id in image_ids:
        for method in (m.name for m in METHODS if m.kind != "control" and m.name not in _LAGS):
            for test in ("cascade", "independent"):
                for order, stage in enumerate(stages):
                    alike = float(np.clip(0.9 - 0.25 * order + rng.normal(0, 0.05), 0, 1))
                    rows.append((image_id, test, method, stage, order, alike, alike - 0.1, np.nan, 5, None))
            rows.append((image_id, "random word", method, "none", 0, 0.8, 0.7, np.nan, 5, None))
            rows.append(
                (image_id, "entropy", method, "all", 3, np.nan, np.nan, rng.normal(0.2, 0.1), 5, None)
            )
    columns = ["image_id", "test", "method", "stage", "order"]
    frame = pd.DataFrame(rows, columns=[*columns, "cosine", "spearman", "entropy_rise", "words", "reason"])
    untouched = (frame["method"] == "attention") & frame["stage"].isin(["output", "none"])
    frame.loc[untouched, ["cosine", "spearman"]] = np.nan
    frame.loc[untouched, "words"] = 0
    frame.loc[untouched, "reason"] = "attention does not depend on the output layer"
    return frame


def _interventions(image_ids: list[str], rng: np.random.Generator) -> pd.DataFrame:
    rows = [
        (image_id, name, f"a caption, attention {name}", max(0.0, rng.normal(cider, 1)), true)
        for image_id in image_ids
        for name, cider, true in (("none", 7.0, 1.0), ("uniform", 3.0, 0.5), ("permuted", 2.0, 0.25))
    ]
    return pd.DataFrame(rows, columns=["image_id", "intervention", "caption", "cider", "words_true"])


def _gates(words: int) -> tuple[GateRow, ...]:
    rows = [GateRow("attention", "path sum", True, 2e-7, 1e-4, words, None)]
    for method in METHODS:
        if method.kind in ("grid", "pixels"):
            complete = method.complete
            rows.append(GateRow(
                method.name, "completeness", True if complete else None, 0.008 if complete else None,
                0.05 if complete else None, words if complete else 0,
                None if complete else "its values need not sum to anything",
            ))  # fmt: skip
            rows.append(GateRow(method.name, "row independence", True, 3e-7, 1e-4, 4, None))
            rows.append(GateRow(method.name, "model unchanged", True, 0.0, 0.0, words, None))
    rows.append(GateRow(
        FAILED, "hook coverage", False, 0.0, 1e-3, 4, "its maps equal those of the plain gradient"
    ))  # fmt: skip
    return tuple(rows)


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
                if word_class != "function" or method.name not in ANSWERS:
                    known = {"word": word, "word_class": word_class}
                    rows.append(row | known | _measures(method, word_class, rng))
                width = _WIDTH[method.name]
                cells = (
                    rng.uniform(0, 1, (14, 14))
                    if width is None
                    else _blob(places.get(word, (7, 7)), width, rng)
                )
                stack.append(cells - 0.1 if method.signed else cells / cells.sum())
            if method.name not in (*_LAGS, *ANSWERS):
                maps[map_key(image_id, 5, method.name)] = np.array(stack, np.float16)
    store.append_captions(captions)
    frame = pd.DataFrame(scores)
    store.write_scores(frame)
    store.write_attributions(pd.DataFrame(rows))
    store.write_maps(maps)
    for image_id, jpeg in thumbs.items():
        store.write_thumb(image_id, jpeg)
    store.write_sanity(_sanity(list(thumbs), rng))
    store.write_interventions(_interventions(list(thumbs), rng))
    store.write_run(_record(frame, images, 7 * images))
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
        ExplanationInfo(
            5, images, words, "mean annotation vector", None, METHODS, _gates(words),
            "The grid has 14 × 14 cells, pooled up from 8 × 8.", {"images for sanity": images, "draws": 100},
        ), (),
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
def old_run(example_run: Path) -> Path:
    """A run as it was stored before the explanation benchmark: fewer columns, methods and tables."""
    store = RunStore(example_run)
    frame, record = store.read_attributions(), store.read_run()
    assert frame is not None
    assert record.explanations is not None
    methods = tuple(
        method
        for method in record.explanations.methods
        if not method.name.startswith(("attention_", "path_", "inverse"))
    )
    localisation, agreement = LOCALISATION[:5], ("cosine", "root_jsd", "top10_iou", "spearman")
    columns = ["image_id", "beam_size", "word_index", "method", "word", "word_class", "region", "reason"]
    columns += [name + mark for name in localisation for mark in ("", "_null", "_ceiling")]
    columns += [name + mark for name in agreement for mark in ("", "_null")]
    columns += ["completeness_error", *PATHS, "path_sum_error"]
    store.write_attributions(frame.loc[frame["method"].isin([method.name for method in methods]), columns])
    for name in ("sanity.parquet", "interventions.parquet"):
        (example_run / name).unlink()
    plain = [MethodInfo(m.name, m.label, m.kind, m.signed, m.complete, m.source) for m in methods]
    explained = dataclasses.replace(
        record.explanations, methods=tuple(plain), gates=(), resolution=None, settings=None
    )
    store.write_run(dataclasses.replace(record, explanations=explained))
    return example_run


@pytest.fixture
def example_run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run over 26 pictures, the test's own copy."""
    return Path(shutil.copytree(finished_run, tmp_path / "example"))


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A real headless Chromium; tests that ask for it are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium or chromium-browser is installed")
    with sync_api.sync_playwright() as playwright:
        options = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-dev-shm-usage",
        ]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()
