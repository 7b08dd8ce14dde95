# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Photos in, a training, and how far it is."""

from pathlib import Path
from typing import Any

import gradio as gr

from dreambooth_jax.app.beside import spread
from dreambooth_jax.app.people import who
from dreambooth_jax.app.progress import losses, pictures, placeless, said
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.train import again, newest_of, stop, train
from dreambooth_jax.app.tabs.attempt import press, refused
from dreambooth_jax.app.tabs.every import EVERY
from dreambooth_jax.app.tabs.needed import needed
from dreambooth_jax.app.tabs.train_form import ASKED, FIELDS, form
from dreambooth_jax.errors import InputError

MOST_SAMPLES = 4


def build(desk: Desk) -> None:
    """The tab.

    Args:
        desk: that it asks.
    """
    with gr.Row():
        with gr.Column():
            asked, notes = form(desk)
            start = gr.Button("Train", variant="primary", interactive=False, render=False)
            needed(desk, asked[3:], photos=asked[0], start=start)
            start.render()
        with gr.Column():
            status = _followed(desk)

    def wanted(owner: str, photos: Any, *values: Any) -> str:
        told = dict(zip(ASKED, values))
        told["quality"] = int(told["quality"])
        return said(desk.queue, train(desk, owner, photos or [], **told))

    def ask(
        photos: Any, noun: str, identifier: str, config: str, method: str, quality: float, settings: str,
        request: gr.Request,
    ) -> list[str]:  # fmt: skip
        values = (noun, identifier, config, method, quality, settings)
        try:
            return [wanted(who(request), photos, *values), *("" for _ in FIELDS)]
        except InputError as error:
            *beside, elsewhere = spread(refused(error), FIELDS)
            return [elsewhere or "not begun: why stands beside the field", *beside]

    def ask_by_program(
        photos: Any, noun: str, identifier: str, config: str, method: str, quality: float, settings: str,
        request: gr.Request,
    ) -> str:  # fmt: skip
        return press(lambda: wanted(who(request), photos, noun, identifier, config, method, quality, settings))

    start.click(ask, asked, [status, *notes], api_visibility="private")
    gr.on([], ask_by_program, asked, status, api_name="train")


def _followed(desk: Desk) -> Any:
    """A training as it goes on, and what stops it; returns the box that tells of it."""
    number = gr.Number(label="Number of the training (0 is the newest)", value=0, precision=0, minimum=0, maximum=10**9)
    with gr.Row():
        end = gr.Button("Stop")
        more = gr.Button("Go on")
    status = gr.Textbox(label="Progress", lines=3, interactive=False)
    curve = gr.LinePlot(x="step", y="loss", label="Loss", height=200)
    shown = gr.Gallery(label="Pictures on the way", columns=1, object_fit="contain")

    def halt(number: float | None, request: gr.Request) -> str:
        return press(lambda: said(desk.queue, stop(desk, who(request), int(number or 0))))

    def go_on(number: float | None, request: gr.Request) -> str:
        return press(lambda: said(desk.queue, again(desk, who(request), int(number or 0))))

    def look(number: float | None, request: gr.Request) -> tuple[Any, Any, Any]:
        try:
            job = newest_of(desk, who(request), int(number or 0))
        except InputError as error:
            return (placeless(str(error)) if number else gr.skip()), gr.skip(), gr.skip()
        folder = Path(job.folder)
        return said(desk.queue, job), losses(folder), pictures(folder / "samples", most=MOST_SAMPLES)

    end.click(halt, number, status, api_name="stop")
    more.click(go_on, number, status, api_name="go_on")
    gr.Timer(EVERY).tick(look, number, [status, curve, shown], api_name="look", show_progress="hidden")
    return status
