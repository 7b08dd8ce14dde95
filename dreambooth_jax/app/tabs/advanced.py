# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""All settings of a run that may be changed from a browser, with the command line's help."""

import dataclasses
from typing import Any

import gradio as gr

from dreambooth_jax.app.requests.settings import opened
from dreambooth_jax.config import Config

GROUPS = tuple(field.name for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type))
"""What keys begin with."""


def advanced() -> tuple[Any, Any]:
    """The field of settings, and where errors of them stand."""
    with gr.Accordion("Advanced", open=False):
        settings = gr.Textbox(
            label="More settings, KEY=VALUE, each on a line of its own; they win over all above",
            value="",
            lines=3,
            placeholder="train.batch_size=2",
        )
        errors = gr.Markdown()
        gr.Dataframe(
            [[one.key, one.help, one.values] for one in opened().values()],
            headers=["setting", "what it is", "values"],
            label="All settings that there are",
            interactive=False,
            wrap=True,
            show_search="filter",
            max_height=320,
        )
    return settings, errors
