"""Sixty bad inputs, and the test of each: `COVERED` says what each is and where it is tested.

Most are tested beside the part that meets them first. Here is what needs the whole command: pictures, texts and names
of strangers all the way to the terminal and the page, and machines that are read-only, full, foreign, old or offline.
"""

import ast
import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.batches import in_batches
from bench.cli import main
from bench.config import DEMO_CHECKPOINT
from bench.data.load import load_data
from bench.data.scenes import make_scene
from reports.records import SCHEMA_VERSION
from reports.store import RunStore

TESTS = Path(__file__).parent
GAZEBENCH = Path(sysconfig.get_path("scripts")) / "gazebench"
HOSTILE = "test_models_formats_hostile.py::"
LAYOUTS = "test_models_formats_layouts.py::"
DATA = "test_bench_data_load.py::"
PICTURES = "test_models_preprocessing.py::"
CLI = "test_bench_cli.py::"
HERE = "test_bad_inputs.py::"
NO_CHECKPOINT = f"{HOSTILE}test_what_is_no_checkpoint_is_called_what_it_is"
BOMB = f"{HOSTILE}test_what_takes_memory_or_time_is_refused"
CODE = f"{HOSTILE}test_code_in_a_checkpoint_is_refused_and_not_run"
WRONG = f"{HOSTILE}test_models_that_are_broken_or_of_another_kind_are_refused_by_name"
WORDS = f"{HOSTILE}test_word_maps_that_can_not_be_right_are_refused_by_name"
TUTORIAL = f"{LAYOUTS}test_the_tutorials_model_is_the_same_from_every_form_of_its_file"
BAD_PICTURES = f"{HERE}test_bad_pictures_are_one_sentence_each_and_the_others_are_captioned_in_a_gigabyte"
TEXTS = f"{HERE}test_texts_and_names_of_strangers_are_scored_and_shown_as_text"

COVERED: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("an empty file", (f"{NO_CHECKPOINT}[empty]",)),
    2: (
        "a file that is cut off",
        (
            f"{HOSTILE}test_files_that_are_cut_off_are_refused",
            "test_models_formats.py::test_every_truncation_is_refused",
        ),
    ),
    3: ("a web page", (f"{NO_CHECKPOINT}[web page]",)),
    4: ("a Git LFS pointer", (f"{NO_CHECKPOINT}[Git LFS pointer]",)),
    5: ("a JPEG named .pth.tar", (f"{NO_CHECKPOINT}[picture]",)),
    6: ("a real tar archive", (f"{NO_CHECKPOINT}[tar]",)),
    7: ("whole modules in a legacy stream", (TUTORIAL,)),
    8: ("whole modules in a zip, without the author's code", (TUTORIAL,)),
    9: (
        "a `models` module of the user's",
        (
            f"{CLI}test_a_models_package_of_somebody_else_is_not_used",
            f"{HOSTILE}test_the_command_reads_a_good_file_among_modules_that_shadow_ours",
        ),
    ),
    10: ("a pickle that calls os.system", (f"{CODE}[os.system]",)),
    11: ("a pickle that calls eval", (f"{CODE}[eval]",)),
    12: ("a pickle that calls torch.hub or collect_env", (f"{CODE}[torch.hub]", f"{CODE}[torch.utils.collect_env]")),
    13: ("a pickle in a pickle", (f"{CODE}[torch.storage]",)),
    14: ("a tensor of stride 0", (f"{BOMB}[stride 0]", f"{BOMB}[stride 0, legacy]")),
    15: ("a tensor larger than its storage", (f"{BOMB}[more numbers than the storage]",)),
    16: ("a legacy file that claims 4 TB", (f"{BOMB}[legacy, 4 TB]",)),
    17: ("a compressed zip", (f"{BOMB}[deflated numbers]", f"{BOMB}[deflated pickle]")),
    18: (
        "two entries of one name, entries that lead out",
        (f"{BOMB}[two entries of one name]", f"{BOMB}[an entry that leads out]"),
    ),
    19: ("pickles that nest or multiply", (f"{BOMB}[a million tuples, one in the other]", f"{BOMB}[laughs of tuples]")),
    20: (
        "weights that are NaN or infinite",
        (f"{WRONG}[NaN in the output layer]", f"{WRONG}[infinity in a convolution]"),
    ),
    21: (
        "an embedding of another number of words",
        (f"{WRONG}[an embedding of fewer rows]", f"{WORDS}[a longer one]"),
    ),
    22: (
        "missing and renamed parts; the prefix of a wrapper",
        (
            f"{WRONG}[no output layer]",
            f"{WRONG}[a renamed layer]",
            f"{HOSTILE}test_names_that_differ_only_by_wrapping_are_not_mixed",
            TUTORIAL,
        ),
    ),
    23: ("tensors of 16 bits, or from a GPU", (TUTORIAL,)),
    24: ("a TorchScript file", (f"{NO_CHECKPOINT}[TorchScript]",)),
    25: (
        "safetensors that lie about themselves",
        (f"{HOSTILE}test_hostile_safetensors_are_refused[overlapping]",
         f"{HOSTILE}test_hostile_safetensors_are_refused[one name twice]",
         f"{HOSTILE}test_hostile_safetensors_are_refused[header beyond the file]"),
    ),
    26: ("a model of another architecture", (f"{NO_CHECKPOINT}[another architecture]",)),
    27: (
        "unreadable files, folders, pipes, devices, loops",
        (
            f"{HOSTILE}test_what_is_no_file_is_refused_without_waiting",
            f"{HOSTILE}test_unreadable_files_are_refused",
        ),
    ),
    28: (
        "a word map whose ids do not number the words",
        (f"{WORDS}[two words of one id]", f"{WORDS}[an id beyond the last]"),
    ),
    29: ("a word map without special words", (f"{WORDS}[no start]", f"{WORDS}[no end]", f"{WORDS}[no pad]")),
    30: ("a million words", (f"{WORDS}[a million words]",)),
    31: (
        "words that are markup, emoji, half a character",
        (f"{HOSTILE}test_strange_words_are_words[__proto__]", f"{WORDS}[half a character]",
         "test_bench_pictures.py::test_words_of_a_strangers_vocabulary_are_text_everywhere"),
    ),
    32: (
        "annotations that are cut off, in another encoding, nested, doubled",
        (
            f"{DATA}test_broken_json_is_refused_with_its_place",
            f"{DATA}test_windows_line_ends_and_a_byte_order_mark_change_nothing",
            f"{DATA}test_latin_1_is_read_with_a_warning",
        ),
    ),
    33: (
        "file names that lead elsewhere",
        (
            f"{DATA}test_names_that_could_lead_out_of_the_folder_are_refused",
            f"{DATA}test_links_that_leave_the_folder_are_refused",
            f"{HERE}test_names_that_lead_elsewhere_end_the_command_and_odd_ones_are_missing_pictures",
        ),
    ),
    34: (
        "pictures that are missing, twice, without captions; captions without pictures",
        (
            f"{DATA}test_missing_pictures_are_listed_and_left_out",
            f"{DATA}test_pictures_without_captions_are_left_out_and_counted",
            f"{DATA}test_coco_ids_join_as_numbers_or_text",
            f"{DATA}test_broken_json_is_refused_with_its_place",
        ),
    ),
    35: (
        "captions that are empty, endless, line breaks, formulas, markup, commands",
        (
            TEXTS,
            f"{CLI}test_hostile_captions_reach_the_report_as_text",
            "test_reports_gallery_browser.py::test_a_spreadsheet_executes_no_caption",
            "test_reports_gate_output.py::test_no_name_becomes_a_command_or_a_property",
            "test_bench_scoring_engine.py::test_hostile_captions_are_scored_and_leave_the_others_alone",
        ),
    ),
    36: (
        "no image, one image, the same caption everywhere",
        (
            f"{DATA}test_broken_json_is_refused_with_its_place",
            f"{CLI}test_one_image_has_no_cider_but_a_reason_and_json_prints_what_run_json_holds",
            f"{HERE}test_the_same_caption_and_reference_everywhere_is_scored_and_said_to_be_odd",
        ),
    ),
    37: ("splits of unknown names", (f"{DATA}test_unknown_splits_are_refused",)),
    38: ("a picture of 0 bytes", (f"{PICTURES}test_an_empty_file_is_refused", BAD_PICTURES)),
    39: ("a JPEG that is cut off", (f"{PICTURES}test_truncated_files_are_refused", BAD_PICTURES)),
    40: ("a JPEG in CMYK", (f"{PICTURES}test_a_cmyk_jpeg_has_the_colours_of_its_rgb_original", BAD_PICTURES)),
    41: (
        "PNGs of 16 bits, of 1 bit, with a palette and transparency",
        (
            f"{PICTURES}test_16_bit_greys_are_scaled_not_clipped",
            f"{PICTURES}test_palette_transparency_is_laid_on_white",
            f"{PICTURES}test_one_bit_pictures_are_black_and_white",
            BAD_PICTURES,
        ),
    ),
    42: ("animations", (f"{PICTURES}test_animations_give_their_first_frame", BAD_PICTURES)),
    43: (
        "a picture that its camera has turned",
        (
            f"{PICTURES}test_every_exif_orientation_is_undone",
            "test_bench_pictures.py::test_a_picture_is_captioned_upright_whichever_way_its_camera_was_held",
        ),
    ),
    44: ("a PNG of 20,000 x 20,000", (f"{PICTURES}test_a_png_bomb_is_refused_before_it_is_decoded", BAD_PICTURES)),
    45: (
        "pictures of 1 x 1 and 1 x 20,000",
        (f"{PICTURES}test_extreme_proportions_are_read_and_fit_the_encoder", BAD_PICTURES),
    ),
    46: ("SVG and HTML named .jpg", (f"{PICTURES}test_files_of_other_kinds_are_refused_by_content", BAD_PICTURES)),
    47: (
        "broken metadata",
        (
            f"{PICTURES}test_corrupt_metadata_is_ignored",
            f"{PICTURES}test_a_colour_profile_of_garbage_is_ignored",
            BAD_PICTURES,
        ),
    ),
    48: ("a JPEG of a thousand scans", (f"{PICTURES}test_a_jpeg_of_thousands_of_scans_is_refused", BAD_PICTURES)),
    49: (
        "folders that are read-only",
        (
            f"{HERE}test_a_foreign_machine_without_network_and_with_read_only_packages_evaluates_all_the_same",
            f"{HERE}test_in_a_read_only_folder_the_command_ends_in_a_sentence",
        ),
    ),
    50: (
        "a disk that fills up",
        (f"{HERE}test_a_full_disk_ends_in_a_sentence_and_the_run_goes_on_when_there_is_room",),
    ),
    51: (
        "no Java, an old one, one that hangs or is killed",
        (
            "test_bench_doctor.py::test_a_java_that_does_not_work_is_said_to_be_there_and_broken",
            "test_bench_doctor.py::test_every_java_since_8_will_do",
            "test_bench_scoring_engine.py::test_without_java_all_but_meteor_is_scored_and_said_to_be",
            "test_bench_scoring_engine.py::test_a_java_that_does_nothing_ends_in_scores_without_meteor",
            "test_bench_scoring_engine.py::test_a_meteor_that_is_killed_or_stopped_is_replaced",
            "test_bench_scoring_java.py::test_a_tokenizer_that_is_killed_or_stopped_is_replaced",
        ),
    ),
    52: (
        "a run that is interrupted",
        (
            f"{CLI}test_an_interrupted_run_says_how_to_go_on_and_does",
            "test_bench_resume.py::test_a_run_that_is_killed_in_every_stage_loses_nothing_and_ends_the_same",
        ),
    ),
    53: (
        "a plain locale, folders and names in other scripts and with quotes",
        (
            f"{HERE}test_a_foreign_machine_without_network_and_with_read_only_packages_evaluates_all_the_same",
            "test_bench_scoring_meteor.py::test_it_bears_a_foreign_locale_and_any_folder",
        ),
    ),
    54: (
        "clocks that jump, time zones that are not there",
        (
            f"{HERE}test_times_are_differences_of_a_clock_that_never_jumps",
            f"{HERE}test_a_run_of_the_future_is_resumed_and_reported",
        ),
    ),
    55: (
        "two runs into one folder",
        ("test_bench_resume.py::test_of_two_runs_into_one_directory_the_second_ends_at_once_and_names_the_first",),
    ),
    56: (
        "no CUDA, an old processor, too little memory",
        (
            f"{HERE}test_a_device_that_is_not_there_is_one_sentence",
            f"{HERE}test_a_processor_without_avx2_says_the_same",
            f"{HERE}test_a_gpu_that_is_full_is_given_smaller_batches",
            "test_bench_batches.py::"
            "test_a_batch_that_does_not_fit_into_memory_is_decoded_in_halves_with_the_same_captions",
        ),
    ),
    57: (
        "no network",
        (
            f"{HERE}test_a_foreign_machine_without_network_and_with_read_only_packages_evaluates_all_the_same",
            "test_models_encoder.py::test_a_download_that_fails_ends_in_a_sentence_that_names_the_way_out",
        ),
    ),
    58: (
        "a run of a later version",
        (
            "test_reports_records.py::test_an_unknown_schema_version_is_refused_by_name",
            f"{HERE}test_a_run_of_a_later_version_ends_every_command_in_a_sentence",
        ),
    ),
    59: (
        "a baseline with merge markers",
        (
            "test_reports_baseline.py::test_a_baseline_that_can_not_be_trusted_is_refused_by_name",
            "test_reports_baseline.py::test_no_damage_to_the_file_ends_in_anything_but_a_sentence",
        ),
    ),
    60: (
        "a report without JavaScript",
        ("test_reports_browser.py::test_without_a_script_verdict_tables_figures_and_top_samples_are_there",),
    ),
}  # fmt: skip


def test_every_bad_input_has_a_test():
    assert sorted(COVERED) == list(range(1, 61))
    for what, tests in COVERED.values():
        assert what
        assert tests


@pytest.mark.parametrize("number", COVERED)
def test_every_test_that_is_named_exists(number):
    for name in COVERED[number][1]:
        file, _, test = name.partition("::")
        function, _, case = test.removesuffix("]").partition("[")
        text = (TESTS / file).read_text()
        assert function in {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
        cases = text + (TESTS / "hostile_files.py").read_text()
        assert not case or f'"{case}":' in cases, name


# ---- what the whole command is needed for ----------------------------------------------------------------

BRIEF = ("--beam-size", "1", "--explain", "0", "--retrieval", "0")


def one_sentence(err: str) -> str:
    """The last line of stderr, which is the error; nothing else may be one."""
    lines = err.splitlines()
    assert not [line for line in lines if "Traceback" in line], err
    assert lines[-1].startswith("gazebench: error: "), err
    assert all(line.isprintable() for line in lines), err
    assert len(lines[-1]) < 800
    return lines[-1]


def gazebench(
    *arguments: str | Path,
    folder: Path | None = None,
    before: Sequence[str] = (),
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Runs the command as its users do; `before` stands before it and may set up where it runs."""
    command = [sys.executable, "-P", "-m", "bench.cli", *map(str, arguments)]
    return subprocess.run(
        [*before, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)} | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def data_set(folder: Path, captions: Sequence[str], names: Sequence[str] = ()) -> Path:
    """Drawn pictures whose references are `captions`, two each."""
    names = names or [f"{number}.png" for number in range(len(captions) // 2)]
    (folder / "Images").mkdir(parents=True)
    with (folder / "captions.txt").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        for number, name in enumerate(names):
            make_scene("test", number).picture().save(folder / "Images" / name)
            rows.writerows([name, caption] for caption in captions[2 * number : 2 * number + 2])
    return folder


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def bad_pictures() -> dict[str, bytes]:
    """Pictures that are refused, under names that say why."""
    scene = make_scene("test", 0).picture()
    jpeg = encoded(scene, "JPEG", quality=95)
    scans = encoded(Image.new("L", (2048, 2048)), "JPEG", progressive=True)
    last = scans[scans.rindex(b"\xff\xda") : -2]
    return {
        "empty.jpg": b"",
        "cut-off.jpg": jpeg[: len(jpeg) // 2],
        "bomb.png": encoded(Image.new("1", (20_000, 20_000)), "PNG"),
        "drawing.jpg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "page.jpg": b"<!DOCTYPE html><html></html>",
        "scans.jpg": scans[:-2] + last * 1000 + scans[-2:],
    }


def odd_pictures() -> dict[str, bytes]:
    """Pictures that look like the first scene, however they are stored, and two that are just odd."""
    scene = make_scene("test", 0).picture()
    grey = scene.convert("L")
    return {
        "plain.png": encoded(scene, "PNG"),
        "cmyk.jpg": encoded(scene.convert("CMYK"), "JPEG", quality=95),
        "palette.png": encoded(scene.convert("P"), "PNG", transparency=255),
        "sixteen.png": encoded(grey.convert("I;16"), "PNG"),
        "one-bit.png": encoded(scene.convert("1"), "PNG"),
        "moving.gif": encoded(scene, "GIF", save_all=True, append_images=[grey.convert("RGB")]),
        "moving.webp": encoded(scene, "WEBP", lossless=True, save_all=True, append_images=[grey.convert("RGB")]),
        "metadata.jpg": encoded(scene, "JPEG", quality=95, exif=b"Exif\0\0garbage", icc_profile=b"garbage"),
        "dot.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
        "line.png": encoded(Image.new("RGB", (1, 20_000)), "PNG"),
    }  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory with Linux's units")
def test_bad_pictures_are_one_sentence_each_and_the_others_are_captioned_in_a_gigabyte(tmp_path):
    bad, odd = bad_pictures(), odd_pictures()
    for name, content in (bad | odd).items():
        (tmp_path / name).write_bytes(content)
    measured = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=open('peak', 'w')); sys.exit(code)"
    )
    done = gazebench(
        "caption", DEMO_CHECKPOINT, *bad, *odd, "--beam-size", "2", "--json",
        folder=tmp_path, before=[sys.executable, "-c", measured],
    )  # fmt: skip
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("gazebench: error: ")]
    assert [re.search(r"'([^']+)'", line)[1] for line in errors] == list(bad)
    assert "Traceback" not in done.stderr
    said = {row["image_id"]: row["caption"] for row in json.loads(done.stdout)}
    assert list(said) == list(odd)
    for name in ("cmyk.jpg", "moving.gif", "moving.webp", "metadata.jpg"):
        assert said[name] == said["plain.png"], name
    assert int((tmp_path / "peak").read_text()) * 1024 < 1e9


STRANGE = (
    "", "   ", ". , !", "a red\rcircle", "a\vb\fc", "x\u2028y", "x ||| y", "=cmd|' /C calc'!A0", "@SUM(1+1)",
    "<img src=x onerror=alert(1)>", "{{7*7}}", "${7*7}", "::error::stolen", "##[error]stolen", "\x1b[31mred\x1b[0m",
    "</script><script>alert(1)</script>", "\u202eleft", "👩‍👩‍👧‍👦 is here", "a red circle above", "`rm` $(rm) ; rm",
)  # fmt: skip


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A run over texts and names of strangers, its command, and what it said."""
    names = [
        "=1+1.png", "::error::x.png", "<script>alert(1).png", "{{7*7}}.png", "日本 é.png", "a'\"$(x).png",
        *(f"{number}.png" for number in range(4)),
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("strange")
    command = ["eval", "--data", str(data_set(folder / "data", STRANGE, names)), "--split", "all", *BRIEF]
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        assert main([*command, "--out", str(folder / "run")]) == 0
    return folder / "run", command, said.getvalue()


def test_texts_and_names_of_strangers_are_scored_and_shown_as_text(strange):
    out, _, said = strange
    assert "up to 64 images at once" in said.splitlines()
    for line in said.splitlines():
        assert line.replace("\xa0", " ").isprintable(), line
        assert not line.startswith(("::", "##["))
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "\x1b" not in page
    record = RunStore(out).read_run()
    assert record.images.done == len(STRANGE) // 2
    values = {row.name: row.value for row in record.metrics}
    assert all(values[name] is not None for name in ("BLEU-1", "ROUGE-L", "CIDEr"))


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("../../etc/passwd", True),
        ("/etc/passwd", True),
        ("C:\\secret.png", True),
        ("\\\\host\\share\\secret.png", True),
        ("n" * 300 + ".png", True),
        ("line\nbreak.png", True),
        ("link.png", True),
        ("dot.png.", False),
        ("space.png ", False),
    ],
)
def test_names_that_lead_elsewhere_end_the_command_and_odd_ones_are_missing_pictures(
    tmp_path, capsys, name, refused
):
    folder = data_set(tmp_path / "data", ["a red circle"] * 4)
    (folder / "Images" / "link.png").symlink_to("/etc/passwd")
    with (folder / "captions.txt").open("a", newline="") as file:
        csv.writer(file).writerow([name, "a secret"])
    out = tmp_path / "run"
    if refused:
        assert main(["eval", "--data", str(folder), "--split", "all", *BRIEF, "--out", str(out)]) == 2
        assert "path traversal refused" in one_sentence(capsys.readouterr().err)
        assert not out.exists()
        return
    data = load_data(str(folder), images=None)
    assert data.missing == (name,)
    assert [image.image_id for image in data.images] == ["0.png", "1.png"]


def test_the_same_caption_and_reference_everywhere_is_scored_and_said_to_be_odd(tmp_path, capsys):
    names = [f"{number}.jpg" for number in range(16)]
    (tmp_path / "references.txt").write_text("".join(f"{name}#0\ta red circle\n" for name in names))
    (tmp_path / "captions.json").write_text(
        json.dumps([{"image_id": name, "caption": "a red circle"} for name in names])
    )
    out = tmp_path / "run"
    command = ["score", "--captions", str(tmp_path / "captions.json")]
    command += ["--references", str(tmp_path / "references.txt"), "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "There is only 1 different caption for 16 images" in printed
    values = {row.name: row.value for row in RunStore(out).read_run().metrics}
    assert values["CIDEr"] == 0  # every n-gram is in every image, so that none tells them apart
    assert values["ROUGE-L"] == pytest.approx(1)


# ---- machines --------------------------------------------------------------------------------------------


def private(*setup: str) -> list[str]:
    """What to put before a command for it to see mounts of its own, or no network; skips where that is forbidden."""
    before = ["unshare", "--mount", "--net", "sh", "-c", " && ".join([*setup, 'exec "$@"']), "sh"]
    if shutil.which("unshare") is None or subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount anything")
    return before


def read_only(folder: Path) -> str:
    quoted = shlex.quote(str(folder))
    return f"mount --bind {quoted} {quoted} && mount -o remount,bind,ro {quoted}"


@pytest.mark.slow
def test_a_foreign_machine_without_network_and_with_read_only_packages_evaluates_all_the_same(tmp_path):
    """Read-only packages and project, no network, a locale and a terminal that know ASCII, an odd folder and zone."""
    here = tmp_path / 'dir é \'"q" $(x)'
    data_set(here / "data", ["a red circle"] * 6, ["日本 é.png", "a'\"$(x).png", "b c.png"])
    before = private(read_only(Path(sysconfig.get_path("purelib"))), read_only(TESTS.parent))
    done = gazebench(
        "eval", "--data", "data", "--split", "all", *BRIEF, "--out", "ré sult",
        folder=here, before=before, LC_ALL="C", PYTHONIOENCODING="ascii", TZ="Mars/Olympus",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    record = RunStore(here / "ré sult").read_run()
    assert (record.status, record.images.done) == ("finished", 3)
    assert {row.image_id for row in RunStore(here / "ré sult").read_captions()} == {
        "日本 é.png",
        "a'\"$(x).png",
        "b c.png",
    }
    assert (here / "ré sult" / "report.html").is_file()


def test_in_a_read_only_folder_the_command_ends_in_a_sentence(tmp_path):
    # What was this folder before it was mounted can still be written.
    before = private(read_only(tmp_path), f"cd {shlex.quote(str(tmp_path))}")
    done = gazebench("eval", "--limit", "2", *BRIEF, folder=tmp_path, before=before)
    assert done.returncode == 2
    assert re.search("Read-only file system: .*runs.*--out", one_sentence(done.stderr))
    assert list(tmp_path.iterdir()) == []


@contextmanager
def small_disk(folder: Path, size: str):
    """A disk of its own; the returned function changes its size."""
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("this user may not mount anything")
    try:
        yield lambda more: subprocess.run(["mount", "-o", f"remount,size={more}", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_in_a_sentence_and_the_run_goes_on_when_there_is_room(tmp_path, capsys):
    with small_disk(tmp_path / "disk", "120k") as resize:
        out = tmp_path / "disk" / "run"
        command = ["eval", "--limit", "30", "--batch-size", "4", *BRIEF, "--out", str(out)]
        assert main(command) == 2
        assert "No space left on device" in one_sentence(capsys.readouterr().err)
        before = RunStore(out).read_captions()
        assert 0 < len(before) < 30
        assert RunStore(out).read_run().status != "finished"
        resize("50m")
        assert main(command) == 0
        after = RunStore(out).read_captions()
        assert RunStore(out).read_run().status == "finished"
        assert len({row.image_id for row in after}) == len(after) == 30
        assert [row for row in after if row.image_id in {row.image_id for row in before}] == before
        assert len(RunStore(out).read_thumbs([row.image_id for row in after])) == 30
        assert not [path for path in out.rglob(".*") if path.name != ".lock"]
    capsys.readouterr()


def test_times_are_differences_of_a_clock_that_never_jumps():
    """TensorBoard's files want the time of day; nothing else reads a clock that can be set."""
    parts = (TESTS.parent / name for name in ("bench", "explain", "models", "reports"))
    jumping = re.compile(r"\btime\.(time|time_ns|localtime|ctime)\(|\bdatetime\.now\(\)|utcnow\(")
    found = {
        path.name
        for part in parts
        for path in part.rglob("*.py")
        if jumping.search(path.read_text(encoding="utf-8"))
    }
    assert found <= {"logs.py"}


def test_a_run_of_the_future_is_resumed_and_reported(strange, tmp_path, capsys):
    run, command, _ = strange
    out = Path(shutil.copytree(run, tmp_path / "run"))
    command = [*command, "--out", str(out)]
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(
        json.dumps(record | {"created": "2199-01-01T00:00:00Z", "status": "interrupted"})
    )
    captions = (out / "captions.jsonl").read_bytes()
    for path in out.rglob("*"):
        os.utime(path, (4_000_000_000, 7_000_000_000))
    assert main(command) == 0
    assert (out / "captions.jsonl").read_bytes() == captions
    assert all(stage.seconds >= 0 for stage in RunStore(out).read_run().stages)
    assert (out / "report.html").stat().st_mtime < 4_000_000_000
    capsys.readouterr()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_one_sentence(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["eval", "--limit", "1", "--device", "cuda", "--out", str(out)]) == 2
    assert "--device cuda can't be used on this machine" in one_sentence(capsys.readouterr().err)
    assert not out.exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_that_is_full_is_given_smaller_batches(capsys):
    free = torch.cuda.mem_get_info()[0]

    def compute(items):
        torch.empty(len(items) * free // 8, dtype=torch.uint8, device="cuda").zero_()
        return list(items)

    assert [item for batch in in_batches(range(16), 16, compute) for item in batch] == list(range(16))
    assert "out of memory with 16 images at once; going on with 8" in capsys.readouterr().err


def test_a_processor_without_avx2_says_the_same(tmp_path, capsys):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        make_scene("test", number).picture().save(path)
    assert main(["caption", str(DEMO_CHECKPOINT), *map(str, paths)]) == 0
    old = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    done = gazebench("caption", DEMO_CHECKPOINT, *paths, **old)
    assert (done.returncode, done.stdout) == (0, capsys.readouterr().out)


def test_a_run_of_a_later_version_ends_every_command_in_a_sentence(example_run, tmp_path, capsys):
    path = example_run / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": SCHEMA_VERSION + 1}))
    for command in (
        ["report", example_run],
        ["compare", example_run, example_run, "-o", tmp_path / "compare.html"],
        ["score", example_run],
        ["bless", example_run, "-o", tmp_path / "base.toml"],
    ):
        assert main([*map(str, command)]) == 2
        assert "open it with the gazebench that wrote it" in one_sentence(capsys.readouterr().err)
    assert [entry.name for entry in tmp_path.iterdir()] == [example_run.name]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda record: record["metrics"][0].update(value=1e308), "value is 1e+308"),
        (lambda record: record["metrics"][0].update(ci_low=-1e308), "ci_low is -1e+308"),
        (lambda record: record["explanations"]["methods"][3].update(name="\ud800"), "halves of characters"),
    ],
    ids=["value", "interval", "name"],
)
def test_numbers_and_names_of_a_run_that_nothing_can_draw_are_refused(
    example_run, tmp_path, capsys, change, complaint
):
    record = json.loads((example_run / "run.json").read_text())
    change(record)
    (example_run / "run.json").write_text(json.dumps(record))
    for command in (["report", str(example_run)], ["compare", str(example_run), str(example_run)]):
        assert main([*command, "-o", str(tmp_path / "page.html")]) == 2
        assert complaint in one_sentence(capsys.readouterr().err)
    assert not (tmp_path / "page.html").exists()
