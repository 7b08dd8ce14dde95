# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Rescaled noise: as diffusers rescales it, kept in what is written, refused where it cannot work."""

from dataclasses import replace

import numpy as np
import pytest

from dreambooth_jax.diffusion.schedule import NoiseSchedule
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.zero_snr import KNOWING, with_zero_terminal_snr
from tests.weights.folders import FIXTURES


@pytest.fixture(scope="module")
def pipe():
    import dreambooth_jax as dbx

    return dbx.load_pretrained(FIXTURES / "legacy_flax_sd21")


def with_config(pipe, **changes):
    config = {**pipe.components.scheduler_config, **changes}
    components = replace(pipe.components, scheduler_config=config)
    return replace(pipe, components=components, schedule=NoiseSchedule.from_config(config))


@pytest.mark.parametrize("name", ["PNDMScheduler", "FlaxDDIMScheduler", "EulerDiscreteScheduler", None])
def test_the_written_scheduler_draws_with_the_same_noise(pipe, name):
    diffusers = pytest.importorskip("diffusers")
    rescaled = with_zero_terminal_snr(with_config(pipe, _class_name=name))
    config = rescaled.components.scheduler_config
    assert config["_class_name"] in KNOWING
    scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    found = scheduler.alphas_cumprod.numpy().copy()
    if name == "EulerDiscreteScheduler":
        found[-1] = 0  # that class puts 2^-24 there, to divide by it
    np.testing.assert_allclose(found, rescaled.schedule.alphas_cumprod, rtol=1e-5, atol=1e-9)
    assert rescaled.schedule.alphas_cumprod[-1] == 0
    scheduler.set_timesteps(4)
    assert int(scheduler.timesteps[0]) == 999
    assert rescaled.schedule.timesteps(4)[0] == 999


def test_all_classes_that_know_it_do(pipe):
    diffusers = pytest.importorskip("diffusers")
    for name in KNOWING:
        assert "rescale_betas_zero_snr" in getattr(diffusers, name)().config, name


def test_what_is_rescaled_already_stays(pipe):
    once = with_zero_terminal_snr(pipe)
    assert with_zero_terminal_snr(once) is once
    assert pipe.schedule.alphas_cumprod[-1] > 0


def test_epsilon_is_refused_on_one_line(pipe):
    with pytest.raises(InputError, match="zero_terminal_snr needs a model that predicts v") as error:
        with_zero_terminal_snr(with_config(pipe, prediction_type="epsilon"))
    assert "\n" not in str(error.value)
