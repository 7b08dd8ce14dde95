# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What was compiled for devices that are not there, and is published: its bounds, and the page that is made of it."""

from pathlib import Path

import pytest
from hardware import table
from hardware.jobs import read
from hardware.members import is_full, peak_of

DOCS = Path(__file__).parents[2] / "docs"
ROWS = DOCS / "hardware.jsonl"
MEMBERS = DOCS / "hardware_members.jsonl"


def lora(remat):
    """The step of one LoRA of rank 16 of SD 1.5, 512², 1+1 examples, on an H100."""
    (row,) = [one for one in read(MEMBERS) if (one["target"], one["members"], one["remat"]) == ("h100", 1, remat)]
    return row["step"]["usage"]


def full(remat):
    """The step of the whole UNet, in the same way."""
    (row,) = [one for one in read(ROWS) if is_full(one["job"]) and one["job"]["remat"] == remat]
    return row["plan"]["usage"]


@pytest.mark.parametrize(("remat", "most"), [("nothing", 5e9), ("blocks", 3e9)])
def test_a_lora_of_sd15_fits_a_card_of_eight_gigabytes_with_room(remat, most):
    """The whole UNet, whose moments and gradients are those of all its weights, would not."""
    assert peak_of(lora(remat)) <= most
    assert peak_of(full(remat)) > 8e9
    for part in ("arguments", "temporaries"):
        assert lora(remat)[part] < full(remat)[part]


def test_the_page_says_what_either_step_needs_besides_weights():
    line = (DOCS / "hardware.md").read_text().partition("Beside a full step")[2].partition("\n\n")[0]
    for remat in ("nothing", "blocks"):
        needs = " beside ".join(f"{one(remat)['temporaries'] / 1e9:.2f}" for one in (lora, full))
        assert f"temporaries {needs}" in line
        peaks = " GB beside ".join(f"{peak_of(one(remat)) / 1e9:.1f}" for one in (lora, full))
        assert peaks in line


def test_the_page_is_made_of_the_rows():
    page = table.page(ROWS, DOCS / "hardware_attention.jsonl", MEMBERS)
    assert page == (DOCS / "hardware.md").read_text(), "python scripts/hardware_table.py write"
