"""Scores of captions against references, per image and for the whole set."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
from jaxtyping import Float

from bench.errors import JavaError, ScoringError
from bench.scoring.captions import MAX_CHARACTERS, CaptionTokenizer
from bench.scoring.cider import CiderD, Frequencies
from bench.scoring.java import Deadline, find_java
from bench.scoring.meteor import MAX_WORDS, Meteor
from bench.scoring.metrics import METRICS, Scores
from bench.scoring.ngrams import Ngrams, bleu_statistics
from bench.scoring.spice import SpiceJars, find_spice, spice_scores
from reports.stats import BLEU_STATISTICS, METEOR_STATISTICS, bleu, corpus_scores, meteor

_STARTUP = 120.0  # seconds that nobody waits for
_GRACE = 0.5  # seconds in which a program that missed its deadline is stopped


_MEANS = {name: metric.against for name, metric in METRICS.items() if metric.against}


class _Image:
    """An image's references, prepared for every metric."""

    def __init__(self, references: Sequence[str]) -> None:
        self.references = references
        self.ngrams = [Ngrams(caption) for caption in references]
        self.means = [against(references) for against in _MEANS.values()]


class _Found(NamedTuple):
    """A metric that is computed for all images at once. NaN where an image has no score."""

    columns: dict[str, Float[np.ndarray, " image"]]
    reason: str | None


_Pair = tuple[str, str]
"""Image id and tokenised caption."""


class Scorer:
    r"""Scores sets of captions against one set of references, which are read once. A context manager.

    Scores equal pycocoevalcap 1.2's wherever those are right. They differ where a caption holds a control
    character (`\n` aside), U+2028, U+2029, `|||` or more than 30,000 characters, and for the CIDEr of a single
    image. Without Java there is no METEOR, and captions are split into words by `bench.scoring.ptb`.

    Args:
        references: reference captions by image id.
        deadline: seconds that one call of `score` may wait for METEOR, and as many for the tokenizer; None for two
            minutes and 20 ms per new caption. After half of it without an answer a program is started again.
        frequencies: what CIDEr's document frequencies are counted over; None for the scored images.

    Raises:
        ScoringError: if an image has no references, or there are frequencies of fewer than two images.
    """

    def __init__(
        self,
        references: Mapping[str, Sequence[str]],
        *,
        deadline: float | None = None,
        frequencies: Frequencies | None = None,
    ) -> None:
        fixed = frequencies.references if frequencies else {}
        for image_id, captions in (*references.items(), *fixed.items()):
            if not captions:
                raise ScoringError(
                    f"image {image_id!r} has no reference caption; give one or leave the image out"
                )
        if frequencies and len(fixed) < 2:
            raise ScoringError(
                f"document frequencies were to be counted over {len(fixed)} images of {frequencies.name!r}; "
                "give at least two"
            )
        self._given = {image_id: tuple(captions) for image_id, captions in references.items()}
        self._deadline, self._frequencies = deadline, frequencies
        self._no_java = ""
        try:
            java = find_java()
        except JavaError as error:
            java, self._no_java = None, str(error)
        self._tokenizer = CaptionTokenizer(java)
        self._meteor = Meteor(java) if java else None
        self._java, self._spice = java, find_spice() if java else None
        self._metrics = [name for name in METRICS if name != "SPICE" or self._spice]
        # One thread: it tokenises the references, then it is the only one that talks to METEOR.
        self._background = ThreadPoolExecutor(max_workers=1)
        self._tokenising: Future[dict[str, str]] | None = None
        self._preparing: Future[None] | None = None
        self._images: dict[str, _Image] = {}
        self._cider: tuple[frozenset[str], CiderD] | None = None
        self._counted: dict[_Pair, list[float]] = {}
        self._weighed: dict[_Pair, float] = {}  # by the document frequencies of self._cider
        self._aligned: dict[_Pair, list[float]] = {}
        self._parsed: dict[_Pair, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tokenizer.close()
        if self._meteor:
            self._meteor.close()
        self._background.shutdown(cancel_futures=True)

    def start(self) -> None:
        """Begins to tokenise the references and to start METEOR, in the background; else `score` does it."""
        if self._tokenising is None:
            self._tokenising = self._background.submit(self._tokenise_references)
            self._preparing = self._background.submit(self._prepare_meteor, Deadline(_STARTUP))

    def score(self, hypotheses: Mapping[str, str]) -> Scores:
        """Scores one caption per image. Nothing is counted or aligned twice for the same image and caption.

        Args:
            hypotheses: captions by image id; any of the images that have references. Without fixed frequencies
                CIDEr's document frequencies come from the references of these images alone.

        Returns:
            Scores per image and corpus. Where METEOR fails it is missing, and the reason is given.

        Raises:
            ScoringError: if there are no captions, or captions of images without references.
        """
        unknown = [image_id for image_id in hypotheses if image_id not in self._given]
        if unknown:
            named = ", ".join(map(repr, unknown[:5])) + (", …" if len(unknown) > 5 else "")
            raise ScoringError(f"captions of images that have no references ({len(unknown)}): {named}")
        if not hypotheses:
            raise ScoringError("there are no captions to score; expected at least one")
        self.start()
        tokens = self._reference_tokens()
        captions = list(hypotheses.values())
        said = self._tokenizer.tokenise(captions, deadline=self._time_for(captions))
        pairs = list(zip(hypotheses, said, strict=True))
        finish_meteor = self._begin_meteor(pairs, tokens)
        for image_id in hypotheses:
            if image_id not in self._images:
                self._images[image_id] = _Image([tokens[caption] for caption in self._given[image_id]])
        cider = self._cider_d(hypotheses.keys(), tokens)
        counts, means = self._count(pairs)
        found = {"CIDEr": self._score_cider(cider, pairs), "METEOR": finish_meteor()}
        if self._spice:
            found["SPICE"] = self._score_spice(self._spice, pairs, tokens)
        columns = dict(zip((f"BLEU-{order}" for order in range(1, 5)), bleu(counts).T, strict=True))
        columns |= dict(zip((*_MEANS, *BLEU_STATISTICS), (*means.T, *counts.T), strict=True))
        for each in found.values():
            columns |= each.columns
        order = [*self._metrics, *BLEU_STATISTICS, *METEOR_STATISTICS]
        frame = pd.DataFrame(columns, index=pd.Index(list(hypotheses), name="image_id"))[order]
        reasons = {name: each.reason for name, each in found.items() if each.reason}
        partial = [name for name in self._metrics if frame[name].isna().any()]
        corpus = corpus_scores(frame.drop(columns=partial))  # of all images, whatever the others lack
        for name in set(partial).difference(reasons):
            corpus |= corpus_scores(frame[[name]])
        return Scores(
            frame,
            {name: corpus.get(name) for name in self._metrics},
            reasons,
            self._warn(hypotheses),
            *self._sign(hypotheses, cider),
        )

    def _time_for(self, captions: Sequence[object]) -> Deadline:
        return Deadline(120 + 0.02 * len(captions) if self._deadline is None else self._deadline)

    def _tokenise_references(self) -> dict[str, str]:
        """Tokens of all references, and of those that document frequencies are counted over, by caption."""
        fixed = self._frequencies.references.values() if self._frequencies else ()
        distinct = list(dict.fromkeys(text for texts in (*self._given.values(), *fixed) for text in texts))
        found = self._tokenizer.tokenise(distinct, deadline=self._time_for(distinct))
        return dict(zip(distinct, found, strict=True))

    def _reference_tokens(self) -> dict[str, str]:
        assert self._tokenising
        return self._tokenising.result()

    def _count(
        self, pairs: Sequence[_Pair]
    ) -> tuple[Float[np.ndarray, "image 10"], Float[np.ndarray, "image mean"]]:
        """BLEU's statistics, and the metrics that are means."""
        for image_id, caption in pairs:
            if (image_id, caption) not in self._counted:
                image = self._images[image_id]
                self._counted[image_id, caption] = [
                    *bleu_statistics(Ngrams(caption), image.ngrams),
                    *(score(caption) for score in image.means),
                ]
        counts, means = np.split(
            np.array([self._counted[pair] for pair in pairs], dtype=np.float64),
            [len(BLEU_STATISTICS)],
            axis=1,
        )
        return counts, means

    def _cider_d(self, scored: Set[str], tokens: Mapping[str, str]) -> CiderD:
        counted = frozenset(() if self._frequencies else scored)
        if self._cider is None or self._cider[0] != counted:
            if self._frequencies:
                images = (
                    [Ngrams(tokens[caption]) for caption in captions]
                    for captions in self._frequencies.references.values()
                )
            else:
                images = (self._images[image_id].ngrams for image_id in scored)
            self._cider, self._weighed = (counted, CiderD(images)), {}
        return self._cider[1]

    def _score_cider(self, cider: CiderD, pairs: Sequence[_Pair]) -> _Found:
        if cider.images < 2:
            missing = np.full(len(pairs), np.nan)
            return _Found({"CIDEr": missing}, "its document frequencies need at least two images")
        for image_id, caption in pairs:
            if (image_id, caption) not in self._weighed:
                references = self._images[image_id].ngrams
                self._weighed[image_id, caption] = cider.score(Ngrams(caption), references)
        return _Found({"CIDEr": np.array([self._weighed[pair] for pair in pairs])}, None)

    def _score_spice(self, jars: SpiceJars, pairs: Sequence[_Pair], tokens: Mapping[str, str]) -> _Found:
        """By a process of its own, while nothing else runs: it may use eight gigabytes."""
        assert self._java
        new = list(dict.fromkeys(pair for pair in pairs if pair not in self._parsed))
        given = [(text, [tokens[each] for each in self._given[image_id]]) for image_id, text in new]
        seconds = 300 + len(given) if self._deadline is None else self._deadline
        reason = None
        try:
            scores = spice_scores(given, jars, self._java, seconds) if given else []
            self._parsed.update(zip(new, (np.nan if f is None else f for f in scores), strict=True))
        except JavaError as error:
            reason = str(error)
        found = np.array([self._parsed.get(pair, np.nan) for pair in pairs])
        if np.isnan(found).all():
            reason = reason or "no caption and reference could be parsed into objects"
        return _Found({"SPICE": found}, reason)

    def _prepare_meteor(self, deadline: Deadline) -> None:
        if self._meteor:
            tokens = self._reference_tokens()
            references = [tokens[caption] for captions in self._given.values() for caption in captions]
            self._meteor.prepare(references, deadline=deadline)

    def _begin_meteor(self, pairs: Sequence[_Pair], tokens: Mapping[str, str]) -> Callable[[], _Found]:
        """Begins to align what is new; the function that is returned waits for that."""
        references = {
            image_id: [tokens[caption] for caption in self._given[image_id]] for image_id, _ in pairs
        }
        words = {
            image_id: max(len(text.split()) for text in (caption, *references[image_id]))
            for image_id, caption in pairs
        }
        long = [image_id for image_id, count in words.items() if count > MAX_WORDS]
        new = [pair for pair in pairs if pair not in self._aligned and words[pair[0]] <= MAX_WORDS]
        deadline = self._time_for(new)
        aligning = self._background.submit(self._align, new, references, deadline) if new else None
        if aligning and self._preparing:  # until it is done, what this thread computes would hold it up
            wait([self._preparing], timeout=deadline.left)

        def finish() -> _Found:
            reason = _length_reason(long, words)
            try:
                if aligning:
                    aligning.result(timeout=deadline.left + _GRACE)
            except JavaError as error:
                reason = str(error)
            except TimeoutError:
                reason = f"METEOR was not ready within {deadline.seconds:g} s"
            missing = [np.nan] * len(METEOR_STATISTICS)
            rows = np.array([self._aligned.get(pair, missing) for pair in pairs])
            scores = np.where(np.isnan(rows[:, 0]), np.nan, meteor(rows))
            return _Found({"METEOR": scores, **dict(zip(METEOR_STATISTICS, rows.T, strict=True))}, reason)

        return finish

    def _align(
        self, new: Sequence[_Pair], references: Mapping[str, Sequence[str]], deadline: Deadline
    ) -> None:
        if self._meteor is None:
            raise JavaError(self._no_java)
        self._prepare_meteor(deadline)
        rows = self._meteor.statistics(
            [(caption, references[image_id]) for image_id, caption in new], deadline=deadline
        )
        self._aligned.update(zip(new, rows, strict=True))

    def _warn(self, hypotheses: Mapping[str, str]) -> tuple[str, ...]:
        given = [(image_id, text) for image_id, texts in self._given.items() for text in texts]
        warnings = [
            *_cut_warning("reference captions", given),
            *_cut_warning("captions", hypotheses.items()),
        ]
        if failure := self._tokenizer.failure or self._no_java:
            warnings.insert(0, f"captions were split into words by Python, which may differ: {failure}")
        return tuple(warnings)

    def _sign(self, hypotheses: Iterable[str], cider: CiderD) -> tuple[dict[str, str], str]:
        """Signatures of all metrics, and what they have in common."""
        counts = {len(self._given[image_id]) for image_id in hypotheses}
        given = "references:" + "-".join(map(str, sorted({min(counts), max(counts)})))
        given += f"|tokenizer:{self._tokenizer.name}-lower-case-no-punctuation"
        program = f"pycocoevalcap:{version('pycocoevalcap')}"
        own = {name: METRICS[name].signature for name in self._metrics}
        origin = "scored"
        if self._frequencies:
            origin = "fixed-" + re.sub("[^A-Za-z0-9._-]", "_", self._frequencies.name)
        own["CIDEr"] += f"|df:{origin}-{cider.images}-images"
        return {name: f"{given}|{each}|{program}" for name, each in own.items()}, f"{given}|{program}"


def _length_reason(long: Sequence[str], words: Mapping[str, int]) -> str | None:
    if not long:
        return None
    others = f", and {len(long) - 1} more are as long" if len(long) > 1 else ""
    return (
        f"image {long[0]!r} has a caption or reference of {words[long[0]]:,} words{others}; "
        f"METEOR is asked for at most {MAX_WORDS}"
    )


def _cut_warning(what: str, captions: Iterable[tuple[str, str]]) -> list[str]:
    cut = [image_id for image_id, caption in captions if len(caption) > MAX_CHARACTERS]
    if not cut:
        return []
    return [f"{len(cut)} {what} cut to {MAX_CHARACTERS:,} characters; the first is of image {cut[0]!r}"]
