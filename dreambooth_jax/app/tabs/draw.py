# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Prompts in, pictures out."""

from pathlib import Path
from typing import Any

import gradio as gr

from dreambooth_jax.app.drawn import gallery, newest, on_the_way
from dreambooth_jax.app.people import who
from dreambooth_jax.app.progress import placeless, said
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.draw import MAIN, MORE, MOST_PICTURES, draw
from dreambooth_jax.app.requests.like import read_back
from dreambooth_jax.app.requests.matrix import MOST_CELLS
from dreambooth_jax.app.requests.sources import NEWEST, offered, source_of, steps_of
from dreambooth_jax.app.tabs.attempt import press
from dreambooth_jax.app.tabs.draw_form import asked_of, fields
from dreambooth_jax.app.tabs.every import EVERY
from dreambooth_jax.app.tabs.named import named
from dreambooth_jax.errors import InputError


def build(desk: Desk) -> None:
    """The tab.

    Args:
        desk: that it asks.
    """
    with gr.Row():
        with gr.Column():
            form = fields(desk)
            with gr.Row():
                start = gr.Button("Draw", variant="primary")
                stop = gr.Button("Stop drawing")
        with gr.Column():
            status = gr.Textbox(label="Progress of the drawing", lines=3, interactive=False)
            way = gr.Image(label="On the way", interactive=False, visible=False, height=256)
            shown = gr.Gallery(label="Pictures", columns=2, object_fit="contain")
            like = gr.File(label="Picture whose settings are to be read: ours, A1111's, ComfyUI's, InvokeAI's")
            found = gr.Textbox(label="What was read", lines=2, interactive=False)

    def ask(values: dict[str, Any], request: gr.Request) -> str:
        def do() -> str:
            return "\n".join(said(desk.queue, job) for job in draw(desk, who(request), asked_of(values)))

        return press(do)

    def end(request: gr.Request) -> str:
        for job in newest(desk, who(request)):
            desk.queue.stop(job.owner, job.number)
        return "\n".join(said(desk.queue, job) for job in newest(desk, who(request)))

    start.click(named(ask, list(form)), list(form.values()), status, api_name="sample")
    stop.click(end, None, status, api_name="stop_drawing")
    _choosing(desk, form)
    _listing(desk, form["source"])
    _looking(desk, status, way, shown)
    _reading(form, like, found)


def _choosing(desk: Desk, form: dict[str, Any]) -> None:
    """What a model has: its checkpoints, and what its samples are drawn with."""

    def choose(source: str, request: gr.Request) -> tuple[Any, Any, Any]:
        try:
            drawn = source_of(desk, who(request), source)
        except InputError:
            return gr.skip(), gr.skip(), gr.skip()
        steps = gr.Dropdown(choices=steps_of(desk, who(request), source), value=NEWEST)
        return steps, drawn.steps, drawn.guidance_scale

    outputs = [form["step"], form["steps"], form["guidance_scale"]]
    form["source"].change(choose, form["source"], outputs, api_name="choose_model", show_progress="hidden")


def _listing(desk: Desk, source: Any) -> None:
    """The list of models follows what is trained."""

    def look(chosen: str, choices: Any, request: gr.Request) -> tuple[Any, Any]:
        now = offered(desk, who(request))
        return now, gr.skip() if now == choices else gr.Dropdown(choices=now, value=_preferred(now, chosen))

    known = gr.State([])
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    gr.Timer(EVERY).tick(look, [source, known], [known, source], **private)


def _preferred(choices: list[tuple[str, str]], chosen: str) -> str:
    """What is chosen stays; whoever has just trained wants to draw with that, rather than with the model before."""
    newest = choices[0][1]
    return chosen if chosen.isdecimal() or not newest.isdecimal() else newest


def _looking(desk: Desk, status: Any, way: Any, shown: Any) -> None:
    """Now and then, what has changed of the newest pictures."""

    def look(files: Any, request: gr.Request) -> tuple[Any, ...]:
        jobs = newest(desk, who(request))
        if not jobs:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip()
        found = gallery(jobs, desk.cache, most=max(MOST_PICTURES, MOST_CELLS))
        picture = on_the_way(jobs)
        return (
            "\n".join(said(desk.queue, job) for job in jobs),
            gr.Image(value=picture, visible=picture is not None),
            *(found, gr.skip() if found == files else found),
        )

    files = gr.State([])
    outputs = [status, way, files, shown]
    gr.Timer(EVERY).tick(look, files, outputs, api_name="look_at_pictures", show_progress="hidden")


def _reading(form: dict[str, Any], like: Any, note: Any) -> None:
    """A picture's settings, back into the fields; a note says what was found, or why nothing was."""
    names = ("prompt", "seed", *MAIN, *MORE)

    def read(file: str | None) -> list[Any]:
        try:
            if file is None:
                raise InputError("load a picture first")
            found = read_back(Path(file))
        except InputError as error:
            return [placeless(str(error)), *(gr.skip() for _ in names)]
        told = {"prompt": found.prompt, "seed": found.seed} | found.settings
        return ["\n".join(found.lines), *(told.get(name, _empty(form[name])) for name in names)]

    like.upload(read, like, [note, *(form[name] for name in names)], api_name="read_back")


def _empty(field: Any) -> Any:
    """What a field holds that tells nothing."""
    if isinstance(field, gr.Slider):
        return gr.skip()
    return "" if isinstance(field, gr.Textbox | gr.Dropdown) else False if isinstance(field, gr.Checkbox) else None
