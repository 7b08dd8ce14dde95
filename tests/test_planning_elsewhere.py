# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Plans for devices that are not here: what is kept, what is asked again, what is told. ``tests/targets`` compiles."""

import dataclasses
import json
import sys
from unittest.mock import Mock

import jax
import pytest

from dreambooth_jax.cli import main
from dreambooth_jax.config import load_config, to_dict
from dreambooth_jax.hardware.exchanges import Collective
from dreambooth_jax.hardware.roofline import Bound
from dreambooth_jax.memory import Usage, usage_of
from dreambooth_jax.planning import elsewhere, worker
from dreambooth_jax.planning.measure import Measured, _between_hosts, work_of
from dreambooth_jax.planning.result import DrawPlan, Plan, StepPlan, Work
from dreambooth_jax.target import Target
from tests.runs import MODEL

SETTINGS = [f"model.path={MODEL}", "data.class_noun=dog", "data.resolution=16"]
USAGE = Usage(arguments=10**9, results=5, temporaries=3 * 10**9)
WORK = Work(
    traffic=60 * 10**9,
    collectives=(
        Collective(kind="reduce-scatter", dtype="f32", group=8, count=16, bytes=3_400_000_000),
        Collective(kind="all-gather", dtype="bf16", group=8, count=61, bytes=1_700_000_000),
    ),
    kernels={"__cudnn$fmhaSoftmax": 20},
    bound=Bound(arithmetic=0.005, memory=0.018, links=0.01),
)
PLAN = Plan(
    model="training a UNet",
    machine="compiled for 8 x H100",
    state={"parameters": 10**9},
    steps=[StepPlan(usage=USAGE, idle=10**8, flops=10**12, work=WORK, active=("unet",), phases=[(0, 9)])],
    draws=[DrawPlan(usage=USAGE, idle=0, flops=0, purpose="latents", pictures=4)],
    capacity=10**10,
    advice=["train.remat=blocks: less"],
)


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Targets that a compiler was asked for; plans are kept in a folder of the test's."""
    calls = []

    def ask(config, name, surroundings):
        calls.append(name)
        return json.loads(json.dumps(PLAN.to_json()))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(elsewhere, "_ask", ask)
    return calls


def test_a_plan_is_what_json_makes_of_it():
    assert Plan.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN


def test_settings_are_what_json_makes_of_them():
    config = load_config(None, [*SETTINGS, "optimizer.no_decay=['.*/bias']", "train.device_memory=7"])
    assert elsewhere.config_of(json.loads(json.dumps(to_dict(config)))) == config


def test_the_report_tells_what_devices_exchange_and_the_bound():
    text = str(PLAN)
    assert "memory traffic                60" in text
    assert "reduce-scatter               3.4    a step, f32, 16 times; each device sends 2.98" in text
    assert "at least, ms a step           18    by data sheets, not measured: arithmetic 5, memory 18, links 10" in text


def test_a_second_question_is_not_asked(asked):
    config = load_config(None, SETTINGS)
    assert elsewhere.plan_elsewhere(config, "h100:8") == PLAN
    assert elsewhere.plan_elsewhere(load_config(None, [*SETTINGS, "run_dir=elsewhere"]), "h100:8") == PLAN
    assert asked == ["h100:8"]
    elsewhere.plan_elsewhere(config, "h100:4")
    elsewhere.plan_elsewhere(load_config(None, [*SETTINGS, "train.remat=blocks"]), "h100:8")
    assert asked == ["h100:8", "h100:4", "h100:8"]


def test_other_versions_ask_again(asked, monkeypatch):
    config = load_config(None, SETTINGS)
    elsewhere.plan_elsewhere(config, "h100")
    monkeypatch.setattr(elsewhere, "versions", lambda: {"jax": "9.9"})
    elsewhere.plan_elsewhere(config, "h100")
    assert len(asked) == 2


@pytest.mark.parametrize("variable", ["XLA_PYTHON_CLIENT_MEM_FRACTION", "JAX_ENABLE_X64", "LIBTPU_INIT_ARGS"])
def test_other_settings_of_jax_ask_again(asked, monkeypatch, variable):
    """They change programs, or what a device lets them have, which a kept plan has in it."""
    config = load_config(None, SETTINGS)
    elsewhere.plan_elsewhere(config, "h100")
    monkeypatch.setenv(variable, "0.5")
    elsewhere.plan_elsewhere(config, "h100")
    assert len(asked) == 2


def test_what_was_kept_and_is_torn_is_asked_again(asked, tmp_path):
    config = load_config(None, SETTINGS)
    elsewhere.plan_elsewhere(config, "h100")
    (kept,) = (tmp_path / "cache").rglob("*.json")
    kept.write_text(kept.read_text()[:100])
    assert elsewhere.plan_elsewhere(config, "h100") == PLAN
    assert len(asked) == 2


def test_a_cache_that_cannot_be_written_is_no_error(asked, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert elsewhere.plan_elsewhere(load_config(None, SETTINGS), "h100") == PLAN


def test_a_plan_that_does_not_fit_is_exit_code_2(asked, monkeypatch, capsys):
    monkeypatch.setattr(elsewhere, "_ask", lambda *_: PLAN.to_json() | {"capacity": 10**9})
    assert main(["plan", *SETTINGS, "--target", "l4"]) == 2
    output = capsys.readouterr()
    assert "does not fit: needs 4.1 of 1 GB" in output.out
    assert "train.remat=blocks: less" in output.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "h1000"], "no chip 'h1000' is known; one of"),
        (["--target", "v5e:3x"], "v5e:2x2"),
        (["--target", "h100", "--devices", "2"], "--devices 2 pretends CPUs"),
        (["--targte", "h100"], "did you mean"),
    ],
)
def test_wrong_words_are_one_line(asked, capsys, arguments, words):
    assert main(["plan", *SETTINGS, *arguments]) == 2
    assert words in capsys.readouterr().err
    assert asked == []


def test_a_compiler_that_is_not_there_is_one_line(capsys, monkeypatch, tmp_path):
    """Whole: the process of its own, its answer, the exit code."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if elsewhere.versions()["jax-cuda13-plugin"] or elsewhere.versions()["jax-cuda12-plugin"]:
        pytest.skip("it is there")
    assert main(["plan", *SETTINGS, "--target", "h100"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dreambooth-jax: ")]
    assert "pip install 'dreambooth_jax[plan-cuda]'" in line


def test_a_compiler_that_ends_its_process_is_told(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="the compiler for h100 ended with"):
        elsewhere._ask(load_config(None, SETTINGS), "h100", {})


def test_the_worker_answers_what_is_wrong():
    answers = []
    worker.answer({"config": to_dict(load_config(None, SETTINGS)), "target": "h1000"}, answers.append)
    assert [list(one) for one in answers] == [["error"]]


def test_programs_are_remembered(monkeypatch, tmp_path):
    """By their text: the second is not compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told, compiled = [], []
    measured = Measured(usage=USAGE, traffic=5, collectives=WORK.collectives, kernels={"a": 1})
    monkeypatch.setattr(worker, "compile_and_read", lambda lowered: compiled.append(lowered) or measured)

    remembering = worker.Remembering("h100", told.append)
    for text in ("one", "one", "two"):
        assert remembering("a step", lambda text=text: Mock(spec=jax.stages.Lowered, as_text=lambda: text)) == measured
    assert len(compiled) == 2
    assert told[:2] == ["h100: tracing a step", "h100: compiling a step"]


def test_what_goes_between_hosts():
    """Of 2 x 8 cards: those of a host share what all sixteen add up; what pairs across hosts add up goes alone."""
    sixteen = Target(devices=tuple(Mock(spec=jax.Device, process_index=i // 8) for i in range(16)), hosts=2)
    wide = Collective(kind="all-reduce", dtype="f32", group=16, count=1, bytes=800)
    pairs = Collective(kind="all-reduce", dtype="f32", group=2, count=1, bytes=100)
    inside = Collective(kind="all-gather", dtype="bf16", group=8, count=1, bytes=10**6)
    assert _between_hosts((wide,), sixteen) == 800 / 8
    assert _between_hosts((pairs, inside), sixteen) == 100
    assert _between_hosts((wide, pairs), dataclasses.replace(sixteen, hosts=1)) == 0


def test_without_a_text_there_is_no_work():
    assert work_of(Measured(usage=USAGE), None, target=Target.of(jax.devices()), flops=1, dtype="bfloat16") is None


def test_memory_that_a_compiler_asks_for_is_read_from_its_refusal():
    class Lowered:
        def __init__(self, message):
            self.message = message

        def compile(self, compiler_options=None):
            raise jax.errors.JaxRuntimeError(self.message)

    for message in (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (20.50G) exceeds "
        "available HBM (15.75G).",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.25G of 15.75G hbm. Exceeded hbm capacity "
        "by 4.50G. Total hbm usage >= 20.50G: reserved 258.00M program 20.25G",
    ):
        assert usage_of(Lowered(message)).peak == int(20.5 * 2**30)
    with pytest.raises(jax.errors.JaxRuntimeError):
        usage_of(Lowered("INTERNAL: something else"))
