# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What was measured, as Markdown for docs/benchmarks.md. Parts and rows that are missing are left blank."""

from collections.abc import Iterable, Iterator
from typing import Any

from measure_gpu.parts import AGAIN, COMPILE, EAGER, OURS, USUAL

Rows = dict[str, dict[str, Any]]
Parts = dict[str, Rows]
PEERS = (OURS, EAGER, COMPILE)
BARS = {
    "4+4, images/s": ("at least 80 on an H200", 80.0),
    "32+32, images/s": ("at least 144 on an H200", 144.0),
    "1+1, times as fast as torch.compile": ("at least 1.3", 1.3),
}
SAME_LOSS = 3e-2
"""Of peers in bfloat16, relative."""


def report(parts: Parts) -> str:
    """All tables that there is something for."""
    makers = (device, steps, bars, memory, members, pictures, whole, training)
    sections = (make(parts) for make in makers)
    return "\n".join("\n".join(lines) + "\n" for section in sections if (lines := list(section)))


def table(header: str, rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Lines of one table; the header's columns are separated by |. Nothing without rows."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    if lines:
        yield f"| {header} |"
        yield "|" + " --- |" * (header.count("|") + 1)
        yield from lines


def cell(row: dict[str, Any] | None, key: str, form: str = ".3f", factor: float = 1.0) -> str:
    """A number of a row; why there is none, if it was tried."""
    if not row:
        return ""
    if "failed" in row:
        return row["failed"].split(":")[0]
    return "" if row.get(key) is None else format(factor * row[key], form)


def gigabytes(row: dict[str, Any] | None, key: str) -> str:
    """The same in GB."""
    return cell(row, key, ".1f", 1e-9)


def measured(parts: Parts, part: str, name: str) -> dict[str, Any] | None:
    """A row that did not fail."""
    row = parts.get(part, {}).get(name)
    return row if row and "failed" not in row else None


def images_per_second(row: dict[str, Any]) -> float:
    """Instance and class examples together."""
    return 2 * row["batch"] / row["median"]


def step_names(parts: Parts) -> list[str]:
    """1+1, 4+4, ... that anybody was asked for."""
    names = {name for part in PEERS for name, row in parts.get(part, {}).items() if row["task"] == "step"}
    return sorted(names, key=lambda name: int(name.split("+")[0]))


def device(parts: Parts) -> Iterator[str]:
    """On what."""
    if row := measured(parts, "ours", "device"):
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        able = f"a product of matrices reaches {row['matmul_flops_per_second'] / 1e12:.3g} TFLOP/s"
        yield f"Size {row['size']} on {row['driver'] or row['device']}; {able}. {versions}."


def steps(parts: Parts) -> Iterator[str]:
    """Everybody's steps, and how many times as fast ours are."""
    able = (measured(parts, "ours", "device") or {}).get("matmul_flops_per_second")

    def rows() -> Iterator[list[str]]:
        for name in step_names(parts):
            ours, eager, compiled = (parts.get(part, {}).get(name) for part in PEERS)
            good = measured(parts, "ours", name)
            cells = [name + (" (remat)" if good and good["remat"] != "nothing" else ""), cell(ours, "median", ".4f")]
            cells += [f"{images_per_second(good):.1f}" if good else ""]
            cells += [f"{good['flops'] / good['median'] / able:.0%}" if good and able else ""]
            cells += [cell(eager, "median", ".4f"), cell(compiled, "median", ".4f")]
            cells += [times(parts, part, name) for part in ("eager", "compile")]
            yield [*cells, f"{good['trace']:.0f} + {good['compile']:.0f}" if good else ""]

    yield from table(
        "step | ours, s | images/s | MFU | eager, s | torch.compile, s | times as fast as eager | as torch.compile "
        "| tracing + XLA, s",
        rows(),
    )
    losses = {part: row["loss"] for part in PEERS for row in parts.get(part, {}).values() if "loss" in row}
    if len(losses) > 1:
        apart = max(losses.values()) / min(losses.values()) - 1
        verdict = "the same work" if apart <= SAME_LOSS else "NOT THE SAME WORK"
        yield f"\nLosses of the same examples: {losses}, {apart:.1e} apart: {verdict}."


def times(parts: Parts, part: str, name: str) -> str:
    """How many times as fast as a peer we are, where both do the same."""
    ours, peer = measured(parts, "ours", name), measured(parts, part, name)
    return f"{peer['median'] / ours['median']:.2f}" if ours and peer and ours["remat"] == peer["remat"] else ""


def bars(parts: Parts) -> Iterator[str]:
    """What was expected, and whether it is so."""

    def rows() -> Iterator[list[str]]:
        for (what, (wanted, least)), found in zip(BARS.items(), found_for_bars(parts)):
            if found:
                yield [what, wanted, found, "yes" if float(found) >= least else "no"]

    yield from table("expected | bar | found | reached", rows())


def found_for_bars(parts: Parts) -> list[str]:
    """In the order of the bars."""
    speeds = [measured(parts, "ours", name) for name in ("4+4", "32+32")]
    return [f"{images_per_second(row):.1f}" if row else "" for row in speeds] + [times(parts, "compile", "1+1")]


def members(parts: Parts) -> Iterator[str]:
    """Subjects an hour, for how many are trained at once."""
    found = sorted(parts.get("members", {}).values(), key=lambda row: row["count"])

    def rows() -> Iterator[list[str]]:
        for row in found:
            cells = [f"{row['count']}" + (" (remat)" if row["remat"] != "nothing" else ""), cell(row, "median", ".4f")]
            cells += [cell(row, f"subjects_per_hour{more}", ".1f") for more in ("", "_with_compiling")]
            yield [*cells, gigabytes(row, "reported_bytes")]

    steps = next((row["steps"] for row in found), 0)
    yield from table(
        f"subjects at once, LoRA, 1+1 examples each | a step of all, s | subjects an hour, {steps} steps each "
        "| compiling included | peak memory, GB",
        rows(),
    )


def memory(parts: Parts) -> Iterator[str]:
    """Predicted and reported, and how far the one is from the other."""
    job = measured(parts, "whole", "whole")
    found = [(f"step {name}", row) for name in step_names(parts) if (row := measured(parts, "ours", name))]
    found += [("whole run", job)] if job else []

    def rows() -> Iterator[list[str]]:
        for name, row in found:
            predicted, said = row.get("predicted_bytes"), row.get("reported_bytes")
            # what loading took may hide what the step took
            limit = "<= " if said and said == row.get("loaded_bytes") else ""
            ratio = f"{predicted / said:.3f}" if predicted and said else ""
            yield [name, gigabytes(row, "predicted_bytes"), limit + gigabytes(row, "reported_bytes"), ratio]

    yield from table("peak memory | predicted, GB | reported by the device, GB | predicted / reported", rows())


def pictures(parts: Parts) -> Iterator[str]:
    """DDIM runs."""
    found = parts.get("pictures", {})
    counts = sorted({int(name.split()[-1]) for name in found})

    def rows() -> Iterator[list[str]]:
        for count in counts:
            everybody = [found.get(f"{peer} {count}") for peer in PEERS]
            steps = next((row["steps"] for row in everybody if row), "")
            yield [f"DDIM, {steps} steps, {count} at once", *(cell(row, "median") for row in everybody)]

    yield from table("pictures | ours, s | eager, s | torch.compile, s", rows())


def whole(parts: Parts) -> Iterator[str]:
    """Seconds of each stage."""
    if job := measured(parts, "whole", "whole"):
        stages = job["stages"]
        settings = job["settings"]
        what = f"{settings['prior.num_images']} class images, {settings['train.steps']} steps"
        yield from table(
            "whole run, seconds | " + " | ".join(stages) + " | all",
            [[what, *(f"{seconds:.0f}" for seconds in stages.values()), f"{job['seconds']:.0f}"]],
        )
    elif row := parts.get("whole", {}).get("whole"):
        yield f"Whole run: {row['failed']}."


def training(parts: Parts) -> Iterator[str]:
    """Each short run beside the usual one, and a repeated one beside the first."""
    found = parts.get("training", {})
    usual = measured(parts, "training", USUAL)

    def rows() -> Iterator[list[str]]:
        for name, row in found.items():
            first = measured(parts, "training", name.removesuffix(AGAIN)) if name.endswith(AGAIN) else None
            equal = ""
            if first and "failed" not in row:
                equal = "yes" if (row["digest"], row["losses"]) == (first["digest"], first["losses"]) else "no"
            apart = ["", ""]
            if usual and "failed" not in row and row is not usual:
                gaps = [abs(a - b) / abs(b) for a, b in zip(row["losses"], usual["losses"])]
                apart = [f"{sum(gaps) / len(gaps):.1e}", f"{max(gaps):.1e}"]
            cost = f"{row['median'] / usual['median']:.2f}" if usual and "failed" not in row else ""
            last = "" if "failed" in row else f"{row['losses'][-1]:.5f}"
            yield [name, cell(row, "median", ".4f"), cost, last, *apart, equal]

    yield from table(
        f"run at 1+1 | s / step | of {USUAL}'s | last loss | from {USUAL}'s, mean | at most | equal to the first",
        rows(),
    )
