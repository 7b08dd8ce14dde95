# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The program in the page's documentation, against a page that is served, with few steps."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest
from safetensors import safe_open

from dreambooth_jax.app.queue import Queue
from dreambooth_jax.options import AppOptions
from tests.docs.texts import ROOT, fenced

pytestmark = pytest.mark.slow

FEW = """\
model: {path: embedded}
data: {instance_images: embedded, class_noun: alien, resolution: 64, instance_prompt: 'a {identifier} {class_noun}'}
prior: {weight: 0.0, num_images: 0}
adapter: {kind: lora, targets: [attn-only]}
text_encoder: {stop: -1}
train: {steps: 2, batch_size: 1}
samples: {prompts: ['a {identifier} {class_noun}'], class_prompts: [], num_images: 1, steps: 1}
"""


@pytest.fixture
def address(tmp_path):
    """Of a page whose queue runs."""
    pytest.importorskip("gradio")
    import uvicorn

    from dreambooth_jax.app.server import app_of

    (tmp_path / "few.yaml").write_text(FEW)
    options = AppOptions(folder=str(tmp_path / "app"), configs=(str(tmp_path / "few.yaml"),))
    queue = Queue(tmp_path / "app" / "jobs", most=4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app_of(options, queue), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    over = threading.Event()

    def turn():
        while not over.wait(0.2):
            queue.tick()

    turning = threading.Thread(target=turn, daemon=True)
    turning.start()
    while not server.started:
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    over.set()
    turning.join()
    for job in queue.of_all():
        queue.stop(job.owner, job.number)
    server.should_exit = True
    thread.join()


@pytest.mark.filterwarnings("ignore")
def test_it_trains_draws_and_takes_home(address, tmp_path, monkeypatch, capsys):
    (program,) = fenced((ROOT / "docs" / "app.md").read_text(encoding="utf-8"), "python")
    assert "http://127.0.0.1:7860" in program
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "photos").symlink_to(ROOT / "dreambooth_jax" / "embedded" / "subject")
    names: dict = {}

    exec(program.replace("http://127.0.0.1:7860", address), names)

    *told, place = capsys.readouterr().out.split("\n")[:-1][-7:]
    assert [line for line in told if line.endswith(": done")] == [f"number {number}: done" for number in (1, 2, 3)]
    assert len(names["pictures"]) == 1
    assert Path(place).name == "sks-alien.safetensors"
    with safe_open(place, "numpy") as file:
        assert file.metadata()["ss_network_module"] == "networks.lora"
