# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The table of chips agrees with itself: names, orders that nobody disputes, and rates that follow from one another."""

import dataclasses
import subprocess
import sys

import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.hardware.chips import CHIPS, GPU, TPU, of_kind

GPUS = [chip for chip in CHIPS.values() if isinstance(chip.details, GPU)]
TPUS = [chip for chip in CHIPS.values() if isinstance(chip.details, TPU)]


def test_every_chip_is_found_by_both_of_its_names():
    assert len({chip.kind for chip in CHIPS.values()}) == len(CHIPS)
    for name, chip in CHIPS.items():
        assert chip.name == name
        assert of_kind(chip.kind) is chip
        assert chip.platform == ("gpu" if chip in GPUS else "tpu")
    assert of_kind("cpu") is None


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_numbers_are_positive_and_in_their_order(chip):
    for record in (chip, chip.details):
        for field in dataclasses.fields(record):
            value = getattr(record, field.name)
            assert not isinstance(value, (int, float)) or isinstance(value, bool) or value > 0, field.name
    assert chip.source
    # memory is nearer than other devices, those of this host are nearer than those of others
    assert chip.bandwidth > chip.link
    assert chip.network is None or chip.network < chip.link
    assert chip.float32 <= chip.bfloat16 == chip.peak("bfloat16") == chip.peak("float16")


@pytest.mark.parametrize("chip", GPUS, ids=lambda chip: chip.name)
def test_matrix_units_are_as_fast_as_all_other_units_together_and_twice_as_fast_in_half_the_bits(chip):
    others = 2 * chip.details.cores * chip.details.units * chip.details.clock * 1e9
    assert chip.float32 > 0.98 * others
    # before Ampere neither float32 nor bfloat16 has matrix units
    assert chip.bfloat16 / chip.float32 == pytest.approx(1 if chip.generation == "7.5" else 2, rel=0.02)
    assert chip.details.shared_per_block <= chip.details.shared


@pytest.mark.parametrize("chip", TPUS, ids=lambda chip: chip.name)
def test_tpus_multiply_float32_in_bfloat16(chip):
    assert chip.float32 == chip.bfloat16
    assert chip.network is None


@pytest.mark.parametrize(
    ("less", "more"),
    [("a100-40", "a100-80"), ("a100-80", "h100"), ("h100", "h200"), ("h200", "b200"), ("l4", "rtx4090"), ("v5e", "v6e"),
     ("v4", "v5p")],
)  # fmt: skip
def test_successors_have_more_of_everything(less, more):
    for name in ("bfloat16", "float32", "bandwidth", "link"):
        assert getattr(CHIPS[less], name) <= getattr(CHIPS[more], name), name
    # H100's 80 GB are fewer bytes than A100's
    assert CHIPS[less].memory < 1.01 * CHIPS[more].memory
    assert CHIPS[less].bandwidth < CHIPS[more].bandwidth


def test_two_cards_with_one_processor_differ_in_memory_only():
    for one, other in (("a100-40", "a100-80"), ("h100", "h200")):
        changed = {"name": "", "kind": "", "memory": 0, "bandwidth": 0.0, "source": ""}
        assert dataclasses.replace(CHIPS[one], **changed) == dataclasses.replace(CHIPS[other], **changed)


def test_a_dtype_without_a_known_rate_is_refused():
    with pytest.raises(
        InputError, match="dtype 'int8': no peak of h100 is known for it; one of bfloat16, float16, float32"
    ):
        CHIPS["h100"].peak("int8")


def test_chips_and_environments_do_not_wait_for_jax():
    code = "import sys; from dreambooth_jax.hardware import CHIPS, environment; [environment(n) for n in CHIPS]; "
    subprocess.run([sys.executable, "-c", code + "assert 'jax' not in sys.modules"], check=True)
