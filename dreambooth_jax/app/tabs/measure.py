# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A training in; scores, or what is wrong with it and what to change first."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from dreambooth_jax.app.jobs import Job
from dreambooth_jax.app.people import who
from dreambooth_jax.app.progress import said
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.measure import MEASURES, MOST_PICTURES, measure, report
from dreambooth_jax.app.tabs.attempt import press
from dreambooth_jax.app.tabs.every import EVERY


def build(desk: Desk) -> None:
    """The tab.

    Args:
        desk: that it asks.
    """
    with gr.Row():
        of = gr.Number(label="Number of the training (0 is the newest)", value=0, precision=0, minimum=0)
        count = gr.Slider(1, MOST_PICTURES, value=1, step=1, label="Pictures of each prompt (more take longer)")
    gr.Markdown(
        "**Doctor** says what is wrong with a training and what to change first. **Evaluate** measures likeness, "
        "prompts and what has leaked, with intervals; stopped, it goes on where it was."
    )
    with gr.Row():
        starts = {verb: gr.Button(verb.capitalize(), variant="primary") for verb in reversed(MEASURES)}
        stop = gr.Button("Stop measuring")
    status = gr.Textbox(label="Progress of the measuring", lines=3, interactive=False)
    told = gr.HTML(label="Report", show_label=True, container=True, padding=True, elem_classes="labelled")
    shown = gr.State(0)

    def newest(request: gr.Request) -> list[Job]:
        return [job for job in reversed(desk.queue.of(who(request))) if job.words[0] in MEASURES][:1]

    def asking(verb: str) -> Callable[..., str]:
        def ask(of: float | None, count: float, request: gr.Request) -> str:
            return press(lambda: said(desk.queue, measure(desk, who(request), verb, of=int(of or 0), count=int(count))))

        return ask

    def end(request: gr.Request) -> str:
        for job in newest(request):
            desk.queue.stop(job.owner, job.number)
        return "".join(said(desk.queue, job) for job in newest(request))

    def look(shown: int, request: gr.Request) -> tuple[Any, Any, int]:
        for job in newest(request):
            done = job.number if job.state == "done" else 0
            text: Any = gr.skip() if done and shown == done else report(desk, job)
            return said(desk.queue, job), text, done
        return gr.skip(), gr.skip(), shown

    def read(request: gr.Request) -> str:
        return "".join(report(desk, job) for job in newest(request))

    for verb, start in starts.items():
        start.click(asking(verb), [of, count], status, api_name=verb)
    stop.click(end, None, status, api_name="stop_measuring")
    gr.Timer(EVERY).tick(look, shown, [status, told, shown], api_visibility="private", show_progress="hidden")
    gr.on([], read, None, told, api_name="report")
