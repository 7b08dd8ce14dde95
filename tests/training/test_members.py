# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Members that are trained by one step are the same as trained alone, and do not know of each other."""

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend.core import jaxprs_in_params

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import join, lora
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.adapters.textual_inversion import textual_inversion
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.hardware import programs
from dreambooth_jax.models import CLIPTextConfig, CLIPTextModel
from dreambooth_jax.models.condition import Condition, Conditioner
from dreambooth_jax.models.families import SD
from dreambooth_jax.target import Target
from dreambooth_jax.training.members import GroupInputs, MemberInputs, MemberStep, stack_members
from dreambooth_jax.training.objective import DenoisingObjective
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.parallel import make_member_mapper
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep
from dreambooth_jax.weights.modules import parameter_shapes

V, WORDS, ROWS, STEPS = 24, 2, 2, 4
TEXT = CLIPTextConfig.from_json(
    {
        "vocab_size": V,
        "hidden_size": 10,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 7,
    }
)


class Denoiser(nn.Module):
    """Of each kind of layer that networks have one or two: a small program, for many members and devices."""

    dtype: type = np.float64

    def setup(self):
        self.conv_in = nn.Conv(6, (3, 3), padding=1, dtype=self.dtype)
        self.time = nn.Dense(6, dtype=self.dtype)
        self.downsampler = nn.Conv(6, (3, 3), strides=2, padding=((0, 1), (0, 1)), dtype=self.dtype)
        self.to_q, self.to_k, self.to_v = (nn.Dense(6, dtype=self.dtype, use_bias=False) for _ in range(3))
        self.proj_out = nn.Conv(4, (1, 1), dtype=self.dtype)

    def __call__(self, x, timesteps, condition):
        waves = jnp.sin(timesteps[:, None] * 10.0 ** -jnp.arange(4.0)[None])
        h = jnp.sin(self.conv_in(x) + self.time(waves)[:, None, None])
        small = self.downsampler(h)
        states = condition.states
        q, k, v = self.to_q(small.reshape(len(x), -1, 6)), self.to_k(states), self.to_v(states)
        attended = (nn.softmax(q @ k.mT) @ v).reshape(small.shape)
        return self.proj_out(h + jnp.tanh(attended).repeat(2, axis=1).repeat(2, axis=2))


LAYERS = choose_layers(unet=[".*/(downsampler|to_q|proj_out)"], text_encoder=[".*/q_proj"])
NEW_WORDS = textual_inversion({"sks": WORDS}, {"text_encoder": [(1,), (2, 3)]}, norm="initial")
CASES = {
    "lora": lora(LAYERS, ranks=Ranks(2, alpha=3.0)),
    "lora with dropout": lora(LAYERS, ranks=Ranks(2), dropout=0.3),
    "dora of outputs": lora(LAYERS, ranks=Ranks(2), dora="output"),
    "dora of inputs": lora(LAYERS, ranks=Ranks(2), dora="input"),
    "textual inversion": NEW_WORDS,
    "pivotal": join(lora(LAYERS, ranks=Ranks(2)), NEW_WORDS),
}


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@cache
def objective(words):
    text = CLIPTextModel(TEXT, dtype=np.float64, added_tokens=WORDS if words else 0)
    return DenoisingObjective(
        unet=Denoiser(),
        conditioner=Conditioner((("text_encoder", text),), SD.condition),
        schedule=NoiseSchedule.from_config(
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
        ),
        scaling_factor=0.18215,
        n_instances=ROWS // 2,
    )


def random_params():
    (text,) = (module for _, module in objective(words=False).conditioner.encoders)
    blank = np.zeros((1, 7, 10)), np.zeros((1, 4, 4, 4)), np.zeros(1, np.int32)
    shapes = {
        "unet": jax.eval_shape(Denoiser().init, rng.root_key(0), blank[1], blank[2], Condition(blank[0]))["params"],
        "text_encoder": trees.unflatten(parameter_shapes(SD.components["text_encoder"], text)),
    }
    leaves = trees.flatten(shapes)
    return trees.unflatten(
        {
            name: draw(i, *leaf.shape) / np.sqrt(max(np.prod(leaf.shape[:-1]), 4))
            for i, (name, leaf) in enumerate(leaves.items())
        }
    )


def rates_of(number):
    """Learning rates of a member at each step: a warm-up, and a level of its own."""
    return (1 + number) * 1e-3 * np.minimum(np.arange(1, STEPS + 1) / (1 + number), 1)


def steps_of(number):
    return STEPS - number % 2


def key_of(number):
    return rng.root_key(10 + number)


def batch_of(number, step):
    """A member's rows: as many pictures of its subject as of its class, which weigh as much as it wants, and each
    picture a share of that."""
    r = np.random.default_rng([number, step])
    is_prior = np.arange(ROWS) >= ROWS // 2
    ids = r.integers(0, V, (ROWS, 7)).astype(np.int32)
    return {
        "mean": r.normal(size=(ROWS, 4, 4, 4)),
        "logvar": r.normal(size=(ROWS, 4, 4, 4)) - 2,
        "ids": ids,
        "weight": np.where(is_prior, 0.5 + number, 1.0) * np.resize([1.0, 0.25, 2.0], ROWS),
        "is_prior": is_prior,
        "index": np.arange(ROWS, dtype=np.int32),
    }


class Case:
    """An adapter, and its members one by one."""

    def __init__(self, name):
        self.adapter = CASES[name]
        self.frozen, self.start = self.adapter.init(rng.root_key(0), random_params())
        self.groups = tuple(self.start)
        self.words = "tokens" in self.groups
        self.fixed = {group: self.optimizer(group, jnp.zeros(1)) for group in self.groups}
        self.take_alone = jax.jit(self.alone)
        self.mapped = {}

    def optimizer(self, group, rates):
        return adamw(lambda count: rates[count], group=group, weight_decay=1e-2)

    def options(self, **changes):
        known = {"objective": objective(self.words), "adapter": self.adapter, "active": self.groups}
        return known | {"ema_decay": 0.9, "clip_norm": 0.5} | changes

    def state(self, number):
        leaves = trees.flatten(self.start)
        moved = {name: leaf + 0.2 * draw([number, i], *leaf.shape) for i, (name, leaf) in enumerate(leaves.items())}
        state = init_state(trees.unflatten(moved), self.fixed, with_ema=True)
        return jax.device_put(state, jax.devices()[0])  # so that the first step is the program of the others

    def batch(self, number, step):
        batch = batch_of(number, step)
        ids = batch.pop("ids")
        if self.words:
            ids[:, 2:4] = V + np.arange(2)
        return batch | {"input_ids/text_encoder": ids}

    def alone(self, rates, *rest):
        optimizers = {group: self.optimizer(group, rates) for group in self.groups}
        return TrainStep(optimizers=optimizers, **self.options())(*rest)

    def taken_alone(self, number):
        """(state, losses) of a member that is trained on its own."""
        state, losses = self.state(number), []
        for now in range(steps_of(number)):
            rest = self.frozen, self.batch(number, now), key_of(number)
            state, metrics = self.take_alone(jnp.asarray(rates_of(number)), state, *rest)
            losses.append(metrics["loss"])
        return state, losses

    def inputs(self, numbers, now):
        steps = jnp.asarray([steps_of(number) for number in numbers], jnp.int32)
        one = GroupInputs(
            start=jnp.zeros(len(numbers), jnp.int32),
            stop=steps,
            hyper=jnp.stack([jnp.asarray(rates_of(number)) for number in numbers]),
        )
        return MemberInputs(
            keys=stack_members([key_of(number) for number in numbers]),
            steps=steps,
            now=jnp.int32(now),
            groups=dict.fromkeys(self.groups, one),
        )

    def step(self, **changes):
        optimizers = {group: partial(self.optimizer, group) for group in self.groups}
        return MemberStep(optimizers=optimizers, **self.options(**changes))

    def rows(self, numbers, step, changed=None):
        batches = [(changed or {}).get((number, step), self.batch(number, step)) for number in numbers]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}

    def together(self, numbers, *, devices=1, parallel="auto", fsdp_devices=0, changed=None, inputs=None, step=None):
        """(states, metrics of each step) of members that are trained by one step."""
        target = Target.of(jax.devices()[:devices])
        mapper = make_member_mapper(parallel, target, members=len(numbers), rows=ROWS, fsdp_devices=fsdp_devices)
        if step is None:
            step = self.mapped.setdefault((len(numbers), devices, parallel, fsdp_devices), mapper.map(self.step()))
        state = mapper.place_members(stack_members([self.state(number) for number in numbers]))
        frozen, found = mapper.place(self.frozen), []
        for now in range(STEPS):
            rows = mapper.place_batch(self.rows([numbers[i] for i in mapper.members], now, changed))
            state, metrics = step(state, frozen, rows, (inputs or self.inputs)(numbers, now))
            found.append(jax.tree.map(np.asarray, metrics))
        return jax.tree.map(np.asarray, mapper.logical(state)), found

    def lowered(self, count, *, devices=1, parallel="auto", fsdp_devices=0):
        """The program of members over devices."""
        target = Target.of(jax.devices()[:devices])
        mapper = make_member_mapper(parallel, target, members=count, rows=ROWS, fsdp_devices=fsdp_devices)
        state = jax.eval_shape(lambda: stack_members([self.state(0)] * count))
        batch, inputs = trees.shapes(self.batch(0, 0)), trees.shapes(self.inputs([0] * count, 0))
        shapes = mapper.member_shapes(state), mapper.shapes(trees.shapes(self.frozen)), mapper.batch_shapes(batch)
        return mapper.map(self.step()).lower(*shapes, inputs)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@cache
def case_of(name):
    return Case(name)


def one_of(state, place):
    return jax.tree.map(lambda leaf: leaf[place], state)


METHODS = ("lora", "dora of outputs", "textual inversion", "pivotal")
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
    case, numbers = case_of(name), list(range(count))
    state, metrics = case.together(numbers, devices=devices)
    for place, number in enumerate(numbers):
        expected, losses = case.taken_alone(number)
        same = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11)
        jax.tree.map(same, one_of(state, place), jax.tree.map(np.asarray, expected))
        for now, loss in enumerate(losses):
            np.testing.assert_allclose(metrics[now]["loss"][place], loss, rtol=1e-11)
            assert metrics[now]["active"][place]
        assert not any(metrics[now]["active"][place] for now in range(len(losses), STEPS))


@pytest.mark.parametrize("name", ["textual inversion", pytest.param("pivotal", marks=pytest.mark.slow)])
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
