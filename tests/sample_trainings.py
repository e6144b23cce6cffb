"""Training directories like those that training leaves, without training."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np

from reports.records import SCHEMA_VERSION, Failure, GitState, Provenance
from reports.training import (
    RECORD,
    STEPS,
    EpochRow,
    StepRow,
    TrainedModel,
    TrainingData,
    TrainingRecord,
    TrainingStore,
)

STAGES = (
    {"name": "decoder", "objective": "likelihood", "epochs": 12, "learning_rate": 4e-4, "trained_from": None,
     "penalty": {"weight": 1.0, "over": "mean"}, "patience": 20},
    {"name": "encoder, too", "objective": "likelihood", "epochs": 6, "learning_rate": 1e-4,
     "encoder_learning_rate": 1e-5, "trained_from": 5, "penalty": {"weight": 1.0, "over": "mean"}, "patience": 20},
    {"name": "self-critical", "objective": "self-critical", "epochs": 5, "learning_rate": 5e-5,
     "trained_from": None, "samples": 5, "patience": None},
)  # fmt: skip


def make_training(
    folder: Path, *, epochs: int | None = None, steps_per_epoch: int = 90, stages=STAGES, seed: int = 0
) -> TrainingStore:
    """Writes a training of these stages, cut after so many epochs; all that follows from the seed."""
    rng, store = np.random.default_rng(seed), TrainingStore(folder)
    steps: list[StepRow] = []
    rows: list[EpochRow] = []
    for stage in stages:
        is_critical = stage["objective"] == "self-critical"
        for epoch in range(1, stage["epochs"] + 1):
            if epochs is not None and len(rows) >= epochs:
                break
            for number in range(steps_per_epoch):
                step, done = (epoch - 1) * steps_per_epoch + number + 1, len(steps) / steps_per_epoch
                loss = 2.0 + 3.2 * math.exp(-done / 3) - 0.02 * done + rng.normal(0, 0.12)
                reward = 0.8 + 0.05 * (epoch + number / steps_per_epoch) + rng.normal(0, 0.05)
                steps.append(StepRow(
                    stage["name"], epoch, step, 1.1 + rng.normal(0, 0.05) if is_critical else loss,
                    0.0 if is_critical else 0.4, reward if is_critical else None,
                    stage["learning_rate"] * 0.8 ** (epoch // 8),
                    float((1 + 3 / (1 + done)) * rng.lognormal(0.6, 0.4)), 640,
                ))  # fmt: skip
            rows.append(_epoch(rows, steps[-steps_per_epoch:], rng, is_critical=is_critical))
    folder.mkdir(parents=True, exist_ok=True)
    write_steps(folder, steps)
    store.write_training(_record(tuple(rows), stages))
    return store


def write_steps(folder: Path, rows: list[StepRow]) -> None:
    with (folder / STEPS).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([StepRow._fields, *rows])


def change(store: TrainingStore, **fields: object) -> None:
    """Replaces fields of training.json."""
    store.write_training(dataclasses.replace(store.read_training(), **fields))


def _epoch(
    before: list[EpochRow], steps: list[StepRow], rng: np.random.Generator, *, is_critical: bool
) -> EpochRow:
    done = len(before) + 1
    cider = 0.95 * (1 - math.exp(-done / 4)) + (0.08 if is_critical else 0) + rng.normal(0, 0.008)
    bleu = 0.3 * (1 - math.exp(-done / 3)) + rng.normal(0, 0.003)
    return EpochRow(
        steps[-1].stage, steps[-1].epoch, steps[-1].step, float(np.mean([row.loss for row in steps])),
        steps[-1].penalty, float(np.mean([row.reward for row in steps])) if is_critical else None,
        2.35 + 2.4 * math.exp(-done / 3) + 0.006 * done, cider, bleu, 0.75 * bleu + 0.01, 1014,
        steps[-1].learning_rate, 5210.0 + done, all(cider > (row.val_cider or 0) for row in before),
    )  # fmt: skip


def _record(epochs: tuple[EpochRow, ...], stages: tuple) -> TrainingRecord:
    best = max((place for place, row in enumerate(epochs) if row.is_best), default=None)
    config = {
        "source": "a-PyTorch-Tutorial-to-Image-Captioning", "encoder": "resnet101", "grid": 14,
        "preprocessing": {"size": 256, "mean": [0.485, 0.456, 0.406]},
        "decoder": {"embedding_dim": 512, "hidden_dim": 512, "attention_dim": 512, "dropout": 0.5},
        "encoder_weights": "IMAGENET1K_V1", "embeddings": None, "min_count": 5, "max_words": 50,
        "selection": "CIDEr", "validation_beam": 3, "seed": 0,
        "stages": list(stages),
    }  # fmt: skip
    return TrainingRecord(
        SCHEMA_VERSION, "tutorial-coco", "finished",
        "gazebench train --preset tutorial-coco --data coco --images pictures --out tutorial-coco",
        "2026-01-02T03:04:05Z", "tutorial-coco",
        "sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning (cc9c7e2), train.py: ResNet-101 at 256 pixels, its 8 x 8 map "
        "pooled up to 14 x 14, Adam 4e-4. Otherwise: weights are chosen by the score of searched captions.",
        config,
        Provenance(
            {"gazebench": "0.1.0", "torch": "2.15.0"}, GitState("c0ffee" * 6 + "c0ff", False), "cpu", 2,
            "Linux x86_64", None, {"data": "ef" * 32, "encoder weights": "ab" * 32},
        ),
        TrainingData(
            "coco", 28_998, 1014,
            (Failure("1000092795.jpg", "'1000092795.jpg' can't be read as a picture: /home/ann/1000092795.jpg"),
             Failure("36979.jpg", "it is empty")), 144_990,
        ),
        TrainedModel(56_231_402, 13_731_114, 9490, "resnet101", "IMAGENET1K_V1 of torchvision"),
        epochs, best, (),
    )  # fmt: skip


__all__ = ["RECORD", "STAGES", "change", "make_training", "write_steps"]
