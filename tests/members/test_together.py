# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What members have together is, for each, what it has alone: rows, metrics, and what is not finite."""

import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.data.member_rows import MemberRows
from dreambooth_jax.data.mixture import Mixture
from dreambooth_jax.data.streams import Stream
from dreambooth_jax.errors import InputError
from dreambooth_jax.training.finite import members_not_finite
from dreambooth_jax.training.member_metrics import MemberRecorder
from dreambooth_jax.training.metrics import Recorder
from dreambooth_jax.training.state import TrainState


def mixture(seed, count, *, side=4, rows=2):
    r = np.random.default_rng(seed)
    moments = [r.normal(size=(count, 1, side, side, 4)).astype(np.float32) for _ in range(2)]
    table = ExampleTable(
        mean=moments[0],
        logvar=moments[1],
        text={"condition/states": r.normal(size=(count, 3, 8)).astype(np.float32)},
        text_index=np.arange(count),
    )
    streams = [
        Stream(name="instance", table=table, rows=rows),
        Stream(name="prior", table=table, rows=rows, weight=0.5, is_prior=True),
    ]
    return Mixture(streams=streams, seed=seed)


def test_rows_are_those_of_each_alone_one_member_after_the_other():
    own = [mixture(0, 3), mixture(5, 7)]
    both = MemberRows(names=["dog", "cat"], mixtures=own)
    for step in (0, 1, 8):
        for rows in (slice(None), lambda count: slice(count // 2, count)):
            found, alone = both.batch_at(step, rows), [one.batch_at(step, rows) for one in own]
            for name, values in found.items():
                np.testing.assert_array_equal(values, np.concatenate([one[name] for one in alone]))


def test_rows_of_another_shape_are_refused_by_name():
    with pytest.raises(InputError, match="cat cannot be trained in one step with dog"):
        MemberRows(names=["dog", "cat"], mixtures=[mixture(0, 3), mixture(0, 3, side=8)]).batch_at(0)


def recorder(said, steps):
    def listener(step, values):
        said.append((step, {name: value for name, value in values.items() if name != "images_per_second"}))

    return Recorder([listener], first_step=0, steps=steps, images_per_step=2, log_every=1, show_bar=False)


def test_lines_are_those_of_each_alone_and_who_diverges_is_named(caplog):
    losses = np.array([[1.0, 2.0, 3.0], [1.5, np.nan, 2.5], [0.5, 7.0, 1.5], [0.25, 7.0, 9.0]])
    steps = [4, 4, 3]
    together, alone = ([[], [], []] for _ in range(2))
    members = MemberRecorder(
        ["dog", "cat", "hat"], [recorder(*one) for one in zip(together, steps)], steps=steps, first_step=0
    )
    singles = [recorder(*one) for one in zip(alone, steps)]
    for step, own in enumerate(losses, start=1):
        metrics = {"loss": jnp.asarray(own), "grad_norm": jnp.ones(3), "active": jnp.ones(3, bool)}
        members.push(step, metrics, [{"learning_rate/unet": float(number)} for number in range(3)])
        for number, one in enumerate(singles):
            if step <= steps[number] and (number != 1 or step == 1):
                of_one = {"loss": jnp.asarray(own[number]), "grad_norm": jnp.ones(())}
                one.push(step, of_one, {"learning_rate/unet": float(number)})
    members.flush()
    members.close()
    for one in singles:
        one.flush()
    assert together == alone
    assert [*members.stopped] == [1]
    assert members.stopped[1].step == 1
    assert "loss is nan at step 2" in members.stopped[1].why
    assert "cat is stopped after step 1" in caplog.text
    assert members.running(3) == [0, 2]
    assert members.running(4) == [0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["trainable", "ema", "opt_state"])
def test_whose_state_is_not_finite_is_found(part, value):
    tree = {"unet": {"a": jnp.ones((3, 2)), "b": jnp.ones((3, 2, 2)), "count": jnp.zeros(3, jnp.int32)}}
    state = TrainState(step=jnp.zeros(3, jnp.int32), trainable=tree, opt_state=tree, ema=tree)
    assert members_not_finite(state, 4) == {}
    spoilt = {"unet": {**tree["unet"], "b": tree["unet"]["b"].at[2, 1, 0].set(value)}}
    (number, said), *others = members_not_finite(state.replace(**{part: spoilt}), 4).items()
    assert (number, others) == (2, [])
    assert "unet/b is not finite after step 4 (1 of 6 are not)" in said
