# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""One network alone, wherever it comes from: a folder, the hub, a folder of a whole model, or a single file.

A single file with diffusers' names needs the ``config.json`` that lies beside it; of one with the names of the original
code the shapes tell.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.components import CONTROLNET, TAESD_DECODER, TAESD_ENCODER, UNET, VAE, ComponentKind
from dreambooth_jax.models.configs import UNetConfig, VAEConfig
from dreambooth_jax.models.towers import DINO, DINOV2, LPIPS
from dreambooth_jax.paths import at_home
from dreambooth_jax.weights.files import Leaf
from dreambooth_jax.weights.fingerprint import file_fingerprint, files_fingerprint
from dreambooth_jax.weights.folders import locate_module
from dreambooth_jax.weights.json_files import read_json
from dreambooth_jax.weights.layouts import UNET_PREFIX, VAE_PREFIX
from dreambooth_jax.weights.ldm import unet_place, vae_place
from dreambooth_jax.weights.ldm_configs import unet_config, vae_config
from dreambooth_jax.weights.ldm_control import original_controlnet
from dreambooth_jax.weights.single_file import is_single_file, read_single, translated
from dreambooth_jax.weights.sources import Shapes, Table, read_table
from dreambooth_jax.weights.timm_vit import original_vit

BY_SHAPES = "what it should be by its shapes"
AS_OWN = "the network of the model that it is for"
Original = Callable[[Mapping[str, Leaf]], "tuple[dict[str, Any], Callable[[Shapes], dict[str, Leaf]]] | None"]


@dataclass(frozen=True, kw_only=True)
class ModuleSource:
    """A network before its weights are read.

    Attributes:
        config: what its ``config.json`` says, or would say.
        file: that errors about the configuration are to name.
        read: shapes of its parameters, by our names -> its table.
        fingerprint: of the files that are read.
        is_original: whether the configuration is told by shapes, which leave some things open.
    """

    config: Mapping[str, Any]
    file: Path
    read: Callable[[Shapes], Table]
    fingerprint: Callable[[], str]
    is_original: bool = False


def open_module(
    source: str | Path,
    kind: ComponentKind,
    *,
    component: str = "",
    revision: str | None = None,
    variant: str | None = None,
    weights: bool = True,
    bare: bool = False,
) -> ModuleSource:
    """Find a network and read what it says of itself.

    Args:
        source: folder with a ``config.json`` and weights, a hub id, or a single file.
        kind: of network.
        component: its folder in a whole model, which ``source`` may be, too.
        revision: the hub's branch, tag or commit.
        variant: weight files to prefer, such as fp16.
        weights: whether weights must be there, too.
        bare: whether a single file may say nothing of itself, and have diffusers' names.

    Raises:
        InputError: if there is no such network, or what it says is missing or broken.
    """
    place = at_home(source)
    if is_single_file(place):
        return _of_file(place, kind, bare=bare)
    if component and (place / component / "config.json").is_file():
        source = place / component
    folder, file = locate_module(str(source), kind, revision=revision, variant=variant, weights=weights)
    settings = folder / "config.json"
    config = read_json(settings)
    if "architecture" in config and kind in ORIGINALS and file.suffix == ".safetensors":  # timm's, which says its name
        return _of_file(file, kind)
    return ModuleSource(
        config=config,
        file=settings,
        read=lambda shapes: Table(read_table(file), file),
        fingerprint=lambda: files_fingerprint(settings, file),
    )


def _of_file(file: Path, kind: ComponentKind, *, bare: bool = False) -> ModuleSource:
    leaves, _ = read_single(file)
    try:
        original = ORIGINALS[kind](leaves) if kind in ORIGINALS else None
    except InputError as error:
        raise InputError(f"{file} holds no {kind.library_class[1]} that we know: {error}") from error
    if original is not None:
        config, translate = original
        return ModuleSource(
            config=config,
            file=file,
            read=lambda shapes: Table(translate(shapes), file, BY_SHAPES),
            fingerprint=lambda: file_fingerprint(file, ()),
            is_original=True,
        )
    settings = file.parent / "config.json"
    if bare and not settings.is_file():
        return ModuleSource(
            config={},
            file=file,
            read=lambda shapes: Table(leaves, file, AS_OWN),
            fingerprint=lambda: file_fingerprint(file, ()),
            is_original=True,
        )
    if not settings.is_file():
        raise InputError(
            f"{file} holds no {kind.library_class[1]} that its names tell, and there is no config.json beside it: "
            "give a folder in the diffusers layout"
        )
    return ModuleSource(
        config=read_json(settings),
        file=settings,
        read=lambda shapes: Table(leaves, file),
        fingerprint=lambda: files_fingerprint(settings, file),
    )


def _original_unet(
    leaves: Mapping[str, Leaf],
) -> tuple[dict[str, Any], Callable[[Shapes], dict[str, Leaf]]] | None:
    """A denoiser of the original code, alone or in the file of a whole model."""
    within = {name: leaf for name, leaf in leaves.items() if name.startswith(UNET_PREFIX)}
    mine = within or {UNET_PREFIX + name: leaf for name, leaf in leaves.items()}
    if not any(name.startswith(f"{UNET_PREFIX}output_blocks.") for name in mine):
        return None
    config = unet_config({name.removeprefix(UNET_PREFIX): leaf.shape for name, leaf in mine.items()})
    read = UNetConfig.from_json(config)
    return config, lambda shapes: translated(mine, shapes, read, unet_place, prefix=UNET_PREFIX)


def _original_vae(
    leaves: Mapping[str, Leaf],
) -> tuple[dict[str, Any], Callable[[Shapes], dict[str, Leaf]]] | None:
    """An autoencoder of the original code, alone or in the file of a whole model."""
    within = {name: leaf for name, leaf in leaves.items() if name.startswith(VAE_PREFIX)}
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    mine = within or {VAE_PREFIX + name: leaf for name, leaf in leaves.items() if name.startswith(parts)}
    if not any(name.startswith(f"{VAE_PREFIX}encoder.down.") for name in mine):
        return None
    config = vae_config({name.removeprefix(VAE_PREFIX): leaf.shape for name, leaf in mine.items()})
    read = VAEConfig.from_json(config)
    return config, lambda shapes: translated(mine, shapes, read, vae_place, prefix=VAE_PREFIX)


def _original_taesd(half: str) -> Original:
    """A half of the tiny autoencoder: a plain list of layers, the decoder's with a clamp in front."""
    first = {"encoder": 0, "decoder": 1}[half]

    def look(leaves: Mapping[str, Leaf]) -> tuple[dict[str, Any], Callable[[Shapes], dict[str, Leaf]]] | None:
        named = {}
        for name, leaf in leaves.items():
            number, _, rest = name.removeprefix(f"taesd_{half}.").partition(".")
            if not number.isdecimal() or int(number) < first:
                return None
            named[f"layers.{int(number) - first}.{rest}"] = leaf
        widths = {name: leaf.shape for name, leaf in named.items() if re.fullmatch(r"layers\.\d+\.weight", name)}
        ends = sorted(int(name.split(".")[1]) for name in widths)
        if len(ends) < 2 or any(len(shape) != 4 for shape in widths.values()):
            return None
        shapes = [widths[f"layers.{number}.weight"] for number in ends]
        # between two convolutions lie blocks; in the decoder also a rectifier at the start, and changes of size
        blocks = [after - before - 1 for before, after in pairwise(ends)]
        if half == "decoder":
            blocks = [count - (stage == 0) - (stage < len(blocks) - 1) for stage, count in enumerate(blocks)]
        outer, inner = ("latent_channels", "in_channels") if half == "encoder" else ("out_channels", "latent_channels")
        config = {
            "_class_name": "AutoencoderTiny",
            f"{half}_block_out_channels": [shape[1] for shape in shapes[1:]],
            f"num_{half}_blocks": blocks,
            inner: shapes[0][1],
            outer: shapes[-1][0],
        }
        return config, lambda shapes: named

    return look


def _original_lpips(
    leaves: Mapping[str, Leaf],
) -> tuple[dict[str, Any], Callable[[Shapes], dict[str, Leaf]]] | None:
    """What the package lpips has in memory: the first convolution tells the classifier."""
    first = leaves.get("net.slice1.0.weight")
    if first is None or "lin0.model.1.weight" not in leaves:
        return None
    return {"net": "alex" if first.shape[2:] == (11, 11) else "vgg"}, lambda shapes: dict(leaves)


ORIGINALS: Mapping[ComponentKind, Original] = {
    CONTROLNET: original_controlnet,
    UNET: _original_unet,
    VAE: _original_vae,
    DINO: original_vit,
    DINOV2: original_vit,
    LPIPS: _original_lpips,
    TAESD_ENCODER: _original_taesd("encoder"),
    TAESD_DECODER: _original_taesd("decoder"),
}
"""Kinds of networks that files of the original code hold: arrays -> configuration and translation, or None."""
