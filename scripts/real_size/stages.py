# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is measured. Libraries are imported late: the process that starts the stages must stay small."""

import resource
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_size.model import SIZES, write_model

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
    def call(self) -> Path:
        """Inputs and output of our UNet."""
        return self.folder / "unet.npz"

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
    parameters = write_model(place.model, place.size)
    mark("draw and write")
    return {"parameters": parameters, "file_gb": place.file_gb}


def open_model(place: Place, mark: Journal) -> Any:
    """A pipeline, with the libraries' own memory apart from the model's."""
    import jax
    import transformers  # noqa: F401  what reads the tokenizer

    import dreambooth_jax as dbx

    jax.devices()
    mark("import")
    pipe = dbx.load_pretrained(place.model)
    jax.block_until_ready(pipe.params)
    mark("load")
    return pipe


def load(place: Place, mark: Journal) -> dict[str, Any]:
    open_model(place, mark)
    libraries, everything = (entry["peak_gb"] for entry in mark.entries)
    ratio = (everything - libraries) / place.file_gb
    return {"file_gb": place.file_gb, "import_gb": libraries, "memory_per_file_size": ratio}


def unet(place: Place, mark: Journal) -> dict[str, Any]:
    import jax
    import numpy as np

    pipe = open_model(place, mark)
    config, draw = pipe.unet.config, np.random.default_rng(0)
    inputs = {
        "latents": draw.standard_normal((2, config.sample_size, config.sample_size, config.in_channels), np.float32),
        "timesteps": np.array([981, 21], np.int32),
        "text": draw.standard_normal((2, 77, config.cross_attention_dim), np.float32),
    }
    call = jax.jit(lambda params, *inputs: pipe.unet.apply({"params": params}, *inputs))
    program = call.lower(pipe.params["unet"], *inputs.values()).compile()
    mark("compile")
    output = np.asarray(program(pipe.params["unet"], *inputs.values()))
    mark("call")
    np.savez(place.call, output=output, **inputs)
    return {"output_scale": float(np.abs(output).max())}


def torch(place: Place, mark: Journal) -> dict[str, Any]:
    try:
        import diffusers
        import torch
    except ImportError as error:
        return {"skipped": f"{error.name} is not installed"}
    import numpy as np

    mark("import")
    network = diffusers.UNet2DConditionModel.from_pretrained(place.model, subfolder="unet")
    mark("load")
    with np.load(place.call) as call, torch.inference_mode():
        latents, timesteps, text = (torch.from_numpy(call[name]) for name in ("latents", "timesteps", "text"))
        theirs = network(latents.permute(0, 3, 1, 2), timesteps, text).sample.permute(0, 2, 3, 1).numpy()
        mark("call")
        return {"difference_per_scale": float(np.abs(call["output"] - theirs).max() / np.abs(theirs).max())}


def sample(place: Place, mark: Journal) -> dict[str, Any]:
    pipe = open_model(place, mark)
    for what in ("compile and sample", "sample"):
        picture = pipe("a photo of a dog", steps=2, guidance_scale=7.5)
        mark(what)
    return {"picture": list(picture.shape), "levels": len(set(picture.reshape(-1).tolist()))}


def train(place: Place, mark: Journal) -> dict[str, Any]:
    import jax

    from dreambooth_jax import config, rng
    from dreambooth_jax.preparation import prepare
    from dreambooth_jax.runs import RunFolder
    from dreambooth_jax.trainer import Training
    from dreambooth_jax.training.interrupt import Interrupt
    from dreambooth_jax.training.parallel import make_mapper

    mark("import")
    pixels = SIZES[place.size]["vae"]["sample_size"]
    settings = config.Config(
        run_dir=str(place.folder / "run"),
        model=config.ModelConfig(path=str(place.model)),
        data=config.DataConfig(instance_images=draw_photo(place, "dog", pixels), class_noun="dog", resolution=pixels),
        prior=config.PriorConfig(class_images=draw_photo(place, "class", pixels), num_images=1),
        train=config.TrainConfig(steps=TRAINING_STEPS, remat=True),
    )
    run = RunFolder(Path(settings.run_dir))
    prepared = prepare(settings, run, Interrupt())
    assert prepared is not None, "nobody interrupts"
    mark("load, encode pictures")
    training = Training(settings, run, prepared, make_mapper("auto"))
    del prepared  # with the weights that the state owns now
    state, key = training.state, rng.root_key(0)
    equipment = training.equip(training.phases[0], state)
    mark("state, encode prompts")
    losses = []
    for step in range(TRAINING_STEPS):
        batch = training.mapper.place_batch(equipment.data.batch_at(step))
        state, metrics = equipment.step(state, equipment.frozen, batch, key)
        losses.append(float(jax.block_until_ready((state, metrics))[1]["loss"]))
        mark("step" if step else "compile and step")
    return {"losses": losses, "grad_norm": float(metrics["grad_norm"])}


def draw_photo(place: Place, name: str, pixels: int) -> str:
    """A folder with one picture of soft noise."""
    import numpy as np
    from PIL import Image

    folder = place.folder / "photos" / name
    folder.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(blocks).resize((pixels, pixels), Image.Resampling.BICUBIC).save(folder / "0.png")
    return str(folder)


STAGES: dict[str, Stage] = {stage.__name__: stage for stage in (build, load, unet, torch, sample, train)}
