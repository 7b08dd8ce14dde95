# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Members that are trained by one step are the same as trained alone, and do not know of each other."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from dreambooth_jax import trees
from dreambooth_jax.hardware import programs
from dreambooth_jax.target import Target
from dreambooth_jax.training.members import stack_members
from dreambooth_jax.training.parallel import make_member_mapper
from dreambooth_jax.training.step import TrainStep
from tests.training.member_cases import (
    CASES,
    METHODS,
    ROWS,
    STEPS,
    assert_as_alone,
    case_of,
    key_of,
    one_of,
    rates_of,
    steps_of,
)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


SPREAD = [
    *((name, *spread) for name in METHODS for spread in ((1, 1), (5, 1), (2, 8))),
    ("lora", 5, 8),
    ("textual inversion", 5, 8),
    ("lora with dropout", 2, 1),
    ("dora of inputs", 2, 1),
]


@pytest.mark.parametrize(
    ("name", "count", "devices"),
    [("textual inversion", 2, 1), *(pytest.param(*one, marks=pytest.mark.slow) for one in SPREAD)],
)
def test_a_member_is_what_it_is_alone(name, count, devices):
    """Two members on eight devices: four for each, of which two have nothing to do, and a row on each of the others."""
    numbers = list(range(count))
    assert_as_alone(name, numbers, *case_of(name).together(numbers, devices=devices))


@pytest.mark.parametrize(
    "name",
    ["textual inversion", *(pytest.param(one, marks=pytest.mark.slow) for one in CASES if one != "textual inversion")],
)
def test_members_do_not_know_of_each_other(name):
    """Not a bit of one depends on who the others are, and whether their numbers are any."""
    case = case_of(name)
    spoilt = {**case.batch(1, 1), "mean": np.full((ROWS, 4, 4, 4), np.nan)}
    runs = [
        case.together([0, 1, 2]),
        case.together([0, 6, 2]),
        case.together([0, 1, 2], changed={(1, 1): spoilt}),
    ]
    for state, metrics in runs[1:]:
        for place in (0, 2):
            jax.tree.map(np.testing.assert_array_equal, one_of(state, place), one_of(runs[0][0], place))
            for now in range(STEPS):
                assert metrics[now]["loss"][place] == runs[0][1][now]["loss"][place]
    state, metrics = runs[2]
    assert [bool(found["active"][1]) for found in metrics] == [True, False, False, False], "it never moves again"
    assert [bool(np.isfinite(found["loss"][1])) for found in metrics] == [True, False, True, True]
    once = case.together([0, 1, 2], inputs=lambda *of: case.inputs(*of)._replace(steps=jnp.ones(3, jnp.int32)))[0]
    jax.tree.map(np.testing.assert_array_equal, one_of(state, 1), one_of(once, 1))


@pytest.mark.slow
def test_micro_batches_have_rows_of_every_member():
    case = case_of("pivotal")
    expected, _ = case.together([0, 1, 2])
    mapper = make_member_mapper("auto", Target.of(jax.devices()[:1]), members=3, rows=ROWS // 2)
    found, _ = case.together([0, 1, 2], step=mapper.map(case.step(accumulation=2)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11), found, expected)


@pytest.mark.slow
def test_a_group_has_a_stretch_of_each_member():
    """New words stop while the rest goes on: as in phases of a run that is alone, each with a step of its own."""
    case, stops = case_of("pivotal"), [2, 1]

    def inputs(numbers, now):
        found = case.inputs(numbers, now)
        tokens = found.groups["tokens"]._replace(stop=jnp.asarray(stops, jnp.int32))
        return found._replace(groups={**found.groups, "tokens": tokens})

    together, _ = case.together([0, 1], inputs=inputs)
    rest = tuple(group for group in case.groups if group != "tokens")

    def later(rates, *of):
        optimizers = {group: case.optimizer(group, rates) for group in case.groups}
        return TrainStep(optimizers=optimizers, **case.options(active=rest))(*of)

    take_later = jax.jit(later)
    for number in (0, 1):
        state = case.state(number)
        for now in range(steps_of(number)):
            take = case.take_alone if now < stops[number] else take_later
            of = state, case.frozen, case.batch(number, now), key_of(number)
            state, _ = take(jnp.asarray(rates_of(number)), *of)
        same = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11)
        jax.tree.map(same, one_of(together, number), jax.tree.map(np.asarray, state))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "dora of outputs"])
def test_a_text_encoder_has_a_stretch_of_each_member(name):
    """Alone, one at rest is not in the step: the batch has what it says by then."""
    case, stretches = case_of(name), [(0, 2), (1, 3)]

    def inputs(numbers, now):
        found = case.inputs(numbers, now)
        start, stop = (jnp.asarray(one, jnp.int32) for one in zip(*stretches, strict=True))
        own = found.groups["text_encoder"]._replace(start=start, stop=stop)
        return found._replace(groups={**found.groups, "text_encoder": own})

    def at_rest(rates, *of):
        optimizers = {group: case.optimizer(group, rates) for group in case.groups}
        return TrainStep(optimizers=optimizers, **case.options(active=("unet",), networks=("unet",)))(*of)

    together, metrics = case.together([0, 1], inputs=inputs)
    rest, conditioner = jax.jit(at_rest), case.options()["objective"].conditioner
    for number, (start, stop) in enumerate(stretches):
        state = case.state(number)
        for now in range(steps_of(number)):
            batch, is_trained = case.batch(number, now), start <= now < stop
            if not is_trained:
                ids = batch.pop("input_ids/text_encoder")
                params = case.adapter.compose(case.frozen, state.trainable)
                batch |= conditioner(params, {"text_encoder": ids}).leaves()
            take = case.take_alone if is_trained else rest
            state, told = take(jnp.asarray(rates_of(number)), state, case.frozen, batch, key_of(number))
            for term in ("loss", "grad_norm"):
                np.testing.assert_allclose(metrics[now][term][number], told[term], rtol=1e-11)
        same = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11)
        jax.tree.map(same, one_of(together, number), jax.tree.map(np.asarray, state))


COLLECTIVES = re.compile(r"\b(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\b")


@pytest.mark.slow
@pytest.mark.parametrize(("count", "expected"), [(5, set()), (2, {"all-reduce"})])
def test_members_on_devices_of_their_own_send_nothing(count, expected):
    """Where devices share a member, they add up its gradients."""
    text = case_of("textual inversion").lowered(count, devices=8).compile().as_text()
    assert set(COLLECTIVES.findall(text)) == expected


@pytest.mark.slow
def test_what_is_frozen_may_lie_in_parts(monkeypatch):
    """It is gathered, and the rest stays as it is."""
    monkeypatch.setattr("dreambooth_jax.training.parallel.members.SHARDING_THRESHOLD", 1)
    case = case_of("textual inversion")
    expected, _ = case.together([0, 1, 2, 3, 4], devices=8)
    for fsdp_devices in (0, 2):
        found, _ = case.together([0, 1, 2, 3, 4], devices=8, parallel="fsdp", fsdp_devices=fsdp_devices)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12), found, expected)
    compiled = case.lowered(5, devices=8, parallel="fsdp", fsdp_devices=2).compile().as_text()
    assert set(COLLECTIVES.findall(compiled)) == {"all-gather"}
    assert {one.group for one in programs.collectives(compiled)} == {2}


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_layers_of_the_base_are_one_product_over_all_rows():
    """Of no kernel is there one for each member, and no convolution has groups."""
    case, count = case_of("pivotal"), 3
    numbers = list(range(count))
    state = stack_members([case.state(number) for number in numbers])
    closed = jax.make_jaxpr(case.step())(state, case.frozen, case.rows(numbers, 0), case.inputs(numbers, 0))
    found = list(equations(closed.jaxpr))
    made = {variable.aval.shape for equation in found for variable in equation.outvars}
    products = {
        (equation.invars[0].aval.shape[0], equation.invars[1].aval.shape)
        for equation in found
        if equation.primitive.name == "dot_general" and not equation.params["dimension_numbers"][1][0]
    }
    convolutions = [equation for equation in found if equation.primitive.name == "conv_general_dilated"]
    assert {equation.params["feature_group_count"] for equation in convolutions} == {1}
    assert {equation.params["batch_group_count"] for equation in convolutions} == {1}
    kernels = {name: leaf.shape for name, leaf in trees.flatten(case.frozen).items() if name.endswith("/kernel")}
    assert len(kernels) > 10
    for name, shape in kernels.items():
        assert (count, *shape) not in made, name
        if len(shape) == 2:
            assert (count * ROWS, shape) in products, name
