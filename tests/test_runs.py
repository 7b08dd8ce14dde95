# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Opening the folder of a run that goes on meanwhile."""

from types import SimpleNamespace

import pytest

from dreambooth_jax import runs
from dreambooth_jax.config import Config
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.target import Target
from dreambooth_jax.training.checkpoint import Superseded, read_meta, read_weights


def test_a_checkpoint_that_is_gone_is_not_called_damaged(tmp_path):
    """Nobody is told to delete a folder that is not there."""
    for read in (
        read_meta,
        lambda *place: read_weights(*place, ema=False),
        lambda *place: read_weights(*place, ema=True),
    ):
        with pytest.raises(Superseded, match="step 3 was removed while it was read"):
            read(tmp_path, 3)


@pytest.mark.parametrize("asked", [None, 5])
def test_the_checkpoint_that_replaced_the_newest_is_read(untyped, monkeypatch, tmp_path, asked):
    there = [5]

    def read(folder, step, **_):
        if step == 5:
            there[:] = [5, 7] if asked else [7]
            raise Superseded("gone")
        return {"of step": step}

    monkeypatch.setattr(runs, "complete_steps", lambda _: list(there))
    monkeypatch.setattr(runs, "check_base", lambda *_: None)
    monkeypatch.setattr(runs, "read_weights", read)
    pipe = SimpleNamespace(target=Target.here())
    if asked:
        with pytest.raises(Superseded):
            runs._trained(RunFolder(tmp_path), asked, pipe, Config(), ema=False)
    else:
        assert runs._trained(RunFolder(tmp_path), asked, pipe, Config(), ema=False) == (7, {"of step": 7})
