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
from jaxtyping import Int
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
KNOWN, SAID = 24_000, 4_000
"""Words of the captions, and those of them that the captioner knows."""
STEPS = 11
"""Steps of its captions: ten words and `<end>`, as references have."""
# Chosen so that there are about as many kinds of words, pairs, triples and quadruples as in Flickr8k's captions of
# 2,000 and of 8,000 pictures: 4,500, 25,000, 49,000 and 62,000; 8,800, 68,000, 151,000 and 214,000.
_TOPIC = 8  # words that captions of one picture draw from
_FOLLOWS, _OF_TOPIC = 0.75, 0.17  # how often a word is one that likes to follow the last, or is of the topic
_FOLLOWERS, _FOLLOWING = 60, 3_000  # words that like to follow another, and among how many they are
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

    Most words are among a few that like to follow the word before, some belong to the picture, and the rest is drawn
    by rank; so n-grams of all lengths recur, and new ones keep coming.

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
    topic = _ranks(rng, _TOPIC, len(words))
    for _ in range(REFERENCES):
        length = int(np.clip(rng.normal(11, 3.5), 5, 30))
        anything, of_topic = _ranks(rng, length, len(words)), topic[rng.integers(_TOPIC, size=length)]
        kind, follower = rng.random(length), np.exp(rng.random(length) * np.log(_FOLLOWERS)).astype(int)
        said = [int(anything[0])]
        for place in range(1, length):
            if kind[place] < _FOLLOWS:
                drawn = (said[-1] * 2_654_435_761 + int(follower[place]) * 40_503 + 12_345) % 1_000_003
                said.append(int(np.exp((drawn / 1_000_003) ** 1.4 * np.log(_FOLLOWING))) - 1)
            else:
                said.append(int((of_topic if kind[place] < _FOLLOWS + _OF_TOPIC else anything)[place]))
        yield " ".join(words[rank] for rank in said).capitalize() + " ."


def _ranks(rng: np.random.Generator, size: int, words: int) -> Int[np.ndarray, " word"]:
    ranks: Int[np.ndarray, " word"] = np.exp(rng.random(size) ** 2.6 * np.log(words)).astype(int) - 1
    return ranks


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
