"""Explaining: from captions to attributions.parquet, maps.npz, sanity.parquet and what the report shows of pictures.

What is found of an image is stored at once, in a file of its own; the files are merged when all images have theirs.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bench.config import ExplainConfig, SearchConfig
from bench.data.base import CaptionedImage, GroundTruth
from bench.distributed import barrier, broadcast, together, world
from bench.errors import ConfigError
from bench.progress import complain, say, track
from bench.stages.measures import DRAWS, PIXEL_WORDS, RADIUS, SHIFTS, Asked, measure
from bench.stages.observe import DONORS, Observed, Survey, explained_caption, observe, survey
from bench.stages.workers import LARGE, one_thread, parameters, share_out
from explain.gates import Gate, gates
from explain.methods import METHODS, ExplainedCaption, Method, WordMaps
from explain.methods.answers import ANSWERS
from explain.sanity import sanity
from models.captioner import Captioner
from models.encoder import TrunkEncoder
from models.errors import PictureError
from reports.explained import ExplainedImage, Parts
from reports.records import CaptionRow, ExplanationInfo, Failure, GateRow, ImageExplained, MethodInfo
from reports.store import RunStore, map_key

GATE_IMAGES = 2
"""Images on which every method is checked before it is ranked."""
PIXEL_IMAGES = 24
"""Images whose pixels are perturbed, unless the run is thorough."""
SANITY_IMAGES = 6
"""Images for which weights are made random; `THOROUGH_SANITY_IMAGES` in a thorough run."""
THOROUGH_SANITY_IMAGES = 32
LARGE_SHARE = 1 / 6
"""Of a large captioner (`workers.LARGE`), pixels are perturbed and weights made random for this share of those images,
two at least: of a ResNet-101 at 256 pixels either takes two to three minutes an image.
"""
NO_PLACES = "this data set does not say where its words are in the pictures"


def chosen_methods(options: ExplainConfig) -> list[Method]:
    """The methods that are asked for, in the order of `METHODS`; attention, its paths and the controls always are.

    Args:
        options: what is asked for.

    Returns:
        The methods.

    Raises:
        ConfigError: if there is no such method, or it is unsound and that was not asked for.
    """
    for name in options.methods:
        if name not in METHODS:
            near = ", ".join(name for name, method in METHODS.items() if method.kind in ("grid", "pixels"))
            raise ConfigError(f"--methods names {name!r}; expected some of {near}")
        if METHODS[name].group == "unsound" and not options.unsound:
            raise ConfigError(f"--methods names {name}, which runs only with --unsound: {METHODS[name].note}")
    groups = {"default"} | ({"thorough", "comparison"} if options.thorough else set())
    groups |= {"unsound"} if options.unsound and not options.methods else set()

    def is_chosen(method: Method) -> bool:
        if method.kind in ("attention", "control") or method.is_part:
            return True
        return method.name in options.methods if options.methods else method.group in groups

    return [method for method in METHODS.values() if is_chosen(method)]


def explain(
    captioner: Captioner,
    images: Sequence[CaptionedImage],
    captions: Mapping[str, CaptionRow],
    store: RunStore,
    *,
    ground_truth: GroundTruth | None,
    options: ExplainConfig,
    search: SearchConfig,
    seed: int,
    others: Sequence[CaptionedImage] = (),
    workers: int = 1,
) -> ExplanationInfo | None:
    """Explains one caption of each image, word by word, with every method, and measures every map.

    Each image is seen twice: with all others, for what "nothing there" and "another image" mean, and then alone. What
    the run holds already of the same images is not computed again. Of several processes, each explains its share.

    Args:
        captioner: in eval mode.
        images: those to explain, at least one, the same in every process; those that can't be read are left out.
        captions: what was said of each, by image id.
        store: the run to write to.
        ground_truth: where the data set knows the places of words.
        options: what is computed and measured.
        search: how captions are searched for.
        seed: of everything that is drawn by lot.
        others: images that are not explained, for the mean of the data set where few are.
        workers: processes that share the work of this one, on a CPU; changes no number.

    Returns:
        What was done, for run.json; None in all processes but the first, and if no image could be read.
    """
    place, parts = world(), Parts(store.path)
    with one_thread():
        whole = survey(
            captioner, images, captions, ground_truth, others=others,
            earlier=parts.read_survey(), store=parts.write_survey if place.is_first else None,
        )  # fmt: skip
        baseline, described = whole.baseline()
    work = _Work(
        captioner=captioner,
        whole=whole,
        baseline=baseline,
        ground_truth=ground_truth,
        options=options,
        search=search,
        seed=seed,
        pixel_images=_checked(
            options, len(images) if options.thorough else _fewer(PIXEL_IMAGES, captioner), images
        ),
        sane_images=_checked(
            options, THOROUGH_SANITY_IMAGES if options.thorough else _fewer(SANITY_IMAGES, captioner), images
        ),
        parts=parts,
    )
    tasks = [(number, image, captions[image.image_id]) for number, image in enumerate(images)]
    with together():  # before any process adds to what is there
        lacking = [number for number, image, _ in tasks if not parts.path(number, image.image_id).exists()]
    mine = [tasks[number] for number in broadcast(lacking)[place.rank :: place.size]]
    on_cpu = captioner.device.type == "cpu"
    results = share_out(_explain_one, work, mine, workers=workers if on_cpu else 1)
    for reason in track(results, total=len(mine), label="explaining", unit="images"):
        if reason is not None:
            complain(f"Note: not explained: {reason}")
    barrier()
    if not place.is_first:
        return None
    merged = _merged(store, parts, images)
    if not merged.images:
        return None
    return _told(work, merged, described, [task for task in tasks if task[1].image_id in merged.images])


class _Merged(NamedTuple):
    """What the files of all images say together."""

    images: set[str]
    """Ids of those that were explained."""
    words: int
    seconds: Mapping[str, float]
    """CPU time by method."""
    left_out: tuple[Failure, ...]


def _merged(store: RunStore, parts: Parts, images: Sequence[CaptionedImage]) -> _Merged:
    """Makes attributions.parquet, sanity.parquet and maps.npz of the files of single images."""
    seconds, words, explained, left_out = Counter[str](), 0, set(), []
    with store.writing_explanations() as explanations:
        for number, image in enumerate(images):
            about = explanations.append_part(parts.path(number, image.image_id))
            if about.reason is None:
                explained.add(image.image_id)
                seconds.update(about.seconds)
                words += about.words
            else:
                left_out.append(Failure(image.image_id, about.reason))
    return _Merged(explained, words, seconds, tuple(left_out))


def _told(
    work: "_Work",
    merged: _Merged,
    baseline: str,
    tasks: Sequence[tuple[int, CaptionedImage, CaptionRow]],
) -> ExplanationInfo:
    """What was done, with a check of every method on the first images that were explained."""
    captioner, options = work.captioner, work.options
    methods = chosen_methods(options)
    few = tasks[: _checked(options, GATE_IMAGES, tasks)]
    if few:
        say(f"checking {len(methods)} methods")
    with one_thread():
        checked = [_caption(work, image, row)[1] for _, image, row in few]
        passed = _gated(work.parts, checked, methods) if checked else ()
    told = [_described(method, captioner, merged.seconds[method.name] / merged.words) for method in methods]
    if work.ground_truth is not None:
        told += [MethodInfo(name, label, "control", False, False, source) for name, label, source in ANSWERS]
    return ExplanationInfo(
        beam_size=tasks[0][2].beam_size,
        images=len(tasks),
        words=merged.words,
        annotation_baseline=baseline,
        reason=None if work.ground_truth is not None else NO_PLACES,
        methods=tuple(told),
        gates=tuple(GateRow(**gate._asdict()) for gate in passed),
        resolution=_resolution(captioner),
        settings={
            "images_for_pixels": work.pixel_images,
            "words_for_pixels": None if options.thorough else PIXEL_WORDS,
            "images_for_sanity": work.sane_images,
            "images_for_gates": len(checked),
            "donors": DONORS,
            "shifts": SHIFTS,
            **({"draws": DRAWS, "radius": RADIUS} if options.thorough else {}),
        },
        left_out=merged.left_out,
    )


def _gated(parts: Parts, checked: Sequence[ExplainedCaption], methods: Sequence[Method]) -> list[Gate]:
    """The checks of all methods, those of each stored as soon as they are made."""
    noted = parts.noted(Mapping[str, tuple[GateRow, ...]], "gates") or {}  # type: ignore[type-abstract]
    known = {name: [Gate(**asdict(row)) for row in rows] for name, rows in noted.items()}

    def note(method: str, found: Sequence[Gate]) -> None:
        known[method] = [*found]
        parts.note("gates", {name: [gate._asdict() for gate in rows] for name, rows in known.items()})

    return gates(checked, methods, known=dict(known), note=note)


def _checked(options: ExplainConfig, most: int, images: Sequence[object]) -> int:
    """On how many images something is done, of what not every image needs."""
    return min(most, len(images)) if options.checks else 0


def _fewer(most: int, captioner: Captioner) -> int:
    is_large = parameters(captioner) >= LARGE
    return max(2, round(LARGE_SHARE * most)) if is_large else most


class _Work(NamedTuple):
    """What explaining any image of the run needs."""

    captioner: Captioner
    whole: Survey
    baseline: Float[Tensor, "cells dim"]
    ground_truth: GroundTruth | None
    options: ExplainConfig
    search: SearchConfig
    seed: int
    pixel_images: int
    sane_images: int
    parts: Parts


def _caption(work: _Work, image: CaptionedImage, row: CaptionRow) -> tuple[Observed, ExplainedCaption]:
    seen = observe(work.captioner, image, row, work.ground_truth)
    return seen, explained_caption(work.captioner, seen, work.whole, work.baseline, work.seed)


def _explain_one(work: _Work, number: int, image: CaptionedImage, row: CaptionRow) -> str | None:
    """Explains an image and stores what is found; why it can't be read, if so."""
    try:
        found = _explained(work, number, image, row)
    except PictureError as error:  # it could be read when it was captioned
        found = ExplainedImage(ImageExplained(image.image_id, reason=str(error)))
    work.parts.write(number, found)
    return found.about.reason


def _explained(work: _Work, number: int, image: CaptionedImage, row: CaptionRow) -> ExplainedImage:
    seen, caption = _caption(work, image, row)
    methods = chosen_methods(work.options)
    found: dict[str, WordMaps] = {}
    seconds: dict[str, float] = {}
    for method in methods:
        begun = time.process_time()
        found[method.name] = method(caption)
        seconds[method.name] = time.process_time() - begun
    asked = Asked(number < work.pixel_images, work.options, work.search, caption.seed)
    rows = measure(seen, caption, found, work.whole.donors(seen), asked)
    maps = {
        map_key(image.image_id, row.beam_size, name): maps_.maps.astype(np.float16)
        for name, maps_ in found.items()
        if not name.startswith("attention_")  # those are attention's, of other words
    }
    sane: list[dict[str, object]] = []
    if number < work.sane_images:
        # Weights are made random many times over: what takes many passes through the encoder can't wait for that.
        quick = [m for m in methods if work.options.thorough or m.resolution == "grid" or m.forward <= 1]
        tested = sanity(caption, quick, seed=caption.seed, thorough=work.options.thorough)
        sane = [{"image_id": image.image_id, **test._asdict()} for test in tested]
    return ExplainedImage(ImageExplained(image.image_id, caption.words, seconds), rows, maps, sane)


def _described(method: Method, captioner: Captioner, seconds_per_word: float) -> MethodInfo:
    return MethodInfo(
        name=method.name,
        label=method.label,
        kind=method.kind,
        signed=method.signed,
        complete=method.complete,
        source=method.source,
        resolution=method.resolution,
        baseline=method.baseline,
        steps=method.steps,
        forward=method.forward,
        backward=method.backward,
        hooks=method.hooks(captioner),
        group=method.group,
        note=method.note,
        seconds_per_word=seconds_per_word,
    )


@torch.no_grad()
def _resolution(captioner: Captioner) -> str | None:
    """What must be said of a grid that is finer, or coarser, than what the encoder computes."""
    if not isinstance(captioner.encoder, TrunkEncoder):
        return None
    size = captioner.preprocessing.size
    own = tuple(captioner.encoder.trunk(torch.zeros(1, 3, size, size, device=captioner.device)).shape[2:])
    if own == captioner.grid:
        return None
    (rows, columns), (own_rows, own_columns) = captioner.grid, own
    kind = "finer" if rows > own_rows else "coarser"
    return (
        f"The {rows} × {columns} grid is pooled from the {own_rows} × {own_columns} cells that the encoder computes. "
        f"It is {kind} than what the model can tell apart: neighbouring cells share their evidence, in attention and "
        "in every method alike."
    )
