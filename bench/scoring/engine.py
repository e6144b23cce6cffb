"""Scores of captions against references, per image and for the whole set."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from types import TracebackType
from typing import Self

import numpy as np
import pandas as pd
from jaxtyping import Float
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.rouge.rouge import Rouge

from bench.errors import JavaError, ScoringError
from bench.scoring.captions import MAX_WORDS, Tokenised, read_tokens, sanitise
from bench.scoring.cider import CiderD
from bench.scoring.java import DEADLINE, Meteor, find_java, tokenize
from reports.stats import BLEU_STATISTICS, METEOR_STATISTICS, bleu, corpus_scores, meteor


@dataclass(frozen=True)
class Metric:
    """What a reader needs to know about a score."""

    unit: str
    range: tuple[float, float]
    higher_is_better: bool
    source: str
    score: Callable[[str, Sequence[str]], float] | None = None
    """Of one tokenised caption against its tokenised references, for metrics that are the mean of it."""


def _rouge_l(caption: str, references: Sequence[str]) -> float:
    return float(Rouge().calc_score([caption], references))


_BLEU = Metric("0 to 1", (0, 1), True, "Papineni et al. 2002; closest reference length")
METRICS = {
    **{f"BLEU-{order}": _BLEU for order in range(1, 5)},
    "METEOR": Metric("0 to 1", (0, 1), True, "Denkowski & Lavie 2014; version 1.5, English, normalised"),
    "ROUGE-L": Metric("0 to 1", (0, 1), True, "Lin 2004; beta 1.2, best precision and best recall", _rouge_l),
    "CIDEr": Metric("0 to 10", (0, 10), True, "Vedantam et al. 2015; the CIDEr-D form, sigma 6"),
}
"""All metrics in display order. A mean over images is added with one line; capitalise its name."""
_MEANS = {name: metric.score for name, metric in METRICS.items() if metric.score}


@dataclass(frozen=True)
class Scores:
    """Scores of one set of captions. What could not be computed is missing, and `reasons` says why."""

    per_image: pd.DataFrame
    """Index image_id, in the order given; float columns `METRICS`, `BLEU_STATISTICS`, `METEOR_STATISTICS`."""
    corpus: dict[str, float | None]
    """By metric."""
    reasons: dict[str, str]
    """By metric that is None."""
    warnings: tuple[str, ...]
    signature: str
    """How the scores came about, after sacrebleu (Post 2018): runs are comparable if they agree on it."""


class Scorer:
    r"""Scores sets of captions against one set of references, which are read once. A context manager.

    Scores equal pycocoevalcap 1.2's wherever those are right. They differ where a caption holds a control
    character (`\n` aside), U+2028, U+2029, `|||` or more than 200 words, and for the CIDEr of a single image.

    Args:
        references: reference captions by image id.
        deadline: seconds that a Java program may be silent before it is stopped.

    Raises:
        ScoringError: if an image has no references; a `JavaError` if there is no Java.
    """

    def __init__(self, references: Mapping[str, Sequence[str]], *, deadline: float = DEADLINE) -> None:
        for image_id, captions in references.items():
            if not captions:
                raise ScoringError(
                    f"image {image_id!r} has no reference caption; give one or leave the image out"
                )
        self._given = {image_id: tuple(captions) for image_id, captions in references.items()}
        self._java, self._deadline = find_java(), deadline
        # One thread: it tokenises the references, then it is the only one that talks to METEOR.
        self._background = ThreadPoolExecutor(max_workers=1)
        self._meteor: Meteor | None = None
        self._tokenising: Future[Tokenised] | None = None
        self._references: dict[str, list[str]] = {}
        self._warnings: list[str] = []
        self._cider: tuple[list[str], CiderD] | None = None
        self._cooked: dict[str, object] = {}
        self._counted: dict[tuple[str, str], list[float]] = {}
        self._aligned: dict[tuple[str, str], Float[np.ndarray, " 23"]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._meteor:
            self._meteor.kill()
        self._background.shutdown(cancel_futures=True)
        if self._meteor:
            self._meteor.close()

    def start(self) -> None:
        """Begins to start METEOR and to tokenise the references, in the background; else `score` does it."""
        if self._meteor is None:
            self._meteor = Meteor(self._java, deadline=self._deadline)
        if self._tokenising is None:
            captions = [caption for captions in self._given.values() for caption in captions]
            self._tokenising = self._background.submit(self._tokenise, captions)

    def score(self, hypotheses: Mapping[str, str]) -> Scores:
        """Scores one caption per image. Nothing is counted or aligned twice for the same image and caption.

        Args:
            hypotheses: captions by image id; any of the images that have references. CIDEr's document
                frequencies come from the references of these images alone.

        Returns:
            Scores per image and corpus. Where METEOR fails it is missing, and the reason is given.

        Raises:
            ScoringError: if there are no captions, or captions of images without references; a `JavaError` if
                the tokenizer fails.
        """
        unknown = [image_id for image_id in hypotheses if image_id not in self._given]
        if unknown:
            named = ", ".join(map(repr, unknown[:5])) + (", …" if len(unknown) > 5 else "")
            raise ScoringError(f"captions of images that have no references ({len(unknown)}): {named}")
        if not hypotheses:
            raise ScoringError("there are no captions to score; expected at least one")
        self.start()
        ids = list(hypotheses)
        said = self._tokenise(list(hypotheses.values()))
        self._read_references()
        pairs = list(zip(ids, said.captions, strict=True))
        aligning = self._background.submit(self._align, pairs)
        counts, means = np.split(
            np.array([self._count(*pair) for pair in pairs]), [len(BLEU_STATISTICS)], axis=1
        )
        frame = pd.DataFrame(np.nan, index=pd.Index(ids, name="image_id"), columns=list(METRICS))
        frame[[f"BLEU-{order}" for order in range(1, 5)]] = bleu(counts)
        frame[list(_MEANS)] = means
        reasons = {}
        if len(ids) > 1:
            frame["CIDEr"] = self._cider_d(ids).score(said.captions)
        else:
            reasons["CIDEr"] = "its document frequencies need at least two images"
        try:
            aligned = aligning.result()
            frame["METEOR"] = meteor(aligned)
        except JavaError as error:
            aligned = np.full((len(ids), len(METEOR_STATISTICS)), np.nan)
            reasons["METEOR"] = str(error)
        frame[list(BLEU_STATISTICS)] = counts
        frame[list(METEOR_STATISTICS)] = aligned
        warnings = (*self._warnings, *_cut_warning("captions", [ids[number] for number in said.cut]))
        return Scores(frame, corpus_scores(frame), reasons, warnings, self._signature(ids))

    def _tokenise(self, captions: Sequence[str]) -> Tokenised:
        lines = tokenize(
            [sanitise(caption) for caption in captions], java=self._java, deadline=self._deadline
        )
        return read_tokens(lines, captions)

    def _read_references(self) -> None:
        """Waits for the tokenised references and hands each image its own."""
        if self._references:
            return
        assert self._tokenising
        tokenising, self._tokenising = self._tokenising, None  # after a failure the next call tries again
        tokenised = tokenising.result()
        self._tokenising = tokenising
        owners = [image_id for image_id, captions in self._given.items() for _ in captions]
        for image_id, caption in zip(owners, tokenised.captions, strict=True):
            self._references.setdefault(image_id, []).append(caption)
        self._warnings += _cut_warning("reference captions", [owners[number] for number in tokenised.cut])

    def _count(self, image_id: str, caption: str) -> list[float]:
        """BLEU's statistics, and the metrics that are means."""
        if (image_id, caption) not in self._counted:
            references = self._references[image_id]
            if image_id not in self._cooked:
                self._cooked[image_id] = cook_refs(references)
            found = cook_test(caption, self._cooked[image_id], eff="closest")
            self._counted[image_id, caption] = [
                *(found["testlen"], found["reflen"], *found["correct"], *found["guess"]),
                *(score(caption, references) for score in _MEANS.values()),
            ]
        return self._counted[image_id, caption]

    def _align(self, pairs: Sequence[tuple[str, str]]) -> Float[np.ndarray, "caption 23"]:
        """METEOR's statistics. A process that failed is closed; the next call of `start` has a new one."""
        assert self._meteor
        new = [pair for pair in pairs if pair not in self._aligned]
        try:
            found = self._meteor.statistics(
                [(caption, self._references[image_id]) for image_id, caption in new]
            )
        except JavaError:
            self._meteor.close()
            self._meteor = None
            raise
        self._aligned.update(zip(new, found, strict=True))
        return np.array([self._aligned[pair] for pair in pairs])

    def _cider_d(self, ids: list[str]) -> CiderD:
        if self._cider is None or self._cider[0] != ids:
            self._cider = (ids, CiderD([self._references[image_id] for image_id in ids]))
        return self._cider[1]

    def _signature(self, ids: Sequence[str]) -> str:
        counts = {len(self._given[image_id]) for image_id in ids}
        return "|".join((
            "references:" + "-".join(map(str, sorted({min(counts), max(counts)}))),
            f"tokenizer:PTB-corenlp-3.4.1-lower-case-no-punctuation-{MAX_WORDS}-words",
            "bleu:closest",
            "meteor:1.5-en-norm",
            "rouge:L-beta-1.2",
            f"cider:D-document-frequencies-of-{len(ids)}-scored-images",
            f"pycocoevalcap:{version('pycocoevalcap')}",
        ))  # fmt: skip


def _cut_warning(what: str, image_ids: Sequence[str]) -> list[str]:
    if not image_ids:
        return []
    return [f"{len(image_ids)} {what} cut to {MAX_WORDS} words; the first is of image {image_ids[0]!r}"]
