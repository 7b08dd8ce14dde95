# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is compiled: which model, trained how, for which devices."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth_jax.hardware import CHIPS

MODELS = {
    "sd15": ("Stable Diffusion 1.5, 512²", 512),
    "sd21": ("Stable Diffusion 2.1, 768²", 768),
    "sdxl": ("Stable Diffusion XL, 1024²", 1024),
}
"""Model -> (title, pixels)."""
IN_EVERY_WAY = ("sd15", "sd21")
"""Models that are compiled for all devices in all ways; of others :data:`CHOSEN` has what people ask for."""
SINGLE = ("h100", "a100-40", "a100-80", "l4", "rtx4090")
EIGHT = ("h100:8", "a100-80:8")
SLICES = ("v5e:2x2", "v6e:2x2", "v5e:4x4")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training step.

    Attributes:
        target: devices, as for ``dreambooth-jax plan --target``.
        model: a key of ``MODELS``.
        text_encoder: trained too.
        remat: ``nothing`` or ``blocks``.
        parallel: ``auto``, ``pmap`` or ``fsdp``.
        batch: instance examples over all devices; as many class examples come on top.
        adapter: ``full``, or ``lora`` of rank 16 in the UNet.
        moments: dtype of AdamW's.
    """

    target: str
    model: str
    text_encoder: bool = False
    remat: str = "nothing"
    parallel: str = "auto"
    batch: int = 1
    adapter: str = "full"
    moments: str = "float32"

    @property
    def pixels(self) -> int:
        """Side of the pictures."""
        return MODELS[self.model][1]

    @property
    def settings(self) -> list[str]:
        """``KEY=VALUE`` of the run."""
        return [
            "data.class_noun=dog",
            f"data.resolution={self.pixels}",
            f"text_encoder.stop={-1 if self.text_encoder else 0}",
            f"train.remat={self.remat}",
            f"train.parallel={self.parallel}",
            f"train.batch_size={self.batch}",
            f"adapter.kind={self.adapter}",
            "adapter.rank=16",
            f"optimizer.moments={self.moments}",
        ]


_XL_LORA = {"model": "sdxl", "adapter": "lora", "remat": "blocks"}
_XL_FULL = {"model": "sdxl", "remat": "blocks"}
CHOSEN = (
    *(Job(target=target, **_XL_LORA) for target in ("rtx4090", "h100", "a100-40")),
    Job(target="rtx4090:4", **_XL_FULL, parallel="fsdp", batch=2, moments="bfloat16"),
    Job(target="v5e:2x4", **_XL_FULL, parallel="fsdp", batch=4),
    *(Job(target=target, **_XL_FULL, moments="bfloat16") for target in ("h100", "a100-40")),
    Job(target="v6e:2x2", **_XL_FULL, parallel="fsdp", batch=2),
    *(Job(target=target, **_XL_LORA, batch=n) for target, n in (("v5e:2x4", 4), ("v6e:2x2", 2))),
)


def all_jobs() -> Iterator[Job]:
    """The most asked-for first."""
    yield from CHOSEN
    for model in IN_EVERY_WAY:
        for batch in (1, 8):
            for text_encoder in (False, True):
                for remat in ("nothing", "blocks"):
                    for target in SINGLE:
                        yield Job(target=target, model=model, text_encoder=text_encoder, remat=remat, batch=batch)
    for target in EIGHT:
        for parallel in ("pmap", "fsdp"):
            yield Job(target=target, model="sd15", parallel=parallel, batch=8)
    for target in SLICES:
        chips = 16 if target.endswith("4x4") else 4
        for model in IN_EVERY_WAY:
            for text_encoder in (False, True):
                for remat in ("nothing", "blocks"):
                    for each in (1, 8):
                        yield Job(
                            target=target,
                            model=model,
                            text_encoder=text_encoder,
                            remat=remat,
                            parallel="fsdp",
                            batch=chips * each // 2,
                        )


def chip_of(target: str) -> Any:
    """The data sheet of a target's devices."""
    return CHIPS[target.partition(":")[0]]


def read(file: Path) -> list[dict[str, Any]]:
    """Rows: a job's fields under ``job``, the step's plan under ``plan``."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def missing(file: Path, target: str, models: list[str]) -> list[Job]:
    """Jobs of a target and of these models that have no row."""
    done = [Job(**row["job"]) for row in read(file)]  # older rows lack fields that have defaults
    return [job for job in all_jobs() if job.target == target and job.model in models and job not in done]
