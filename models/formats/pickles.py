"""Reading a pickle as data. A pickle is a program for a small stack machine; this machine can only build trees.

Python's own unpickler imports and calls whatever a file names. This one knows no way to do either: a class in the file
becomes a `Name`, an instance of it an `Object` that only remembers its state, and the few functions that checkpoints
really need are interpreted here. Every other function is refused, so that a file that tries to run something is
reported, not just disarmed.
"""

import io
import pickletools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

MAX_BYTES = 64 << 20
"""Longest pickle that is read; the tutorial's take 40 kB, a vocabulary of a million words 50 MB."""
MAX_WORK = 3_000_000
"""Most instructions and copied items in all pickles of a file; the tutorial's hold 14,000."""
_LONGEST_NAME = 200
_MAX_DIMENSIONS = 8
_MAX_INT_BITS = 128


class PickleError(ValueError):
    """A pickle is damaged, asks for something that no checkpoint needs, or is too large; the text says which."""


class Name(NamedTuple):
    """A class or function that a pickle refers to; nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Object:
    """An instance of a class that is not there: its class's name and its attributes."""

    kind: Name
    attributes: dict[str, Any] = field(default_factory=dict)


class Storage(NamedTuple):
    """A run of numbers that lies elsewhere in the file."""

    dtype: str
    """As torch names it; "uint8" for untyped storages."""
    key: str
    location: str
    """The device it was saved from."""


@dataclass(frozen=True, eq=False)
class TensorView:
    """A tensor that a pickle describes: which part of which storage. Nothing about it has been verified."""

    storage: Storage
    dtype: str
    offset: int
    """In items of `dtype`, as are the strides."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Pickle(NamedTuple):
    """What one pickle holds."""

    value: Any
    """Dicts with scalar keys, lists, tuples, scalars, `Name`, `Object`, `TensorView`; parts may be shared or cyclic."""
    end: int
    """Where it ended in the bytes that were read."""
    storages: dict[str, Storage]
    """All storages it refers to, by key."""
    sources: int
    """How many classes it brings source text of; torch embedded it until 1.5, and it is never looked at."""


STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
}  # fmt: skip
_LIBRARY_CLASSES = (
    "torch.nn.", "torch.optim.", "torch.amp.", "torch.cuda.amp.", "torchvision.models.", "torchvision.ops.",
    "torchvision.transforms.",
)  # fmt: skip
_DATA_CLASSES = {Name("argparse", "Namespace")}
_SCALARS = (str, bytes, int, float, bool, type(None))


class Budget:
    """The work that reading a file may still take; shared by all its pickles."""

    def __init__(self) -> None:
        self.left = MAX_WORK

    def spend(self, work: int) -> None:
        """Takes instructions or copied items off; raises PickleError when there are none left."""
        self.left -= work
        if self.left < 0:
            raise PickleError(
                f"its pickle takes more than {MAX_WORK:,} steps to read, which no captioner needs"
            )


def read_pickle(data: bytes, budget: Budget, start: int = 0) -> Pickle:
    """Reads one pickle.

    Args:
        data: holds the pickle; what follows it is not looked at.
        budget: for all pickles of the file.
        start: where it begins.

    Returns:
        Its content.

    Raises:
        PickleError: if it is damaged, too large, or names a function or class that checkpoints have no use for.
    """
    machine = _Machine(budget)
    stream = io.BytesIO(data)
    stream.seek(start)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            budget.spend(1)
            if opcode.name == "STOP":
                return Pickle(machine.stack.pop(), stream.tell(), machine.storages, machine.sources)
            machine.execute(opcode.name, argument)
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, EOFError, OverflowError, AttributeError) as error:
        raise PickleError(
            f"its pickle is damaged or cut off ({str(error)[:80] or type(error).__name__})"
        ) from error
    raise PickleError("its pickle is cut off")


class _Machine:
    """The stack, the memo, and what each instruction does to them (Lib/pickletools.py documents every one)."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.sources = 0

    def execute(self, instruction: str, argument: Any) -> None:
        if instruction in _PUSHED:
            self.stack.append(self._scalar(argument))
        elif instruction in _CONSTANTS:
            self.stack.append(_CONSTANTS[instruction]())
        elif instruction in _INSTRUCTIONS:
            _INSTRUCTIONS[instruction](self, argument)
        elif instruction not in ("PROTO", "FRAME"):
            raise PickleError(f"its pickle uses the instruction {instruction}, which torch.save never writes")

    @staticmethod
    def _scalar(value: Any) -> Any:
        if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
            raise PickleError("its pickle holds a whole number of more than 128 bits")
        return value

    def since_mark(self) -> list[Any]:
        """What was pushed since the last mark, taken off the stack."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def remember(self, key: int | None) -> None:
        self.memo[len(self.memo) if key is None else key] = self.stack[-1]

    def name(self, argument: str | None) -> None:
        if argument is None:
            name, module = self.stack.pop(), self.stack.pop()
        else:
            module, _, name = argument.partition(" ")
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("its pickle names a class by something that is not text")
        if len(module) + len(name) > _LONGEST_NAME:
            raise PickleError("its pickle names a class by more than 200 characters")
        self.stack.append(Name(_MODERN.get(module, module), name))

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise PickleError("its pickle calls something that is not a function")
        if function not in _FUNCTIONS:
            _refuse(f"calls {function}")
        self.budget.spend(sum(len(part) for part in arguments if isinstance(part, list | tuple | dict)))
        self.stack.append(_FUNCTIONS[function](*arguments))

    def new(self, arguments: int) -> None:
        """An instance without a call of its constructor; its arguments are dropped."""
        del self.stack[len(self.stack) - arguments :]
        self.stack.append(_instance(self.stack.pop()))

    def build(self, _: Any) -> None:
        """Sets attributes; those in slots come as the second of a pair."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Object | dict):  # a dict's attributes are torch's notes on versions
            raise PickleError("its pickle sets attributes of something that has none")
        for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
            if isinstance(target, Object) and isinstance(part, dict):
                self.budget.spend(len(part))
                target.attributes.update((key, value) for key, value in part.items() if isinstance(key, str))

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise PickleError("its pickle fills something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def dictionary(self, items: list[Any]) -> None:
        self.stack.append({})
        self.set_items(items)

    def append_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise PickleError("its pickle fills something that is not a list")
        target.extend(items)

    def persistent(self, _: Any) -> None:
        """Follows one of torch's references: to a storage, or to a class with its source text, which is dropped."""
        reference = self.stack.pop()
        match reference:
            case ("module", Name() as kind, _, source):
                self.sources += bool(source)
                self.stack.append(kind)
            case ("storage", Name() as kind, str() | int() as key, str() as location, int(), *view):
                if view not in ([], [None]):
                    raise PickleError(
                        "its pickle holds a view of a storage, which torch has not written since 0.4"
                    )
                if kind.name not in STORAGES or not kind.module.startswith("torch"):
                    _refuse(f"keeps numbers as {kind}")
                storage = Storage(STORAGES[kind.name], str(key), location)
                self.stack.append(self.storages.setdefault(storage.key, storage))
            case _:
                raise PickleError("its pickle refers to something that is neither a storage nor a class")


def _refuse(what: str) -> NoReturn:
    raise PickleError(
        f"its pickle {what[:200]}, which no captioning checkpoint needs; it was not run, and the file is refused"
    )


def _key(key: Any) -> Any:
    """A dictionary's key, if its hash is cheap and can't be made to collide."""
    # Old optimizers keep their state by parameter.
    if isinstance(key, (*_SCALARS, TensorView, Object)) and not (
        isinstance(key, int) and key.bit_length() > 60
    ):
        return key
    raise PickleError(f"its pickle uses a {type(key).__name__} as the key of a dictionary")


def _instance(kind: Any) -> Any:
    if not isinstance(kind, Name):
        raise PickleError("its pickle makes an instance of something that is not a class")
    if kind in _FUNCTIONS and kind.module in ("collections", "builtins"):
        return _FUNCTIONS[kind]()
    root = kind.module.partition(".")[0]
    known = f"{kind.module}.".startswith(_LIBRARY_CLASSES) or kind in _DATA_CLASSES
    of_an_author = root == "__main__" or (root not in sys.stdlib_module_names and root not in _LIBRARIES)
    if not known and not of_an_author:
        _refuse(f"makes an instance of {kind}")
    return Object(kind)


_LIBRARIES = {"torch", "torchvision", "numpy", "pandas", "scipy", "PIL", "pip", "setuptools", "pkg_resources"}
_MODERN = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, *_: Any, dtype: str | None = None
) -> TensorView:
    if not isinstance(storage, Storage):
        raise PickleError("its pickle makes a tensor of something that is not a storage")
    rows = (
        isinstance(shape, tuple)
        and isinstance(stride, tuple)
        and len(shape) == len(stride) <= _MAX_DIMENSIONS
    )
    if not rows or not all(type(value) is int and 0 <= value < 2**62 for value in (offset, *shape, *stride)):
        raise PickleError("its pickle describes a tensor by something other than a few whole numbers")
    return TensorView(storage, dtype or storage.dtype, offset, shape, stride)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, shape: Any, stride: Any, _: Any, __: Any, kind: Any, *___: Any
) -> TensorView:
    if not isinstance(kind, Name) or kind.module != "torch" or kind.name not in STORAGES.values():
        _refuse(f"makes a tensor of type {kind}")
    return _rebuild_tensor(storage, offset, shape, stride, dtype=kind.name)


def _dictionary(pairs: Any = None, *_: Any) -> dict[Any, Any]:
    """An empty dictionary, or one of others or of pairs, as Python 2 wrote them."""
    if pairs is None or isinstance(pairs, Name):  # a defaultdict's factory
        return {}
    return {_key(key): value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)}


def _nothing(*_: Any) -> None:
    """What becomes of values that nothing here reads."""


def _array(*_: Any) -> Object:
    """Of numpy: a type or an array, whose numbers are not read either."""
    return Object(Name("numpy", "ndarray"))


def _ordinary_instance(kind: Any, *_: Any) -> Any:
    return _instance(kind)


_FUNCTIONS: dict[Name, Callable[..., Any]] = {
    Name("builtins", "dict"): _dictionary,
    Name("collections", "OrderedDict"): _dictionary,
    Name("collections", "defaultdict"): _dictionary,
    Name("collections", "Counter"): _dictionary,
    Name("builtins", "set"): lambda items=(): list(items),
    Name("builtins", "list"): lambda items=(): list(items),
    Name("copyreg", "_reconstructor"): _ordinary_instance,
    Name("copyreg", "__newobj__"): _ordinary_instance,
    Name("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    Name("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    Name("torch._utils", "_rebuild_parameter_with_state"): lambda tensor, *_: tensor,
    Name("torch", "Size"): lambda shape=(): tuple(shape),
    Name("torch", "device"): _nothing,
    Name("torch.nn.backends.thnn", "_get_thnn_function_backend"): _nothing,
    Name("torchvision.transforms.functional", "InterpolationMode"): _nothing,
    Name("numpy", "dtype"): _array,
    Name("numpy.core.multiarray", "_reconstruct"): _array,
    Name("numpy._core.multiarray", "_reconstruct"): _array,
    Name("numpy.core.multiarray", "scalar"): _nothing,
    Name("numpy._core.multiarray", "scalar"): _nothing,
    Name("_codecs", "encode"): _nothing,
    Name("datetime", "datetime"): _nothing,
    Name("pathlib", "PosixPath"): _nothing,
    Name("pathlib", "WindowsPath"): _nothing,
}
"""Every function that a pickle may call, with what it amounts to here."""

_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT",
    "BINFLOAT",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}
_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.since_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "PUT": _Machine.remember,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "GET": lambda m, key: m.stack.append(m.memo[key]),
    "BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "LONG_BINGET": lambda m, key: m.stack.append(m.memo[key]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.since_mark())),
    "TUPLE1": lambda m, _: m.stack.append((m.stack.pop(),)),
    "TUPLE2": lambda m, _: m.stack.append((m.stack.pop(), m.stack.pop())[::-1]),
    "TUPLE3": lambda m, _: m.stack.append((m.stack.pop(), m.stack.pop(), m.stack.pop())[::-1]),
    "LIST": lambda m, _: m.stack.append(m.since_mark()),
    "FROZENSET": lambda m, _: m.stack.append(m.since_mark()),
    "APPEND": lambda m, _: m.append_items([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append_items(m.since_mark()),
    "ADDITEMS": lambda m, _: m.append_items(m.since_mark()),
    "DICT": lambda m, _: m.dictionary(m.since_mark()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "NEWOBJ": lambda m, _: m.new(1),
    "NEWOBJ_EX": lambda m, _: m.new(2),
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
