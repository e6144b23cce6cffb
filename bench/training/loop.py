"""Training: stage by stage and epoch by epoch. Issuing the same command again goes on where it stopped."""

import dataclasses
import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.batches import counted
from bench.data.base import CaptionedImage
from bench.distributed import World, barrier
from bench.errors import ConfigError
from bench.progress import say, track
from bench.training.examples import Examples, read_examples
from bench.training.logs import TrainingLogs
from bench.training.recipe import Stage, TrainingConfig
from bench.training.rewards import CiderReward
from bench.training.state import BEST, Keeper, Last, Progress
from bench.training.steps import StepResult, Steps
from bench.training.validation import Validation, Validator
from models.captioner import Captioner
from models.formats import load_checkpoint
from reports.training import EpochRow, StepRow, TrainingRecord, TrainingStore
from reports.training_page import write_training_page


class Training:
    """A training that goes on: what all its stages share.

    Args:
        config: the recipe.
        captioner: is trained; on its device, with the weights of `progress`.
        data: train and validation images.
        record: what training.json says.
        progress: where the training stands.
        folder: the training directory.
        cache: folder for what is computed once.
        is_started: whether the captioner comes from a checkpoint, which is then to be surpassed.
        max_steps: after which every stage ends; None for the recipe's epochs.
        world: this process's place; the first one writes.
    """

    def __init__(
        self,
        config: TrainingConfig,
        captioner: Captioner,
        data: tuple[Sequence[CaptionedImage], Sequence[CaptionedImage]],
        record: TrainingRecord,
        progress: Progress,
        *,
        folder: Path,
        cache: Path,
        is_started: bool,
        max_steps: int | None,
        world: World,
    ) -> None:
        self.config, self.captioner, self.progress = config, captioner, progress
        self.record = dataclasses.replace(record, epochs=tuple(progress.epochs), best=progress.best)
        self._data, self._folder, self._cache = data, folder, cache
        self._is_started, self._max_steps, self._world = is_started, max_steps, world
        self._keeper, self._store = Keeper(folder), TrainingStore(folder)
        self._logs = TrainingLogs(folder)

    def run(self, last: Last | None) -> None:
        """Runs the stages that are left.

        Args:
            last: where the optimizer's numbers come from; None at the beginning.
        """
        with ExitStack() as stack:
            if self._world.is_first:
                stack.enter_context(self._logs)
                self._store.write_training(self.record)
                self._begin_logs()
            for number in range(self.progress.stage, len(self.config.stages)):
                self._stage(number, last)
                last = None
        if self._world.is_first:
            self._warn_if_in_vain()
            self._store.write_training(dataclasses.replace(self.record, status="finished"))
            write_training_page(self._folder)

    def _warn_if_in_vain(self) -> None:
        if self.progress.best is None:
            warning = (
                f"no epoch surpassed the {self._told_score(self.progress.score_before)} of the checkpoint that the "
                "training started from; best.safetensors holds that checkpoint's weights"
            )
            say(f"WARNING: {warning}")
            self.record = dataclasses.replace(self.record, warnings=(*self.record.warnings, warning))

    def _begin_logs(self) -> None:
        progress = self.progress
        if progress.stage or progress.step:
            stage = self.config.stages[min(progress.stage, len(self.config.stages) - 1)]
            self._logs.resume(stage.name, progress.step, epochs=len(progress.epochs))
        else:
            self._logs.begin()

    def _stage(self, number: int, last: Last | None) -> None:
        stage, progress = self.config.stages[number], self.progress
        train, val = (
            read_examples(
                images,
                self.captioner,
                frozen=stage.trained_from is None,
                cache=self._cache,
                world=self._world,
                label=f"reading {what} pictures",
                max_words=self.config.max_words if what == "training" else None,
            )
            for images, what in zip(self._data, ("training", "validation"), strict=True)
        )
        data = dataclasses.replace(self.record.data, left_out=(*train.failures, *val.failures))
        self.record = dataclasses.replace(self.record, data=data)
        per_epoch = -(-len(train) // stage.batch_size)
        total = min(stage.epochs * per_epoch, self._max_steps or math.inf)
        reward = None
        if stage.objective == "self-critical":
            reward = CiderReward(dict(zip(train.ids, train.references, strict=True)))
        steps = Steps(
            stage,
            number,
            self.captioner,
            train,
            reward,
            steps=int(total),
            seed=self.config.seed,
            world=self._world,
        )
        steps.part_size = progress.part_size or stage.part_size
        if last is not None:
            last.fill(self.captioner, steps.optimizer)
        beam_size, folder = self.config.validation_beam, self._folder
        with Validator(beam_size=beam_size, world=self._world, folder=folder) as validator:
            if self._is_started and progress.score_before is None:
                self._judge_start(validator, val, steps)
            while not self._is_over(stage, per_epoch, int(total)):
                epoch = len(progress.of_stage(stage.name))
                self._epoch(steps, range(progress.step, min((epoch + 1) * per_epoch, int(total))), epoch)
                self._validate(steps, validator, val, epoch)
        if number + 1 < len(self.config.stages):
            self._begin_with_best(number + 1, steps)

    def _judge_start(self, validator: Validator, examples: Examples, steps: Steps) -> None:
        """Weights that were given stay the best until others are better."""
        self.captioner.eval()
        found = validator(self.captioner, examples, "validation before the first step")
        self.progress.score_before = score = self._score(found.cider, found.bleu4, found.loss)
        if self._world.is_first:
            say(f"before the first step: {self._told_score(score)} over {counted(found.images)}")
            self._keeper.save_best(self.captioner, self.progress, self._about())
            self._save(steps)
            validator.forget()

    def _is_over(self, stage: Stage, per_epoch: int, total: int) -> bool:
        """Whether all steps are done and validated, or nothing has become better for too long."""
        rows = self.progress.of_stage(stage.name)
        if len(rows) * per_epoch >= total:
            return True
        waited = len(rows) - max((i for i, row in enumerate(rows, start=1) if row.is_best), default=0)
        return stage.patience is not None and waited >= stage.patience

    def _epoch(self, steps: Steps, numbers: range, epoch: int) -> None:
        progress, stage = self.progress, steps.stage
        scores = [self._score_of(row) for row in progress.of_stage(stage.name)]
        steps.ready()
        label = f"{stage.name}: epoch {epoch + 1} of {stage.epochs}"
        for number in track(numbers, total=len(numbers), label=label, unit="steps", note=self._note):
            begun = time.perf_counter()
            found = steps.step(number, scores=scores, baseline=progress.baseline or 0.0)
            progress.step = number + 1
            progress.part_size = steps.part_size
            if stage.hard:
                momentum = stage.hard.momentum
                mean = found.reward / found.captions
                progress.baseline = momentum * (progress.baseline or 0.0) + (1 - momentum) * mean
            self._count(found, time.perf_counter() - begun)
            if self._world.is_first:
                self._logs.step(_step_row(stage, epoch, number, found))
                if self._keeper.is_due:
                    self._save(steps)

    def _note(self) -> str:
        """The loss of the epoch so far, for the progress line."""
        sums = self.progress.sums
        return f"{sums['nats'] / sums['words']:.3f} nats per word" if sums.get("words") else ""

    def _count(self, found: StepResult, seconds: float) -> None:
        sums = self.progress.sums
        for name in ("nats", "words", "penalty", "reward", "captions"):
            sums[name] = sums.get(name, 0.0) + getattr(found, name)
        sums["steps"] = sums.get("steps", 0) + 1
        sums["seconds"] = sums.get("seconds", 0.0) + seconds
        sums["learning_rate"] = found.learning_rate

    def _validate(self, steps: Steps, validator: Validator, examples: Examples, epoch: int) -> None:
        """Ends an epoch: judges the weights, keeps them if they are the best."""
        stage, progress = steps.stage, self.progress
        self.captioner.eval()
        found = validator(self.captioner, examples, f"{stage.name}: validation {epoch + 1}")
        row = self._row(stage, epoch, found)
        progress.epochs.append(row)
        progress.sums = {}
        if not self._world.is_first:
            return
        say(_told(row))
        self._logs.epoch(row)
        if row.is_best:
            self._keeper.save_best(self.captioner, progress, self._about())
        self._save(steps)
        validator.forget()
        self.record = dataclasses.replace(self.record, epochs=tuple(progress.epochs), best=progress.best)
        self._store.write_training(self.record)

    def _row(self, stage: Stage, epoch: int, found: Validation) -> EpochRow:
        sums = self.progress.sums
        reason = None
        if found.cider is None:
            reason = "its loss is no number" if found.bleu4 is None else "CIDEr needs at least two images"
        row = EpochRow(
            stage=stage.name,
            epoch=epoch + 1,
            step=self.progress.step,
            loss=sums["nats"] / sums["words"],
            penalty=sums["penalty"] / sums["steps"],
            reward=sums["reward"] / sums["captions"] if stage.objective != "likelihood" else None,
            val_loss=found.loss if math.isfinite(found.loss) else None,
            val_cider=found.cider,
            val_bleu4=found.bleu4,
            val_bleu4_teacher_forced=found.bleu4_teacher_forced,
            val_images=found.images,
            learning_rate=sums["learning_rate"],
            words_per_second=sums["words"] / sums["seconds"],
            is_best=False,
            reason=reason,
        )
        if row.val_loss is None:
            raise ConfigError(
                f"training diverged in epoch {epoch + 1} of stage {stage.name!r}; "
                "use another seed or a lower learning rate"
            )
        earlier = [self._score_of(each) for each in self.progress.epochs]
        if self.progress.score_before is not None:
            earlier.append(self.progress.score_before)
        return dataclasses.replace(row, is_best=all(self._score_of(row) > score for score in earlier))

    def _score_of(self, row: EpochRow) -> float:
        assert row.val_loss is not None
        return self._score(row.val_cider, row.val_bleu4, row.val_loss)

    def _score(self, cider: float | None, bleu4: float | None, loss: float) -> float:
        """What weights are chosen by; the loss where the chosen score can't be computed."""
        score = cider if self.config.selection == "CIDEr" else bleu4
        return -loss if score is None else score

    def _told_score(self, score: float | None) -> str:
        """A score in words; below 0 is none of CIDEr or BLEU-4, but the loss."""
        assert score is not None
        if score < 0:
            return f"validation loss of {-score:.3f} nats per word"
        return f"{self.config.selection} of {score:.3f} in beam search"

    def _save(self, steps: Steps) -> None:
        self._logs.flush()
        self._keeper.save_last(self.captioner, steps.optimizer, self.progress, self._about())

    def _about(self) -> dict[str, Any]:
        """What a checkpoint says of its training."""
        record = self.record
        return {
            **record.config,
            "preset": record.preset,
            "data": record.data.name,
            "trunk_weights": record.model.weights,
            "warnings": list(record.warnings),
        }

    def _begin_with_best(self, number: int, steps: Steps) -> None:
        """Goes to the beginning of a stage, with the best weights so far and nothing of the last stage's optimizer."""
        barrier()  # until these weights are on the disk
        best = load_checkpoint(self._folder / BEST).captioner
        self.captioner.load_state_dict(best.state_dict())
        self.captioner.eval()
        progress = self.progress
        progress.stage, progress.step, progress.part_size, progress.baseline = number, 0, None, None
        steps.optimizer.state.clear()
        if self._world.is_first:
            self._save(steps)
        barrier()


def _step_row(stage: Stage, epoch: int, step: int, found: StepResult) -> StepRow:
    return StepRow(
        stage=stage.name,
        epoch=epoch + 1,
        step=step + 1,
        loss=found.nats / found.words,
        penalty=found.penalty,
        reward=found.reward / found.captions if stage.objective != "likelihood" else None,
        learning_rate=found.learning_rate,
        gradient_norm=found.gradient_norm,
        words=found.words,
    )


def _told(row: EpochRow) -> str:
    """An epoch in one line."""
    cider = "none" if row.val_cider is None else f"{row.val_cider:.3f}"
    reward = "" if row.reward is None else f" (mean reward {row.reward:.3f})"
    return (
        f"{row.stage}, epoch {row.epoch}: training loss {row.loss:.3f} nats per word{reward}, validation loss "
        f"{row.val_loss:.3f}; CIDEr {cider} and BLEU-4 {row.val_bleu4:.3f} of beam search over {row.val_images} "
        f"validation images{' (the best so far)' if row.is_best else ''}"
    )
