"""The page of a training and what it is made from: training.json and steps.csv, both maybe a stranger's."""

import dataclasses
import json
import math
import re
import subprocess
import sys
import tracemalloc
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import html5lib
import numpy as np
import pytest
from hostile_runs import ATTACKS, count_tags
from sample_trainings import STAGES, change, make_training, write_steps

from bench.cli import main
from reports.records import Failure, RunError, SchemaError, from_json
from reports.training import RECORD, STEPS, StepRow, TrainingRecord, TrainingStore, is_training
from reports.training_curves import POINTS, legs, places
from reports.training_figures import Curves, panels, short
from reports.training_findings import findings, stages, warnings
from reports.training_page import LEFT_OUT_SHOWN, write_training_page

LIKELIHOOD = STAGES[:1]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of three stages: only to be read, and its page."""
    folder = make_training(tmp_path_factory.mktemp("trainings") / "three").path
    write_training_page(folder)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> TrainingStore:
    return make_training(tmp_path / "own", epochs=4, steps_per_epoch=20, stages=LIKELIHOOD)


def page_of(store: TrainingStore, **options: bool) -> str:
    page = write_training_page(store.path, **options).read_text()
    html5lib.HTMLParser(strict=True).parse(page)
    return page


def text_of(page: str) -> str:
    tree = html5lib.parse(page, namespaceHTMLElements=False)
    return " ".join("".join(tree.find("body").itertext()).split())


def change_epochs(store: TrainingStore, **columns: list) -> None:
    rows = store.read_training().epochs
    new = [
        dataclasses.replace(row, **{name: values[place] for name, values in columns.items()})
        for place, row in enumerate(rows)
    ]
    change(store, epochs=tuple(new))


def asked(store: TrainingStore) -> dict[str, tuple[str, str]]:
    """Question -> answer and all sentences."""
    record = store.read_training()
    found = findings(record, stages(record.config), 80)
    return {finding.question: (finding.answer, " ".join(finding.sentences)) for finding in found}


# --- records ---------------------------------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written(store: TrainingStore, tmp_path: Path) -> None:
    record, other = store.read_training(), TrainingStore(tmp_path / "other")
    assert not is_training(other.path)
    other.write_training(record)
    assert is_training(other.path)
    assert json.dumps(dataclasses.asdict(other.read_training())) == json.dumps(dataclasses.asdict(record))
    assert [path.name for path in other.path.iterdir()] == [RECORD], "nothing half-written is left"


def test_a_record_with_nan_is_refused_and_the_one_before_stays(store: TrainingStore) -> None:
    before = (store.path / RECORD).read_bytes()
    row = dataclasses.replace(store.read_training().epochs[0], val_loss=math.nan)
    with pytest.raises(RunError, match="can't hold NaN"):
        change(store, epochs=(row,))
    assert (store.path / RECORD).read_bytes() == before


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"status": "done"}, "status is 'done'"),
        ({"epochs": [{}]}, r"epochs\[0\] lacks stage"),
        ({"best": 99}, "best is 99; expected one of its 4 epochs"),
        ({"data": {"name": "x"}}, "data lacks train_images"),
        ({"warnings": "none"}, "warnings is 'none'"),
    ],
)
def test_a_damaged_record_is_refused_by_name(store: TrainingStore, fields: dict, complaint: str) -> None:
    content = json.loads((store.path / RECORD).read_text())
    (store.path / RECORD).write_text(json.dumps(content | fields))
    with pytest.raises(RunError, match=complaint):
        store.read_training()


def test_a_record_of_another_version_or_none_is_refused(store: TrainingStore) -> None:
    content = json.loads((store.path / RECORD).read_text())
    with pytest.raises(SchemaError, match="schema version 99"):
        from_json(TrainingRecord, content | {"schema_version": 99}, "x")
    (store.path / RECORD).write_text("{")
    with pytest.raises(RunError, match="is not JSON"):
        store.read_training()
    (store.path / RECORD).unlink()
    with pytest.raises(RunError, match="is missing"):
        store.read_training()


def test_steps_are_read_up_to_a_torn_last_line(store: TrainingStore) -> None:
    rows = list(store.read_steps())
    assert len(rows) == 80
    assert rows[3].reward is None
    path = store.path / STEPS
    path.write_bytes(path.read_bytes()[:-5])
    assert list(store.read_steps()) == rows[:-1]
    path.unlink()
    assert list(store.read_steps()) == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"decoder,1,2,3\r\n", "it has 4 cells; expected 9"),
        (b"decoder,1,two,3,0,,1,1,1\r\n", "invalid literal"),
        (b"decoder,1,-2,3,0,,1,1,1\r\n", "negative"),
        (b"decoder,1," + b"9" * 30 + b",3,0,,1,1,1\r\n", "too large"),
        (b"\xff,1,2,3,0,,1,1,1\r\n", "no step of a training"),
        (b'"decoder,1,2,3,0,,1,1,1\r\n', "no step of a training"),
        (b"x" * 70_000 + b"\r\n", "is longer than"),
    ],
)
def test_a_damaged_line_of_steps_is_refused_by_its_number(
    store: TrainingStore, line: bytes, complaint: str
) -> None:
    path = store.path / STEPS
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(RunError, match=complaint):
        list(store.read_steps())


def test_a_link_that_leads_out_of_the_folder_is_not_followed(store: TrainingStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes((store.path / STEPS).read_bytes())
    (store.path / STEPS).unlink()
    (store.path / STEPS).symlink_to(tmp_path / "secret")
    with pytest.raises(RunError, match="not a plain file inside"):
        list(store.read_steps())


# --- curves ----------------------------------------------------------------------------------------------------------


def steps_of(losses: list[float], *, stage: str = "a", first: int = 1, words: int = 10) -> list[StepRow]:
    return [StepRow(stage, 1, first + n, loss, 0.0, None, 1.0, None, words) for n, loss in enumerate(losses)]


def test_a_short_curve_has_a_point_for_each_step() -> None:
    (leg,) = legs(steps_of([3.0, math.nan, 1.0]))
    assert [(point.place, point.loss) for point in leg.points] == [(1, 3.0), (2, None), (3, 1.0)]
    assert (leg.before, leg.steps, leg.first) == (0, 3, 1)


@pytest.mark.parametrize("count", [POINTS, POINTS + 1, 999, 5000])
def test_a_long_curve_is_thinned_to_means_over_words(count: int) -> None:
    rng = np.random.default_rng(0)
    rows = [
        StepRow("a", 1, n, loss, 0, None, rate, math.inf if n % 7 == 0 else norm, words)
        for n, (loss, rate, norm, words) in enumerate(
            zip(
                rng.normal(3, 1, count).tolist(),
                rng.random(count).tolist(),
                rng.random(count).tolist(),
                rng.integers(1, 99, count).tolist(),
                strict=True,
            ),
            start=1,
        )
    ]
    (leg,) = legs(rows)
    assert POINTS / 2 <= len(leg.points) <= POINTS
    width = 1
    while -(-count // width) > POINTS:
        width *= 2
    for place, point in enumerate(leg.points):
        some = rows[place * width : (place + 1) * width]
        assert point.place == pytest.approx(np.mean([row.step for row in some]))
        assert point.loss == pytest.approx(
            np.average([row.loss for row in some], weights=[row.words for row in some])
        )
        assert point.learning_rate == some[-1].learning_rate
        norms = [row.gradient_norm for row in some if math.isfinite(row.gradient_norm)]
        assert point.gradient_norm == (pytest.approx(np.mean(norms)) if norms else None)


def test_thinning_takes_memory_that_does_not_grow_with_the_steps() -> None:
    def peak(count: int) -> int:
        rows = (StepRow("a", 1, n, 1.0, 0.0, None, 1.0, 1.0, 1) for n in range(1, count + 1))
        tracemalloc.start()
        legs(rows)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(20_000) < 1.5 * peak(2000)


def test_smoothing_is_a_mean_of_near_points_and_never_reaches_into_another_stage() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(3, 1, 100).tolist(), rng.normal(50, 1, 40).tolist()
    one, two = legs([*steps_of(first), *steps_of(second, stage="b")])
    reach = round(0.08 * 100 / 2)
    expected = [float(np.mean(first[max(0, n - reach) : n + reach + 1])) for n in range(100)]
    assert one.smoothed("loss") == pytest.approx(expected)
    assert min(two.smoothed("loss")) > 40
    assert one.smoothed("reward") == [None] * 100


def test_the_ends_of_epochs_lie_where_their_steps_do_whether_steps_begin_anew_or_not(training: Path) -> None:
    store = TrainingStore(training)
    record, rows = store.read_training(), list(store.read_steps())
    expected = [90.0 * (n + 1) for n in range(23)]
    assert places(record.epochs, legs(rows)) == expected
    through = [row._replace(step=n) for n, row in enumerate(rows, start=1)]
    epochs = [dataclasses.replace(row, step=90 * (n + 1)) for n, row in enumerate(record.epochs)]
    assert places(epochs, legs(through)) == expected
    for some in (record.epochs, epochs):  # without steps.csv
        assert places(some, []) == expected


def test_steps_with_more_stages_than_a_training_has_are_refused() -> None:
    with pytest.raises(RunError, match="more than 100 stages"):
        legs(StepRow(str(n), 1, 1, 1.0, 0.0, None, 1.0, None, 1) for n in range(500))


def test_panels_are_equal_for_equal_input_and_say_what_they_show(training: Path) -> None:
    store = TrainingStore(training)
    record = store.read_training()
    curves = legs(store.read_steps())
    made = [panels(Curves(curves, record.epochs, places(record.epochs, curves), record.best)) for _ in "ab"]
    assert made[0] == made[1]
    assert list(made[0]) == ["loss", "cider", "bleu", "rate", "norm", "reward"]
    for name, panel in made[0].items():
        root = ET.fromstring(panel.svg.replace("xlink:", ""))
        assert root.get("aria-label") == panel.text
        assert all(e.get("id").startswith(f"{name}-") for e in root.iter() if e.get("id"))
        shown = [e.text for e in root.iter("text")]
        assert {"steps", "1", "2", "3"} <= set(shown), "stages are marked"
    best = record.epochs[record.best]
    assert f"highest at {best.val_cider:.3f}, after {90 * (record.best + 1):,} steps" in made[0]["cider"].text
    least = min(row.val_loss for row in record.epochs)
    assert f"Validation loss is lowest at {least:.2f}" in made[0]["loss"].text
    assert "BLEU-4 (teacher-forced) goes from" in made[0]["bleu"].text


def test_a_logarithmic_axis_has_plain_numbers(training: Path) -> None:
    steps = TrainingStore(training).read_steps()
    curves = legs(row._replace(gradient_norm=10.0 ** (4 - row.step / 200)) for row in steps)
    panel = panels(Curves(curves, (), [], None))["norm"]
    shown = {element.text for element in ET.fromstring(panel.svg.replace("xlink:", "")).iter("text")}
    assert {"100", "1000", "10000"} <= shown
    assert "$" not in panel.svg


@pytest.mark.parametrize(
    ("steps", "shown"),
    [(0, "0"), (9999, "9,999"), (20_000, "20k"), (2_500_000, "2.5 m"), (3e9, "3 bn")],
)
def test_numbers_of_steps_are_short(steps: float, shown: str) -> None:
    assert short(steps) == shown


# --- findings --------------------------------------------------------------------------------------------------------


def test_the_score_is_that_of_the_kept_epoch_with_its_number_of_images(store: TrainingStore) -> None:
    record = store.read_training()
    answer, text = asked(store)["How good are its captions?"]
    assert answer == f"CIDEr {record.epochs[3].val_cider:.3f} · BLEU-4 {record.epochs[3].val_bleu4:.3f}"
    assert "beam search with beam size 3 over 1,014 validation images, after epoch 4 of 4" in text


def test_without_a_score_the_reason_is_said(store: TrainingStore) -> None:
    none = [None] * 4
    change_epochs(store, val_cider=none, val_bleu4=none, reason=["the validation split has one image"] * 4)
    change(store, best=None)
    assert asked(store)["How good are its captions?"] == (
        "Not scored", "Why: the validation split has one image.",
    )  # fmt: skip
    assert asked(store)["Would more epochs help?"][0] == "Too early to tell"
    assert "the validation split has one image" in text_of(page_of(store))


@pytest.mark.parametrize(
    ("status", "epochs", "answer"),
    [
        ("running", 4, "Still running in epoch 5 of 12"),
        ("interrupted", 0, "Interrupted in epoch 1 of 12"),
        ("failed", 4, "Failed in epoch 5 of 12"),
        ("finished", 4, "Finished: 4 epochs"),
    ],
)
def test_how_far_it_got(tmp_path: Path, status: str, epochs: int, answer: str) -> None:
    store = make_training(tmp_path / "own", epochs=epochs, steps_per_epoch=5, stages=LIKELIHOOD)
    change(store, status=status)
    found, text = asked(store)["How far did it get?"]
    assert found == answer
    assert ("goes on from the last checkpoint" in text) == (status in ("interrupted", "failed"))
    assert ("12 epochs were planned" in text) == (status == "finished")


def test_a_trial_is_called_one_and_not_said_to_have_ended_early(store: TrainingStore) -> None:
    change(store, config=store.read_training().config | {"limit": 64, "max_steps": 20})
    record = store.read_training()
    assert "This was a trial (limit 64, max_steps 20)" in warnings(record, stages(record.config))[0]
    assert "the number of steps was limited" in asked(store)["How far did it get?"][1]


@pytest.mark.parametrize(
    ("best", "answer"), [(3, "Perhaps"), (2, "Not clear"), (1, "Not clear"), (0, "No sign of it")]
)
def test_whether_more_epochs_would_help(store: TrainingStore, best: int, answer: str) -> None:
    change(store, best=best)
    assert asked(store)["Would more epochs help?"][0] == answer


@pytest.mark.parametrize(
    ("val_loss", "loss", "told"),
    [
        ([3.0, 2.0, 2.1, 2.5], [3.0, 2.0, 1.5, 1.0], True),
        ([3.0, 2.0, 2.0, 2.01], [3.0, 2.0, 1.5, 1.0], False),
        ([3.0, 2.0, 2.1, 2.5], [3.0, 2.0, 2.5, 2.5], False),
        ([3.0, 2.0, 1.5, 1.2], [3.0, 2.0, 1.5, 1.0], False),
    ],
)
def test_overfitting_is_told_where_validation_rises_while_training_falls(
    store: TrainingStore, val_loss: list[float], loss: list[float], told: bool
) -> None:
    change_epochs(store, val_loss=val_loss, loss=loss)
    text = asked(store)["Would more epochs help?"][1]
    expected = "since epoch 2 validation loss has risen from 2.00 to 2.50 nats per word"
    assert (expected in text) == told
    record = store.read_training()
    change(store, config=record.config | {"stages": [{"name": "decoder", "objective": "self-critical"}]})
    assert "overfits" not in asked(store)["Would more epochs help?"][1]


def test_warnings_name_a_random_trunk_few_images_pictures_left_out_and_what_the_training_warns_of(
    store: TrainingStore,
) -> None:
    record = store.read_training()
    change(store, model=dataclasses.replace(record.model, weights="random"), warnings=("Mind the gap.",))
    change_epochs(store, val_images=[40] * 4)
    record = store.read_training()
    found = warnings(record, stages(record.config))
    patterns = (
        "random weights and stays", "2 of 30,012 pictures could not", "on 40 validation images", "Mind the gap",
    )  # fmt: skip
    assert [bool(re.search(pattern, text)) for pattern, text in zip(patterns, found, strict=True)] == [
        True
    ] * 4
    change(store, warnings=("It begins with a trunk of random weights.",))
    record = store.read_training()
    assert sum("random" in text for text in warnings(record, stages(record.config))) == 1, "told once"
    change(store, warnings=())
    trained = record.config | {"stages": [{**STAGES[0], "trained_from": 0}]}
    change(store, config=trained)
    record = store.read_training()
    assert not any("random" in text for text in warnings(record, stages(record.config)))


@pytest.mark.parametrize(
    "config",
    [{}, {"stages": 7}, {"stages": [1, None, "x"]}, {"stages": [{}]}, {"stages": [{"epochs": -1, "name": [1]}]},
     {"stages": [{"epochs": 10**30, "objective": {}, "name": "s" * 9999}] * 500}],
)  # fmt: skip
def test_settings_that_are_no_recipe_give_a_page_all_the_same(store: TrainingStore, config: dict) -> None:
    change(store, config=config)
    assert "CIDEr" in page_of(store)


# --- page ------------------------------------------------------------------------------------------------------------


def test_the_page_says_what_was_trained_how_it_went_and_how_to_go_on(training: Path) -> None:
    page = (training / "training.html").read_text()
    html5lib.HTMLParser(strict=True).parse(page)
    text = text_of(page)
    for part in (
        "tutorial-coco on coco",
        "13,731,114 of 56,231,402 parameters (24 %) were trained",
        "Finished: 23 epochs",
        "2,070 steps of the optimizer in 3 stages",
        "2 pictures left out",
        "Never quote it.",
        "2 · encoder, too",
        "decoder.hidden_dim512",
        "penalty.over",
        "gazebench eval three",
        "gazebench train --preset tutorial-coco --data coco",
        "best.safetensors",
        "SHA-256 of encoder weights",
    ):
        assert part in text, part
    assert "<script" not in page
    tree = html5lib.parse(page, namespaceHTMLElements=False)
    policy = next(meta.get("content") for meta in tree.iter("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    table = next(t for t in tree.iter("table") if "each epoch" in "".join(t.find("caption").itertext()))
    assert len([row for row in table.iter("tr") if row.get("class") != "group"]) == 24


def test_equal_trainings_give_equal_pages(training: Path, tmp_path: Path) -> None:
    again = make_training(tmp_path / training.name).path
    assert write_training_page(again).read_bytes() == (training / "training.html").read_bytes()


def test_a_training_that_is_cut_in_its_first_epoch_has_a_page(tmp_path: Path) -> None:
    store = make_training(tmp_path / "own", epochs=0)
    change(store, status="interrupted")
    text = text_of(page_of(store))
    assert "No step has been logged yet." in text
    assert "No epoch has ended yet." in text
    write_steps(store.path, steps_of([3.0]))
    page = page_of(store)
    assert "1 step of the optimizer" in text_of(page)
    assert page.count("<svg") == 2, "loss and learning rate"


def test_a_training_of_a_thousand_epochs_has_a_small_page_with_its_best_epoch(tmp_path: Path) -> None:
    long = ({**STAGES[0], "epochs": 1000},)
    store = make_training(tmp_path / "own", steps_per_epoch=3, stages=long)
    change(store, best=511)
    page = page_of(store)
    assert len(page) < 200_000
    assert re.search("What epochs came to: 4[0-2] of 1,000", text_of(page))
    assert "512 · kept" in page
    assert "1,000" in page


def test_paths_and_names_of_users_are_left_out_unless_asked_for(store: TrainingStore) -> None:
    record = store.read_training()
    change(
        store,
        command="gazebench train --images /home/ann/photos --out '/data/ann sets/x'",
        name="/home/ann/out",
        config=record.config | {"embeddings": "/home/ann/glove.txt"},
        warnings=("Read /home/ann/x.json.",),
    )
    assert not re.search(r"\bann\b", page_of(store))
    whole = page_of(store, with_paths=True)
    for part in ("/home/ann/photos", "/home/ann/glove.txt", "/home/ann/1000092795.jpg"):
        assert part in whole


def test_very_many_pictures_left_out_are_counted_and_some_named(store: TrainingStore) -> None:
    data = store.read_training().data
    many = tuple(Failure(f"{n}.jpg", "it is empty") for n in range(3000))
    change(store, data=dataclasses.replace(data, left_out=many))
    page = page_of(store)
    assert "3,000 pictures left out" in page
    assert page.count("it is empty") == LEFT_OUT_SHOWN


def poisoned(value: object, attack: str) -> object:
    """The record with the attack at the end of every text in turn of its fields, but those of known words."""
    if isinstance(value, dict):
        return {
            key + (attack if key in ("torch", "seed", "samples") else ""): item
            if key in ("status", "created")
            else poisoned(item, attack)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [poisoned(item, attack) for item in value]
    return value + attack if isinstance(value, str) else value


def attacked(folder: Path, attack: str) -> str:
    store = make_training(folder / "own", steps_per_epoch=5)
    record = poisoned(dataclasses.asdict(store.read_training()), attack)
    store.write_training(from_json(TrainingRecord, record, "x"))
    held = " ".join(attack.encode("utf-8", "replace").decode().split())
    write_steps(folder / "own", [row._replace(stage=row.stage + held) for row in store.read_steps()])
    return page_of(store, with_paths=True)


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    page = attacked(tmp_path_factory.mktemp("harmless"), " and more")
    return count_tags(list(html5lib.parse(page, namespaceHTMLElements=False).iter()))


@pytest.mark.parametrize("attack", ATTACKS, ids=["markup", "quotes", "controls", "length"])
def test_no_text_of_a_stranger_becomes_markup(tmp_path: Path, harmless: Counter[str], attack: str) -> None:
    page = attacked(tmp_path, attack)
    tree = html5lib.parse(page, namespaceHTMLElements=False)
    assert count_tags(list(tree.iter())) == harmless
    assert not [key for e in tree.iter() for key in e.attrib if str(key).lower().startswith("on")]
    assert len(page) < 400_000
    if attack.isprintable() and len(attack) < 200:
        assert attack in "".join(tree.itertext())


def test_the_page_is_made_without_torch() -> None:
    probe = (
        "import sys, reports.training_page; print({'torch', 'bench', 'models', 'explain'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-P", "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_report_writes_the_page_of_a_training(
    store: TrainingStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(store.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(store.path / "training.html")}
    assert main(["report", str(store.path), "-o", str(tmp_path / "p.html")]) == 0
    assert (tmp_path / "p.html").read_bytes() == (store.path / "training.html").read_bytes()
    assert main(["report", str(store.path), "--bundle", str(tmp_path / "b")]) == 2
    assert "holds a training, whose page is one file" in capsys.readouterr().err


# --- browser ---------------------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1280), ("dark", 390), ("light", 390), ("dark", 1280)]
)
def test_the_page_opens_quietly_in_any_window_and_a_scan_finds_nothing_serious(
    browser, training: Path, scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: heard.append(request.url))
    address = (training / "training.html").as_uri()
    page.goto(address, wait_until="load")
    assert heard == [address]
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.evaluate(
        "[...document.querySelectorAll('.panels svg')].map(s => [s.scrollWidth, s.parentElement.clientWidth])"
    )
    assert len(boxes) == 6
    assert all(drawn <= seen for drawn, seen in boxes), "each panel is seen whole"
    colours = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert (colours == ["rgb(28, 29, 33)", "rgb(250, 249, 246)"]) == (scheme == "light")
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text())
    found = page.evaluate("axe.run(document)")
    assert found["passes"], "the scan has run"
    assert [v["id"] for v in found["violations"] if v["impact"] in ("serious", "critical")] == []
