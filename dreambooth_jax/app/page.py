# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The page: its tabs, in the order of the work."""

from collections.abc import Callable
from pathlib import Path

import gradio as gr

from dreambooth_jax.app.lifetime import HOUR
from dreambooth_jax.app.limits import limits_of
from dreambooth_jax.app.login import is_loopback
from dreambooth_jax.app.networks import networks_of
from dreambooth_jax.app.offers import offers_of
from dreambooth_jax.app.people import PEOPLE
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.tabs import draw, measure, programs, runs, take_home, train
from dreambooth_jax.options import AppOptions

TABS: dict[str, Callable[[Desk], None]] = {
    "Train": train.build,
    "Draw": draw.build,
    "Runs": runs.build,
    "Measure": measure.build,
    "Take home": take_home.build,
}
"""Name of a tab -> what puts it on the page."""


def page_of(options: AppOptions, queue: Queue) -> gr.Blocks:
    """The page.

    Args:
        options: of the command line.
        queue: that its requests wait in.
    """
    limits, people = limits_of(options), Path(options.folder).absolute() / PEOPLE
    desk = Desk(
        queue,
        people,
        options.configs,
        local=is_loopback(options.host) and options.user is None,
        models=offers_of(options.models),
        networks=networks_of(options.controls, pictures=people),
        limits=limits,
    )
    old = (int(HOUR), int(limits.hours * HOUR)) if limits.hours else None
    with gr.Blocks(title="dreambooth_jax", analytics_enabled=False, delete_cache=old) as page:
        gr.Markdown("# DreamBooth\nPhotos of one subject in, a model that draws it out.")
        with gr.Tabs(
            overflow_behavior="wrap"
        ):  # a menu of those that have no place would be no tabs for a screen reader
            for name, build in TABS.items():
                with gr.Tab(name):
                    build(desk)
        programs.build(desk)
    return page
