# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A picture that guides by a network that is offered (ControlNet and its like): kept as a file of our own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from dreambooth_jax.app.networks import Network
from dreambooth_jax.app.requests.start import of_area, told_size
from dreambooth_jax.app.uploads import Bounds, read
from dreambooth_jax.cli.controls import Told, write_control
from dreambooth_jax.data.control_maps import MAPS
from dreambooth_jax.data.images import CENTER, cut
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.controls import check_amount
from dreambooth_jax.size import Size

AS_IT_IS = ""
"""What is made of a picture that is a map already."""
MOST_GUIDES = 2


@dataclass(frozen=True, kw_only=True)
class Guiding:
    """What the page sends.

    Attributes:
        network: name of one that is offered.
        picture: a file where the server has put it, or its bytes; None where there is none.
        map: one of ``MAPS``, which is made of the picture, or ``AS_IT_IS``.
        scale: how much it counts.
        start, end: the share of the run that it counts in.
        guess: let the picture alone decide.
    """

    network: str = ""
    picture: Path | bytes | None = None
    map: str = AS_IT_IS
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess: bool = False


class Opened(NamedTuple):
    """What was sent, checked and decoded.

    Attributes:
        sent: what was sent.
        network: that is meant.
        picture: RGB.
    """

    sent: Guiding
    network: Network
    picture: Image.Image


def opened(sent: Sequence[Guiding], networks: Mapping[str, Network], bounds: Bounds) -> list[Opened]:
    """Check and decode what is sent.

    Args:
        sent: what is sent.
        networks: that are offered.
        bounds: of each file.

    Raises:
        InputError: for a network or a map that is not offered, a picture that is none or too large, or numbers that
            no control has.
    """
    if len(sent) > MOST_GUIDES:
        raise InputError(f"{len(sent)} networks are to guide: at most {MOST_GUIDES}")
    return [_opened(one, networks, bounds) for one in sent]


def _opened(sent: Guiding, networks: Mapping[str, Network], bounds: Bounds) -> Opened:
    if not sent.network:
        raise InputError("there is a picture that guides, but no network: choose one, or remove the picture")
    if sent.network not in networks:
        raise InputError(f"the network {sent.network[:40]!r} is not offered here: {', '.join(networks) or 'none is'}")
    if sent.map and sent.map not in MAPS:
        raise InputError(f"a picture is made a map by {', '.join(MAPS)}, not {sent.map[:40]!r}")
    check_amount(sent.scale, sent.start, sent.end)
    if sent.picture is None:
        raise InputError(f"{sent.network} guides by a picture, but there is none: load it")
    return Opened(sent, networks[sent.network], read(sent.picture, "the picture that guides", bounds))


def keep(
    guides: Sequence[Opened], folder: Path, *, size: Size, told: Mapping[str, Any], most_side: int
) -> dict[str, Any]:
    """Keep pictures that guide, and say so to ``sample``.

    Args:
        guides: the pictures.
        folder: for ``guide_1.png`` and so on; it is made.
        size: that the model was made for: pictures are reduced or enlarged to its area.
        told: the other settings.
        most_side: pixels of the longest side that is drawn.

    Returns:
        ``control``; and the size that is drawn, where the first map says it: where no picture to begin with does.

    Raises:
        InputError: if more would be drawn than may be.
    """
    if not guides:
        return {}
    lying = [one.picture for one in guides if one.network.lies and "image" not in told]
    drawn = _drawn(_size(lying[0]), size, told, most_side) if lying else None
    folder.mkdir(parents=True, exist_ok=True)
    texts = []
    for number, one in enumerate(guides, 1):
        file = folder / f"guide_{number}.png"
        kept = drawn if drawn and one.network.lies else of_area(_size(one.picture), size, most_side)
        Image.fromarray(cut(one.picture, size=kept, view=CENTER)).save(file)
        texts.append(_text(one, file))
    return {"control": tuple(texts)} | (drawn._asdict() if drawn else {})


def _drawn(own: Size, size: Size, told: Mapping[str, Any], most_side: int) -> Size:
    return told_size(own, told, most_side) or of_area(own, size, most_side)


def _size(picture: Image.Image) -> Size:
    return Size(picture.height, picture.width)


def _text(one: Opened, file: Path) -> str:
    sent = one.sent
    told = Told(one.network.path, str(file), sent.map or None, sent.guess, sent.scale, sent.start, sent.end)
    return write_control(told, tuple(MAPS))
