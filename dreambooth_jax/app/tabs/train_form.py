# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is told of a training: each field with what is known of it at once, and where its errors stand."""

from typing import Any

import gradio as gr

from dreambooth_jax.app.offers import METHODS
from dreambooth_jax.app.progress import placeless
from dreambooth_jax.app.recipes import DEFAULT, SHARES
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.requests.photos import look_over
from dreambooth_jax.app.requests.train import length
from dreambooth_jax.app.requests.words import tokens
from dreambooth_jax.app.tabs.advanced import GROUPS, advanced
from dreambooth_jax.app.tabs.attempt import attempt
from dreambooth_jax.errors import InputError

FIELDS = {
    "photos": ("photo", "caption", "data.instance_images"),
    "noun": ("what the photos show", "data.class_noun"),
    "identifier": ("the word for this one", "data.identifier"),
    "method": ("method",),
    "quality": ("quality",),
    "settings": ("settings", "unknown key", *(f"{group}." for group in GROUPS)),
}
"""Field -> how messages begin that stand beside it, in the order of the page."""
ASKED = ("noun", "identifier", "config", "method", "quality", "settings")
"""What is told of a training besides photos, in the order of the page."""
OWN = "as its settings say"


def form(desk: Desk) -> tuple[list[Any], list[Any]]:
    """What is told of a training, in the order in which it is asked for, and where errors of each stand."""
    photos = gr.File(
        label="Photos of the subject, and captions (A.txt of A.jpg)",
        file_count="multiple",
        file_types=["image", ".txt"],
    )
    seen = gr.Gallery(label="Photos, as training sees them", columns=5, height=180, visible=False)
    of_photos, no_photos = gr.Markdown(), gr.Markdown()
    noun = gr.Textbox(label="What they show, in one word", placeholder="dog", max_length=80)
    no_noun = gr.Markdown()
    identifier = gr.Textbox(label="Word for this one", value="sks", max_length=80)
    of_words, no_identifier = gr.Markdown(line_breaks=True), gr.Markdown()
    config = gr.Dropdown(desk.offered, value=desk.offered[0], label="Model")
    method = gr.Radio([(OWN, ""), *((name, name) for name in METHODS)], value="", label="Method")
    no_method = gr.Markdown()
    quality = gr.Slider(1, max(SHARES), value=DEFAULT, step=1, label="Quality against time (1 is quickest)")

    def look_at_photos(photos: Any, config: str) -> tuple[Any, str]:
        if not photos:
            return gr.Gallery(value=None, visible=False), ""
        try:
            found = look_over(desk, photos, config=config)
        except InputError as error:
            return gr.Gallery(value=None, visible=False), placeless(str(error))
        return gr.Gallery(value=found.pictures, visible=True), "\n".join(f"- {line}" for line in found.doubts)

    def look_at_words(config: str, method: str, noun: str, identifier: str) -> str:
        return attempt(lambda: tokens(desk, config=config, method=method, noun=noun, identifier=identifier))

    def look_at_length(config: str, method: str, quality: float) -> str:
        return attempt(lambda: f"{length(desk, config=config, method=method, quality=int(quality))} steps")

    of_quality, no_quality = gr.Markdown(look_at_length(desk.offered[0], "", DEFAULT)), gr.Markdown()
    settings, no_settings = advanced()
    gr.on(
        [photos.change, config.change], look_at_photos, [photos, config], [seen, of_photos], api_name="look_at_photos"
    )
    words, hidden = [noun.change, identifier.change, config.change, method.change], {"show_progress": "hidden"}
    gr.on(
        words,
        look_at_words,
        [config, method, noun, identifier],
        of_words,
        api_name="tokens",
        trigger_mode="always_last",
        **hidden,
    )
    gr.on(
        [quality.change, config.change, method.change],
        look_at_length,
        [config, method, quality],
        of_quality,
        api_name="steps",
        **hidden,
    )
    told = [photos, noun, identifier, config, method, quality, settings]
    return told, [no_photos, no_noun, no_identifier, no_method, no_quality, no_settings]
