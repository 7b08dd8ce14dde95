# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Controls on the command line: ``[MAP:][guess:]NETWORK:PICTURE[:SCALE[:START[:END]]]``.

--control canny:lllyasviel/control_v11p_sd15_canny:photo.jpg:0.8
--control networks/depth:depth.png:1:0:0.6
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dreambooth_jax.errors import InputError

if TYPE_CHECKING:
    from dreambooth_jax.pipeline import Control, Pipeline

FORM = "[MAP:][guess:]NETWORK:PICTURE[:SCALE[:START[:END]]]"


class Told(NamedTuple):
    """What a text says."""

    network: str
    picture: str
    map: str | None
    guess: bool
    scale: float
    start: float
    end: float


def read_control(text: str, maps: Sequence[str]) -> Told:
    """What a text in :data:`FORM` says.

    Args:
        text: of the command line.
        maps: known names of maps.

    Raises:
        InputError: if it has another form.
    """
    parts = re.split(r":(?!\\)", text)  # C:\ is no separator
    words = []
    while parts and parts[0] in (*maps, "guess"):
        words.append(parts.pop(0))
    names, numbers = parts[:2], parts[2:]
    found = [word for word in words if word != "guess"]
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        values = [0.0] * 4
    if len(names) < 2 or not all(names) or len(values) > 3 or len(found) > 1:
        raise InputError(f"control = {text!r}: must be {FORM}; maps are {', '.join(maps)}")
    scale, start, end = [*values, *(1.0, 0.0, 1.0)[len(values) :]]
    network, picture = names
    return Told(network, picture, found[0] if found else None, "guess" in words, scale, start, end)


def write_control(told: Told, maps: Sequence[str]) -> str:
    """The text that says this.

    Args:
        told: what it is to say.
        maps: known names of maps.

    Raises:
        InputError: if no text does: its network or picture has a colon in its name, or the name of a map.
    """
    words = [*([told.map] if told.map else []), *(["guess"] if told.guess else [])]
    numbers = [repr(float(number)) for number in (told.scale, told.start, told.end)]
    text = ":".join([*words, told.network, told.picture, *numbers])
    try:
        understood = read_control(text, maps) == told
    except InputError:
        understood = False
    if not understood:
        raise InputError(f"{told.network!r} and {told.picture!r}: no colon, and no name of a map, may be in their way")
    return text


def open_controls(texts: Sequence[str], pipe: "Pipeline") -> list["Control"]:
    """Networks and pictures of the command line, read, for a pipeline.

    Raises:
        InputError: if one is not there, or does not fit.
    """
    import numpy as np

    from dreambooth_jax.data.control_maps import MAPS
    from dreambooth_jax.data.images import decode
    from dreambooth_jax.pipeline import Control, load_control

    controls: list[Control] = []
    models: dict[str, Any] = {}
    for text in texts:
        told = read_control(text, tuple(MAPS))
        picture = np.asarray(decode(told.picture))
        picture = MAPS[told.map](picture) if told.map else picture
        if told.network not in models:
            models[told.network] = load_control(told.network, pipe)
        controls.append(Control(models[told.network], picture, told.scale, told.start, told.end, guess=told.guess))
    return controls
