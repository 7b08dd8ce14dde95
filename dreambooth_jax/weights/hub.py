# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of the hub's repositories, downloaded or from its cache."""

from collections.abc import Callable, Collection
from pathlib import Path

from dreambooth_jax.errors import InputError
from dreambooth_jax.progress import announced
from dreambooth_jax.weights.nearest import nearest

Needed = Callable[[Collection[str], Path | None], list[str]]
"""(all names of a repository, its index if it has one) -> names of the files to download; or it raises."""


def download(repo: str, revision: str | None, needed: Needed, *, index: str) -> Path:
    """Snapshot of a hub repository: from the hub, or what its cache holds where there is no network.

    Args:
        repo: its id, such as ``org/name``.
        revision: branch, tag or commit.
        needed: chooses the files.
        index: a small file that is downloaded first, because the choice depends on it.

    Raises:
        InputError: if it cannot be had.
    """
    import huggingface_hub as hub  # late: a third of a second, and only for hub ids
    from huggingface_hub import errors

    # OSError and the HTTP client's own base class, whichever client this version of the library uses
    network_errors: tuple[type[Exception], ...] = (OSError, errors.HfHubHTTPError.__bases__[0])
    name = repo if revision is None else f"{repo} (revision {revision})"
    try:
        with announced(f"asking the hub for {name}", usually="a second; half a minute where there is no network"):
            names = hub.HfApi().list_repo_files(repo, revision=revision)
    except errors.GatedRepoError as error:
        raise InputError(f"{repo} is gated: accept its terms on the hub and log in with `hf auth login`") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise InputError(
            f"{name}: neither a folder here nor on the hub; if it is private there, log in with `hf auth login`"
        ) from error
    except network_errors as error:
        cached = hub.try_to_load_from_cache(repo, index, revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
        raise InputError(
            f"{name}: no folder here, not in the hub's cache, and the hub cannot be reached ({_first_line(error)})"
            f"{nearest(repo)}"
        ) from error

    def fetch(files: list[str]) -> Path:
        try:
            return Path(hub.snapshot_download(repo, revision=revision, allow_patterns=files))
        except network_errors as error:
            raise InputError(f"downloading {name} broke off, run again to go on ({_first_line(error)})") from error

    return fetch(needed(names, fetch([index]) / index if index in names else None))


def in_cache(repo: str, index: str) -> bool:
    """Was it downloaded before?"""
    return cached(repo, index) is not None


def cached(repo: str, name: str) -> Path | None:
    """A file of a repository that was downloaded before, in the cache; None if it was not."""
    import huggingface_hub as hub

    found = hub.try_to_load_from_cache(repo, name)
    return Path(found) if isinstance(found, str) else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
