"""A run as large as the test split of a photograph data set, made of noise: what its report costs is what counts."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from reports.records import (
    SCHEMA_VERSION,
    Alternative,
    CaptionRow,
    DataInfo,
    ExplanationInfo,
    ImageCounts,
    MethodInfo,
    MetricRow,
    ModelInfo,
    Provenance,
    RunRecord,
)
from reports.store import RunStore, map_key

IMAGES, EXPLAINED, BEAMS = 5_000, 100, (1, 3, 5)
_METHODS = (
    ("attention", "Attention", "attention"), ("grid_gradient", "Gradient (grid)", "grid"),
    ("grid_integrated_gradients", "Integrated gradients (grid)", "grid"),
    ("pixel_saliency", "Saliency (pixels)", "pixels"), ("centre", "Centre", "control"),
    ("random", "Random", "control"),
)  # fmt: skip
_MEASURES = ("mass", "pointing", "auc", "cosine", "abpc_cells", "deletion_cells", "insertion_cells")
_SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "sta", "ti", "vo")


def write_large_run(path: Path) -> RunStore:
    """Writes 5,000 images with captions at three beam sizes, 100 of them explained with six methods.

    Args:
        path: the run directory.

    Returns:
        The run, finished.
    """
    store, rng = RunStore(path), np.random.default_rng(0)
    vocabulary = [a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES]
    pictures = [_picture(rng) for _ in range(50)]
    rows, scores = [], []
    for number in range(IMAGES):
        image_id = f"photograph_{number:012d}.jpg"
        store.write_thumb(image_id, pictures[number % len(pictures)])
        references = tuple(" ".join(rng.choice(vocabulary, 11)) for _ in range(5))
        for beam in BEAMS:
            words = tuple(map(str, rng.choice(vocabulary, 11)))
            others = tuple(
                Alternative(" ".join(words[::-1]), words[::-1], tuple(range(11)), -20.0, -4.0, True)
                for _ in range(min(beam, 3) - 1)
            )
            rows.append(CaptionRow(
                image_id, beam, " ".join(words), words, tuple(range(11)), -18.0, (-1.7,) * 11, references, True,
                None, -3.0, others,
            ))  # fmt: skip
            values = dict(zip(("CIDEr", "BLEU-4", "METEOR", "ROUGE-L"), rng.random(4).tolist(), strict=True))
            scores.append({"image_id": image_id, "beam_size": beam, **values, "words": 11})
    store.append_captions(rows)
    frame = pd.DataFrame(scores)
    store.write_scores(frame)
    with store.writing_explanations() as explanations:
        for row in (row for row in rows[: EXPLAINED * len(BEAMS)] if row.beam_size == BEAMS[-1]):
            _explain(row, explanations, rng)
    store.write_run(_record(frame))
    return store


def _picture(rng: np.random.Generator) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8))
    content = io.BytesIO()
    coarse.resize((224, 224), Image.Resampling.BICUBIC).save(content, "JPEG", quality=85)
    return content.getvalue()


def _explain(row: CaptionRow, explanations: object, rng: np.random.Generator) -> None:
    from reports.store import Explanations

    assert isinstance(explanations, Explanations)
    keys = {"image_id": row.image_id, "beam_size": row.beam_size}
    rows = [
        keys
        | {"word_index": t, "method": name, "word": word, "word_class": "content"}
        | dict(zip(_MEASURES, rng.random(len(_MEASURES)).tolist(), strict=True))
        for name, *_ in _METHODS
        for t, word in enumerate(row.words)
    ]
    maps = {
        map_key(row.image_id, row.beam_size, name): rng.random((len(row.words), 14, 14)).astype(np.float16)
        for name, *_ in _METHODS
    }
    explanations.append(rows, maps)


def _record(scores: pd.DataFrame) -> RunRecord:
    metrics = tuple(
        MetricRow(name, beam, value, "0 to 1", True, value * 0.98, value * 1.02, IMAGES, None)
        for beam in BEAMS
        for name in ("BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
        for value in [float(scores.loc[scores["beam_size"] == beam, name].mean())]
    )
    methods = tuple(MethodInfo(name, label, kind, False, False, "noise") for name, label, kind in _METHODS)  # type: ignore[arg-type]
    return RunRecord(
        SCHEMA_VERSION, "large", "finished", "gazebench eval", "2026-01-01T00:00:00Z", {"seed": 0},
        Provenance({}, None, "cpu", 1, "", None, {}),
        ModelInfo("noise", "noise", (14, 14), 224, 0, 512, {}, None),
        DataInfo("noise", "test", IMAGES, (5, 5), "given", (), (), False), ImageCounts(IMAGES, IMAGES, 0), (), "",
        metrics, ExplanationInfo(BEAMS[-1], EXPLAINED, 11 * EXPLAINED, "mean", None, methods), (),
    )  # fmt: skip
