# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The kinds of networks that guide a denoiser by a picture. A new one is a value here and a line in ``KINDS``."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.components import CLIP_VISION, CONTROLNET, T2I_ADAPTER, ComponentKind
from dreambooth_jax.models.configs import UNetConfig, VAEConfig
from dreambooth_jax.models.controlnet import ControlNetConfig
from dreambooth_jax.models.t2i_adapter import T2IAdapterConfig
from dreambooth_jax.pipeline.control import ControlNetGuide, Guide, IPAdapterGuide, T2IAdapterGuide
from dreambooth_jax.pipeline.control_pictures import images_or_embeddings, maps
from dreambooth_jax.size import Size


class ControlKind(NamedTuple):
    """A kind of network.

    Attributes:
        component: how it is stored.
        guide: (module, guess, with_guidance) -> what it does in the program.
        given: (module, a caller's pictures, number of prompts, size in pixels) -> what it is given.
        misfits: configs of it, of a denoiser and of its autoencoder -> a line for each way in which they don't fit.
    """

    component: ComponentKind
    guide: Callable[..., Guide]
    given: Callable[[Any, Any, int, Size], Any]
    misfits: Callable[[Any, UNetConfig, VAEConfig], Iterator[str]]

    @property
    def lies(self) -> bool:
        """Does its picture lie on what is drawn, which has its size where none is told?"""
        return self.given is maps


def _controlnet(module: Any, *, guess: bool, with_guidance: bool) -> Guide:
    guess = guess or module.config.global_pool_conditions
    return ControlNetGuide(module=module, guess=guess, half=guess and with_guidance)


def _controlnet_misfits(config: ControlNetConfig, unet: UNetConfig, vae: VAEConfig) -> Iterator[str]:
    if config.cross_attention_dim != unet.cross_attention_dim:
        yield f"its cross_attention_dim = {config.cross_attention_dim}, the denoiser's {unet.cross_attention_dim}"
    if config.skip_channels != unet.skip_channels:
        yield f"its skip connections have {_listed(config.skip_channels)} channels, {_listed(unet.skip_channels)} there"
    if config.in_channels != vae.latent_channels:
        yield f"its in_channels = {config.in_channels}, latents have {vae.latent_channels}"
    if config.conditioning_channels != 3:
        yield f"its conditioning_channels = {config.conditioning_channels}, pictures have 3"
    if config.downscale != vae.downscale:
        yield f"it reduces pictures {config.downscale} times, the autoencoder {vae.downscale} times"


def _t2i_adapter(module: Any, *, guess: bool, with_guidance: bool) -> Guide:
    _no_guess(guess)
    return T2IAdapterGuide(module=module)


def _no_guess(guess: bool) -> None:
    if guess:
        raise InputError("guess mode is for ControlNets: other networks have none")


def _ip_adapter(module: IPAdapterGuide, *, guess: bool, with_guidance: bool) -> Guide:
    _no_guess(guess)
    return module


def _t2i_adapter_misfits(config: T2IAdapterConfig, unet: UNetConfig, vae: VAEConfig) -> Iterator[str]:
    levels = unet.block_out_channels
    wanted = (*levels, *levels[-1:] * (len(config.channels) - config.blocks))
    if config.channels != wanted:
        yield f"its channels = {_listed(config.channels)}, the denoiser's {_listed(wanted)}"
    if config.in_channels not in (1, 3):
        yield f"its in_channels = {config.in_channels}, pictures have 3, or 1 if they are grey"
    if config.downscale != vae.downscale:
        yield f"it reduces pictures {config.downscale:g} times, the autoencoder {vae.downscale} times"


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


KINDS: dict[str, ControlKind] = {
    "ControlNetModel": ControlKind(CONTROLNET, _controlnet, maps, _controlnet_misfits),
    "T2IAdapter": ControlKind(T2I_ADAPTER, _t2i_adapter, maps, _t2i_adapter_misfits),
}
"""By the ``_class_name`` of their ``config.json``."""

IP_ADAPTER = ControlKind(CLIP_VISION, _ip_adapter, images_or_embeddings, lambda *configs: iter(()))
"""A file of its own, which :func:`~dreambooth_jax.weights.ip_adapter.read_ip_adapter` fits to a denoiser."""


def kind_of(class_name: object, *, where: str) -> ControlKind:
    """The kind of a ``_class_name``; a file that names none is of a ControlNet.

    Raises:
        InputError: for a class that is none of ``KINDS``.
    """
    name = "ControlNetModel" if class_name is None else str(class_name).removeprefix("Flax")
    if name not in KINDS:
        raise InputError(f"{where} is {name}, which guides no denoiser here: give a {' or '.join(KINDS)}")
    return KINDS[name]
