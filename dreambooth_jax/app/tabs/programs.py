# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What programs need where people look at the page."""

import asyncio
import time

import gradio as gr

from dreambooth_jax.app.jobs import ACTIVE
from dreambooth_jax.app.people import who
from dreambooth_jax.app.progress import said
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.app.tabs.every import EVERY

LONGEST = 3600.0
"""Seconds of one waiting."""


def build(desk: Desk) -> None:
    """It is not to be seen.

    Args:
        desk: that it asks.
    """

    async def wait(seconds: float = LONGEST, request: gr.Request = None) -> str:  # type: ignore[assignment]
        """How the newest job of whoever asks ended, once it has, or how far it is after so many seconds."""
        until = time.monotonic() + min(seconds, LONGEST)
        while (newest := desk.queue.of(who(request))[-1:]) and newest[0].state in ACTIVE and time.monotonic() < until:
            await asyncio.sleep(EVERY / 4)
        return said(desk.queue, newest[0]) if newest else "nothing was asked for"

    gr.api(wait, api_name="wait", concurrency_limit=32)
