# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Who is let in: on this machine alone whoever is here, elsewhere who knows the password."""

import ipaddress
import logging
import os
from collections.abc import Mapping
from typing import NamedTuple

from dreambooth_jax.errors import InputError
from dreambooth_jax.options import AppOptions
from dreambooth_jax.text_files import read_text

log = logging.getLogger(__name__)

VARIABLE = "DREAMBOOTH_JAX_PASSWORD"
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
"""Names that a browser of this machine has for it."""


class Login(NamedTuple):
    """What somebody has to know."""

    user: str
    password: str


def login_of(options: AppOptions, environment: Mapping[str, str] = os.environ) -> Login | None:
    """Who may log in; None if whoever is on this machine may.

    Args:
        options: of the command line.
        environment: whose ``DREAMBOOTH_JAX_PASSWORD`` is the password where ``user`` is told and no password is.

    Raises:
        InputError: if others reach the page without logging in, or half of a login is told.
    """
    password = _password(options, environment)
    if (options.user is None) != (password is None):
        raise InputError(f"user and password belong together: give both, or neither (password_file, or {VARIABLE})")
    if not is_loopback(options.host) and password is None:
        raise InputError(f"host = {options.host!r}: others reach it, so give user and password_file (or {VARIABLE})")
    return Login(options.user, password) if options.user and password else None


def _password(options: AppOptions, environment: Mapping[str, str]) -> str | None:
    if options.password is not None:
        if options.password_file is not None:
            raise InputError("password and password_file say the same twice: leave password out")
        log.warning("password=... is seen by whoever lists processes: use password_file, or %s", VARIABLE)
        return options.password
    if options.password_file is not None:
        first = read_text(options.password_file).partition("\n")[0].strip()
        if not first:
            raise InputError(f"password_file = {options.password_file!r}: its first line is empty")
        return first
    return environment.get(VARIABLE) or None if options.user else None


def is_loopback(host: str) -> bool:
    """Is it an address that this machine alone reaches?"""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_of(host: str) -> list[str]:
    """Names that the page answers to; on this machine alone no others, whatever a stranger's name server says."""
    return [host.lower(), *LOOPBACK] if is_loopback(host) else ["*"]
