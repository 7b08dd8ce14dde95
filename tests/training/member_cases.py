# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A small program in float64 for each way to train, whose members are trained by one step or one by one."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import join, lora
from dreambooth_jax.adapters.ranks import Ranks
from dreambooth_jax.adapters.targets import choose_layers
from dreambooth_jax.adapters.textual_inversion import textual_inversion
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.models import CLIPTextConfig, CLIPTextModel
from dreambooth_jax.models.condition import Condition, Conditioner
from dreambooth_jax.models.families import SD
from dreambooth_jax.target import Target
from dreambooth_jax.training.members import GroupInputs, MemberInputs, MemberStep, stack_members
from dreambooth_jax.training.objective import DenoisingObjective
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.parallel import make_member_mapper
from dreambooth_jax.training.parallel.sharding import replicate
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
        return jax.device_put(state, jax.local_devices()[0])  # so that the first step is the program of the others

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
        """(states, metrics of each step) of members that are trained by one step; devices may be those of several
        processes."""
        target = Target.of(jax.devices()[:devices], process=jax.process_index())
        mapper = make_member_mapper(parallel, target, members=len(numbers), rows=ROWS, fsdp_devices=fsdp_devices)
        if step is None:
            step = self.mapped.setdefault((len(numbers), devices, parallel, fsdp_devices), mapper.map(self.step()))
        state = mapper.place_members(stack_members([self.state(number) for number in numbers]))
        whole = partial(replicate, mesh=target.mesh) if jax.process_count() > 1 else lambda tree: tree
        frozen, found = mapper.place(self.frozen), []
        for now in range(STEPS):
            rows = mapper.place_batch(self.rows([numbers[i] for i in mapper.members], now, changed))
            state, metrics = step(state, frozen, rows, (inputs or self.inputs)(numbers, now))
            found.append(jax.tree.map(np.asarray, whole(metrics)))
        return jax.tree.map(np.asarray, whole(mapper.logical(state))), found

    def told(self, count):
        """Shapes of what :meth:`together` says of so many members."""
        state = jax.eval_shape(lambda: stack_members([self.state(0)] * count))
        rest = self.rows([0] * count, 0), self.inputs([0] * count, 0)
        return state, [jax.eval_shape(self.step(), state, self.frozen, *rest)[1]] * STEPS

    def lowered(self, count, *, devices=1, parallel="auto", fsdp_devices=0):
        """The program of members over devices."""
        target = Target.of(jax.devices()[:devices])
        mapper = make_member_mapper(parallel, target, members=count, rows=ROWS, fsdp_devices=fsdp_devices)
        state = jax.eval_shape(lambda: stack_members([self.state(0)] * count))
        batch, inputs = trees.shapes(self.batch(0, 0)), trees.shapes(self.inputs([0] * count, 0))
        shapes = mapper.member_shapes(state), mapper.shapes(trees.shapes(self.frozen)), mapper.batch_shapes(batch)
        return mapper.map(self.step()).lower(*shapes, inputs)


@cache
def case_of(name):
    return Case(name)


def one_of(state, place):
    return jax.tree.map(lambda leaf: leaf[place], state)


METHODS = ("lora", "dora of outputs", "textual inversion", "pivotal")


def assert_as_alone(name, numbers, state, metrics):
    """What members have come to together is what each comes to alone."""
    case = case_of(name)
    for place, number in enumerate(numbers):
        expected, losses = case.taken_alone(number)
        same = partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-11)
        jax.tree.map(same, one_of(state, place), jax.tree.map(np.asarray, expected))
        for now, loss in enumerate(losses):
            np.testing.assert_allclose(metrics[now]["loss"][place], loss, rtol=1e-11)
            assert metrics[now]["active"][place]
        assert not any(metrics[now]["active"][place] for now in range(len(losses), STEPS))
