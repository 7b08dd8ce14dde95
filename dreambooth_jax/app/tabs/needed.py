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
from dreambooth_jax.app.requests.needs import command, fits, memory, time_of
from dreambooth_jax.app.tabs.attempt import attempt
from dreambooth_jax.app.tabs.every import EVERY
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError

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

    def ask(owner: str, config: str, method: str, quality: float, settings: str) -> str:
        """Begin to find out what is needed; the time is known at once."""
        words = command(desk, config=config, method=method, quality=int(quality), settings=settings)
        plans.ask(owner, words)
        return time_of(desk, load_config(words[0], words[1:]))

    def begin(config: str, method: str, quality: float, settings: str, request: gr.Request) -> str:
        def both() -> str:
            time = ask(who(request), config, method, quality, settings)
            return f"{memory(plans, who(request))}; {time}"

        return attempt(both)

    def arrive(photos: Any, config: str, method: str, quality: float, settings: str, request: gr.Request) -> Any:
        return begin(config, method, quality, settings, request) if photos else gr.skip()

    def renew(
        seen: Any, config: str, method: str, quality: float, settings: str, request: gr.Request
    ) -> tuple[Any, Any, Any]:
        owner, values = who(request), (config, method, quality, settings)
        if plans.told(owner) is None:
            return gr.skip(), gr.skip(), gr.skip()
        try:  # the settings of files and runs are read where something has changed, not at each look
            seen = seen if seen[0] == values else (values, ask(owner, *values))
        except InputError as error:
            return ((), ""), placeless(str(error)), gr.skip()
        return seen, f"{memory(plans, owner)}; {seen[1]}", gr.Button(interactive=fits(plans, owner))

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
    seen = gr.State(((), ""))
    gr.Timer(EVERY).tick(renew, [seen, *asked], [seen, told, start], **private)
