# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The order in which the loop does things, written down by everything that it calls."""

import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax import rng
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.data.mixture import Mixture
from dreambooth_jax.data.streams import Stream
from dreambooth_jax.target import Target
from dreambooth_jax.training.late import LAG
from dreambooth_jax.training.loop import Phase, PhaseInputs, run_phases
from dreambooth_jax.training.metrics import MetricsFiles, Recorder
from dreambooth_jax.training.parallel import make_mapper
from dreambooth_jax.training.state import TrainState

PHASES = [Phase(start=0, stop=4, active=("unet",)), Phase(start=4, stop=6, active=("text_encoder", "unet"))]


class Data(Mixture):
    """Batches that hold the number of their step."""

    def batch_at(self, step, rows=slice(None)):
        return {"step": np.full(8, step)}


class Diary(Recorder):
    """Notes which step's numbers are read."""

    def _read(self):
        self.events.append(("read", self._pending[0][0] - 1))
        super()._read()


def drive(tmp_path, monkeypatch, *, first_step=0, stop_after=None):
    """Events of a run, as (what, step)."""
    events = []
    mapper = make_mapper("pmap", Target.here())
    really_place = type(mapper).place_batch

    def place_batch(self, batch):
        events.append(("place", int(batch["step"][0])))
        return really_place(self, batch)

    class Step:
        def __call__(self, state, frozen, batch, root_key):
            events.append(("step", int(batch["step"].ravel()[0])))
            return state, {"loss": jnp.float32(1), "grad_norm": jnp.float32(1)}

        def lower(self, *shapes):
            raise NotImplementedError

    monkeypatch.setattr(type(mapper), "place_batch", place_batch)
    zeros = np.zeros((1, 1, 2, 2, 4), np.float32)
    table = ExampleTable(mean=zeros, logvar=zeros, text={}, text_index=np.zeros(1, np.int64))
    data = Data(streams=[Stream(name="instance", table=table, rows=8)])
    phase_inputs = PhaseInputs(step=Step(), frozen={}, data=data, learning_rates=lambda step: {})
    files = MetricsFiles(tmp_path, first_step=first_step)
    recorder = Diary([files.write], first_step=first_step, steps=6, images_per_step=8, log_every=1)
    recorder.events = events
    taken = []
    _, last = run_phases(
        TrainState(step=jnp.int32(0), trainable={}, opt_state={}, ema={}),
        first_step=first_step,
        phases=PHASES,
        inputs_for=lambda phase, state: phase_inputs,
        mapper=mapper,
        root_key=rng.root_key(0),
        recorder=recorder,
        hooks=[lambda number, state: taken.append(number)],
        should_stop=lambda *_: bool(taken) and taken[-1] == stop_after,
    )
    recorder.close()
    files.close()
    assert taken == list(range(first_step + 1, last + 1))
    return events


@pytest.mark.parametrize("first_step", [0, 3])
def test_every_step_gets_its_own_batch_and_no_batch_is_placed_in_vain(tmp_path, monkeypatch, first_step):
    events = drive(tmp_path, monkeypatch, first_step=first_step)
    for what in ("place", "step"):
        assert [step for kind, step in events if kind == what] == list(range(first_step, 6))


def test_the_next_batch_is_sent_while_the_devices_work(tmp_path, monkeypatch):
    """Between the start of a step and the first wait after it."""
    events = drive(tmp_path, monkeypatch)
    for step in (0, 1, 2, 4):  # step 3 ends a phase, whose data is the last that it sees
        begun = events.index(("step", step))
        assert events[begun + 1] == ("place", step + 1)


def test_no_step_is_waited_for_before_the_next_ones_have_begun(tmp_path, monkeypatch):
    events = drive(tmp_path, monkeypatch)
    read = [step for kind, step in events if kind == "read"]
    assert read == [0, 1, 2, 3]
    for step in read:
        assert events.index(("step", step + LAG)) < events.index(("read", step))


def test_a_stop_ends_it_after_the_step(tmp_path, monkeypatch):
    events = drive(tmp_path, monkeypatch, stop_after=2)
    assert [step for kind, step in events if kind == "step"] == [0, 1]
