# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import json
import math

import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event

from dreambooth_jax.training.metrics import MetricsFiles, NonFinite, Recorder


def recorder(tmp_path, *, first_step=0, steps=10, log_every=2):
    files = MetricsFiles(tmp_path, first_step=first_step)
    return files, Recorder([files.write], first_step=first_step, steps=steps, images_per_step=4, log_every=log_every)


def push(rec, step, loss):
    rec.push(step, {"loss": jnp.float32(loss), "grad_norm": jnp.float32(1.0)}, {"learning_rate/unet": 0.5})


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_lines_hold_means_since_the_last_one(tmp_path):
    files, rec = recorder(tmp_path)
    for step in range(1, 5):
        push(rec, step, step)
    rec.flush()
    rec.close()
    files.close()
    found = lines(tmp_path)
    assert [(line["step"], line["loss"]) for line in found] == [(2, 1.5), (4, 3.5)]
    assert found[1]["images_per_second"] > 0
    assert found[0]["learning_rate/unet"] == 0.5


def test_events_hold_the_same(tmp_path):
    files, rec = recorder(tmp_path, log_every=1)
    push(rec, 1, 3.0)
    rec.flush()
    rec.close()
    files.close()
    data = next(tmp_path.glob("events.out.tfevents.*")).read_bytes()
    values = {}
    while data:  # a record is its length (8 bytes), a check (4), the event, a check (4)
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        values |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
        data = data[16 + length :]
    assert values["loss", 1] == 3.0
    assert values["learning_rate/unet", 1] == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(tmp_path, bad):
    files, rec = recorder(tmp_path)
    push(rec, 1, 1.0)
    push(rec, 2, bad)
    push(rec, 3, 1.0)
    with pytest.raises(NonFinite, match="loss is (nan|inf) at step 2"):
        rec.flush()
    rec.close()
    files.close()


def test_the_recorder_lags_but_not_far(tmp_path):
    """The newest steps are not waited for; a bad one comes to light a few steps later without any flush."""
    files, rec = recorder(tmp_path)
    push(rec, 1, math.nan)
    push(rec, 2, 1.0)
    with pytest.raises(NonFinite, match="step 1"):
        push(rec, 3, 1.0)
    rec.close()
    files.close()


def test_lines_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "loss": 1}\n{"step": 4, "loss": 1}\n{"step": 6, "lo')
    files, rec = recorder(tmp_path, first_step=2, steps=4)
    push(rec, 3, 5.0)
    push(rec, 4, 5.0)
    rec.flush()
    rec.close()
    files.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(2, 1), (4, 5.0)]


def test_the_bar_begins_with_the_first_step_and_shows_no_speed_before_there_is_one(capsys):
    rec = Recorder([], first_step=0, steps=10, images_per_step=4, log_every=2)
    assert capsys.readouterr().err == ""  # what comes before the first step takes long, too
    push(rec, 1, 1.0)
    rec.flush()
    rec.close()
    shown = capsys.readouterr().err
    assert "1/10" in shown
    assert "images_per_s" not in shown
