"""All that is measured of one image's maps: rows of attributions.parquet."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from bench.config import ExplainConfig, SearchConfig
from bench.stages.observe import Observed, content_words
from explain.agreement import agreement_with_nulls
from explain.attention_tests import attention_trial
from explain.faithfulness import Faithfulness, cell_faithfulness, pixel_faithfulness
from explain.localisation import Localisation, ceiling_localisation, localise, null_localisation
from explain.methods import METHODS, ExplainedCaption, Method, WordMaps
from explain.methods.answers import answer_maps, answer_masks
from explain.methods.base import Place
from explain.nulls import toroidal_p_value
from explain.paths import path_shares
from explain.redecoding import disappeared, sun2022
from explain.robustness import infidelity, max_sensitivity

SHIFTS = 16
"""Toroidal shifts of an attention map that give the agreement's null."""
LEVEL = 0.05
"""A map agrees with attention beyond shifts if its toroidal p-value is at most this."""
PIXEL_WORDS = 2
"""Words of an image whose pixels are perturbed, unless the run is thorough."""
PIXEL_TESTED = (
    "attention", "grid_integrated_gradients", "grid_ablation", "pixel_integrated_gradients", "pixel_guided_backprop",
    "centre", "random", "oracle_grid",
)  # fmt: skip
"""Maps whose pixels are perturbed, unless the run is thorough."""
OPERATORS: tuple[Literal["blur", "grey", "road"], ...] = ("blur", "grey", "road")
"""How pixels are perturbed; the last only where the run is thorough, because it solves a linear system for each."""
DRAWS = 20
"""Perturbations of infidelity and of max-sensitivity."""
RADIUS = 0.02
"""Reach of max-sensitivity's perturbations."""

Maps = Mapping[str, Float[np.ndarray, "word rows cols"]]
Values = Float[np.ndarray, " word"]


class Asked(NamedTuple):
    """What is to be measured of an image."""

    pixels: bool
    """Whether its pixels are perturbed."""
    options: ExplainConfig
    search: SearchConfig
    seed: int


class _Columns:
    """What is measured, by method and column: one number per word, NaN where there is none."""

    def __init__(self, words: int) -> None:
        self._words = words
        self.of: defaultdict[str, dict[str, Values]] = defaultdict(dict)

    def put(
        self, method: str, column: str, values: Sequence[float] | Values, words: Sequence[int] | None = None
    ) -> None:
        """Notes the numbers of some words, of all if `words` is None."""
        whole = self.of[method].setdefault(column, np.full(self._words, np.nan))
        whole[slice(None) if words is None else list(words)] = values

    def put_all(
        self, method: str, values: NamedTuple, words: Sequence[int] | None = None, *, suffix: str = ""
    ) -> None:
        """Notes every field of a tuple of measures under its own name."""
        for column, each in values._asdict().items():
            self.put(method, column + suffix, each, words)


def measure(
    seen: Observed,
    caption: ExplainedCaption,
    found: Mapping[str, WordMaps],
    donors: Float[np.ndarray, "word donor cells"],
    asked: Asked,
) -> list[dict[str, Any]]:
    """Measures every map of an image.

    Args:
        seen: the image.
        caption: the same, as methods take it.
        found: what each method says of each word.
        donors: attention maps of other images.
        asked: what to measure.

    Returns:
        One row per method and word. Maps made from the answer have rows for the words that have a place.
    """
    columns = _Columns(caption.words)
    maps = {name: each.maps for name, each in found.items()}
    answers, full_answers = _answers(caption)
    for name, each in found.items():
        if each.completeness_error is not None:
            columns.put(name, "completeness_error", each.completeness_error)
    _localise(columns, caption.places, maps | answers)
    _localise(columns, caption.places, full_answers)
    _find_things(columns, caption, maps)
    _agree(columns, caption, maps, donors, asked.seed)
    _perturb(columns, seen, caption, maps | answers, asked)
    if asked.options.thorough:
        _shake(columns, caption, found, asked.seed)
    _try(columns, caption, asked.seed)
    return [
        _key(seen, word, method) | {name: values[word] for name, values in columns.of[method].items()}
        for method in (*maps, *answers, *full_answers)
        for word in range(caption.words)
        if method in maps or _has_place(caption, word)
    ]


def _key(seen: Observed, word: int, method: str) -> dict[str, Any]:
    region, silent = seen.regions[word], seen.classes[word] == "function"
    reason = None
    if region is None:
        reason = "a function word has no place" if silent else "no place is known for the word"
    return {
        "image_id": seen.image.image_id,
        "beam_size": seen.row.beam_size,
        "word_index": word,
        "word": seen.row.words[word],
        "word_class": seen.classes[word],
        "method": method,
        "region": None if region is None else "union" if region.unique is None else "unique",
        "reason": reason,
    }


def _has_place(caption: ExplainedCaption, word: int) -> bool:
    return caption.places is not None and caption.places[word] is not None


def _answers(caption: ExplainedCaption) -> tuple[dict[str, Any], dict[str, Any]]:
    """Maps made from the answer, on the grid and as fine as the masks; NaN for words without a place."""
    grid = caption.captioner.grid
    return (
        _stacked(caption, lambda place: answer_maps(place, grid)),
        _stacked(caption, answer_masks),
    )


def _stacked(
    caption: ExplainedCaption, make: Callable[[Place], Mapping[str, Float[np.ndarray, "rows cols"]]]
) -> dict[str, Float[np.ndarray, "word rows cols"]]:
    made = {word: make(place) for word, place in enumerate(caption.places or ()) if place is not None}
    if not made:
        return {}
    some = next(iter(made.values()))
    stacked = {name: np.full((caption.words, *map_.shape), np.nan) for name, map_ in some.items()}
    for word, maps in made.items():
        for name, map_ in maps.items():
            stacked[name][word] = map_
    return stacked


def _localise(columns: _Columns, places: Sequence[Place | None] | None, maps: Maps) -> None:
    for word, place in enumerate(places or ()):
        if place is None or not maps:
            continue
        stack = np.stack([each[word] for each in maps.values()])
        scores = localise(stack, place.mask)
        null = null_localisation(place.mask)
        ceiling = ceiling_localisation(place.mask, (stack.shape[1], stack.shape[2]))
        for number, method in enumerate(maps):
            of_method = Localisation(*(measure[number] for measure in scores))
            columns.put_all(method, of_method, [word])
            columns.put_all(method, null, [word], suffix="_null")
            columns.put_all(method, ceiling, [word], suffix="_ceiling")


def _find_things(columns: _Columns, caption: ExplainedCaption, maps: Maps) -> None:
    """How much of each map, function words' too, lies on any thing that the caption's words speak of."""
    masks = [place.mask for place in caption.places or () if place is not None]
    if not masks:
        return
    things = np.logical_or.reduce(masks)
    for method, each in maps.items():
        columns.put(method, "on_things", localise(each, things).mass)


def _agree(
    columns: _Columns,
    caption: ExplainedCaption,
    maps: Maps,
    donors: Float[np.ndarray, "word donor cells"],
    seed: int,
) -> None:
    """Compares every map but attention's own with attention."""
    compared = [name for name in maps if METHODS[name].kind != "attention"]
    flat = _flat(maps, compared)
    pairs = agreement_with_nulls(
        flat, caption.alphas, donors, grid=caption.captioner.grid, shifts=SHIFTS, seed=seed
    )
    p_values = toroidal_p_value(flat, np.broadcast_to(caption.alphas, flat.shape), caption.captioner.grid)
    for number, method in enumerate(compared):
        unknown = np.isnan(p_values[number]) | (
            len(caption.alphas.T) * LEVEL < 1
        )  # too few shifts to be rare
        beyond = np.where(unknown, np.nan, p_values[number] <= LEVEL)
        columns.put(method, "beyond_shifts", beyond)
    for suffix, values in zip(("", "_null", "_null_word", "_null_shift"), pairs, strict=True):
        for number, method in enumerate(compared):
            columns.put_all(method, type(values)(*(field[number] for field in values)), suffix=suffix)


def _perturb(columns: _Columns, seen: Observed, caption: ExplainedCaption, maps: Maps, asked: Asked) -> None:
    """What happens to content words when what a map marks is taken away."""
    words, options = content_words(seen.classes), asked.options
    names = [name for name in maps if name not in METHODS or not METHODS[name].is_part]
    if not words:
        return
    flat = _flat(maps, names)[:, words]
    _put(columns, names, words, cell_faithfulness(caption, flat, words, seed=asked.seed), "_cells")
    if asked.pixels:
        _perturb_pixels(columns, caption, maps, words, names, asked)
    beam_size, rules, max_steps = seen.row.beam_size, asked.search.rules, asked.search.max_steps
    if options.redecode:
        gone = disappeared(
            caption, flat, words, beam_size=beam_size, rules=rules, max_steps=max_steps, seed=asked.seed
        )
        for number, method in enumerate(names):
            columns.put(method, "disappeared", gone[number], words)
    if options.protocol == "sun2022":
        ablated = sun2022(caption, flat, words, beam_size=beam_size, rules=rules, max_steps=max_steps)
        for number, method in enumerate(names):
            columns.put(method, "sun2022_disappeared", ablated.disappeared[number], words)
            columns.put(method, "sun2022_drop", ablated.drop[number], words)


def _perturb_pixels(
    columns: _Columns,
    caption: ExplainedCaption,
    maps: Maps,
    words: Sequence[int],
    names: Sequence[str],
    asked: Asked,
) -> None:
    draw = np.random.Generator(np.random.PCG64(caption.seed))
    fewer = sorted(draw.permutation(words)[:PIXEL_WORDS].tolist())
    tested = [name for name in names if name in PIXEL_TESTED]
    for operator in OPERATORS[: 3 if asked.options.thorough else 2]:
        # Imputing solves a linear system for each picture, which takes longer than looking at it.
        wide = asked.options.thorough and operator != "road"
        chosen, methods = (words, names) if wide else (fewer, tested)
        part = _flat(maps, methods)[:, chosen]
        found = pixel_faithfulness(caption, part, chosen, operator=operator, seed=asked.seed)
        _put(columns, methods, chosen, found, f"_{operator}")


def _put(
    columns: _Columns, methods: Sequence[str], words: Sequence[int], found: Faithfulness, suffix: str
) -> None:
    for number, method in enumerate(methods):
        columns.put_all(method, Faithfulness(*(field[number] for field in found)), words, suffix=suffix)


def _shake(columns: _Columns, caption: ExplainedCaption, found: Mapping[str, WordMaps], seed: int) -> None:
    """Infidelity and max-sensitivity of attention and of what is computed on the grid."""
    words = range(caption.words)
    for name, each in found.items():
        method = METHODS[name]
        if name == "attention" or (method.kind == "grid" and not method.is_part):
            # The others don't say how much a word's score would change between the baseline and here.
            if method.signed and method.baseline is not None:
                flat = each.maps.reshape(len(each.maps), -1)
                columns.put(
                    name,
                    "infidelity",
                    infidelity(caption, flat, words, multiply_by_inputs=True, draws=DRAWS, seed=seed),
                )
            columns.put(
                name,
                "max_sensitivity",
                max_sensitivity(
                    caption,
                    partial(_maps_of, method),
                    radius=RADIUS,
                    draws=DRAWS,
                    seed=seed,
                ),
            )


def _maps_of(method: Method, caption: ExplainedCaption) -> Float[np.ndarray, "word cells"]:
    return method(caption).maps.reshape(caption.words, -1)


def _try(columns: _Columns, caption: ExplainedCaption, seed: int) -> None:
    """Puts attention on trial."""
    shares = path_shares(caption)
    for path in ("now", "past", "init"):
        columns.put("attention", f"share_{path}", getattr(shares, path))
    columns.put("attention", "path_sum_error", shares.path_sum_error)
    columns.put_all("attention", attention_trial(caption, seed=seed))


def _flat(maps: Maps, names: Iterable[str]) -> Float[np.ndarray, "method word cells"]:
    return np.stack([maps[name].reshape(len(maps[name]), -1) for name in names])
