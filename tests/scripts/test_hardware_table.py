# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The table of programs for devices that are not there: what is compiled becomes its rows."""

import json

import jax
from hardware import compile as compiling
from hardware import jobs, table
from hardware.jobs import Job
from real_size.model import write_skeleton

from dreambooth_jax.hardware import CHIPS
from dreambooth_jax.memory import Usage
from dreambooth_jax.planning.measure import Measured


def traced(target, tell):
    """In the place of a compiler: the program is made, and needs twice of a number for each argument."""

    def measured(name, lower):
        tell(name)
        arguments = len(jax.tree.leaves(lower().args_info))
        return Measured(usage=Usage(arguments=arguments, results=0, temporaries=arguments), traffic=0, kernels={})

    return measured


def test_a_job_becomes_a_row_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setitem(jobs.MODELS, "tiny", ("A tiny model", 16))
    monkeypatch.setattr(compiling, "Remembering", traced)
    job = Job(target="h100", model="tiny", adapter="lora", remat="blocks", moments="bfloat16")
    model = write_skeleton(tmp_path / "tiny", "tiny")
    row = compiling.compile_one(job, model, CHIPS["h100"], jax.devices()[:1])
    assert row["plan"]["usage"]["temporaries"] > 0
    assert row["plan"]["flops"] > 0
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    page = table.page(tmp_path / "rows.jsonl", tmp_path / "none.jsonl", tmp_path / "none.jsonl")
    assert "## A tiny model" in page
    assert "| h100 | auto | 1+1 | LoRA 16 of UNet, moments bfloat16 | blocks |" in page


def test_what_has_a_row_is_not_compiled_again(tmp_path):
    """Rows that are older than some of a job's fields are of what these are by default."""
    older = {name: value for name, value in vars(Job(target="h100", model="sd15")).items() if name != "adapter"}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"job": older}))
    wanted = [job for job in jobs.all_jobs() if job.target == "h100" and job.model == "sd15"]
    assert jobs.missing(rows, "h100", ["sd15"]) == wanted[1:]


def test_every_job_is_of_a_known_model_and_device():
    for job in jobs.all_jobs():
        assert job.model in jobs.MODELS
        assert jobs.chip_of(job.target).memory > 0
