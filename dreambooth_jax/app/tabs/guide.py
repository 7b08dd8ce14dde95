# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures that guide: a fold of the tab in which pictures are drawn, of two networks at once at most."""

from collections.abc import Collection, Mapping
from typing import Any

import gradio as gr

from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.guide import AS_IT_IS, Guiding
from dreambooth_jax.app.tabs.sent import number, undecoded
from dreambooth_jax.data.control_maps import MAPS

PLACES = ("guide", "second_guide")
"""Names of the choices of a network; those of their other fields begin with them."""
NO_NETWORK = ("none", "")


def guide_fields(desk: Desk) -> dict[str, Any]:
    """All of them, by name; nobody sees them where no network is offered."""
    first, *others = PLACES
    with gr.Accordion("Guide by a picture: ControlNet", open=False, visible=bool(desk.networks)):
        found = _fields(first, desk.networks)
        for place in others:
            with gr.Accordion("And by another network", open=False):
                found |= _fields(place, desk.networks)
    return found


def _fields(place: str, networks: Collection[str]) -> dict[str, Any]:
    title = place.replace("_", " ").capitalize()
    found: dict[str, Any] = {}
    with gr.Row():
        found[place] = gr.Dropdown(
            [NO_NETWORK, *((name, name) for name in networks)], value="", label=f"{title}: network"
        )
        maps = [("it is as it should be", AS_IT_IS), *((name, name) for name in MAPS)]
        found[f"{place}_map"] = gr.Dropdown(
            maps, value=AS_IT_IS, label=f"{title}: what is made of its picture", info="As the network was trained on."
        )
    picture = gr.Image(label=f"{title}: picture", type="filepath", sources=["upload", "clipboard"], height=256)
    picture.preprocess = undecoded  # type: ignore[method-assign, assignment]
    found[f"{place}_picture"] = picture
    found[f"{place}_scale"] = gr.Slider(0, 2, value=1, step=0.05, label=f"{title}: strength")
    with gr.Row():
        found[f"{place}_start"] = gr.Slider(0, 1, value=0, step=0.05, label=f"{title}: from this share of the steps")
        found[f"{place}_end"] = gr.Slider(0, 1, value=1, step=0.05, label=f"{title}: to this share of the steps")
    label = f"{title}: guess mode, in which the picture alone decides (ControlNets; guidance of 3 to 5)"
    found[f"{place}_guess"] = gr.Checkbox(False, label=label)
    return found


def guides_of(values: Mapping[str, Any]) -> list[Guiding]:
    """What fields tell of networks that are to guide.

    Raises:
        InputError: for what is no number where there should be one.
    """
    return [_guide_of(place, values) for place in PLACES if values[place] or values[f"{place}_picture"]]


def _guide_of(place: str, values: Mapping[str, Any]) -> Guiding:
    title = place.replace("_", " ")
    return Guiding(
        network=str(values[place] or ""),
        picture=values[f"{place}_picture"],
        map=str(values[f"{place}_map"] or AS_IT_IS),
        scale=number(f"the strength of the {title}", values[f"{place}_scale"], usual=1),
        start=number(f"where the {title} starts", values[f"{place}_start"]),
        end=number(f"where the {title} ends", values[f"{place}_end"], usual=1),
        guess=bool(values[f"{place}_guess"]),
    )
