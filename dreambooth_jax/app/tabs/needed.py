# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Memory and time of a training, before it is asked for: told as they are found out."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from dreambooth_jax.app.people import who
from dreambooth_jax.app.plans import Plans
from dreambooth_jax.app.progress import placeless
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.needs import command, memory, time_of
from dreambooth_jax.app.tabs.every import EVERY
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError


def needed(desk: Desk, asked: Sequence[Any]) -> None:
    """What stands below the settings of a training.

    Args:
        desk: that is asked.
        asked: model, method, slider and settings.
    """
    plans = Plans(desk.folder.parent / "plans")
    with gr.Row():
        find = gr.Button("What will it need?")
        leave = gr.Button("Stop planning")
    told = gr.Markdown()

    def begin(config: str, method: str, quality: float, settings: str, request: gr.Request) -> str:
        try:
            words = command(desk, config=config, method=method, quality=int(quality), settings=settings)
            plans.ask(who(request), words)
            return f"{memory(plans, who(request))}; {time_of(desk, load_config(words[0], words[1:]))}"
        except InputError as error:
            return placeless(str(error))

    def end(request: gr.Request) -> str:
        plans.cancel(who(request))
        return ""

    def renew(config: str, method: str, quality: float, settings: str, request: gr.Request) -> Any:
        return begin(config, method, quality, settings, request) if plans.told(who(request)) else gr.skip()

    find.click(begin, asked, told, api_name="plan")
    leave.click(end, None, told, api_name="stop_planning", show_progress="hidden")
    gr.Timer(EVERY).tick(renew, asked, told, api_visibility="private", show_progress="hidden")
