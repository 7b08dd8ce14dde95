# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Serving the page: on this machine alone unless whoever comes must log in, and nothing is asked of other machines."""

import ipaddress
import os
import threading
from pathlib import Path
from typing import Any

from dreambooth_jax.app.people import COOKIE, new_token
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import AppOptions

TICK = 0.5
"""Seconds between two looks at the queue."""
LARGEST_UPLOAD = "20mb"


def check_open(options: AppOptions) -> None:
    """Is nobody let in who should not be?

    Raises:
        InputError: if others reach the page without logging in, or half of a login is told.
    """
    if (options.user is None) != (options.password is None):
        raise InputError("user and password belong together: give both, or neither")
    if not _is_loopback(options.host) and options.password is None:
        raise InputError(f"host = {options.host!r}: others reach it, so give user and password too")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(options: AppOptions) -> None:
    """Serve until Ctrl-C; what runs then goes on, and is there when the page is.

    Raises:
        InputError: if it would be open to everybody, or there are no such settings.
    """
    check_open(options)
    import uvicorn

    queue = Queue(Path(options.folder).absolute() / "jobs", most=options.most_jobs)
    server = app_of(options, queue)
    over = threading.Event()

    def turn() -> None:
        while not over.wait(TICK):
            queue.tick()

    threading.Thread(target=turn, daemon=True).start()
    print(f"http://{options.host}:{options.port}", flush=True)
    try:
        uvicorn.run(server, host=options.host, port=options.port, log_level="warning")
    finally:
        over.set()


def app_of(options: AppOptions, queue: Queue) -> Any:
    """The page as an ASGI application."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    cache = Path(options.folder).absolute() / "cache"
    os.environ["GRADIO_TEMP_DIR"] = str(cache)
    import gradio
    from fastapi import FastAPI

    from dreambooth_jax.app.page import page_of
    from dreambooth_jax.app.told import OnlyToWhomTold

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    page = page_of(options, queue)
    page.run_history = False
    page.queue(max_size=64, default_concurrency_limit=4)
    login = (options.user, options.password) if options.user and options.password else None
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    mounted = gradio.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=options.host,
        server_port=options.port,
        auth=login,
        show_error=False,
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
        theme=gradio.themes.Default(**fonts),
    )
    return _with_cookie(OnlyToWhomTold(mounted, cache))


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
