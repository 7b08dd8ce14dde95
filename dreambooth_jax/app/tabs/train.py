# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Photos in, a training, and how far it is."""

from pathlib import Path
from typing import Any

import gradio as gr

from dreambooth_jax.app.people import who
from dreambooth_jax.app.progress import losses, pictures, placeless, said
from dreambooth_jax.app.recipes import SHARES
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.train import again, train
from dreambooth_jax.app.tabs.every import EVERY
from dreambooth_jax.errors import InputError


def build(desk: Desk) -> None:
    """The tab.

    Args:
        desk: that it asks.
    """
    with gr.Row():
        with gr.Column():
            photos = gr.File(label="Photos of the subject", file_count="multiple", file_types=["image"])
            noun = gr.Textbox(label="What they show, in one word", placeholder="dog", max_length=80)
            identifier = gr.Textbox(label="Word for this one", value="sks", max_length=80)
            config = gr.Dropdown(list(desk.configs), value=desk.configs[0], label="Model and method")
            quality = gr.Slider(1, max(SHARES), value=1, step=1, label="Quality against time (1 is quickest)")
            with gr.Row():
                start = gr.Button("Train", variant="primary")
                stop = gr.Button("Stop")
                more = gr.Button("Go on")
        with gr.Column():
            status = gr.Textbox(label="Progress", lines=3, interactive=False)
            curve = gr.LinePlot(x="step", y="loss", label="Loss", height=200)
            shown = gr.Gallery(label="Pictures on the way", columns=1)

    def ask(sent: Any, config: str, noun: str, identifier: str, quality: float, request: gr.Request) -> str:
        try:
            files = sent or []
            asked: dict[str, Any] = {"config": config, "noun": noun, "identifier": identifier, "quality": int(quality)}
            return said(desk.queue, train(desk, who(request), files, **asked))
        except InputError as error:
            return placeless(str(error))

    def end(request: gr.Request) -> str:
        for job in desk.of(who(request), "train")[:1]:
            desk.queue.stop(job.owner, job.number)
        return look(request)[0]

    def go_on(request: gr.Request) -> str:
        try:
            newest = desk.of(who(request), "train")[:1]
            return said(desk.queue, again(desk, who(request), newest[0].number)) if newest else "nothing to go on with"
        except InputError as error:
            return placeless(str(error))

    def look(request: gr.Request) -> tuple[Any, Any, Any]:
        newest = desk.of(who(request), "train")[:1]
        if not newest:
            return gr.skip(), gr.skip(), gr.skip()
        folder = Path(newest[0].folder)
        return said(desk.queue, newest[0]), losses(folder), pictures(folder / "samples", most=1)

    start.click(ask, [photos, config, noun, identifier, quality], status, api_name="train")
    stop.click(end, None, status, api_name="stop")
    more.click(go_on, None, status, api_name="go_on")
    gr.Timer(EVERY).tick(look, None, [status, curve, shown], api_name="look", show_progress="hidden")
