# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""From an empty page to a personalised model, as somebody goes who has never seen it."""

import pytest
from safetensors.numpy import load_file

from tests.app.browser.conftest import WIDTHS

Walk = pytest.importorskip("tests.app.browser.steps").Walk
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("width", WIDTHS)
def test_from_photos_to_a_file_for_other_tools(visit, shoot, width):
    walk = Walk(visit(width), shoot, f"walk_{width}")
    walk.upload()
    walk.train()
    walk.compare()
    walk.inpaint()
    walk.matrix()
    walk.doctor()
    assert any(name.startswith("lora_unet_") for name in load_file(walk.take_home()))
