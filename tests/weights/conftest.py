# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Model folders that most tests here start from."""

import functools
import shutil

import pytest

from dreambooth_jax.weights import pretrained
from tests.weights.folders import FIXTURES, write


@pytest.fixture(scope="package", autouse=True)
def _trace_once():
    """The same few networks are loaded dozens of times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "parameter_shapes", functools.cache(pretrained.parameter_shapes))
        yield


@pytest.fixture(scope="package")
def sd15():
    """Components of the legacy Flax fixture."""
    return pretrained.load_components(FIXTURES / "legacy_flax_sd15")


@pytest.fixture(scope="package")
def written(sd15, tmp_path_factory):
    """The same as a safetensors folder."""
    return write(tmp_path_factory.mktemp("written") / "model", sd15)


@pytest.fixture
def folder(written, tmp_path):
    """A copy of it to be tampered with."""
    return shutil.copytree(written, tmp_path / "model")
