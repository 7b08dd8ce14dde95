# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What is told of a file, as values, as text and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class NetworkReport:
    """What an adapter changes of a network.

    Attributes:
        network: its name.
        layers: how many it changes.
        methods: how many by each method.
        ranks, alphas: that its layers have.
        change: ‖ΔW‖ of all layers together (Frobenius norm); None where it depends on the model.
        largest: the layer that changes most, and by how much.
    """

    network: str
    layers: int
    methods: Mapping[str, int]
    ranks: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    change: float | None = None
    largest: tuple[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class ToolReport:
    """What a tool makes of a file.

    Attributes:
        tool: its name.
        loads: what it loads, in a few words.
        notes: what it drops, or takes otherwise than it is meant.
    """

    tool: str
    loads: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """All that is told of a file.

    Attributes:
        file: where it is.
        kind: what it is, in a few words.
        base: the model that it is for or is; None where that cannot be told.
        size: bytes.
        dtypes: how many arrays of each.
        networks: what an adapter changes.
        facts: what else there is to say of this kind of file.
        damage: what is wrong with it.
        tools: what others make of it.
        ways_out: commands that make what they load.
        metadata: what the file says of itself.
    """

    file: Path
    kind: str
    base: str | None
    size: int
    dtypes: Mapping[str, int]
    networks: tuple[NetworkReport, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    damage: tuple[str, ...] = ()
    tools: tuple[ToolReport, ...] = ()
    ways_out: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


OURS = "dreambooth-jax"
"""What we are called among tools."""
SHOWN = (
    *("modelspec.title", "modelspec.architecture", "modelspec.resolution", "modelspec.trigger_phrase"),
    *("modelspec.prediction_type", "ss_base_model_version", "ss_v2", "ss_sd_model_name", "ss_output_name"),
    *("ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args", "ss_steps", "ss_unet_lr"),
    *("ss_tag_frequency", "sshs_model_hash", "sshs_legacy_hash", "lora_adapter_metadata"),
)
"""Metadata that tools show or go by."""
_LONGEST = 90


def readers(report: FileReport) -> str:
    """Which other tools load all of a file as it is meant, in a few words."""
    whole = [
        tool.tool for tool in report.tools if tool.loads.startswith("all ") and not tool.notes and tool.tool != OURS
    ]
    if not whole:
        return "no other tool loads all of it"
    return f"{' and '.join(filter(None, (', '.join(whole[:-1]), whole[-1])))} load{'s' * (len(whole) == 1)} it"


def as_dict(report: FileReport) -> dict[str, Any]:
    """For JSON."""
    return {**asdict(report), "file": str(report.file)}


def as_text(report: FileReport) -> str:
    """For the screen."""
    return "\n".join(_lines(report))


def _lines(report: FileReport) -> Iterator[str]:
    dtypes = ", ".join(f"{count} {name}" for name, count in sorted(report.dtypes.items()))
    yield f"{report.file}: {report.kind}"
    yield f"  for             {report.base or 'a model that its shapes do not tell'}"
    yield f"  size            {report.size / 1e6:.2f} MB: arrays in {dtypes or 'no dtype'}"
    for name, text in report.facts.items():
        yield f"  {name:<15} {text}"
    for network in report.networks:
        yield from _network(network)
    for line in report.damage or ("none found",):
        yield f"  damage          {line}"
    said = {name: report.metadata[name] for name in SHOWN if name in report.metadata}
    for name, text in said.items():
        yield f"  says            {name} = {_short(text)}"
    if not said:
        yield "  says            nothing that tools show"
    for tool in report.tools:
        yield f"  {tool.tool:<15} {tool.loads}"
        yield from (f"  {'':<15}   {note}" for note in tool.notes)
    for way_out in report.ways_out:
        yield f"  way out         {way_out}"


def _network(network: NetworkReport) -> Iterator[str]:
    methods = ", ".join(f"{count} {method}" for method, count in network.methods.items())
    parts = [f"{network.layers} layers: {methods}"]
    parts += [f"{what} {_range(of)}" for what, of in (("rank", network.ranks), ("alpha", network.alphas)) if of]
    yield f"  {network.network:<15} {'; '.join(parts)}"
    if network.change is None:
        yield f"  {'':<15} ‖ΔW‖ depends on the model"
    else:
        most = f", most in {network.largest[0]} ({network.largest[1]:.3g})" if network.largest else ""
        yield f"  {'':<15} ‖ΔW‖ = {network.change:.3g}{most}"


def _range(numbers: Sequence[float | int]) -> str:
    return f"{numbers[0]:g}" if len(numbers) == 1 else f"{numbers[0]:g} to {numbers[-1]:g}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
