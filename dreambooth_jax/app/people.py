# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Who asks: a cookie tells one browser from another, and what it has is in a folder of its own."""

import hashlib
import re
import secrets
from typing import Any

COOKIE = "dreambooth_jax"
PEOPLE = "people"
"""Folder with a folder for each of them."""
SERVED = "cache"
"""Folder beside it of what is sent and fetched, each in a folder of its own."""
_TOKEN = re.compile(r"[0-9a-f]{32}")


def new_token() -> str:
    """A value of the cookie, which nobody guesses."""
    return secrets.token_hex(16)


def token_of(cookies: Any) -> str:
    """The value of the cookie; empty without a proper one."""
    token = cookies.get(COOKIE, "") if cookies else ""
    return token if _TOKEN.fullmatch(token) else ""


def owner_of(cookies: Any, session: str | None) -> str:
    """A name for whoever has this cookie; without a proper one, for the session, or for this once."""
    known = token_of(cookies) or f"session {session or new_token()}"
    return hashlib.sha256(known.encode()).hexdigest()[:24]


def who(request: Any) -> str:
    """The owner that a request of Gradio comes from."""
    return owner_of(request.cookies, request.session_hash)
