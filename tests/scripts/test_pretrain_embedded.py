# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The pretraining: its loop resumes exactly, its objectives add up, and the whole command writes a model that loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedded import autoencoder, denoiser
from embedded.fit import Stage, fit, learning_rate, muon
from embedded.settings import Denoiser, parse

from dreambooth_jax import rng
from dreambooth_jax.models import AutoencoderKL
from dreambooth_jax.models.configs import VAEConfig
from dreambooth_jax.pipeline import load_pretrained
from dreambooth_jax.training.state import init_state

ROOT = Path(__file__).parents[2]
CPU = ROOT / "configs" / "embedded_pretrain_cpu.yaml"
FOLDERS = ["--sprites", "a", "--work", "b", "--output", "c"]


def test_the_rate_rises_stays_and_falls():
    rate = learning_rate(Stage(steps=100, batch_size=1, learning_rate=0.5, warmup=10, cooldown=0.3))
    np.testing.assert_allclose(
        [rate(0), rate(5), rate(10), rate(69), rate(85), rate(100)], [0, 0.25, 0.5, 0.5, 0.25, 0]
    )


def test_kernels_take_orthogonal_steps_and_all_else_adams():
    draw = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 4, 8), "bias": (8,), "embedding": (6, 4)}
    grads = {"net": {name: jnp.asarray(draw.normal(size=shape), jnp.float32) for name, shape in shapes.items()}}
    params = jax.tree.map(jnp.zeros_like, grads)
    optimizer = muon(lambda step: 0.1)
    state = init_state(params, {"net": optimizer}, with_ema=False)  # as the trainer makes it
    updates, _ = optimizer.update(grads["net"], state.opt_state["net"], params["net"])
    matrix = np.asarray(updates["kernel"]).reshape(36, 8)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert values.max() < 2 * values.min()  # Newton-Schulz leaves them between about 0.7 and 1.2
    assert np.sqrt(np.mean(matrix**2)) == pytest.approx(0.1 * 0.2, rel=0.3)
    for name in ("bias", "embedding"):  # Adam's first step is the sign, and as long in every direction
        found = np.asarray(updates[name])
        np.testing.assert_allclose(found, -np.abs(found).max() * np.sign(grads["net"][name]), rtol=1e-3)


def distance(params, batch, *, root_key, step):
    """A toy objective: how far the weights are from noisy targets."""
    noise = jax.vmap(jax.random.normal)(rng.per_example(rng.stream(root_key, "noise", step), batch["index"]))
    loss = jnp.sum(jnp.square(params["net"]["w"] - batch["target"] - noise)) / 8
    return loss, {}


def toy(folder, steps):
    stage = Stage(steps=steps, batch_size=8, learning_rate=0.1, warmup=0, cooldown=0.0, save_minutes=0, log_every=2)
    folder.mkdir(exist_ok=True)
    index = np.arange(8, dtype=np.int32)
    params = {"net": {"w": jnp.zeros(())}}
    return fit(distance, params, lambda step: {"target": np.full(8, step, np.float32), "index": index}, stage, folder)


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path):
    whole = toy(tmp_path / "whole", 6)
    toy(tmp_path / "cut", 3)
    again = toy(tmp_path / "cut", 6)
    np.testing.assert_array_equal(whole["net"]["w"], again["net"]["w"])
    log = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [2, 3, 4, 6]
    assert sum(row["examples"] for row in log) == 6 * 8


@pytest.fixture(scope="module")
def vae():
    config = {
        "block_out_channels": [4, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "norm_num_groups": 2,
    }
    module = AutoencoderKL(VAEConfig.from_json(config))
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    draw = np.random.default_rng(0)
    return module, jax.tree.map(lambda s: jnp.asarray(0.3 * draw.normal(size=s.shape), s.dtype), shapes)


PICTURES = np.random.default_rng(1).integers(0, 256, (6, 16, 16, 3)).astype(np.uint8)


def test_the_autoencoders_losses_add_up_over_rows(vae):
    module, params = vae
    objective = autoencoder.AutoencoderObjective(vae=module, batch_size=4, kl_weight=0.1)

    @jax.jit
    def loss(rows, index):
        batch = {"pictures": rows, "index": index}
        return objective({"vae": params}, batch, root_key=rng.root_key(0), step=jnp.int32(3))

    index = np.arange(4)
    whole, parts = loss(PICTURES[:4], index), [loss(PICTURES[i : i + 2], index[i : i + 2]) for i in (0, 2)]
    jax.tree.map(lambda w, a, b: np.testing.assert_allclose(w, a + b, rtol=1e-5), whole, *parts)


def test_all_pictures_pass_through_the_autoencoder_once(vae):
    module, params = vae
    mean, logvar = autoencoder.moments(module, params, PICTURES)
    assert mean.shape == logvar.shape == (6, 8, 8, 4)
    one, _ = autoencoder.moments(module, params, PICTURES[4:5])
    np.testing.assert_allclose(mean[4:5], one, rtol=2e-3, atol=2e-3)
    assert autoencoder.restored(module, params, PICTURES).shape == PICTURES.shape


def test_psnr():
    black = np.zeros((2, 4, 4, 3), np.uint8)
    np.testing.assert_allclose(autoencoder.psnr(black + 255, black), 0.0, atol=1e-9)
    np.testing.assert_allclose(autoencoder.psnr(black + 51, black), 20 * np.log10(5), rtol=1e-6)


def test_latents_are_a_function_of_the_step_and_a_tenth_has_no_caption():
    own = Denoiser(stage=Stage(steps=10, batch_size=400, learning_rate=1.0))
    ids = np.tile(np.array([8, 1, 2, 9, 9], np.int32), (50, 1))
    mean = np.arange(50, dtype=np.float16).reshape(-1, 1, 1, 1)
    latents = denoiser.Latents(mean=mean, logvar=mean, ids=ids, own=own, seed=0)
    first, again, other = latents(3), latents(3), latents(4)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first["mean"] != other["mean"]).any()
    empty = (first["input_ids/text_encoder"] == [8, 9, 9, 9, 9]).all(1)
    assert 0.05 < empty.mean() < 0.15
    np.testing.assert_array_equal(
        first["input_ids/text_encoder"][~empty], np.broadcast_to(ids[0], (400 - empty.sum(), 5))
    )
    np.testing.assert_array_equal(ids[:, 1], 1)  # the corpus is left as it was


def test_settings_of_both_machines_are_read():
    full, cpu = parse(FOLDERS), parse(["--config", str(CPU), *FOLDERS])
    assert full == parse(["--config", str(ROOT / "configs" / "embedded_pretrain.yaml"), *FOLDERS])
    assert full.data.nouns == ()
    assert cpu.data.nouns
    assert cpu.denoiser.stage.steps < full.denoiser.stage.steps
    assert parse([*FOLDERS, "--denoiser.stage.steps", "7"]).denoiser.stage.steps == 7


SMALLEST = """
workers: 1
data: {count: 48, tokens: 560}
autoencoder:
  channels: [4, 4, 8]  # latents of 16 x 16: most of the time is drawing two hundred pictures
  groups: 2
  stage: {steps: 3, batch_size: 4, learning_rate: 1.0e-3}
denoiser:
  channels: [8, 16]
  heads: 2
  groups: 4
  text_width: 16
  text_layers: 1
  stage: {steps: 3, batch_size: 4, learning_rate: 1.0e-3, show_every: 3}
"""


@pytest.mark.slow
def test_the_command_makes_a_model_of_sprites(sprite_folder, tmp_path):
    (tmp_path / "smallest.yaml").write_text(SMALLEST)
    model = tmp_path / "model"
    command = [sys.executable, "scripts/pretrain_embedded.py", "--config", str(tmp_path / "smallest.yaml")]
    command += ["--sprites", str(sprite_folder), "--work", str(tmp_path / "work"), "--output", str(model)]
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"), "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    check(model, tmp_path / "work")

    further = tmp_path / "further"
    command[-1], command[-3] = str(further), str(tmp_path / "other work")
    command += ["--begin_with", str(model)]
    command += ["--autoencoder.stage.learning_rate", "0", "--denoiser.stage.learning_rate", "0"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    check(further, tmp_path / "other work")
    first, second = load_pretrained(model).params, load_pretrained(further).params
    jax.tree.map(np.testing.assert_array_equal, first, second)  # no learning, no change


def check(model, work):
    assert {path.name for path in model.iterdir()} >= {"README.md", "ATTRIBUTION.txt", "LICENCES", "model_index.json"}
    assert "| denoiser | 3 | 4 |" in (model / "README.md").read_text()
    pipeline = load_pretrained(model)
    pictures = pipeline(["a flat ball on a red background"], steps=2)
    assert pictures.shape == (1, 64, 64, 3)
    assert pipeline.schedule.prediction_type == "v_prediction"
    grids = {path.name for path in work.rglob("*.png")}
    assert grids == {"restored.png", "step_000003.png", "samples.png"}
