# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Where requests of everybody come in: who has what, and what is offered."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth_jax.app.jobs import Job
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError


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

    def place(self, owner: str) -> Path:
        """Folder of all that somebody has."""
        return self.folder / owner

    def of(self, owner: str, verb: str) -> list[Job]:
        """What somebody asked of a verb, newest first."""
        return [job for job in reversed(self.queue.of(owner)) if job.words[0] == verb]

    def run(self, owner: str, number: int) -> Job:
        """A training of somebody.

        Raises:
            InputError: if there is none of that number, or it is of somebody else.
        """
        found = next((job for job in self.of(owner, "train") if job.number == number), None)
        if found is None:
            raise InputError(f"you have no training {number}")
        return found

    def check_offered(self, config: str) -> None:
        """Is it one of those that can be trained?

        Raises:
            InputError: if not.
        """
        if config not in self.configs:
            raise InputError(f"{config!r} is not one of {', '.join(self.configs)}")
