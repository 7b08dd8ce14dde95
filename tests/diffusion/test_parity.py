# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Against diffusers' PyTorch schedulers."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax import rng
from dreambooth_jax.diffusion.loop import advance, begin, sample
from dreambooth_jax.diffusion.process import add_noise, training_target
from dreambooth_jax.diffusion.samplers import build_table
from dreambooth_jax.diffusion.schedule import NoiseSchedule

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
OPTIONS = [
    {
        "timestep_spacing": spacing,
        "set_alpha_to_one": to_one,
        "steps_offset": offset,
        "prediction_type": kind,
        "rescale_betas_zero_snr": zero_snr,
        "clip_sample": clip,
        "clip_sample_range": 0.8,
    }
    for spacing in ("leading", "trailing", "linspace")
    for to_one in (False, True)
    for offset in (0, 1)
    for kind in ("epsilon", "sample", "v_prediction")
    for zero_snr in (False, True)
    for clip in (False, True)
    if not (kind == "epsilon" and zero_snr and spacing != "leading")  # 0 / 0 there, and an error here
]


def both(**config) -> tuple[NoiseSchedule, "diffusers.DDIMScheduler"]:
    theirs = diffusers.DDIMScheduler(**{**SD, **config})
    return NoiseSchedule.from_config(json.loads(theirs.to_json_string())), theirs


def in_float64(scheduler):
    """Makes a scheduler compute all it does with its own table, but in float64."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    return scheduler


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"num_train_timesteps": 50},
        {"num_train_timesteps": 50, "trained_betas": np.linspace(0.001, 0.2, 50).tolist()},
    ],
)
def test_tables(config, zero_snr):
    ours, theirs = both(**config, rescale_betas_zero_snr=zero_snr)
    # the rescaled table passes through PyTorch's square root, whose last bit depends on the machine
    tolerance = 2e-6 if zero_snr else 1.2e-7
    np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod.numpy(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("count", [1000, 50])
def test_timesteps(spacing, offset, count):
    ours, theirs = both(timestep_spacing=spacing, steps_offset=offset, num_train_timesteps=count)
    for steps in [*range(1, 51 - offset), *((100, 250, 333, 500) if count == 1000 else ())]:
        theirs.set_timesteps(steps)
        expected = theirs.timesteps.numpy()
        assert len(expected) == steps or expected[steps] == -1  # their rounding in trailing spacing
        np.testing.assert_array_equal(ours.timesteps(steps), expected[:steps])


@jax.jit
def one_row(x, prediction, table, key, i):
    """(x after row i, the noise that the row was given)."""
    noise = jax.random.normal(rng.stream(key, "ddim", i), x.shape, x.dtype)
    end = advance(lambda x, t: prediction[None], begin(x[None]), table, first=i, last=i + 1, keys=key[None])
    return end.x[0], noise


def test_steps():
    """Every option, over the whole length of a run, with predictions that no network would make."""
    with jax.enable_x64(True):
        for number, config in enumerate(OPTIONS):
            ours, theirs = both(**config)
            in_float64(theirs).set_timesteps(9)
            tables = [build_table("ddim", ours, 9, eta=eta) for eta in (0.0, 0.4, 1.0)]
            values = np.random.default_rng(number).normal(size=(9, 2, 2, 5))
            for i, (timestep, (x, prediction)) in enumerate(zip(theirs.timesteps, values)):
                table, eta = tables[i % 3], (0.0, 0.4, 1.0)[i % 3]
                stepped, noise = one_row(jnp.asarray(x), jnp.asarray(prediction), table, rng.root_key(number), i)
                expected = theirs.step(
                    *(torch.tensor(prediction), timestep, torch.tensor(x)),
                    eta=eta,
                    variance_noise=torch.tensor(np.asarray(noise)),
                ).prev_sample
                assert table.rows.t[i] == timestep
                # our tables may differ from theirs in the last bit of a float32
                np.testing.assert_allclose(stepped, expected.numpy(), rtol=1e-5, atol=1e-6, err_msg=str(config))
        assert one_row._cache_size() == 1


def made_up(x, t):
    """Predictions of a network that there is on both sides."""
    return (torch if isinstance(x, torch.Tensor) else jnp).sin(x + t / 300)


def our_run(schedule, sampler, steps, dtype, *, start=0, **settings):
    """(x at first, the result, the noise of each row)."""
    keys = jax.random.split(rng.root_key(3), 2)
    x = jax.random.normal(rng.root_key(4), (2, 9), dtype)
    table = build_table(sampler, schedule, steps, start=start, **settings)
    result = jax.jit(partial(sample, made_up))(x, table, keys=keys)
    noises = [[jax.random.normal(rng.stream(key, "ddim", i), (9,), dtype) for key in keys] for i in range(steps)]
    assert result.dtype == dtype
    return *(torch.tensor(np.asarray(array)) for array in (x, result)), torch.tensor(np.asarray(noises))


RUNS = [
    {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False},
    {"set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "v_prediction", "clip_sample": True},
    {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-9)])
@pytest.mark.parametrize("config", RUNS)
@pytest.mark.parametrize("start", [0, 6])
def test_runs(config, dtype, tolerance, start):
    """20 steps, or the last 14 of them, with a made-up network and the same noise on both sides."""
    ours, theirs = both(**config)
    if dtype == "float64":
        in_float64(theirs).alphas_cumprod = torch.tensor(ours.alphas_cumprod).double()
    theirs.set_timesteps(20)
    for eta in (0.0, 0.6):
        with jax.enable_x64(dtype == "float64"):
            y, result, noises = our_run(ours, "ddim", 20, dtype, start=start, eta=eta)
        for timestep, noise in zip(theirs.timesteps[start:], noises):
            prediction = made_up(y, timestep.to(y.dtype))
            y = theirs.step(prediction, timestep, y, eta=eta, variance_noise=noise).prev_sample
        np.testing.assert_allclose(result, y, rtol=0, atol=tolerance * float(y.abs().max()))


@pytest.mark.parametrize("config", [*RUNS, {"prediction_type": "sample", "timestep_spacing": "linspace"}])
def test_ddpm(config, monkeypatch):
    ours = both(**config)[0]
    theirs = diffusers.DDPMScheduler(**{**SD, **{k: v for k, v in config.items() if k != "set_alpha_to_one"}})
    theirs.register_to_config(clip_sample=ours.sampling.clip_sample)
    theirs.alphas_cumprod = torch.tensor(ours.alphas_cumprod).double()
    theirs.one = theirs.one.double()
    theirs.set_timesteps(20)
    with jax.enable_x64(True):
        y, result, noises = our_run(ours, "ddpm", 20, "float64")
    for timestep, noise in zip(theirs.timesteps, noises):
        monkeypatch.setattr(diffusers.schedulers.scheduling_ddpm, "randn_tensor", lambda *_, noise=noise, **__: noise)
        y = theirs.step(made_up(y, timestep.to(y.dtype)), timestep, y).prev_sample
    np.testing.assert_allclose(result, y, rtol=0, atol=1e-9 * float(y.abs().max()))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_euler(spacing, kind):
    """Theirs has x / α, and steps in float32. Timesteps of linspace spacing are fractional."""
    config = {**SD, "timestep_spacing": spacing, "prediction_type": kind, "steps_offset": 1}
    theirs = diffusers.EulerDiscreteScheduler(**config)
    theirs.set_timesteps(20)
    ours = NoiseSchedule.from_config(json.loads(theirs.to_json_string()))
    y, result, _ = our_run(ours, "euler", 20, "float32")
    assert (spacing == "linspace") == bool((theirs.timesteps != theirs.timesteps.round()).any())
    y = y * (theirs.sigmas[0] ** 2 + 1).sqrt()
    for timestep in theirs.timesteps:
        y = theirs.step(made_up(theirs.scale_model_input(y, timestep), timestep), timestep, y).prev_sample
    np.testing.assert_allclose(result, y, rtol=0, atol=1e-5 * float(y.abs().max()))


def test_noise_and_velocity():
    ours, theirs = both()
    x0, noise = np.random.default_rng(0).normal(size=(2, 4, 3, 3, 2)).astype(np.float32)
    timesteps = np.asarray([0, 1, 500, 999])
    alpha_bar = jnp.asarray(ours.alphas_cumprod)[timesteps]
    for function, formula in (
        (theirs.add_noise, add_noise),
        (theirs.get_velocity, lambda *arguments: training_target("v_prediction", *arguments)),
    ):
        expected = function(torch.tensor(x0), torch.tensor(noise), torch.tensor(timesteps))
        np.testing.assert_allclose(formula(jnp.asarray(x0), jnp.asarray(noise), alpha_bar), expected, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        *("PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler"),
        *("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DDPMScheduler", "HeunDiscreteScheduler"),
    ],
)
def test_files_of_other_classes_are_read_as_when_a_pipeline_changes_its_scheduler(name):
    """The file of a repository, saved by another class, then taken over by DDIM."""
    repository = {**SD, "clip_sample": False, "steps_offset": 1, "set_alpha_to_one": False}
    saved = json.loads(getattr(diffusers, name).from_config(repository).to_json_string())
    ours, theirs = NoiseSchedule.from_config(saved), diffusers.DDIMScheduler.from_config(saved)
    theirs.set_timesteps(20)
    np.testing.assert_array_equal(ours.timesteps(20), theirs.timesteps.numpy())
    assert ours.prediction_type == theirs.config["prediction_type"]
    for key in ("timestep_spacing", "steps_offset", "set_alpha_to_one", "clip_sample"):
        assert getattr(ours.sampling, key) == theirs.config[key]


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
def test_missing_keys_mean_what_they_mean_to_a_pipeline():
    scheduler = diffusers.DDIMScheduler.from_config(SD)
    nothing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor"))
    pipe = diffusers.StableDiffusionPipeline(**nothing, scheduler=scheduler, requires_safety_checker=False)
    ours = NoiseSchedule.from_config(SD)
    assert ours.prediction_type == pipe.scheduler.config["prediction_type"]
    for key in ("timestep_spacing", "steps_offset", "set_alpha_to_one", "clip_sample", "clip_sample_range"):
        assert getattr(ours.sampling, key) == pipe.scheduler.config[key]
