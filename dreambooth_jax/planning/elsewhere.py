# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A plan for devices that are not here, made by their own compiler in a process of its own.

The compilers read their settings from the environment when jax starts, and may end their process; so they are given
one (``planning/worker.py``). What came of it is kept, under a name made from all that it depends on:

    $XDG_CACHE_HOME or ~/.cache /dreambooth_jax/plans/<digest>.json              a whole plan
    ...                                     /plans/programs/<digest>.json     one program, so that a plan can go on
"""

import dataclasses
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dreambooth_jax.config import Config, to_dict
from dreambooth_jax.config.setting import entry_kind
from dreambooth_jax.errors import InputError
from dreambooth_jax.hardware import environment
from dreambooth_jax.planning.members_result import MembersPlan
from dreambooth_jax.planning.result import Plan

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parents[1]
_VERSIONS = (
    *("jax", "jaxlib", "flax", "optax", "libtpu"),
    *("jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12"),
)
_SETTINGS = ("JAX_", "XLA_", "LIBTPU_", "TPU_")
_ELSEWHERE = (
    "data.instance_images",
    "run_dir",
    "model.path",
    "model.vae",
    "model.unet",
    "model.tokenizer",
)  # what no program depends on


def plan_elsewhere(config: Config, name: str, *, members: int | None = None) -> Plan | MembersPlan:
    """The plan of a run, or of a group of members, on the devices of a name, such as ``h100:8``; at once where it was
    made before.

    Raises:
        InputError: for wrong settings, an unknown name, or a compiler that is not installed.
    """
    surroundings = environment(name)
    kind: type[Plan] | type[MembersPlan] = Plan if members is None else MembersPlan
    about = {} if members is None else {"members": members}
    kept = plans_folder() / f"{_digest(config, name, surroundings, **about)}.json"
    try:
        return kind.from_json(json.loads(kept.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there, or torn
    result = _ask(config, name, surroundings, **about)
    keep(kept, result)
    return kind.from_json(result)


def plans_folder() -> Path:
    """Where plans are kept."""
    from dreambooth_jax.compilation_cache import user_cache

    return user_cache() / "dreambooth_jax" / "plans"


def keep(file: Path, content: Any) -> None:
    """Write JSON, all of it or nothing; a folder that cannot be written to is no reason to fail."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as unfinished:
            json.dump(content, unfinished)
        os.replace(unfinished.name, file)
    except OSError:
        pass


def versions() -> dict[str, str]:
    """Of all that a compiled program depends on."""

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return ""

    return {package: installed(package) for package in _VERSIONS}


def compiler_settings(surroundings: Mapping[str, str]) -> dict[str, str]:
    """Variables that change programs, or the memory that they may have."""
    everything = {**os.environ, **surroundings}
    return {variable: value for variable, value in everything.items() if variable.startswith(_SETTINGS)}


def _digest(config: Config, name: str, surroundings: dict[str, str], **about: int) -> str:
    from dreambooth_jax.pipeline.load import source_of
    from dreambooth_jax.weights.identity import PARTS
    from dreambooth_jax.weights.sources import open_source

    settings = to_dict(config)
    for key in _ELSEWHERE:
        group, _, entry = key.partition(".")
        if entry:
            settings[group].pop(entry)
        else:
            settings.pop(group)
    for concept in settings["data"]["concepts"]:
        concept.pop("instance_images")
    model = config.model
    found = open_source(
        source_of(model.path),
        revision=model.revision,
        tokenizer=model.tokenizer,
        prediction_type=model.prediction_type,
        weights=False,
    )
    parts: list[Any] = [settings, name, about, compiler_settings(surroundings), versions(), sys.version_info[:2]]
    parts.append({**found.configs, "scheduler": found.scheduler_config})
    for name, part in PARTS.items():
        if (other := getattr(model, name)) is not None:
            parts.append({name: {**part.open(source_of(other), weights=False).config}})
    parts.append({str(file.relative_to(PACKAGE)): file.read_text() for file in sorted(PACKAGE.rglob("*.py"))})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _ask(config: Config, name: str, surroundings: dict[str, str], **about: int) -> dict[str, Any]:
    """The worker's answer, with progress on the way."""
    command = [sys.executable, "-m", "dreambooth_jax.planning.worker"]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **surroundings},
        ) as worker,
    ):
        try:
            assert worker.stdin is not None
            assert worker.stdout is not None
            with suppress(BrokenPipeError):  # it ended at once; why is found below
                json.dump({"config": to_dict(config), "target": name, **about}, worker.stdin)
                worker.stdin.close()
            answer = dict(_answer(worker.stdout))
        finally:
            worker.kill()  # also where this process is interrupted; one that is done does not mind
        if "plan" in answer:
            return answer["plan"]
        if "error" in answer:
            raise InputError(answer["error"])
        errors.seek(0)
        last = "\n".join(errors.read().splitlines()[-20:])
        raise RuntimeError(f"the compiler for {name} ended with {worker.wait()}:\n{last}")


def _answer(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """What is no progress. That is shown while the next line is waited for: on a terminal with the time that it takes,
    elsewhere a line each."""
    terminal, done = sys.stderr.isatty(), threading.Event()
    with tqdm(desc="starting", bar_format="{desc}: {elapsed}", dynamic_ncols=True, disable=not terminal) as bar:

        def tick() -> None:
            while not done.wait(1.0):
                bar.refresh()

        ticking = threading.Thread(target=tick, daemon=True)
        ticking.start()
        try:
            for line in lines:
                content = json.loads(line)
                if "progress" not in content:
                    yield from content.items()
                elif terminal:
                    bar.set_description_str(content["progress"])
                else:
                    log.info("%s", content["progress"])
        finally:
            done.set()
            ticking.join()


def usable(chip_memory: int, platform: str) -> int:
    """Bytes of a device that jax lets programs have: of a GPU's a part (``XLA_PYTHON_CLIENT_MEM_FRACTION``)."""
    if platform != "gpu":
        return chip_memory
    return int(chip_memory * float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75")))


def config_of(content: dict[str, Any]) -> Config:
    """The inverse of ``to_dict``."""

    def value_of(kind: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(kind):
            return made(kind, value)
        if entry := entry_kind(kind):
            return tuple(made(entry, one) for one in value)
        return tuple(value) if isinstance(value, list) else value

    def made(kind: Any, values: Any) -> Any:
        types = {entry.name: entry.type for entry in dataclasses.fields(kind)}
        return kind(**{name: value_of(types[name], value) for name, value in values.items()})

    return made(Config, content)
