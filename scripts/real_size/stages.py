# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is measured. Libraries are imported late: the process that starts the stages must stay small."""

import math
import resource
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from real_size.model import SIZES, made, write_model, write_skeleton

GB = 1e9
TRAINING_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folder that all stages share, and the size of the model in it."""

    folder: Path
    size: str

    @property
    def model(self) -> Path:
        """In the diffusers layout."""
        return self.folder / "model"

    @property
    def pixels(self) -> int:
        """Side of the pictures that are drawn."""
        return made(self.size).pixels or SIZES[self.size]["vae"]["sample_size"]

    @property
    def side(self) -> int:
        """Of the latents in the call beside PyTorch's."""
        return made(self.size).side or self.pixels // 2 ** (len(SIZES[self.size]["vae"]["block_out_channels"]) - 1)

    @property
    def call(self) -> Path:
        """Inputs and output of our UNet."""
        return self.folder / "unet.npz"

    def report(self, stage: str) -> Path:
        """What a stage has to say."""
        return self.folder / f"{stage}.json"

    @property
    def file_gb(self) -> float:
        """Size of the weights on disk."""
        return sum(file.stat().st_size for file in self.model.glob("*/*.safetensors")) / GB


class Journal:
    """What a stage did: seconds since the entry before, and the largest memory so far."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.last = time.monotonic()

    def __call__(self, what: str) -> None:
        now = time.monotonic()
        peak = peak_gb(resource.getrusage(resource.RUSAGE_SELF))
        self.entries.append({"what": what, "seconds": now - self.last, "peak_gb": peak})
        print(f"  {what:<24} {now - self.last:8.1f} s   peak {peak:6.2f} GB", flush=True)
        self.last = now


def peak_gb(usage: resource.struct_rusage) -> float:
    """The largest memory that a process has held."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / GB


Stage = Callable[[Place, Journal], dict[str, Any]]


def build(place: Place, mark: Journal) -> dict[str, Any]:
    """Draw and write the model."""
    parameters = write_model(place.model, place.size)
    mark("draw and write")
    return {"parameters": parameters, "file_gb": place.file_gb}


def open_model(place: Place, mark: Journal, **how: Any) -> Any:
    """A pipeline, with the libraries' own memory apart from the model's."""
    import jax
    import transformers  # noqa: F401  what reads the tokenizer

    import dreambooth_jax as dbx

    jax.devices()
    mark("import")
    pipe = dbx.load_pretrained(place.model, **how)
    jax.block_until_ready(pipe.params)
    mark("load")
    return pipe


def load(place: Place, mark: Journal) -> dict[str, Any]:
    """``load_pretrained`` and nothing else."""
    open_model(place, mark, param_dtype=made(place.size).dtype)
    libraries, everything = (entry["peak_gb"] for entry in mark.entries)
    ratio = (everything - libraries) / place.file_gb
    return {"file_gb": place.file_gb, "import_gb": libraries, "memory_per_file_size": ratio}


def unet(place: Place, mark: Journal) -> dict[str, Any]:
    """One call, kept with its inputs for PyTorch."""
    import jax
    import numpy as np

    from dreambooth_jax.models.components import UNET
    from dreambooth_jax.models.condition import Condition
    from dreambooth_jax.weights.pretrained import load_module

    module, params = load_module(place.model / "unet", UNET)
    mark("import and load")
    inputs = unet_inputs(module.config, place.side)

    def call(params: Any, inputs: dict[str, Any]) -> Any:
        told = Condition(inputs["states"], inputs.get("pooled"), inputs.get("sizes"))
        return module.apply({"params": params}, inputs["latents"], inputs["timesteps"], told)

    program = jax.jit(call).lower(params, inputs).compile()
    mark("compile")
    output = np.asarray(program(params, inputs))
    mark("call")
    np.savez(place.call, output=output, **inputs)
    return {"output_scale": float(np.abs(output).max())}


def unet_inputs(config: Any, side: int) -> dict[str, Any]:
    """For two examples, with latents of so many positions a side."""
    import numpy as np

    draw = np.random.default_rng(0)
    inputs = {
        "latents": draw.standard_normal((2, side, side, config.in_channels), np.float32),
        "timesteps": np.array([981, 21], np.int32),
        "states": draw.standard_normal((2, 77, config.cross_attention_dim), np.float32),
    }
    if config.takes_sizes:
        inputs["pooled"] = draw.standard_normal((2, config.pooled_channels(6)), np.float32)
        inputs["sizes"] = np.array([[1024, 768, 0, 13, 1024, 1024], [431, 512, 7, 0, 512, 384]], np.float32)
    return inputs


def torch(place: Place, mark: Journal) -> dict[str, Any]:
    """The same call by PyTorch diffusers, where it is installed, and how far apart the two are."""
    try:
        import diffusers
        import torch
        from safetensors import safe_open
    except ImportError as error:
        return {"skipped": f"{error.name} is not installed"}
    import numpy as np

    mark("import")
    (file,) = (place.model / "unet").glob("*.safetensors")
    with torch.device("meta"):  # no memory for weights that are replaced at once
        network = diffusers.UNet2DConditionModel(**SIZES[place.size]["unet"])
    names = network.state_dict()
    with safe_open(file, "pt") as weights:
        network.load_state_dict({name: weights.get_tensor(name).float() for name in names}, assign=True)
    network.eval()
    mark("load")
    with np.load(place.call) as call, torch.inference_mode():
        given = {name: torch.from_numpy(call[name]) for name in call.files if name != "output"}
        told = {"text_embeds": given["pooled"], "time_ids": given["sizes"]} if "pooled" in given else None
        latents, timesteps, states = given["latents"].permute(0, 3, 1, 2), given["timesteps"], given["states"]
        theirs = network(latents, timesteps, states, added_cond_kwargs=told).sample.permute(0, 2, 3, 1).numpy()
        mark("call")
        return {"difference_per_scale": float(np.abs(call["output"] - theirs).max() / np.abs(theirs).max())}


def compiled(place: Place, mark: Journal) -> dict[str, Any]:
    """The training step of the whole UNet, by shapes alone: processor seconds of tracing and of compiling it."""
    import jax

    from dreambooth_jax.config import load_config
    from dreambooth_jax.prepare.model import describe_model
    from dreambooth_jax.target import Target
    from dreambooth_jax.train_setup import build_train_setup, mapper_of

    told = [f"model.path={write_skeleton(place.folder / 'shapes', place.size)}", "data.class_noun=dog"]
    told += [f"data.resolution={place.pixels}", "text_encoder.stop=0", "train.remat=blocks", "train.dtype=float32"]
    config, target = load_config(None, told), Target.of(jax.devices()[:1])
    setup = build_train_setup(config, describe_model(config, target), mapper_of(config, target))
    mark("import and describe")
    (active,), (size,) = setup.steps, setup.buckets
    start = time.process_time()
    program = setup.lower(active, size)
    mark("trace")
    traced = time.process_time()
    program.compile()
    mark("compile")
    return {"trace_cpu_seconds": traced - start, "compile_cpu_seconds": time.process_time() - traced}


def sample(place: Place, mark: Journal) -> dict[str, Any]:
    """A guided picture in two steps; the second time without compiling."""
    import numpy as np

    pipe, size = open_model(place, mark), {"height": place.pixels, "width": place.pixels}
    for what in ("compile and sample", "sample"):
        picture = pipe("a photo of a dog", steps=2, guidance_scale=7.5, output="float32", **size)
        mark(what)
    assert np.isfinite(picture).all(), "the picture has pixels that are not finite"
    return {"picture": list(picture.shape), "spread": float(picture.std())}


def train(place: Place, mark: Journal) -> dict[str, Any]:
    """The trainer's own first two steps: one photo and one class image each, the whole UNet, AdamW, float32.

    What ``dreambooth_jax.train`` does, but for writing checkpoints and the result.
    """
    from dreambooth_jax import config, rng
    from dreambooth_jax.prepare.prepared import prepare
    from dreambooth_jax.runs import RunFolder
    from dreambooth_jax.target import Target
    from dreambooth_jax.trainer.training import set_up
    from dreambooth_jax.training.interrupt import Interrupt
    from dreambooth_jax.training.parallel import make_mapper

    mark("import")
    pixels = place.pixels
    with TemporaryDirectory(dir=place.folder) as scratch:
        settings = config.Config(
            run_dir=f"{scratch}/run",
            model=config.ModelConfig(path=str(place.model)),
            data=config.DataConfig(
                instance_images=draw_photo(f"{scratch}/dog", pixels), class_noun="dog", resolution=pixels
            ),
            prior=config.PriorConfig(class_images=draw_photo(f"{scratch}/class", pixels), num_images=1),
            train=config.TrainConfig(steps=TRAINING_STEPS, remat="blocks"),
        )
        run = RunFolder(Path(settings.run_dir))
        mapper = make_mapper("auto", Target.here())
        prepared = prepare(settings, run, Interrupt(), mapper)
        assert prepared is not None, "nobody interrupts"
        mark("load, encode pictures")
        training, trainable = set_up(settings, prepared, mapper)
        del prepared  # the last one to hold the weights that the state owns now
        state = mapper.place(training.setup.fresh_state(trainable))
        del trainable
        phase_inputs = training.inputs_for(training.setup.phases[0], state)
        mark("state, encode prompts")
        losses = []
        for step in range(TRAINING_STEPS):
            batch = mapper.place_batch(phase_inputs.data.batch_at(step))
            state, metrics = phase_inputs.step(state, phase_inputs.frozen, batch, rng.root_key(settings.train.seed))
            losses.append(float(metrics["loss"]))
            mark("step" if step else "compile and step")
    assert all(map(math.isfinite, losses)), f"losses {losses}"
    return {"losses": losses, "grad_norm": float(metrics["grad_norm"])}


def draw_photo(folder: str, pixels: int) -> str:
    """A new folder with one picture, of soft noise."""
    import numpy as np
    from PIL import Image

    Path(folder).mkdir()
    blocks = np.random.default_rng(zlib.crc32(Path(folder).name.encode())).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(blocks).resize((pixels, pixels), Image.Resampling.BICUBIC).save(f"{folder}/0.png")
    return folder


STAGES: dict[str, Stage] = {stage.__name__: stage for stage in (build, load, unet, torch, compiled, sample, train)}
