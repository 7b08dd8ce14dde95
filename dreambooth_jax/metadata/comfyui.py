# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Pictures of ComfyUI: the graph of nodes that made them, as its API takes it.

    {"3": {"class_type": "KSampler", "inputs": {"seed": 5, "model": ["4", 0], "positive": ["6", 0], ...}},
     "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}}, ...}

An input is a value, or a link to another node. Of all nodes those are followed that a sampler is linked to, each once.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from dreambooth_jax.config.sampler_names import read_sampler, read_schedule
from dreambooth_jax.metadata.remake import PICTURE, Remake, adapters_line, lacking_tree, shown, words_line

NODES = 10_000
"""Of one graph."""
HOPS = 64
"""Links from a sampler to where its input comes from."""
SAMPLERS = ("KSampler", "KSamplerAdvanced")
KNOWN = ("CLIPTextEncode", "CheckpointLoaderSimple", "CheckpointLoader", "CLIPSetLastLayer", "EmptyLatentImage")
EMBEDDING = re.compile(r"(?<!\w)embedding:([\w.\-]{1,200})")
"""A new word in a prompt, called as its file is."""
VALUES = ("value", "text", "string", "seed", "int", "float", "number", "STRING", "INT", "FLOAT", "noise_seed")
"""Inputs of nodes that hold nothing but a value."""


class Node(NamedTuple):
    """A node of a graph."""

    kind: str
    inputs: Mapping[str, Any]


class Graph:
    """Nodes by their names; what is no node is left out."""

    def __init__(self, graph: Any):
        found = graph.items() if isinstance(graph, dict) and len(graph) <= NODES else ()
        self.nodes = {
            name: Node(str(node.get("class_type")), node["inputs"])
            for name, node in found
            if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
        }

    def linked(self, value: Any) -> Node | None:
        """The node that a link leads to."""
        is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], (str, int))
        return self.nodes.get(str(value[0])) if is_link else None

    def value(self, node: Node, name: str) -> Any:
        """An input, from the node that holds it."""
        value = node.inputs.get(name)
        for _ in range(HOPS):
            if (source := self.linked(value)) is None:
                return value
            value = next((source.inputs[one] for one in VALUES if one in source.inputs), None)
        return None

    def chain(self, node: Node, name: str, *, through: tuple[str, ...]) -> Iterator[Node]:
        """The nodes behind an input, one after the other, along the first of ``through`` that each has."""
        source = self.linked(node.inputs.get(name))
        for _ in range(HOPS):
            if source is None:
                return
            yield source
            along = next((one for one in through if self.linked(source.inputs.get(one))), "")
            source = self.linked(source.inputs.get(along))


def read_comfyui(graph: Any) -> Remake:
    """What a graph says.

    Raises:
        KeyError: naming what is not there.
    """
    nodes = Graph(graph)
    samplers = [node for node in nodes.nodes.values() if node.kind in SAMPLERS]
    if not samplers:
        raise KeyError("KSampler")
    # the pass that begins with noise alone; what follows it begins with a picture
    first = next((one for one in samplers if _empty(nodes, one)), samplers[0])
    lacking = [
        f"the pass of another sampler ({shown(one.inputs.get('sampler_name'))})" for one in samplers if one is not first
    ]
    positive, negative = (_prompt(nodes, first, name, lacking) for name in ("positive", "negative"))
    named = read_sampler(str(nodes.value(first, "sampler_name")))
    options: dict[str, Any] = {
        "steps": nodes.value(first, "steps"),
        "guidance_scale": nodes.value(first, "cfg"),
        "sampler": named.sampler,
        "schedule": read_schedule(str(nodes.value(first, "scheduler"))),
        "profile": "comfy",
        "noise": "comfy",
        "negative_prompt": negative.text,
        "prompt_syntax": "a1111",
        "emphasis": "no_norm",
        "clip_skip": positive.clip_skip,
        **positive.sizes,
    } | _latent(nodes, first, lacking)
    if negative.sizes != positive.sizes:
        lacking.append(f"the sizes that its negative prompt is told: {shown(negative.sizes or 'the picture')}")
    if named.sampler == "ddim":
        options["sampler"] = "euler"  # which is what ComfyUI means by it
    model = _model(nodes, first, lacking)
    if "(" in positive.text + negative.text:
        lacking.append("the weights of its prompts, which ComfyUI measures from the empty prompt: A1111's way is taken")
    return Remake(
        tool="ComfyUI",
        prompt=positive.text,
        seed=nodes.value(first, "seed" if first.kind == "KSampler" else "noise_seed"),
        options=options,
        model=model,
        lacking=list(dict.fromkeys(lacking + lacking_tree(named.sampler))),
    )


TEXTS: Mapping[str, tuple[str, ...]] = {"CLIPTextEncode": ("text",), "CLIPTextEncodeSDXL": ("text_g", "text_l")}
"""Nodes that encode a prompt -> their inputs for it: of one that has several, each is for a text encoder."""
TOLD = {
    **{"height": "original_height", "width": "original_width", "crop_h": "crop_top", "crop_w": "crop_left"},
    **{"target_height": "target_height", "target_width": "target_width"},
}
"""What such a node tells of sizes, in our settings."""


class _Text(NamedTuple):
    text: str
    clip_skip: int
    sizes: Mapping[str, Any]


def _prompt(nodes: Graph, sampler: Node, name: str, lacking: list[str]) -> _Text:
    """The text of a prompt, and the text encoder's layer."""
    for node in nodes.chain(sampler, name, through=("conditioning", "conditioning_1", "conditioning_to", name)):
        if node.kind not in TEXTS:
            lacking.append(f"the node {shown(node.kind)} of the {name} prompt")
            continue
        skip = 1
        for before in nodes.chain(node, "clip", through=("clip",)):
            layer = before.inputs.get("stop_at_clip_layer")
            if before.kind == "CLIPSetLastLayer" and isinstance(layer, int):
                skip = -layer
                if layer == -1:
                    lacking.append("stop_at_clip_layer -1, if its model is XL: the last layer but one is read")
            elif before.kind not in KNOWN:
                lacking.append(_node(before))
        text, *others = (str(nodes.value(node, one) or "") for one in TEXTS[node.kind])
        lacking += [
            f"{shown(other)}, which the {name} prompt says to one text encoder alone"
            for other in others
            if other != text
        ]
        sizes = {ours: nodes.value(node, one) for one, ours in TOLD.items() if one in node.inputs}
        words = [PurePath(found).stem for found in EMBEDDING.findall(text)]
        lacking += [words_line(words)] if words else []
        return _Text(EMBEDDING.sub(lambda found: PurePath(found[1]).stem, text), skip, sizes)
    raise KeyError(f"CLIPTextEncode of the {name} prompt")


def _empty(nodes: Graph, sampler: Node) -> Node | None:
    latent = nodes.linked(sampler.inputs.get("latent_image"))
    return latent if latent and latent.kind == "EmptyLatentImage" else None


def _latent(nodes: Graph, sampler: Node, lacking: list[str]) -> dict[str, Any]:
    """The size, from what the sampler begins with."""
    empty = _empty(nodes, sampler)
    denoise, start = nodes.value(sampler, "denoise"), nodes.value(sampler, "start_at_step")
    if not empty or (isinstance(denoise, (int, float)) and denoise < 1) or (isinstance(start, int) and start > 0):
        lacking.append(f"{PICTURE} (denoise {shown(denoise)}): give it with image=FILE")
    if not empty:
        return {}
    count = nodes.value(empty, "batch_size")
    if isinstance(count, int) and count > 1:
        lacking.append(f"which of its batch of {count} it was: this is the first, noise_index=1 the next")
    return {side: nodes.value(empty, side) for side in ("width", "height")}


def _model(nodes: Graph, sampler: Node, lacking: list[str]) -> str:
    """The checkpoint's name."""
    name = ""
    for node in nodes.chain(sampler, "model", through=("model",)):
        if "ckpt_name" in node.inputs:
            name = str(nodes.value(node, "ckpt_name"))
        else:
            lacking.append(_node(node))
    return name


def _node(node: Node) -> str:
    lora = node.inputs.get("lora_name")
    return adapters_line([lora]) if lora else f"the node {shown(node.kind)}"
