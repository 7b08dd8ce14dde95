# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What somebody asks for on the page, as command lines in the queue. No word of a client is a place of a file."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth_jax.app.jobs import Job
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.app.recipes import recipe
from dreambooth_jax.app.uploads import take
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError

_ADAPTER = re.compile(r"<\s*(lora|lyco)\s*:", re.IGNORECASE)
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

    def train(
        self, owner: str, sent: Sequence[str | Path], *, config: str, noun: str, identifier: str, quality: int
    ) -> Job:
        """Ask for a training.

        Raises:
            InputError: naming what is wrong of the photos, the words or the settings.
        """
        if config not in self.configs:
            raise InputError(f"{config!r} is not one of {', '.join(self.configs)}")
        if not noun.strip():
            raise InputError("say what the photos show, in one word, such as dog")
        place = self.folder / owner
        photos = take(sent, place / "photos")
        run = place / "runs" / secrets.token_hex(8)
        words = [f"data.instance_images={photos}", f"data.class_noun={noun.strip()}", f"run_dir={run}"]
        words += [f"data.identifier={identifier.strip()}"] if identifier.strip() else []
        words += recipe(config, quality)
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
        for text in (prompt, negative):
            if len(text) > LONGEST:
                raise InputError(f"a prompt has {len(text)} characters: at most {LONGEST}")
            if _ADAPTER.search(text):
                raise InputError("a prompt has <lora:...>, which names a file: leave it out")
        if not prompt.strip():
            raise InputError("write what to draw")
        if not (1 <= count <= MOST_PICTURES and 1 <= steps <= MOST_STEPS):
            raise InputError(f"at most {MOST_PICTURES} pictures of {MOST_STEPS} steps")
        source = load_config(config).model.path if of is None else self._run(owner, of).folder
        out = self.folder / owner / "pictures" / secrets.token_hex(8)
        settings = {
            "steps": steps, "guidance_scale": guidance, "seed": seed, "num_images": count, "out": out,
            "negative_prompt": negative,
        }  # fmt: skip
        options = [f"{key}={value}" for key, value in settings.items() if value != ""]
        return self.queue.add(owner, ["sample", source, *options, "--", prompt], out)

    def runs(self, owner: str) -> list[Job]:
        """Trainings of somebody, newest first."""
        return [job for job in reversed(self.queue.of(owner)) if job.words[0] == "train"]

    def again(self, owner: str, number: int) -> Job:
        """The same training again, which goes on where it stopped.

        Raises:
            InputError: if there is none of that number.
        """
        run = self._run(owner, number)
        return self.queue.add(owner, run.words, Path(run.folder))

    def _run(self, owner: str, number: int) -> Job:
        found = next((job for job in self.runs(owner) if job.number == number), None)
        if found is None:
            raise InputError(f"you have no training {number}")
        return found
