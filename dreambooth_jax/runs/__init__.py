# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Opening what was trained in a run's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dreambooth_jax import distributed, rng
from dreambooth_jax.adapters import Adapter, composed, make_adapter, part_for
from dreambooth_jax.config import Config, load_config, save_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.paths import at_home
from dreambooth_jax.pipeline import Pipeline, load_pretrained
from dreambooth_jax.pipeline.load import with_parts
from dreambooth_jax.pipeline.zero_snr import with_zero_terminal_snr
from dreambooth_jax.runs.folder import RunFolder as RunFolder
from dreambooth_jax.training.checkpoint import Superseded, best_step, complete_steps, read_meta, read_weights
from dreambooth_jax.training.optimizer_kinds import KINDS
from dreambooth_jax.trees import Tree
from dreambooth_jax.weights.adapters.asked import Asked, hashes_of, with_adapters
from dreambooth_jax.weights.embeddings import has_words
from dreambooth_jax.weights.fingerprint import Identity

Step: TypeAlias = int | Literal["best"]
"""Of a checkpoint, by its number or by its validation loss."""
PLACES = ("path", "vae", "unet", "tokenizer")
"""Settings of a model that are folders or files."""
OF_MODEL = ("revision", "variant", "tokenizer", "prediction_type")
"""Settings of a model that a run has its own of."""
TRIES = 10
"""Of reading a checkpoint that its run replaces meanwhile."""


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A pipeline and the parameters to use with it.

    Attributes:
        pipe: modules, tokenizer, schedule.
        params: of the whole model, trained parts included.
        name: for titles and metadata.
        config: of the run, if it is one.
        adapters: that files have added, each with its weight -> how its file's hash begins.
    """

    pipe: Pipeline
    params: Tree
    name: str
    config: Config | None
    adapters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """A checkpoint, and the model that it was trained on.

    Attributes:
        pipe: the model as the run found it.
        adapter: what is trained.
        frozen, trainable: its trees, with what was trained.
        step: of the checkpoint.
    """

    pipe: Pipeline
    adapter: Adapter
    frozen: Tree
    trainable: Tree
    step: int

    @property
    def taught(self) -> Pipeline:
        """The model whose text encoders are as they were trained, and whose prompts may have the words of the run."""
        own = composed(self.adapter, *part_for(self.adapter, self.pipe.tokenizers, self.frozen, self.trainable))
        return self.adapter.extend(replace(self.pipe, params={**self.pipe.params, **own}))


def model_path(folder: RunFolder, config: Config) -> str:
    """Where the pretrained model of a run is, also for who stands elsewhere than the run was started.

    A run saves the absolute path. One that did not was started where its own folder, as it was given, leads to here.
    """
    path, run_dir = Path(config.model.path), Path(config.run_dir)
    depth = len(run_dir.parts)
    here = folder.path.resolve()
    if not path.is_absolute() and here.parts[-depth:] == run_dir.parts:
        started = Path(*here.parts[:-depth])
        if (started / path).exists():
            return str(started / path)
    return config.model.path


def with_absolute_model(config: Config) -> Config:
    """A config that names what its model is read from by absolute paths; hub ids and "embedded" stay."""

    def absolute(place: str) -> str:
        local = place not in ("", "embedded") and Path(place).exists()
        return str(Path(place).absolute()) if local else place

    model = config.model
    places: dict[str, Any] = {name: absolute(place) for name in PLACES if (place := getattr(model, name)) is not None}
    return replace(config, model=replace(model, **places))


def save_settings(config: Config, folder: RunFolder) -> None:
    """Write ``config.yaml``, for whoever opens the run later. Process 0 does."""
    if distributed.is_main():
        folder.path.mkdir(parents=True, exist_ok=True)
        save_config(folder.config, with_absolute_model(config))


def open_model(
    source: str,
    *,
    step: Step | None = None,
    ema: bool | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    variant: str | None = None,
    vae: str | None = None,
    unet: str | None = None,
    tokenizer: str | None = None,
    prediction_type: str | None = None,
    lora: Sequence[str] = (),
) -> OpenedModel:
    """Open a run folder (its newest checkpoint), a model's folder or single file, or a hub id.

    Args:
        source: what to open.
        step: of the checkpoint; the newest by default.
        ema: the moving average instead of the last weights; by default if the run kept one.
        dtype: compute dtype: ``auto``, ``float32`` or ``bfloat16``.
        revision: the hub's branch, tag or commit. A run has its own.
        variant: weight files of a model to prefer, such as fp16. A run has its own.
        vae: another autoencoder than the model's, or than that which a run was trained with.
        unet: another denoiser than the model's. A run has its own.
        tokenizer: folder of a single file's tokenizer. A run has its own.
        prediction_type: what the denoiser predicts. A run has its own.
        lora: files of adapters to add, each as ``FILE``, ``FILE:WEIGHT`` or ``FILE:TEXT_ENCODER:UNET``.

    Raises:
        InputError: if there is no such thing, or no such checkpoint, or a run's model is no longer the one that it was
            trained on, or an adapter is for another one.
    """
    folder = RunFolder(at_home(source))
    of_model: dict[str, Any] = dict(zip(OF_MODEL, (revision, variant, tokenizer, prediction_type)))
    if not folder.is_run():
        if step is not None or ema is not None:
            raise InputError(f"{source} is no run folder, so it has no checkpoint to choose: leave step and ema out")
        pipe = load_pretrained(source, dtype=dtype, vae=vae, unet=unet, **of_model)
        pipe = _with_adapters(pipe, lora)
        return OpenedModel(pipe=pipe, params=pipe.params, name=source, config=None, adapters=hashes_of(lora))
    if told := [name for name, value in {**of_model, "unet": unet}.items() if value is not None]:
        raise InputError(f"{source} is a run folder, which knows its model: leave {' and '.join(told)} out")
    config = load_config(folder.config)
    run = open_run(folder, config, step=step, ema=ema, dtype=dtype)
    pipe = run.adapter.extend(replace(run.pipe, params=composed(run.adapter, run.frozen, run.trainable)))
    pipe = with_zero_terminal_snr(pipe) if config.objective.zero_terminal_snr else pipe
    pipe = with_parts(pipe, vae=vae)
    pipe = _with_adapters(pipe, lora)
    name = f"{source} at step {run.step}"
    return OpenedModel(pipe=pipe, params=pipe.params, name=name, config=config, adapters=hashes_of(lora))


def _with_adapters(pipe: Pipeline, lora: Sequence[str]) -> Pipeline:
    """With the words, too, that some bring."""
    pipe = replace(pipe, params=with_adapters(pipe.params, lora))
    files = [Asked.read(text).file for text in lora]
    return pipe.with_embeddings([file for file in files if has_words(file)])


def with_loras(model: OpenedModel, lora: Sequence[str]) -> OpenedModel:
    """The same with more adapters of files, in the words of :func:`open_model`.

    Raises:
        InputError: if one cannot be read, or is for another model.
    """
    pipe = _with_adapters(replace(model.pipe, params=model.params), lora)
    return replace(model, pipe=pipe, params=pipe.params, adapters={**model.adapters, **hashes_of(lora)})


def check_loras(model: OpenedModel, lora: Sequence[str]) -> None:
    """Raise InputError if adapters of files cannot be read or are for another model; nothing is computed."""
    jax.eval_shape(lambda params: with_adapters(params, lora), model.params)


def open_run(
    folder: RunFolder, config: Config, *, step: Step | None = None, ema: bool | None = None, dtype: str = "auto"
) -> OpenedRun:
    """Open a checkpoint with its parts apart: the other arguments are those of :func:`open_model`.

    Raises:
        InputError: as :func:`open_model`.
    """
    pick_step(folder, step)
    model = config.model
    of_model: dict[str, Any] = {name: getattr(model, name) for name in OF_MODEL}
    pipe = load_pretrained(model_path(folder, config), dtype=dtype, vae=model.vae, unet=model.unet, **of_model)
    if ema is None:
        ema = config.train.ema_decay > 0 or KINDS[config.optimizer.kind].averages
    adapter = make_adapter(config, pipe.tokenizers, pipe.conditioner.unread)
    frozen, _ = adapter.init(rng.root_key(config.train.seed), pipe.params)
    step, weights = _trained(folder, step, pipe, config, ema=ema)
    return OpenedRun(pipe=pipe, adapter=adapter, frozen=frozen, trainable=weights, step=step)


def _trained(
    folder: RunFolder, asked: Step | None, pipe: Pipeline, config: Config, *, ema: bool
) -> tuple[int, dict[str, Any]]:
    """(step, weights) of the checkpoint. A run that goes on meanwhile removes what was the newest: take the next."""
    whole = NamedSharding(pipe.target.mesh, PartitionSpec())
    for attempt in range(TRIES):
        step = pick_step(folder, asked)
        try:
            check_base(folder, step, pipe, config)
            return step, read_weights(folder.checkpoints, step, ema=ema, sharding=whole)
        except Superseded:
            if asked is not None or attempt == TRIES - 1:
                raise
    raise AssertionError("unreachable")


def check_base(folder: RunFolder, step: int, pipe: Pipeline, config: Config) -> None:
    """Raise InputError if a run's model is another one than its checkpoint was trained on.

    What is frozen would be the other's: a text encoder or autoencoder that the trained weights don't know.
    """
    meta = read_meta(folder.checkpoints, step)
    stored = meta["fingerprints"]["model"]
    if known_model(meta, pipe.components, variant=config.model.variant) != stored:
        way_out = f"the finished model in {folder.model} has all of its own" if folder.model.is_dir() else "put it back"
        raise InputError(
            f"{folder.path} was trained on another model than {config.model.path} now is (fingerprint {stored}, not "
            f"{pipe.components.fingerprint}): {way_out}, or set model.path or model.revision in {folder.config}"
        )


def known_model(meta: Mapping[str, Any], model: Identity, *, variant: str | None) -> str:
    """The fingerprint of a model to compare with the one in a checkpoint's metadata.

    Version 0.1.0 took it of whatever lay in the folder, all variants together: it says which of them was meant only as
    long as the setting has not changed.
    """
    earlier = meta["config"].get("model", {}).get("variant")
    return model.known_as([meta["fingerprints"]["model"]] if earlier == variant else [])


def pick_step(folder: RunFolder, step: Step | None) -> int:
    """The newest step, or the one asked for if it is there; "best" is that of ``checkpoint.keep_best``."""
    steps = complete_steps(folder.checkpoints)
    if not steps:
        raise InputError(f"{folder.path} has no finished checkpoint yet: train further")
    if step == "best":
        return best_step(folder.checkpoints)
    if step is not None and step not in steps:
        raise InputError(f"{folder.path} has no checkpoint of step {step}: there are {steps}")
    return steps[-1] if step is None else step


def newest_meta(folder: RunFolder) -> dict[str, Any] | None:
    """What the newest checkpoint says of its run; None where there is none. Of several processes, process 0 chooses."""
    newest = max(complete_steps(folder.checkpoints), default=-1)
    step = int(distributed.gather(np.int32(newest))[0])
    return read_meta(folder.checkpoints, step) if step >= 0 else None


def pictures_of(folder: RunFolder) -> dict[str, Any] | None:
    """What a run says of the pictures that it is taught with; None where it does not, as runs of before."""
    return (newest_meta(folder) or {}).get("pictures")
