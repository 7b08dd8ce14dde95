#!/usr/bin/env python
# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Do the experiments of configs/experiments with the embedded model, and write docs/experiments.md and its pictures.

    python scripts/experiments.py [--work runs] [NAME ...]      of configs/experiments/NAME_embedded.yaml; or all

Each is one command of ``dreambooth-jax``, which stands beside it, and another one before it where it needs a model that
does not ship; what is done is not done again. A CPU takes a few minutes for each.
"""

import argparse
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from dreambooth_jax.cli import main as dreambooth_jax
from dreambooth_jax.sweeps.overview import interval

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs" / "experiments"
LARGEST = 300_000
"""Bytes of a picture."""
COLOURS = (256, 128, 64, 32)
REPLICATE = "train.seed"
"""Said to be varied, but of no interest in itself."""
SEEN = {
    "rates_and_steps": "the subject's eye is there only at the higher rate, after 200 steps, at a guidance scale of 6.",
    "dog_places": "with the subject's loss alone, an alien on a red background has become the subject; with both terms "
    "it is another alien still.",
    "base_models": "the subject is itself on either model, and poorest at three quarters of the size, where the loss "
    "on smaller photos says nothing of it. What is not the subject stays as the model draws it: green, or chalk.",
    "class_prompts": "where green pictures are called by the class alone, the class itself becomes plain green.",
}
"""What was seen in pictures that are there, by eye."""
HEAD = """# The founding experiments, with the embedded model

Made by `python scripts/experiments.py`. Each experiment has two files that ask the same: `NAME.yaml` for Stable
Diffusion, with the settings of the document that it is from where this has them, and `NAME_embedded.yaml`, whose
results are here. None has been run with Stable Diffusion.

The score is the loss on a photo that was held out, at fixed noise and timesteps: lower is better. *Less* is the mean
difference from a setting's first value, all else equal, with its 95 % interval (Student's t). It is *lower* or *higher*
where zero is not in the interval, and *open* where it is. One subject and two seeds: nearly all is open, and pictures
say more than numbers. What some of the same settings do to nine subjects is in the [study](study.md).
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """What is missing, then the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = sorted(file.stem.removesuffix("_embedded") for file in CONFIGS.glob("*_embedded.yaml"))
    parser.add_argument("names", nargs="*", help=f"of {', '.join(every)}")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the page goes")
    options = parser.parse_args(arguments)
    for name in options.names or every:
        file = CONFIGS / f"{name}_embedded.yaml"
        run = options.work / f"{name}_embedded"
        *before, _ = (words_of(command) for command in commands_of(file))
        for words in (*before, ["sweep", *base_of(file), str(file), f"run_dir={run}"]):
            if dreambooth_jax(words):
                raise SystemExit(f"{name} did not come to its end; the same command goes on")
    pictures = options.docs / "experiments"
    pictures.mkdir(parents=True, exist_ok=True)
    found = {name: options.work / f"{name}_embedded" for name in every}
    done = {name: run for name, run in found.items() if (run / "overview.json").exists()}
    for name, run in done.items():
        save_small(run / "grid.png", pictures / f"{name}.png")
    sections = [section(name, run) for name, run in done.items()]
    (options.docs / "experiments.md").write_text("\n".join([HEAD, *sections]), encoding="utf-8")


def base_of(file: Path) -> list[str]:
    """The configurations that an experiment changes, by the command in its file."""
    return words_of(commands_of(file)[-1])[1:-1]


def words_of(command: str) -> list[str]:
    """What ``dreambooth-jax`` is told."""
    return shlex.split(command.replace("\\\n", ""))[1:]


def commands_of(file: Path) -> list[str]:
    """The commands in the comment that a file begins with: what makes its models, if any, and the sweep."""
    indented = re.findall(r"^#   (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return re.split(r"(?<!\\)\n", "\n".join(indented))


def asked(file: Path) -> str:
    """What the comment says before the command."""
    before = file.read_text(encoding="utf-8").split("#   dreambooth-jax")[0]
    return " ".join(line.removeprefix("#").strip() for line in before.splitlines())


def section(name: str, run: Path) -> str:
    """Of one experiment."""
    file = CONFIGS / f"{name}_embedded.yaml"
    said = json.loads((run / "overview.json").read_text(encoding="utf-8"))
    score = said["compared_by"].replace("_", " ")
    commands = "\n".join(commands_of(file))
    lines = [f"## {name.replace('_', ' ').capitalize()}\n", asked(file), f"\n```bash\n{commands}\n```\n"]
    rows = [row for key, values in said["effects"].items() if key != REPLICATE for row in effect_rows(key, values)]
    if rows:
        lines += [f"| | | {score} | less | |", "|---|---|---|---|---|", *rows, ""]
    lines += [f"To be seen in the picture: {SEEN[name]}\n"] if name in SEEN else []
    return "\n".join([*lines, f"![{name}](experiments/{name}.png)\n"])


def effect_rows(key: str, values: Mapping[str, Mapping[str, Any] | None]) -> Iterator[str]:
    """A line for each value of a setting."""
    for text, effect in values.items():
        if effect is None:
            continue
        mean = interval(effect["mean"], effect["half_width"])
        difference, half_width = effect["difference"], effect["difference_half_width"]
        less = "" if difference is None else interval(difference, half_width, "+")
        yield f"| {key} | {text} | {mean} | {less} | {verdict(difference, half_width)} |"


def verdict(difference: float | None, half_width: float | None) -> str:
    """Which side of zero an interval is on."""
    if difference is None or half_width is None:
        return ""
    return "open" if abs(difference) <= half_width else "**lower**" if difference < 0 else "**higher**"


def save_small(picture: Path, file: Path) -> None:
    """In so few colours that it is not too large; if need be, smaller."""
    image = Image.open(picture).convert("RGB")
    while True:
        for colours in COLOURS:
            image.quantize(colours, dither=Image.Dither.NONE).save(file, optimize=True)
            if file.stat().st_size <= LARGEST:
                return
        image = image.resize((image.width * 4 // 5, image.height * 4 // 5), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
