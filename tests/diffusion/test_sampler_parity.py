# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""All samplers against diffusers' schedulers, each with the file that diffusers writes for it, in float64.

Theirs run with the levels of their own tables, but compute in float64; what is known to be wrong there is told apart by
name.
"""

import json
import sys
from itertools import pairwise

import numpy as np
import pytest

from dreambooth_jax.diffusion.samplers import build_table
from dreambooth_jax.diffusion.schedule import NoiseSchedule
from tests.diffusion.numpy_loop import SD, run_table

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # theirs take the logarithm of 0
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

DPM = "DPMSolverMultistepScheduler"
SDE = {"algorithm_type": "sde-dpmsolver++"}
CASES = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddim to ᾱ_0": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "ddpm large": ("DDPMScheduler", {"clip_sample": False, "variance_type": "fixed_large"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler to t = 0": ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min"}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}),
    "dpmpp_2s heun": ("DPMSolverSinglestepScheduler", {"solver_type": "heun"}),
    "dpmpp_2m": (DPM, {}),
    "dpmpp_2m heun": (DPM, {"solver_type": "heun", "euler_at_final": True}),
    "dpmpp_2m to t = 0": (DPM, {"final_sigmas_type": "sigma_min"}),
    "dpmpp_3m": (DPM, {"solver_order": 3, "lower_order_final": False}),
    "dpmpp_2m_sde": (DPM, SDE),
    "dpmpp_2m_sde heun": (DPM, {"solver_type": "heun", **SDE}),
    "dpmpp_3m_sde": (DPM, {"solver_order": 3, **SDE}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "unipc 3": ("UniPCMultistepScheduler", {"solver_order": 3}),
    "unipc bh1": ("UniPCMultistepScheduler", {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
    "deis": ("DEISMultistepScheduler", {}),
    "deis 3": ("DEISMultistepScheduler", {"solver_order": 3}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
IN_K = ("Euler", "Heun", "LMS", "KDPM2", "DPMSolverSDE")
"""Classes whose x is x / α."""
WITHOUT_FORMULAS = ("DDIM", "DDPM", "PNDM", "LCM", "TCD", "EulerAncestral")
KINDS = {"PNDM": ("epsilon",), "EulerAncestral": ("epsilon", "v_prediction"), "KDPM2": ("epsilon", "v_prediction")}
KINDS["DPMSolverSDE"] = ("epsilon", "v_prediction")
COUNTS = (1, 2, 3, 5, 20, 50)


def of_class(table, name, default):
    return next((value for start, value in table.items() if name.startswith(start)), default)


def network(x, t):
    return np.sin(x + np.asarray(t, np.float64) / 300)


class Theirs:
    """A scheduler of diffusers that is told its noise, and does not round its levels to float32."""

    def __init__(self, name, config, steps, table):
        self.name, self.table, self.row = name, table, 0
        self.scheduler = self.made(name, config)
        self.scheduler.set_timesteps(steps)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(0)  # else theirs begin at the second where two share a timestep
        self.in_k = name.startswith(IN_K)
        self.check_timesteps()
        self.in_float64()

    @staticmethod
    def made(name, config):
        """Without a table of 1000 steps that some make at first, and that takes longer than all runs."""
        kind = getattr(diffusers, name)
        if not name.startswith(("Heun", "LMS", "KDPM2", "DPMSolverSDE")):
            return kind(**config)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(kind, "set_timesteps", lambda self, *_: setattr(self, "sigmas", torch.zeros(1)))
            return kind(**config)

    def check_timesteps(self):
        """Theirs truncate where a rounding error decides: 999 becomes 998."""
        theirs = np.asarray(self.scheduler.timesteps, np.float64)[: int(self.table.length)]
        ours = self.table.rows.t[: int(self.table.length)]
        config = self.scheduler.config
        truncated = config.get("use_exponential_sigmas") or config.get("use_beta_sigmas")
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1 if truncated else 0.02)

    def in_float64(self):
        scheduler = self.scheduler
        for name in ("alphas_cumprod", "final_alpha_cumprod", "one", "sigmas", "sigmas_interpol"):
            if hasattr(scheduler, name):
                setattr(scheduler, name, getattr(scheduler, name).double())
        if self.name == "KDPM2AncestralDiscreteScheduler":  # theirs are differences of squares in float32
            levels = torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1:-1:2]])
            after = torch.cat([levels[1:], levels.new_zeros(1)])
            up = torch.sqrt(after**2 * (levels**2 - after**2) / levels**2).nan_to_num(0)
            down = torch.sqrt(after**2 - up**2)
            between = torch.sqrt(levels * down)
            for name, each in (("up", up), ("down", down), ("interpol", between)):
                old = getattr(scheduler, f"sigmas_{name}")
                new = torch.cat([each[:1], each[1:].repeat_interleave(2), each[-1:]])
                np.testing.assert_allclose(new, old.nan_to_num(0), atol=0.02)
                setattr(scheduler, f"sigmas_{name}", new)

    def noise(self, *_, **__):
        return torch.tensor(self.noises[self.row])

    def brownian(self, start, end):
        """Of one path: the noise of the whole step holds that of its first part."""
        if self.scheduler.state_in_first_order:
            return self.noise()
        start, end = float(start), float(end)
        w = np.sqrt((start - np.sqrt(start * end)) / (start - end))
        return w * torch.tensor(self.noises[self.row - 1]) + np.sqrt(1 - w**2) * self.noise()

    def run(self, x, noises, monkeypatch, rows):
        scheduler, self.noises = self.scheduler, noises
        module = sys.modules[type(scheduler).__module__]
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(module, "randn_tensor", self.noise)
        scheduler.noise_sampler = self.brownian
        y = torch.tensor(x) * float(scheduler.init_noise_sigma)
        for self.row, timestep in enumerate(scheduler.timesteps[:rows]):
            entering = scheduler.scale_model_input(y, timestep) if self.in_k else y
            told = torch.tensor(network(entering.numpy(), self.table.rows.t[self.row]))
            y = scheduler.step(told, timestep, y).prev_sample.double()
        return y.numpy() * (self.table.rows.alpha[rows] if self.in_k else 1)


def compare(case, monkeypatch, *, spacing, kind, steps, form=None):
    name, options = CASES[case]
    config = {**SD, "timestep_spacing": spacing, "steps_offset": 1, "prediction_type": kind, **options}
    if name == "DPMSolverSinglestepScheduler":
        del config["timestep_spacing"], config["steps_offset"]
    if form:
        config[f"use_{form}_sigmas"] = True
    schedule = NoiseSchedule.from_config(json.loads(Theirs.made(name, config).to_json_string()))
    table = build_table("model", schedule, steps)
    random = np.random.default_rng(steps)
    x, noises = random.normal(size=(1, 3)), random.normal(size=(120, 1, 3))
    rows = int(table.length)
    if form and (options.get("final_sigmas_type") or name.startswith("DEIS")):
        rows -= 1  # their last step leads from the smallest level to itself
    found = run_table(table, network, x * table.noise, noises, rows=rows)
    expected = Theirs(name, config, steps, table).run(x, noises, monkeypatch, rows)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= 1e-5, f"{case} {spacing} {kind} {steps} {form}: {error}"


def all_of(case):
    """(spacing, kind, form) that a class has."""
    name = CASES[case][0]
    for spacing in (
        ("leading",)
        if name.startswith(("LCM", "TCD", "DPMSolverSingle"))
        else (
            "leading",
            "trailing",
            "linspace",
        )
    ):
        for kind in of_class(KINDS, name, ("epsilon", "sample", "v_prediction")):
            for form in (None, *(() if name.startswith(WITHOUT_FORMULAS) else ("karras", "exponential", "beta"))):
                yield spacing, kind, form


@pytest.fixture(autouse=True)
def right_sign(monkeypatch):
    """Theirs subtract a half in the third order of the stochastic solver where it is to be added."""
    theirs = diffusers.DPMSolverMultistepScheduler.multistep_dpm_solver_third_order_update

    def mended(self, outputs, *, sample, noise):
        x = theirs(self, outputs, sample=sample, noise=noise)
        if self.config.algorithm_type != "sde-dpmsolver++":
            return x
        after, *levels = (self.sigmas[self.step_index + i] for i in (1, 0, -1, -2))
        steps = [torch.log(levels[0] / after), *(torch.log(b / a) for a, b in pairwise(levels))]
        r0, r1 = steps[1] / steps[0], steps[2] / steps[0]
        slopes = (outputs[-1] - outputs[-2]) / r0, (outputs[-2] - outputs[-3]) / r1
        return x + self._sigma_to_alpha_sigma_t(after)[0] * (slopes[0] - slopes[1]) / (r0 + r1)

    monkeypatch.setattr(diffusers.DPMSolverMultistepScheduler, "multistep_dpm_solver_third_order_update", mended)


@pytest.mark.parametrize("case", CASES)
def test_runs(case, monkeypatch):
    """All that a class has at few steps, and in turn at many."""
    combinations = list(all_of(case))
    for number, (spacing, kind, form) in enumerate(combinations):
        few = COUNTS[:4] if form is None else COUNTS[number % 4 : number % 4 + 1]
        many = COUNTS[4 + number // 4 % 2 :][:1] if number % 4 == 0 else ()
        for steps in (*few, *many):
            compare(case, monkeypatch, spacing=spacing, kind=kind, steps=steps, form=form)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_all_runs(case, monkeypatch):
    """Every prediction type, spacing and formula at every number of steps."""
    for spacing, kind, form in all_of(case):
        for steps in COUNTS:
            compare(case, monkeypatch, spacing=spacing, kind=kind, steps=steps, form=form)


def test_every_sampler_of_a_class_is_here():
    from dreambooth_jax.diffusion.samplers.model_choice import CLASSES

    assert {name.replace("Parallel", "") for name in CLASSES} == {name for name, _ in CASES.values()}
