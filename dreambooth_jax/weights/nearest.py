# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A folder that is not there, or is no model: is it a path at all, and what was probably meant?"""

import difflib
from pathlib import Path

from dreambooth_jax.paths import at_home


def is_path(source: str) -> bool:
    """Does it look like a place on this machine, rather than a hub id? Then the hub is not asked.

    ``runs/dgo`` has the form of a hub id, too; where there is a folder ``runs``, it is none.
    """
    if source.startswith((".", "/", "~", "\\")) or Path(source).is_absolute():
        return True
    parts = Path(source).parts
    return len(parts) > 1 and Path(parts[0]).is_dir()


def nearest(source: str) -> str:
    """What to say of a folder that is not there: a name that is like it, or how far its path exists."""
    missing = at_home(source)
    while not missing.parent.is_dir():  # "." and "/" are
        missing = missing.parent
    try:
        names = [entry.name for entry in missing.parent.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {missing.parent / near[0]}?"
    if missing.parent in (Path(), Path(missing.anchor)):
        return ""
    some = ", ".join(sorted(names)[:5]) or "no folder"
    return f"; there is {missing.parent}, which holds {some}{', ...' if len(names) > 5 else ''}"


def no_model(folder: Path) -> str:
    """What a folder is instead of a model, where that can be told; empty where it cannot."""
    if (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir():
        return f"is a run folder: the model that it exported at its end is {folder / 'model'}"
    snapshots = sorted((folder / "snapshots").glob("*"))
    if snapshots and folder.name.startswith("models--"):
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        return f"is the hub's cache of {name}: give that name, or {snapshots[-1]}"
    if any(folder.glob("models--*/snapshots")):
        return "is the hub's cache of several models: give a name such as organisation/name"
    return ""
