# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Networks that guide by a picture, which whoever serves the page offers: ControlNets, T2I-Adapters, IP-Adapters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth_jax.app.offers import named
from dreambooth_jax.cli.controls import Told, write_control
from dreambooth_jax.data.control_maps import MAPS
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.controls import kind_at


@dataclass(frozen=True)
class Network:
    """A network that guides.

    Attributes:
        path: folder, single file or hub id.
        lies: does its picture lie on what is drawn, as maps do?
    """

    path: str
    lies: bool


def networks_of(controls: Sequence[str], *, pictures: Path) -> dict[str, Network]:
    """Name -> network.

    Args:
        controls: ``NAME=NETWORK`` or ``NETWORK``, whose name is then the last part of its own.
        pictures: folder in which pictures for them will lie.

    Raises:
        InputError: if one cannot be had, or ``sample`` cannot be told of it, or two have one name.
    """
    found: dict[str, Network] = {}
    for name, path in named("controls", controls).items():
        try:
            write_control(Told(path, str(pictures), None, False, 1.0, 0.0, 1.0), tuple(MAPS))
            found[name] = Network(path, kind_at(path).lies)
        except InputError as error:
            raise InputError(f"controls: {name}: {error}") from None
    return found
