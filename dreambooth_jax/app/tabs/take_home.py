# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A training in, a file for other tools out."""

from typing import Any

import gradio as gr

from dreambooth_jax.app.people import who
from dreambooth_jax.app.progress import said
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.take_home import DTYPES, FORMS, export, packed
from dreambooth_jax.app.tabs.attempt import press
from dreambooth_jax.app.tabs.every import EVERY


def build(desk: Desk) -> None:
    """The tab.

    Args:
        desk: that it asks.
    """
    with gr.Row():
        with gr.Column():
            of = gr.Number(label="Number of the training (0 is the newest)", value=0, precision=0, minimum=0)
            form = gr.Radio(list(FORMS), value=next(iter(FORMS)), label="As what")
            loads = gr.Markdown(FORMS[next(iter(FORMS))].loads)
            dtype = gr.Radio(list(DTYPES), value=DTYPES[0], label="Numbers (float16 is half as large)")
            with gr.Row():
                start = gr.Button("Export", variant="primary")
                stop = gr.Button("Stop exporting")
        with gr.Column():
            status = gr.Textbox(label="Progress of the export", lines=3, interactive=False)
            file = gr.File(label="To download", interactive=False)
            shown = gr.State(0)

    def ask(of: float | None, form: str, dtype: str, request: gr.Request) -> str:
        return press(lambda: said(desk.queue, export(desk, who(request), of=int(of or 0), form=form, dtype=dtype)))

    def end(request: gr.Request) -> str:
        newest = desk.of(who(request), "export")[:1]
        for job in newest:
            desk.queue.stop(job.owner, job.number)
        return _told(desk, who(request))[1]

    def look(shown: int, request: gr.Request) -> tuple[Any, Any, int]:
        number, told, found = _told(desk, who(request))
        if not number:
            return gr.skip(), gr.skip(), shown
        return told, (gr.skip() if found and number == shown else found), (number if found else 0)

    def take(request: gr.Request) -> str | None:
        return _told(desk, who(request))[2]

    start.click(ask, [of, form, dtype], status, api_name="export")
    stop.click(end, None, status, api_name="stop_exporting")
    form.change(lambda form: FORMS[form].loads, form, loads, api_visibility="private")
    gr.Timer(EVERY).tick(look, shown, [status, file, shown], api_visibility="private", show_progress="hidden")
    gr.on([], take, None, file, api_name="download")


def _told(desk: Desk, owner: str) -> tuple[int, str, str | None]:
    """(number, how far it is, file) of the newest export of somebody; the number is 0 where there is none."""
    for job in desk.of(owner, "export")[:1]:
        file = packed(desk, job)
        size = f"\n{file.name}: {_size(file.stat().st_size)}" if file else ""
        return job.number, f"{said(desk.queue, job)}{size}", str(file) if file else None
    return 0, "", None


def _size(many: int) -> str:
    """Of a file, in words."""
    return f"{many / 1e9:.2f} GB" if many >= 1e9 else f"{many / 1e6:.1f} MB"
