# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Memory and time of a training, before it is asked for: told as they are found out."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from dreambooth_jax.app.people import who
from dreambooth_jax.app.plans import Plans
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.needs import command, fits, memory, time_of
from dreambooth_jax.app.tabs.attempt import attempt
from dreambooth_jax.app.tabs.every import EVERY
from dreambooth_jax.config import load_config

BEFORE = "With photos you will see here what the training needs; then it can begin."


def needed(desk: Desk, asked: Sequence[Any], *, photos: Any, start: Any) -> None:
    """What stands below the settings of a training; its button lives when it is known that the training fits.

    Args:
        desk: that is asked.
        asked: model, method, slider and settings.
        photos: once they are there, planning begins.
        start: button of the training.
    """
    plans = Plans(desk.folder.parent / "plans")
    with gr.Row():
        find = gr.Button("What will it need?")
        leave = gr.Button("Do not wait for the plan")
    told = gr.Markdown(BEFORE)

    def found(owner: str, config: str, method: str, quality: float, settings: str) -> str:
        words = command(desk, config=config, method=method, quality=int(quality), settings=settings)
        plans.ask(owner, words)
        return f"{memory(plans, owner)}; {time_of(desk, load_config(words[0], words[1:]))}"

    def begin(config: str, method: str, quality: float, settings: str, request: gr.Request) -> str:
        return attempt(lambda: found(who(request), config, method, quality, settings))

    def arrive(photos: Any, config: str, method: str, quality: float, settings: str, request: gr.Request) -> Any:
        return begin(config, method, quality, settings, request) if photos else gr.skip()

    def renew(config: str, method: str, quality: float, settings: str, request: gr.Request) -> tuple[Any, Any]:
        if plans.told(who(request)) is None:
            return gr.skip(), gr.skip()
        line = begin(config, method, quality, settings, request)
        return line, gr.Button(interactive=fits(plans, who(request)))

    def end(request: gr.Request) -> tuple[str, Any]:
        plans.cancel(who(request))
        return "not planned: whether it fits will be seen", gr.Button(interactive=True)

    def begun(request: gr.Request) -> None:
        """What trains needs the device, and is compiled by itself."""
        plans.cancel(who(request))

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    find.click(begin, asked, told, api_name="plan")
    leave.click(end, None, [told, start], api_name="stop_planning", show_progress="hidden")
    photos.change(arrive, [photos, *asked], told, **private)
    start.click(begun, None, None, **private)
    gr.Timer(EVERY).tick(renew, asked, [told, start], **private)
