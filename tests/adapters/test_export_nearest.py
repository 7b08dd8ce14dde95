# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A LoRA from a tuned model, through the verb export."""

import logging
import re

import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax import trees
from dreambooth_jax.adapters.extract import extract, shares_kept
from dreambooth_jax.cli import main
from dreambooth_jax.export.nearest import RANKS, kept_table
from dreambooth_jax.weights.adapters import applied, read_adapter
from tests.runs import MODEL


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """(folder of a model that others tuned, its parameters, those before)."""
    folder = tmp_path_factory.mktemp("tuned") / "model"
    pipe = dbx.load_pretrained(MODEL)
    r = np.random.default_rng(0)

    def moved(name, leaf):
        step = 0.05 if name.startswith("unet/") else 0.001 if name.startswith("text_encoder/") else 0
        return np.asarray(leaf) + (step * r.normal(size=leaf.shape)).astype(np.float32)

    params = trees.map_named(moved, pipe.params)
    dbx.save_pretrained(folder, pipe, params)
    return folder, params, pipe.params


def export(*words):
    assert main(["export", *map(str, words)]) == 0


@pytest.mark.slow
def test_at_full_rank_the_file_gives_the_tuned_kernels(tuned, tmp_path, caplog):
    folder, params, before = tuned
    with caplog.at_level(logging.INFO):
        export(folder, tmp_path / "lora.safetensors", "rank=512", f"base={MODEL}")
    found = trees.flatten(applied(before, read_adapter(tmp_path / "lora.safetensors")))
    for name, leaf in trees.flatten(params).items():
        if name.endswith("/kernel") and not name.startswith("vae/"):
            np.testing.assert_allclose(found[name], leaf, atol=2e-5, err_msg=name)
    table = [line for line in caplog.text.splitlines() if re.search(r"(unet|text_encoder) .*%", line)]
    assert len(table) == 2
    assert all(line.rstrip().endswith("100.0%") for line in table)


@pytest.mark.slow
def test_ranks_and_text_encoders_are_left_out_on_request(tuned, tmp_path):
    folder, _, _ = tuned
    export(folder, tmp_path / "lora.safetensors", "rank=2", "conv_rank=0", "min_diff=0.01", f"base={MODEL}")
    (layers,) = read_adapter(tmp_path / "lora.safetensors").networks.values()
    downs = [module.tensors["lora_down"] for module in layers.values()]
    assert {down.shape[-1] for down in downs} <= {1, 2}
    assert all(down.ndim == 2 or down.shape[:2] == (1, 1) for down in downs)


def test_the_table_says_what_each_rank_keeps(tuned):
    _, params, before = tuned
    found = {name: extract(before[name], params[name], rank=1) for name in ("unet", "text_encoder")}
    head, *lines = kept_table(found, rank=3)
    ranks = [int(number) for number in head.split()[1:]]
    assert ranks == sorted({*RANKS, 3})
    for line, parts, which in zip(lines, ([found["unet"]], [found["text_encoder"]], list(found.values())), (0, 0, 1)):
        shares = [float(share) / 100 for share in re.findall(r"([\d.]+)%", line)]
        np.testing.assert_allclose(shares, [shares_kept(parts, rank)[which] for rank in ranks], atol=6e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{model}", "{out}/a.safetensors", "rank=4", "base={other}"], "the unet of"),
        (["{model}", "{out}/a", "base={model}"], "has no use without rank"),
        (["{model}", "{out}/a", "min_diff=0.1"], "min_diff = 0.1 has no use without rank"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, capsys, words, message):
    places = {"model": MODEL, "other": MODEL.parent / "legacy_flax_sd21", "out": tmp_path}
    assert main(["export", *(word.format(**places) for word in words)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dreambooth-jax:")]
    assert len(lines) == 1
    assert message in lines[0]
