# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Scripts are no package: they find their own parts beside them, and tests have to look there too."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from tests.scripts import sprites


@pytest.fixture(scope="session")
def sprite_folder(tmp_path_factory) -> Path:
    return sprites.write(tmp_path_factory.mktemp("sprites"))
