# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What was found, for people and for scripts."""

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from dreambooth_jax.doctor.examine import Examined
from dreambooth_jax.doctor.looks import Looks


def as_text(examined: Sequence[Examined]) -> str:
    """A paragraph for each finding: what, why one thinks so, what to change."""
    return "\n\n".join(_text(one) for one in examined)


def _text(one: Examined) -> str:
    lines = [f"{one.name}: {_count(len(one.findings))}"]
    for number, finding in enumerate(one.findings, 1):
        lines += ["", f"{number}. {finding.what} ({finding.name})"]
        lines += [f"   because   {finding.evidence[0]}", *(f"             {more}" for more in finding.evidence[1:])]
        lines += [f"   change    {finding.change}"]
    if one.unseen:
        lines += ["", "not looked at:", *(f"   {what}" for what in one.unseen)]
    return "\n".join(lines)


def _count(findings: int) -> str:
    if not findings:
        return "nothing is wrong that could be seen"
    return f"{findings} finding{'s' if findings > 1 else ''}; change the first thing first"


def as_json(examined: Sequence[Examined]) -> str:
    """All of it, with the numbers that pictures gave."""
    return json.dumps([_record(one) for one in examined], indent=1, ensure_ascii=False) + "\n"


def _record(one: Examined) -> dict[str, Any]:
    return {
        "name": one.name,
        "findings": [finding._asdict() for finding in one.findings],
        "not_looked_at": list(one.unseen),
        "looks": _numbers(one.patient.looks) if one.patient.looks else None,
    }


def _numbers(looks: Looks) -> dict[str, Any]:
    """JSON has no NaN."""
    values = {field.name: getattr(looks, field.name) for field in fields(looks) if field.name != "naming"}
    values |= {"learnt": looks.learnt, "leaked": looks.leaked}
    known = {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in values.items()}
    return known | {"naming": looks.naming._asdict() if looks.naming else None}
