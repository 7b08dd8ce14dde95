# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""``dreambooth-jax train | prior | plan | sample | export``: parse, call, print.

Exit codes: 0 done (or stopped by a signal, and saved), 2 wrong input (one line), 1 a failure of ours (a traceback).
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth_jax._version import __version__
from dreambooth_jax.config import Config, add_settings, keys, new_parser, parse
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import ExportOptions, SampleOptions
from dreambooth_jax.platforms import leave_out_absent

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


USAGE: dict[str, tuple[str, str, type]] = {
    "train": ("[CONFIG.yaml ...] [KEY=VALUE ...]", "personalise a model, or go on doing so", Config),
    "prior": ("[CONFIG.yaml ...] [KEY=VALUE ...]", "only make the class images", Config),
    "plan": ("[CONFIG.yaml ...] [KEY=VALUE ...] [--target NAME]", "what a run needs of memory and work", Config),
    "sample": ("SOURCE PROMPT [PROMPT ...] [OPTIONS]", "draw pictures and a labelled grid", SampleOptions),
    "export": ("SOURCE OUT [OPTIONS]", "write a folder for diffusers, ComfyUI and A1111", ExportOptions),
}

TARGET_HELP = (
    "Compile for devices that are not here: h100, a100-40:8, h100:2x8 (hosts x cards), v5e:2x2 ...; "
    "needs the extra plan-cuda or plan-tpu."
)

PROCESSES: dict[str, tuple[type, str]] = {
    "coordinator": (str, "HOST:PORT of process 0, the same for all processes; TPU pods and SLURM need none of these."),
    "num_processes": (int, "How many processes run together."),
    "process_id": (int, "Which of them this is, from 0."),
}
"""How the processes of one run find each other: no settings of the run, which is the same on any number of hosts."""


def train(config: Config) -> None:
    """Run, or resume, a training."""
    from dreambooth_jax import trainer

    tell(trainer.train(config))


def prior(config: Config) -> None:
    """Make the class images of a run."""
    from dreambooth_jax.prepare.class_photos import make_class_images

    tell(make_class_images(config))


def tell(folder: Path) -> None:
    """Print the result, once."""
    from dreambooth_jax.distributed import is_main

    if is_main():
        print(folder)


def join_processes(options: dict[str, Any]) -> None:
    """Find the other processes, if there are any; all but process 0 then only warn, and say who they are."""
    import jax

    from dreambooth_jax import distributed

    distributed.start(**options)
    if not distributed.is_main():
        logging.getLogger("dreambooth_jax").setLevel(logging.WARNING)
        for handler in logging.getLogger().handlers:
            handler.setFormatter(logging.Formatter(f"process {jax.process_index()}: %(message)s"))


def plan(config: Config, devices: int | None, target: str | None) -> None:
    """Compile a run without weights, and tell what it needs.

    Raises:
        InputError: if it does not fit.
    """
    if devices is not None:
        import jax

        if target is not None:
            raise InputError(f"--devices {devices} pretends CPUs: leave it out, or --target {target}")
        if devices < 1:
            raise InputError(f"--devices is {devices}, but must be at least 1")
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", devices)
    from dreambooth_jax import planning

    found = planning.plan(config, target=target)
    print(found)
    if not found.fits:
        raise InputError(f"this run {found.verdict}: change what is listed above")


def sample(options: SampleOptions) -> None:
    """Draw pictures and a grid."""
    from dreambooth_jax.evaluation.samples import SampleSettings, draw_rows, save_grid, save_pictures
    from dreambooth_jax.runs import RunFolder, open_model

    prompts = read_prompts(options)
    model = open_model(options.source, step=options.step, ema=options.ema, dtype=options.dtype)
    trained_at = model.config.data.resolution if model.config else None
    settings = SampleSettings(
        prompts=prompts,
        num_images=options.num_images,
        seed=options.seed,
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        negative_prompt=options.negative_prompt,
        sampler=options.sampler,
        eta=options.eta,
        height=options.height or trained_at,
        width=options.width or trained_at,
    )
    rows = draw_rows(model.pipe, settings, params=model.params)
    run = RunFolder(Path(options.source))
    out = Path(options.out) if options.out else (run.path if run.is_run() else Path()) / "samples"
    save_pictures(out, rows, settings, model=model.name)
    save_grid(out / "grid.png", rows, settings, title=model.name)
    print(out / "grid.png")


def read_prompts(options: SampleOptions) -> list[str]:
    """Prompts of the command line, then those of the file.

    Raises:
        InputError: if there is none, or no such file.
    """
    prompts = list(options.prompts)
    if options.prompts_file:
        try:
            lines = Path(options.prompts_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read {options.prompts_file}: {error}") from error
        prompts += [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InputError("no prompt: write it after the model, in quotes, or give --prompts_file=prompts.txt")
    return prompts


def export(options: ExportOptions) -> None:
    """Write a diffusers folder."""
    from dreambooth_jax.export import save_pretrained
    from dreambooth_jax.runs import open_model

    model = open_model(options.source, step=options.step, ema=options.ema)
    save_pretrained(options.out, model.pipe, model.params, format=options.format, dtype=options.dtype)
    print(options.out)


def make_parser() -> "ArgumentParser":
    """The whole command line."""
    root = new_parser(
        prog="dreambooth-jax",
        description="DreamBooth for Stable Diffusion in JAX: a few photos of one subject in, a personalised model out.",
        epilog="dreambooth-jax VERB --help lists all options of a verb.",
        version=__version__,
    )
    verbs = root.add_subcommands(dest="verb", title="verbs", metavar="VERB")
    for verb, (usage, help_text, options) in USAGE.items():
        parser = new_parser(usage=f"dreambooth-jax {verb} {usage}")
        if options is Config:
            add_settings(parser)
            if verb == "plan":
                parser.add_argument("--devices", type=int | None, help="Pretend so many CPU devices.")
                parser.add_argument("--target", type=str | None, help=TARGET_HELP)
            for name, (kind, text) in PROCESSES.items() if verb in ("train", "prior") else ():
                parser.add_argument(f"--{name}", type=kind | None, default=None, help=text)
        else:
            parser.add_class_arguments(options)
        verbs.add_subcommand(verb, parser, help=help_text)
    return root


def normalise(arguments: Sequence[str]) -> list[str]:
    """Bare words to options, by what they mean to their verb.

    train a.yaml train.steps=4         -> train --config=a.yaml --train.steps=4
    sample runs/dog "a dog" "a cat"    -> sample --source=runs/dog --prompts=["a dog", "a cat"]
    export runs/dog model              -> export --source=runs/dog --out=model
    """
    verb, *rest = arguments or [""]
    if verb not in USAGE:
        return list(arguments)
    options, bare = split_bare(rest)
    if USAGE[verb][2] is Config:
        return [verb, *(f"--config={t}" if t.endswith((".yaml", ".yml")) else f"--{t}" for t in bare), *options]
    named = [f"--source={bare[0]}"] if bare else []
    if verb == "export":
        named += [f"--out={text}" for text in bare[1:]]
    elif len(bare) > 1:
        named.append(f"--prompts={json.dumps(bare[1:])}")
    return [verb, *named, *options]


def split_bare(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(options with their values, bare words). ``--key value`` takes the word after it."""
    options: list[str] = []
    bare: list[str] = []
    value_of_option = False
    for text in arguments:
        is_option = text.startswith("-")
        (options if is_option or value_of_option else bare).append(text)
        value_of_option = text.startswith("--") and "=" not in text
    return options, bare


def run(arguments: Sequence[str]) -> None:
    """Parse and do.

    Raises:
        InputError: for wrong input.
    """
    from dreambooth_jax.compilation_cache import keep_compiled
    from dreambooth_jax.deterministic import make_deterministic

    verb = next((word for word in arguments if word in USAGE), "train")
    parsed = parse(make_parser(), normalise(arguments), known=[*keys(USAGE[verb][2]), *PROCESSES, "target"])
    keep_compiled()
    values: dict[str, Any] = {key: value for key, value in parsed[verb].as_dict().items() if key != "config"}
    if "train" in values and values["train"].deterministic:
        make_deterministic()
    if verb == "plan":
        plan(devices=values.pop("devices"), target=values.pop("target"), config=Config(**values))
    elif verb in ("train", "prior"):
        join_processes({name: values.pop(name) for name in PROCESSES})
        {"train": train, "prior": prior}[verb](Config(**values))
    elif verb == "sample":
        sample(SampleOptions(**values))
    else:
        export(ExportOptions(**values))


def quiet_logging() -> None:
    """Our own lines and everybody's warnings, plainly; nothing of what libraries tell of their own doings."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("dreambooth_jax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, *_, **__: str(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code."""
    quiet_logging()
    leave_out_absent()
    # jax takes three quarters of a GPU's memory unless told; a run has nobody to share it with
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    try:
        run(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:
        print(f"dreambooth-jax: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that may not be written: the place is wrong, not the program
        print(f"dreambooth-jax: {error.strerror or error}: {error.filename or 'while writing'}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
