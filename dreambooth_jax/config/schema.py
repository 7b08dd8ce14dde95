# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Every setting of a run, with its default and bounds. YAML files hold only what differs.

The string after a field is its help text on the command line. Only ``cli/``, ``trainer/``, ``prepare/``,
``planning/`` and ``train_setup/`` read these classes as a whole; everything below takes explicit arguments.
"""

from dataclasses import dataclass, field
from typing import Literal

from dreambooth_jax.config.adapters import AdapterConfig
from dreambooth_jax.config.concept_entries import ConceptConfig
from dreambooth_jax.config.keeping import CheckpointConfig, ExportConfig
from dreambooth_jax.config.objective import ObjectiveConfig
from dreambooth_jax.config.sampling import LARGEST_SIDE, SamplingConfig
from dreambooth_jax.config.setting import RESUMABLE, Settings, redefault, setting
from dreambooth_jax.config.tokens import TokensConfig
from dreambooth_jax.config.towers import EvaluateConfig
from dreambooth_jax.config.validation import ValidationConfig
from dreambooth_jax.size import Size, shortest


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Where the pretrained model comes from."""

    path: str = setting("", path=True)
    """Folder in the diffusers layout, single file (.safetensors) of A1111, hub id such as org/name, or "embedded"."""
    revision: str | None = setting(None, nonempty=True)
    """Branch, tag or commit of a hub id."""
    variant: str | None = setting(None, nonempty=True)
    """Weight files to prefer, such as fp16 (diffusion_pytorch_model.fp16.safetensors)."""
    vae: str | None = setting(None, path=True, nonempty=True)
    """Another autoencoder: folder or single file (of one, or of a model that has one), or hub id."""
    unet: str | None = setting(None, path=True, nonempty=True)
    """Another denoiser, given likewise: of a Lightning or an LCM."""
    tokenizer: str | None = setting(None, path=True, nonempty=True)
    """Folder of a single file's tokenizer; by default one beside the file, or in the hub's cache."""
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None
    """What the denoiser predicts, where the model does not say it, or something else."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """The subject's photos and how they are called."""

    instance_images: str = setting("", path=True, resumable=True)
    """Folder with three to six photos of the subject (captions: photo.txt or metadata.jsonl), or a datasets id."""
    identifier: str = setting("sks", nonempty=True, hint="choose a rare word such as sks")
    """Rare word that the subject is bound to."""
    class_noun: str = ""
    """What the subject is: dog, backpack, person."""
    subjects: str | None = setting(None, path=True, nonempty=True, resumable=True)
    """Many subjects, a model or adapter for each: a folder of folders of photos (dog6: a dog), or a list (YAML)."""
    concepts: tuple[ConceptConfig, ...] = ()
    """Several subjects in the place of one: [{identifier: sks, class_noun: dog, instance_images: photos/dog}, ...]."""
    instance_prompt: str = "a photo of {identifier} {class_noun}"
    """Prompt of instance images that have no caption."""
    templates: tuple[str, ...] = ()
    """Several prompts in the place of instance_prompt, one of which is drawn at each visit; or names of lists."""
    use_captions: bool = True
    """Use captions where the folder has them; {identifier} and {class_noun} are filled in."""
    tag_orders: int = setting(0, at_least=0, at_most=1000)
    """Shuffled orders of a caption's tags, of which one is drawn at each visit (tag, tag, ...); 0 does not shuffle."""
    keep_tags: int = setting(1, at_least=0)
    """First tags of a caption that stay first when others are shuffled."""
    caption_dropout: float = setting(0.0, at_least=0, at_most=1)
    """Share of visits at which a photo is called by dropout_prompt instead."""
    dropout_prompt: Literal["empty", "class"] = "empty"
    """What drop-out leaves: no text, or the class prompt."""
    resolution: int | str = setting(
        512, size=True, at_least=8, at_most=LARGEST_SIDE, multiple_of=8, hint="such as 512 or 768x512"
    )
    """Pixels of a training image: one number for a square, or width x height, such as 768x512; multiples of 8."""
    buckets: int = setting(1, at_least=1, at_most=32)
    """Shapes that photos are cut to: each goes to the nearest, of the area of resolution; 1 is resolution alone."""
    bucket_ratio: float = setting(2.0, above=1, at_most=8)
    """Largest ratio of a bucket's sides."""
    bucket_step: int = setting(64, at_least=8, multiple_of=8, at_most=LARGEST_SIDE)
    """Sides of buckets are multiples of it."""
    crop: Literal["center", "random"] = "center"
    """Which part of a photo is seen: the middle, or one of four fixed random ones at each visit."""
    flip: bool = False
    """Also show mirror images. Leave off for faces and lettering."""
    colour: float = setting(0.0, at_least=0, at_most=0.5)
    """Also show views whose brightness, contrast and saturation differ by up to this share; 0.1 is mild."""
    masks: Literal["none", "alpha", "files"] = "none"
    """Where the loss of a photo counts: alpha, where it is opaque; files, where photo-mask.png is white."""
    unmasked_weight: float = setting(0.1, at_least=0, at_most=1)
    """Weight of the loss outside of masks."""
    background: str = "white"
    """Colour under transparent pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "resolution", shortest(self.resolution))

    @property
    def size(self) -> Size:
        """Height and width of a training image."""
        return Size.parse(self.resolution)


@dataclass(frozen=True, kw_only=True)
class PriorConfig(SamplingConfig):
    """Prior preservation: what the frozen model makes of the class keeps the trained one from forgetting it."""

    kind: Literal["pictures", "teacher"] = "pictures"
    """Pictures of the class that it makes beforehand; or none, but its predictions at the photos with other prompts."""
    prompts: tuple[str, ...] = ()
    """Of teacher: more prompts to stay as they were, besides class_prompt, such as those of other people."""
    other_subjects: bool = False
    """Of teacher and data.concepts: also prompts of the other subjects, which keeps these from bleeding into it."""
    weight: float = setting(1.0, at_least=0)
    """λ of the loss; 0 is no prior preservation."""
    class_prompt: str = "a photo of a {class_noun}"
    """Prompt that class images are trained with."""
    class_images_prompt: str | None = None
    """Prompt that class images are made with; by default class_prompt."""
    class_images: str | None = setting(None, path=True, nonempty=True, resumable=True)
    """Folder of class images, filled up to num_images; by default class_images in the run folder."""
    num_images: int = setting(200, at_least=0, at_most=1_000_000)
    """How many class images to have; 0 takes all that are there and makes none."""
    batch_size: int | None = setting(None, at_least=1, at_most=4096, resumable=True)
    """Class images made at once on each device; by default as many as fit, and 4 on a CPU."""
    seed: int = setting(0, at_least=0, below=2**32)
    """Class image number i is made with seed + i."""


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig(Settings):
    """The stretch of the run in which the text encoder is trained too. The UNet is always trained."""

    start: int = setting(0, at_least=0)
    """First step that trains it."""
    stop: int = setting(0, at_least=-1)
    """First step that no longer does; 0 never trains it, -1 trains it to the end."""
    learning_rate: float | None = setting(None, at_least=0)
    """Its own learning rate; by default the UNet's."""

    def stretch(self, steps: int) -> tuple[int, int]:
        """In a run of so many steps, the first that trains it and the first that no longer does."""
        return self.start, steps if self.stop == -1 else min(self.stop, steps)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Settings):
    """The optimizer and its schedule."""

    kind: Literal[
        "adamw", "adafactor", "lion", "sgd", "muon", "ademamix", "prodigy", "dadapt_adamw", "schedule_free_adamw"
    ] = "adamw"
    """adafactor: least memory. lion: half, a smaller rate. prodigy and dadapt_adamw find theirs: learning_rate=1."""
    moments: Literal["float32", "bfloat16"] = "float32"
    """Dtype of first moments: of adamw, lion, sgd, muon, ademamix."""
    learning_rate: float = setting(2e-6, at_least=0)
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine", "polynomial", "cosine_restarts", "inverse_sqrt", "one_cycle"] = (
        "constant"
    )
    """What follows the warm-up."""
    cycles: int = setting(2, at_least=1, at_most=10_000)
    """Of cosine_restarts: how often it falls to 0."""
    warmup_steps: int = setting(0, at_least=0)
    """Optimizer steps of linear warm-up."""
    power: float = setting(2.0, above=0, at_most=1000)
    """Exponent of the polynomial schedule."""
    beta1: float = setting(0.9, at_least=0, below=1)
    """Decay of the first moment."""
    beta2: float | None = setting(None, at_least=0, below=1)
    """Decay of the second moment; by default 0.999. Of lion's only moment; by default 0.99."""
    eps: float = setting(1e-8, at_least=0)
    """Added to adamw's denominator."""
    weight_decay: float = setting(1e-2, at_least=0)
    """Decoupled weight decay."""
    rules: tuple[str, ...] = ()
    """For some leaves: PATTERN rate=0.1 (a factor) learning_rate= weight_decay= schedule= warmup_steps=; another."""
    no_decay: tuple[str, ...] = setting((r".*/bias", r".*/scale"), pattern=True)
    """Leaves without weight decay: regular expressions on names such as unet/conv_in/bias. DoRA's lengths have none."""
    clip_norm: float | None = setting(1.0, above=0, hint="null does not clip")
    """Global gradient norm, over what is trained only; null does not clip."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """The training loop."""

    steps: int = setting(800, at_least=1, at_most=10_000_000)
    """Optimizer steps: the only unit of length."""
    batch_size: int = setting(1, at_least=1, at_most=65536)
    """Instance examples per optimizer step over all devices; as many class examples come on top."""
    accumulation: int = setting(1, at_least=1)
    """Micro-batches that an optimizer step is split into."""
    seed: int = setting(0, at_least=0, below=2**32)
    """Everything random descends from it."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype; auto is bfloat16 on TPU and GPU, float32 on CPU. Parameters and optimizer stay float32."""
    frozen_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of large weights that are never trained; auto is dtype where small matrices stand beside them."""
    remat: Literal["nothing", "blocks", "attention"] = setting("nothing", resumable=True)
    """What the backward pass computes again instead of keeping it: blocks saves most memory for a third more time."""
    scan: bool = setting(True, resumable=True)
    """Compile one of several transformer blocks in a row and loop over them: XL compiles in half the time."""
    ema_decay: float = setting(0.0, at_least=0, below=1)
    """Decay of a moving average of what is trained; 0 keeps none."""
    parallel: Literal["auto", "pmap", "fsdp"] = setting("auto", resumable=True)
    """pmap replicates the state, fsdp shards it; auto is pmap on several devices."""
    fsdp_devices: int = setting(0, at_least=0, resumable=True)
    """Neighbouring devices that share one copy of the state under fsdp; 0 is as many as a host has."""
    deterministic: bool = setting(False, resumable=True)
    """Results of GPUs equal bit for bit from run to run, with slower kernels; those of CPU and TPU are anyway."""
    device_memory: float | None = setting(None, above=0, hint="null asks the device", resumable=True)
    """Gigabytes that each device has; by default what it says. A run that needs more is refused before it starts."""
    log_every: int = setting(10, at_least=1, resumable=True)
    """Steps between two lines of metrics.jsonl."""


@dataclass(frozen=True, kw_only=True)
class SamplesConfig(SamplingConfig):
    """Pictures made during the run, always from the same seeds."""

    every: int = setting(200, at_least=0)
    """Steps between two grids (there is one before the first step too); 0 makes none."""
    prompts: tuple[str, ...] = ("a photo of {identifier} {class_noun}",)
    """Rows with the identifier."""
    class_prompts: tuple[str, ...] = ("a photo of a {class_noun}",)
    """Rows without it: they should not change."""
    num_images: int = setting(4, at_least=1, at_most=1000)
    """Pictures per prompt."""
    steps: int = redefault(SamplingConfig, "steps", 30)
    """Sampling steps."""
    seed: int = setting(0, at_least=0, below=2**32)
    """Picture number i of a row has seed + i."""
    preview_vae: str | None = setting(None, nonempty=True, path=True)
    """Tiny autoencoder (TAESD) that draws them in the place of the model's own: faster, and a little less exact."""


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """One run."""

    run_dir: str = setting("runs/dreambooth", nonempty=True, path=True, resumable=True)
    """Folder that everything of the run is written to. The same command again resumes it."""
    model: ModelConfig = field(default_factory=ModelConfig, metadata=RESUMABLE)
    data: DataConfig = field(default_factory=DataConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    tokens: TokensConfig = field(default_factory=TokensConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig, metadata=RESUMABLE)
    samples: SamplesConfig = field(default_factory=SamplesConfig, metadata=RESUMABLE)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig, metadata=RESUMABLE)
    export: ExportConfig = field(default_factory=ExportConfig, metadata=RESUMABLE)
