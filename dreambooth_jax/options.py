# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What ``sample``, ``export``, ``check``, ``evaluate``, ``doctor`` and ``app`` can be told. The string after a field is
its help on the command line."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.config.sampling import SamplingConfig
from dreambooth_jax.config.setting import Settings, redefault, setting
from dreambooth_jax.config.towers import TowersConfig


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Settings):
    """Which model, and which weights of it."""

    source: str = setting(path=True, nonempty=True)
    """Run folder, model folder, single file or hub id."""
    step: int | Literal["best"] | None = setting(None, at_least=0)
    """Checkpoint of a run: the newest, or the best."""
    ema: bool | None = None
    """The moving average or the last weights; by default the average, if the run kept one."""
    revision: str | None = setting(None, nonempty=True)
    """Branch, tag or commit of a hub id."""
    variant: str | None = setting(None, nonempty=True)
    """Weight files to prefer, such as fp16; of a refiner, if it has such."""
    vae: str | None = setting(None, path=True, nonempty=True)
    """Another autoencoder: folder or single file (of one, or of a model that has one), or hub id."""
    unet: str | None = setting(None, path=True, nonempty=True)
    """Another denoiser, given likewise: of a Lightning or an LCM."""
    tokenizer: str | None = setting(None, path=True, nonempty=True)
    """Folder of a single file's tokenizer, also of a refiner; by default one beside it, or in the hub's cache."""
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None
    """What the denoiser predicts, where the model does not say it, or something else."""
    lora: tuple[str, ...] = setting(())
    """Files of adapters to add, one after the other: FILE, FILE:WEIGHT or FILE:TEXT_ENCODER:UNET."""

    def told(self) -> dict[str, Any]:
        """These alone, as :func:`~dreambooth_jax.runs.open_model` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(ModelOptions)}


@dataclass(frozen=True, kw_only=True)
class SampleOptions(DrawingConfig, ModelOptions):
    """What to draw, and with which model."""

    prompts: tuple[str, ...] = setting(())
    """What to draw: the words after SOURCE, each in quotes; or dreambooth-live, dreambooth-object or anatomy."""
    prompt_syntax: Literal["plain", "a1111"] = redefault(SamplingConfig, "prompt_syntax", "a1111")
    """How prompts are read: as A1111 does, (more:1.3) [less] BREAK, and as long as they are; or plain."""
    embedding: tuple[str, ...] = setting(())
    """New words (textual inversion): FILE or WORD=FILE."""
    identifier: str | None = setting(None, nonempty=True)
    """What {identifier} in a prompt is; by default the run's."""
    class_noun: str | None = None
    """What {class_noun} in a prompt is; by default the run's."""
    prompts_file: str | None = setting(None, path=True, nonempty=True)
    """Text file with a prompt on each line."""
    image: str | None = setting(None, path=True, nonempty=True)
    """Picture to start from; its size is drawn unless height and width are told."""
    refiner: str | None = setting(None, path=True, nonempty=True)
    """Model that draws the last steps, such as XL's refiner: folder, single file or hub id; see refiner_start."""
    control: tuple[str, ...] = setting(())
    """Networks that guide by a picture: [canny:|scribble:|depth:][guess:]NETWORK:PICTURE[:SCALE[:START[:END]]]."""
    mask: str | None = setting(None, path=True, nonempty=True)
    """Picture that is white where the image is drawn anew; or alpha: where the image is transparent."""
    out: str | None = setting(None, path=True, nonempty=True)
    """Folder that pictures and a grid are added to; by default samples/ in the run folder, or ./samples."""
    like: str | None = setting(None, path=True, nonempty=True)
    """Picture to make again, ours or one of A1111, ComfyUI or InvokeAI; other options count before what it says."""
    grid: str | None = setting(None, nonempty=True)
    """All combinations of two or three settings, model and seed too, in one picture: "steps=30,50 guidance=6,12"."""
    queue: tuple[str, ...] = setting(())
    """Files with prompts, or folders of such: each is drawn into a folder of its own; what is done is skipped."""
    preview: str | None = setting(None, path=True, nonempty=True)
    """File (.png, .jpg) that shows the pictures while they are made, written anew after each step."""
    preview_vae: str | None = setting(None, path=True, nonempty=True)
    """Tiny autoencoder (TAESD) that draws the preview; by default colours alone, by a linear map."""
    progress: Literal["pictures", "steps"] = "pictures"
    """What the bar tells."""
    num_images: int = setting(4, at_least=1, at_most=1_000_000)
    """Pictures per prompt; number i has seed + i."""
    seed: int = setting(0, at_least=0, below=2**64)
    """Seed of the first picture of each prompt: below 2^32, or with noise of other tools below 2^64."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ModelOptions):
    """What to write, and as what."""

    out: str = setting(path=True, nonempty=True)
    """The folder of a whole model; or the file of an adapter, or for format=ldm of a model, such as dog.safetensors."""
    format: Literal["auto", "safetensors", "flax", "ldm", "kohya", "peft"] = "auto"
    """A folder of the whole model with safetensors (PyTorch diffusers) or legacy Flax msgpack, one file of it for A1111
    and ComfyUI (ldm); or an adapter alone, for most tools (kohya) or as PEFT has it. auto goes by OUT."""
    bundle: bool = False
    """Put new words into an adapter's file, as A1111, ComfyUI and OneTrainer read them; diffusers refuses it."""
    rank: int | None = setting(None, at_least=1, at_most=4096)
    """Write the plain LoRA of this rank that is nearest to what was trained and added, whatever that is."""
    base: str | None = setting(None, path=True, nonempty=True)
    """With rank: what SOURCE was before it was trained, where it is no run: folder, single file or hub id."""
    conv_rank: int | None = setting(None, at_least=0, at_most=4096)
    """With rank: that of convolutions larger than 1x1; 0 leaves them out. By default rank."""
    clamp_quantile: float | None = setting(None, above=0, at_most=1)
    """With rank: bound of a layer's numbers, as a quantile of them; sd-scripts has 0.99. By default none."""
    min_diff: float = setting(0.0, at_least=0)
    """With rank: leave a text encoder out if no number of its kernels changed by more; sd-scripts has 0.01."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Dtype of the weights."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Settings):
    """Which file to look at."""

    file: str = setting(path=True, nonempty=True)
    """An adapter, a word, a model, an autoencoder, a ControlNet ...: .safetensors, .ckpt, .pt or .bin."""
    json: bool = False
    """Print it as JSON."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(SamplingConfig):
    """What to measure, and with which pictures."""

    sources: tuple[str, ...] = setting(nonempty=True)
    """Runs, folders of runs, models (folder, single file, hub id), or folders with pictures made elsewhere."""
    evaluate: TowersConfig = field(default_factory=TowersConfig)
    photos: str | None = setting(None, path=True, nonempty=True)
    """Folder with photos of the subject; by default those of the run, or of the first run that is given."""
    prompts: str = setting("auto", nonempty=True)
    """dreambooth-object, dreambooth-live or embedded, or a text file with a prompt on each line; auto goes by the
    class noun and the model. Pictures made elsewhere are of prompt N if they are called N-..., from 0."""
    other_prompts: str = setting("auto", nonempty=True)
    """Prompts that have nothing to do with the subject, for drift: other, embedded-other or a text file."""
    identifier: str | None = setting(None, nonempty=True)
    """What {identifier} in a prompt is; by default the run's, or sks."""
    class_noun: str | None = None
    """What {class_noun} in a prompt is; by default the run's."""
    class_prompt: str | None = setting(None, nonempty=True)
    """Of pictures that should not show the subject; by default the run's prior.class_prompt."""
    num_images: int = setting(4, at_least=1, at_most=1000)
    """Pictures per prompt; number i has seed + i."""
    num_class_images: int = setting(16, at_least=0, at_most=10_000)
    """Pictures of the class prompt; 0 leaves out what is measured of them."""
    seed: int = setting(0, at_least=0, below=2**32)
    """Seed of the first picture of each prompt."""
    step: int | Literal["best"] | None = setting(None, at_least=0)
    """Checkpoint of runs: the newest, or the best."""
    ema: bool | None = None
    """The moving average or the last weights; by default the average, if the run kept one."""
    out: str | None = setting(None, path=True, nonempty=True)
    """Folder for pictures, scores and the report; by default evaluation/ in the run folder, or ./evaluation."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype of the models that draw; towers compute in float32."""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions(SamplingConfig):
    """Which run to look at, and how closely."""

    run: str = setting(path=True, nonempty=True)
    """Run folder, or a folder of runs."""
    evaluate: TowersConfig = field(default_factory=TowersConfig)
    photos: str | None = setting(None, path=True, nonempty=True)
    """Folder with photos of the subject; by default those of the run."""
    prompts: str = setting("auto", nonempty=True)
    """What is drawn: dreambooth-object, dreambooth-live or embedded, or a text file with a prompt on each line."""
    num_images: int = setting(2, at_least=1, at_most=1000)
    """Pictures per prompt; number i has seed + i."""
    num_class_images: int = setting(8, at_least=1, at_most=1000)
    """Pictures of the class prompt."""
    seed: int = setting(0, at_least=0, below=2**32)
    """Seed of the first picture of each prompt."""
    draw: bool = True
    """Draw pictures and look at them; otherwise photos, words and settings are looked at alone."""
    step: int | Literal["best"] | None = setting(None, at_least=0)
    """Checkpoint: the newest, or the best."""
    ema: bool | None = None
    """The moving average or the last weights; by default the average, if the run kept one."""
    out: str | None = setting(None, path=True, nonempty=True)
    """Folder for pictures; by default doctor/ in the run folder."""
    json: bool = False
    """Tell it as JSON, with all numbers."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute dtype of the models that draw."""

    def as_evaluate(self) -> EvaluateOptions:
        """Those of them that say what the subject is and what is drawn of it."""
        return EvaluateOptions(sources=(self.run,), photos=self.photos, prompts=self.prompts)


@dataclass(frozen=True, kw_only=True)
class AppOptions(Settings):
    """Who sees the page, and what it offers."""

    host: str = setting("127.0.0.1", nonempty=True)
    """Address to serve at; one that others reach needs user and password."""
    port: int = setting(7860, at_least=1, at_most=65535)
    """Port to serve at."""
    user: str | None = setting(None, nonempty=True)
    """Who may log in."""
    password: str | None = setting(None, nonempty=True)
    """With which password; whoever lists processes sees it, so rather use password_file or DREAMBOOTH_JAX_PASSWORD."""
    password_file: str | None = setting(None, path=True, nonempty=True)
    """File whose first line is the password."""
    folder: str = setting("app", path=True, nonempty=True)
    """Folder of uploads, runs and the queue; the same again goes on with them."""
    configs: tuple[str, ...] = setting(("quickstart",), nonempty=True)
    """What can be trained: YAML files, or names of those that ship, such as sd15_lora."""
    most_jobs: int = setting(8, at_least=1, at_most=1000)
    """Jobs of one person that wait or run."""
    models: tuple[str, ...] = setting(())
    """More models that can be trained, each as NAME=MODEL or MODEL: folder, single file or hub id."""
    controls: tuple[str, ...] = setting(())
    """ControlNets and their like to draw by, each as NAME=NETWORK or NETWORK: folder, single file or hub id."""
    demo: bool = False
    """Tight limits, for a page that strangers try: few photos, short runs, and what they made is forgotten in a day."""
