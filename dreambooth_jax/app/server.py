# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Serving the page: on this machine alone unless whoever comes must log in, and nothing is asked of other machines."""

import asyncio
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from dreambooth_jax.app.lifetime import forget
from dreambooth_jax.app.limits import limits_of
from dreambooth_jax.app.login import Login, login_of, names_of
from dreambooth_jax.app.look import CSS, HEAD, readable_theme
from dreambooth_jax.app.people import COOKIE, PEOPLE, SERVED, new_token
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.options import AppOptions

TICK = 0.5
"""Seconds between two looks at the queue."""
TIDY = 600.0
"""Seconds between two looks for what is to be forgotten."""
LARGEST_UPLOAD = "20mb"


def serve(options: AppOptions) -> None:
    """Serve until Ctrl-C; what runs then goes on, and is there when the page is.

    Raises:
        InputError: if it would be open to everybody, or there are no such settings.
    """
    login = login_of(options)
    import uvicorn

    limits, folder = limits_of(options), Path(options.folder).absolute()
    queue = Queue(folder / "jobs", most=limits.jobs, whole=limits.queue)
    server = app_of(options, queue, login)
    over = threading.Event()

    def turn() -> None:
        while not over.wait(TICK):
            with suppress(OSError):  # a full disk: the next time it may not be
                queue.tick()

    def tidy() -> None:
        while limits.hours is not None and not over.wait(TIDY):
            with suppress(OSError):  # somebody removes what is old, too
                forget(queue, folder / PEOPLE, hours=limits.hours)

    for work in (turn, tidy):
        threading.Thread(target=work, daemon=True).start()
    print(f"http://{options.host}:{options.port}", flush=True)
    try:
        uvicorn.run(server, host=options.host, port=options.port, log_level="warning")
    finally:
        over.set()


def app_of(options: AppOptions, queue: Queue, login: Login | None = None) -> Any:
    """The page as an ASGI application.

    Args:
        options: of the command line.
        queue: that its requests wait in.
        login: of whom it lets in; by default whoever reaches it.
    """
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from dreambooth_jax.app.told import OnlyToWhomTold

    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    cache = Path(options.folder).absolute() / SERVED
    os.environ["GRADIO_TEMP_DIR"] = str(cache)

    async def made() -> Any:  # where no event loop runs, Gradio opens one for each of its locks, and closes none
        return _mounted(options, queue, login)

    page = OnlyToWhomTold(asyncio.run(made()), cache)
    return TrustedHostMiddleware(_with_cookie(page), allowed_hosts=names_of(options.host), www_redirect=False)


def _mounted(options: AppOptions, queue: Queue, login: Login | None) -> Any:
    import gradio
    from fastapi import FastAPI

    from dreambooth_jax.app.page import page_of

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = page_of(options, queue)
    page.run_history = False
    page.queue(max_size=64, default_concurrency_limit=4)
    return gradio.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=options.host,
        server_port=options.port,
        auth=tuple(login) if login else None,
        show_error=False,
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
        theme=readable_theme(),
        head=HEAD,
        css=CSS,
    )


def _with_cookie(app: Any) -> Any:
    """The same application, which gives a browser or a program that comes for the first time its cookie."""

    async def known(scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"set-cookie", _cookie())]
            await send(message)

        first = scope["type"] == "http" and scope["path"] in ("/", "/config") and not _has_cookie(scope)
        await app(scope, receive, sent if first else send)

    return known


def _has_cookie(scope: Any) -> bool:
    return any(name == b"cookie" and f"{COOKIE}=".encode() in value for name, value in scope["headers"])


def _cookie() -> bytes:
    return f"{COOKIE}={new_token()}; Max-Age=31536000; Path=/; HttpOnly; SameSite=strict".encode()
