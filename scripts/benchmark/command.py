# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The command: options, peers, the check that all do the same work, the table."""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from real_size.model import SIZES, write_model

from benchmark.measure import OURS, matmul_flops_per_second, measure, on_cpu
from benchmark.members import member_makers, members_name
from benchmark.ours import Ours, step_name
from benchmark.pytorch import Torch
from benchmark.subjects import subject_rows
from benchmark.whole import Job, measure_whole, run_whole
from dreambooth_jax.pipeline.load import source_of

SAMPLERS = ("ddim", "dpmpp_2m")
WORK = ("step", "text-step", "lora-step", "members", "subjects", *SAMPLERS, "load", "class-images", "whole")
PEERS = (OURS, "eager", "compile")
TOLERANCE = {True: 1e-4, False: 3e-2}
"""Of the losses, relative: in float32 on a CPU, in bfloat16 elsewhere."""
FULL = "full"
"""Our step of the whole UNet, beside which our low-rank one stands."""
EMBEDDED = "embedded"
Row = dict[str, Any]


def make_peers(names: list[str], folder: Path, size: str) -> dict[str, Any]:
    """Those that are installed."""
    peers: dict[str, Any] = {}
    for name in names:
        try:
            options = {} if name == OURS else {"compiled": name == "compile"}
            peers[name] = (Ours if name == OURS else Torch)(folder, configs_of(folder, size), **options)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return peers


def configs_of(folder: Path, size: str) -> dict[str, dict[str, Any]]:
    """Of the parts of a model."""
    if size in SIZES:
        return SIZES[size]
    return {part: json.loads((folder / part / "config.json").read_text()) for part in ("unet", "text_encoder")}


def check_same_loss(peers: dict[str, Any], batch: int, *, text: bool) -> dict[str, float]:
    """Losses of the same examples under the same weights.

    Raises:
        RuntimeError: if they differ: then the work does.
    """
    losses = {name: peer.loss(batch, text=text) for name, peer in peers.items()}
    if max(losses.values()) > min(losses.values()) * (1 + TOLERANCE[on_cpu()]):
        raise RuntimeError(f"the losses differ, so these are not the same work: {losses}")
    return losses


def rows(peers: dict[str, Any], folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Measured work, as it comes."""
    batches = [int(text) for text in options.batch.split(",")]
    for work in options.work:
        if work == "whole":
            yield from whole_rows(peers, folder, options)
            continue
        if work == "subjects":
            pixels = json.loads((folder / "vae" / "config.json").read_text())["sample_size"]
            settings = {"count": options.members, "steps": options.train_steps, "rank": options.rank}
            yield from subject_rows(folder, pixels=pixels, **settings)
            continue
        for batch in [1] if work == "load" else batches:
            text, extra = work == "text-step", {}
            if work in ("step", "text-step"):
                name = step_name(batch, text)
                extra = {"losses": check_same_loss(peers, batch, text=text)}
                makers = {peer: partial(it.step, batch, text=text) for peer, it in peers.items()}
            elif work == "lora-step":
                name = f"lora-{step_name(batch, False)}"
                extra = {"losses": check_same_loss(peers, batch, text=False)}
                makers = {peer: partial(it.lora_step, batch, options.rank) for peer, it in peers.items()}
                if OURS in peers:
                    makers |= {FULL: partial(peers[OURS].step, batch, text=False)}
            elif work == "members":
                name = members_name(options.members, batch)
                makers = member_makers(peers[OURS], count=options.members, batch=batch, rank=options.rank)
            elif work == "load":
                name, makers = "load", {peer: it.load for peer, it in peers.items()}
            else:
                name = f"{work} {batch}"
                makers = {
                    peer: partial(it.sampler, work, batch, options.steps)
                    if work in SAMPLERS
                    else partial(it.class_images, batch, options.steps)
                    for peer, it in peers.items()
                }
            for peer, times in measure(makers, options.repeats).items():
                ours = peers.get(OURS)
                counted = step_name(batch, False) if peer == FULL else name
                known = {"flops": ours.flops[counted]} if ours and counted in ours.flops else {}
                memory = {"peak_bytes": (peers.get(peer) or peers[OURS]).peak_bytes}
                if peer == OURS:
                    memory |= {"compiled_bytes": ours.memory.get(name)} | ours.compiling.get(name, {})
                yield {"work": name, "peer": peer} | times | known | memory | extra
            for peer in peers.values():
                peer.forget()


def whole_rows(peers: dict[str, Any], folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Photos to a model; ours cold, then warm."""
    job = Job(class_images=options.class_images, batch=4, draw_steps=options.steps, steps=options.train_steps)
    with tempfile.TemporaryDirectory() as cache:
        run = partial(measure_whole, size=options.size, model=folder, job=job, cache=Path(cache))
        cold = run(OURS) if OURS in peers else None
        warm = run(OURS) if OURS in peers else None
        if cold and warm:
            yield {"work": "whole", "peer": OURS, "first_call": cold["median"]} | warm | {"ours_over_peer": 1.0}
        for name in peers:
            if name != OURS:
                found = run(name)
                ratio = {"ours_over_peer": warm["median"] / found["median"]} if warm else {}
                yield {"work": "whole", "peer": name, "first_call": found["median"]} | found | ratio


def shown(row: Row) -> str:
    """A line of the table."""
    mfu = f"{row['mfu']:7.1%}" if "mfu" in row else f"{'':7}"
    memory = row.get("peak_bytes") or row.get("compiled_bytes")
    compiling = f"{row['trace']:.1f} + {row['compile']:.1f}" if "compile" in row else ""
    return (
        f"{row['work']:<28}{row['peer']:<9}{compiling:>14}{row['first_call']:>11.2f}{row['median']:>10.3f}{row['best']:>10.3f}"
        f"{row['processor']:>10.3f}{row.get('ours_over_peer', float('nan')):>7.2f}{mfu}"
        + (f"{memory / 1e9:>8.2f}" if memory else "")
    )


def about(size: str, flops_per_second: float) -> Row:
    """Machine and versions."""
    found = {}
    for package in ("jax", "jaxlib", "flax", "torch", "diffusers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "size": size,
        "versions": found,
        "matmul_flops_per_second": flops_per_second,
    }


def parse(description: str | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=(*SIZES, EMBEDDED), default="mini")
    parser.add_argument("--work", default="step,text-step,ddim", help=f"of {', '.join(WORK)}")
    parser.add_argument("--peers", default="ours,eager", help=f"of {', '.join(PEERS)}")
    parser.add_argument("--batch", default="1,4", help="instance examples per step, and pictures at once")
    parser.add_argument("--steps", type=int, default=50, help="of a sampler's run")
    parser.add_argument("--rank", type=int, default=8, help="of lora-step, members and subjects")
    parser.add_argument("--members", type=int, default=8, help="of members and subjects")
    parser.add_argument("--train-steps", type=int, default=800, help="of whole and subjects")
    parser.add_argument("--class-images", type=int, default=200, help="of whole")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the model here (sd15: 4.3 GB), and take it if it is here")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--whole", help=argparse.SUPPRESS)  # the one job of this process
    options = parser.parse_args()
    for name, known in (("work", WORK), ("peers", PEERS)):
        chosen = getattr(options, name).split(",")
        if unknown := set(chosen) - set(known):
            parser.error(f"--{name}: no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        setattr(options, name, chosen)
    for work in {"members", "subjects"} & set(options.work):
        if OURS not in options.peers:
            parser.error(f"--work {work} is ours alone: add --peers ours")
    if options.size == EMBEDDED and options.peers != [OURS]:
        parser.error("--size embedded predicts velocity, which the peers' loss does not: add --peers ours")
    return options


def main(description: str | None) -> int:
    """Measure and print."""
    options = parse(description)
    if options.whole:
        run_whole(options.whole, options.folder, SIZES[options.size])
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = source_of(EMBEDDED) if options.size == EMBEDDED else options.folder or Path(scratch) / "model"
        if not (folder / "model_index.json").exists():
            write_model(folder, options.size)
        peers = make_peers(options.peers, folder, options.size)
        able = matmul_flops_per_second("float32" if on_cpu() else "bfloat16")
        header = about(options.size, able)
        print(f"{options.size} on {header['device']}, {header['versions']}; matmul {able / 1e12:.2f} TFLOP/s")
        print(
            f"{'work':<28}{'peer':<9}{'trace + XLA':>14}{'first call':>11}{'median s':>10}{'best s':>10}{'cpu s':>10}"
            f"{'ratio':>7}{'MFU':>7}{'GB':>8}"
        )
        found = []
        for row in rows(peers, folder, options):
            if "flops" in row:
                row["mfu"] = row["flops"] / row["median"] / able
            found.append(row)
            print(shown(row), flush=True)
    if options.out:
        options.out.write_text(json.dumps(header | {"rows": found}, indent=1) + "\n")
    return 0
