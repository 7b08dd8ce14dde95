# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is told of pictures: the fields of the tab, by name."""

from pathlib import Path
from typing import Any

import gradio as gr

from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.draw import MAIN, MORE, MOST_PICTURES, MOST_STEPS, Drawing
from dreambooth_jax.app.requests.matrix import VARIED
from dreambooth_jax.app.requests.sources import NEWEST
from dreambooth_jax.app.requests.start import Sent
from dreambooth_jax.app.tabs.fields import field_of, told_by
from dreambooth_jax.app.tabs.guide import guide_fields, guides_of
from dreambooth_jax.app.tabs.prompt_help import prompt_help
from dreambooth_jax.app.tabs.sent import number, undecoded
from dreambooth_jax.options import SampleOptions

LABELS = {"schedule": "Schedule (which noise levels the steps visit)", "strength": "Strength (for a picture)"}
GROWS = ("left", "top", "right", "bottom")
MATRIX = ("across", "across_values", "down", "down_values")
NOTHING = ("nothing", "")


def fields(desk: Desk) -> dict[str, Any]:
    """All of them, on the page; in the order of the request for programs."""
    model = _model(desk)
    prompt = {"prompt": gr.Textbox(label="What to draw", lines=2, placeholder="a sks dog in the snow")}
    prompt_help(prompt["prompt"])
    usual = _usual(desk)
    with gr.Accordion("A picture to begin with: change it, paint what is to be drawn anew, let it grow", open=False):
        start = _start()
    guides = guide_fields(desk)
    with gr.Accordion("Matrix: two settings with several values each", open=False):
        matrix = _matrix()
    with gr.Accordion("More settings", open=False):
        more = {name: field_of(SampleOptions, name) for name in MORE}
    return {**model, **prompt, **usual, **start, **matrix, **more, **guides}


def _model(desk: Desk) -> dict[str, Any]:
    first = desk.offered[0]
    with gr.Row():
        source = gr.Dropdown(
            [(f"{Path(name).stem}, before training", name) for name in desk.offered],
            value=first, label="Model", allow_custom_value=True, info="Own trainings, and models before training.",
        )  # fmt: skip
        step = gr.Dropdown(
            [("the newest", NEWEST)], value=NEWEST, label="Checkpoint", allow_custom_value=True, info="Of a training."
        )
    with gr.Row():
        weight = gr.Slider(0, 2, value=1, step=0.05, label="Weight of the training's LoRA")
        before = gr.Checkbox(False, label="Before and after: draw the same with the model before training, too")
    return {"source": source, "step": step, "weight": weight, "before": before}


def _usual(desk: Desk) -> dict[str, Any]:
    drawn = desk.settings(desk.offered[0]).samples
    found: dict[str, Any] = {"negative_prompt": gr.Textbox(label="What not to draw")}
    with gr.Row():
        found["steps"] = gr.Slider(1, MOST_STEPS, value=drawn.steps, step=1, label="Steps")
        found["guidance_scale"] = gr.Slider(0, 30, value=drawn.guidance_scale, step=0.5, label="Guidance")
    with gr.Row():
        found["seed"] = gr.Number(label="Seed", value=0, precision=0)
        found["count"] = gr.Slider(1, MOST_PICTURES, value=4, step=1, label="Pictures")
    with gr.Row():
        others = [name for name in MAIN if name not in {*found, "strength"}]
        found |= {name: field_of(SampleOptions, name, label=LABELS.get(name)) for name in others}
    return found


def _start() -> dict[str, Any]:
    painted = gr.ImageEditor(
        label="Picture to begin with; what is painted on it is drawn anew",
        type="pil",
        transforms=(),
        sources=("upload", "clipboard"),
        brush=gr.Brush(colors=["#ff00ff"], color_mode="fixed"),
    )
    painted.convert_and_format_image = undecoded  # type: ignore[method-assign, assignment] # decoded within our bounds, not before
    found: dict[str, Any] = {
        "picture": painted,
        "strength": field_of(SampleOptions, "strength", label=LABELS["strength"]),
    }
    with gr.Row():
        for side in GROWS:
            of = "width" if side in ("left", "right") else "height"
            label = f"Grow at the {side}, in percent of the {of}"
            found[side] = gr.Number(0, label=label, min_width=120)
    return found


def _matrix() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place in ("across", "down"):
        with gr.Row():
            names = [NOTHING, *((name.replace("_", " "), name) for name in VARIED)]
            found[place] = gr.Dropdown(names, value="", label=f"What varies {place}")
            found[f"{place}_values"] = gr.Textbox(
                label=f"Its values {place}", placeholder="10, 20, 40", info="Between commas; texts between semicolons."
            )
    return found


def asked_of(values: dict[str, Any]) -> Drawing:
    """The request that is told by fields.

    Raises:
        InputError: for what is no number where there should be one.
    """
    sent = values["picture"] or {"background": None, "layers": []}
    left, top, right, bottom = (number(f"what it grows at the {side}", values[side]) for side in GROWS)
    across, across_values, down, down_values = (str(values[name] or "") for name in MATRIX)
    return Drawing(
        source=str(values["source"]),
        step=str(values["step"] or ""),
        weight=number("the weight", values["weight"], usual=1),
        prompt=values["prompt"] or "",
        seed=round(number("the seed", values["seed"])),
        count=round(number("how many pictures", values["count"])),
        settings={name: told_by(SampleOptions, name, values[name]) for name in (*MAIN, *MORE)},
        before=bool(values["before"]),
        start=Sent(sent["background"], tuple(sent["layers"] or ()), (left, top, right, bottom)),
        guides=guides_of(values),
        varied=[one for one in ((down, down_values), (across, across_values)) if one[0]],  # rows come first
    )
