"""The speed probe: how fast a model encodes and decodes, held against reference kernels that are timed in between.

Seconds say little on a machine that others use. The reference kernels are work of the same kind and size, written
down once, in PyTorch's own operators. Task and reference take turns, every millisecond or two while decoding, so that
both meet the same caches, clock rates and neighbours, and the ratio of their times stays when the seconds don't.
The kernels call nothing that encodes or decodes, so they stay as they are when that gets slower or faster. Whoever
changes them, or how they take turns, makes all stored ratios worthless.
"""

import gc
import hashlib
import itertools
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bench.data.base import CaptionedImage
from bench.errors import DataError
from bench.memory import keep_freed_memory
from models.beam import DecodingRules, Hypothesis, beam_search
from models.captioner import Captioner
from models.decoder import AttentionDecoder, DecoderConfig, Memory, State, Step
from models.errors import PictureError
from reports.speed import SpeedRecord, SpeedRow

TIMED = 16
"""Most images that are timed."""
ROUNDS = 60
"""Most rounds of each benchmark."""
FEWEST_ROUNDS = 7
SECONDS = 2.2
"""Processor time after which no further round of a benchmark begins, once there are the fewest."""
ENCODED_FLOPS, DECODED_FLOPS = 2e9, 1e11
"""FLOPs that the encoder may take for the images of one round of encoding, or of decoding, which are one at least. Of
256 pixels, a ResNet-101 encodes one image and six."""
# On Linux: nanoseconds for which the thread ran, nanoseconds for which it waited for a processor, and turns.
_SCHEDULE = Path("/proc/thread-self/schedstat")
# Of the clocks, for one that nothing disturbs; where every reading is disturbed, the last must do.
_READINGS = 5


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keeps away what comes and goes with other programs: the collector, a second thread, memory new to the process.

    Threads wait for the one that doesn't get a processor. And glibc gives large tensors back to the system when they
    are freed; getting them again takes up to half the time of a step, in every process a different part of it.
    """
    keep_freed_memory()
    threads, collects = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if collects:
            gc.enable()


@torch.no_grad()
@_undisturbed()
def measure_speed(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    *,
    beam_size: int,
    rules: DecodingRules,
    max_steps: int | None,
    batch_size: int = TIMED,
    rounds: int = ROUNDS,
) -> SpeedRecord:
    """Times how a few images are encoded and decoded, and counts what that takes.

    "encode" is `captioner.encode`, "decode" is `beam_search`, and "step" is what `AttentionDecoder.step` takes of
    that. One thread computes. Counts come from passes that are not timed. From then on, the process keeps the memory
    that it frees (on glibc).

    Args:
        captioner: in eval mode, on the device to measure.
        images: of which the first are taken; those that can't be read are passed over, and a `DataError` is raised
            if that is all of them.
        beam_size: K.
        rules: what may be said, and which caption is the best.
        max_steps: longest caption; None for the model's own limit.
        batch_size: most images.
        rounds: most rounds of each benchmark.

    Returns:
        The record; without times of the processor where that is not what computes.
    """
    device, decoder = captioner.device, captioner.decoder
    ids, pixels = _read(captioner, images[:batch_size])
    captioner.encode(
        pixels[:1]
    )  # what is prepared at the first call, an encoder's folded copy, is not to be counted
    flops_per_image = count_work(lambda: captioner.encode(pixels[:1]), device)["flops"]
    encoded = pixels[: max(1, int(ENCODED_FLOPS / flops_per_image))]
    decoded = pixels[: max(1, int(DECODED_FLOPS / flops_per_image))]
    annotations = captioner.encode(decoded)
    search = partial(beam_search, captioner, annotations, beam_size, rules=rules, max_steps=max_steps)
    captions, decoder_steps = _captions(decoder, search)
    encoder_kernels = EncoderKernels(captioner.encoder, encoded)
    decoder_kernels = DecoderKernels(decoder.config, annotations, beam_size)
    encoding = _rounds(partial(_encode, captioner, encoded, encoder_kernels), device, rounds)
    decoding = _rounds(partial(_decode, decoder, search, decoder_kernels), device, rounds)
    row = partial(
        SpeedRow,
        sizes={"images": len(decoded), "beam_size": beam_size},
        captions_sha256=hashlib.sha256(json.dumps([ids[: len(decoded)], captions]).encode()).hexdigest(),
    )
    return SpeedRecord(
        processor=_processor(device),
        device=str(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        rows=(
            SpeedRow(
                "encode",
                {"images": len(encoded)},
                **_ratios(encoding, ["encode"], device),
                exact=count_work(lambda: captioner.encode(encoded), device),
                captions_sha256=None,
            ),
            row(
                "decode",
                **_ratios(decoding, ["search", "step"], device),
                exact={"decoder_steps": decoder_steps, **count_work(search, device)},
            ),
            row("step", **_ratios(decoding, ["step"], device), exact={"decoder_steps": decoder_steps}),
        ),
    )


def _read(
    captioner: Captioner, images: Sequence[CaptionedImage]
) -> tuple[list[str], Float[Tensor, "image 3 height width"]]:
    pixels = {}
    for image in images:
        with suppress(PictureError):
            pixels[image.image_id] = captioner.preprocessing(image.picture())
    if not pixels:
        raise DataError(
            f"not one of the first {len(images)} pictures could be read, so speed was not measured"
        )
    return list(pixels), torch.stack(list(pixels.values())).to(captioner.device)


_StepMethod = Callable[[Tensor | None, State, Memory], Step]
_Search = Callable[[], list[list[Hypothesis]]]


def _captions(decoder: AttentionDecoder, search: _Search) -> tuple[list[tuple[int, ...]], int]:
    """What is said, and the rows that `step` steps for it."""
    rows, step = [], decoder.step

    def noted(words: Tensor | None, state: State, memory: Memory) -> Step:
        rows.append(len(state.hidden))
        return step(words, state, memory)

    with _stepping(decoder, noted):
        return [best.token_ids for best, *_ in search()], sum(rows)


@contextmanager
def _stepping(decoder: AttentionDecoder, step: _StepMethod) -> Iterator[None]:
    """Has a decoder call something in place of its method `step`."""
    earlier = vars(decoder).copy()
    vars(decoder)["step"] = step
    try:
        yield
    finally:
        del vars(decoder)["step"]
        vars(decoder).update(earlier)


class _Stopwatch:
    """Books time to the parts of a round.

    The wall clock stands while the thread is ready to run and another one has the processor. So it shows what a
    program waits for of its own accord, and no more of the machine's other users than the processor's time does.
    """

    def __init__(self, device: torch.device, schedule: int | None) -> None:
        self.cpu, self.wall = defaultdict[str, float](float), defaultdict[str, float](float)
        self._device, self._schedule = device, schedule
        self._last = self._now()

    def lap(self, part: str) -> None:
        """Books to a part what has passed since the last call."""
        last, self._last = self._last, self._now()
        self.cpu[part] += self._last[0] - last[0]
        self.wall[part] += self._last[1] - last[1]

    def _now(self) -> tuple[float, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        for _ in range(_READINGS):
            waited = self._waited()
            cpu, wall = time.process_time(), time.perf_counter()
            if waited == self._waited():  # else another thread ran while the clocks were read
                break
        return cpu, wall - waited

    def _waited(self) -> float:
        return 0.0 if self._schedule is None else int(os.pread(self._schedule, 64, 0).split()[1]) / 1e9


def _rounds(task: Callable[[_Stopwatch, int], None], device: torch.device, most: int) -> list[_Stopwatch]:
    """Runs a task, which is told the number of the round, round after round. The first does not count."""
    schedule = os.open(_SCHEDULE, os.O_RDONLY) if _SCHEDULE.exists() else None
    rounds: list[_Stopwatch] = []
    begun = time.process_time()
    while len(rounds) <= most and (len(rounds) <= FEWEST_ROUNDS or time.process_time() - begun < SECONDS):
        rounds.append(_Stopwatch(device, schedule))
        task(rounds[-1], len(rounds))
    if schedule is not None:
        os.close(schedule)
    return rounds[1:]


def _ratios(rounds: Sequence[_Stopwatch], task: Sequence[str], device: torch.device) -> dict[str, Any]:
    """Times of the parts that are the task, as multiples of the kernels'; cpu_ratios and wall_ratios."""

    def ratio(seconds: Mapping[str, float]) -> float:
        return round(sum(seconds[part] for part in task) / seconds["kernels"], 5)

    on_cpu = device.type == "cpu"
    return {
        "cpu_ratios": tuple(ratio(one.cpu) for one in rounds if on_cpu),
        "wall_ratios": tuple(ratio(one.wall) for one in rounds),
    }


def _encode(
    captioner: Captioner,
    pixels: Float[Tensor, "image 3 height width"],
    kernels: "EncoderKernels",
    watch: _Stopwatch,
    number: int,
) -> None:
    """A round of encoding; in every second one, the reference comes first."""
    if number % 2:
        kernels.encode()
        watch.lap("kernels")
    captioner.encode(pixels)
    watch.lap("encode")
    if not number % 2:
        kernels.encode()
        watch.lap("kernels")


def _decode(
    decoder: AttentionDecoder, search: _Search, kernels: "DecoderKernels", watch: _Stopwatch, number: int
) -> None:
    """A round of decoding; the reference comes before every second step, and after the others."""
    turns, step = itertools.count(number), decoder.step

    def timed(words: Tensor | None, state: State, memory: Memory) -> Step:
        watch.lap("search")
        turn, sizes = next(turns), (len(state.hidden), len(memory.annotations))
        if turn % 2:
            kernels.step(*sizes)
            watch.lap("kernels")
        result = step(words, state, memory)
        watch.lap("step")
        if not turn % 2:
            kernels.step(*sizes)
            watch.lap("kernels")
        return result

    kernels.begin()
    watch.lap("kernels")
    with _stepping(decoder, timed):
        search()
    watch.lap("search")


class DecoderKernels:
    """The reference of decoding: the operators of one step of a Show-Attend-Tell decoder, on random numbers.

    Args:
        config: sizes.
        annotations: of the images that are decoded; only their shape and device matter.
        beam_size: K.
    """

    def __init__(
        self, config: DecoderConfig, annotations: Float[Tensor, "image cells dim"], beam_size: int
    ) -> None:
        c, device = config, annotations.device
        images, cells, dim = annotations.shape
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(device)

        def matrix(outputs: int, inputs: int) -> Callable[[Tensor], Tensor]:
            return _product(random(outputs, inputs) / inputs**0.5)

        self._relu = c.attention_activation == "relu"
        self._annotations = random(images, cells, dim)
        self._projected = random(images, cells, c.attention_dim)
        self._words = random(images * beam_size, c.embedding_dim)
        self._hidden, self._cell = random(2, images * beam_size, c.hidden_dim)
        self._projection = matrix(c.attention_dim, dim)
        self._query = matrix(c.attention_dim, c.hidden_dim)
        self._relevance = random(1, c.attention_dim)
        self._gate = matrix(dim if c.gate == "vector" else 1, c.hidden_dim)
        self._from_input = matrix(4 * c.hidden_dim, c.embedding_dim + dim)
        self._from_hidden = matrix(4 * c.hidden_dim, c.hidden_dim)
        self._output = matrix(c.vocabulary_size, c.hidden_dim)

    def begin(self) -> None:
        """What is needed once per image."""
        self._projection(self._annotations.flatten(0, 1))

    def step(self, rows: int, images: int) -> None:
        """One step for `rows` hypotheses, as many of each of `images`, and some of what a search does after it."""
        hidden, beams = self._hidden[:rows], rows // images
        queries = self._query(hidden).view(images, beams, -1)
        at_a_time = max(1, 2**19 // (beams * self._projected[0].numel()))
        parts = (torch.split(numbers, at_a_time) for numbers in (queries, self._projected[:images]))
        relevance = []
        for query, cells in zip(*parts, strict=True):
            mixed = cells.unsqueeze(1) + query.unsqueeze(2)
            mixed = mixed.relu_() if self._relu else mixed.mul_(2).sigmoid_().mul(2).sub_(1)
            relevance.append(functional.linear(mixed, self._relevance))
        alpha = torch.cat(relevance).squeeze(3).softmax(dim=2)
        context = torch.bmm(alpha, self._annotations[:images]).view(rows, -1)
        context = self._gate(hidden).sigmoid() * context
        gates = self._from_input(torch.cat([self._words[:rows], context], dim=1)) + self._from_hidden(hidden)
        first, second, third, fourth = gates.chunk(4, dim=1)
        cell = second.sigmoid() * self._cell[:rows] + first.sigmoid() * third.tanh()
        hidden = fourth.sigmoid() * cell.tanh()
        scores = self._output(hidden).log_softmax(dim=1)
        best, words = scores.topk(min(beams, scores.shape[1]), dim=1)
        for _ in range(
            3
        ):  # small operators, which cost little but their call: steps and searches have more of them
            row = words[:, 0] % rows
            hidden, cell = hidden[row], cell[row]
            places = torch.cat([best, best], dim=1).masked_fill(best[:, :1] > 0, 0.0).view(images, -1)
            places.topk(beams, dim=1)[1].sum(dim=1).tolist()


def _product(matrix: Float[Tensor, "outputs inputs"]) -> Callable[[Tensor], Tensor]:
    """Multiplies by a matrix in the fastest way that PyTorch has."""
    packs: bool = matrix.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not packs or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return lambda rows: functional.linear(rows, matrix)
    packed = torch.ops.mkldnn._reorder_linear_weight(matrix, 16)

    def product(rows: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")
        return result

    return product


class EncoderKernels:
    """The reference of encoding: an encoder's convolutions, each with batch normalisation and ReLU, on random numbers.

    Args:
        encoder: whose convolutions; only their shapes matter.
        pixels: what it encodes.
    """

    def __init__(self, encoder: nn.Module, pixels: Float[Tensor, "image 3 height width"]) -> None:
        self._layers: list[Callable[[], None]] = []
        generator = torch.Generator().manual_seed(0)

        def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            assert isinstance(layer, nn.Conv2d)
            numbers, weight = (
                torch.randn(tensor.shape, generator=generator).to(pixels.device)
                for tensor in (*inputs, layer.weight)
            )
            ones = torch.ones(output.shape[1], device=pixels.device)
            sizes: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation, layer.groups)

            def run() -> None:
                convolved = functional.conv2d(numbers, weight, None, *sizes)
                functional.batch_norm(convolved, ones, ones, ones, ones).relu()

            self._layers.append(run)

        layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
        hooks = [layer.register_forward_hook(note) for layer in layers]
        try:
            with (
                torch.enable_grad()
            ):  # without gradients, encoders may run another program than their layers say
                encoder(pixels)
        finally:
            for hook in hooks:
                hook.remove()

    def encode(self) -> None:
        """All of them, one after the other."""
        for layer in self._layers:
            layer()


class _Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what operators do: FLOPs of products and convolutions, and bytes of tensors alive at once.

    Tensors that were there before are not counted, nor is what an operator needs within itself.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.peak_bytes = 0
        self._alive = WeakKeyDictionary[torch.UntypedStorage, int]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch loads its compiler, for seconds, only to keep it away from here

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for storage in _storages((args, kwargs)):
            self._alive.setdefault(storage, 0)
        result = func(*args, **kwargs)
        operator = func._overloadpacket
        if operator in flop_registry:
            self.flops += flop_registry[operator](*args, **kwargs, out_val=result)
        elif str(operator) == "mkldnn._linear_pointwise":
            self.flops += 2 * result.numel() * args[0].shape[-1]
        elif str(operator) == "aten.mkldnn_convolution":
            self.flops += 2 * result.numel() * args[1][0].numel()
        for storage in _storages(result):
            self._alive.setdefault(storage, storage.nbytes())
        self.peak_bytes = max(self.peak_bytes, sum(self._alive.values()))
        return result


def _storages(values: object) -> list[torch.UntypedStorage]:
    return [
        leaf.untyped_storage()
        for leaf in tree_leaves(values)
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided
    ]


def count_work(task: Callable[[], object], device: torch.device) -> dict[str, int]:
    """Counts what a task computes, which is the same whenever it computes the same.

    Args:
        task: what to run.
        device: where it computes.

    Returns:
        "flops": two for each multiply-add of matrix products and convolutions, as they are computed; "peak_bytes":
        the most that its tensors take at once, beyond those that are there before.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    with _Work() as work:
        task()
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else work.peak_bytes
    return {"flops": work.flops, "peak_bytes": peak}


def _processor(device: torch.device) -> str:
    """What computes, by its maker's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    described = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [
        line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("model name")
    ]
    return names[0] if names else platform.processor() or platform.machine()
