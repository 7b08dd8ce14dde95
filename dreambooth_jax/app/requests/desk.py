# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Where requests of everybody come in: who has what, and what is offered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dreambooth_jax.app.jobs import Job
from dreambooth_jax.app.limits import USUAL, Limits
from dreambooth_jax.app.networks import Network
from dreambooth_jax.app.offers import METHODS, Offer
from dreambooth_jax.app.people import SERVED
from dreambooth_jax.app.queue import Queue
from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config, load_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.runs.folder import RunFolder
from dreambooth_jax.training.checkpoint import complete_steps


@dataclass(frozen=True)
class Desk:
    """Where requests of everybody come in.

    Attributes:
        queue: that they wait in.
        folder: with a folder for each owner.
        configs: names of what can be trained.
        local: is it for this machine alone, whose folders are no secret?
        models: names of models that can be trained by any method, and where they are.
        networks: names of networks that guide what is drawn, and where they are.
        limits: of what may be asked for.
    """

    queue: Queue
    folder: Path
    configs: Sequence[str]
    local: bool = False
    models: Mapping[str, Offer] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    limits: Limits = USUAL

    def __post_init__(self) -> None:
        """See that each can be trained on photos of one subject.

        Raises:
            InputError: naming the first that cannot.
        """
        for kind, names in {"configs": self.configs, "models": self.models}.items():
            for name in names:
                try:
                    check_config(self.settings(name, ["data.instance_images=photos", "data.class_noun=dog"]))
                except InputError as error:
                    raise InputError(f"{kind}: {name}: {error}") from None

    @property
    def offered(self) -> list[str]:
        """Names of all that can be trained."""
        return [*self.configs, *self.models]

    def words(self, name: str, method: str = "") -> list[str]:
        """Words of a command line that trains one of those that are offered.

        Args:
            name: of it.
            method: one of ``METHODS``, for models; by default the first.

        Raises:
            InputError: if there is no such method, or a file of settings is trained as it says itself alone.
        """
        if method and method not in METHODS:
            raise InputError(f"method {method!r} is not one of {', '.join(METHODS)}")
        if name in self.models:
            return [METHODS[method or next(iter(METHODS))], *self.models[name].words]
        if method and load_config(name).adapter.kind != load_config(METHODS[method]).adapter.kind:
            raise InputError(
                f"method {method!r}: {name} is trained as its file says, leave it out or take another model"
            )
        return [name]

    def settings(self, name: str, more: Sequence[str] = (), method: str = "") -> Config:
        """Settings of one of those that are offered.

        Args:
            name: of it.
            more: ``KEY=VALUE``, which win.
            method: as in :meth:`words`.

        Raises:
            InputError: if a setting is wrong.
        """
        file, *own = self.words(name, method)
        return load_config(file, [*own, *more])

    def place(self, owner: str) -> Path:
        """Folder of all that somebody has."""
        return self.folder / owner

    def of(self, owner: str, verb: str) -> list[Job]:
        """What somebody asked of a verb, newest first."""
        return [job for job in reversed(self.queue.of(owner)) if job.words[0] == verb]

    def measured(self, owner: str) -> Path:
        """Folder of what somebody measured: of each training, folders whose names begin as its folder's."""
        return self.place(owner) / "measured"

    @property
    def cache(self) -> Path:
        """Folder that files are served from, to those who were told of them."""
        return self.folder.parent / SERVED

    def own(self, owner: str, number: int) -> Job:
        """A training of somebody, to go on with or to delete.

        Args:
            owner: who asks.
            number: of a training; 0 is the newest.

        Raises:
            InputError: if there is none of that number, or it is of somebody else.
        """
        return _found(self.of(owner, "train"), number)

    def run(self, owner: str, number: int) -> Job:
        """A training of somebody, or one that another shares, to look at and to draw with: as :meth:`own`."""
        return _found([*self.of(owner, "train"), *self.shared(owner)], number)

    def shared(self, owner: str) -> list[Job]:
        """Trainings that others than somebody share, newest first."""
        others = [job for job in self.queue.of_all() if job.owner != owner and job.words[0] == "train"]
        return [job for job in reversed(others) if share_of(job).exists()]

    def saved(self, owner: str, number: int) -> Config:
        """Settings of a training of which something was saved.

        Raises:
            InputError: as :meth:`run`, and before its first checkpoint.
        """
        folder = RunFolder(Path(self.run(owner, number).folder))
        if not folder.is_run() or not complete_steps(folder.checkpoints):
            raise InputError("nothing was saved of that training yet: wait for it, or train further")
        return load_config(folder.config)

    def check_offered(self, config: str) -> None:
        """Is it one of those that can be trained?

        Raises:
            InputError: if not.
        """
        if config not in self.offered:
            raise InputError(f"{config!r} is not one of {', '.join(self.offered)}")


def share_of(job: Job) -> Path:
    """The file that is there while a training is shared."""
    return Path(f"{job.folder}.shared")


def _found(jobs: Sequence[Job], number: int) -> Job:
    found = next((job for job in jobs if number in (0, job.number)), None)
    if found is None:
        raise InputError(f"you have no training {number}" if number else "you have no training yet")
    return found
