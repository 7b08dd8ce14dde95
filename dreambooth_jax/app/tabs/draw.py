# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts in, pictures out."""

from pathlib import Path
from typing import Any

import gradio as gr

from dreambooth_jax.app.people import who
from dreambooth_jax.app.progress import pictures, placeless, said
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.draw import MOST_PICTURES, MOST_STEPS, draw
from dreambooth_jax.app.tabs.every import EVERY
from dreambooth_jax.errors import InputError


def build(desk: Desk) -> None:
    """The tab.

    Args:
        desk: that it asks.
    """
    with gr.Row():
        with gr.Column():
            inputs = _words(desk)
            with gr.Row():
                start = gr.Button("Draw", variant="primary")
                stop = gr.Button("Stop drawing")
        with gr.Column():
            status = gr.Textbox(label="Progress of the drawing", lines=3, interactive=False)
            shown = gr.Gallery(label="Pictures", columns=2)

    def ask(
        config: str, of: float | None, prompt: str, negative: str, steps: float, guidance: float, seed: float | None,
        count: float, request: gr.Request,
    ) -> str:  # fmt: skip
        try:
            job = draw(
                desk,
                who(request),
                of=int(of or 0) or None,
                config=config,
                prompt=prompt,
                negative=negative,
                steps=int(steps),
                guidance=guidance,
                seed=int(seed or 0),
                count=int(count),
            )
        except InputError as error:
            return placeless(str(error))
        return said(desk.queue, job)

    def end(request: gr.Request) -> str:
        for job in desk.of(who(request), "sample")[:1]:
            desk.queue.stop(job.owner, job.number)
        return look(request)[0]

    def look(request: gr.Request) -> tuple[Any, Any]:
        newest = desk.of(who(request), "sample")[:1]
        if not newest:
            return gr.skip(), gr.skip()
        return said(desk.queue, newest[0]), pictures(Path(newest[0].folder), most=MOST_PICTURES)

    start.click(ask, inputs, status, api_name="sample")
    stop.click(end, None, status, api_name="stop_drawing")
    gr.Timer(EVERY).tick(look, None, [status, shown], api_name="look_at_pictures", show_progress="hidden")


def _words(desk: Desk) -> list[Any]:
    """What is told of the pictures, in the order in which it is asked for."""
    config = gr.Dropdown(list(desk.configs), value=desk.configs[0], label="Model")
    of = gr.Number(
        label="Number of the training, as Progress tells it (0 is the model before training)",
        value=0,
        precision=0,
    )
    prompt = gr.Textbox(label="What to draw", lines=2, placeholder="a sks dog in the snow")
    negative = gr.Textbox(label="What not to draw")
    steps = gr.Slider(1, MOST_STEPS, value=25, step=1, label="Steps")
    guidance = gr.Slider(1, 20, value=3, step=0.5, label="Guidance")
    seed = gr.Number(label="Seed", value=0, precision=0, minimum=0, maximum=2**32 - 1)
    count = gr.Slider(1, MOST_PICTURES, value=4, step=1, label="Pictures")
    return [config, of, prompt, negative, steps, guidance, seed, count]
