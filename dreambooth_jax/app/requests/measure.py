# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Asking how good a training is, and what is wrong with it; and what the verbs told of it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from dreambooth_jax.app.jobs import Job
from dreambooth_jax.app.progress import placeless
from dreambooth_jax.app.requests.desk import Desk
from dreambooth_jax.errors import InputError

MOST_PICTURES = 8
"""Of each prompt."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A verb that looks at a run.

    Attributes:
        words: settings besides the run, the pictures of each prompt and the folder.
        report: (desk, job that is done) -> a page of HTML in which every text is escaped; empty without one.
    """

    words: tuple[str, ...] = ()
    report: Callable[[Desk, Job], str]


def measure(desk: Desk, owner: str, verb: str, *, of: int, count: int) -> Job:
    """Ask for a verb of ``MEASURES``.

    Args:
        desk: that is asked.
        owner: who asks.
        verb: a key of ``MEASURES``.
        of: number of a training of the same owner, or of one that is shared; 0 is the newest.
        count: pictures of each prompt.

    Raises:
        InputError: if there is no such training, nothing was saved of it yet, or it is too much.
    """
    if verb not in MEASURES:
        raise InputError(f"{verb!r} is not one of {', '.join(MEASURES)}")
    if not 1 <= count <= MOST_PICTURES:
        raise InputError(f"{count} pictures of each prompt: 1 to {MOST_PICTURES}")
    desk.saved(owner, of)
    run = desk.run(owner, of)
    out = desk.measured(owner) / f"{Path(run.folder).name}-{verb}"  # the same again goes on where it was stopped
    words = [run.folder, f"out={out}", f"num_images={count}", *MEASURES[verb].words]
    return desk.queue.add(owner, [verb, *words], out)


def report(desk: Desk, job: Job) -> str:
    """What a verb told, as HTML; empty if it has not ended well."""
    return MEASURES[job.words[0]].report(desk, job) if job.state == "done" else ""


def _scores(desk: Desk, job: Job) -> str:
    """The report that ``evaluate`` wrote, in a frame in which nothing runs."""
    file = Path(job.folder) / "report.html"
    text = file.read_text().replace(f"{escape(str(desk.folder))}/", "") if file.exists() else ""
    style = "width: 100%; height: 80vh; border: 0; background: Canvas"
    return f'<iframe title="Scores" sandbox="" style="{style}" srcdoc="{escape(text)}"></iframe>' if text else ""


def _findings(desk: Desk, job: Job) -> str:
    """What ``doctor json=true`` printed last, as a list."""
    _, found, told = desk.queue.files.log(job).read_text(errors="replace").rpartition("\n[\n")
    try:
        records = json.loads(f"[{told}") if found else []
    except ValueError:
        return ""
    return "".join(map(_paragraphs, records))


def _paragraphs(record: dict[str, Any]) -> str:
    items = [
        f"<li><strong>{_shown(one['what'])}</strong><br>because {_shown('; '.join(one['evidence']))}"
        f"<br>change: {_shown(one['change'])}</li>"
        for one in record["findings"]
    ]
    list_ = f"<ol>{''.join(items)}</ol>" if items else "<p>Nothing is wrong that could be seen.</p>"
    unseen = [f"<li>{_shown(what)}</li>" for what in record["not_looked_at"]]
    return list_ + (f"<p>Not looked at:</p><ul>{''.join(unseen)}</ul>" if unseen else "")


def _shown(text: str) -> str:
    return escape(placeless(text))


MEASURES = {
    "evaluate": Measure(report=_scores),
    "doctor": Measure(words=("json=true",), report=_findings),
}
"""Verb -> what it is asked and what it tells."""
