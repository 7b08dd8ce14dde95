# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What the page shows: a tab to train and a tab to draw."""

from pathlib import Path
from typing import Any

import gradio as gr

from dreambooth_jax.app.people import owner_of
from dreambooth_jax.app.progress import losses, pictures, placeless, said
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.app.recipes import SHARES
from dreambooth_jax.app.requests import MOST_PICTURES, MOST_STEPS, Desk
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import AppOptions

EVERY = 2.0
"""Seconds between two looks at what runs."""


def page_of(options: AppOptions, queue: Queue) -> gr.Blocks:
    """The page.

    Args:
        options: of the command line.
        queue: that its requests wait in.
    """
    desk = Desk(queue, Path(options.folder).absolute() / "people", options.configs)
    with gr.Blocks(title="dreambooth_jax", analytics_enabled=False) as page:
        gr.Markdown("# DreamBooth\nPhotos of one subject in, a model that draws it out.")
        with gr.Tab("Train"):
            _train(desk)
        with gr.Tab("Draw"):
            _draw(desk)
    return page


def _who(request: gr.Request) -> str:
    return owner_of(request.cookies, request.session_hash)


def _train(desk: Desk) -> None:
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
            return said(desk.queue, desk.train(_who(request), files, **asked))
        except InputError as error:
            return placeless(str(error))

    def end(request: gr.Request) -> str:
        for job in desk.runs(_who(request))[:1]:
            desk.queue.stop(job.owner, job.number)
        return look(request)[0]

    def go_on(request: gr.Request) -> str:
        try:
            newest = desk.runs(_who(request))[:1]
            return said(desk.queue, desk.again(_who(request), newest[0].number)) if newest else "nothing to go on with"
        except InputError as error:
            return placeless(str(error))

    def look(request: gr.Request) -> tuple[Any, Any, Any]:
        newest = desk.runs(_who(request))[:1]
        if not newest:
            return gr.skip(), gr.skip(), gr.skip()
        folder = Path(newest[0].folder)
        return said(desk.queue, newest[0]), losses(folder), pictures(folder / "samples", most=1)

    start.click(ask, [photos, config, noun, identifier, quality], status, api_name="train")
    stop.click(end, None, status, api_name="stop")
    more.click(go_on, None, status, api_name="go_on")
    gr.Timer(EVERY).tick(look, None, [status, curve, shown], api_name="look", show_progress="hidden")


def _draw(desk: Desk) -> None:
    with gr.Row():
        with gr.Column():
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
            job = desk.draw(
                _who(request),
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
        for job in desk.drawings(_who(request))[:1]:
            desk.queue.stop(job.owner, job.number)
        return look(request)[0]

    def look(request: gr.Request) -> tuple[Any, Any]:
        newest = desk.drawings(_who(request))[:1]
        if not newest:
            return gr.skip(), gr.skip()
        return said(desk.queue, newest[0]), pictures(Path(newest[0].folder), most=MOST_PICTURES)

    inputs = [config, of, prompt, negative, steps, guidance, seed, count]
    start.click(ask, inputs, status, api_name="sample")
    stop.click(end, None, status, api_name="stop_drawing")
    gr.Timer(EVERY).tick(look, None, [status, shown], api_name="look_at_pictures", show_progress="hidden")
