"""A few drawn scenes and recipes small enough for a test."""

import dataclasses

from bench.data.base import CaptionData
from bench.data.scenes import SceneTruth, make_scene
from bench.training.presets import PRESETS
from bench.training.train import train


def few_scenes(train_images=48, val_images=8):
    images = [make_scene("train", i) for i in range(train_images)]
    images += [make_scene("val", i) for i in range(val_images)]
    return CaptionData("few scenes", tuple(images), split_origin="given", ground_truth=SceneTruth())


def staged(*changes, preset="scenes", **config):
    """A recipe whose stages are those of a preset with changes; small enough for a test."""
    first = dataclasses.replace(PRESETS[preset].stages[0], epochs=2, batch_size=16, part_size=8)
    stages = tuple(dataclasses.replace(first, **change) for change in changes or ({},))
    return dataclasses.replace(PRESETS[preset], stages=stages, **config)


def trained_on(data, config, out, **options):
    return train(config, data, out, preset="scenes", command="gazebench train", **options)
