# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Compiled programs are kept: the second run of a kind starts at once.

    $XDG_CACHE_HOME or ~/.cache /dreambooth_jax/compiled/<processor>/

It is JAX's own persistent cache, and JAX's own settings come first: a folder that is configured
(``JAX_COMPILATION_CACHE_DIR``) is used as it is, and ``JAX_ENABLE_COMPILATION_CACHE=false`` turns it off.
"""

import hashlib
import logging
import os
import platform
import tempfile
from pathlib import Path

import jax

log = logging.getLogger(__name__)


def keep_compiled() -> Path | None:
    """Have JAX keep what it compiles from now on, in the user's cache folder.

    For programs that own their process: it changes JAX's configuration. A folder that cannot be written to, as in a
    container without a home, leaves everything as it was.

    Returns:
        The folder, if it was this function that chose it.
    """
    config = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    try:
        folder = user_cache() / "dreambooth_jax" / "compiled" / processor()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:
        log.info("compiled programs are not kept: %s", error)
        return None
    config.update("jax_compilation_cache_dir", str(folder))
    # Small programs too: there are dozens, and to read one takes a tenth of the time that it takes to compile.
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


def user_cache() -> Path:
    """Where the user's programs may keep what can be made again.

    Raises:
        RuntimeError: if there is neither a setting nor a home.
    """
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return Path(chosen) if os.path.isabs(chosen) else Path.home() / ".cache"


def processor() -> str:
    """A name for what this machine's processor can do: what is compiled for one may be illegal on another, and a
    cluster's machines share their home."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    abilities = next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(abilities.encode()).hexdigest()[:8]}"
