# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The process that ``planning/elsewhere.py`` starts: settings and target on stdin, lines of JSON on stdout.

{"progress": "h100: compiling steps 0 to 800"}        {"plan": ...}        {"error": "one line"}
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import jax

from dreambooth_jax.errors import InputError
from dreambooth_jax.hardware import describe
from dreambooth_jax.hardware.exchanges import Collective
from dreambooth_jax.memory import Usage
from dreambooth_jax.planning.build import build
from dreambooth_jax.planning.elsewhere import PACKAGE, config_of, keep, plans_folder, usable, versions
from dreambooth_jax.planning.measure import Measured, compile_and_read
from dreambooth_jax.planning.members import build_members
from dreambooth_jax.planning.members_result import MembersPlan
from dreambooth_jax.planning.result import Plan
from dreambooth_jax.target import Target

READERS = ("described", "hlo", "loops", "accesses", "exchanges", "programs")


@dataclass(frozen=True)
class Remembering:
    """A :class:`~dreambooth_jax.planning.measure.Compiler` that knows programs which it has measured before.

    Attributes:
        target: name of the devices.
        tell: called with what is being done.
    """

    target: str
    tell: Callable[[str], None]

    def __call__(self, name: str, lower: Callable[[], jax.stages.Lowered], /) -> Measured:
        """Measure a program, unless its text, target and compiler are known."""
        self.tell(f"{self.target}: tracing {name}")
        lowered = lower()
        kept = plans_folder() / "programs" / f"{self._digest(lowered)}.json"
        try:
            return measured_of(json.loads(kept.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        self.tell(f"{self.target}: compiling {name}")
        measured = compile_and_read(lowered)
        keep(kept, asdict(measured))
        return measured

    def _digest(self, lowered: jax.stages.Lowered) -> str:
        # how programs are read, and what their compilers are told, is code, too
        readers = [(PACKAGE / "hardware" / f"{name}.py").read_text() for name in READERS]
        flags = [os.environ.get(variable, "") for variable in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
        parts = [lowered.as_text(), self.target, *flags, *readers]
        return hashlib.sha256("\n".join([*parts, *versions().values()]).encode()).hexdigest()[:32]


def measured_of(content: dict[str, Any]) -> Measured:
    """The inverse of ``asdict``."""
    collectives = tuple(Collective(**one) for one in content["collectives"])
    return Measured(**{**content, "usage": Usage(**content["usage"]), "collectives": collectives})


def answer(question: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Make the plan and tell it, or what is wrong."""
    name = question["target"]
    try:
        chip, devices = describe(name)
        target = Target.of(devices, memory=usable(chip.memory, chip.platform), described=True)
        compiler = Remembering(name, lambda text: tell({"progress": text}))
        config, members = config_of(question["config"]), question.get("members")
        found: Plan | MembersPlan
        if members is None:
            found = build(config, target, compiler=compiler, chip=chip)
        else:
            found = build_members(config, target, members, compiler=compiler, chip=chip)
    except InputError as error:
        tell({"error": str(error)})
    else:
        tell({"plan": found.to_json()})


if __name__ == "__main__":
    sink = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    answer(json.load(sys.stdin), lambda content: print(json.dumps(content), file=sink, flush=True))
