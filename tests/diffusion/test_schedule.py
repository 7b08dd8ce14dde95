# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import numpy as np
import pytest

from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.errors import InputError

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
BETAS = (SD, {"beta_schedule": "linear"}, {"beta_schedule": "squaredcos_cap_v2"}, {"trained_betas": [0.01] * 1000})


@pytest.mark.parametrize("config", BETAS)
def test_noise_grows(config):
    alphas_cumprod = NoiseSchedule.from_config(config).alphas_cumprod
    assert alphas_cumprod.shape == (1000,)
    assert 0.95 < alphas_cumprod[0] < 1
    assert np.all(np.diff(alphas_cumprod) < 0)
    assert alphas_cumprod[-1] > 0


@pytest.mark.parametrize("config", BETAS)
def test_zero_terminal_snr_moves_the_last_and_keeps_the_first(config):
    plain = NoiseSchedule.from_config(config).alphas_cumprod
    rescaled = NoiseSchedule.from_config({**config, "rescale_betas_zero_snr": True}).alphas_cumprod
    assert rescaled[-1] == 0
    assert np.all(np.diff(rescaled) < 0)
    np.testing.assert_allclose(rescaled[0], plain[0], rtol=1e-6)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("count", [1000, 37])
def test_every_number_of_steps_has_as_many_timesteps(spacing, count):
    schedule = NoiseSchedule.from_config(
        {**SD, "num_train_timesteps": count, "timestep_spacing": spacing, "steps_offset": 0}
    )
    for steps in range(1, count + 1):
        timesteps = schedule.timesteps(steps)
        assert timesteps.shape == (steps,)
        assert np.all(np.diff(timesteps) < 0)
        assert 0 <= timesteps[-1] <= timesteps[0] < count


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule"),
        ({"prediction_type": "flow_prediction"}, "prediction_type"),
        ({"timestep_spacing": "karras"}, "timestep_spacing"),
        ({"thresholding": True}, "thresholding"),
        ({**SD, "use_flow_sigmas": True}, "use_flow_sigmas"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "FlowMatchEulerDiscreteScheduler"),
        ({"beta_start": "0.00085"}, "beta_start"),
        ({"steps_offset": True}, "steps_offset"),
        ({"clip_sample": 1}, "clip_sample"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"trained_betas": [0.0] * 1000}, "trained_betas"),
        ({"beta_end": 2}, "beta_end"),
    ],
)
def test_what_we_do_not_have_is_named(config, named):
    with pytest.raises(InputError, match=named):
        NoiseSchedule.from_config(config)


@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_too_few_or_many_steps(steps):
    with pytest.raises(InputError, match=f"steps = {steps}"):
        NoiseSchedule.from_config(SD).timesteps(steps)


def test_an_offset_beyond_the_last_timestep():
    with pytest.raises(InputError, match="steps_offset"):
        NoiseSchedule.from_config({**SD, "steps_offset": 1}).timesteps(1000)
