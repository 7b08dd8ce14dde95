# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Every setting of a run, with its default. YAML files hold only what differs.

The string after a field is its help text on the command line. Only ``cli.py``, ``trainer.py``, ``prepare/``,
``planning.py`` and ``train_setup.py`` read these classes as a whole; everything below takes explicit arguments.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dreambooth_jax.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Where the pretrained model comes from."""

    path: str = ""
    """Folder in the diffusers layout, a hub id such as stable-diffusion-v1-5/stable-diffusion-v1-5, or "embedded"."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    variant: str | None = None
    """Weight files to prefer, such as fp16 (diffusion_pytorch_model.fp16.safetensors)."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The subject's photos and how they are called."""

    instance_images: str = ""
    """Folder with three to six photos of the subject (captions: photo.txt or metadata.jsonl), or a datasets id."""
    identifier: str = "sks"
    """Rare word that the subject is bound to."""
    class_noun: str = ""
    """What the subject is: dog, backpack, person."""
    instance_prompt: str = "a photo of {identifier} {class_noun}"
    """Prompt of instance images that have no caption."""
    use_captions: bool = True
    """Use captions where the folder has them; {identifier} and {class_noun} are filled in."""
    resolution: int = 512
    """Pixels of a training image's side; a multiple of 8."""
    crop: Literal["center", "random"] = "center"
    """Which square of a photo is seen: the middle, or one of four fixed random ones at each visit."""
    flip: bool = False
    """Also show mirror images. Leave off for faces and lettering."""
    background: str = "white"
    """Colour under transparent pixels."""


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Prior preservation: pictures of the class, made by the frozen model, keep it from forgetting the class."""

    weight: float = 1.0
    """λ of the loss; 0 turns prior preservation off."""
    class_prompt: str = "a photo of a {class_noun}"
    """Prompt that class images are trained with."""
    class_images_prompt: str | None = None
    """Prompt that class images are made with; by default class_prompt."""
    class_images: str | None = None
    """Folder of class images, filled up to num_images; by default class_images in the run folder."""
    num_images: int = 200
    """How many class images to have."""
    negative_prompt: str = ""
    """Negative prompt of the class images."""
    steps: int = 50
    """Sampling steps of a class image."""
    guidance_scale: float = 7.5
    """Guidance scale of the class images."""
    batch_size: int | None = None
    """Class images made at once on each device; by default as many as fit, and 4 on a CPU."""
    seed: int = 0
    """Class image number i is made with seed + i."""


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The stretch of the run in which the text encoder is trained too. The UNet is always trained."""

    start: int = 0
    """First step that trains it."""
    stop: int = 0
    """First step that no longer does; 0 never trains it, -1 trains it to the end."""
    learning_rate: float | None = None
    """Its own learning rate; by default the UNet's."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule."""

    kind: Literal["adamw", "adafactor", "lion"] = "adamw"
    """adafactor keeps next to no moments, lion one (and wants a rate three to ten times smaller), adamw two."""
    moments: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the first moment of adamw and lion."""
    learning_rate: float = 2e-6
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine", "polynomial"] = "constant"
    """What follows the warm-up."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up."""
    power: float = 2.0
    """Exponent of the polynomial schedule."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float | None = None
    """Decay of the second moment; by default 0.999. Of lion's only moment; by default 0.99."""
    eps: float = 1e-8
    """Added to adamw's denominator."""
    weight_decay: float = 1e-2
    """Decoupled weight decay."""
    no_decay: tuple[str, ...] = (r".*/bias", r".*/scale")
    """Leaves without weight decay: regular expressions on names such as unet/conv_in/bias."""
    clip_norm: float | None = 1.0
    """Global gradient norm, over what is trained only; null does not clip."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    steps: int = 800
    """Optimizer steps: the only unit of length."""
    batch_size: int = 1
    """Instance examples per optimizer step over all devices; as many class examples come on top."""
    accumulation: int = 1
    """Micro-batches that an optimizer step is split into."""
    seed: int = 0
    """Everything random descends from it."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype; auto is bfloat16 on TPU and GPU, float32 on CPU. Parameters and optimizer stay float32."""
    remat: Literal["nothing", "blocks", "attention"] = "nothing"
    """What the backward pass computes again instead of keeping it: blocks saves most memory for a third more time."""
    ema_decay: float = 0.0
    """Decay of a moving average of what is trained; 0 keeps none."""
    parallel: Literal["auto", "pmap", "fsdp"] = "auto"
    """pmap replicates the state, fsdp shards it; auto is pmap on several devices."""
    fsdp_devices: int = 0
    """Neighbouring devices that share one copy of the state under fsdp; 0 is as many as a host has."""
    deterministic: bool = False
    """Results of GPUs equal bit for bit from run to run, with slower kernels; those of CPU and TPU are anyway."""
    device_memory: float | None = None
    """Gigabytes that each device has; by default what it says. A run that needs more is refused before it starts."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept to resume from."""

    every: int = 200
    """Steps between two checkpoints; the last step always has one."""
    keep_last: int = 1
    """How many of the newest are kept."""
    keep_every: int | None = None
    """Checkpoints at multiples of this many steps are kept for good."""


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Pictures made during the run, always from the same seeds."""

    every: int = 200
    """Steps between two grids (there is one before the first step too); 0 makes none."""
    prompts: tuple[str, ...] = ("a photo of {identifier} {class_noun}",)
    """Rows with the identifier."""
    class_prompts: tuple[str, ...] = ("a photo of a {class_noun}",)
    """Rows without it: they should not change."""
    num_images: int = 4
    """Pictures per prompt."""
    steps: int = 30
    """Sampling steps."""
    guidance_scale: float = 7.5
    """Guidance scale."""
    negative_prompt: str = ""
    """Negative prompt."""
    seed: int = 0
    """Picture number i of a row has seed + i."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The diffusers folder that is written at the end."""

    format: Literal["safetensors", "flax"] = "safetensors"
    """Weight files: safetensors for PyTorch diffusers and ComfyUI, or the legacy Flax msgpack."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Dtype of the exported weights."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run."""

    run_dir: str = "runs/dreambooth"
    """Folder that everything of the run is written to. The same command again resumes it."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    export: ExportConfig = field(default_factory=ExportConfig)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dicts, lists, numbers and strings: what YAML and JSON can hold."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return plain(dataclasses.asdict(config))


def keys(config_class: Any = Config) -> Iterator[str]:
    """Every key that can be set: ``run_dir``, ``model.path``, ..."""
    for entry in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(entry.type):
            yield from (f"{entry.name}.{inner}" for inner in keys(entry.type))
        else:
            yield entry.name


def add_settings(parser: "ArgumentParser") -> "ArgumentParser":
    """Give a parser ``--config FILE`` and an option for every key."""
    parser.add_argument("--config", action="config", help="YAML file with settings that differ; may be repeated.")
    parser.add_class_arguments(Config)
    return parser


def new_parser(**options: Any) -> "ArgumentParser":
    """A jsonargparse parser that raises, and shows the strings after dataclass fields as help."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return ArgumentParser(exit_on_error=False, **options)


def parse(parser: "ArgumentParser", arguments: Sequence[str], *, known: Sequence[str]) -> Any:
    """Parsed and instantiated arguments.

    Args:
        parser: of :func:`new_parser`.
        arguments: as on a command line.
        known: keys to propose for an unknown one.

    Raises:
        InputError: for whatever is wrong with them, on one line; an unknown key comes with the nearest known one.
    """
    import argparse

    from jsonargparse import ArgumentError

    try:
        parsed = parser.parse_args(list(arguments))
        empty = [name for name in dataclasses.asdict(Config()) if name in parsed and parsed[name] is None]
        if empty:
            raise InputError(f"{empty[0]} is empty: give it keys, or leave it out")
        return parser.instantiate(parsed)
    except (ArgumentError, argparse.ArgumentError) as error:
        raise InputError(_one_line(str(error), known)) from error


def _one_line(text: str, known: Sequence[str]) -> str:
    text = " ".join(text.split())
    unknown = re.search(r"[Oo]ption '([\w.]+)'|unrecognized arguments: --([\w.]+)", text)
    if unknown is None:
        return text
    group = re.search(r"Group '([\w.]+)'", text)
    name = unknown[1] or unknown[2]
    full = f"{group[1]}.{name}" if group and not name.startswith(group[1]) else name
    near = difflib.get_close_matches(full, known, n=1, cutoff=0.5)
    # "stepz" alone is nearer to "train.steps" than whole names tell
    near = near or [key for key in known if difflib.get_close_matches(name, [key.split(".")[-1]], cutoff=0.7)]
    return f"unknown key {full}" + (f"; did you mean {near[0]}?" if near else "; see --help for all keys")


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file, with overrides such as ``"train.steps=400"``.

    Raises:
        InputError: for a missing file, an unknown key or a value of the wrong type.
    """
    files = [f"--config={path}"] if path is not None else []
    parser = add_settings(new_parser())
    parsed = parse(
        parser, files + [text if text.startswith("--") else f"--{text}" for text in overrides], known=list(keys())
    )
    return Config(**{entry.name: parsed[entry.name] for entry in dataclasses.fields(Config)})


def save_config(path: str | Path, config: Config) -> None:
    """Write the resolved config as YAML that :func:`load_config` reads back."""
    import yaml

    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))
