"""Recipes: what each promises, that all of it is shown, and what a recipe can't be."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from bench.errors import ConfigError
from bench.training.presets import PRESETS, HardAttention, Stage, changed
from bench.training.recipe import AttentionPenalty, TrainingConfig
from bench.training.showing import complete, meanings, show
from bench.training.train import build_captioner
from models.decoder import DecoderConfig
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary


def test_recipes_are_read_without_torch():
    code = "import sys; from bench.training.presets import PRESETS; assert PRESETS; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("name", PRESETS)
def test_every_recipe_builds_a_captioner_and_is_plain_json(name):
    config = PRESETS[name]
    with torch.device("meta"):
        captioner = build_captioner(config, Vocabulary.from_captions([["a", "dog"]]))
    assert captioner.encoder_config.name == config.encoder
    assert captioner.preprocessing.size == config.preprocessing["size"]
    assert json.loads(json.dumps(config.plain(), allow_nan=False)) == config.plain()
    assert config.source


@pytest.mark.parametrize("name", PRESETS)
def test_every_hyper_parameter_is_shown_with_its_value_and_its_meaning(name):
    config = changed(PRESETS[name], self_critical=2)
    text = show(config, name)
    lines = [line.split(" = ", 1)[0].strip() for line in text.splitlines() if " = " in line]
    for kind in (TrainingConfig, Preprocessing, DecoderConfig, Stage):
        told = meanings(kind)
        for field in dataclasses.fields(kind):
            assert told[field.name], f"{kind.__name__}.{field.name} has no line that says what it means"
            if field.name in (
                "source",
                "stages",
                "preprocessing",
                "decoder",
                "vocabulary_size",
                "annotation_dim",
            ):
                continue
            inner = [f"{field.name}.weight", f"{field.name}.reinforce"]  # a part with fields of its own
            assert field.name in lines or any(each in lines for each in inner), field.name
    assert max(map(len, text.splitlines())) <= 110
    assert " ".join(config.source.split()) in " ".join(text.split())


def test_what_is_shown_are_the_values_that_are_used():
    config = PRESETS["tutorial-flickr30k"]
    whole = complete(config)
    captioner_fields = {"initial_layers": 1, "output": "plain", "gate": "vector", "hidden_dim": 512}
    assert captioner_fields.items() <= whole["decoder"].items()
    assert whole["preprocessing"]["fit"] == "squash"
    assert "  batch_size = 64 " in show(config, "tutorial-flickr30k")
    assert "  penalty.over = mean " in show(config, "tutorial-flickr30k")


def test_the_tutorial_is_trained_in_its_readmes_two_stages():
    first, second = PRESETS["tutorial-coco"].stages
    assert (first.trained_from, first.learning_rate, first.batch_size) == (None, 4e-4, 80)
    assert (second.trained_from, second.encoder_learning_rate, second.batch_size) == (5, 1e-4, 32)
    assert first.clip_value == second.clip_value == 5.0
    assert first.frozen_statistics
    assert second.frozen_statistics
    assert first.penalty == AttentionPenalty(1.0, "mean")


def test_hard_attention_differs_from_soft_by_its_objective_alone():
    soft, hard = PRESETS["paper-soft"], PRESETS["paper-hard"]
    (stage,) = hard.stages
    assert stage.hard == HardAttention(reinforce=0.1, entropy=0.002, soft_share=0.5, momentum=0.9)
    stages = (dataclasses.replace(stage, objective="likelihood", hard=None),)
    assert dataclasses.replace(hard, stages=stages, source=soft.source) == soft


def test_what_a_user_changes_is_changed_in_every_stage():
    config = changed(
        PRESETS["tutorial-coco"], seed=3, epochs=2, batch_size=8, precision="bfloat16", encoder_weights="none"
    )
    assert config.seed == 3
    assert config.encoder_weights is None
    assert [(s.epochs, s.batch_size, s.precision) for s in config.stages] == [(2, 8, "bfloat16")] * 2
    assert changed(PRESETS["tutorial-coco"]) == PRESETS["tutorial-coco"]


def test_self_critical_training_is_a_stage_of_its_own_with_the_encoder_at_rest():
    config = changed(PRESETS["photos-small"], epochs=3, self_critical=4)
    first, last = config.stages
    assert (first.epochs, last.epochs) == (3, 4)
    assert (last.objective, last.samples, last.learning_rate) == ("self-critical", 5, 5e-5)
    assert last.trained_from is None
    assert last.shift == 0
    assert last.penalty is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "--epochs is 0; expected at least 1"),
        ({"batch_size": -1}, "--batch-size is -1; expected at least 1"),
        ({"precision": "float16"}, "--precision is 'float16'; expected float32 or bfloat16"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected a number above 0"),
        ({"samples": 1}, "samples is 1; expected at least 2"),
        ({"objective": "hard attention"}, "settings of hard attention belong to that objective"),
        ({"hard": HardAttention()}, "settings of hard attention belong to that objective"),
        ({"flip": True}, "expected no shift or flip"),
    ],
)
def test_a_stage_that_can_not_be_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Stage(**{"name": "s", "epochs": 1, "learning_rate": 1e-3} | wrong)


def test_stages_are_told_apart_by_their_names():
    stage = PRESETS["scenes"].stages[0]
    with pytest.raises(ConfigError, match="each with a name of its own"):
        dataclasses.replace(PRESETS["scenes"], stages=(stage, stage))


def test_folders_of_files_stay_private(tmp_path):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"")
    config = changed(PRESETS["photos-small"], encoder_weights=str(weights), embeddings=tmp_path / "glove.txt")
    assert str(tmp_path) not in json.dumps(config.plain())
    assert str(tmp_path) not in show(config, "photos-small")
