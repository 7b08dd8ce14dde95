#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Draw the gallery of the documentation with the embedded model: docs/gallery.md and its pictures.

    python scripts/gallery.py [--output docs]

Each picture is one command, which stands beside it. A CPU takes a few minutes.
"""

import argparse
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dreambooth_jax.cli import main as dreambooth_jax

LARGEST = 300_000
"""Bytes of a picture."""
SUBJECT = Path(__file__).parents[1] / "dreambooth_jax" / "embedded" / "subject" / "subject_1.png"


class Sheet(NamedTuple):
    """One picture of the gallery."""

    name: str
    title: str
    text: str
    command: str
    """Of ``dreambooth-jax``, without --out."""


SHEETS = (
    Sheet(
        "samplers",
        "Samplers and steps",
        "The same seed by nine samplers. Those of second and third order are there after fewer steps; those that add\n"
        "noise on the way (euler_a, dpmpp_2m_sde) draw another picture with each number of steps; lcm is made for\n"
        "networks that were distilled for it, which this one was not.",
        'sample embedded "a red car on the grass" guidance_scale=4 --grid "'
        'sampler=ddim,euler,euler_a,heun,lms,dpmpp_2m,dpmpp_2m_sde,unipc,lcm steps=3,5,8,15,30"',
    ),
    Sheet(
        "schedules",
        "Schedules and steps",
        "Which noise levels dpmpp_2m visits. This model begins with noise alone, an infinite ratio of noise to\n"
        "picture; formulas of that ratio (karras, exponential, beta) spend steps there, those of timesteps do not.",
        'sample embedded "a red car on the grass" guidance_scale=4 sampler=dpmpp_2m --grid "'
        'schedule=model,karras,exponential,uniform,sgm_uniform,simple,beta,align_your_steps steps=4,6,10,20"',
    ),
    Sheet(
        "matrix",
        "A matrix of three settings",
        "Any two or three settings vary; with a run folder also its checkpoints: `step=400,800,1200`.",
        'sample embedded "a blue robot in the snow" sampler=dpmpp_2m steps=15 --grid "'
        'guidance=1,2,4,8 seed=0,1,2,3 guidance_rescale=0,0.7"',
    ),
    Sheet(
        "prompts",
        "Emphasis",
        "What stands in brackets counts more or less.",
        'sample embedded sampler=dpmpp_2m steps=15 guidance_scale=4 --grid "'
        "prompt='a cat next to a dog on the beach;a (cat:1.5) next to a dog on the beach;"
        "a cat next to a (dog:1.5) on the beach' seed=0,1,2,3\"",
    ),
    Sheet(
        "img2img",
        "From a picture",
        "![the picture that it begins with](gallery/subject.png) changes the more, the larger the strength is.",
        'sample embedded "a red robot in the snow" image=docs/gallery/subject.png width=64 height=64 sampler=dpmpp_2m '
        'guidance_scale=4 --grid "seed=0,1 strength=0.2,0.4,0.5,0.6,0.7,0.8,1"',
    ),
    Sheet(
        "inpaint",
        "A part of a picture anew",
        "![the picture](gallery/subject.png) ![the mask](gallery/mask.png) White is drawn anew, black stays.",
        'sample embedded "a alien in the snow" image=docs/gallery/subject.png mask=docs/gallery/mask.png '
        'width=64 height=64 mask_blur=1 sampler=dpmpp_2m guidance_scale=4 --grid "strength=0.8,1 seed=0,1,2,3,4"',
    ),
    Sheet(
        "outpaint",
        "More of a picture",
        "![the picture](gallery/subject.png) 32 pixels more at either side.",
        'sample embedded "a cat next to a alien on a yellow background" image=docs/gallery/subject.png '
        'outpaint_left=32 outpaint_right=32 mask_blur=1 sampler=dpmpp_2m guidance_scale=4 --grid "seed=0,1,2,3"',
    ),
)


def draw_sources(folder: Path) -> None:
    """The picture that others begin with, at the model's size, and a mask of what is not the subject."""
    with Image.open(SUBJECT) as image:
        subject = image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
    subject.save(folder / "subject.png", optimize=True)
    pixels = np.asarray(subject).astype(int)
    background = np.abs(pixels - pixels[0, 0]).max(axis=-1) < 48
    Image.fromarray(np.where(background, 255, 0).astype(np.uint8)).save(folder / "mask.png", optimize=True)


def draw_sheet(sheet: Sheet, output: Path) -> None:
    """Run a command, and keep its picture."""
    words = [word.replace("docs/gallery", str(output / "gallery")) for word in shlex.split(sheet.command)]
    with tempfile.TemporaryDirectory() as work:
        if dreambooth_jax([*words, f"--out={work}"]) != 0:
            raise SystemExit(f"{sheet.name} was not drawn")
        file = output / "gallery" / f"{sheet.name}.png"
        shutil.copyfile(Path(work) / "grid.png", file)
    with Image.open(file) as image:
        assert len(np.unique(np.asarray(image))) > 16, f"{sheet.name} shows nothing"
    assert file.stat().st_size <= LARGEST, f"{sheet.name} is larger than {LARGEST} bytes"


def page() -> str:
    """docs/gallery.md."""
    parts = [
        "# Gallery",
        "Drawn by `scripts/gallery.py` with the embedded model, a tiny Stable Diffusion for pictures of 64 × 64\n"
        "pixels that was trained on a CPU: what settings do, not how good pictures can be. Each is one command.",
    ]
    for sheet in SHEETS:
        parts += [
            f"## {sheet.title}",
            sheet.text,
            f"```bash\ndreambooth-jax {sheet.command}\n```",
            f"![{sheet.title}](gallery/{sheet.name}.png)",
        ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Draw all, or some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs", help="the folder docs")
    parser.add_argument("--only", nargs="*", choices=[sheet.name for sheet in SHEETS], help="draw these again")
    arguments = parser.parse_args()
    (arguments.output / "gallery").mkdir(parents=True, exist_ok=True)
    draw_sources(arguments.output / "gallery")
    for sheet in SHEETS:
        if arguments.only is None or sheet.name in arguments.only:
            draw_sheet(sheet, arguments.output)
    (arguments.output / "gallery.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
