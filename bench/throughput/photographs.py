"""A data set as large as one likes, and a captioner that says something of it: noise, with the statistics of language.

What scoring costs depends on words: how many kinds there are, how often they come, and whether METEOR knows others for
them. So the words are English, as often as English has them, and sentences about one picture share words.
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.scoring.java import FOLDER
from bench.throughput.full_size import end_captions_at
from models.captioner import Captioner
from models.decoder import DecoderConfig
from models.encoder import EncoderConfig
from models.formats.native import save_native
from models.preprocessing import Preprocessing
from models.vocabulary import Vocabulary

REFERENCES, SIZE = 5, 64
"""Captions of each picture, and its width and height in pixels."""
SAID = 4_000
"""Words that the captioner knows."""
STEPS = 11
"""Steps of its captions: ten words and `<end>`, as references have."""
_KNOWN = 24_000
_TOPIC = 12  # words that captions of one picture draw from
_LINES = 3_000_000  # of METEOR's table, which then holds so many words
_WORD = re.compile("[a-z]+").fullmatch


def english(count: int) -> list[str]:
    """Words of METEOR's table of paraphrases, the most frequent ones first."""
    found: Counter[str] = Counter()
    with gzip.open(FOLDER / "meteor" / "data" / "paraphrase-en.gz", "rt", errors="replace") as lines:
        for number, line in enumerate(islice(lines, _LINES)):
            if number % 3:  # the first line of three is a probability
                found.update(line.split())
    return [word for word, _ in found.most_common() if _WORD(word)][:count]


def write_photographs(folder: Path, count: int, *, words: list[str]) -> Path:
    """Writes pictures, five captions of each, and COCO's JSON about them.

    A word is drawn as often as its rank says (Zipf 1935), half of a caption's from a few that belong to its picture. A
    word often comes with the one that came with it before, so that longer n-grams recur, too, and new ones keep coming.

    Args:
        folder: where; made if it is not there.
        count: how many; the first ones are the same, however many are asked for.
        words: the most frequent ones first.

    Returns:
        The captions file.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number in range(count):
        rng = np.random.default_rng(number)
        name = f"photograph_{number:012d}.jpg"
        _picture(rng).save(folder / "images" / name, quality=85)
        images.append({"id": number, "file_name": name})
        for caption in _captions(rng, words):
            annotations.append({"image_id": number, "id": len(annotations), "caption": caption})
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def _picture(rng: np.random.Generator) -> Image.Image:
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _look_closely(captioner: Captioner) -> None:
    """Makes the first state depend on what sets a picture apart from others, which is little in noise."""
    pictures = [_picture(np.random.default_rng(number)) for number in range(64)]
    seen = (
        captioner.eval().encode(torch.stack([captioner.preprocessing(each) for each in pictures])).mean(dim=1)
    )
    spread, mean = seen.std(dim=0).clamp_min(1e-6), seen.mean(dim=0)
    varies = spread > spread.max() / 1000  # what cells say of their place is the same in every picture
    for first in (captioner.decoder.initial_hidden, captioner.decoder.initial_cell):
        first.weight.copy_(torch.where(varies, 20 * first.weight / spread, 0.0) / varies.sum().sqrt())
        first.bias.copy_(-first.weight @ mean)


def _captions(rng: np.random.Generator, words: list[str]) -> Iterator[str]:
    def zipf(size: int) -> np.ndarray:
        drawn: np.ndarray = np.exp(rng.random(size) * np.log(len(words))).astype(int) - 1
        return drawn

    topic = zipf(_TOPIC)
    for _ in range(REFERENCES):
        length = int(np.clip(rng.normal(11, 3), 5, 30))
        ranks, follows, of_topic = zipf(length), rng.random(length) < 0.5, rng.random(length) < 0.5
        said = [int(ranks[0])]
        for place in range(1, length):
            if of_topic[place]:
                said.append(int(topic[ranks[place] % _TOPIC]))
            elif follows[place]:  # one of seven words that come after the last one
                said.append((said[-1] * 31 + 7 * int(ranks[place] % 7)) % min(2_000, len(words)))
            else:
                said.append(int(ranks[place]))
        yield " ".join(words[rank] for rank in said).capitalize() + " ."


def write_captioner(path: Path, *, words: list[str]) -> Path:
    """Writes a small captioner with random weights, whose captions differ from picture to picture.

    Args:
        path: the checkpoint.
        words: the most frequent ones first; it says the first `SAID` of them.

    Returns:
        The checkpoint.
    """
    known = words[:SAID]
    vocabulary = Vocabulary(
        ("<pad>", *known, "<unk>", "<start>", "<end>"),
        pad=0, unk=len(known) + 1, start=len(known) + 2, end=len(known) + 3,
    )  # fmt: skip
    config = DecoderConfig(
        len(vocabulary), 80, 32, 32, 32,
        attention_activation="relu", initial_state="linear", gate="scalar", output="plain",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        captioner = Captioner(EncoderConfig("scenes", 8), config, vocabulary, Preprocessing(size=SIZE))
    captioner.max_steps = STEPS + 1
    with torch.no_grad():
        _look_closely(captioner)
        captioner.decoder.lstm.weight_hh.mul_(4)
        captioner.decoder.output.weight.mul_(15)
        captioner.decoder.output.bias[1 : len(known) + 1] -= torch.log(torch.arange(1.0, len(known) + 1)) / 2
        captioner.decoder.output.bias[vocabulary.unk] = -20.0
    end_captions_at(captioner.decoder, STEPS, vocabulary.end)
    save_native(captioner.eval(), path, training={})
    return path
