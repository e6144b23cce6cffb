"""Batched beam search. Greedy decoding is beam size 1."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.captioner import Captioner
from models.decoder import Memory, State, Step
from models.errors import CheckpointError
from models.vocabulary import Vocabulary


@dataclass(frozen=True)
class DecodingRules:
    """What may be said, and which caption is the best."""

    length_exponent: float = 0.7
    """Captions are ranked by log p / ((5 + T) / 6) ** this, where T counts `<end>` (Wu et al. 2016,
    arXiv:1609.08144, eq. 14, without the coverage term). 0 ranks by log p alone, which favours short captions."""
    allow_unknown: bool = True
    """Whether `<unk>` may be said."""
    no_repeat: int = 0
    """No run of this many words occurs twice in a caption; 0 for no such rule."""
    allow_special: bool = False
    """Whether `<pad>` and `<start>` may be said."""
    keep_unfinished: bool = True
    """Whether a hypothesis without `<end>` at the last step is ranked with the finished ones. If not, it is
    returned only where nothing has finished."""

    def score(self, log_prob: Float[Tensor, "*shape"], length: int) -> Float[Tensor, "*shape"]:
        """What captions of `length` steps, `<end>` included, are ranked by."""
        penalty: float = ((5 + length) / 6) ** self.length_exponent
        return log_prob / penalty


DECODINGS = {
    "default": DecodingRules(),
    "tutorial": DecodingRules(length_exponent=0.0, allow_special=True, keep_unfinished=False),
}
"""Rules by name. "tutorial" is the search of sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning, which fails where
nothing finishes; here such an image gets its best unfinished hypothesis."""


@dataclass(frozen=True)
class Hypothesis:
    """One decoded caption."""

    token_ids: tuple[int, ...]
    """What was said, T tokens, closing with `<end>` if `finished`."""
    word_log_probs: tuple[float, ...]
    """Log-probability of each token in nats, given the earlier ones."""
    alphas: Float[Tensor, "step cells"]
    """Where each step looked, on the CPU."""
    finished: bool
    """False if the search stopped before `<end>` was said."""
    score: float
    """What it was ranked by."""

    @property
    def log_prob_nats(self) -> float:
        """Log-probability of the whole caption in nats."""
        return sum(self.word_log_probs)


@dataclass
class _Beams:
    """The live hypotheses of the images still being decoded. One row is one hypothesis, image by image."""

    image: Int[Tensor, " image"]  # index of each image in the caller's batch
    memory: Memory
    state: State
    words: Int[Tensor, "row step"]
    id: Int[Tensor, " row"]  # of the last word
    log_probs: Float[Tensor, "image beam"]  # of all words together; -inf marks an empty place
    places: Int[Tensor, " image"]  # beam size less the hypotheses that have finished
    most_places: int


@dataclass(frozen=True)
class _Words:
    """The words that one step added to hypotheses. A caption is read from its last word, from parent to parent."""

    id: Int[Tensor, "image beam"]  # counts from 0, through all steps
    parent: Int[Tensor, " row"]  # id of the word before; -1 at the first step
    word: Int[Tensor, "image beam"]
    word_log_prob: Float[Tensor, "image beam"]
    log_probs: Float[Tensor, "image beam"]  # of all words together; -inf marks an empty place
    alpha: Float[Tensor, "row cells"]
    image: Int[Tensor, " image"]


@dataclass(frozen=True)
class _Ranking:
    """The best captions of every image so far, best first."""

    score: Float[Tensor, "image rank"]  # -inf marks an empty rank
    id: Int[Tensor, "image rank"]  # of the last word


@torch.no_grad()
def beam_search(
    captioner: Captioner,
    annotations: Float[Tensor, "batch cells dim"],
    beam_size: int,
    *,
    rules: DecodingRules = DECODINGS["default"],
    n_best: int = 1,
    max_steps: int | None = None,
    memory: Memory | None = None,
) -> list[list[Hypothesis]]:
    """Decodes a batch of images with the same beam size.

    The most probable continuations of an image's hypotheses stay at each step; being equally long, they are
    compared by log-probability. A finished hypothesis leaves its beam, which goes on with one place less, and is
    ranked by `rules`; the first of equal scores wins. An image is done when no live hypothesis can still come
    among its `n_best`: log-probabilities only fall, so this changes no result. A hypothesis whose continuations
    are all forbidden or impossible is given up; where none is left, the last ones are returned as unfinished.

    Args:
        captioner: in eval mode.
        annotations: from `captioner.encode`.
        beam_size: K, at least 1.
        rules: what may be said, and which caption is the best.
        n_best: how many captions of an image are wanted, at least 1; there are no more than `beam_size`.
        max_steps: longest caption in steps, `<end>` included; None for `captioner.max_steps`.
        memory: `captioner.decoder.remember(annotations)` where the caller has it already.

    Returns:
        The best captions of each image, best first, all different; at least 1 and at most `n_best`.

    Raises:
        CheckpointError: if the model computes NaN, or gives every word that may be said probability 0.
    """
    max_steps = captioner.max_steps if max_steps is None else max_steps
    assert min(beam_size, n_best, max_steps) >= 1
    assert rules.length_exponent >= 0
    if len(annotations) == 0:
        return []
    vocabulary = captioner.vocabulary
    never_said = _never_said(vocabulary, rules).to(annotations.device)
    beams, best = _begin(captioner, annotations, beam_size, n_best, memory)
    history: list[_Words] = []
    read = captioner.decoder.first_words(len(annotations), vocabulary.start)
    for t in range(max_steps):
        step = captioner.decoder.step(read, beams.state, beams.memory)
        step.log_probs.index_fill_(1, never_said, -torch.inf)
        _forbid_repeats(step.log_probs, beams.words, rules.no_repeat)
        new = _extend(beams, step, sum(words.id.numel() for words in history))
        history.append(new)
        ended = new.word == vocabulary.end
        rank_all = rules.keep_unfinished and t + 1 == max_steps
        _rank(best, new, ended | rank_all | new.log_probs.isnan(), rules, t + 1)  # a NaN must be noticed
        beams.log_probs = new.log_probs.masked_fill(ended, -torch.inf)
        beams.places = beams.places - (ended & new.log_probs.isfinite()).sum(dim=1)
        if not _narrow(beams, best, rules, max_steps):
            break
        read = beams.words[:, -1]
    _fall_back(best, history, rules)
    if not best.score[:, 0].isfinite().all():  # NaN counts as the largest of numbers
        raise CheckpointError(
            "the model's word scores are not numbers; its weights are broken or far out of range"
        )
    return _read(best, history, vocabulary.end)


def _never_said(vocabulary: Vocabulary, rules: DecodingRules) -> Int[Tensor, " word"]:
    special = () if rules.allow_special else (vocabulary.pad, vocabulary.start)
    unknown = () if rules.allow_unknown or vocabulary.unk is None else (vocabulary.unk,)
    # Some models use one token for several roles; a caption has to be able to end.
    return torch.tensor([*{*special, *unknown} - {vocabulary.end}], dtype=torch.long)


def _begin(
    captioner: Captioner,
    annotations: Float[Tensor, "batch cells dim"],
    beam_size: int,
    n_best: int,
    memory: Memory | None,
) -> tuple[_Beams, _Ranking]:
    images = torch.arange(len(annotations), device=annotations.device)
    dtype = torch.promote_types(annotations.dtype, torch.float32)  # 16 bits are not enough for sums
    beams = _Beams(
        image=images,
        memory=captioner.decoder.remember(annotations) if memory is None else memory,
        state=captioner.decoder.initial_state(annotations),
        words=images.new_empty(len(images), 0),
        id=torch.full_like(images, -1),
        log_probs=annotations.new_zeros(len(images), 1, dtype=dtype),
        places=torch.full_like(images, beam_size),
        most_places=beam_size,
    )
    score = annotations.new_full((len(images), n_best), -torch.inf, dtype=dtype)
    return beams, _Ranking(score, torch.full_like(score, -1, dtype=torch.long))


def _forbid_repeats(
    log_probs: Float[Tensor, "row vocabulary"], words: Int[Tensor, "row step"], length: int
) -> None:
    """Makes every word impossible, in place, that would complete a run of `length` words said before."""
    said = words.shape[1]
    if not 0 < length <= said:
        return
    runs = words.unfold(1, length, 1)  # (rows, T) -> (rows, T - length + 1, length)
    beginning = words[:, said - length + 1 :]
    repeated = (runs[:, :, :-1] == beginning.unsqueeze(1)).all(dim=2)
    ceiling = torch.full_like(repeated, torch.inf, dtype=log_probs.dtype).masked_fill(repeated, -torch.inf)
    log_probs.scatter_reduce_(1, runs[:, :, -1], ceiling, "amin")


def _extend(beams: _Beams, step: Step, first_id: int) -> _Words:
    """Replaces the live hypotheses of each image by their best continuations, as many as it has places."""
    images, old_width = beams.log_probs.shape
    # No more continuations of one hypothesis can stay than there are places.
    likeliest, words = step.log_probs.topk(min(beams.most_places, step.log_probs.shape[1]), dim=1)
    candidates = (beams.log_probs.view(-1, 1) + likeliest).view(images, -1)
    log_probs, chosen = candidates.topk(min(beams.most_places, candidates.shape[1]), dim=1)
    width, device = log_probs.shape[1], log_probs.device
    too_many = torch.arange(width, device=device) >= beams.places.unsqueeze(1)
    first_rows = torch.arange(0, images * old_width, old_width, device=device)
    row = (chosen // likeliest.shape[1] + first_rows.unsqueeze(1)).flatten()
    new = _Words(
        id=torch.arange(first_id, first_id + images * width, device=device).view(images, width),
        parent=beams.id[row],
        word=words.view(images, -1).gather(1, chosen),
        word_log_prob=likeliest.view(images, -1).gather(1, chosen),
        log_probs=log_probs.masked_fill(too_many, -torch.inf),
        alpha=step.alpha[row],
        image=beams.image,
    )
    beams.state = State(*(part[row] for part in step.state))
    beams.words = torch.cat([beams.words[row], new.word.view(-1, 1)], dim=1)
    beams.id = new.id.flatten()
    return new


def _rank(
    best: _Ranking, new: _Words, ranked: Bool[Tensor, "#image #beam"], rules: DecodingRules, length: int
) -> None:
    """Puts hypotheses among the best of their images, behind those of the same score that are there already."""
    score = rules.score(new.log_probs, length).masked_fill(~ranked, -torch.inf)
    score, order = torch.cat([best.score[new.image], score], dim=1).sort(dim=1, descending=True, stable=True)
    ids = torch.cat([best.id[new.image], new.id], dim=1).gather(1, order)
    best.score[new.image], best.id[new.image] = (part[:, : best.id.shape[1]] for part in (score, ids))


def _fall_back(best: _Ranking, history: list[_Words], rules: DecodingRules) -> None:
    """Gives images of which nothing is ranked the hypotheses that lived last."""
    for t, last in reversed(list(enumerate(history))):
        empty = best.score[:, 0] == -torch.inf
        if not empty.any():
            return
        _rank(best, last, empty[last.image].unsqueeze(1), rules, t + 1)


def _narrow(beams: _Beams, best: _Ranking, rules: DecodingRules, max_steps: int) -> bool:
    """Forgets images that are decided and places that no image has any more; tells whether anything is left."""
    attainable = rules.score(beams.log_probs.amax(dim=1), max_steps)
    undecided = attainable > best.score[beams.image, -1]
    places = torch.where(undecided, beams.places, 0).tolist()  # the only moment when the CPU waits for a GPU
    images, old_width = beams.log_probs.shape
    going_on = [image for image, count in enumerate(places) if count]
    beams.most_places = max(places)
    if len(going_on) == images and beams.most_places >= old_width:
        return True
    kept = torch.tensor(going_on, dtype=torch.long, device=beams.image.device)
    beams.log_probs, place = beams.log_probs[kept].topk(min(beams.most_places, old_width), dim=1)
    row = (kept.unsqueeze(1) * old_width + place).flatten()
    beams.state = State(*(part[row] for part in beams.state))
    beams.words, beams.id = beams.words[row], beams.id[row]
    if len(going_on) < images:
        beams.image, beams.places = beams.image[kept], beams.places[kept]
        beams.memory = Memory(*(part[kept] for part in beams.memory))
    return len(going_on) > 0


def _read(best: _Ranking, history: list[_Words], end: int) -> list[list[Hypothesis]]:
    """Reads the ranked captions from their last words to their first."""
    parent, word, word_log_prob = (
        torch.cat([getattr(words, name).flatten() for words in history]).tolist()
        for name in ("parent", "word", "word_log_prob")
    )
    paths: list[list[int]] = []
    for last in best.id.flatten().tolist():
        paths.append([])
        while last >= 0:
            paths[-1].insert(0, last)
            last = parent[last]
    looked = torch.tensor([id for path in paths for id in path], dtype=torch.long, device=best.id.device)
    alphas = torch.cat([words.alpha for words in history])[looked].cpu()
    captions = []
    for path, score in zip(paths, best.score.flatten().tolist(), strict=True):
        token_ids = tuple(word[id] for id in path)
        log_probs = tuple(word_log_prob[id] for id in path)
        seen, alphas = alphas.tensor_split([len(path)])
        captions.append(Hypothesis(token_ids, log_probs, seen, token_ids[-1:] == (end,), score))
    n_best = best.id.shape[1]
    ranks = range(0, len(captions), n_best)
    return [[caption for caption in captions[first : first + n_best] if caption.token_ids] for first in ranks]
