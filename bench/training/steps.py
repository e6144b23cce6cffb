"""One stage's steps: which images, which captions, which loss, and how the optimizer is told of it."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bench.batches import free_memory, is_out_of_memory
from bench.distributed import World
from bench.errors import ConfigError
from bench.progress import say
from bench.training.examples import Examples, TokenIds
from bench.training.objectives import (
    Loss,
    Whole,
    advantages,
    hard_attention,
    likelihood,
    sample_captions,
    self_critical,
)
from bench.training.parallel import PartLoss, add_gradients, seed_of, split
from bench.training.recipe import Stage
from bench.training.rewards import CiderReward
from bench.training.schedule import Rate, constant, one_cycle, plateau
from bench.training.validation import padded
from models.captioner import Captioner
from models.encoder import TrunkEncoder


class StepResult(NamedTuple):
    """What one step yields, summed over the batch."""

    nats: float
    """Negative log-likelihood of the words."""
    words: int
    penalty: float
    """The attention term, weighted."""
    reward: float
    """Log-likelihoods or CIDEr-D of the captions; 0 under an objective without a reward."""
    captions: int
    learning_rate: float
    """Of the decoder."""
    gradient_norm: float
    """Before clipping."""


class _Part(NamedTuple):
    """Images that are computed together."""

    images: Sequence[int]
    captions: list[list[TokenIds]]
    """Those that were drawn of each image; none under the self-critical objective."""
    seed: int
    draw: torch.Generator
    """On the CPU; has drawn the captions, and goes on to draw what is done to the pictures."""


class Steps:
    """The steps of one stage. Each is a function of the weights, the optimizer and its number alone.

    Args:
        stage: the recipe.
        number: of the stage.
        captioner: is trained.
        examples: to train on.
        reward: of the self-critical objective; None for the others.
        steps: of the whole stage.
        seed: of the training.
        world: this process's place.
    """

    def __init__(
        self,
        stage: Stage,
        number: int,
        captioner: Captioner,
        examples: Examples,
        reward: CiderReward | None,
        *,
        steps: int,
        seed: int,
        world: World,
    ) -> None:
        self.stage, self.captioner, self.examples = stage, captioner, examples
        self.part_size = stage.part_size
        self._number, self._reward, self._steps = number, reward, steps
        self._seed, self._world = seed, world
        self._order: tuple[int, list[int]] = (-1, [])
        self.optimizer = _optimizer(stage, captioner)

    @property
    def per_epoch(self) -> int:
        """Steps in one pass over the images."""
        return -(-len(self.examples) // self.stage.batch_size)

    def step(self, step: int, *, scores: Sequence[float | None], baseline: float) -> StepResult:
        """Takes one step.

        Args:
            step: its number in the stage, from 0.
            scores: validation scores of the stage's finished epochs.
            baseline: of hard attention.

        Returns:
            What it yielded; the same in every process.

        Raises:
            ConfigError: if memory is too small for a single image, or the loss is not a number any more.
        """
        rate = self._tell(self._rate(step, scores))
        nats, words, penalty, reward, captions = self._fitting(step, baseline)
        norm = self._clip()
        if not (math.isfinite(nats + penalty) and math.isfinite(norm)):
            raise ConfigError(
                f"training diverged in step {step + 1} of stage {self.stage.name!r}; "
                "use another seed or a lower learning rate"
            )
        self.optimizer.step()
        return StepResult(nats, int(words), penalty, reward, int(captions), rate, norm)

    def ready(self) -> None:
        """Lets what the stage trains be trained, and nothing else: what is frozen keeps weights and statistics."""
        self.captioner.eval().requires_grad_(False)
        self.captioner.decoder.train().requires_grad_(True)
        for child in trained_children(self.captioner, self.stage.trained_from):
            child.requires_grad_(True)
            if not self.stage.frozen_statistics:
                child.train()

    def _fitting(self, step: int, baseline: float) -> tuple[float, ...]:
        """The step's gradient and figures, in smaller parts where memory is short and this process alone decides."""
        while True:
            try:
                return self._gradients(step, baseline)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Behind the handler: the error held every tensor of the calls that failed.
            if self.part_size == 1 or self._world.size > 1:
                raise ConfigError(
                    f"out of memory with {self.part_size} images at once; train where there is more memory, with "
                    "another --device, or in a single process, which makes the parts of a batch smaller"
                )
            self.optimizer.zero_grad(set_to_none=True)
            free_memory()
            self.part_size = -(-self.part_size // 2)
            say(f"out of memory; batches are computed in parts of {self.part_size} images from here on")

    def _gradients(self, step: int, baseline: float) -> tuple[float, ...]:
        parts = self._parts(step)
        drawn = [row for part in parts for captions in part.captions for row in captions]
        whole = Whole(words=sum(map(len, drawn)), captions=len(drawn))
        if self._reward:
            whole = Whole(words=0, captions=self.stage.samples * sum(len(part.images) for part in parts))

        def compute(index: int) -> PartLoss:
            part = parts[index]
            torch.manual_seed(part.seed)  # of dropout
            loss, words = self._loss(part, whole, baseline)
            return PartLoss(loss.share, (loss.nats, words, loss.penalty, loss.reward, self._count(part)))

        return add_gradients(self.captioner, len(parts), compute, self._world)

    def _count(self, part: _Part) -> int:
        return self.stage.samples * len(part.images) if self._reward else sum(map(len, part.captions))

    def _parts(self, step: int) -> list[_Part]:
        """The parts of a step's batch. Captions are drawn for all of them, since the loss is over all their words."""
        epoch, at = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            draw = torch.Generator().manual_seed(seed_of(self._seed, self._number, epoch))
            self._order = epoch, torch.randperm(len(self.examples), generator=draw).tolist()
        size = self.stage.batch_size
        parts = []
        for index, images in enumerate(split(self._order[1][at * size : (at + 1) * size], self.part_size)):
            seed = seed_of(self._seed, self._number, step, index)
            draw = torch.Generator().manual_seed(seed)
            captions: list[list[TokenIds]] = [[] for _ in images]
            if not self._reward:
                per_image = self.stage.captions_per_image
                captions = self.examples.draw_captions(images, per_image=per_image, draw=draw)
            parts.append(_Part(images, captions, seed, draw))
        return parts

    def _annotations(self, part: _Part) -> Float[Tensor, "image cells dim"]:
        inputs = self.examples.inputs(part.images, stage=self.stage, draw=part.draw, captions=part.captions)
        inputs = inputs.to(self.captioner.device)
        return inputs if self.examples.frozen else self.captioner.encode(inputs)

    def _loss(self, part: _Part, whole: Whole, baseline: float) -> tuple[Loss, int]:
        """This part's share of the loss, and how many words it is over."""
        captioner, device = self.captioner, self.captioner.device
        draw = torch.Generator(device).manual_seed(part.seed)
        dtype = getattr(torch, self.stage.precision)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            annotations = self._annotations(part)
            if self._reward:
                return self._self_critical(part, annotations, whole, draw)
            rows = [row for captions in part.captions for row in captions]
            image = [place for place, captions in enumerate(part.captions) for _ in captions]
            captions = padded(image, rows, device)
            common = (captioner.decoder, annotations, captions, whole)
            start, penalty = captioner.vocabulary.start, self.stage.penalty
            if self.stage.hard:
                hard, words = self.stage.hard, sum(map(len, rows))
                return (
                    hard_attention(
                        *common, start=start, penalty=penalty, settings=hard, baseline=baseline, draw=draw
                    ),
                    words,
                )
            return likelihood(*common, start=start, penalty=penalty), sum(map(len, rows))

    def _self_critical(
        self, part: _Part, annotations: Float[Tensor, "image cells dim"], whole: Whole, draw: torch.Generator
    ) -> tuple[Loss, int]:
        assert self._reward is not None
        captioner, vocabulary = self.captioner, self.captioner.vocabulary
        samples = sample_captions(
            captioner.decoder,
            annotations,
            start=vocabulary.start,
            end=vocabulary.end,
            samples=self.stage.samples,
            max_steps=captioner.max_steps,
            draw=draw,
        )
        rewards = [
            [
                self._reward(
                    self.examples.ids[image], vocabulary.decode(said), finished=said[-1:] == (vocabulary.end,)
                )
                for said in drawn
            ]
            for image, drawn in zip(part.images, samples, strict=True)
        ]
        rows = [row for drawn in samples for row in drawn]
        image = [place for place, drawn in enumerate(samples) for _ in drawn]
        loss = self_critical(
            captioner.decoder,
            annotations,
            padded(image, rows, captioner.device),
            advantages(torch.tensor(rewards)).flatten().to(captioner.device),
            whole,
            start=vocabulary.start,
        )
        total = math.fsum(reward for row in rewards for reward in row)
        return loss._replace(reward=total), sum(map(len, rows))

    def _rate(self, step: int, scores: Sequence[float | None]) -> Rate:
        if self.stage.schedule == "one-cycle":
            return one_cycle(step, self._steps)
        return plateau(scores) if self.stage.schedule == "plateau" else constant()

    def _tell(self, rate: Rate) -> float:
        """Gives the optimizer its rates; the decoder's."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * rate.factor
            if "betas" in group:
                group["betas"] = (rate.momentum, group["betas"][1])
        return float(self.optimizer.param_groups[0]["lr"])

    def _clip(self) -> float:
        """Clips the gradient as the recipe says; its norm before that."""
        trained = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if self.stage.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(trained, self.stage.clip_norm, norm)
        if self.stage.clip_value is not None:
            nn.utils.clip_grad_value_(trained, self.stage.clip_value)
        return float(norm)


def trained_children(captioner: Captioner, first: int | None) -> list[nn.Module]:
    """The parts of the encoder that are trained from a child of its trunk on; none for None."""
    if first is None:
        return []
    if isinstance(captioner.encoder, TrunkEncoder):
        return list(captioner.encoder.trunk.children())[first:]
    return [captioner.encoder]


def _optimizer(stage: Stage, captioner: Captioner) -> torch.optim.Optimizer:
    encoder = [p for child in trained_children(captioner, stage.trained_from) for p in child.parameters()]
    rates = (stage.learning_rate, stage.encoder_learning_rate or stage.learning_rate)
    groups = [
        {"params": parameters, "lr": rate, "peak": rate}
        for parameters, rate in zip((list(captioner.decoder.parameters()), encoder), rates, strict=True)
        if parameters
    ]
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    return kinds[stage.optimizer](groups, weight_decay=stage.weight_decay)
