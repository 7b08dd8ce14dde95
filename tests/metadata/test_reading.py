# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What pictures of each tool ask for, in our settings."""

import copy
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from dreambooth_jax.config import SamplingConfig
from dreambooth_jax.data.png import save_png
from dreambooth_jax.errors import InputError
from dreambooth_jax.metadata.ours import parameters_of
from dreambooth_jax.metadata.reading import read_remake
from dreambooth_jax.metadata.remake import adapters_line
from dreambooth_jax.size import Size
from tests.metadata.files import A1111, COMFYUI, INVOKEAI, comfyui, png


def options(remake, **expected):
    assert expected.items() <= dict(remake.options).items(), remake.options


def test_a_picture_of_a1111(tmp_path):
    remake = read_remake(png(tmp_path / "a.png", {"parameters": A1111}))
    assert (remake.tool, remake.seed, remake.model) == ("A1111", 2551426893, "v1-5-pruned")
    assert remake.prompt == "a photo of a (dog:1.2) , sunset\non a hill"
    options(remake, steps=25, sampler="dpmpp_2m", schedule="karras", guidance_scale=6.5, profile="a1111")
    options(remake, noise="torch", noise_seed_delta=31337, width=512, height=768)
    options(remake, negative_prompt="blurry, low quality")
    options(remake, clip_skip=2, prompt_syntax="a1111", emphasis="original")
    assert remake.lacking == [adapters_line(["fluffy:0.8"])]


BASE = "a dog\nSteps: 20, Sampler: {sampler}, CFG scale: 7, Seed: 1, Size: 64x64{more}"


@pytest.mark.parametrize(
    ("sampler", "more", "expected"),
    [
        ("Euler a", "", {"sampler": "euler_a", "schedule": "model", "noise": "philox"}),
        ("DPM++ 2M Karras", "", {"sampler": "dpmpp_2m", "schedule": "karras"}),
        ("DPM++ 2M", ", Schedule type: Automatic, RNG: NV", {"schedule": "model", "noise": "philox"}),
        ("Euler", ", Schedule type: SGM Uniform, RNG: CPU", {"schedule": "sgm_uniform", "noise": "torch"}),
        ("DDIM", ", Eta DDIM: 0.5, Eta: 0.4", {"sampler": "ddim", "eta": 0.5}),
        ("Euler a", ", Eta DDIM: 0.5, Eta: 0.4", {"sampler": "euler_a", "ancestral_eta": 0.4}),
    ],
)
def test_samplers_and_random_numbers_of_a1111(tmp_path, sampler, more, expected):
    remake = read_remake(png(tmp_path / "a.png", {"parameters": BASE.format(sampler=sampler, more=more)}))
    options(remake, **expected)
    assert remake.lacking == []
    assert len({"eta", "ancestral_eta"} & set(remake.options)) <= 1, "of another sampler"


def test_layers_that_a1111_skips(tmp_path):
    """It says them of XL, too, but counts them there only if told to."""
    for skipped, version, lines in ((2, "v1.9.4", 0), (3, "v1.9.4", 1), (3, "f2.0.1v1.10.1", 0)):
        more = f", Clip skip: {skipped}, Version: {version}"
        remake = read_remake(png(tmp_path / "a.png", {"parameters": BASE.format(sampler="Euler", more=more)}))
        options(remake, clip_skip=skipped)
        assert len([line for line in remake.lacking if line.startswith("Clip skip: 3, if its model is XL")]) == lines


def test_variations_and_second_passes_of_a1111(tmp_path):
    more = ", Variation seed: 9, Variation seed strength: 0.25, Denoising strength: 0.6, Hires upscale: 1.5, "
    more += "Hires steps: 7, Hires upscaler: Latent"
    remake = read_remake(png(tmp_path / "a.png", {"parameters": BASE.format(sampler="Euler", more=more)}))
    assert remake.seed == 9
    options(remake, variation_of=1, variation_strength=0.25)
    options(remake, hires_scale=1.5, hires_steps=7, hires_strength=0.6, hires_by="latent")
    assert "strength" not in remake.options
    assert remake.lacking == []


@pytest.mark.parametrize(
    ("sampler", "more", "line"),
    [
        ("DPM++ SDE", "", "torchsde draws as a tree"),
        ("DPM++ 2M SDE Karras", "", "torchsde draws as a tree"),
        (
            "Euler",
            ", Denoising strength: 0.5",
            "the picture that it began with, at denoising strength 0.5: give it with image=FILE",
        ),
        ("Euler", ", Hires upscale: 2, Hires upscaler: R-ESRGAN", "the upscaler R-ESRGAN between the passes"),
        ("Euler", ", Hires upscale: 2, Hires sampler: Heun", "Hires sampler: Heun"),
        ("Euler", ", VAE: ft-mse", "the autoencoder ft-mse"),
        (
            "Euler",
            ", Refiner: xl [b3], Refiner switch at: 0.8",
            "the refiner that drew its last steps, xl [b3]: give it",
        ),
        ("Euler", ", RNG: Cube", "RNG: Cube"),
        ("Euler", ", Version: v1.5.2", "half precision"),
        ("Euler", ", Sigma churn: 3", "Sigma churn: 3"),
        ("Euler", ", Foo: \x1b[31mbar", "Foo: ?[31mbar"),
    ],
)
def test_what_of_a1111_is_not_repeated_is_said(tmp_path, sampler, more, line):
    remake = read_remake(png(tmp_path / "a.png", {"parameters": BASE.format(sampler=sampler, more=more)}))
    assert len(remake.lacking) == 1
    assert line in remake.lacking[0]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("Steps: 20", "Steps: 99999999999999", "steps = 99999999999999: must be at least 1 and at most 10000"),
        ("Steps: 20", "Steps: many", "steps = 'many': must be a whole number"),
        ("Sampler: Euler", "Sampler: Restart", "sampler = 'Restart': must be one of"),
        ("CFG scale: 7", "CFG scale: 1e999", "guidance_scale = inf"),
        ("Size: 64x64", "Size: 1000000x64", "width = 1000000: must be at least 1 and at most 4096"),
        ("Seed: 1", "Seed: -1", "its seed is '-1', not a whole number from 0 to 18446744073709551615"),
        ("Seed: 1", "Seed: " + "9" * 5000, "its seed is '9999"),
        ("Sampler: Euler, ", "", "its text 'parameters' does not have Sampler"),
        ("a dog\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1, Size: 64x64", "a dog", "does not have Sampler"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, old, new, line):
    text = BASE.format(sampler="Euler", more="").replace(old, new)
    with pytest.raises(InputError) as raised:
        read_remake(png(tmp_path / "a.png", {"parameters": text}))
    message = str(raised.value)
    assert line in message
    assert "a.png" in message
    assert "\n" not in message
    assert len(message) < 600


def xl_graph(**positive):
    """A graph with XL's own node for prompts."""
    graph = copy.deepcopy(COMFYUI)
    sizes = {"width": 1024, "height": 768, "crop_w": 8, "crop_h": 16, "target_width": 1152, "target_height": 896}
    for node in graph.values():
        if node["class_type"] == "CLIPTextEncode":
            text = node["inputs"].pop("text")
            node["class_type"] = "CLIPTextEncodeSDXL"
            node["inputs"] |= {"text_g": text, "text_l": text, **sizes}
    sampler = next(node for node in graph.values() if node["class_type"] == "KSampler")
    graph[sampler["inputs"]["positive"][0]]["inputs"] |= positive
    return graph


def test_a_graph_of_comfyui_for_xl(tmp_path):
    """It tells two text encoders, and sizes."""
    remake = read_remake(comfyui(tmp_path / "a.png", xl_graph()))
    assert remake.prompt == "a photo of a dog"
    options(remake, negative_prompt="text, watermark", original_width=1024, original_height=768, clip_skip=2)
    options(remake, crop_left=8, crop_top=16, target_width=1152, target_height=896, width=512, height=768)
    assert remake.lacking == read_remake(comfyui(tmp_path / "b.png")).lacking
    more = read_remake(comfyui(tmp_path / "c.png", xl_graph(text_l="a cat", crop_w=0))).lacking
    text, sizes = (line for line in more if line not in remake.lacking)
    assert text == "a cat, which the positive prompt says to one text encoder alone"
    assert sizes.startswith("the sizes that its negative prompt is told: {'original_height': 768, ")


def test_a_picture_of_comfyui(tmp_path):
    remake = read_remake(comfyui(tmp_path / "a.png"))
    assert (remake.tool, remake.seed, remake.model) == ("ComfyUI", 156680208700286, "v1-5-pruned.safetensors")
    assert remake.prompt == "a photo of a dog"
    options(remake, steps=20, guidance_scale=8.0, sampler="euler_a", schedule="uniform", profile="comfy", noise="comfy")
    options(remake, width=512, height=768, negative_prompt="text, watermark")
    options(remake, clip_skip=2)
    assert sorted(remake.lacking) == [
        adapters_line(["fluffy.safetensors"]),
        "which of its batch of 4 it was: this is the first, noise_index=1 the next",
    ]


def changed(**inputs):
    graph = copy.deepcopy(COMFYUI)
    for name, values in inputs.items():
        graph[name.removeprefix("node")]["inputs"] |= values
    return graph


def test_what_of_comfyui_is_not_repeated_is_said(tmp_path):
    graph = changed(node3={"sampler_name": "dpmpp_2m_sde_gpu", "denoise": 0.6}, node12={"value": "a (dog:1.3)"})
    graph["6"]["inputs"] |= {"text": "a (dog:1.3), (embedding:charm-v2.pt:1.1) embedding:toy"}
    graph["20"] = {"class_type": "KSampler", "inputs": graph["3"]["inputs"] | {"latent_image": ["3", 0]}}
    graph["21"] = {"class_type": "ConditioningZeroOut", "inputs": {"conditioning": ["7", 0]}}
    graph["3"]["inputs"]["negative"] = ["21", 0]
    remake = read_remake(comfyui(tmp_path / "a.png", graph))
    assert remake.prompt == "a (dog:1.3), (charm-v2:1.1) toy"
    lines = "; ".join(remake.lacking)
    for said in (
        "torchsde",
        "began with (denoise 0.6): give it with image=FILE",
        "weights of its prompts",
        "another sampler",
        "ConditioningZeroOut",
        "the new words of its prompts, charm-v2, toy: give them with embedding=FILE",
    ):
        assert said in lines


@pytest.mark.parametrize(
    ("graph", "line"),
    [
        ({"1": {"class_type": "LoadImage", "inputs": {}}}, "does not have KSampler"),
        ([1, 2], "does not have KSampler"),
        (changed(node3={"positive": ["99", 0]}), "does not have CLIPTextEncode of the positive prompt"),
        (changed(node3={"seed": ["3", 0]}), "its seed is "),
        (changed(node3={"steps": {"a": 1}}), "steps = {'a': 1}: must be a whole number"),
        (changed(node3={"cfg": float("nan")}), "guidance_scale = nan: must be"),
        (changed(node5={"width": 10**9}), "width = 1000000000: must be"),
        (changed(node12={"value": "\ud800"}), "its prompt must be text"),
    ],
)
def test_graphs_that_cannot_be_are_one_line(tmp_path, graph, line):
    """Also links that go round in a circle, and links to nowhere."""
    with pytest.raises(InputError, match=r"a\.png: ") as raised:
        read_remake(comfyui(tmp_path / "a.png", graph))
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("keyword", ["prompt", "invokeai_metadata", "dreambooth_jax"])
@pytest.mark.parametrize("text", ["{", "[" * 200_000, "null", "3", '"a"', "[]", "1" * 100_000])
def test_texts_that_are_no_such_json_are_one_line(tmp_path, keyword, text):
    with pytest.raises(InputError, match=r"a\.png: its text '\w+' (cannot be read|does not have)"):
        read_remake(png(tmp_path / "a.png", {keyword: text}))


def test_a_circle_of_models_ends(tmp_path):
    assert read_remake(comfyui(tmp_path / "a.png", changed(node10={"model": ["10", 0]}))).model == ""


def test_a_picture_of_invokeai_with_xl(tmp_path):
    """It counts skipped layers from the one that the model reads, and tells a text encoder a text of its own."""
    about = INVOKEAI | {"loras": [], "model": {"name": "xl", "base": "sdxl"}, "positive_style_prompt": "oil"}
    about["negative_style_prompt"] = about["negative_prompt"]
    remake = read_remake(png(tmp_path / "a.png", {"invokeai_metadata": json.dumps(about)}))
    options(remake, clip_skip=3)
    assert remake.lacking == ["positive_style_prompt, which one text encoder alone is told: oil"]


def test_a_picture_of_invokeai(tmp_path):
    remake = read_remake(png(tmp_path / "a.png", {"invokeai_metadata": json.dumps(INVOKEAI)}))
    assert (remake.tool, remake.seed, remake.model) == ("InvokeAI", 620742083, "stable-diffusion-v1-5")
    options(remake, sampler="dpmpp_2m_sde", schedule="karras", profile="diffusers", noise="invoke", steps=28)
    options(remake, guidance_scale=6.0, guidance_rescale=0.7, width=512, height=768, negative_prompt="blurry")
    options(remake, clip_skip=2)
    assert len(remake.lacking) == 1
    assert remake.lacking[0].startswith("loras: ")


def test_our_own_pictures(tmp_path):
    settings = {"steps": 7, "sampler": "euler_a", "profile": "comfy", "negative_prompt": "a, b: c"}
    sampling = SamplingConfig(guidance_scale=3.0, **settings)
    about = {"prompt": "a dog", "seed": 4, "model": "m", "fingerprint": "f", "batch": 4, "position": 2}
    path = tmp_path / "a.png"
    save_png(path, np.zeros((8, 16, 3), np.uint8), about | asdict(sampling))
    remake = read_remake(path)
    assert (remake.prompt, remake.seed, remake.model, remake.batch, remake.position) == ("a dog", 4, "m", 4, 2)
    assert SamplingConfig(**remake.options) == replace(sampling, height=8, width=16)
    assert remake.lacking == []
    save_png(path, np.zeros((8, 16, 3), np.uint8), about | asdict(sampling) | {"strength": 0.5, "magic": 3})
    remake = read_remake(path)
    options(remake, strength=0.5)
    assert [line.split(",")[0] for line in remake.lacking] == ["magic", "the picture that it began with"]
    grid = tmp_path / "grid.png"
    save_png(grid, np.zeros((8, 16, 3), np.uint8), about | {"grid": ["a dog"]})
    with pytest.raises(InputError, match=r"grid\.png is a grid of many pictures: give one of them"):
        read_remake(grid)


def test_our_pictures_before_there_was_json(tmp_path):
    texts = {"prompt": "a dog", "seed": "4", "model": "m", "steps": "7", "guidance_scale": "3.0", "sampler": "euler"}
    texts |= {
        "negative_prompt": "b",
        "eta": "0.0",
        "profile": "None",
        "parameters": "a dog\nSteps: 7, Sampler: x, Seed: 4",
    }
    remake = read_remake(png(tmp_path / "a.png", texts))
    assert (remake.tool, remake.prompt, remake.seed, remake.model) == ("dreambooth_jax", "a dog", 4, "m")
    options(remake, steps=7, guidance_scale=3.0, sampler="euler", profile=None, negative_prompt="b")


def test_a_picture_that_says_nothing(tmp_path):
    with pytest.raises(InputError, match=r"a\.png does not say how it was made"):
        read_remake(png(tmp_path / "a.png", {"Comment": "hello"}))


def test_what_other_tools_say_is_drawn_already(tmp_path):
    """Braces are text there, and are escaped; ours are what they were drawn to be."""
    text = A1111.replace("sunset", "{sun|moon} __set__").replace("blurry", "{blurry}")
    remake = read_remake(png(tmp_path / "a.png", {"parameters": text}))
    assert r"\{sun|moon\} \__set\__" in remake.prompt
    assert r"\{blurry\}" in remake.options["negative_prompt"]
    about = {"prompt": "a red dog", "prompt_template": "a {red|blue} dog", "seed": 4, "prompt_syntax": "a1111"}
    save_png(tmp_path / "b.png", np.zeros((8, 8, 3), np.uint8), about)
    assert read_remake(tmp_path / "b.png").prompt == "a red dog"
    assert not [line for line in read_remake(tmp_path / "b.png").lacking if "template" in line]


@pytest.mark.parametrize(("syntax", "written"), [("plain", r"a \(red\) dog"), ("a1111", "a (red) dog")])
def test_brackets_that_are_text_are_text_in_a1111_too(syntax, written):
    about = {"prompt": "a (red) dog", "negative_prompt": "[x]", "prompt_syntax": syntax, "emphasis": "no_norm"}
    text = parameters_of(about, Size(8, 8))
    assert text.startswith(written)
    assert "Emphasis: No norm" in text
