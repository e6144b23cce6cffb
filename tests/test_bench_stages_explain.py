"""What is kept of all images, what is measured of one, and what an explained run holds."""

import dataclasses
import gc
import operator
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bench.config import DEMO_CHECKPOINT, EvalConfig, ExplainConfig, SearchConfig
from bench.data.scenes import SceneTruth, make_scene
from bench.errors import ConfigError
from bench.scoring import Scorer
from bench.stages import observe as observing
from bench.stages.decode import decode
from bench.stages.explain import chosen_methods, explain
from bench.stages.intervene import intervene
from bench.stages.measures import measure
from bench.stages.observe import DONORS, Survey, image_seed, observe, survey
from bench.stages.workers import default_workers, share_out
from explain.interventions import ADVERSARIAL, INTERVENTIONS, OTHER_OBJECT
from explain.methods import METHODS
from models.beam import beam_search
from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig
from models.formats import load_checkpoint
from models.preprocessing import Preprocessing
from reports.records import AGREEMENT, LOCALISATION, NULLS, PATHS, TRIAL_DROPS, CaptionRow
from reports.store import RunStore

SEARCH = SearchConfig((2,))
BRIEFLY = ExplainConfig(methods=("grid_gradient",))


@pytest.fixture(scope="module")
def captioner():
    return load_checkpoint(DEMO_CHECKPOINT).captioner


@pytest.fixture(scope="module")
def decoded(captioner, tmp_path_factory):
    images = [make_scene("test", index) for index in range(5)]
    store = RunStore(tmp_path_factory.mktemp("run"))
    decode(captioner, images, store, beam_sizes=(2,), batch_size=3, begin=lambda: None)
    return images, {row.image_id: row for row in store.read_captions()}


@pytest.fixture(scope="module")
def seen(captioner, decoded):
    images, captions = decoded
    return [observe(captioner, image, captions[image.image_id], SceneTruth()) for image in images]


def surveyed(captioner, seen):
    whole = Survey(captioner)
    for each in seen:
        whole.add(each.image.image_id, each.classes, each.annotations, each.alphas)
    return whole


def run(captioner, decoded, folder, order=None, options=BRIEFLY, truth=SceneTruth()):  # noqa: B008 - it holds nothing
    images, captions = decoded
    store = RunStore(folder)
    chosen = [images[i] for i in order] if order else images
    info = explain(
        captioner, chosen, captions, store, ground_truth=truth, options=options, search=SEARCH, seed=0
    )
    return store, info


@pytest.fixture(scope="module")
def explained(captioner, decoded, tmp_path_factory):
    return run(captioner, decoded, tmp_path_factory.mktemp("explained"))


# ---- what all images say together -----------------------------------------------------------------------


def test_donors_are_words_of_the_same_class_in_other_images(captioner, seen):
    whole = surveyed(captioner, seen)
    for each in seen:
        own = {alpha.tobytes() for alpha in each.alphas}
        maps = whole.donors(each)
        assert maps.shape == (len(each.alphas), DONORS, 196)
        for word, name in enumerate(each.classes):
            elsewhere = {
                alpha.tobytes()
                for other in seen
                if other is not each
                for alpha, kind in zip(other.alphas, other.classes, strict=True)
                if kind == name
            }
            given = [m for m in maps[word] if np.isfinite(m).all()]
            assert len(given) == sum(name in other.classes for other in seen if other is not each)
            assert {m.tobytes() for m in given} <= elsewhere - own


def test_of_many_images_a_bounded_number_of_maps_is_kept_whatever_their_order(captioner, seen, monkeypatch):
    monkeypatch.setattr(observing, "KEPT", 3)
    found = []
    for order in (seen, seen[::-1]):
        whole = surveyed(captioner, order)
        assert all(len(kept) <= 3 for kept in whole._kept.values())
        found.append([whole.donors(each) for each in seen])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_one_image_alone_has_no_donors_and_no_class_mean(captioner, seen):
    whole = surveyed(captioner, seen[:1])
    for maps in (whole.donors(seen[0]), whole.donor(seen[0]), whole.class_means(seen[0])):
        assert np.isnan(maps).all()


def test_the_class_mean_is_of_all_other_images(captioner, seen):
    means = surveyed(captioner, seen).class_means(seen[2])
    for word, name in enumerate(seen[2].classes):
        alphas = [
            alpha
            for each in seen
            if each is not seen[2]
            for alpha, kind in zip(each.alphas, each.classes, strict=True)
            if kind == name
        ]
        np.testing.assert_allclose(means[word], np.mean(alphas, axis=0), atol=1e-12)


def test_the_annotation_baseline_is_the_mean_of_each_cell(captioner, seen):
    baseline, described = surveyed(captioner, seen).baseline()
    literal = sum(each.annotations.double() for each in seen) / len(seen)
    torch.testing.assert_close(baseline.double(), literal, atol=1e-6, rtol=0)
    assert "5 images" in described


def test_one_image_alone_starts_from_a_picture_of_the_mean_colour(captioner, seen):
    baseline, described = surveyed(captioner, seen[:1]).baseline()
    assert "mean colour" in described
    assert not torch.allclose(baseline, seen[0].annotations)


def test_where_few_images_are_explained_others_stand_for_the_data_set(captioner, decoded, seen):
    images, captions = decoded
    baseline, described = survey(captioner, images[:1], captions, SceneTruth(), others=images[1:]).baseline()
    literal = sum(each.annotations.double() for each in seen) / len(seen)
    torch.testing.assert_close(baseline.double(), literal, atol=1e-6, rtol=0)
    assert "5 images" in described


def test_attention_is_observed_as_it_was_when_the_caption_was_decoded(captioner, decoded, seen):
    images, captions = decoded
    for image, each in zip(images, seen, strict=True):
        annotations = captioner.encode(captioner.preprocessing(image.picture()).unsqueeze(0))
        ((hypothesis,),) = beam_search(captioner, annotations, 2)
        np.testing.assert_allclose(each.alphas, hypothesis.alphas[: len(each.alphas)], atol=1e-5)
    whole = survey(captioner, images, captions, SceneTruth())
    np.testing.assert_array_equal(whole.donors(seen[0]), surveyed(captioner, seen).donors(seen[0]))


def test_masks_are_what_the_model_sees_of_them(decoded, captioner):
    images, captions = decoded
    smaller = Captioner(
        EncoderConfig("scenes", 7), DecoderConfig(len(captioner.vocabulary), 80), captioner.vocabulary,
        Preprocessing(size=56),
    ).eval()  # fmt: skip
    row = captions[images[0].image_id]
    small, whole = (observe(model, images[0], row, SceneTruth()) for model in (smaller, captioner))
    for one, other in zip(small.places, whole.places, strict=True):
        assert (one is None) == (other is None)
        if one and other:
            assert one.mask.shape == (56, 56)
            assert one.mask.mean() == pytest.approx(other.mask.mean(), rel=0.1)


# ---- what is measured of one image ----------------------------------------------------------------------


def test_every_word_of_every_method_has_a_row_and_answers_only_where_they_have_a_place(explained):
    store, info = explained
    rows = store.read_attributions()
    counts = rows.groupby("method").size()
    methods = [method.name for method in info.methods]
    assert set(counts.index) == set(methods)
    placed = rows[rows["method"] == "attention"]["region"].notna().sum()
    for name in methods:
        is_answer = name not in METHODS
        assert counts[name] == (placed if is_answer else info.words), name


def test_every_family_of_measures_is_there(explained):
    rows = explained[0].read_attributions()
    gradient = rows[(rows["method"] == "grid_gradient") & (rows["word_class"] == "colour")]
    columns = [*LOCALISATION, *AGREEMENT, *(f"{name}_{null}" for name in AGREEMENT for null in NULLS)]
    columns += ["abpc_cells", "deletion_cells", "insertion_cells", "comprehensiveness_cells"]
    assert gradient[columns].notna().all(axis=None)
    attention = rows[(rows["method"] == "attention") & (rows["word_class"] == "colour")]
    assert attention[[*PATHS, *TRIAL_DROPS, "gate"]].notna().all(axis=None)
    assert attention["cosine"].isna().all()
    assert rows[rows["word_class"] == "function"][["mass", "abpc_cells"]].isna().all(axis=None)


def test_oracles_are_right_inverses_are_wrong_and_controls_know_nothing(explained):
    means = explained[0].read_attributions().groupby("method")[["mass", "auc", "lift"]].mean()
    assert means.loc["oracle", ["mass", "auc"]].tolist() == [1, 1]
    assert means.loc["inverse", ["mass", "auc"]].tolist() == [0, 0]
    assert means.loc["uniform", ["lift", "auc"]].tolist() == pytest.approx([1, 0.5])
    assert means.loc["other_object", "mass"] < means.loc["random", "mass"] < means.loc["attention", "mass"]


def test_every_method_is_checked_and_sound_ones_pass(explained):
    _, info = explained
    assert {gate.method for gate in info.gates} >= {"grid_gradient"}
    assert not [gate for gate in info.gates if gate.passed is False]


def test_sanity_tests_are_stored_image_by_image(explained, decoded):
    frame = explained[0].read_sanity()
    assert set(frame["image_id"]) == {image.image_id for image in decoded[0]}
    assert {"cascade", "independent", "random word", "entropy"} == set(frame["test"])
    assert frame[frame["cosine"].isna() & (frame["test"] == "random word")]["reason"].notna().all()


def test_the_order_of_images_changes_no_number(captioner, decoded, tmp_path):
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        store, _ = run(captioner, decoded, tmp_path / str(order), order)
        rows = store.read_attributions().sort_values(["image_id", "method", "word_index"])
        found.append(rows.reset_index(drop=True))
    pixels = [name for name in found[0] if str(name).endswith(("_blur", "_grey"))]
    pd.testing.assert_frame_equal(*(each.drop(columns=pixels) for each in found), atol=1e-6)


def test_false_words_have_no_place_and_say_so(captioner, decoded, tmp_path):
    images, captions = decoded
    row = captions[images[0].image_id]
    colours = [c for c in ("red", "yellow", "green", "blue", "purple", "black") if c not in row.words]
    words = tuple(
        colours[0] if SceneTruth().word_classes([word]) == ["colour"] else word for word in row.words
    )
    wrong: CaptionRow = dataclasses.replace(
        row, words=words, token_ids=tuple(captioner.vocabulary.encode(words))
    )
    store, _ = run(captioner, (images[:1], {row.image_id: wrong}), tmp_path)
    rows = store.read_attributions()
    lies = rows[rows["word_class"] == "colour"]
    assert lies["mass"].isna().all()
    assert (lies["reason"] == "no place is known for the word").all()


def test_data_without_places_have_no_answers_and_a_reason(captioner, decoded, tmp_path):
    store, info = run(captioner, (decoded[0][:2], decoded[1]), tmp_path, truth=None)
    assert "does not say where" in info.reason
    assert not {"oracle", "oracle_grid"} & {method.name for method in info.methods}
    rows = store.read_attributions()
    assert rows["mass"].isna().all()
    assert rows[rows["method"] == "grid_gradient"]["abpc_cells"].notna().any()


def test_nothing_of_an_image_is_kept_once_it_is_written(captioner, decoded, tmp_path, monkeypatch):
    """The numbers in all living tensors when an image is measured: four scenes, twice."""
    images, captions = decoded
    twice = [
        replace(image, image_id=f"{number} {image.image_id}") for number in range(2) for image in images[:4]
    ]
    said = {image.image_id: replace(captions[image.image_id[2:]], image_id=image.image_id) for image in twice}
    living = []

    def counted(*arguments):
        gc.collect()
        living.append(sum(each.numel() for each in gc.get_objects() if type(each) is torch.Tensor))
        return measure(*arguments)

    monkeypatch.setattr("bench.stages.explain.measure", counted)
    monkeypatch.setattr("bench.stages.workers.FEWEST_TASKS", 99)
    run(captioner, (twice, said), tmp_path)
    first, second = living[:4], living[4:]
    assert second == pytest.approx(first, rel=0.1)


# ---- choices and interventions --------------------------------------------------------------------------


def test_methods_are_chosen_by_name_or_group():
    names = [method.name for method in chosen_methods(ExplainConfig(methods=("grid_kernel_shap",)))]
    assert "grid_kernel_shap" in names
    assert "attention" in names
    assert "random" in names
    assert "grid_gradient" not in names
    groups = {method.group for method in chosen_methods(ExplainConfig(thorough=True))}
    assert groups == {"default", "thorough", "comparison"}
    assert "unsound" in {method.group for method in chosen_methods(ExplainConfig(unsound=True))}


def test_an_unknown_method_is_named_and_an_unsound_one_says_why():
    with pytest.raises(ConfigError, match=r"'magic'; expected some of .*grid_gradient"):
        chosen_methods(ExplainConfig(methods=("magic",)))
    with pytest.raises(ConfigError, match="pixel_lrp, which runs only with --unsound: "):
        chosen_methods(ExplainConfig(methods=("pixel_lrp",)))
    assert chosen_methods(ExplainConfig(methods=("pixel_lrp",), unsound=True))


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ConfigError, match="expected sun2022"):
        ExplainConfig(protocol="none")


def test_captions_decoded_with_other_attention_lose_what_attention_brings(captioner, decoded):
    images, captions = decoded
    with Scorer({image.image_id: image.references for image in images}) as scorer:
        frame = intervene(
            captioner, images, captions, scorer,
            ground_truth=SceneTruth(), search=SEARCH, batch_size=2, seed=0,
        )  # fmt: skip
    means = frame.groupby("intervention")[["cider", "words_true"]].mean()
    assert set(means.index) == {"none", *INTERVENTIONS, OTHER_OBJECT, ADVERSARIAL}
    assert means.loc["none", "words_true"] == 1
    assert (means.loc[["uniform", "permuted"]] < means.loc["none"]).all(axis=None)
    said = {row.image_id: row.caption for row in captions.values()}
    none = frame[frame["intervention"] == "none"]
    assert dict(zip(none["image_id"], none["caption"], strict=True)) == said


def test_an_image_has_the_same_seed_whatever_is_explained_beside_it():
    assert image_seed("a", 0) == image_seed("a", 0) != image_seed("a", 1)
    assert image_seed("\udc80", 0) >= 0


# ---- several processes ----------------------------------------------------------------------------------


def test_two_processes_find_what_one_does_and_in_the_same_order(captioner, decoded, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.stages.workers.FEWEST_TASKS", 1)
    images, captions = decoded
    found = []
    for workers in (1, 2):
        store = RunStore(tmp_path / str(workers))
        info = explain(
            captioner, images[:3], captions, store,
            ground_truth=SceneTruth(), options=BRIEFLY, search=SEARCH, seed=0, workers=workers,
        )  # fmt: skip
        maps = (store.path / "maps.npz").read_bytes()
        found.append((store.read_attributions(), store.read_sanity(), info.words, maps))
    one, two = found
    pd.testing.assert_frame_equal(one[0], two[0], atol=1e-6)
    pd.testing.assert_frame_equal(one[1], two[1], atol=1e-5)
    assert one[2:] == two[2:]


def test_a_task_that_fails_in_another_process_ends_the_work(monkeypatch):
    monkeypatch.setattr("bench.stages.workers.FEWEST_TASKS", 1)
    with pytest.raises(ZeroDivisionError):
        list(share_out(operator.truediv, 1, [(0,), (1,)], workers=2))


def test_a_process_that_is_ended_from_outside_ends_in_a_sentence(monkeypatch):
    monkeypatch.setattr("bench.stages.workers.FEWEST_TASKS", 1)
    with pytest.raises(ConfigError, match=r"ended from outside, .* --workers 1 needs less"):
        list(share_out(operator.call, signal.raise_signal, [(signal.SIGKILL,)], workers=2))


def test_a_large_model_is_explained_by_one_process_unless_more_are_asked_for():
    assert default_workers(torch.nn.Linear(6000, 6000)) == 1
    assert 1 <= default_workers(torch.nn.Linear(6, 6)) <= 2


def test_workers_are_no_part_of_a_runs_identity():
    one, two = (EvalConfig(workers=n).as_json() for n in (1, 2))
    assert {name for name in one if one[name] != two[name]} == {"workers"}
    with pytest.raises(ConfigError, match="--workers is 0; expected 1 to 64"):
        EvalConfig(workers=0)
