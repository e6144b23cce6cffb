"""Writes the checkpoints that a stranger with bad intentions, or a bad connection, might send.

A pickle is a program; these are assembled instruction by instruction, because Python's own pickler would not write
most of them. Every writer takes a folder and returns the file.
"""

import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from foreign_layouts import word_map
from PIL import Image

Writer = Callable[[Path], Path]

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

# ---- assembling pickles -------------------------------------------------------------------------------


def put(value: Any) -> bytes:
    """Instructions that push a plain value; bytes are instructions already."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        return b"}(" + b"".join(put(key) + put(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(put, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(put, value)) + b"t"
    if isinstance(value, str):
        encoded = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(encoded)) + encoded
    return pickle.dumps(value, 2)[2:-1]


def named(name: str) -> bytes:
    """Pushes a class or function: "module name"."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def dotted(module: str, name: str) -> bytes:
    """Pushes what a path of attributes leads to, as protocol 4 allows."""
    return put(module) + put(name) + b"\x93"


def called(name: str, *arguments: Any) -> bytes:
    return named(name) + put(arguments) + b"R"


def instance(name: str, attributes: Any) -> bytes:
    """An instance, made without its constructor, and given attributes."""
    return named(name) + b")\x81" + put(attributes) + b"b"


def module(name: str, *, buffers: Any = None, modules: Any = None) -> bytes:
    """An nn.Module."""
    return instance(
        name, {"training": False, "_parameters": {}, "_buffers": buffers or {}, "_modules": modules or {}}
    )


def storage(key: Any = "0", items: Any = 4, kind: str = "torch FloatStorage", location: Any = "cpu") -> bytes:
    return put(("storage", named(kind), key, location, items)) + b"Q"


def tensor(shape: Any, stride: Any, *, offset: Any = 0, of: bytes | None = None) -> bytes:
    empty = called("collections OrderedDict")
    return called("torch._utils _rebuild_tensor_v2", of or storage(), offset, shape, stride, False, empty)


def program(instructions: bytes, protocol: int = 2) -> bytes:
    return bytes([0x80, protocol]) + instructions + b"."


def zipped(path: Path, instructions: bytes, *, protocol: int = 2) -> Path:
    """A file of torch.save since torch 1.6, with four numbers in storage 0."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program(instructions, protocol))
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/version", b"3\n")
    return path


def stream(
    path: Path,
    instructions: bytes,
    *,
    system: bytes | None = None,
    keys: bytes | None = None,
    numbers: bytes = struct.pack("<q", 4) + bytes(16),
    protocol: int = 2,
) -> Path:
    """A file of torch.save before torch 1.6, with four numbers in storage 0."""
    about = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [
        pickle.dumps(LEGACY_MAGIC, 2),
        pickle.dumps(1001, 2),
        program(put(about) if system is None else system),
    ]
    parts += [program(instructions, protocol), program(put(["0"]) if keys is None else keys), numbers]
    path.write_bytes(b"".join(parts))
    return path


def decoder_only(weights: Any) -> bytes:
    """A checkpoint in which a bomb stands where the decoder's weights are expected."""
    return put({"epoch": 1, "encoder": {}, "decoder": weights})


# ---- code ---------------------------------------------------------------------------------------------


def payloads(marker: Path) -> dict[str, bytes]:
    """Ways to run code on unpickling; each would create the marker."""
    touch, python = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    os = called("importlib import_module", "os")
    inner = pickle.dumps(None)[:-1] + b"0" + called("os system", touch) + b"."
    return {
        "os.system": called("os system", touch),
        "posix.system": called("posix system", touch),
        "subprocess.Popen": called("subprocess Popen", ["touch", str(marker)]),
        "eval": called("builtins eval", python),
        "eval of Python 2": called("__builtin__ eval", python),
        "exec": called("builtins exec", python),
        "open": called("builtins open", str(marker), "w"),
        "import": called("builtins __import__", "booby"),
        "importlib": called("importlib import_module", "booby"),
        "runpy": called("runpy run_module", "booby"),
        "getattr": called("builtins getattr", called("builtins __import__", "os"), "system") + put((touch,)) + b"R",
        "map": called("builtins list", called("builtins map", named("os system"), [touch])),
        "partial": called("functools partial", named("os system"), touch) + b")R",
        "methodcaller": called("operator methodcaller", "system", touch) + put((os,)) + b"R",
        "shutil": called("shutil copyfile", str(marker.parent / "booby.py"), str(marker)),
        "pathlib": dotted("pathlib", "Path.touch") + put((called("pathlib PosixPath", str(marker)),)) + b"R",
        "pickle.loads": called("pickle loads", pickled_bytes(inner)),
        "torch.hub": called("torch.hub _load_local", str(marker.parent), "entry"),
        "torch.utils.collect_env": called("torch.utils.collect_env run", touch),
        "torch.storage": called(
            "torch.storage _load_from_bytes", pickled_bytes(torch_stream(called("os system", touch)))),
        "torch._tensor": called(
            "torch._tensor _rebuild_from_type_v2", named("os system"), named("torch Tensor"), (touch,), {}),
        "through torch.nn": dotted("torch.nn.modules.module", "torch.os.system") + put((touch,)) + b"R",
        "through our own package": dotted("models.captioner", "torch.os.system") + put((touch,)) + b"R",
        "INST": b"(" + put(touch) + b"ios\nsystem\n",
        "OBJ": b"(" + named("os system") + put(touch) + b"o",
        "a parameter of a module": module("torch.nn.modules.linear Linear", buffers={"x": called("os system", touch)}),
        "a key": b"}" + called("os system", touch) + b"Ns",
        "a discarded value": called("os system", touch) + b"0N",
    }  # fmt: skip


def pickled_bytes(content: bytes) -> bytes:
    """Pushes a bytes object."""
    return b"B" + struct.pack("<I", len(content)) + content


def torch_stream(instructions: bytes) -> bytes:
    """A legacy file, as bytes."""
    head = pickle.dumps(LEGACY_MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return head + program(instructions) + pickle.dumps([], 2)


def booby_traps(folder: Path, marker: Path) -> None:
    """Modules that create the marker when they are imported, or when torch.hub runs them."""
    text = f"open({str(marker)!r}, 'w').close()\n"
    for name in ("booby", "models", "model", "dataset", "torch", "hubconf", "utils", "json", "sitecustomize"):
        (folder / f"{name}.py").write_text(text + "def entry(): pass\n")


# ---- what is no checkpoint ----------------------------------------------------------------------------


def jpeg(folder: Path) -> Path:
    Image.new("RGB", (40, 30), "red").save(folder / "picture.pth.tar", "JPEG")
    return folder / "picture.pth.tar"


def real_tar(folder: Path) -> Path:
    """What torch 0.1 wrote: a tar archive of pickles."""
    with tarfile.open(folder / "model.tar", "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            entry = tarfile.TarInfo(name)
            entry.size = 100
            archive.addfile(entry, io.BytesIO(bytes(100)))
    return folder / "model.tar"


def torch_script(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", program(b"c__torch__\nModel\n)\x81}b"))
        archive.writestr("script/code/__torch__.py", "class Model(Module):\n  def forward(self): return 1\n")
        archive.writestr("script/constants.pkl", program(b")"))
        archive.writestr("script/version", "3\n")
    return folder / "script.pt"


def other_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "thesis.docx", "w") as archive:
        archive.writestr("[Content_Types].xml", "<?xml?>")
        archive.writestr("word/document.xml", "<w:document/>")
    return folder / "thesis.docx"


def gpt(folder: Path) -> Path:
    """The weights of a language model."""
    shapes = {"wte.weight": (50, 8), "wpe.weight": (16, 8), "ln_f.weight": (8,), "ln_f.bias": (8,)}
    shapes |= {f"h.{n}.attn.c_attn.weight": (8, 24) for n in range(4)}
    shapes |= {f"h.{n}.mlp.c_fc.weight": (8, 32) for n in range(4)}
    torch.save(
        {f"transformer.{name}": torch.zeros(shape) for name, shape in shapes.items()}, folder / "gpt2.bin"
    )
    return folder / "gpt2.bin"


def file_of(content: bytes | str) -> Writer:
    def write(folder: Path) -> Path:
        (folder / "model.pth.tar").write_bytes(content.encode() if isinstance(content, str) else content)
        return folder / "model.pth.tar"

    return write


NO_CHECKPOINTS: dict[str, tuple[Writer, str]] = {
    "empty": (file_of(b""), "empty"),
    "one byte": (file_of(b"\x80"), "damaged|cut off|known kind"),
    "one byte that could be a pickle": (file_of(b"P"), "known kind"),
    "web page": (file_of("\n\n  <!DOCTYPE html>\n<html><title>404</title></html>"), "web page"),
    "web page in upper case": (file_of("<HTML><BODY>Sign in</BODY></HTML>"), "web page"),
    "Git LFS pointer": (
        file_of("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "git lfs pull",
    ),
    "picture": (jpeg, "JPEG"),
    "text": (file_of("epoch,loss\n1,2\n"), "known kind"),
    "gzip": (file_of(b"\x1f\x8b\x08\x00" + bytes(60)), "gzip"),
    "HDF5": (file_of(b"\x89HDF\r\n\x1a\n" + bytes(60)), "HDF5"),
    "tar": (real_tar, "tar archive"),
    "TorchScript": (torch_script, "TorchScript"),
    "another zip": (other_zip, "zip"),
    "empty zip": (file_of(b"PK\x05\x06" + bytes(18)), "zip"),
    "head of a zip": (file_of(b"PK\x03\x04" + bytes(60)), "damaged|cut off"),
    "plain pickle": (file_of(pickle.dumps({"a": 1})), "pickle"),
    "plain pickle of protocol 0": (file_of(pickle.dumps({"a": 1}, 0)), "known kind|pickle"),
    "another architecture": (gpt, "tensors"),
}
"""What people take for checkpoints -> (writer, what the message says)."""

# ---- what takes memory or time ------------------------------------------------------------------------

MILLION = 1_000_000
DEEP = b")" + b"\x85" * MILLION  # ((((…))))


def laughs(empty: bytes, fill: bytes, levels: int = 60) -> bytes:
    """A container that holds its predecessor twice, sixty times over: 2**60 parts if someone walks them."""
    body = empty + b"q\x00"
    for level in range(1, levels):
        previous = b"h" + bytes([level - 1])
        body += fill.replace(b"?", previous) + b"q" + bytes([level])
    return body


def bomb(instructions: bytes | Callable[[], bytes]) -> Writer:
    """A zip file of instructions, or of a function that gives them, for those that are long."""

    def write(folder: Path) -> Path:
        return zipped(
            folder / "bomb.pth.tar", instructions if isinstance(instructions, bytes) else instructions()
        )

    return write


def bomb_stream(instructions: bytes, **options: bytes) -> Writer:
    return lambda folder: stream(folder / "bomb.pth.tar", instructions, **options)


def weight(shape: Any, stride: Any, *, offset: Any = 0, of: bytes | None = None) -> Writer:
    """A decoder with this tensor; the storage holds four numbers unless `of` is another."""
    return bomb(decoder_only({"fc.weight": tensor(shape, stride, offset=offset, of=of)}))


def legacy_weight(shape: Any, announced: int) -> Writer:
    """A legacy file that announces so many numbers and brings four."""
    weights = tensor(shape, (1,), of=storage(items=announced))
    return bomb_stream(decoder_only({"fc.weight": weights}), numbers=struct.pack("<q", announced) + bytes(16))


def deflated(name: str) -> Writer:
    """One entry of 300 million zeros that takes 300 kB."""

    def write(folder: Path) -> Path:
        path = folder / "bomb.pth.tar"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            weights = tensor((75_000_000,), (1,), of=storage(items=75_000_000))
            contents = {
                "archive/data.pkl": program(decoder_only({"fc.weight": weights})),
                "archive/data/0": bytes(16),
            }
            for entry, content in (contents | {name: bytes(300 * MILLION)}).items():
                archive.writestr(entry, content)
        return path

    return write


def with_entry(name: str) -> Writer:
    """An archive with one more entry."""

    def write(folder: Path) -> Path:
        path = zipped(folder / "bomb.pth.tar", decoder_only({}))
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a name that is there already
            archive.writestr(name, program(b"N"))
        return path

    return write


def huge_directory(folder: Path) -> Path:
    """A zip archive that lists a million entries."""
    path = zipped(folder / "bomb.pth.tar", decoder_only({}))
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    size, start = struct.unpack("<II", content[end + 12 : end + 20])
    entries = content[start : start + size]
    head = bytearray(entries[: 46 + len("archive/data.pkl")])
    more = b"".join(bytes(head[:46]) + b"archive/d%07d" % n for n in range(MILLION))
    directory = entries + more
    wide = struct.pack(
        "<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, MILLION, MILLION, len(directory), start
    )
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, start + len(directory), 1)
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 65535, 65535, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(content[:start] + directory + wide + locator + tail)
    return path


def lying_directory(folder: Path) -> Path:
    """A zip archive whose directory gives its storage 4 GB."""
    path = zipped(folder / "bomb.pth.tar", decoder_only({"fc.weight": tensor((2**30 - 1,), (1,))}))
    content = bytearray(path.read_bytes())
    place = content.rindex(b"archive/data/0") - 46
    content[place + 20 : place + 28] = struct.pack("<II", 2**32 - 4, 2**32 - 4)
    path.write_bytes(content)
    return path


def long_keys() -> bytes:
    """A name of ten million letters, in front of a hundred thousand others."""
    return put({"x" * (10 * MILLION): {f"k{n}": None for n in range(100_000)}})


def copies(function: str, argument: bytes, times: int) -> bytes:
    """A large value, and many calls that copy it."""
    return argument + b"q\x000](" + (named(function) + b"h\x00\x85R") * times + b"e"


def references(value: bytes, times: int) -> bytes:
    """A large value, and a dictionary that holds it under many names."""
    return value + b"q\x000}(" + b"".join(put(f"k{n}") + b"h\x00" for n in range(times)) + b"u"


def long_pickles(folder: Path) -> Path:
    """A legacy file whose five pickles do as much work as they may before they say what is expected."""
    work = b")q\x000" + b"ccollections\nOrderedDict\nq\x010" + b"h\x01h\x00R0" * 1_400_000
    values = [LEGACY_MAGIC, 1001, {"little_endian": True}, {}, []]
    path = folder / "bomb.pth.tar"
    path.write_bytes(
        pickle.dumps(LEGACY_MAGIC, 2)[:-1] + b"".join(work + put(value) + b"." for value in values)
    )
    return path


BOMBS: dict[str, tuple[Writer, str]] = {
    # tensors
    "stride 0": (weight((MILLION, MILLION), (0, 0)), "tensor|storage"),
    "stride 0, legacy": (
        bomb_stream(decoder_only({"fc.weight": tensor((MILLION, MILLION), (0, 0))})), "tensor|storage"),
    "more numbers than the storage": (weight((1000,), (1,)), "tensor|storage"),
    "a storage larger than its entry": (weight((10**12,), (1,), of=storage(items=10**12)), "tensor|storage"),
    "a storage that is not there": (weight((4,), (1,), of=storage("7")), "tensor|storage|damaged"),
    "a storage outside": (weight((4,), (1,), of=storage("../../../../etc/passwd")), "tensor|storage|damaged"),
    "product beyond 64 bits": (weight((2**32, 2**32), (0, 0)), "tensor|storage"),
    "negative shape": (weight((-4,), (1,)), "tensor"),
    "negative stride": (weight((4,), (-1,), offset=3), "tensor"),
    "negative offset": (weight((2,), (1,), offset=-1), "tensor"),
    "offset beyond": (weight((2,), (1,), offset=2**61), "tensor|storage"),
    "stride beyond": (weight((2,), (2**61,)), "tensor|storage"),
    "shape of text": (weight(("4",), (1,)), "tensor"),
    "shape of fractions": (weight((4.0,), (1,)), "tensor"),
    "shape of truth": (weight((True,), (1,)), "tensor"),
    "fewer strides": (weight((2, 2), (1,)), "tensor"),
    "a hundred thousand dimensions": (
        lambda folder: weight((2**61,) * 100_000, (1,) * 100_000)(folder), "tensor|dimensions"),
    "no storage": (weight((4,), (1,), of=put("storage")), "storage|tensor"),
    "storage of objects": (weight((4,), (1,), of=storage(kind="os system")), "os.system"),
    "storage of negative size": (weight((4,), (1,), of=storage(items=-4)), ""),
    "meta tensor": (
        bomb(decoder_only(called("torch._utils _rebuild_meta_tensor_no_storage", None, (10**12,), (1,)))), "meta"),
    "sparse tensor": (bomb(decoder_only(called("torch._utils _rebuild_sparse_tensor", None, None))), "sparse"),
    "a class that runs programs": (
        bomb(put({"x": named("subprocess Popen") + put((["touch", "x"],)) + b"\x81"})), "Popen"),
    # legacy sizes
    "legacy, 4 TB": (legacy_weight((2**40,), 2**40), "announces|damaged|cut off"),
    "legacy, a negative size": (legacy_weight((4,), -1), "announces|damaged|cut off"),
    "legacy, a product beyond 64 bits": (legacy_weight((4,), 2**62), "announces|damaged|cut off"),
    "legacy, keys that are no list": (bomb_stream(decoder_only({}), keys=put({"0": 1})), "damaged|list"),
    "legacy, keys of tuples": (bomb_stream(decoder_only({}), keys=put([(1, 2)])), "damaged|key"),
    "legacy, a million keys": (
        lambda folder: bomb_stream(decoder_only({}), keys=put([str(n) for n in range(MILLION)]))(folder),
        "damaged|storage|tensors"),
    # zip
    "deflated numbers": (deflated("archive/data/0"), "compressed"),
    "deflated pickle": (deflated("archive/data.pkl"), "compressed"),
    "two entries of one name": (with_entry("archive/data.pkl"), "two|twice|same name|one name"),
    "two storages of one name": (with_entry("archive/data/0"), "two|twice|same name|one name"),
    "two pickles": (with_entry("archive2/data.pkl"), "data.pkl|two"),
    "an entry that leads out": (with_entry("../../../../etc/cron.d/hello"), "out of|entry"),
    "an absolute entry": (with_entry("/etc/cron.d/hello"), "out of|entry"),
    "an entry of another system": (with_entry("..\\hello"), "out of|entry"),
    "a million entries": (huge_directory, "entries|zip|large|damaged|memory|MB"),
    "a directory that lies": (lying_directory, ""),
    # nesting
    "a million tuples, one in the other": (bomb(DEEP), ""),
    "a million lists, one in the other": (bomb(b"]" * MILLION + b"a" * (MILLION - 1)), ""),
    "a million dictionaries, one in the other": (
        bomb(b"}" + b"X\x01\x00\x00\x00k}" * MILLION + b"s" * MILLION), ""),
    "a hundred thousand modules, one in the other": (bomb(
        (named("torch.nn.modules.container Sequential") + b")\x81}" + put("_modules") + b"}" + put("0")) * 100_000
        + b"N" + b"ssb" * 100_000), ""),
    "a million marks": (bomb(b"(" * MILLION), ""),
    "a key of a million tuples": (bomb(b"}" + DEEP + b"Ns"), "key|deep|nest"),
    "a set of a million tuples": (bomb(b"\x8f(" + DEEP + b"\x90"), ""),
    "a reference to a million tuples": (bomb(DEEP + b"Q"), "storage|pickle"),
    "a storage's key of a million tuples": (bomb(decoder_only({"w": tensor((4,), (1,), of=storage(key=DEEP))})), ""),
    "laughs of tuples": (bomb(laughs(b")", b"???\x87")), ""),
    "laughs of lists": (bomb(laughs(b"]", b"](??e")), ""),
    "laughs of dictionaries": (bomb(laughs(b"}", b"}(K\x00?K\x01?K\x02?K\x03?u")), ""),
    "laughs of modules": (bomb(put({"decoder": laughs(
        module("torch.nn.modules.container Sequential"),
        module("torch.nn.modules.container Sequential", modules={"0": b"?", "1": b"?"}), 40)})), ""),
    "a dictionary in itself": (bomb(b"}q\x00X\x05\x00\x00\x00stateh\x00s"), ""),
    "a list in itself": (bomb(b"]q\x00h\x00a"), ""),
    "a module in itself": (bomb(put({"encoder": named("models Encoder") + b")\x81q\x00}X\x08\x00\x00\x00_modules"
        b"}X\x06\x00\x00\x00resneth\x00ssb"})), ""),
    # instructions
    "fifty million dictionaries": (bomb(lambda: b"}" * 50 * MILLION), ""),
    "fifty million marks": (bomb(lambda: b"(" * 50 * MILLION), ""),
    "fifty million duplicates": (bomb(lambda: b"N" + b"2" * 50 * MILLION), ""),
    "a memo of two billion": (bomb(b"Nr\xff\xff\xff\x7f"), ""),
    "a memo beyond 64 bits": (bomb(b"Np%d\n" % 2**70), ""),
    "a memo that is not there": (bomb(b"h\x07"), ""),
    "bytes of 2**62": (bomb(b"\x8e" + struct.pack("<Q", 2**62)), "damaged|cut off"),
    "text of 2**63": (bomb(b"\x8d" + struct.pack("<Q", 2**63)), "damaged|cut off"),
    "byte array of 2**40": (bomb(b"\x96" + struct.pack("<Q", 2**40)), ""),
    "frame of 2**63": (bomb(b"\x95" + struct.pack("<Q", 2**63) + b"N"), ""),
    "a number of negative length": (bomb(b"\x8b\xff\xff\xff\xff"), "damaged|cut off"),
    "a number of eight megabytes": (
        bomb(lambda: put({"epoch": b"\x8b" + struct.pack("<I", 8 * MILLION) + b"\x7f" * 8 * MILLION})), "number"),
    "a number of a million digits": (bomb(b"I" + b"9" * MILLION + b"\n"), ""),
    "a long number of a million digits": (bomb(b"L" + b"9" * MILLION + b"L\n"), ""),
    "a fraction of a million digits": (bomb(b"F" + b"9" * MILLION + b"\n"), ""),
    "text with a broken escape": (bomb(b"S'\\q\\x'\n"), ""),
    "keys of one hash": (
        bomb(lambda: b"}(" + b"".join(put(n * (2**61 - 1)) + b"N" for n in range(100_000)) + b"u"), ""),
    "members of one hash": (bomb(lambda: called("builtins set", [n * (2**61 - 1) for n in range(100_000)])), ""),
    "a name of ten megabytes": (bomb(lambda: b"cos\n" + b"x" * 10 * MILLION + b"\n)R"), "pickle|refused"),
    "an extension": (bomb(b"\x82\x01"), "pickle"),
    "a reference of text": (bomb(b"Pstorage\n"), "pickle"),
    "a reference to nothing": (bomb(put(("storage",)) + b"Q"), "pickle"),
    "nothing on the stack": (bomb(b"00000"), ""),
    "no end": (lambda folder: file_of(b"\x80\x02" + b"}" * 100)(folder), "damaged|cut off"),
    "a call of nothing": (bomb(b"N)R"), "pickle"),
    "attributes of a number": (bomb(b"K\x01}b"), "pickle"),
    "attributes that are a list": (bomb(named("models Encoder") + b")\x81]b"), ""),
    "parts that are a list": (bomb(put({"encoder": instance("models Encoder", {"_modules": [1], "_buffers": 3})})), ""),
    "parts of themselves": (
        bomb(put({"encoder": instance("models Encoder", {"__class__": 1, "__dict__": {}, "_modules": {1: 2}})})), ""),
    # copies
    "copies of a list": (bomb(lambda: copies("builtins set", put(list(range(MILLION))), 3000)), ""),
    "copies of a text": (bomb(lambda: copies("builtins list", put("x" * 20 * MILLION), 100)), ""),
    "copies of a dictionary": (
        bomb(lambda: copies("collections OrderedDict", put([(n, n) for n in range(200_000)]), 1000)), ""),
    "copies of a shape": (bomb(lambda: copies("torch Size", put(list(range(MILLION))), 3000)), ""),
    "copies of attributes": (bomb(lambda:
        put({f"attribute{n}": n for n in range(100_000)}) + b"q\x000]("
        + (named("models Encoder") + b")\x81h\x00b") * 3000 + b"e"), ""),
    "copies that are thrown away": (
        bomb(lambda:
            put(list(range(MILLION))) + b"q\x000" + (named("builtins set") + b"h\x00\x85R0") * 100_000 + b"N"), ""),
    "attributes that are set again and again": (bomb(lambda:
        put({f"attribute{n}": n for n in range(100_000)}) + b"q\x000" + named("models Encoder") + b")\x81"
        + b"h\x00b" * 500_000), ""),
    "a long name and its instances": (bomb(lambda:
        b"cx\n" + b"z" * 5 * MILLION + b"Model\nq\x000" + b"h\x00)\x810" * 100_000 + b"N"), ""),
    "many references to a list of words": (
        bomb(lambda: references(put({f"word{n}": n for n in range(300_000)}), 150_000)), ""),
    "many references to a shape": (bomb(lambda: references(put(tuple(range(300_000))), 150_000)), ""),
    "five long pickles": (long_pickles, ""),
    "a long name before many": (bomb(long_keys), ""),
}  # fmt: skip
"""What takes memory or time if one lets it -> (writer, what the message says)."""

# ---- safetensors --------------------------------------------------------------------------------------


def safetensors(
    header: bytes | dict[str, Any] | Callable[[], bytes],
    numbers: bytes = bytes(16),
    *,
    length: int | None = None,
) -> Writer:
    def write(folder: Path) -> Path:
        given = header() if callable(header) else header
        text = given if isinstance(given, bytes) else json.dumps(given).encode()
        path = folder / "bomb.safetensors"
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + numbers)
        return path

    return write


def _entry(start: int, end: int, shape: list[int], kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


def described(description: str) -> Writer:
    """A native checkpoint by its looks, with a description of the stranger's own."""
    return lambda folder: safetensors({"__metadata__": {"gazebench": description}, "x": _entry(0, 16, [4])})(
        folder
    )


_TWICE = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
SAFETENSORS: dict[str, tuple[Writer, str]] = {
    "overlapping": (safetensors({"a": _entry(0, 12, [3]), "b": _entry(4, 16, [3])}), "damaged"),
    "with a hole": (safetensors({"a": _entry(0, 4, [1]), "b": _entry(12, 16, [1])}), "damaged"),
    "one name twice": (safetensors(_TWICE), ""),
    "beyond the end": (safetensors({"a": _entry(0, 1600, [400])}), "damaged"),
    "backwards": (safetensors({"a": _entry(16, 0, [4])}), "damaged"),
    "shape larger than bytes": (safetensors({"a": _entry(0, 16, [2**40])}), "damaged"),
    "product beyond 64 bits": (safetensors({"a": _entry(0, 16, [2**32, 2**32])}), "damaged"),
    "unknown type": (safetensors({"a": _entry(0, 16, [4], "F1")}), "damaged"),
    "header beyond the file": (safetensors({}, length=10**7), "damaged|known kind"),
    "header of 2**63 bytes": (safetensors({}, length=2**63), "damaged|known kind"),
    "header that is no text": (safetensors(b'{"\xff\xfe": 1}'), "damaged"),
    "header of deep lists": (safetensors(b'{"a":' + b"[" * 100_000 + b"}"), "nested too deeply"),
    "100 MB of spaces": (safetensors(lambda: b"{" + b" " * 99_999_000 + b"}", b""), ""),
    "100 MB of dimensions": (
        safetensors(
            lambda: b'{"a":{"dtype":"F32","data_offsets":[0,16],"shape":[' + b"1," * 49 * MILLION + b"4]}}"), ""),
    "a million tensors": (
        safetensors(lambda: b"{" + b",".join(
            b'"%d":{"dtype":"F32","shape":[],"data_offsets":[%d,%d]}' % (n, 4 * n, 4 * n + 4) for n in range(MILLION)
        ) + b"}", bytes(4 * MILLION)), ""),
    "description of empty lists": (lambda folder: described("[" + "[]," * 30 * MILLION + "[]]")(folder), ""),
    "description of deep lists": (described("[" * MILLION), ""),
    "description that is no object": (described("7"), "format version"),
    "description with a huge number": (described('{"format_version": ' + "9" * 100_000 + "}"), ""),
    "without a description": (safetensors({"a": _entry(0, 16, [4])}), ""),
}  # fmt: skip
"""Hostile safetensors files -> (writer, what the message says)."""

# ---- word maps ----------------------------------------------------------------------------------------

RIGHT = word_map()
_FIRST = next(iter(RIGHT))


def _with(**changes: Any) -> str:
    return json.dumps(RIGHT | changes)


def _renamed(old: str, new: str) -> str:
    return json.dumps({new if word == old else word: token_id for word, token_id in RIGHT.items()})


WORD_MAPS: dict[str, tuple[bytes | str | Callable[[], str], str]] = {
    "two words of one id": (_with(red=RIGHT["dog"]), "same id"),
    "a negative id": (_with(red=-1), "id -1"),
    "an id beyond the last": (_with(red=len(RIGHT)), f"id {len(RIGHT)}"),
    "a huge id": (_with(red=2**70), "id"),
    "an id of 5,000 digits": (_with().replace(": 2", ": 2" + "0" * 5000, 1), "JSON|id"),
    "an id that is true": (_with(a=True), "True"),
    "an id that is a fraction": (_with(a=1.0), "1.0"),
    "an id that is text": (_with(a="1"), "'1'"),
    "an id that is nothing": (_with(a=None), "None"),
    "an id that is a list": (_with(a=[1]), "id"),
    "no start": (_renamed("<start>", "begin"), "start"),
    "no end": (_renamed("<end>", "stop"), "end"),
    "no pad": (_renamed("<pad>", "fill"), "pad"),
    "two starts": (_renamed("snow", "<START>"), "start"),
    "another training's": (json.dumps(word_map(("a", "few", "words"))), "7 words.*17 rows.*another training"),
    "a longer one": (json.dumps(word_map(f"word{n}" for n in range(9486))), "9,?490 words.*17 rows"),
    "a million words": (
        lambda: json.dumps(word_map(f"word{n}" for n in range(MILLION))),
        "1,?000,?004 words",
    ),
    "one word twice": (_with().replace('"red"', '"dog"', 1), "dog.*twice"),
    "nesting": ("[" * 100_000, "JSON"),
    "nesting in a word": ('{"a": ' + "[" * 100_000, "JSON"),
    "NaN": (_with(a=float("nan")), "NaN"),
    "infinity": (_with(a=float("inf")), "Infinity"),
    "a list": (json.dumps(list(RIGHT)), "object"),
    "a number": ("7", "object"),
    "cut off": (_with()[:-9], "JSON"),
    "empty": ("", "JSON|empty"),
    "latin-1": ('{"\xfc": 1}'.encode("latin-1"), "JSON|UTF-8|text"),
    "UTF-16": (_with().encode("utf-16"), "JSON|UTF-8|text"),
    "a web page": ("<!DOCTYPE html><html></html>", "JSON"),
    "half a character": (_renamed("red", "\ud800"), "text"),
    "a word of a million letters": (_renamed("red", "x" * MILLION), "word|text"),
    "100 MB of lists": (lambda: "[" + "[]," * 33 * MILLION + "[]]", "bytes|large"),
    "60 MB of lists": (lambda: "[" + "[]," * 20 * MILLION + "[]]", ""),
}
"""Word maps that can't be right -> (content, what the message says)."""

STRANGE_WORDS = {
    "__proto__": "__proto__", "constructor": "constructor", "markup": "</script><img src=x onerror=alert(1)>",
    "emoji": "👩‍👩‍👧‍👦", "right to left": "\u202egpj.exe", "template": "{{7*7}}", "formula": "=cmd|' /C calc'!A0",
    "space": " ", "quotes": "\"'", "separator": "\u2028",
}  # fmt: skip
"""Words that are odd but text."""
