# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The plain LoRA that is nearest to what was trained, or to what lies between two models."""

import logging
from collections.abc import Mapping
from typing import Literal

import numpy as np

from dreambooth_jax.adapters.extract import Extracted, extract, shares_kept
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.export.adapter import save_with_words
from dreambooth_jax.export.run_metadata import metadata_of_words, run_metadata
from dreambooth_jax.export.words import form_of_words
from dreambooth_jax.options import ExportOptions
from dreambooth_jax.paths import at_home
from dreambooth_jax.pipeline import Pipeline, load_pretrained
from dreambooth_jax.progress import Progress
from dreambooth_jax.runs import OF_MODEL, RunFolder, open_model, open_run, pictures_of
from dreambooth_jax.trees import Tree, check_shapes, flatten
from dreambooth_jax.weights.adapters import Module

log = logging.getLogger(__name__)

RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Those that it is told of how much they keep."""


def export_nearest(options: ExportOptions, *, format: Literal["auto", "kohya", "peft"]) -> None:
    """Write the LoRA, and tell how much of the change each rank keeps.

    Args:
        options: with a rank.
        format: as for ``save_adapter``.

    Raises:
        InputError: if nothing changed, or the base is another kind of model.
    """
    assert options.rank is not None
    base, said, of_words = _base(options)
    after = open_model(**options.told())
    found = {name: _extracted(options, name, tree, after.params) for name, tree in base.params.items() if name != "vae"}
    networks = {
        network: {path: Module("lora", tensors) for path, tensors in one.tensors.items()}
        for network, one in found.items()
        if one.tensors
    }
    if not networks and after.pipe.tokenizer.added:
        raise InputError(f"{options.source} learned new words alone, which no LoRA holds: leave rank out")
    if not networks:
        raise InputError(
            f"{options.source} is as it was: rank={options.rank} is for what was trained, or lora=FILE adds, or "
            "base=MODEL says what it was before"
        )
    save_with_words(
        options.out,
        base,
        networks,
        words=(after.pipe, after.params),
        bundle=options.bundle,
        form=form_of_words(options.format),
        format=format,
        dtype=options.dtype,
        metadata=said,
        of_words=of_words,
    )
    for line in kept_table({network: found[network] for network in networks}, rank=options.rank):
        log.info("%s", line)


def kept_table(found: Mapping[str, Extracted], *, rank: int) -> list[str]:
    """Lines of a table: what share of ‖ΔW‖² each rank keeps, of each network's kernels and of all that changed.

    Args:
        found: network -> what its change is.
        rank: that is shown besides.
    """
    ranks = sorted({*RANKS, rank})
    width = max(map(len, (*found, "all that changed")))

    def line(name: str, shares: list[float]) -> str:
        return f"{name:<{width}}" + "".join(f"{100 * share:>6.1f}%" for share in shares)

    every = list(found.values())
    return [
        f"{'rank':<{width}}" + "".join(f"{r:>6} " for r in ranks).rstrip(),
        *(line(network, [shares_kept([one], r)[0] for r in ranks]) for network, one in found.items()),
        line("all that changed", [shares_kept(every, r)[1] for r in ranks]),
    ]


def _base(options: ExportOptions) -> tuple[Pipeline, dict[str, str], dict[str, str]]:
    """(the model before, what an adapter's file says of the run, what those of words beside it say)."""
    folder = RunFolder(at_home(options.source))
    of_model = {name: getattr(options, name) for name in OF_MODEL}
    if not folder.is_run():
        if options.base is None:
            return load_pretrained(options.source, **of_model), {}, {}
        return open_model(options.base, tokenizer=of_model["tokenizer"]).pipe, {}, {}
    config = load_config(folder.config)
    run = open_run(folder, config, step=options.step, ema=options.ema)
    said = run_metadata(config, step=run.step, pictures=pictures_of(folder))
    base = run.pipe if options.base is None else open_model(options.base).pipe
    return base, said, metadata_of_words(said, config)


def _extracted(options: ExportOptions, network: str, before: Tree, params: Tree) -> Extracted:
    """What a network's change becomes; new words, which a run may have, are not of it."""
    after = params.get(network, {})
    expected, found = ({name: leaf.shape for name, leaf in flatten(tree).items()} for tree in (before, after))
    where = {"source": f"the {network} of {options.source}", "settings": f"that of {options.base or 'its base'}"}
    check_shapes(expected=expected, found=found, ignore=found, **where)
    if network != "unet" and _largest(before, after) <= options.min_diff:
        after = before
    assert options.rank is not None
    with Progress(desc=f"decomposing the {network}", unit="kernel") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return extract(
            before,
            after,
            rank=options.rank,
            conv_rank=options.conv_rank,
            clamp_quantile=options.clamp_quantile,
            progress=progress,
        )


def _largest(before: Tree, after: Tree) -> float:
    """The largest change of a number of a kernel."""
    old, new = flatten(before), flatten(after)
    kernels = [name for name in old if name.endswith("/kernel")]
    changes = (np.asarray(new[name], np.float32) - np.asarray(old[name], np.float32) for name in kernels)
    return max((float(np.abs(change).max()) for change in changes), default=0.0)
