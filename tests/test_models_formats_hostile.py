"""Checkpoints and word maps of strangers: one sentence, nothing executed, no hang, no flood of memory."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from foreign_layouts import (
    TUTORIAL,
    WORDS,
    Vocabulary,
    make_bot,
    make_tutorial,
    pickled_under,
    save,
    states,
    word_map,
    write_word_map,
)
from hostile_files import (
    BOMBS,
    NO_CHECKPOINTS,
    SAFETENSORS,
    STRANGE_WORDS,
    WORD_MAPS,
    booby_traps,
    payloads,
    program,
    stream,
    zipped,
)

from bench.cli import main
from models.errors import CheckpointError
from models.formats import load_checkpoint

MAX_PEAK = 1500
"""Most memory, in MB, that refusing a file may take, torch's own 300 included."""
GAZEBENCH = Path(sysconfig.get_path("scripts")) / "gazebench"

# Loads one file per line of input. Signals that nobody handles end the process wherever it hangs, after twenty seconds
# of work or a minute of waiting. Writing 5 to clear_refs resets the peak of the memory that the system reports.
_READER = """
import json, re, signal, sys
from pathlib import Path
from models.errors import CheckpointError
from models.formats import load_checkpoint

for line in sys.stdin:
    path, word_map = json.loads(line)
    Path("/proc/self/clear_refs").write_text("5")
    signal.alarm(60)
    signal.setitimer(signal.ITIMER_PROF, 20)
    try:
        load_checkpoint(Path(path), word_map=word_map and Path(word_map))
        verdict = "loaded", ""
    except CheckpointError as error:
        verdict = "refused", str(error)
    except BaseException as error:
        verdict = type(error).__name__, repr(error)
    signal.alarm(0)
    signal.setitimer(signal.ITIMER_PROF, 0)
    peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000
    print(json.dumps([*verdict, peak]), flush=True)
"""


class Verdict(NamedTuple):
    """What became of a file."""

    outcome: str
    """"loaded", "refused", the name of an exception that should not have come out, or the signal that ended it."""
    text: str
    peak: float
    """Resident memory while it was read, in MB."""


class Reader:
    """A process that reads files, one after the other, in a folder full of traps; a new one where it dies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marker = folder / "executed"
        booby_traps(folder, self.marker)
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, path: Path, word_map: Path | None = None) -> Verdict:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _READER], cwd=self.folder, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        self.process.stdin.write(json.dumps([str(path), word_map and str(word_map)]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if answer:
            return Verdict(*json.loads(answer))
        end, self.process = self.process, None
        complaint = end.communicate()[1]
        return Verdict(
            "hang" if end.returncode in (-signal.SIGALRM, -signal.SIGPROF) else f"exit {end.returncode}",
            complaint,
            0,
        )

    def close(self) -> str:
        """Ends the process; what it wrote to stderr."""
        if self.process is None:
            return ""
        self.process.stdin.close()
        complaint = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        assert self.process.wait() == 0
        return complaint


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    reader = Reader(tmp_path_factory.mktemp("traps"))
    yield reader
    assert reader.close() == ""
    assert not reader.marker.exists()


def assert_refused(verdict: Verdict, pattern: str) -> None:
    assert verdict.outcome == "refused", verdict
    assert_one_sentence(verdict.text)
    assert re.search(pattern, verdict.text, re.IGNORECASE), verdict.text
    assert verdict.peak < MAX_PEAK


def assert_one_sentence(text: str) -> None:
    assert text.isprintable(), text
    assert 10 < len(text) < 600


@pytest.fixture
def folder(tmp_path):
    """A folder for hostile files, which are large and go at once."""
    yield tmp_path
    for path in tmp_path.rglob("*"):
        if path.is_file() or path.is_symlink():
            path.unlink()


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_called_what_it_is(reader, folder, name):
    write, pattern = NO_CHECKPOINTS[name]
    assert_refused(reader(write(folder)), pattern)


@pytest.mark.parametrize("name", BOMBS)
def test_what_takes_memory_or_time_is_refused(reader, folder, name):
    write, pattern = BOMBS[name]
    assert_refused(reader(write(folder)), pattern)


@pytest.mark.parametrize("name", SAFETENSORS)
def test_hostile_safetensors_are_refused(reader, folder, name):
    write, pattern = SAFETENSORS[name]
    assert_refused(reader(write(folder)), pattern)


# ---- code -------------------------------------------------------------------------------------------------

PAYLOADS = tuple(payloads(Path("marker")))


def test_the_payloads_below_would_run_if_somebody_unpickled_them(folder):
    """What makes the next test able to fail."""
    order = []
    for number, name in enumerate(PAYLOADS):
        place = folder / str(number)
        place.mkdir()
        booby_traps(place, place / "executed")
        order.append([str(place), as_program(payloads(place / "executed")[name]).hex()])
    subprocess.run(
        [sys.executable, "-P", "-c", _VICTIM],
        input=json.dumps(order), text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert [
        name for name, (place, _) in zip(PAYLOADS, order, strict=True) if not Path(place, "executed").exists()
    ] == []


# What everybody does: each payload is unpickled, in a process of its own.
_VICTIM = """
import json, os, pickle, sys, torch.hub, torch.utils.collect_env

for place, content in json.load(sys.stdin):
    if os.fork() == 0:
        try:
            sys.path.append(place)
            pickle.loads(bytes.fromhex(content))
        finally:
            os._exit(0)
    os.wait()
"""


def as_program(instructions: bytes) -> bytes:
    return program(instructions, 2 if b"__builtin__" in instructions else 4)


def protocol_of(instructions: bytes) -> int:
    return as_program(instructions)[1]


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("container", [zipped, stream], ids=["zip", "legacy"])
def test_code_in_a_checkpoint_is_refused_and_not_run(reader, container, folder, name):
    payload = payloads(reader.marker)[name]
    assert_refused(reader(container(folder / "model.pth", payload, protocol=protocol_of(payload))), "pickle")
    assert not reader.marker.exists()


@pytest.mark.parametrize("part", ["system", "keys"])
def test_code_in_the_small_pickles_of_a_legacy_file_is_refused_and_not_run(reader, folder, part):
    payload = payloads(reader.marker)["os.system"]
    assert_refused(reader(stream(folder / "model.pth", b"}", **{part: payload})), r"os\.system|posix\.system")
    assert not reader.marker.exists()


@pytest.mark.parametrize("name", ["os.system", "eval", "torch.hub", "torch.storage", "subprocess.Popen"])
def test_the_message_names_what_was_to_be_run(reader, folder, name):
    payload = payloads(reader.marker)[name]
    assert name in reader(zipped(folder / "model.pth", payload)).text


def test_code_beside_a_whole_model_is_refused_too(reader, folder, whole):
    """A file that would load but for one value."""

    class Stowaway:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {reader.marker}",)

    encoder, decoder = whole
    for place in ("epoch", "optimizer", "word_map"):
        path = save({"encoder": encoder, "decoder": decoder, place: Stowaway()}, folder / "model.pth")
        assert_refused(reader(path), r"posix\.system")
    assert not reader.marker.exists()


# ---- files ------------------------------------------------------------------------------------------------


def test_what_is_no_file_is_refused_without_waiting(reader, folder):
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "checkpoint.pth.tar").mkdir()
    for name, pattern in {
        "pipe": "regular file", "checkpoint.pth.tar": "folder", "loop": "link|exist|read", "dangling": "exist",
        "/dev/zero": "regular file", "/dev/null": "regular file|empty", "/proc/self/mem": "", "nowhere": "exist",
        "n" * 300: "long|exist",
    }.items():  # fmt: skip
        assert_refused(reader(folder / name), pattern)
    (folder / "pipe").unlink()


def test_unreadable_files_are_refused(reader, folder):
    (folder / "model.pth").write_bytes(bytes(100))
    (folder / "model.pth").chmod(0)
    if os.access(folder / "model.pth", os.R_OK):
        pytest.skip("this user may read everything")
    assert_refused(reader(folder / "model.pth"), "permission")


@pytest.mark.parametrize("name", ["line\nbreak.pth", "\x1b[31mred.pth", "\u202egnp.pth", "\udcff.pth"])
def test_strange_names_of_files_are_printed_in_one_harmless_line(folder, name, capsys):
    (folder / name).write_bytes(b"hello")
    assert main(["inspect", str(folder / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert_one_sentence(err.removesuffix("\n"))


def test_what_lies_where_the_word_map_should_be_is_refused_without_waiting(reader, folder, tutorial_file):
    path = folder / "checkpoint_toy.pth.tar"
    path.symlink_to(tutorial_file)
    beside = folder / "WORDMAP_toy.json"
    os.mkfifo(beside)
    assert_refused(reader(path), "word")
    assert_refused(reader(path, beside), "word")
    beside.unlink()
    beside.mkdir()
    assert_refused(reader(path), "word")
    assert_refused(reader(path, beside), "word")
    assert_refused(reader(path, Path("/dev/zero")), "word")
    assert_refused(reader(path, folder / "nowhere.json"), "word")


# ---- whole models with something wrong -------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    """The state dicts of a tutorial's encoder and decoder, in float16 to be small."""
    return tuple(states(part.half()) for part in make_tutorial())


@pytest.fixture(scope="module")
def tutorial_file(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tutorial")
    yield save({"encoder": whole[0], "decoder": whole[1]}, folder / "checkpoint_toy.pth.tar")
    (folder / "checkpoint_toy.pth.tar").unlink()


def without(*names):
    def change(encoder, decoder):
        for name in names:
            (decoder if name in decoder else encoder).pop(name)

    return change


def replaced(name, value):
    def change(encoder, decoder):
        part = decoder if name in decoder else encoder
        part[name] = value(part[name]) if callable(value) else value

    return change


def moved(old, new):
    def change(encoder, decoder):
        part = decoder if old in decoder else encoder
        part[new] = part.pop(old)

    return change


def with_first(value):
    def change(tensor):
        changed = tensor.clone()
        changed.view(-1)[0] = value
        return changed

    return change


WRONG = {
    "NaN in the output layer": (replaced("fc.weight", with_first(torch.nan)), r"output\.weight .*finite"),
    "infinity in a convolution": (replaced("resnet.5.0.conv1.weight", with_first(torch.inf)), "finite"),
    "minus infinity in a bias": (replaced("decode_step.bias_hh", with_first(-torch.inf)), "finite"),
    "NaN in a running variance": (replaced("resnet.1.running_var", with_first(torch.nan)), "finite"),
    "no output layer": (without("fc.weight"), "decoder|fc|output"),
    "no output bias": (without("fc.bias"), "output.bias|fc.bias"),
    "no embedding": (without("embedding.weight"), "embedding"),
    "no gate": (without("f_beta.weight"), "gate|f_beta"),
    "no running mean": (without("resnet.4.0.bn1.running_mean"), "running_mean"),
    "no first convolution": (without("resnet.0.weight"), "encoder"),
    "no convolution": (without("resnet.6.1.conv2.weight"), "conv2"),
    "a renamed layer": (moved("init_h.weight", "initial_h.weight"), "initial_hidden|init_h"),
    "an output layer of fewer rows": (replaced("fc.weight", lambda t: t[:-1]), "shape|rows"),
    "an output bias of fewer rows": (replaced("fc.bias", lambda t: t[:-1]), "shape|rows"),
    "an embedding of fewer rows": (replaced("embedding.weight", lambda t: t[:-1]), "shape|rows"),
    "an output layer of no rows": (replaced("fc.weight", lambda t: t[:0]), "output|fc"),
    "an output layer of one dimension": (replaced("fc.weight", lambda t: t[0]), "output|fc"),
    "an output layer of no dimension": (replaced("fc.weight", lambda t: t[0, 0]), "output|fc"),
    "another LSTM": (replaced("decode_step.weight_ih", lambda t: t[:, :-1]), "shape"),
    "another width of annotations": (replaced("attention.encoder_att.weight", lambda t: t[:, :300]), "reads 300"),
    "whole numbers": (replaced("fc.weight", lambda t: t.long()), "int64|type"),
    "truth values": (replaced("fc.bias", lambda t: t.bool()), "bool|type"),
    "fractional counters": (replaced("resnet.1.num_batches_tracked", lambda t: t.float()), "float32|type"),
    "complex numbers": (replaced("fc.weight", lambda t: t.float().to(torch.complex64)), "complex|pickle"),
    "numbers instead of tensors": (replaced("fc.weight", 7), "fc|output|decoder"),
    "another block": (
        lambda e, d: e.update({"resnet.7.2.conv1.weight": e["resnet.7.1.conv1.weight"]}), "ResNet|block|conv1"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_models_that_are_broken_or_of_another_kind_are_refused_by_name(folder, whole, name):
    change, pattern = WRONG[name]
    encoder, decoder = map(dict, whole)
    change(encoder, decoder)
    path = save({"encoder": encoder, "decoder": decoder}, folder / "checkpoint_toy.pth.tar")
    write_word_map(folder)
    with pytest.raises(CheckpointError, match=f"(?i){pattern}") as caught:
        load_checkpoint(path)
    assert_one_sentence(str(caught.value))


def test_a_classifier_is_no_captioner(folder, whole):
    path = save(whole[0], folder / "resnet18.pth")
    with pytest.raises(CheckpointError, match="no decoder"):
        load_checkpoint(path)


def test_two_models_in_one_file_are_refused(folder, whole):
    parts = {"encoder": whole[0], "decoder": whole[1]}
    path = save({"best": parts, "last": copy.deepcopy(parts)}, folder / "checkpoint_toy.pth.tar")
    write_word_map(folder)
    with pytest.raises(CheckpointError, match="2 decoders"):
        load_checkpoint(path)


def test_names_that_differ_only_by_wrapping_are_not_mixed(folder, whole):
    encoder, decoder = whole
    doubled = decoder | {f"module.{name}": tensor + 1 for name, tensor in decoder.items()}
    path = save({"encoder": encoder, "decoder": doubled}, folder / "checkpoint_toy.pth.tar")
    write_word_map(folder)
    with pytest.raises(CheckpointError, match="2 decoders"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda e, d: setattr(d.dropout, "p", 7.0),
        lambda e, d: setattr(d.dropout, "p", float("nan")),
        lambda e, d: setattr(d.dropout, "p", "a half"),
        lambda e, d: setattr(e, "enc_image_size", 10**9),
        lambda e, d: setattr(e, "enc_image_size", -14),
        lambda e, d: setattr(e, "enc_image_size", True),
        lambda e, d: setattr(d, "vocab_size", 10**12),
        lambda e, d: setattr(d, "decoder_dim", "512"),
        lambda e, d: setattr(d, "_modules", {**d._modules, 7: d.fc, None: None}),
        lambda e, d: setattr(d, "fine_tune_embeddings", lambda_free_name),
    ],
    ids=range(10),
)
def test_lies_about_settings_change_nothing_or_are_refused(folder, change):
    """Sizes come from tensors; a setting that no tensor vouches for is checked or ignored."""
    encoder, decoder = (part.half() for part in make_tutorial())
    change(encoder, decoder)
    path = save({"encoder": encoder, "decoder": decoder}, folder / "checkpoint_toy.pth.tar")
    write_word_map(folder)
    try:
        captioner = load_checkpoint(path).captioner
    except CheckpointError as error:
        assert_one_sentence(str(error))
        return
    assert captioner.grid == (14, 14)
    assert 0 <= captioner.decoder.config.dropout <= 1
    assert len(captioner.vocabulary) == len(word_map())


lambda_free_name = json.loads  # a function that a pickle would name

ODD_NOTES = {
    "escape codes": "\x1b[2J\x1b[31m", "lines": "a\nb\r\nc", "NaN": float("nan"), "infinity": float("inf"),
    "huge number": 2**120, "long text": "x" * 1_000_000, "half a character": "\ud800", "bytes": b"\xff",
    "list": [1, 2, [3]], "dictionary": {"a": {"b": 1}}, "tensor": torch.tensor(7.0), "class": dict,
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_NOTES)
def test_what_is_kept_of_a_files_notes_is_short_and_strict_json(folder, whole, name):
    parts = {"encoder": whole[0], "decoder": whole[1], "epoch": ODD_NOTES[name], "bleu-4": ODD_NOTES[name]}
    path = save(parts, folder / "checkpoint_toy.pth.tar")
    write_word_map(folder)
    assert len(json.dumps(load_checkpoint(path).training, allow_nan=False)) < 1000


ODD_TEXTS = ("\x1b[31mred", "two\nlines", "\u202eleft", "x" * 1_000_000)


@pytest.mark.parametrize("text", ODD_TEXTS, ids=["escape", "lines", "direction", "long"])
def test_names_that_a_file_gives_its_parts_are_shown_short_and_printable(folder, whole, text):
    write_word_map(folder)
    decoder = whole[1] | {text: torch.zeros(2)}
    parts = {"encoder": whole[0], "decoder": decoder}
    path = save(parts, folder / "checkpoint_toy.pth.tar", location=text)
    if len(text) < 300:  # longer names of tensors are refused
        for note in load_checkpoint(path).notes:
            assert note.isprintable()
            assert len(note) < 600
    for parts in ({text: torch.zeros(2)}, {"decoder": decoder, text: whole[0], "other": whole[0]}):
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(save(parts, folder / "checkpoint_toy.pth.tar"))
        assert_one_sentence(str(caught.value))


@pytest.mark.parametrize("text", ODD_TEXTS, ids=["escape", "lines", "direction", "long"])
def test_names_of_classes_are_shown_short_and_printable(folder, bot_state, text):
    odd = type(f"Vocabulary {text}", (), {})
    vocabulary = odd()
    vars(vocabulary).update(vars(Vocabulary(WORDS[:-1])))
    with pickled_under("dataset", odd):
        torch.save({"vocab": vocabulary, "state_dict": bot_state}, folder / "model.pth", pickle_protocol=4)
    problem = r"16 .*17 rows" if len(text) < 200 else "names a class by more than 200 characters"
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_checkpoint(folder / "model.pth")
    assert_one_sentence(str(caught.value))


def test_weights_of_an_encoder_take_no_more_memory_than_their_file(folder):
    """A hundred transposed views of one storage, which a copy of each would make a hundred times as large."""
    square = torch.zeros(3000, 3000)
    torch.save({f"layer{n}.weight": square.t() for n in range(100)}, folder / "resnet.pth")
    program = (
        "import re; from pathlib import Path; from models.errors import CheckpointError;"
        "from models.formats import encoder_weights\n"
        f"try: encoder_weights(Path({str(folder / 'resnet.pth')!r}))\n"
        "except CheckpointError as error: print('refused')\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1000)"
    )
    run = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert float(run.stdout.split()[-1]) < MAX_PEAK
    assert run.stdout.startswith("refused")


# ---- words ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORD_MAPS)
def test_word_maps_that_can_not_be_right_are_refused_by_name(reader, folder, tutorial_file, name):
    content, pattern = WORD_MAPS[name]
    content = content() if callable(content) else content
    path = folder / "WORDMAP_toy.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    verdict = reader(tutorial_file, path)
    assert_refused(verdict, pattern)
    assert "word" in verdict.text.lower()


def test_a_byte_order_mark_before_a_word_map_changes_nothing(folder, tutorial_file):
    path = folder / "words.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(word_map()).encode())
    assert load_checkpoint(tutorial_file, word_map=path).captioner.vocabulary.words[1] == WORDS[0]


@pytest.mark.parametrize("name", STRANGE_WORDS)
def test_strange_words_are_words(folder, tutorial_file, name):
    words = (STRANGE_WORDS[name], *WORDS[1:])
    path = write_word_map(folder, words=word_map(words))
    assert load_checkpoint(tutorial_file, word_map=path).captioner.vocabulary.words[1:-3] == words


BOT_VOCABULARIES = {
    "no words": ({"itos": None}, "vocabulary"),
    "a list of words": ({"stoi": None}, "vocabulary"),
    "contradicting itself": (lambda v: v.itos.update({4: "b"}), "contradicts|itself"),
    "two words of one id": (lambda v: v.stoi.update(red=4), "id"),
    "a negative id": (lambda v: v.stoi.update(red=-1), "id -1"),
    "an id that is true": (lambda v: v.stoi.update(a=True), "True|id"),
    "a word that is a number": (lambda v: (v.stoi.pop("red"), v.stoi.update({5: 5})), "5"),
    "half a character": (lambda v: (v.stoi.pop("red"), v.stoi.update({"\ud800": 5})), "text"),
    "no end": (lambda v: (v.stoi.pop("<EOS>"), v.stoi.update({"stop": 2})), "end"),
    "one word more": (lambda v: v.stoi.update(bicycle=len(v.stoi)), "18 .*17 rows"),
    "one word fewer": (lambda v: v.stoi.pop("snow"), "16 .*17 rows"),
}


@pytest.fixture(scope="module")
def bot_state():
    return states(make_bot().half())


@pytest.mark.parametrize("name", BOT_VOCABULARIES)
def test_vocabularies_inside_a_checkpoint_are_checked_like_word_maps(folder, bot_state, name):
    vocabulary = Vocabulary(WORDS)
    change, pattern = BOT_VOCABULARIES[name]
    vars(vocabulary).update(change) if isinstance(change, dict) else change(vocabulary)
    path = save({"vocab": vocabulary, "state_dict": bot_state}, folder / "model.pth", module="dataset")
    with pytest.raises(CheckpointError, match=f"(?i){pattern}") as caught:
        load_checkpoint(path)
    assert_one_sentence(str(caught.value))


# ---- damage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["zip", "legacy"])
def test_files_that_are_cut_off_are_refused(reader, folder, name):
    path = TUTORIAL[name].write(*make_tutorial(), folder / "checkpoint_toy.pth.tar")
    write_word_map(folder)
    size = path.stat().st_size
    for length in (size - 1, size - 100, size // 2, 40_000, 1000, 100, 30, 3):
        os.truncate(path, length)
        assert_refused(reader(path), "damaged|cut off|pickle|known kind|zip")


# Flips bytes of a file in place, one to three at a time, and puts them back.
_FLIPPER = """
import json, random, signal, sys, warnings
from collections import Counter
from pathlib import Path
from models.errors import CheckpointError
from models.formats import load_checkpoint

path, word_map, places, flips, seed = json.loads(sys.argv[1])
path, dice, counts = Path(path), random.Random(seed), Counter()
with path.open("r+b", buffering=0) as file:
    for _ in range(flips):
        before = {}
        for _ in range(dice.choice((1, 1, 2, 3))):
            low, high = dice.choice(places)
            place = dice.randrange(low, high)
            file.seek(place)
            before[place] = file.read(1)
            file.seek(place)
            file.write(bytes([before[place][0] ^ dice.randrange(1, 256)]))
        signal.setitimer(signal.ITIMER_PROF, 20)
        try:
            load_checkpoint(path, word_map=Path(word_map))
            counts["loaded"] += 1
        except CheckpointError as error:
            counts["refused"] += 1
            assert str(error).isprintable() and len(str(error)) < 600, ascii(str(error))
        signal.setitimer(signal.ITIMER_PROF, 0)
        for place, byte in before.items():
            file.seek(place)
            file.write(byte)
print(json.dumps(counts))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zip", "legacy"])
def test_five_hundred_flips_give_a_captioner_or_a_sentence_and_nothing_else(folder, name):
    path = folder / "checkpoint_toy.pth.tar"
    encoder, decoder = make_tutorial()
    TUTORIAL[name].write(encoder.half(), decoder.half(), path)
    size, content = path.stat().st_size, path.read_bytes()
    if name == "zip":
        pickled = content.index(b"\x80\x02")
        directory = content.index(b"PK\x01\x02")
        places = [
            (0, pickled),
            (pickled, content.index(b"PK\x03\x04", pickled)),
            (directory, size),
            (0, size),
        ]
    else:
        numbers = content.index(b"\x80\x02]q\x00(X", 1000)
        places = [(0, 200), (0, numbers), (numbers, numbers + 3000), (0, size)]
    order = [path, write_word_map(folder), [*places, places[1], places[1]], 500, 7]
    booby_traps(folder, folder / "executed")
    run = subprocess.run(
        [sys.executable, "-P", "-c", _FLIPPER, json.dumps(order, default=str)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stderr == ""
    counts = json.loads(run.stdout)
    assert counts["loaded"] + counts["refused"] == 500
    assert min(counts.values()) > 20
    assert not (folder / "executed").exists()


# ---- the command ------------------------------------------------------------------------------------------


def gazebench(*arguments: str | Path, folder: Path) -> tuple[int, str, str]:
    """Runs the command in a folder; its exit code, output, and errors."""
    run = subprocess.run(
        [GAZEBENCH, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, preexec_fn=lambda: signal.alarm(120),  # survives exec, and ends what hangs
    )  # fmt: skip
    return run.returncode, run.stdout, run.stderr


needs_the_command = pytest.mark.skipif(not GAZEBENCH.exists(), reason=f"there is no {GAZEBENCH}")


@needs_the_command
@pytest.mark.parametrize(
    "write",
    [
        BOMBS["fifty million dictionaries"][0],
        SAFETENSORS["a million tensors"][0],
        lambda folder: zipped(
            folder / "model.pth", payloads(folder / "executed")["torch.storage"], protocol=4
        ),
        lambda folder: Path("/dev/zero"),
    ],
    ids=["dictionaries", "safetensors", "code", "/dev/zero"],
)
def test_the_command_refuses_with_one_line_and_exit_code_2(folder, write):
    booby_traps(folder, folder / "executed")
    code, out, err = gazebench("inspect", write(folder), folder=folder)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert_one_sentence(err.removesuffix("\n"))
    assert not (folder / "executed").exists()


@needs_the_command
def test_the_command_reads_a_good_file_among_modules_that_shadow_ours(folder, tutorial_file):
    booby_traps(folder, folder / "executed")
    write_word_map(folder)
    code, out, err = gazebench("inspect", tutorial_file, "--word-map", "WORDMAP_toy.json", folder=folder)
    assert (code, err) == (0, "")
    assert "sgrvinod" in out
    assert not (folder / "executed").exists()


@needs_the_command
def test_the_command_prints_no_control_characters_of_the_file(folder, whole):
    words = ("\x1b[31mred", "\0", "\u202eleft", "a\nb", "\x9b2J", *WORDS[5:])
    parts = {"encoder": whole[0], "decoder": whole[1], "epoch": "\x1b]0;title\x07", "bleu-4": float("nan")}
    path = save(parts, folder / "checkpoint_toy.pth.tar")
    write_word_map(folder, words=word_map(words))
    for options in ((), ("--json",)):
        code, out, err = gazebench("inspect", path, *options, folder=folder)
        assert code in (0, 2)
        for line in (out + err).splitlines():
            assert line.isprintable(), line
        if options and code == 0:
            assert json.loads(out, parse_constant=pytest.fail)["layout"] == "sgrvinod"
