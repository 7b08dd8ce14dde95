# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Help with prompts: lists to take one from, and the parts that one has."""

from typing import Any

import gradio as gr

from dreambooth_jax.prompts.named import ANATOMY, NAMED

LISTS = {
    "the DreamBooth paper's, for things": "dreambooth-object",
    "the DreamBooth paper's, for animals": "dreambooth-live",
    "the founding course's": "course",
    "the anatomy of a prompt, part by part": "anatomy",
    "for the embedded model, which knows few words": "embedded",
}
"""What a list is called here -> its name."""
ANATOMY_HELP = "\n".join(
    [
        "What stands first counts most. `{identifier}` and `{class_noun}` are the words of the training.",
        "(more:1.3) and [less] weigh words. What is not to be there goes under “What not to draw”.",
        "",
        "| part | example |",
        "|---|---|",
        *(f"| {part} | `{example}` |" for part, example in ANATOMY.items()),
    ]
)


def prompt_help(prompt: Any) -> None:
    """Help beside a field.

    Args:
        prompt: the field that a prompt of a list is put into.
    """
    first = next(iter(LISTS))
    with gr.Accordion("Help with prompts", open=False):
        name = gr.Dropdown(list(LISTS), value=first, label="A list of prompts")
        one = gr.Dropdown(list(NAMED[LISTS[first]]), value=None, label="One of them, to draw")
        gr.Markdown(ANATOMY_HELP)
    name.change(
        lambda name: gr.Dropdown(choices=list(NAMED[LISTS[name]]), value=None), name, one, api_visibility="private"
    )
    one.input(lambda text: text, one, prompt, api_visibility="private")
