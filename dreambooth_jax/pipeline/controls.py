# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Controls as a caller gives them: a network that looks at a picture, the picture, and how much and when it counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dreambooth_jax.data.pictures import Picture, Source, read_pictures
from dreambooth_jax.errors import InputError
from dreambooth_jax.models.components import CLIP_VISION, CONTROLNET, UNET
from dreambooth_jax.paths import at_home
from dreambooth_jax.pipeline.arguments import check
from dreambooth_jax.pipeline.control import IPAdapterGuide, weights_of_rows
from dreambooth_jax.pipeline.control_kinds import IP_ADAPTER, ControlKind, kind_of
from dreambooth_jax.pipeline.generate import Networks, Rows, Shared
from dreambooth_jax.pipeline.model import Model
from dreambooth_jax.size import Size
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.ip_adapter import is_ip_adapter, read_ip_adapter
from dreambooth_jax.weights.modules import parameter_shapes
from dreambooth_jax.weights.pretrained import Place, load_module
from dreambooth_jax.weights.single_file import is_single_file
from dreambooth_jax.weights.single_module import open_module


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlModel:
    """A network that guides a denoiser, read by :func:`load_control`."""

    kind: ControlKind
    module: Any
    params: Tree
    name: str
    """Where it was read from."""


@dataclass(frozen=True, eq=False)
class Control:
    """A network, a picture for it, and how much and when it counts.

    Attributes:
        model: of :func:`load_control`.
        image: a file, a Pillow picture, or an array [h, w, 3] of uint8, or of real numbers in [0, 1]; or one for each
            prompt. A map as the network knows it (edges, depth, scribbles), no photo; it is resized to what is drawn.
        scale: times what it adds; 0 is none.
        start, end: the share of the run that it counts in: of n calls of the denoiser, call i if i / n ≥ start and
            (i + 1) / n ≤ end. A ControlNet is not run at others.
        guess: let the picture alone decide, of a ControlNet: it is added to the prompt's half alone and less the finer
            it is. Usual with a guidance scale from 3 to 5 and without a prompt.
    """

    model: ControlModel
    image: Source | Sequence[Source]
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    guess: bool = False

    def __post_init__(self) -> None:
        known = isinstance(self.model, ControlModel)
        check("control", type(self.model).__name__, known, "must be what load_control returns")
        check_amount(self.scale, self.start, self.end)

    def about(self) -> dict[str, Any]:
        """All but the picture, for metadata."""
        return {"model": self.model.name, "scale": self.scale, "start": self.start, "end": self.end} | (
            {"guess": True} if self.guess else {}
        )


def check_amount(scale: float, start: float, end: float) -> None:
    """Can a control count so much, and then?

    Args:
        scale, start, end: of a :class:`Control`.

    Raises:
        InputError: if not.
    """
    check("control scale", scale, bool(np.isfinite(scale)), "must be a finite number")
    check("control start and end", (start, end), 0 <= start < end <= 1, "must be from 0 to 1, start before end")


def kind_at(source: str | Path, *, revision: str | None = None, variant: str | None = None) -> ControlKind:
    """The kind of a network that :func:`load_control` would read; of the hub no weights are fetched for it.

    Raises:
        InputError: if there is no such network, or it is of no kind that we know.
    """
    file = at_home(str(source))
    if is_single_file(file) and is_ip_adapter(file):
        return IP_ADAPTER
    # the kinds' configurations have names in common: which kind it is, the first tells
    found = open_module(source, CONTROLNET, revision=revision, variant=variant, weights=False)
    return kind_of(found.config.get("_class_name"), where=str(source))


def load_control(
    source: str | Path,
    pipe: Model,
    *,
    image_encoder: str | Path | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> ControlModel:
    """Read a network that guides a pipeline: onto its devices, in its dtype.

    Args:
        source: folder or hub id of a ControlNet or T2I-Adapter in the diffusers layout, or a single file: of an
            IP-Adapter, or of a ControlNet as A1111 and ComfyUI keep it.
        pipe: the model that it is to guide.
        image_encoder: of an IP-Adapter: folder of CLIP's in transformers' layout, by default ``image_encoder`` beside
            the file. Without one, embeddings are given in the place of pictures.
        revision: the hub's branch, tag or commit.
        variant: weight files to prefer, such as fp16.

    Raises:
        InputError: if there is no such network, it asks for something we don't have, or does not fit the pipeline.
    """
    how: dict[str, Any] = {"dtype": pipe.unet.dtype, "arch": pipe.target.arch}
    whole = NamedSharding(pipe.target.mesh, PartitionSpec())

    def place(name: str, array: np.ndarray) -> jax.Array:
        del name
        return jax.device_put(array, whole)

    kind = kind_at(source, revision=revision, variant=variant)
    if kind is IP_ADAPTER:
        return _load_ip_adapter(at_home(str(source)), pipe, image_encoder, place, **how)
    check("image_encoder", str(image_encoder), image_encoder is None, "only an IP-Adapter has one")
    module, params = load_module(source, kind.component, place, revision=revision, variant=variant, **how)
    for misfit in kind.misfits(module.config, pipe.unet.config, pipe.vae.config):
        raise InputError(f"{source} does not fit {pipe.components.folder}: {misfit}")
    return ControlModel(kind=kind, module=module, params=params, name=str(source))


def _load_ip_adapter(
    file: Path, pipe: Model, image_encoder: str | Path | None, place: Place, **how: Any
) -> ControlModel:
    found = read_ip_adapter(file, parameter_shapes(UNET, pipe.unet), place=place, **how)
    beside = file.parent / "image_encoder"
    folder = image_encoder or (beside if beside.is_dir() else None)
    encoder, params = None, found.params
    if folder is not None:
        encoder, params["encoder"] = load_module(folder, CLIP_VISION, place, **how)
        width = encoder.config.hidden_size if found.of_states else encoder.config.projection_dim
        same = f"{folder} makes {width} features of an image, {file} takes {found.width}"
        if width != found.width:
            raise InputError(f"{same}: most take CLIP ViT-H/14's, ip-adapter_sdxl ViT-bigG/14's")
    elif found.of_states:
        raise InputError(f"{file} needs an image encoder, which is not there: {beside}")
    guide = IPAdapterGuide(projection=found.projection, encoder=encoder, of_states=found.of_states, width=found.width)
    return ControlModel(kind=IP_ADAPTER, module=guide, params=params, name=str(file))


def controls_of(control: "Control | Sequence[Control] | None") -> tuple[Control, ...]:
    """One, several or none, as a tuple."""
    controls = (control,) if isinstance(control, Control) else tuple(control or ())
    fine = all(isinstance(one, Control) for one in controls)
    check("control", [type(one).__name__ for one in controls], fine, "must be a Control, or several")
    return controls


def first_map(controls: Sequence[Control]) -> Picture | None:
    """The first picture that lies on what is drawn, whose size is drawn where none is told."""
    lying = [one.image for one in controls if one.model.kind.lies]
    return read_pictures(lying[0], name="control image")[0] if lying else None


Program: TypeAlias = tuple[tuple[Networks, bool], Shared, Rows, Tree]
"""What is compiled in, what pictures share, what each has of its own, and parameters."""


def guided_by(controls: Sequence[Control], program: Program, *, factor: int) -> Program:
    """The program that makes the same pictures, guided by controls.

    Args:
        controls: without any it is the same program.
        program: without them.
        factor: pixels per latent, along one side.
    """
    if not controls:
        return program
    (networks, with_guidance), shared, rows, params = program
    count, height, width, _ = rows.latents.shape
    models = [one.model for one in controls]
    guides = tuple(
        model.kind.guide(model.module, guess=one.guess, with_guidance=with_guidance)
        for one, model in zip(controls, models)
    )
    weights = weights_of_rows(
        [one.scale for one in controls],
        [(one.start, one.end) for one in controls],
        length=int(shared.table.length),
        size=len(shared.table.rows.t),
    )
    size = Size(factor * height, factor * width)
    return (
        (networks._replace(guides=guides), with_guidance),
        shared._replace(weights=weights),
        rows._replace(given=tuple(one.model.kind.given(one.model.module, one.image, count, size) for one in controls)),
        {**params, "guides": tuple(model.params for model in models)},
    )
