# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files are for those whom the page told of them: knowing the name of another's photo or model opens nothing.

Gradio keeps uploads and results of everybody in one folder and serves a file to whoever names it. This stands before
it, notes the places that answers tell somebody of, and refuses all others: to fetch, and to work with.
"""

import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from starlette.requests import HTTPConnection

from dreambooth_jax.app.claims import Claims, names_in
from dreambooth_jax.app.people import token_of

API = "/gradio_api/"
_FILE = re.compile(rf"{API}(?:file=|file/|proxy=)(.*)", re.DOTALL)
_PLACE = re.compile(rb'"path": ?"([^"\\]+)"')
"""Of a file, in an answer. Quotation marks within a text have a backslash before them: no echo looks like this."""
_EVENT = re.compile(rb'"event_id": ?"(\w+)"')
MOST_PLACES = 100_000
LARGEST_REQUEST = 8_000_000
"""Bytes of what an event is given; files are sent apart."""
LARGEST_UPLOAD = 250_000_000
"""Bytes of all files that are sent at once."""


class OnlyToWhomTold:
    """An ASGI application behind a guard.

    Args:
        app: Gradio's.
        cache: folder in which it keeps files, each in a folder of its own.
    """

    def __init__(self, app: Any, cache: Path):
        self._app, self._cache = app, os.path.abspath(cache)
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._claims = Claims()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] != "http" or not scope["path"].startswith(API):
            return await self._app(scope, receive, send)
        who = token_of(HTTPConnection(scope).cookies)  # all who have none are one
        fetched = _FILE.match(scope["path"])
        if fetched:
            if self._may(who, fetched[1]):
                return await self._app(scope, receive, send)
            return await _refuse(send, 403, "there is no such file of yours")
        asked: Any = None
        if scope["path"].startswith(f"{API}upload"):
            length = HTTPConnection(scope).headers.get("content-length", "")
            if scope["method"] == "POST" and not length.isdecimal():
                return await _refuse(send, 411, "say how long it is")
            if int(length or 0) > LARGEST_UPLOAD:
                return await _refuse(send, 413, f"more than {LARGEST_UPLOAD} bytes at once")
        elif scope["method"] == "POST":
            body = await _body(receive)
            if body is None:
                return await _refuse(send, 413, f"more than {LARGEST_REQUEST} bytes")
            try:
                asked = json.loads(body)
            except RecursionError:
                return await _refuse(send, 400, "too many brackets")
            except ValueError:
                asked = None  # no JSON: it names nothing
            if not all(self._may(who, place) for place in _places(asked)):
                return await _refuse(send, 403, "there is no such file of yours")
            receive = _again(body, receive)
        if not all(self._claims.may(who, name) for name in names_in(scope["path"], scope["query_string"], asked)):
            return await _refuse(send, 403, "that is not of yours")
        await self._app(scope, receive, self._noting(who, scope["path"], send))

    def _may(self, who: str, place: str) -> bool:
        return (who, self._own(place)) in self._told

    def _own(self, place: str) -> str:
        """Folder of the cache that a file is in; empty for one that is elsewhere."""
        parts = os.path.relpath(os.path.abspath(place.replace("\0", "")), self._cache).split(os.sep)
        return parts[0] if len(parts) > 1 and parts[0] != os.pardir else ""

    def _note(self, who: str, place: str) -> None:
        if own := self._own(place):
            self._told[who, own] = None
            self._told.move_to_end((who, own))
            if len(self._told) > MOST_PLACES:
                self._told.popitem(last=False)

    def _noting(self, who: str, path: str, send: Any) -> Any:
        """The same, which reads along."""

        async def noted(message: Any) -> None:
            body = message.get("body", b"")
            if path.startswith(f"{API}upload") and body.startswith(b"["):
                for place in json.loads(body):
                    self._note(who, place)
            for event in _EVENT.findall(body):
                self._claims.may(who, event.decode())
            for place in _PLACE.findall(body):
                self._note(who, place.decode(errors="replace"))
            await send(message)

        return noted


def _places(asked: Any) -> Iterator[str]:
    """All files that a request names."""
    waiting = [asked]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if isinstance(value.get("path"), str):
                yield value["path"]
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


async def _body(receive: Any) -> bytes | None:
    """All of it; None if it is too long."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LARGEST_REQUEST:
            return None
    return body


def _again(body: bytes, receive: Any) -> Any:
    """What gives a body that was read once more."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Any:
        return left.pop() if left else await receive()

    return given


async def _refuse(send: Any, status: int, why: str) -> None:
    body = json.dumps({"detail": why}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
