# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What tests of the page share."""

import pytest

from dreambooth_jax.app.queue import Queue
from dreambooth_jax.app.requests.desk import Desk


@pytest.fixture
def desk(tmp_path):
    """With nothing in it, and a queue in which nothing begins."""
    return Desk(Queue(tmp_path / "jobs", most=3), tmp_path / "people", ("quickstart",))
