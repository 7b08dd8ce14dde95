# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""docs/hardware.md from its rows."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dreambooth_jax.hardware import programs
from hardware.jobs import EIGHT, IN_EVERY_WAY, MODELS, SINGLE, SLICES, Job, all_jobs, chip_of, read
from hardware.members import section

Row = dict[str, Any]
HEAD = """# Stable Diffusion on GPUs and TPUs: compiled, not run

Every number here is read off a program that XLA's own compiler made for the device named, on a machine that has none
(`plan --target`). What such a compiler refuses a real device refuses, and the bytes that it reserves are
those that a real device reserves. **Nothing was timed.** *At least* is arithmetic with data sheets
(`dreambooth_jax/hardware/chips.py`): operations over the peak, traffic over the memory's bandwidth, what is exchanged
over the links, whichever takes longest; no device reaches it.

    python scripts/hardware_table.py compile     # adds to docs/hardware.jsonl what is not there yet
    python scripts/hardware_table.py attention   # adds to docs/hardware_attention.jsonl
    python scripts/hardware_table.py members     # adds to docs/hardware_members.jsonl
    python scripts/hardware_table.py write       # makes this page of all three

One training step in bfloat16 with AdamW in float32, 77 keys, latents and the texts of frozen towers cached. *1+1* is
one instance and one class example. GB of 10⁹ bytes on each device: *arguments* are weights, moments and the batch,
*temporaries* activations and gradients; networks that no step takes lie in the host's memory. *Traffic* is an estimate:
what the program's kernels read and write, without what caches keep. A card's memory is what its driver reports; of
that, jax takes nine tenths when started by `dreambooth-jax`. Memory in **bold** does not fit.
"""
SCALING = """
Weak scaling of SD 1.5's UNet on v5e at one example a chip, from the program for `v5e:2x2`: every four chips share a
copy, gather and scatter among themselves as above, and each adds up its quarter of the gradients (0.86 GB, float32)
with its counterparts on other hosts.
"""
ATTENTION = """
One layer with its projections, forward and all gradients, bfloat16, each way alone. `models/attention.py` takes cuDNN's
kernel on GPUs from Ampere on, for cross-attention too, whose 77 keys are filled up to 78 because jax asks for an even
number: with it the program moves 3.6 times fewer bytes at 4096 queries than with plain attention, for 3 % more
operations. On TPUs it takes Pallas' splash kernels where logits (more than 64 MB) leave VMEM, and plain attention for
77 keys and small pictures. jax's other Pallas kernel (`flash_attention`), which pads heads to 128, moved 4 to 57 times
as many bytes as splash at 4096 and 9216 queries, and is not here any more.
"""


def page(rows: Path, attention: Path, members: Path) -> str:
    """The whole page."""
    found = read(rows)
    parts = [HEAD, *_one_card(found), *_eight(found), *_slices(found), *_chosen(found), *_scaling(found)]
    parts += [*section(read(members), full=found), *_attention(read(attention))]
    return "\n".join([*parts, *_missing(found), *_versions(found)])


def _one_card(rows: list[Row]) -> Iterator[str]:
    for model in IN_EVERY_WAY:
        title, _ = MODELS[model]
        chosen = [row for row in rows if row["job"]["target"] in SINGLE and row["job"]["model"] == model]
        if chosen:
            yield f"\n## {title}, one card\n"
            yield from _table(chosen, ("card", "batch", "trains", "remat", *_NUMBERS, "at least, ms"), _single)


_NUMBERS = ("arguments", "temporaries", "peak", "of", "traffic", "TFLOP")


def _numbers(row: Row) -> list[str]:
    plan, chip = row["plan"], chip_of(row["job"]["target"])
    usage = plan["usage"]
    peak = usage["arguments"] + usage["results"] + usage["temporaries"]
    room = chip.memory * (0.9 if chip.platform == "gpu" else 1)
    sizes = [usage["arguments"], usage["temporaries"]]
    shown = f"**{peak / 1e9:.1f}**" if peak + plan["idle"] > room else f"{peak / 1e9:.1f}"
    traffic = "" if plan["work"] is None else f"{plan['work']['traffic'] / 1e9:.0f}"
    return [
        *(f"{size / 1e9:.2f}" for size in sizes),
        shown,
        f"{chip.memory / 1e9:.0f}",
        traffic,
        f"{plan['flops'] / 1e12:.2f}",
    ]


def _trains(row: Row) -> str:
    job = row["job"]
    what = "UNet, text" if job["text_encoder"] else "UNet"
    adapter, moments = job.get("adapter", "full"), job.get("moments", "float32")  # the oldest rows lack them
    what = what if adapter == "full" else f"LoRA 16 of {what}"
    return what if moments == "float32" else f"{what}, moments {moments}"


def _least(row: Row) -> str:
    if row["plan"]["work"] is None:
        return "refused"
    bound = row["plan"]["work"]["bound"]
    limit = max(("arithmetic", "memory", "links"), key=bound.get)
    return f"{1e3 * bound[limit]:.1f} ({limit})"


def _single(row: Row) -> list[str]:
    job = row["job"]
    return [job["target"], f"{job['batch']}+{job['batch']}", _trains(row), job["remat"], *_numbers(row), _least(row)]


def _several(row: Row) -> list[str]:
    job = row["job"]
    batch = f"{job['batch']}+{job['batch']}"
    return [
        job["target"],
        job["parallel"],
        batch,
        _trains(row),
        job["remat"],
        *_numbers(row),
        _exchanged(row),
        _least(row),
    ]


def _exchanged(row: Row) -> str:
    """Of each kind that matters: GB, dtype, how often."""
    if row["plan"]["work"] is None:
        return ""
    shown = [one for one in row["plan"]["work"]["collectives"] if one["bytes"] > 1e7]
    return "; ".join(f"{one['count']} {one['kind']} {one['bytes'] / 1e9:.2f} {one['dtype']}" for one in shown)


_SEVERAL = ("devices", "way", "batch", "trains", "remat", *_NUMBERS, "exchanged, GB", "at least, ms")


def _eight(rows: list[Row]) -> Iterator[str]:
    chosen = [row for row in rows if row["job"]["target"] in EIGHT]
    if chosen:
        yield "\n## Stable Diffusion 1.5, eight cards of one host\n"
        yield from _table(chosen, _SEVERAL, _several)
        yield "\nGradients are summed in float32 either way; fsdp gathers kernels in bfloat16."


def _slices(rows: list[Row]) -> Iterator[str]:
    for model in IN_EVERY_WAY:
        title, _ = MODELS[model]
        chosen = [row for row in rows if row["job"]["target"] in SLICES and row["job"]["model"] == model]
        if chosen:
            yield f"\n## {title}, TPU slices\n"
            yield from _table(chosen, _SEVERAL, _several)


def _chosen(rows: list[Row]) -> Iterator[str]:
    for model, (title, _) in MODELS.items():
        chosen = [row for row in rows if row["job"]["model"] == model and model not in IN_EVERY_WAY]
        if chosen:
            yield f"\n## {title}\n"
            yield from _table(chosen, _SEVERAL, _several)


def _scaling(rows: list[Row]) -> Iterator[str]:
    """More hosts of the same kind, each with its own copy: between them go the parts of the gradients."""
    base = [
        row
        for row in rows
        if (row["job"]["target"], row["job"]["remat"], row["job"]["batch"]) == ("v5e:2x2", "nothing", 2)
        and row["job"]["model"] == "sd15"
        and not row["job"]["text_encoder"]
        and row["plan"]["work"]
    ]
    if not base:
        return
    (row,) = base
    work, chip = row["plan"]["work"], chip_of("v5e")
    within = sum(programs.moved(one["kind"], one["bytes"], one["group"]) for one in work["collectives"])
    summed = [one["bytes"] for one in work["collectives"] if one["kind"] in ("reduce-scatter", "all-reduce")]
    gradients = sum(summed) / 4  # a chip's part
    yield "\n## More of them, by arithmetic\n"
    yield SCALING
    yield "| chips | sent by each chip, GB | links, ms | arithmetic, ms | memory, ms | if nothing overlaps, ms |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for chips in (4, 16, 64, 256):
        sent = within + programs.moved("all-reduce", gradients, chips // 4)
        times = [1e3 * part for part in (sent / chip.link, work["bound"]["arithmetic"], work["bound"]["memory"])]
        total = times[0] + max(times[1:])
        yield f"| {chips} | {sent / 1e9:.2f} | " + " | ".join(f"{time:.1f}" for time in (*times, total)) + " |"
    yield "\nThe links' share grows by half from one host to two, and hardly at all after."


def _attention(rows: list[Row]) -> Iterator[str]:
    if not rows:
        return
    yield "\n## Why which attention\n"
    yield ATTENTION
    yield "| device | examples, queries, keys, heads, size | way | temporaries, MB | traffic, MB | GFLOP |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in rows:
        numbers = f"{row['temporaries'] / 1e6:.0f} | {row['traffic'] / 1e6:.0f} | {row['flops'] / 1e9:.0f}"
        yield f"| {row['target']} | {', '.join(map(str, row['shape']))} | {row['way']} | {numbers} |"


def _missing(rows: list[Row]) -> Iterator[str]:
    done = [Job(**row["job"]) for row in rows]  # older rows lack fields that have defaults
    jobs = [job for job in all_jobs() if job not in done]
    if jobs:
        count: dict[str, int] = {}
        for job in jobs:
            count[job.target] = count.get(job.target, 0) + 1
        left = ", ".join(f"{n} for {target}" for target, n in count.items())
        yield f"\n## Not compiled yet\n\n{len(jobs)} steps: {left}."
        yield "The command above goes on with them. L4 and RTX 4090 are of one compute capability, and both A100s."


def _versions(rows: list[Row]) -> Iterator[str]:
    seen = sorted({f"{name} {version}" for row in rows for name, version in row["versions"].items()})
    yield f"\nCompiled with {', '.join(seen)}.\n"


def _table(rows: Iterable[Row], head: tuple[str, ...], line: Any) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield f"| {' | '.join(line(row))} |"
