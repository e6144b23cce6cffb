"""Whether a map depends on what the model has learned, and on the word that is asked about: a veto, no ranking.

Adebayo et al. (2018, arXiv:1810.03292) give the model random weights, from the output towards the input, and
compare the maps before and after: what stays the same shows the picture and not the model. Binder et al. (2023,
arXiv:2211.12486) show that such similarities order methods by things that don't matter (noisy maps pass), so a
method that stays alike is out, and nothing else follows. Sixt et al. (2020, arXiv:1912.09818) ask for another class,
here another word. Hedström et al. (2024, arXiv:2401.06465) compare no maps but their complexity.
"""

import copy
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from explain.agreement import agreement
from explain.methods.base import ExplainedCaption, Method, WordMaps, score_difference
from models.captioner import Captioner

FIRST_WORDS = 6
"""Of each caption, so many words are explained, which takes under half the time of explaining all of them."""
MOST_WORDS = 3
"""Of these, so many are compared: those that the image makes likelier by most nats. The maps of the others are the
shape of next to nothing."""
RANDOM_WORDS = 2
"""Of these, so many are exchanged for a random word, the ones that the image makes likelier by most; each takes a
caption of its own."""
BINS = 100
"""Of the histogram whose entropy is a map's complexity."""
GROUPS = {
    "output": ("output",),
    "recurrence": ("lstm", "initial state", "embedding"),
    "attention": ("gate", "attention"),
    "encoder": ("encoder",),
}
"""Names of the stages that are randomised together unless every stage is wanted, and how their stages' names begin;
from the output on, as far as a decoder with a loop has such an order."""

Test = Literal["cascade", "independent", "random word", "entropy"]
Maps = dict[str, Float[np.ndarray, "word cells"]]
"""By method."""


class Stage(NamedTuple):
    """A part of a captioner."""

    name: str
    modules: tuple[nn.Module, ...]
    """With all the modules in them."""


class SanityRow(NamedTuple):
    """What one test says of one method on one image: means over its words."""

    test: Test
    method: str
    stage: str
    """What is random: this stage and all before it ("cascade"), this stage alone ("independent"), "none" for the
    random word and "all" for the entropy."""
    order: int
    """Of the stage, from 0 at the output; 0 for tests without one."""
    cosine: float
    """Of the original map with the other one, 0 to 1; NaN for the entropy."""
    spearman: float
    """Of the same, -1 to 1."""
    entropy_rise: float
    """(H' - H) / H of the histograms' entropies, NaN but for the entropy; above 0 where the map of a random model is
    the more complex one."""
    words: int
    """Those with a value."""
    reason: str | None
    """Why there is no value, as half a sentence."""


def stages(captioner: Captioner) -> tuple[Stage, ...]:
    """The parts of a captioner in the order in which they are randomised, from the output to the first convolution.

    Args:
        captioner: of any configuration; parts that it lacks, or that nothing reads, are left out.

    Returns:
        Output layers, LSTM, gate, attention, initial state, embedding, then the encoder from deep to shallow: by
        residual stage, else by what lies between poolings, else by convolution.
    """
    config, decoder = captioner.decoder.config, captioner.decoder
    names = {
        "output": ("output_hidden", "output_context", "output"),
        "lstm": ("lstm",),
        "gate": ("gate",),
        "attention": ("annotation_projection", "attention_layers", "hidden_projection", "attention_score"),
        "initial state": ("initial_layers", "initial_hidden", "initial_cell"),
        "embedding": ("embedding",),
    }
    if config.attention == "uniform":
        del names["attention"]
    parts = [
        Stage(stage, tuple(getattr(decoder, name) for name in modules if hasattr(decoder, name)))
        for stage, modules in names.items()
    ]
    return (*(part for part in parts if part.modules), *reversed(_encoder_stages(captioner.encoder)))


def _encoder_stages(encoder: nn.Module) -> list[Stage]:
    """From shallow to deep; none for an encoder without weights."""
    body = encoder
    while len(inner := [child for child in body.children() if _has_weights(child)]) == 1:
        (body,) = inner
    children = list(body.children())
    if not children:
        return [Stage("encoder", (body,))] if _has_weights(body) else []
    layered = [any(map(_has_weights, child.children())) for child in children]
    border = nn.MaxPool2d if any(isinstance(child, nn.MaxPool2d) for child in children) else nn.Conv2d
    begins = layered if any(layered) else [isinstance(child, border) for child in children]
    parts: list[list[nn.Module]] = [[]]
    for child, is_first in zip(children, begins, strict=True):
        if is_first and parts[-1]:
            parts.append([])
        parts[-1].append(child)
    if not any(layered):
        return [Stage(f"encoder block{k}", tuple(part)) for k, part in enumerate(parts, 1)]
    stem = [] if layered[0] else [Stage("encoder stem", tuple(parts.pop(0)))]
    return stem + [Stage(f"encoder layer{k}", tuple(part)) for k, part in enumerate(parts, 1)]


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


@contextmanager
def randomised(captioner: Captioner, stages: Sequence[Stage], *, seed: int) -> Iterator[None]:
    """Gives stages random weights, and the old ones back, bit for bit, whatever happens in between.

    A stage gets the same random weights whichever stages are randomised with it, on whatever device. Modules draw
    them as they do when they are made; those that know no such way have each tensor's values shuffled. The running
    statistics of batch normalisation stay.

    Args:
        captioner: whose stages they are.
        stages: from `stages`.
        seed: of the weights. No generator that anything else draws from is touched.

    Yields:
        None, while the weights are random.
    """
    parameters = [p for stage in stages for module in stage.modules for p in module.parameters()]
    assert {id(p) for p in parameters} <= {id(p) for p in captioner.parameters()}
    with torch.inference_mode(False), torch.no_grad():
        originals = [parameter.clone() for parameter in parameters]
    try:
        for stage in stages:
            _randomise(stage, zlib.crc32(f"{seed}/{stage.name}".encode()))
        yield
    finally:
        # In place, so that each tensor's version rises and copies of it that others keep are seen to be old.
        with torch.inference_mode(False), torch.no_grad():
            for parameter, original in zip(parameters, originals, strict=True):
                parameter.copy_(original)


def _randomise(stage: Stage, seed: int) -> None:
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.no_grad():
        torch.default_generator.manual_seed(seed)  # unlike torch.manual_seed, this is the CPU's alone
        for module in (inner for outer in stage.modules for inner in outer.modules()):
            if not list(module.parameters(recurse=False)):
                continue
            fresh = copy.deepcopy(module).cpu()  # resetting would clear running statistics, too
            reset = getattr(fresh, "reset_parameters", None)
            if reset is not None:
                reset()
            else:
                for values in fresh.parameters(recurse=False):
                    values.copy_(values.flatten()[torch.randperm(values.numel())].view_as(values))
            for old, new in zip(
                module.parameters(recurse=False), fresh.parameters(recurse=False), strict=True
            ):
                old.copy_(new)


@dataclass(frozen=True)
class _Trial:
    """What is asked of each method, and what it answered before anything was made random."""

    caption: ExplainedCaption
    """Cut after the last word that is compared."""
    methods: tuple[Method, ...]
    steps: list[int]
    """The words that are compared."""
    seed: int
    original: Maps
    unable: dict[str, str]
    """Why a method has no maps of this captioner, by its name."""

    def maps(self, caption: ExplainedCaption) -> Maps:
        """Of the same words of this caption under another model."""
        return {method.name: _flat(method(caption))[self.steps] for method in self.methods}


def sanity(
    caption: ExplainedCaption, methods: Sequence[Method], *, seed: int, thorough: bool
) -> list[SanityRow]:
    """Puts methods to the tests on one image.

    The caption stays what it was, and so does the prefix of each word; annotation vectors and attention are those of
    the randomised model. Where the encoder is randomised, integrated gradients on the grid start at the annotation
    vectors of a picture of the mean colour: the data set's mean vectors are the old encoder's.

    A random word is one of the vocabulary that the caption lacks; one of the same word class would be a harder test.

    Args:
        caption: with any number of words; at most `MOST_WORDS` of the first `FIRST_WORDS` are compared.
        methods: those of kind "control" are passed over.
        seed: of the random weights and words, not negative.
        thorough: True for every one of `stages`, False for the four of `GROUPS`.

    Returns:
        For each test, stage and method a row; none for a caption without words.
    """
    if caption.words == 0:
        return []
    steps = _telling_words(caption)[:MOST_WORDS]
    trial = _begin(caption, methods, steps, seed)
    parts = _parts(caption.captioner, thorough=thorough)
    cascade = trial.original
    rows: dict[Test, list[SanityRow]] = {"cascade": [], "independent": []}
    touched: list[Stage] = []
    for order, (name, own) in enumerate(parts.items()):
        touched += own
        cascade = _maps_of_random_model(trial, touched)
        independent = cascade if order == 0 else _maps_of_random_model(trial, own)
        for test, changed, random in zip(rows, (cascade, independent), (touched, own), strict=True):
            blank = _blank(test, name, order)
            rows[test] += _compare(blank, trial.original, changed, _reasons(trial, random))
    return [
        *rows["cascade"],
        *rows["independent"],
        *_random_word(trial, steps[:RANDOM_WORDS]),
        *_complexity(trial, cascade),
    ]


def _blank(test: Test, stage: str, order: int = 0) -> SanityRow:
    return SanityRow(test, "", stage, order, np.nan, np.nan, np.nan, 0, None)


def _telling_words(caption: ExplainedCaption) -> list[int]:
    """The first steps, in the order of how much likelier the image makes their words."""
    gains = score_difference(caption, caption.annotation_baseline)[:FIRST_WORDS]
    order: list[int] = gains.argsort(descending=True, stable=True).tolist()
    return order


def cut(caption: ExplainedCaption, words: int) -> ExplainedCaption:
    """The caption with only its first words to be explained; the others are still there to be read."""
    parts = ("alphas", "donor_alphas", "class_alphas", "places")
    known = {name: getattr(caption, name) for name in parts}
    return replace(caption, **{name: part[:words] for name, part in known.items() if part is not None})


def _begin(caption: ExplainedCaption, methods: Sequence[Method], steps: Sequence[int], seed: int) -> _Trial:
    judged = tuple(method for method in methods if method.kind != "control")
    rising = sorted(steps)
    asked = cut(caption, rising[-1] + 1)
    found = {method.name: method(asked) for method in judged}
    original = {name: _flat(maps)[rising] for name, maps in found.items()}
    unable = {name: maps.reason for name, maps in found.items() if maps.reason is not None}
    return _Trial(asked, judged, rising, seed, original, unable)


def _flat(found: WordMaps) -> Float[np.ndarray, "word cells"]:
    return found.maps.reshape(len(found.maps), -1)


def _parts(captioner: Captioner, *, thorough: bool) -> dict[str, list[Stage]]:
    every = stages(captioner)
    if thorough:
        return {stage.name: [stage] for stage in every}
    grouped = {group: [s for s in every if s.name.startswith(names)] for group, names in GROUPS.items()}
    return {group: members for group, members in grouped.items() if members}


def _maps_of_random_model(trial: _Trial, random: Sequence[Stage]) -> Maps:
    caption, captioner = trial.caption, trial.caption.captioner
    with randomised(captioner, random, seed=trial.seed):
        with torch.inference_mode(False), torch.no_grad():
            annotations, baseline = caption.annotations, caption.annotation_baseline
            if any(stage.name.startswith("encoder") for stage in random):
                pictures = torch.stack([caption.image, torch.zeros_like(caption.image)])
                annotations, baseline = captioner.encode(pictures)
            token_ids = torch.tensor([caption.token_ids[: caption.words]], device=annotations.device)
            said = captioner.decoder(annotations.unsqueeze(0), token_ids, captioner.vocabulary.start)
        seen = replace(
            caption,
            annotations=annotations,
            annotation_baseline=baseline,
            alphas=said.alphas[0].double().cpu().numpy(),
        )
        return trial.maps(seen)


def _reasons(trial: _Trial, random: Sequence[Stage]) -> dict[str, str]:
    """Why maps of some methods can't depend on what is random, or aren't there, as half a sentence."""
    reason = None
    if trial.caption.captioner.decoder.config.attention == "uniform":
        reason = "this model looks at every cell alike"
    elif all(stage.name == "output" for stage in random):
        reason = "attention does not depend on the output layer"
    return trial.unable | _of_attention(trial, reason)


def _of_attention(trial: _Trial, reason: str | None) -> dict[str, str]:
    return {m.name: reason for m in trial.methods if m.kind == "attention" and reason is not None}


def _compare(
    row: SanityRow, original: Maps, changed: Maps, reasons: Mapping[str, str]
) -> Iterator[SanityRow]:
    for name, maps in original.items():
        if name in reasons:
            yield row._replace(method=name, reason=reasons[name])
            continue
        alike = agreement(maps, changed[name])
        words = int((~np.isnan(alike.cosine)).sum())
        yield row._replace(
            method=name,
            cosine=_mean(alike.cosine),
            spearman=_mean(alike.spearman),
            words=words,
            reason=None if words else "no word has two maps that can be compared",
        )


def _random_word(trial: _Trial, steps: Sequence[int]) -> Iterator[SanityRow]:
    caption, vocabulary = trial.caption, trial.caption.captioner.vocabulary
    passed_over = {vocabulary.pad, vocabulary.start, vocabulary.end, vocabulary.unk, *caption.token_ids}
    others = [word for word in range(len(vocabulary)) if word not in passed_over]
    reasons = trial.unable | _of_attention(trial, "attention does not see the word that it is asked about")
    if not others:
        reasons = dict.fromkeys(trial.original, "the vocabulary has no other word") | reasons
    asked = [method for method in trial.methods if method.name not in reasons]
    drawn = np.random.default_rng([trial.seed, caption.seed])
    changed: dict[str, list[Float[np.ndarray, " cells"]]] = {method.name: [] for method in asked}
    for step in steps if asked else ():
        # Nothing is said after the other word, which would have another prefix.
        said = (*caption.token_ids[:step], int(drawn.choice(others)))
        answered = replace(cut(caption, step + 1), token_ids=said)
        for method in asked:
            changed[method.name].append(_flat(method(answered))[step])
    places = [trial.steps.index(step) for step in steps]
    original = {name: maps[places] for name, maps in trial.original.items()}
    answers = {name: np.stack(maps) for name, maps in changed.items()}
    yield from _compare(_blank("random word", "none"), original, answers, reasons)


def _complexity(trial: _Trial, random: Maps) -> Iterator[SanityRow]:
    for name, maps in trial.original.items():
        rise = entropy_rise(maps, random[name])
        words = int((~np.isnan(rise)).sum())
        reason = None if words else trial.unable.get(name, "no word has two maps with an entropy")
        yield _blank("entropy", "all")._replace(
            method=name, entropy_rise=_mean(rise), words=words, reason=reason
        )


def entropy_rise(
    original: Float[np.ndarray, "word cells"], random: Float[np.ndarray, "word cells"]
) -> Float[np.ndarray, " word"]:
    """By which part of itself a map's complexity rises when the model becomes random (Hedström et al. 2024, eMPRT).

    Complexity is the entropy of the histogram of the map's values, in `BINS` bins of equal width from the smallest
    to the largest.

    Args:
        original: maps of the model.
        random: maps of the random model.

    Returns:
        (H' - H) / H for each word; NaN where a map is constant or undefined.
    """
    before, after = _histogram_entropy(original), _histogram_entropy(random)
    return np.asarray((after - before) / before)


def _histogram_entropy(maps: Float[np.ndarray, "word cells"]) -> Float[np.ndarray, " word"]:
    found = np.full(len(maps), np.nan)
    for word, values in enumerate(maps.astype(np.float64)):
        if np.isfinite(values).all() and np.ptp(values) > 0:
            share = np.histogram(values, bins=BINS)[0] / len(values)
            share = share[share > 0]
            found[word] = -(share * np.log(share)).sum()
    return found


def _mean(values: Float[np.ndarray, " word"]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
