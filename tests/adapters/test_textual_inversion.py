# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Textual inversion: what it begins with, what a step changes, and five steps beside diffusers' script."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreambooth_jax import rng, trees
from dreambooth_jax.adapters import Adapter, full
from dreambooth_jax.adapters.textual_inversion import first_vectors, keep_lengths, textual_inversion
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.models import CLIPTextConfig, CLIPTextModel, UNet2DConditionModel, UNetConfig
from dreambooth_jax.models.condition import Conditioner
from dreambooth_jax.models.families import SD
from dreambooth_jax.training.objective import DenoisingObjective
from dreambooth_jax.training.optimizer import adamw
from dreambooth_jax.training.state import init_state
from dreambooth_jax.training.step import TrainStep
from tests import torch_models

V, D = 553, 32
TEXT = CLIPTextConfig(vocab_size=V, hidden_size=D, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4)
IDS = np.asarray([[551, 5, V, V + 1, 6, 552]], np.int32)
PLAIN = np.asarray([[551, 5, 9, 8, 6, 552]], np.int32)


def table(seed=0):
    return np.random.default_rng(seed).normal(size=(V, D)).astype(np.float32)


def params_with(embedding):
    return {"text_encoder": {"embeddings": {"token_embedding": {"embedding": embedding}}}, "unet": {"bias": table()[0]}}


def vectors_of(adapter, params, seed=0):
    (found,) = adapter.init(rng.root_key(seed), params)[1]["tokens"].values()
    return np.asarray(found)


class TestBeginning:
    def test_from_words_and_their_mean(self):
        embedding = table()
        adapter = textual_inversion({"a": 2, "b": 1}, {"text_encoder": [(7,), (9,), (7, 9, 9)]})
        found = vectors_of(adapter, params_with(embedding))
        np.testing.assert_array_equal(found[:2], embedding[[7, 9]])
        np.testing.assert_allclose(found[2], (embedding[7] + 2 * embedding[9]) / 3, rtol=1e-6)

    def test_at_random_on_the_scale_of_the_table(self):
        """A standard deviation of 0.02 is estimated within a twentieth of itself from 100 vectors of 32 numbers."""
        adapter = textual_inversion({"a": 100}, {"text_encoder": [()] * 100})
        found = vectors_of(adapter, params_with(0.02 * table()))
        assert found.std() == pytest.approx(0.02, rel=0.05)
        assert len(np.unique(found[:, 0])) == 100
        assert (found != vectors_of(adapter, params_with(0.02 * table()), seed=1)).all()

    def test_each_text_encoder_has_its_own(self):
        params = {name: params_with(table(i))["text_encoder"] for i, name in enumerate(("one", "two"))}
        adapter = textual_inversion({"a": 2}, {"one": [(3,), ()], "two": [(3,), ()]})
        one, two = adapter.init(rng.root_key(0), params)[1]["tokens"].values()
        assert (one != two).all()
        assert adapter.networks("tokens") == ("one", "two")

    def test_with_the_length_that_the_vocabulary_has(self):
        embedding = table() * np.linspace(0.1, 3, V, dtype=np.float32)[:, None]
        adapter = textual_inversion({"a": 2}, {"text_encoder": [(7,), ()]}, norm="table")
        found = vectors_of(adapter, params_with(embedding))
        np.testing.assert_allclose(
            np.linalg.norm(found, axis=1), np.median(np.linalg.norm(embedding, axis=1)), rtol=1e-5
        )
        cosine = found[0] @ embedding[7] / np.linalg.norm(found[0]) / np.linalg.norm(embedding[7])
        assert cosine == pytest.approx(1, abs=1e-6)

    def test_half_a_table_has_whole_vectors(self):
        """A frozen table may be in bfloat16; what is trained is in float32."""
        adapter = textual_inversion({"a": 1}, {"text_encoder": [(7,)]})
        assert vectors_of(adapter, params_with(jnp.asarray(table(), jnp.bfloat16))).dtype == np.float32


@pytest.fixture(scope="module")
def params():
    """Of a small text encoder."""
    return jax.jit(CLIPTextModel(TEXT).init)(jax.random.key(0), jnp.asarray(PLAIN))["params"]


class TestTheEncoder:
    def test_it_is_the_one_with_a_longer_table(self, params):
        new = table(3)[:2]
        with_new = trees.unflatten(
            trees.flatten(params) | {"text_model/embeddings/token_embedding/added": jnp.asarray(new)}
        )
        found = CLIPTextModel(TEXT, added_tokens=2).apply({"params": with_new}, jnp.asarray(IDS))
        name = "text_model/embeddings/token_embedding/embedding"
        longer = trees.flatten(params) | {name: np.concatenate([trees.flatten(params)[name], new])}
        longer_config = CLIPTextConfig(**{**TEXT.__dict__, "vocab_size": V + 2})
        expected = CLIPTextModel(longer_config).apply({"params": trees.unflatten(longer)}, jnp.asarray(IDS))
        np.testing.assert_array_equal(found, expected)
        plain = CLIPTextModel(TEXT).apply({"params": params}, jnp.asarray(PLAIN))
        np.testing.assert_array_equal(
            CLIPTextModel(TEXT, added_tokens=2).apply({"params": with_new}, jnp.asarray(PLAIN)), plain
        )

    def step(self, adapter: Adapter, params, group="tokens", **how):
        """(step, state, frozen, batch) of one that learns states of a text."""
        frozen, trainable = adapter.init(rng.root_key(0), {"text_encoder": params})
        optimizers = {group: adamw(optax.constant_schedule(0.1), group=group)}
        module = CLIPTextModel(TEXT, added_tokens=2 if group == "tokens" else 0)

        def objective(params, batch, *, root_key, step):
            del root_key, step
            states = module.apply({"params": params["text_encoder"]}, batch["ids"])
            return jnp.mean((states - 1) ** 2), {}

        step = TrainStep(objective=objective, adapter=adapter, optimizers=optimizers, active=(group,), **how)
        state = init_state(trainable, optimizers, with_ema=False)
        return jax.jit(step), state, frozen, {"ids": IDS if group == "tokens" else PLAIN}

    def test_nothing_of_the_size_of_the_vocabulary_is_computed(self, params):
        """Neither gradients nor moments: the compiled step has no array of that size but the one that it is given."""
        words = textual_inversion({"sks": 2}, {"text_encoder": [(1,), (2, 3)]}, norm="initial")
        table_is_trained = full(".*/token_embedding/embedding")
        made = {}
        for group, adapter in {"tokens": words, "text_encoder": table_is_trained}.items():
            step, state, frozen, batch = self.step(adapter, params, group)
            text = step.lower(state, frozen, batch, rng.root_key(0)).compile().as_text()
            made[group] = set(re.findall(rf"= \(?f32\[{V},{D}\]\S* ([\w-]+)\(", text))
            moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
            assert moments == 2 * (2 * D if group == "tokens" else V * D) + 2
        assert made["tokens"] <= {"parameter", "copy", "bitcast"}
        assert not made["text_encoder"] <= {"parameter", "copy", "bitcast"}, "else the test sees nothing"

    @pytest.mark.parametrize("norm", ["free", "initial", "table"])
    def test_what_becomes_of_the_length(self, params, norm):
        adapter = textual_inversion({"sks": 2}, {"text_encoder": [(1,), (2, 3)]}, norm=norm)
        step, state, frozen, batch = self.step(adapter, params)
        first = np.asarray(state.trainable["tokens"]["text_encoder"])
        for _ in range(3):
            state, _ = step(state, frozen, batch, rng.root_key(0))
        last = np.asarray(state.trainable["tokens"]["text_encoder"])
        before, after = (np.linalg.norm(x, axis=1) for x in (first, last))
        assert (np.abs(after / before - 1) < 1e-5).all() == (norm != "free")
        assert (np.abs(last - first) > 1e-3).any()


STEPS, RATE, SEED = 5, 5e-4, 11


def batch_at(step, dtype):
    r = np.random.default_rng(step)
    ids = r.integers(0, V, size=(2, 77)).astype(np.int32)
    ids[:, 5:8] = [V, V + 1, V + 2]
    ids[1, 20:22] = [V + 1, V]
    return {
        "mean": r.normal(size=(2, 8, 8, 4)).astype(dtype),
        "logvar": r.normal(size=(2, 8, 8, 4), loc=-3).astype(dtype),
        "input_ids/text_encoder": ids,
        "weight": np.ones(2, dtype),
        "is_prior": np.zeros(2, bool),
        "index": np.arange(2, dtype=np.int32),
    }


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("before", [[0.0, 0.0], [3.0, 4.0]])
def test_a_vector_that_is_all_zero_stays_so_whatever_its_length_should_be(before):
    np.testing.assert_array_equal(keep_lengths(jnp.array([before]), jnp.zeros((1, 2))), [[0, 0]])
    table = jnp.array([[0.0, 0.0], [3.0, 4.0], [0.0, 5.0]])
    found = first_vectors(rng.root_key(0), table, [(0,), (1, 2)], like_table=True)
    np.testing.assert_array_equal(found[0], [0, 0])
    assert np.linalg.norm(found[1]) == pytest.approx(5)


def test_five_steps_are_those_of_diffusers_script():
    """examples/textual_inversion/textual_inversion.py: a longer table that is trained as a whole with AdamW, of which
    all but the new rows is put back after each step."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    with jax.enable_x64(True):
        models = torch_models.build("sd15", double=True)
        params = {name: torch_models.params_from_torch(getattr(models, name)) for name in ("unet", "text_encoder")}
        params = jax.tree.map(lambda leaf: jnp.array(leaf, np.float64), params)
        text = CLIPTextModel(
            CLIPTextConfig.from_json(torch_models.config_json(models.text_encoder)), dtype=np.float64, added_tokens=3
        )
        objective = DenoisingObjective(
            unet=UNet2DConditionModel(UNetConfig.from_json(torch_models.config_json(models.unet)), dtype=np.float64),
            conditioner=Conditioner((("text_encoder", text),), SD.condition),
            schedule=NoiseSchedule.from_config(torch_models.scheduler_config("sd15")),
            scaling_factor=0.18215,
            n_instances=2,
        )
        adapter = textual_inversion({"<toy>": 3}, {"text_encoder": [(7,), (7,), (9,)]})
        frozen, trainable = adapter.init(rng.root_key(0), params)
        optimizers = {"tokens": adamw(optax.constant_schedule(RATE), group="tokens", weight_decay=1e-2)}
        step = jax.jit(
            TrainStep(objective=objective, adapter=adapter, optimizers=optimizers, active=("tokens",), clip_norm=None),
            compiler_options={"xla_backend_optimization_level": 0},
        )
        state, root = init_state(trainable, optimizers, with_ema=False), rng.root_key(SEED)
        losses, draws = [], []
        for number in range(STEPS):
            batch = {name: jnp.asarray(value) for name, value in batch_at(number, np.float64).items()}
            draws.append(jax.tree.map(np.asarray, objective.draw(batch, root_key=root, step=number)))
            state, metrics = step(state, frozen, batch, root)
            losses.append(float(metrics["loss"]))
        expected_losses, expected, start = theirs(torch, models, draws)
    found = np.asarray(state.trainable["tokens"]["text_encoder"])
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
    assert np.abs(found - expected).max() <= 1e-9
    assert (np.abs(expected - start) > RATE).mean() > 0.9


def theirs(torch, models, draws):
    """(losses, new rows, new rows at first)."""
    schedule = NoiseSchedule.from_config(torch_models.scheduler_config("sd15"))
    models.unet.requires_grad_(False)
    models.text_encoder.requires_grad_(False)
    models.text_encoder.resize_token_embeddings(V + 3)
    embeddings = models.text_encoder.get_input_embeddings()
    embeddings.requires_grad_(True)
    with torch.no_grad():
        embeddings.weight[V:] = embeddings.weight[[7, 7, 9]]
    original = embeddings.weight.data.clone()
    optimizer = torch.optim.AdamW(embeddings.parameters(), lr=RATE, weight_decay=1e-2)
    losses = []
    for number, draw in enumerate(draws):
        latents, noise = (torch.tensor(np.moveaxis(x, -1, 1)) for x in (draw.latents, draw.noise))
        timesteps = torch.tensor(draw.timesteps)
        alpha_bar = torch.tensor(schedule.alphas_cumprod.astype(np.float64))[timesteps.long()].reshape(-1, 1, 1, 1)
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        ids = torch.tensor(batch_at(number, np.float64)["input_ids/text_encoder"]).long()
        prediction = models.unet(noisy, timesteps, models.text_encoder(ids)[0]).sample
        loss = torch.nn.functional.mse_loss(prediction, noise, reduction="mean")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            embeddings.weight[:V] = original[:V]
        losses.append(loss.item())
    return losses, embeddings.weight.detach().numpy()[V:], original.numpy()[V:]
