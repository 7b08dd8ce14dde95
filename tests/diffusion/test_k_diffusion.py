# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Against k-diffusion's functions, which A1111 and ComfyUI run, in profile a1111 and in float64.

Only its file ``sampling.py`` is needed, so ``pip install --no-deps k-diffusion`` will do.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from dreambooth_jax.diffusion.levels import Ladder
from dreambooth_jax.diffusion.samplers import build_table
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from tests.diffusion.numpy_loop import SD, run_table

torch = pytest.importorskip("torch")
pytest.importorskip("scipy")

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def theirs():
    """The module of the samplers alone: all that it imports and that they do not use is a name."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None or not found.submodule_search_locations:
        pytest.skip("k-diffusion is not installed")
    spec = importlib.util.spec_from_file_location(
        "only_k_diffusion.sampling", Path(next(iter(found.submodule_search_locations))) / "sampling.py"
    )
    package, utils = types.ModuleType("only_k_diffusion"), types.ModuleType("only_k_diffusion.utils")
    package.__path__, package.utils = [], utils
    utils.append_dims = lambda x, dims: x.reshape(*x.shape, *(1,) * (dims - x.ndim))
    unused = {name: types.ModuleType(name) for name in ("torchdiffeq", "torchsde")}
    unused["torchdiffeq"].odeint = None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        for name, each in {**unused, package.__name__: package, utils.__name__: utils}.items():
            patched.setitem(sys.modules, name, each)
        spec.loader.exec_module(module)
    return module


def schedule_of(kind):
    return NoiseSchedule.from_config({**SD, "prediction_type": kind})


class Denoiser:
    """D of x / α as k-diffusion wraps a network: the timestep between two is linear in ln σ."""

    def __init__(self, schedule):
        self.schedule, self.sigmas = schedule, Ladder.of(schedule).k

    def network(self, x, t):
        return np.sin(x + t / 300)

    def __call__(self, x, sigma):
        sigma = float(sigma[0])
        t = np.interp(np.log(sigma), np.log(self.sigmas), np.arange(1000))
        told = torch.tensor(self.network((x / np.sqrt(sigma**2 + 1)).numpy(), t))
        if self.schedule.prediction_type == "v_prediction":
            return x / (sigma**2 + 1) - told * sigma / np.sqrt(sigma**2 + 1)
        return told if self.schedule.prediction_type == "sample" else x - sigma * told


CASES = {
    "euler": ("sample_euler", {}),
    "euler_a": ("sample_euler_ancestral", {}),
    "heun": ("sample_heun", {}),
    "lms": ("sample_lms", {}),
    "dpm2": ("sample_dpm_2", {}),
    "dpm2_a": ("sample_dpm_2_ancestral", {}),
    "dpmpp_2s_a": ("sample_dpmpp_2s_ancestral", {}),
    "dpmpp_sde": ("sample_dpmpp_sde", {}),
    "dpmpp_2m": ("sample_dpmpp_2m", {}),
    "dpmpp_2m_sde": ("sample_dpmpp_2m_sde", {}),
    "dpmpp_2m_sde_heun": ("sample_dpmpp_2m_sde", {"solver_type": "heun"}),
    "dpmpp_3m_sde": ("sample_dpmpp_3m_sde", {}),
}
AUTOMATIC = {
    **dict.fromkeys(("euler", "euler_a", "heun", "lms"), "uniform"),
    **dict.fromkeys(("dpm2", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m"), "karras"),
    **dict.fromkeys(("dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"), "exponential"),
}
DISCARDING = ("dpm2", "dpm2_a", "dpmpp_3m_sde")


def sigmas_of(theirs, ladder, spacing, n):
    """As A1111's schedulers make them, with k-diffusion's functions."""
    low, high, log = ladder[0], ladder[-1], np.log(ladder)
    at = lambda t: np.exp(np.interp(t, np.arange(1000), log))  # noqa: E731
    if spacing in ("karras", "exponential", "polyexponential"):
        make = getattr(theirs, f"get_sigmas_{spacing}")
        return make(n, torch.tensor(low), torch.tensor(high)).double().numpy()
    if spacing == "uniform":
        return np.append(at(np.linspace(999, 0, n)), 0)
    if spacing == "sgm_uniform":
        return np.append(at(np.linspace(999, 0, n + 1)[:-1]), 0)
    return np.append([ladder[-(1 + int(i * 1000 / n))] for i in range(n)], 0)  # simple


def compare(theirs, sampler, *, steps, kind="epsilon", spacing=None, eta=None):
    schedule = schedule_of(kind)
    settings = {} if eta is None else {"ancestral_eta": eta}
    table = build_table(sampler, schedule, steps, spacing=spacing or "model", profile="a1111", **settings)
    random = np.random.default_rng(steps)
    x, noises = random.normal(size=(1, 3)), random.normal(size=(2 * steps, 1, 3))
    ours = run_table(table, Denoiser(schedule).network, x * table.noise, noises)
    denoiser = Denoiser(schedule)
    discard = sampler in DISCARDING
    sigmas = sigmas_of(theirs, denoiser.sigmas, spacing or AUTOMATIC[sampler], steps + discard)
    sigmas = torch.tensor(np.append(sigmas[:-2], sigmas[-1]) if discard else sigmas)
    function, options = CASES[sampler]
    drawn = Noises(noises, two_calls=sampler in ("dpm2_a", "dpmpp_2s_a", "dpmpp_sde"), path=sampler == "dpmpp_sde")
    if sampler in ("euler_a", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"):
        options = {**options, "noise_sampler": drawn, **({} if eta is None else {"eta": eta})}
    found = getattr(theirs, function)(denoiser, torch.tensor(x) * sigmas[0], sigmas, disable=True, **options).numpy()
    error = np.abs(ours - found).max() / np.abs(found).max()
    assert error < 1e-5, f"{sampler} {spacing} {kind} {steps}: {error}"


class Noises:
    """The noise of the row that asks: of samplers of two calls, of the second, but for a path that both are on."""

    def __init__(self, noises, *, two_calls, path):
        self.noises, self.stride, self.path, self.asked = noises, 1 + two_calls, path, 0

    def __call__(self, start, end):
        number, self.asked = self.asked, self.asked + 1
        if not self.path:
            return torch.tensor(self.noises[number * self.stride + self.stride - 1])
        if number % 2 == 0:
            return torch.tensor(self.noises[number])
        start, end = float(start), float(end)
        w = np.sqrt((start - np.sqrt(start * end)) / (start - end))
        return torch.tensor(w * self.noises[number - 1] + np.sqrt(1 - w**2) * self.noises[number])


@pytest.mark.parametrize("sampler", CASES)
def test_runs(theirs, sampler):
    """With the schedule that A1111 gives a sampler, every kind of prediction."""
    for kind in ("epsilon", "v_prediction", "sample"):
        for steps in (1, 2, 3, 5, 20, 50):
            if sampler in ("dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde") and steps == 1:
                continue  # theirs fail: h is not defined
            compare(theirs, sampler, steps=steps, kind=kind)


@pytest.mark.parametrize("spacing", ["karras", "exponential", "polyexponential", "uniform", "sgm_uniform", "simple"])
def test_schedules(theirs, spacing):
    for sampler in ("euler", "dpmpp_2m", "dpm2"):
        for steps in (2, 3, 7, 20):
            compare(theirs, sampler, steps=steps, spacing=spacing)


@pytest.mark.parametrize(
    "sampler", ["euler_a", "dpm2_a", "dpmpp_2s_a", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"]
)
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_less_noise(theirs, sampler, eta):
    compare(theirs, sampler, steps=7, eta=eta)
