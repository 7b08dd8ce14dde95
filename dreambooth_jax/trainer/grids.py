# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Sample pictures are drawn after steps where a grid of them is due."""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8

from dreambooth_jax import distributed
from dreambooth_jax.config import Config
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.evaluation.samples import SampleSettings, draw_rows, save_beside, save_grid
from dreambooth_jax.pipeline import Pipeline
from dreambooth_jax.pipeline.preview import load_preview
from dreambooth_jax.prepare.photos import subject_of
from dreambooth_jax.progress import announced
from dreambooth_jax.prompts.named import expanded
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.trainer.training import Training
from dreambooth_jax.training.loop import Hook
from dreambooth_jax.training.state import TrainState
from dreambooth_jax.trees import Tree

Rows: TypeAlias = list[UInt8[np.ndarray, "n h w 3"]]
"""Pictures of each prompt."""


@dataclass(frozen=True, kw_only=True)
class Grids:
    """The grids that a run draws from fixed seeds: rows with the identifier, then rows of the class.

    Attributes:
        folder: of the run.
        settings: prompts, seeds, and how they are sampled.
        every: steps between two; 0 draws none.
        last: step of the run.
    """

    folder: RunFolder
    settings: SampleSettings
    every: int
    last: int
    _drawn: dict[int, Rows | None] = field(default_factory=dict)

    def are_due(self, step: int) -> bool:
        """Every so many steps, and at the end."""
        return bool(self.every) and (step % self.every == 0 or step == self.last)

    def are_there(self, step: int) -> bool:
        """Have the grid of a step, and what is made of it, been written? Process 0 looks, for all."""
        files = [self.folder.samples(step), *([self.folder.before_after] if step == self.last else [])]
        return bool(distributed.gather(all(file.exists() for file in files))[0])

    def rows(self, step: int, training: Training, state: TrainState) -> Rows | None:
        """The pictures of a step, drawn once. All processes call it; process 0 alone draws, others have None."""
        if step not in self._drawn:
            self._drawn.clear()
            params = training.drawn_params(state)
            self._drawn[step] = self._draw(training.setup.pipe, params) if distributed.is_main() else None
        return self._drawn[step]

    def _draw(self, pipe: Pipeline, params: Tree) -> Rows:
        with announced("drawing sample pictures", usually="a minute the first time, which compiles the sampler"):
            return draw_rows(pipe, self.settings, params=params)

    def draw(self, step: int, training: Training, state: TrainState) -> None:
        """Write the grid of a step, and at the end the first one beside it. All processes call it."""
        rows = self.rows(step, training, state)
        if rows is None:
            return
        path, first = self.folder.samples(step), self.folder.samples(0)
        save_grid(path, rows, self.settings, title=f"step {step}")
        if 0 < step == self.last and first.exists():
            save_beside(self.folder.before_after, first, path)


def grids_of(config: Config, folder: RunFolder) -> Grids:
    """What a run's settings ask for."""
    samples = config.samples
    settings = SampleSettings(
        prompts=_prompts(config),
        num_images=samples.num_images,
        seed=samples.seed,
        sampling=samples.sampling(size=config.data.size),
        preview=load_preview(samples.preview_vae) if samples.preview_vae else None,
    )
    return Grids(folder=folder, settings=settings, every=samples.every, last=config.train.steps)


def _prompts(config: Config) -> list[str]:
    """Rows with the identifier, then rows of the class. Several concepts have rows each, and share those that say the
    same of all."""
    samples, concepts = config.samples, concepts_of(config)
    rows = [
        subject_of(concept).fill(prompt, syntax=samples.prompt_syntax)
        for prompts in (samples.prompts, samples.class_prompts)
        for concept in concepts
        for prompt in expanded(prompts)
    ]
    return rows if len(concepts) == 1 else list(dict.fromkeys(rows))


def sampling(grids: Grids, training: Training) -> Hook:
    """A hook that draws a grid where one is due.

    It is called before the first step, too: a run that goes on has that grid, unless it ended between checkpoint and
    grid.
    """

    def sample(step: int, state: TrainState) -> None:
        if not grids.are_due(step) or (0 < step == training.first_step and grids.are_there(step)):
            return
        grids.draw(step, training, state)

    return sample
