# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The stages in their order; each leaves files in the work folder and is skipped where they are complete.

corpus/        captioned pictures
autoencoder/   checkpoints, log.jsonl, restored.png; moments of the corpus
tokenizer/     vocab.json, merges.txt
denoiser/      checkpoints, log.jsonl
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from dreambooth_jax.models import AutoencoderKL
from dreambooth_jax.models.configs import VAEConfig
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.pretrained import load_components

from . import autoencoder, grids
from .compose import Composer
from .corpus import Corpus, load_or_compose
from .fit import fit, initial
from .settings import Settings
from .sprites import Sprite, read_sprites


def compute_dtype(settings: Settings) -> jnp.dtype:
    """bfloat16 on an accelerator."""
    return jnp.dtype(jnp.bfloat16 if settings.bfloat16 and jax.default_backend() != "cpu" else jnp.float32)


def sprites(settings: Settings) -> list[Sprite]:
    """Those to learn from."""
    return read_sprites(settings.sprites, nouns=settings.data.nouns, styles=settings.data.styles)


def corpus(settings: Settings) -> Corpus:
    """Captioned pictures of training sprites."""
    composer = Composer(sprites(settings), settings.grammar, seed=settings.seed)
    return load_or_compose(settings.work / "corpus", composer, count=settings.data.count, workers=settings.workers)


def held_out(settings: Settings, count: int = 256) -> np.ndarray:
    """Pictures of sprites that are in no corpus: all that are held out, whatever their class and look."""
    unseen = read_sprites(settings.sprites, split="heldout")
    composer = Composer(unseen, settings.grammar, seed=settings.seed + 1)
    return np.stack([composer(index)[0] for index in range(count)])


def vae_config(settings: Settings, scaling_factor: float = 1.0) -> dict:
    """What goes into vae/config.json."""
    levels = len(settings.autoencoder.channels)
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": list(settings.autoencoder.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": settings.autoencoder.groups,
        "out_channels": 3,
        "sample_size": settings.grammar.size,
        "scaling_factor": scaling_factor,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def fresh_captions(settings: Settings, count: int) -> list[str]:
    """Captions of the corpus' grammar that are not from the corpus."""
    composer = Composer(sprites(settings), settings.grammar, seed=settings.seed + 2)
    return [composer(index)[1] for index in range(count)]


def autoencoder_module(settings: Settings) -> AutoencoderKL:
    """Its network; what it computes does not depend on the scaling factor."""
    return AutoencoderKL(VAEConfig.from_json(vae_config(settings)), dtype=compute_dtype(settings))


def train_autoencoder(settings: Settings, pictures: np.ndarray) -> Tree:
    """The autoencoder's parameters, and in its folder how well it restores sprites that it never saw."""
    folder, own = settings.work / "autoencoder", settings.autoencoder
    folder.mkdir(parents=True, exist_ok=True)
    size, vae = settings.grammar.size, autoencoder_module(settings)
    objective = autoencoder.AutoencoderObjective(vae=vae, batch_size=own.stage.batch_size, kl_weight=own.kl_weight)
    batch_at = partial(autoencoder.batch_at, pictures=pictures, batch_size=own.stage.batch_size, seed=settings.seed)
    start = begin(settings, "vae")
    if not start:
        start = {"vae": initial(vae, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32), seed=settings.seed)}
    params = fit(objective, start, batch_at, own.stage, folder, seed=settings.seed)["vae"]
    judged = folder / f"measured_{own.stage.steps}.json"
    if not judged.exists():
        unseen = held_out(settings)
        again = autoencoder.restored(vae, params, unseen)
        pairs = np.stack([unseen[:48], again[:48]], 1).reshape(-1, size, size, 3)
        grids.save(folder / "restored.png", pairs, columns=16)
        write_json(judged, {"psnr_held_out": autoencoder.psnr(again, unseen)})
    return params


def begin(settings: Settings, *networks: str) -> Tree:
    """Weights of these networks from the model to begin with; empty where there is none."""
    if settings.begin_with is None:
        return {}
    params = load_components(settings.begin_with).params
    return {name: params[name] for name in networks}


def cached(file: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of a .npz file, made where it is not there."""
    if not file.exists():
        half, made = file.with_suffix(".part.npz"), cast(dict[str, Any], make())
        np.savez(half, **made)
        half.replace(file)
    with np.load(file) as arrays:
        return dict(arrays)


def write_json(file: Path, content: dict) -> None:
    """Readable."""
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
