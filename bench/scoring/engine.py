"""Scores of captions against references, per image and for the whole set."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from types import TracebackType
from typing import Self

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from bench.data.texts import TextsByName
from bench.errors import JavaError, ScoringError
from bench.pieces import pieces
from bench.scoring.captions import CaptionTokenizer
from bench.scoring.cider import CiderD, Frequencies
from bench.scoring.java import Deadline, find_java
from bench.scoring.meteor import MAX_WORDS, Meteor
from bench.scoring.metrics import METRICS, Scores
from bench.scoring.ngrams import Ngrams, bleu_statistics
from bench.scoring.prepared import MEANS, PreparedImage, Recent, Tokenised
from bench.scoring.spice import SpiceJars, find_spice, spice_scores
from bench.scoring.tally import Cut, Measured, Tally
from reports.stats import BLEU_STATISTICS, METEOR_STATISTICS, bleu, corpus_scores, meteor

AT_ONCE = 750
"""Captions that are measured together: what three beam sizes say of 250 images."""
_REMEMBERED, _PREPARED = 4 * AT_ONCE, AT_ONCE  # captions, a few kB each; images, 25 kB each
_STARTUP = 120.0  # seconds that nobody waits for
_GRACE = 0.5  # seconds in which a program that missed its deadline is stopped
_IMAGES_AT_ONCE = 500  # whose references are tokenised together


Pair = tuple[str, str]
"""Image id and caption."""


class Scorer:
    r"""Scores sets of captions against one set of references, which are read once. A context manager.

    Scores equal pycocoevalcap 1.2's wherever those are right. They differ where a caption holds a control
    character (`\n` aside), U+2028, U+2029, `|||` or more than 30,000 characters, and for the CIDEr of a single
    image. Without Java there is no METEOR, and captions are split into words by `bench.scoring.ptb`.

    What it holds in memory are the references, as bytes, and what the last captions have in common with them.

    Args:
        references: reference captions by image id.
        deadline: seconds that `AT_ONCE` captions may wait for METEOR, and as many for the tokenizer; None for two
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
        self._given = references if isinstance(references, TextsByName) else TextsByName(references.items())
        for given in (self._given, fixed):
            for image_id, captions in given.items():
                if not captions:
                    raise ScoringError(
                        f"image {image_id!r} has no reference caption; give one or leave the image out"
                    )
        if frequencies and len(fixed) < 2:
            raise ScoringError(
                f"document frequencies were to be counted over {len(fixed)} images of {frequencies.name!r}; "
                "give at least two"
            )
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
        self._tokenising: Future[Tokenised] | None = None
        self._preparing: Future[None] | None = None
        self._images: Recent[str, PreparedImage] = Recent(_PREPARED)
        self._cider: tuple[bytes, CiderD] | None = None
        self._counted: Recent[Pair, list[float]] = Recent(_REMEMBERED)
        self._weighed: Recent[Pair, float] = Recent(_REMEMBERED)
        self._weighed_by: CiderD | None = None
        self._aligned: Recent[Pair, list[float]] = Recent(_REMEMBERED)
        self._parsed: Recent[Pair, float] = Recent(_REMEMBERED)

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
        """Begins to tokenise the references and to make METEOR's table, in the background; else `score` does it."""
        if self._tokenising is None:
            self._tokenising = self._background.submit(self._tokenise_references)
            self._preparing = self._background.submit(self._prepare_meteor, Deadline(_STARTUP))

    def score(self, hypotheses: Mapping[str, str]) -> Scores:
        """Scores one caption per image. Of the last captions none is counted or aligned twice.

        Args:
            hypotheses: captions by image id; any of the images that have references. Without fixed frequencies
                CIDEr's document frequencies come from the references of these images alone.

        Returns:
            Scores per image and corpus. Where METEOR fails it is missing, and the reason is given.

        Raises:
            ScoringError: if there are no captions, or captions of images without references.
        """
        if not hypotheses:
            raise ScoringError("there are no captions to score; expected at least one")
        cider, tally, frames = self.weights(hypotheses), Tally(), []
        for pairs in pieces(hypotheses.items(), AT_ONCE):
            measured = self.measure(pairs, cider, without=tally.failed)
            tally.add(measured, range(len(pairs)))
            frames.append(measured.columns)
        return self.scores(pd.concat(frames), tally, cider)

    @property
    def references(self) -> TextsByName:
        """Reference captions by image id, as they were given."""
        return self._given

    @property
    def columns(self) -> list[str]:
        """Of what it measures, in order: metrics, then the statistics that corpus scores are made of."""
        return [*self._metrics, *BLEU_STATISTICS, *METEOR_STATISTICS]

    @property
    def tokenizer(self) -> str:
        """The name of what splits captions into words at present."""
        return self._tokenizer.name

    def places(self, image_ids: Iterable[str]) -> Int[np.ndarray, " image"]:
        """Where images stand among those that have references.

        Args:
            image_ids: in any order.

        Returns:
            Their places, in the order given.

        Raises:
            ScoringError: if one has no references.
        """
        found = [(image_id, self._given.place(image_id)) for image_id in image_ids]
        if unknown := [image_id for image_id, place in found if place is None]:
            named = ", ".join(map(repr, unknown[:5])) + (", …" if len(unknown) > 5 else "")
            raise ScoringError(f"captions of images that have no references ({len(unknown)}): {named}")
        return np.array([place for _, place in found], np.int64)

    def weights(self, scored: Iterable[str]) -> CiderD:
        """CIDEr's weights, if these images are scored; a `ScoringError` if one has no references."""
        return self.weights_at(self.places(scored))

    def weights_at(self, places: Int[np.ndarray, " image"]) -> CiderD:
        """CIDEr's weights, if the images at these places are scored; the last ones are remembered."""
        self.start()
        tokens = self._tokens()
        if tokens.fixed:
            return tokens.fixed
        key = np.sort(places).tobytes()
        if self._cider is None or self._cider[0] != key:
            images = ([Ngrams(text) for text in tokens.texts.at(place)] for place in places.tolist())
            self._cider = (key, CiderD(images))
        return self._cider[1]

    def measure(self, pairs: Sequence[Pair], cider: CiderD, *, without: Collection[str] = ()) -> Measured:
        """Finds what scores are made of.

        Args:
            pairs: images that have references, and captions; several of an image, if you like, `AT_ONCE` or about.
            cider: CIDEr's weights.
            without: metrics that are not asked for any more, because their program fails.

        Returns:
            One row per pair.
        """
        self.start()
        tokens = self._tokens()
        captions = [caption for _, caption in pairs]
        said = self._tokenizer.tokenise(captions, deadline=self._time_for(captions))
        known = [(image_id, text) for (image_id, _), text in zip(pairs, said, strict=True)]
        for image_id, _ in known:
            if image_id not in self._images:
                self._images[image_id] = PreparedImage(tokens.texts[image_id])
        words = [
            max(len(each.split()) for each in (text, *self._images[image_id].references))
            for image_id, text in known
        ]
        finish_meteor = self._begin_meteor(known, words, asked="METEOR" not in without)
        counts, means = self._count(known)
        columns = dict(zip((f"BLEU-{order}" for order in range(1, 5)), bleu(counts).T, strict=True))
        columns |= dict(zip((*MEANS, *BLEU_STATISTICS), (*means.T, *counts.T), strict=True))
        columns["CIDEr"] = self._score_cider(cider, known)
        failed: dict[str, str] = {}
        columns |= finish_meteor(failed)
        if self._spice:
            columns["SPICE"] = self._score_spice(self._spice, known, failed, asked="SPICE" not in without)
        frame = pd.DataFrame(columns, index=pd.Index([i for i, _ in pairs], name="image_id"))[self.columns]
        found = Measured(
            frame, captions, words, [len(self._images[image_id].references) for image_id, _ in known], failed
        )
        for recent in (self._images, self._counted, self._weighed, self._aligned, self._parsed):
            recent.trim()
        return found

    def scores(self, frame: pd.DataFrame, tally: Tally, cider: CiderD) -> Scores:
        """Sums up.

        Args:
            frame: rows of `measure`, one per image.
            tally: to which all of them were added.
            cider: as it was for `measure`.

        Returns:
            Scores per image and corpus.
        """
        reasons = dict(tally.reasons)
        if cider.images < 2:
            reasons = {"CIDEr": "its document frequencies need at least two images"} | reasons
        if self._spice and frame["SPICE"].isna().all():
            reasons.setdefault("SPICE", "no caption and reference could be parsed into objects")
        partial = [name for name in self._metrics if frame[name].isna().any()]
        whole = frame.drop(columns=partial) if partial else frame
        corpus = corpus_scores(whole)  # of all images, whatever the others lack
        for name in set(partial).difference(reasons):
            corpus |= corpus_scores(frame[[name]])
        return Scores(
            frame,
            {name: corpus.get(name) for name in self._metrics},
            reasons,
            self._warn(tally),
            *self._sign(tally, cider),
        )

    def _time_for(self, captions: Sequence[object]) -> Deadline:
        return Deadline(120 + 0.02 * len(captions) if self._deadline is None else self._deadline)

    def _tokenise_references(self) -> Tokenised:
        cut = Cut()
        texts = TextsByName(self._tokenised(self._given, cut))
        fixed = None
        if self._frequencies:
            counted = self._tokenised(self._frequencies.references, Cut())
            fixed = CiderD([Ngrams(text) for text in texts] for _, texts in counted)
            self._frequencies = self._frequencies._replace(references={})
        return Tokenised(texts, cut, fixed)

    def _tokenised(self, given: Mapping[str, Sequence[str]], cut: Cut) -> Iterator[tuple[str, list[str]]]:
        """Images with their tokenised references, in order; notes those that are too long."""
        for images in pieces(given.items(), _IMAGES_AT_ONCE):
            distinct = list(dict.fromkeys(text for _, texts in images for text in texts))
            found = self._tokenizer.tokenise(distinct, deadline=self._time_for(distinct))
            tokens = dict(zip(distinct, found, strict=True))
            for image_id, texts in images:
                for text in texts:
                    cut.note(image_id, text)
                yield image_id, [tokens[text] for text in texts]

    def _tokens(self) -> Tokenised:
        assert self._tokenising
        return self._tokenising.result()

    def _count(
        self, pairs: Sequence[Pair]
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

    def _score_cider(self, cider: CiderD, pairs: Sequence[Pair]) -> Float[np.ndarray, " caption"]:
        if cider.images < 2:
            return np.full(len(pairs), np.nan)
        if cider is not self._weighed_by:
            self._weighed.clear()
            self._weighed_by = cider
        for image_id, caption in pairs:
            if (image_id, caption) not in self._weighed:
                references = self._images[image_id].ngrams
                self._weighed[image_id, caption] = cider.score(Ngrams(caption), references)
        return np.array([self._weighed[pair] for pair in pairs])

    def _score_spice(
        self, jars: SpiceJars, pairs: Sequence[Pair], failed: dict[str, str], *, asked: bool
    ) -> Float[np.ndarray, " caption"]:
        """By a process of its own, while nothing else runs: it may use eight gigabytes."""
        assert self._java
        new = list(dict.fromkeys(pair for pair in pairs if pair not in self._parsed)) if asked else []
        given = [(text, self._images[image_id].references) for image_id, text in new]
        seconds = 300 + len(given) if self._deadline is None else self._deadline
        try:
            scores = spice_scores(given, jars, self._java, seconds) if given else []
            self._parsed.update(zip(new, (np.nan if f is None else f for f in scores), strict=True))
        except JavaError as error:
            failed["SPICE"] = str(error)
        return np.array([self._parsed.get(pair, np.nan) for pair in pairs])

    def _prepare_meteor(self, deadline: Deadline) -> None:
        if self._meteor:
            texts = self._tokens().texts
            references = (text for place in range(len(texts)) for text in texts.at(place))
            self._meteor.prepare(references, deadline=deadline)

    def _begin_meteor(
        self, pairs: Sequence[Pair], words: Sequence[int], *, asked: bool
    ) -> Callable[[dict[str, str]], dict[str, Float[np.ndarray, " caption"]]]:
        """Begins to align what is new; the function that is returned waits for that, and notes why if it fails."""
        new = [
            pair
            for pair, longest in zip(pairs, words, strict=True)
            if pair not in self._aligned and longest <= MAX_WORDS
        ]
        new = list(dict.fromkeys(new)) if asked else []
        references = {image_id: self._images[image_id].references for image_id, _ in new}
        deadline = self._time_for(new)
        aligning = self._background.submit(self._align, new, references, deadline) if new else None
        if aligning and self._preparing:  # until it is done, what this thread computes would hold it up
            wait([self._preparing], timeout=deadline.left)

        def finish(failed: dict[str, str]) -> dict[str, Float[np.ndarray, " caption"]]:
            try:
                if aligning:
                    aligning.result(timeout=deadline.left + _GRACE)
            except JavaError as error:
                failed["METEOR"] = str(error)
            except TimeoutError:
                failed["METEOR"] = f"METEOR was not ready within {deadline.seconds:g} s"
            return self._meteor_columns(pairs)

        return finish

    def _meteor_columns(self, pairs: Sequence[Pair]) -> dict[str, Float[np.ndarray, " caption"]]:
        missing = [np.nan] * len(METEOR_STATISTICS)
        rows = np.array([self._aligned.get(pair, missing) for pair in pairs])
        scores = np.where(np.isnan(rows[:, 0]), np.nan, meteor(rows))
        return {"METEOR": scores, **dict(zip(METEOR_STATISTICS, rows.T, strict=True))}

    def _align(
        self, new: Sequence[Pair], references: Mapping[str, Sequence[str]], deadline: Deadline
    ) -> None:
        if self._meteor is None:
            raise JavaError(self._no_java)
        self._prepare_meteor(deadline)
        rows = self._meteor.statistics(
            [(caption, references[image_id]) for image_id, caption in new], deadline=deadline
        )
        self._aligned.update(zip(new, rows, strict=True))

    def _warn(self, tally: Tally) -> tuple[str, ...]:
        warnings = [*self._tokens().cut.warning("reference captions"), *tally.cut.warning("captions")]
        if failure := self._tokenizer.failure or self._no_java:
            warnings.insert(0, f"captions were split into words by Python, which may differ: {failure}")
        return tuple(warnings)

    def _sign(self, tally: Tally, cider: CiderD) -> tuple[dict[str, str], str]:
        """Signatures of all metrics, and what they have in common."""
        given = "references:" + "-".join(map(str, sorted({tally.fewest, tally.most})))
        given += f"|tokenizer:{self._tokenizer.name}-lower-case-no-punctuation"
        program = f"pycocoevalcap:{version('pycocoevalcap')}"
        own = {name: METRICS[name].signature for name in self._metrics}
        origin = "scored"
        if self._frequencies:
            origin = "fixed-" + re.sub("[^A-Za-z0-9._-]", "_", self._frequencies.name)
        own["CIDEr"] += f"|df:{origin}-{cider.images}-images"
        return {name: f"{given}|{each}|{program}" for name, each in own.items()}, f"{given}|{program}"
