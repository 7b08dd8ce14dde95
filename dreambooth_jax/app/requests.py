# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What somebody asks for on the page, as command lines in the queue. No word of a client is a place of a file."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth_jax.app.jobs import ACTIVE, Job
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.app.recipes import SHARES, recipe
from dreambooth_jax.app.uploads import take
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import load_config
from dreambooth_jax.config.setting import check_arguments
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.prompts.named import expanded

_ADAPTER = re.compile(r"<\s*(lora|lyco)\s*:", re.IGNORECASE)
_HIDDEN = re.compile(r"(?=.*<)(?=.*[{\\])", re.DOTALL)
"""Of what is drawn between braces and put together, an adapter may come."""
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""What no command line holds."""
LONGEST = 2000
"""Characters of a prompt."""
MOST_PICTURES, MOST_STEPS = 16, 150


@dataclass(frozen=True)
class Desk:
    """Where requests of everybody come in.

    Attributes:
        queue: that they wait in.
        folder: with a folder for each owner.
        configs: names of what can be trained.
    """

    queue: Queue
    folder: Path
    configs: Sequence[str]

    def __post_init__(self) -> None:
        """See that each can be trained on photos of one subject.

        Raises:
            InputError: naming the first that cannot.
        """
        for name in self.configs:
            try:
                check_config(load_config(name, ["data.instance_images=photos", "data.class_noun=dog"]))
            except InputError as error:
                raise InputError(f"configs: {name}: {error}") from None

    def train(
        self, owner: str, sent: Sequence[str | Path], *, config: str, noun: str, identifier: str, quality: int
    ) -> Job:
        """Ask for a training.

        Raises:
            InputError: naming what is wrong of the photos, the words or the settings.
        """
        self._check_offered(config)
        if not noun.strip():
            raise InputError("say what the photos show, in one word, such as dog")
        if quality not in SHARES:
            raise InputError(f"quality {quality} is not one of {', '.join(map(str, SHARES))}")
        _check_text("what the photos show", noun)
        _check_text("the word for this one", identifier)
        place = self.folder / owner
        photos = take(sent, place / "photos")
        run = place / "runs" / secrets.token_hex(8)
        words = [f"data.instance_images={photos}", f"data.class_noun={noun.strip()}", f"run_dir={run}"]
        words += [f"data.identifier={identifier.strip()}"] if identifier.strip() else []
        words += recipe(load_config(config), quality)
        check_config(load_config(config, words))
        return self.queue.add(owner, ["train", config, *words], run)

    def draw(
        self, owner: str, *, of: int | None, config: str, prompt: str, negative: str, steps: int, guidance: float,
        seed: int, count: int,
    ) -> Job:  # fmt: skip
        """Ask for pictures.

        Args:
            owner: who asks.
            of: number of a training of the same owner; None for the model that ``config`` begins with.
            config: one of those that can be trained.
            prompt, negative: what to draw and what not.
            steps: of the sampler.
            guidance: its scale.
            seed: of the first picture.
            count: pictures.

        Raises:
            InputError: if the prompt names files, something is too large, or the training is of somebody else.
        """
        self._check_offered(config)
        _check_text("the prompt", prompt)
        _check_text("what not to draw", negative)
        if not prompt.strip():
            raise InputError("write what to draw")
        if not (1 <= count * len(expanded([prompt])) <= MOST_PICTURES and 1 <= steps <= MOST_STEPS):
            raise InputError(f"1 to {MOST_PICTURES} pictures of 1 to {MOST_STEPS} steps, not more")
        source = load_config(config).model.path if of is None else self._run(owner, of).folder
        out = self.folder / owner / "pictures" / secrets.token_hex(8)
        told: dict[str, Any] = {
            "steps": steps, "guidance_scale": guidance, "seed": seed, "num_images": count, "out": str(out),
            "negative_prompt": negative,
        }  # fmt: skip
        check_arguments(SampleOptions(source=source, prompts=(prompt,), **told))
        words = [source, *(f"{key}={value}" for key, value in told.items() if value != ""), "--", prompt]
        return self.queue.add(owner, ["sample", *words], out)

    def runs(self, owner: str) -> list[Job]:
        """Trainings of somebody, newest first."""
        return self._newest(owner, "train")

    def drawings(self, owner: str) -> list[Job]:
        """Drawings of somebody, newest first."""
        return self._newest(owner, "sample")

    def again(self, owner: str, number: int) -> Job:
        """The same training again, which goes on where it stopped.

        Raises:
            InputError: if there is none of that number, or it has not ended.
        """
        run = self._run(owner, number)
        if any(job.folder == run.folder and job.state in ACTIVE for job in self.runs(owner)):
            raise InputError("it waits or runs already")
        return self.queue.add(owner, run.words, Path(run.folder))

    def _newest(self, owner: str, verb: str) -> list[Job]:
        return [job for job in reversed(self.queue.of(owner)) if job.words[0] == verb]

    def _check_offered(self, config: str) -> None:
        if config not in self.configs:
            raise InputError(f"{config!r} is not one of {', '.join(self.configs)}")

    def _run(self, owner: str, number: int) -> Job:
        found = next((job for job in self.runs(owner) if job.number == number), None)
        if found is None:
            raise InputError(f"you have no training {number}")
        return found


def _check_text(what: str, text: str) -> None:
    if len(text) > LONGEST:
        raise InputError(f"{what} has {len(text)} characters: at most {LONGEST}")
    if _NO_TEXT.search(text):
        raise InputError(f"{what} has a sign that is no text")
    if _ADAPTER.search(text):
        raise InputError(f"{what} has <lora:...>, which names a file: leave it out")
    if _HIDDEN.match(text):
        raise InputError(f"{what} has < and a brace or a backslash: leave one of them out")
