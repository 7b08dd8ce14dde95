# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Everything that can be chosen, with the values for one big GPU, as in ``configs/embedded_pretrain.yaml``.

``configs/embedded_pretrain_cpu.yaml`` holds what differs where there are two CPU cores.
"""

from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse import ArgumentParser

from .compose import Grammar
from .fit import Stage


@dataclass(frozen=True, kw_only=True)
class Data:
    """The corpus."""

    count: int = 400_000
    """Pictures."""
    nouns: tuple[str, ...] = ()
    """Classes to draw; none named means all."""
    styles: tuple[str, ...] = ()
    """Likewise."""
    tokens: int = 2000
    """At most so many entries of the vocabulary."""
    respelt: int = 8
    """Every so manieth caption is spelt in smaller pieces, so that these learn something too."""


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """Its shape and its stage. A latent is 2^(channels - 1) pixels wide."""

    channels: tuple[int, ...] = (32, 64, 128)
    groups: int = 16
    kl_weight: float = 2e-3
    stage: Stage = field(default_factory=lambda: Stage(steps=8_000, batch_size=256, learning_rate=4e-3))


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """The shapes of UNet and text encoder, and their stage."""

    channels: tuple[int, ...] = (64, 128, 192)
    """Of the UNet's levels; the first has no attention."""
    layers: int = 1
    heads: int = 4
    groups: int = 16
    text_width: int = 128
    text_layers: int = 3
    prediction_type: str = "v_prediction"
    empty_captions: float = 0.1
    stage: Stage = field(
        default_factory=lambda: Stage(
            steps=20_000, batch_size=512, learning_rate=4e-3, ema_decay=0.9995, show_every=2_500
        )
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One pretraining."""

    sprites: Path
    """Folder with sprites.parquet, ATTRIBUTION.txt and LICENCES."""
    work: Path
    """Folder for the corpus, checkpoints, logs and sample grids; the same command again goes on from them."""
    output: Path
    """The finished model folder."""
    remark: str = "It was trained in full, on one GPU."
    """For the model card: on what, and how far."""
    begin_with: Path | None = None
    """Model folder whose tokenizer and weights training begins with, instead of random ones: a finished model can be
    trained further where its work folder is gone. The shapes must be those of the settings."""
    seed: int = 0
    workers: int = 16
    """Processes that compose."""
    bfloat16: bool = True
    """Compute in bfloat16 where there is an accelerator."""
    data: Data = field(default_factory=Data)
    grammar: Grammar = field(default_factory=Grammar)
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    denoiser: Denoiser = field(default_factory=Denoiser)


def parse(arguments: list[str] | None = None) -> Settings:
    """From the command line and the YAML files named on it."""
    parser = ArgumentParser(description="Pretrain the embedded model.")
    parser.add_argument("--config", action="config", help="YAML file with settings")
    parser.add_class_arguments(Settings, as_group=False)
    values = vars(parser.instantiate(parser.parse_args(arguments)))
    return Settings(**{key: value for key, value in values.items() if key != "config"})
