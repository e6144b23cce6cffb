"""Training as a whole: it learns, it trains what the recipe says and nothing else, and it says what it did."""

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_trainings import few_scenes, staged, trained_on
from torch import nn

from bench.data.base import CaptionData, CaptionedImage
from bench.data.scenes import make_scene
from bench.distributed import World
from bench.errors import ConfigError, DataError
from bench.training.examples import read_examples
from bench.training.presets import PRESETS
from bench.training.recipe import HardAttention, Stage, TrainingConfig
from bench.training.schedule import one_cycle, plateau
from bench.training.steps import Steps
from bench.training.train import build_captioner, train
from bench.training.validation import Validator
from models.formats import load_checkpoint
from models.formats.native import save_native
from models.vocabulary import Vocabulary, split_words
from reports.training import TrainingStore

ALONE = World(0, 1, 0)


def rested(**changes):
    """A stage whose encoder rests."""
    return {"name": "rested", "trained_from": None, "frozen_statistics": True, **changes}


def tensors(path):
    return load_file(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("training") / "run"
    trained_on(few_scenes(), staged(), out)
    return out


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_loss_falls_and_everything_is_written_down(trained):
    record = TrainingStore(trained).read_training()
    assert record.status == "finished"
    assert [(row.epoch, row.step) for row in record.epochs] == [(1, 3), (2, 6)]
    assert record.epochs[1].loss < record.epochs[0].loss
    assert record.config["seed"] == 0
    assert record.data.train_images == 48
    assert record.model.weights == "random"
    steps = rows(trained / "steps.csv")
    assert [int(row["step"]) for row in steps] == [1, 2, 3, 4, 5, 6]
    words = sum(int(row["words"]) for row in steps[:3])
    summed = math.fsum(float(row["loss"]) * int(row["words"]) for row in steps[:3])
    assert record.epochs[0].loss == pytest.approx(summed / words)
    assert "<!doctype html" in (trained / "training.html").read_text()[:100].lower()


def test_a_checkpoint_says_how_it_was_trained(trained):
    training = load_checkpoint(trained / "best.safetensors").training
    assert training["preset"] == "scenes"
    assert training["data"] == "few scenes"
    assert training["trunk_weights"] == "random"
    assert training["history"][0]["val_cider"] is not None
    assert str(trained) not in json.dumps(training)


def test_the_last_checkpoint_can_be_loaded_like_any_other_and_passes_over_the_optimizer(trained):
    last = load_checkpoint(trained / "last.safetensors")
    stored = tensors(trained / "last.safetensors")
    assert any(name.startswith("state.exp_avg.") for name in stored)
    for name, tensor in last.captioner.state_dict().items():
        assert torch.equal(tensor, stored[name])


def test_the_best_weights_are_those_of_the_epoch_with_the_best_score_of_beam_search(trained):
    record = TrainingStore(trained).read_training()
    ciders = [row.val_cider for row in record.epochs]
    assert record.best == ciders.index(max(ciders))
    captioner = load_checkpoint(trained / "best.safetensors").captioner
    data = few_scenes()
    val = read_examples(
        data.select("val"), captioner, frozen=False, cache=trained / "cache", world=ALONE, label="reading"
    )
    with Validator(beam_size=1, world=ALONE) as validator:
        again = validator(captioner, val, "again")
    assert again.cider == pytest.approx(max(ciders), abs=1e-9)
    assert again.loss == pytest.approx(record.epochs[record.best].val_loss, rel=1e-6)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(trained, tmp_path):
    again = trained_on(few_scenes(), staged(), tmp_path / "again")
    other = trained_on(few_scenes(), staged(seed=1), tmp_path / "other")
    first, second, third = (tensors(path) for path in (trained / "best.safetensors", again, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    name = "decoder.output.weight"
    assert first[name].shape != third[name].shape or not torch.equal(first[name], third[name])


def test_a_finished_training_is_left_alone_and_another_one_is_refused_by_name(trained, capsys):
    before = (trained / "last.safetensors").read_bytes()
    trained_on(few_scenes(), staged(), trained)
    assert "nothing is left to do" in capsys.readouterr().err
    assert (trained / "last.safetensors").read_bytes() == before
    with pytest.raises(ConfigError, match="holds another training: seed differs"):
        trained_on(few_scenes(), staged(seed=5), trained)
    with pytest.raises(ConfigError, match="SHA-256 of data differs"):
        trained_on(few_scenes(40), staged(), trained)
    assert (trained / "last.safetensors").read_bytes() == before


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match="is not a training directory"):
        trained_on(few_scenes(), staged(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_stage_begins_with_the_best_weights_of_the_one_before_and_a_resting_encoder_does_not_move(tmp_path):
    # A rate that ruins the weights in the second epoch, so that the best ones are not the last ones.
    ruinous = {"epochs": 2, "schedule": "constant", "learning_rate": 2e-3}
    out = tmp_path / "run"
    config = staged(ruinous, rested(epochs=1, schedule="constant", learning_rate=1e-12))
    trained_on(few_scenes(), config, out)
    record = TrainingStore(out).read_training()
    assert [row.stage for row in record.epochs] == ["training", "training", "rested"]
    best_of_first = max(row.val_cider for row in record.epochs[:2])
    # A rate of 1e-12 changes nothing, so the second stage shows the score of the weights that it began with.
    assert record.epochs[2].val_cider == pytest.approx(best_of_first, abs=1e-6)
    best, last = tensors(out / "best.safetensors"), tensors(out / "last.safetensors")
    encoder = [name for name in best if name.startswith("encoder.")]
    assert all(torch.equal(best[name], last[name]) for name in encoder)


def test_training_stops_when_nothing_has_become_better_for_as_long_as_the_recipe_says(tmp_path):
    config = staged({"epochs": 9, "patience": 2, "learning_rate": 1e-12, "schedule": "constant"})
    trained_on(few_scenes(16, 4), config, tmp_path / "run")
    record = TrainingStore(tmp_path / "run").read_training()
    assert len(record.epochs) == 3  # the first is the best; two that are no better follow
    assert record.best == 0


def test_max_steps_ends_every_stage_with_a_validation(tmp_path):
    config = staged({"epochs": 3}, rested(epochs=3))
    trained_on(few_scenes(), config, tmp_path / "run", max_steps=4)
    record = TrainingStore(tmp_path / "run").read_training()
    assert [(row.stage, row.step) for row in record.epochs] == [
        ("training", 3), ("training", 4), ("rested", 3), ("rested", 4),
    ]  # fmt: skip


def test_training_goes_on_from_a_checkpoint_with_its_words(trained, tmp_path):
    config = staged(rested(epochs=1, learning_rate=1e-12, schedule="constant"))
    start = trained / "best.safetensors"
    best = trained_on(few_scenes(32, 8), config, tmp_path / "run", start=start)
    assert load_checkpoint(best).captioner.vocabulary == load_checkpoint(start).captioner.vocabulary
    name = "decoder.lstm.weight_hh"
    torch.testing.assert_close(tensors(best)[name], tensors(start)[name], atol=1e-6, rtol=0)
    assert TrainingStore(tmp_path / "run").read_training().model.weights == "the checkpoint best.safetensors"


def test_with_one_validation_image_a_start_is_judged_by_the_loss_and_that_is_what_is_said(
    trained, tmp_path, capsys
):
    config = staged(rested(epochs=1, learning_rate=1e-30, schedule="constant"))
    trained_on(few_scenes(16, 1), config, tmp_path / "run", start=trained / "best.safetensors")
    told = capsys.readouterr().err
    assert re.search(
        r"before the first step: validation loss of \d\.\d{3} nats per word over 1 image\n", told
    )
    assert "no epoch surpassed the validation loss of " in told


def test_a_start_brings_its_layers_and_its_view_and_the_record_says_them(trained, tmp_path):
    config = staged(rested(epochs=1), decoder={"hidden_dim": 999, "gate": "none"}, grid=2)
    best = trained_on(few_scenes(16, 4), config, tmp_path / "run", start=trained / "best.safetensors")
    recorded, captioner = (
        TrainingStore(tmp_path / "run").read_training().config,
        load_checkpoint(best).captioner,
    )
    assert recorded["decoder"]["hidden_dim"] == captioner.decoder.config.hidden_dim == 128
    assert recorded["decoder"]["gate"] == captioner.decoder.config.gate == "scalar"
    assert recorded["grid"] == captioner.encoder_config.grid == 14
    assert recorded["preprocessing"]["size"] == 112


def test_pictures_that_are_not_there_are_said_and_stand_in_the_record(tmp_path, capsys):
    data = dataclasses.replace(few_scenes(16, 4), missing=("gone.jpg", "lost.jpg"), warnings=("odd file",))
    trained_on(data, staged({"epochs": 1}), tmp_path / "run")
    told, record = capsys.readouterr().err, TrainingStore(tmp_path / "run").read_training()
    sentence = "2 of the 22 pictures that few scenes names are not there, 'gone.jpg' for one"
    for each in (sentence, "odd file"):
        assert f"WARNING: {each}" in told
        assert any(each in warning for warning in record.warnings)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_torch_can_not_take_is_refused(seed):
    with pytest.raises(ConfigError, match=rf"--seed is {seed}; expected"):
        staged(seed=seed)


def test_unreadable_pictures_are_left_out_said_and_listed(tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    broken = CaptionedImage("broken.jpg", ("a red circle",), "train", tmp_path / "broken.jpg")
    data = few_scenes(16, 4)
    data = dataclasses.replace(data, images=(broken, *data.images))
    trained_on(data, staged({"epochs": 1}), tmp_path / "run")
    assert "left out: broken.jpg: 'broken.jpg' is not a picture" in capsys.readouterr().err
    record = TrainingStore(tmp_path / "run").read_training()
    assert [failure.image_id for failure in record.data.left_out] == ["broken.jpg"]
    assert record.data.train_images == 17


def test_nothing_to_train_on_is_an_error_and_a_training_that_failed_says_so(tmp_path):
    missing = tmp_path / "none.jpg"
    images = tuple(CaptionedImage(f"{split}.jpg", ("a",), split, missing) for split in ("train", "val"))
    with pytest.raises(DataError, match="nothing to train on"):
        trained_on(CaptionData("d", images, "given"), staged(), tmp_path / "run")
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert TrainingStore(tmp_path / "run").read_training().status == "failed"


def test_training_that_diverges_says_so(tmp_path):
    config = staged({"learning_rate": 1e18, "schedule": "constant", "clip_norm": None})
    with pytest.raises(ConfigError, match=r"training diverged in (step|epoch) \d+ of stage 'training'"):
        trained_on(few_scenes(32, 4), config, tmp_path / "run")
    assert TrainingStore(tmp_path / "run").read_training().status == "failed"


def test_hard_attention_trains_and_carries_its_baseline(tmp_path):
    config = staged({"objective": "hard attention", "hard": HardAttention(), "epochs": 1})
    trained_on(few_scenes(32, 4), config, tmp_path / "run")
    row = TrainingStore(tmp_path / "run").read_training().epochs[0]
    assert row.reward < 0  # mean log-likelihood of a caption, in nats
    steps = rows(tmp_path / "run" / "steps.csv")
    assert all(float(step["reward"]) < 0 for step in steps)


def test_mixed_precision_keeps_weights_in_float32_and_learns(tmp_path):
    trained_on(few_scenes(), staged({"precision": "bfloat16"}), tmp_path / "run")
    record = TrainingStore(tmp_path / "run").read_training()
    assert record.epochs[1].loss < record.epochs[0].loss
    assert {
        t.dtype for t in tensors(tmp_path / "run" / "best.safetensors").values() if t.is_floating_point()
    } == {torch.float32}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Pictures with a ResNet-18 that looks at them."""
    folder = tmp_path_factory.mktemp("photographs")
    images = []
    for number in range(12):
        scene = make_scene("train", number)
        path = folder / f"{number}.png"
        scene.picture().save(path)
        images.append(CaptionedImage(path.name, scene.references, "val" if number < 2 else "train", path))
    return CaptionData("photographs", tuple(images), "given")


def resnet(stage):
    preset = PRESETS["photos-small"]
    small = dataclasses.replace(stage, batch_size=5, part_size=5, epochs=1)
    return dataclasses.replace(
        preset, preprocessing={"size": 64}, grid=2, min_count=1, stages=(small,), validation_beam=1
    )


def test_fine_tuning_trains_the_children_it_names_and_frozen_batch_normalisation_keeps_its_statistics(
    photographs, tmp_path
):
    stage = Stage(
        name="fine-tuning", epochs=1, learning_rate=1e-3, encoder_learning_rate=1e-3, trained_from=5
    )
    config = resnet(stage)
    torch.manual_seed(config.seed)
    vocabulary = Vocabulary.from_captions(
        (split_words(r) for image in photographs.select("train") for r in image.references), min_count=1
    )
    before = build_captioner(config, vocabulary).state_dict()
    train(config, photographs, tmp_path / "run", preset="photos-small", command="")
    after = tensors(tmp_path / "run" / "last.safetensors")
    trunk = [name for name in before if name.startswith("encoder.trunk.")]
    child = {name: int(name.split(".")[2]) for name in trunk}
    is_statistic = {name: "running" in name or "num_batches" in name for name in trunk}
    for name in trunk:
        changed = not torch.equal(before[name], after[name])
        assert changed == (child[name] >= 5 and not is_statistic[name]), name


def test_batch_normalisation_that_learns_does_learn(photographs, tmp_path):
    train(resnet(PRESETS["photos-small"].stages[0]), photographs, tmp_path / "run", preset="p", command="")
    after = tensors(tmp_path / "run" / "last.safetensors")
    assert int(after["encoder.trunk.1.num_batches_tracked"]) == 2  # two steps of five images
    assert not torch.equal(after["encoder.trunk.1.running_mean"], torch.zeros(64))


def steps_of(config, tmp_path, part_size):
    data = few_scenes(16, 2)
    stage = dataclasses.replace(config.stages[0], part_size=part_size)
    torch.manual_seed(0)
    vocabulary = Vocabulary.from_captions(split_words(r) for i in data.images for r in i.references)
    captioner = build_captioner(config, vocabulary)
    examples = read_examples(
        data.select("train"), captioner, frozen=False, cache=tmp_path, world=ALONE, label="reading"
    )
    return Steps(stage, 0, captioner, examples, None, steps=4, seed=0, world=ALONE)


def test_a_step_in_parts_is_the_sum_of_its_parts(tmp_path):
    """Batch normalisation at rest and no dropout: then a part does not depend on the others at all."""
    config = staged({"frozen_statistics": True, "captions_per_image": 5, "clip_norm": None})
    found = {}
    for part_size in (16, 4):
        steps = steps_of(config, tmp_path, part_size)
        steps.ready()
        result = steps.step(0, scores=[], baseline=0.0)
        gradient = nn.utils.parameters_to_vector(
            p.grad for p in steps.captioner.parameters() if p.grad is not None
        )
        found[part_size] = result, gradient
    (whole, gradient), (parts, summed) = found[16], found[4]
    assert whole.words == parts.words  # all five captions of every image, in any order
    assert parts.nats == pytest.approx(whole.nats, rel=1e-5)
    torch.testing.assert_close(summed, gradient, atol=2e-6, rtol=1e-3)


def test_memory_that_is_too_short_makes_the_parts_smaller_and_says_so(tmp_path, capsys):
    steps = steps_of(staged(), tmp_path, 16)
    steps.ready()

    def too_much(_, inputs):
        if len(inputs[0]) > 4:
            torch.empty(2**46)  # 256 TB: the real allocator refuses

    steps.captioner.encoder.register_forward_pre_hook(too_much)
    result = steps.step(0, scores=[], baseline=0.0)
    assert steps.part_size == 4
    assert result.words > 0
    said = capsys.readouterr().err
    assert "in parts of 8 images" in said
    assert "in parts of 4 images" in said


def test_memory_that_is_too_short_for_one_image_is_an_error_with_a_cure(tmp_path):
    steps = steps_of(staged(), tmp_path, 2)
    steps.ready()
    steps.captioner.encoder.register_forward_pre_hook(lambda *_: torch.empty(2**46))
    with pytest.raises(ConfigError, match="out of memory with 1 image"):
        steps.step(0, scores=[], baseline=0.0)


def test_what_was_validated_before_a_kill_is_not_decoded_again(trained, tmp_path, monkeypatch):
    captioner = load_checkpoint(trained / "best.safetensors").captioner
    examples = read_examples(
        [make_scene("val", number) for number in range(7)],
        captioner,
        frozen=False,
        cache=tmp_path / "cache",
        world=World(0, 1, 0),
        label="reading",
    )
    monkeypatch.setattr("bench.training.validation._BLOCK", 2)
    looked = []
    look = Validator._look
    monkeypatch.setattr(
        Validator, "_look", lambda self, *given: looked.append(given[2]) or look(self, *given)
    )
    with Validator(beam_size=1, world=World(0, 1, 0), folder=tmp_path) as validator:
        found = validator(captioner, examples, "validation 1")
        assert [*map(list, looked)] == [[0, 1], [2, 3], [4, 5], [6]]
        assert validator(captioner, examples, "validation 1") == found
        assert len(looked) == 4
        (kept,) = tmp_path.glob("validation.*")
        kept.write_bytes(kept.read_bytes()[:-30])  # torn in the last block
        (tmp_path / "validation.1.jsonl").write_bytes(b'\n["validation 1", 0, ')  # of another process
        assert validator(captioner, examples, "validation 1") == found
        assert [*map(list, looked[4:])] == [[6]]
        validator(captioner, examples, "validation 2")
        assert len(looked) == 9, "other weights say something else"
        validator.forget()
    assert not list(tmp_path.glob("validation.*"))


def test_teacher_forced_bleu_is_not_what_beam_search_scores(trained):
    """Planted: a model that says the right word only where the right words came before it."""
    record = TrainingStore(trained).read_training()
    for row in record.epochs:
        assert row.val_bleu4_teacher_forced != row.val_bleu4


@pytest.mark.parametrize("steps", [8, 40, 333])
def test_the_one_cycle_schedule_is_torchs(steps):
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.2)
    for step in range(steps):
        rate, group = one_cycle(step, steps), optimizer.param_groups[0]
        assert 3e-3 * rate.factor == pytest.approx(group["lr"], rel=1e-12)
        assert rate.momentum == pytest.approx(group["betas"][0], rel=1e-12)
        optimizer.step()
        if step < steps - 1:
            schedule.step()


def test_the_plateau_is_the_tutorials():
    def literal(scores):
        """sgrvinod's train.py in words: count epochs since the last improvement; at 8, 16, … lower the rate."""
        best, since, rate = 0.0, 0, 1.0
        for score in scores:
            since = 0 if score > best else since + 1
            best = max(best, score)
            if since > 0 and since % 8 == 0:
                rate *= 0.8
        return rate

    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        scores = torch.rand(40, generator=generator).tolist()
        for length in range(41):
            assert plateau(scores[:length]).factor == pytest.approx(literal(scores[:length]))


def test_every_recipe_can_be_built_without_weights():
    words = Vocabulary.from_captions([["a", "b"]])
    for name, config in PRESETS.items():
        assert isinstance(config, TrainingConfig)
        with torch.device("meta"):
            captioner = build_captioner(config, words)
        assert captioner.grid == (config.grid, config.grid), name


def test_weights_begin_as_in_the_programs_that_the_recipes_are_from():
    vocabulary = Vocabulary.from_captions([["a", "red", "dog"]] * 9)
    built = {}
    for name in ("tutorial-flickr30k", "paper-soft"):
        sizes = {"embedding_dim": 48, "hidden_dim": 64, "attention_dim": 48}
        config = dataclasses.replace(PRESETS[name], encoder="resnet18", decoder=PRESETS[name].decoder | sizes)
        torch.manual_seed(0)
        built[name] = dict(build_captioner(config, vocabulary).decoder.named_parameters())
    tutorial, paper = built["tutorial-flickr30k"], built["paper-soft"]
    for name in ("embedding.weight", "output.weight"):
        assert 0.09 < tutorial[name].abs().max() <= 0.1
    assert not tutorial["output.bias"].any()
    assert tutorial["lstm.bias_hh"].any()
    assert all(not values.any() for values in paper.values() if values.dim() == 1)
    for name in (
        "embedding.weight",
        "annotation_projection.weight",
        "output_context.weight",
        "lstm.weight_ih",
    ):
        assert paper[name].std().item() == pytest.approx(0.01, rel=0.15), name
    square = [
        *paper["lstm.weight_hh"].chunk(4),
        paper["attention_layers.0.weight"],
        paper["initial_layers.0.weight"],
    ]
    for matrix in square:
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-4, rtol=0)


def test_no_training_word_is_lost_between_the_captions_and_the_loss(tmp_path):
    """Every word and every `<end>` of the drawn captions counts once; padding never does."""
    steps = steps_of(staged({"captions_per_image": 5}), tmp_path, 8)
    steps.ready()
    result = steps.step(0, scores=[], baseline=0.0)
    captions = [row for image in steps.examples.captions for row in image]
    assert result.words == sum(map(len, captions))
    assert result.captions == len(captions)


def test_nothing_of_a_training_directory_tells_where_it_lies(trained):
    for name in ("training.json", "training.html", "steps.csv", "epochs.csv"):
        assert str(Path(trained).parent) not in (trained / name).read_text()


def test_a_gradient_that_is_no_number_changes_no_weight(tmp_path):
    steps = steps_of(staged(), tmp_path, 16)
    steps.ready()
    before = [p.detach().clone() for p in steps.captioner.parameters()]
    steps.captioner.decoder.output.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(ConfigError, match="training diverged in step 1"):
        steps.step(0, scores=[], baseline=0.0)
    for parameter, old in zip(steps.captioner.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_a_part_that_failed_leaves_the_statistics_of_batch_normalisation_as_they_were(tmp_path):
    steps = steps_of(staged(), tmp_path, 8)
    steps.ready()
    before = {name: tensor.clone() for name, tensor in steps.captioner.state_dict().items()}
    calls = []

    def fail_in_the_second(*_):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    steps.captioner.decoder.embedding.register_forward_hook(fail_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        steps.step(0, scores=[], baseline=0.0)
    after = steps.captioner.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_checkpoint_without_a_token_for_unknown_words_is_no_start(trained, tmp_path):
    captioner = load_checkpoint(trained / "best.safetensors").captioner
    captioner.vocabulary = dataclasses.replace(captioner.vocabulary, unk=None)
    save_native(captioner, tmp_path / "deaf.safetensors", training={})
    config = staged(rested(epochs=1))
    with pytest.raises(ConfigError, match="has no token for unknown words"):
        trained_on(few_scenes(), config, tmp_path / "run", start=tmp_path / "deaf.safetensors")


def test_a_start_with_another_encoder_is_refused_where_a_part_of_it_is_to_be_trained(trained, tmp_path):
    config = dataclasses.replace(PRESETS["tutorial-coco"], encoder_weights=None)
    with pytest.raises(
        ConfigError, match="has the encoder scenes, and the recipe trains a part of resnet101"
    ):
        trained_on(few_scenes(), config, tmp_path / "run", start=trained / "best.safetensors")


def test_starting_over_that_fails_leaves_a_folder_that_can_be_started_over(tmp_path):
    out = tmp_path / "run"
    trained_on(few_scenes(16, 4), staged({"epochs": 1}), out)
    (tmp_path / "bad.txt").write_text("red one two\n")
    with pytest.raises(DataError, match="line 1"):
        trained_on(few_scenes(16, 4), staged(embeddings=tmp_path / "bad.txt"), out, fresh=True)
    trained_on(few_scenes(16, 4), staged({"epochs": 1}), out, fresh=True)
    assert TrainingStore(out).read_training().status == "finished"


def test_the_page_that_a_kill_left_unwritten_is_written_by_the_next_call(trained):
    (trained / "training.html").unlink()
    trained_on(few_scenes(), staged(), trained)
    assert (trained / "training.html").is_file()
