# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Runs that no setting asks for yet, from the same parts: two subjects, and two sizes of pictures."""

from dataclasses import dataclass, field, replace

import jax
import numpy as np
import pytest

from dreambooth_jax import rng
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.data.mixture import Mixture
from dreambooth_jax.data.streams import Stream
from dreambooth_jax.pipeline import Pipeline, load_pretrained
from dreambooth_jax.prepare.cache import text_table
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import TrainSetup, build_train_setup, mapper_of
from dreambooth_jax.training.loop import PhaseInputs
from dreambooth_jax.training.objective import DenoisingObjective
from tests.runs import MODEL, tiny_config

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Seen(DenoisingObjective):
    """Writes down the size of the latents whenever it is traced."""

    sizes: list = field(default_factory=list)

    def __call__(self, params, batch, **options):
        self.sizes.append(batch["mean"].shape[1:3])
        return super().__call__(params, batch, **options)


@dataclass
class Trainer:
    """The mapped step of a run of eight rows; from fresh weights each time it is asked."""

    pipe: Pipeline
    setup: TrainSetup
    traced: list

    def losses(self, *streams: Stream, steps: int) -> list[float]:
        """Of so many steps with a mixture of these streams."""
        mapper, (active,) = self.setup.mapper, self.setup.steps
        frozen, trainable = self.setup.adapter.init(rng.root_key(0), self.pipe.params)
        inputs = PhaseInputs(
            step=self.setup.steps[active],
            frozen=mapper.place(self.setup.frozen_in_step(active, frozen)),
            data=Mixture(streams=streams),
            learning_rates=lambda step: {},
        )
        state, losses = mapper.place(self.setup.fresh_state(jax.tree.map(np.array, trainable))), []
        for step in range(steps):
            state, metrics = inputs.step(state, inputs.frozen, inputs.batch_at(step, mapper), rng.root_key(0))
            losses.append(float(metrics["loss"]))
        return losses

    def stream(self, name: str, prompt: str, *, rows: int, size: tuple[int, int] = (4, 4)) -> Stream:
        """Three pictures, as noise, that are called by the prompt."""
        r = np.random.default_rng(len(prompt))
        mean, logvar = r.standard_normal((2, 3, 1, *size, self.pipe.vae.config.latent_channels)).astype(np.float32)
        text, index = text_table(self.pipe, [prompt] * 3, params=self.pipe.params, encode=True)
        return Stream(
            name=name, table=ExampleTable(mean=mean, logvar=logvar - 4, text=text, text_index=index), rows=rows
        )


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("streams"), "train.batch_size=8", "prior.weight=0", "train.steps=6")
    pipe = load_pretrained(MODEL)
    setup = build_train_setup(config, pipe, mapper_of(config, Target.here()))
    ((active, step),) = setup.pure_steps.items()
    objective = Seen(**vars(step.objective))
    mapped = setup.mapper.map(replace(step, objective=objective))
    return Trainer(pipe=pipe, setup=replace(setup, steps={active: mapped}), traced=objective.sizes)


def test_two_subjects_are_two_streams(trainer):
    """Of which each adds to the loss by its weight."""
    dog, cat = trainer.stream("dog", "a sks dog", rows=4), trainer.stream("cat", "a zwx cat", rows=4)
    whole, half, quarter = (trainer.losses(dog, replace(cat, weight=w), steps=2) for w in (1.0, 0.5, 0.25))
    assert whole[0] > half[0] > quarter[0]
    assert whole[0] - half[0] == pytest.approx(2 * (half[0] - quarter[0]), rel=1e-4)
    twice = trainer.losses(replace(dog, weight=2.0), replace(cat, weight=2.0), steps=1)
    assert twice == pytest.approx([2 * whole[0]], rel=1e-6)
    assert np.isfinite([whole, half, quarter]).all()


def test_two_sizes_are_two_streams_and_a_program_each(trainer):
    square = trainer.stream("square", "a sks dog", rows=8)
    wide = trainer.stream("wide", "the sks dog", rows=8, size=(4, 8))
    sizes = [Mixture(streams=[square, wide]).size_at(step) for step in range(6)]
    assert sorted(sizes) == [(4, 4)] * 3 + [(4, 8)] * 3
    losses = trainer.losses(square, wide, steps=6)
    assert sorted(trainer.traced) == [(4, 4), (4, 8)]
    assert np.isfinite(losses).all()
    assert losses[:1] == trainer.losses(wide if sizes[0] == (4, 8) else square, steps=1)
