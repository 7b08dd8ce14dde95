# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The model card, from what was measured and logged: nothing in it is typed by hand."""

import json
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dreambooth_jax.trees import count
from dreambooth_jax.weights.pretrained import Components

from .curves import draw, read_log
from .settings import Data, Settings

_CARD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# The embedded model

A tiny Stable Diffusion ({parameters:.1f} million parameters) in the diffusers layout, for {size}×{size} pictures of
drawn things. It exists so that DreamBooth can be run, tested and measured on a laptop; it knows nothing but the
captions and pictures below. Made by `scripts/pretrain_embedded.py`.

{remark}

## What it was shown
{shown}

    picture := thing [place] where | thing and|next to|above thing where | thing wearing hat where
    thing   := a [small|big] [style] [colour] word
    place   := on the left | on the right | at the top | at the bottom
    where   := on a COLOUR background | on a COLOUR and COLOUR striped|dotted|checkered background
             | on the grass | on the beach | in the snow | in the water | at night | on a table
             | in the desert | in the city | in the forest

Vocabulary: {tokens} byte pairs. Words outside of the captions, `sks` among them, fall into letters that every
{respelt}th caption, spelt in pieces, has trained.

## How it was trained
| stage | steps | batch | hours | pictures a second | loss, first → last tenth |
|---|---|---|---|---|---|
{rows}
{curves}
Autoencoder: {channels} channels, {factor} pixels a latent, scaling factor {scaling_factor}. Denoiser: channels
{unet_channels}, text encoder of {text_layers} layers, width {text_width}; {prediction_type}, noise schedule rescaled
to end in noise alone, {empty:.0%} empty captions; a moving average of the weights ({ema}) is what is shipped.

## Measured
| what | value |
|---|---|
| PSNR of the autoencoder on held-out drawings, composed at random | {psnr:.1f} dB |
| colour of a plain background right | {background_right:.0%} of {background_captions} captions |
| place right | {place_right:.0%} of {place_captions} captions |
| class right, by the judge | {class_right:.0%} of {class_captions} captions, {classes_asked} classes |
| seconds a picture ({sampling}) where it was trained | {seconds_per_picture} |

Background and place are read from pixels by rules that hold for composed pictures; the judge is the small network of
`dreambooth_jax/evaluation/judge.py`, to whom all classes of the drawings with 16 members or more are open.

## Licence
The weights are under Apache-2.0. The drawings are by others, under MIT, Apache-2.0, CC BY 4.0 and CC0: who, and under
what, is in `ATTRIBUTION.txt` and `LICENCES/`, which have to travel with the weights. They were composed, recoloured
and scaled; nobody who made them endorses this model.
"""


def write(settings: Settings, measured: dict[str, Any], *, model: Components, sprites: int, sampling: str) -> None:
    """README.md of the model folder."""
    own, work = settings.denoiser, settings.work
    judged = work / "autoencoder" / f"measured_{settings.autoencoder.stage.steps}.json"
    psnr = json.loads(judged.read_text(encoding="utf-8"))["psnr_held_out"]
    logs = {stage: read_log(work / stage) for stage in ("autoencoder", "denoiser")}
    text = _CARD.format(
        parameters=count(model.params) / 1e6,
        size=settings.grammar.size,
        remark=textwrap.fill(settings.remark, 118),
        shown=textwrap.fill(_shown(settings.data, sprites), 118),
        tokens=model.modules["text_encoder"].config.vocab_size,
        respelt=settings.data.respelt,
        rows="\n".join(_row(log, stage) for stage, log in logs.items()),
        curves=_curves(settings.output / "losses.png", logs),
        channels="-".join(map(str, settings.autoencoder.channels)),
        factor=model.modules["vae"].config.downscale,
        scaling_factor=model.modules["vae"].config.scaling_factor,
        unet_channels="-".join(map(str, own.channels)),
        text_layers=own.text_layers,
        text_width=own.text_width,
        prediction_type=own.prediction_type,
        empty=own.empty_captions,
        ema=own.stage.ema_decay,
        psnr=psnr,
        sampling=sampling,
        **measured,
    )
    (settings.output / "README.md").write_text(text, encoding="utf-8")


def _shown(data: Data, sprites: int) -> str:
    classes = f"{len(data.nouns)} classes ({', '.join(data.nouns)})" if data.nouns else "all classes"
    styles = f"the styles {', '.join(data.styles)}" if data.styles else "all styles"
    return (
        f"{data.count:,} pictures composed of {sprites:,} drawings of {classes} in {styles}, with captions that are "
        "true by construction:"
    )


def _curves(file: Path, logs: dict[str, list[dict[str, Any]]]) -> str:
    """A picture of the losses, and the line that shows it, where it can be drawn."""
    if not find_spec("matplotlib"):
        return ""
    draw(file, logs)
    return f"\n![losses]({file.name})\n"


def _row(log: list[dict[str, Any]], name: str) -> str:
    """What the log of a stage says. Hours count the time between two entries only while it ran."""
    seconds = sum(row["seconds"] for row in log)
    shown = sum(row["examples"] for row in log)
    batch = round(shown / max(sum(row["steps"] for row in log), 1))
    speed = shown / max(seconds, 1e-9)
    some = -(-len(log) // 10)
    begun, ended = (sum(row["loss"] for row in rows) / some for rows in (log[:some], log[-some:]))
    loss = f"{begun:.3g} → {ended:.3g}"
    return f"| {name} | {log[-1]['step']:,} | {batch} | {seconds / 3600:.2f} | {speed:.1f} | {loss} |"
