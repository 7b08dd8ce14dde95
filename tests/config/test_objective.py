# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import pytest

from dreambooth_jax.checks import check_config
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["snr_gamma=3"], "objective.snr_gamma is 3.0, but objective.weighting none has no use for it: leave it out"),
        (["weighting=p2", "snr_gamma=3"], "objective.weighting p2 has no use for it"),
        (["huber_delta=0.5"], "objective.huber_delta is 0.5, but objective.loss mse has no use for it: leave it out"),
        (["timestep_bias=1"], "objective.timesteps uniform has no use for it"),
        (["importance=true"], "choose a weighting"),
        (["min_timestep=5", "max_timestep=5"], "objective.min_timestep 5 is not before objective.max_timestep 5"),
        (["timesteps=logit_normal", "timestep_scale=0"], "must be at least 0.001 for logit_normal"),
    ],
)
def test_settings_that_do_nothing_or_cannot_work_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        check_config(load_config(None, ["data.class_noun=dog", *[f"objective.{one}" for one in settings]]))


def test_settings_that_go_together_pass():
    check_config(load_config(None, ["data.class_noun=dog", "objective.weighting=min_snr", "objective.snr_gamma=3"]))
