"""Captions that the demo model says of scenes, ready to be explained."""

from functools import cache

import numpy as np
import torch

from bench.config import DEMO_CHECKPOINT
from bench.data.scenes import load_scenes
from explain.localisation import mask_on_grid
from explain.methods.base import ExplainedCaption
from models.beam import beam_search
from models.formats import load_checkpoint

BEAM = 3


@cache
def demo_captioner():
    return load_checkpoint(DEMO_CHECKPOINT, word_map=None, encoder_weights=None).captioner.eval()


@cache
@torch.no_grad()
def demo_captions(images):
    """For each of the first test scenes: its caption, and by word, where it is true and where the other figure stands,
    as shares of the cells. Words that are false, or true of both named figures, have no place."""
    captioner, data = demo_captioner(), load_scenes()
    scenes = data.select("test")[:images]
    pictures = torch.stack(
        [captioner.preprocessing(captioner.preprocessing.view(s.picture())) for s in scenes]
    )
    annotations = captioner.encode(pictures)
    found = []
    for index, scene in enumerate(scenes):
        said = beam_search(captioner, annotations[index : index + 1], BEAM)[0][0]
        count = len(said.token_ids) - said.finished
        caption = ExplainedCaption(
            captioner,
            pictures[index],
            annotations[index],
            said.token_ids,
            said.alphas[:count].double().numpy(),
            annotations.mean(dim=0),
            seed=index,
        )
        words = [captioner.vocabulary.words[token] for token in said.token_ids[:count]]
        places = {}
        for word, region in enumerate(data.ground_truth.regions(scene, words)):
            if region is not None and region.unique is not None:
                other = next(f.mask for f in scene.named if not np.array_equal(f.mask, region.unique))
                if not (other & region.union).any():
                    places[word] = tuple(
                        mask_on_grid(mask, captioner.grid).ravel() for mask in (region.unique, other)
                    )
        found.append((caption, places))
    return found
