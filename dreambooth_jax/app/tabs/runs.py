# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What was trained: a gallery, and one of it opened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from dreambooth_jax.app.jobs import Job
from dreambooth_jax.app.people import who
from dreambooth_jax.app.progress import losses, placeless, samples
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.runs import command_of, delete, run_of, runs, settings_of, share
from dreambooth_jax.app.tabs.every import EVERY
from dreambooth_jax.errors import InputError

NO_PICTURE = np.full((64, 64, 3), 128, np.uint8)
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
MOST_RUNS, MOST_SAMPLES = 48, 24


def build(desk: Desk) -> None:
    """The tab.

    Args:
        desk: that it asks.
    """
    shown = _gallery(desk)
    with gr.Row():
        of = gr.Number(label="Number of the training (0 is the newest)", value=0, precision=0, minimum=0)
        look_at = gr.Button("Open", variant="primary")
        remove = gr.Button("Delete")
    with gr.Row(visible=False) as sure:
        really = gr.Button("Yes, delete it for good", variant="stop")
        keep = gr.Button("Keep it")
    status = gr.Textbox(label="Run", lines=2, interactive=False)
    opened = _opened()

    def choose(event: gr.SelectData, request: gr.Request) -> Any:
        found = list(runs(desk, who(request)))
        return found[event.index][0].number if event.index < len(found) else gr.skip()

    show = _showing(desk, len(opened))
    shown.select(choose, None, of, **PRIVATE).then(show, of, [status, *opened], **PRIVATE)
    look_at.click(show, of, [status, *opened], api_name="open_run")
    _sharing(desk, of, opened[-1], status)
    _deleting(desk, of, status, remove=remove, sure=sure, really=really, keep=keep)


def _gallery(desk: Desk) -> Any:
    """All runs, which are looked at now and then."""
    shown = gr.Gallery(label="Runs, newest first", columns=4, allow_preview=False, object_fit="cover", height="auto")
    seen = gr.State(())

    def look(seen: Any, request: gr.Request) -> tuple[Any, Any]:
        found = list(runs(desk, who(request)))[:MOST_RUNS]
        now = tuple((str(run), _newest(job)) for run, job in found)
        return gr.skip() if now == seen else [(_picture(job), str(run)) for run, job in found], now

    def runs_of(request: gr.Request) -> list[str]:
        """All runs of whoever asks and those that others share, a line each, newest first."""
        return [str(run) for run, _ in runs(desk, who(request))]

    gr.Timer(EVERY).tick(look, seen, [shown, seen], show_progress="hidden", **PRIVATE)
    gr.api(runs_of, api_name="runs")
    return shown


def _showing(desk: Desk, many: int) -> Callable[..., list[Any]]:
    """What tells of a run, in so many components besides the line of it."""

    def show(of: float | None, request: gr.Request) -> list[Any]:
        try:
            job = desk.run(who(request), int(of or 0))
        except InputError as error:
            return [placeless(str(error)), *(gr.skip() for _ in range(many))]
        run = run_of(job, who(request))
        return [
            str(run),
            [(picture, f"step {step}") for step, picture in samples(Path(job.folder), most=MOST_SAMPLES)],
            losses(Path(job.folder)),
            settings_of(desk, who(request), job),
            command_of(desk, job) if run.mine else "",
            gr.Checkbox(value=run.shared, interactive=run.mine),
        ]

    return show


def _sharing(desk: Desk, of: Any, shared: Any, status: Any) -> None:
    def tick(of: float | None, shared: bool, request: gr.Request) -> str:
        try:
            return str(run_of(share(desk, who(request), int(of or 0), shared=shared), who(request)))
        except InputError as error:
            return placeless(str(error))

    shared.input(tick, [of, shared], status, api_name="share_run")


def _deleting(desk: Desk, of: Any, status: Any, *, remove: Any, sure: Any, really: Any, keep: Any) -> None:
    """Asked twice; what is deleted is what was asked for the first time."""
    asked = gr.State(-1)

    def ask(of: float | None, request: gr.Request) -> tuple[str, int, Any]:
        try:
            run = run_of(desk.own(who(request), int(of or 0)), who(request))
        except InputError as error:
            return placeless(str(error)), -1, gr.Row(visible=False)
        return f"{run}\nDelete it, with its checkpoints and samples?", run.number, gr.Row(visible=True)

    def end(asked: int, request: gr.Request) -> tuple[str, Any]:
        return delete_run(asked, request), gr.Row(visible=False)

    def delete_run(number: int, request: gr.Request) -> str:
        """Delete a run of one's own for good."""
        try:
            return f"{delete(desk, who(request), number):.1f} MB are free again"
        except InputError as error:
            return placeless(str(error))

    remove.click(ask, of, [status, asked, sure], **PRIVATE)
    keep.click(lambda: gr.Row(visible=False), None, sure, **PRIVATE)
    really.click(end, asked, [status, sure], **PRIVATE)
    gr.api(delete_run, api_name="delete_run")


def _opened() -> list[Any]:
    """What is shown of a run, in the order in which it is told."""
    pictures = gr.Gallery(label="Its samples, step by step", columns=2, object_fit="contain")
    curve = gr.LinePlot(x="step", y="loss", label="Its loss", height=200)
    with gr.Accordion("Its settings", open=False):
        settings = gr.Code(label="Settings", language="yaml", interactive=False)
    command = gr.Textbox(label="Command line that goes on with it", lines=2, interactive=False, buttons=["copy"])
    shared = gr.Checkbox(label="Others of this page may look at it and draw with it", value=False, interactive=False)
    return [pictures, curve, settings, command, shared]


def _newest(job: Job) -> float:
    """When its samples last changed."""
    folder = Path(job.folder) / "samples"
    return folder.stat().st_mtime if folder.exists() else 0.0


def _picture(job: Job) -> np.ndarray:
    """Its newest samples."""
    return next((picture for _, picture in samples(Path(job.folder), most=1)), NO_PICTURE)
