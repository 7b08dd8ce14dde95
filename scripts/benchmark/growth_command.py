# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""The command: options, tables as Markdown, JSON and the chart."""

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from real_size.model import SIZES, write_model

from benchmark.command import about
from benchmark.growth import Row, over_batch, over_devices, over_resolution
from benchmark.measure import matmul_flops_per_second, on_cpu
from dreambooth_jax.pipeline import load_pretrained

SECTIONS = {"batch": over_batch, "resolution": over_resolution, "devices": over_devices}
DEFAULTS = {"batch": "1,2,4,8,16,32", "resolution": "256,384,512,640,768", "devices": "1,2,4,8"}
COLUMNS = {
    "batch": {"examples": "examples"},
    "resolution": {"pixels": "pixels"},
    "devices": {"parallel": "parallel", "devices": "devices"},
}


def table(section: str, rows: Iterable[Row], able: float) -> str:
    """Markdown."""
    names = [*COLUMNS[section].values(), "s / step", "ms / example", "MFU", "state, GB", "peak, GB"]
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    for row in rows:
        cells = [str(row[key]) for key in COLUMNS[section]]
        cells += [f"{row['seconds']:.3f}", f"{1000 * row['seconds'] / row['examples']:.0f}"]
        cells += [f"{row['flops'] / row['seconds'] / able:.0%}"]
        cells += [f"{row['state_bytes'] / 1e9:.2f}", f"{row['peak_bytes'] / 1e9:.2f}"]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines)


def parse(description: str | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--work", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    for section, numbers in DEFAULTS.items():
        parser.add_argument(f"--{section}", default=numbers, help=f"default {numbers}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the model here, and take it if it is here")
    parser.add_argument("--out", type=Path, help="JSON file; what it holds of other work stays")
    parser.add_argument("--chart", type=Path, help="PNG file (needs matplotlib: the extra docs)")
    return parser.parse_args()


def main(description: str | None) -> int:
    """Measure, print, draw."""
    options = parse(description)
    wanted = {section: [int(text) for text in getattr(options, section).split(",")] for section in SECTIONS}
    if "devices" in options.work:  # a CPU can pretend to be several; nothing else looks at this
        jax.config.update("jax_num_cpu_devices", max(wanted["devices"]))
    able = matmul_flops_per_second("float32" if on_cpu() else "bfloat16")
    known = options.out and options.out.exists()
    report: dict[str, Any] = json.loads(options.out.read_text()) if known else {"sections": {}}
    report |= about(options.size, able)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch) / "model"
        if not (folder / "model_index.json").exists():
            write_model(folder, options.size)
        pipe = load_pretrained(folder)
        for section in options.work.split(","):
            rows = list(SECTIONS[section](pipe, SIZES[options.size], wanted[section], options.repeats))
            report["sections"][section] = rows
            print(f"{table(section, rows, able)}\n", flush=True)
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    if options.chart:
        from benchmark.chart import draw

        draw(options.chart, report)
    return 0
