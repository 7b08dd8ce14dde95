# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""IP-Adapters against diffusers' ``StableDiffusionPipeline``: files of the published form with random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dreambooth_jax import Control, InputError, load_control, load_pretrained
from dreambooth_jax.pipeline.control_pictures import clip_pixels
from dreambooth_jax.target import Target
from dreambooth_jax.weights.ip_adapter import attention_paths
from tests import torch_models
from tests.pipeline.test_control import PROMPTS, check, nchw, noise, picture
from tests.runs import MODEL
from tests.test_pipeline_parity import ours, theirs

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
safetensors = pytest.importorskip("safetensors.torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity

SIDE, WIDTH = 12, 24
"""Of the image encoder: pixels, and features of its embedding."""


def projection(kind, *, states=32, features=32):
    """Names and shapes of each kind of projection."""
    if kind == "plain":
        return {"proj.weight": (4 * features, WIDTH), "proj.bias": (4 * features,), **norm("norm", features)}
    if kind == "full":
        first = {"proj.0.weight": (states, states), "proj.0.bias": (states,)}
        return {**first, "proj.2.weight": (features, states), "proj.2.bias": (features,), **norm("proj.3", features)}
    inner, head = 40, 64
    shapes = {"latents": (1, 3, inner), "proj_in.weight": (inner, states), "proj_in.bias": (inner,)}
    shapes |= {"proj_out.weight": (features, inner), "proj_out.bias": (features,), **norm("norm_out", features)}
    for i in range(4):
        shapes |= norm(f"layers.{i}.0.norm1", inner) | norm(f"layers.{i}.0.norm2", inner)
        shapes |= {f"layers.{i}.0.to_q.weight": (head, inner), f"layers.{i}.0.to_kv.weight": (2 * head, inner)}
        shapes |= {f"layers.{i}.0.to_out.weight": (inner, head), **norm(f"layers.{i}.1.0", inner)}
        shapes |= {f"layers.{i}.1.1.weight": (4 * inner, inner), f"layers.{i}.1.3.weight": (inner, 4 * inner)}
    return shapes


def norm(name, size):
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def random(shapes, seed):
    generator = torch.Generator().manual_seed(seed)

    def one(shape):
        return torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3)

    return {name: one(shape) + (len(shape) == 1 and name.endswith("weight")) for name, shape in shapes.items()}


def adapter(unet, kind, seed=0):
    """What a file holds, numbered as diffusers does: by its own order of the UNet's attentions."""
    shapes = {}
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            module = unet.get_submodule(name.removesuffix(".processor"))
            shapes |= {f"{number}.to_{side}_ip.weight": tuple(module.to_k.weight.shape) for side in "kv"}
    return {"image_proj": random(projection(kind), seed), "ip_adapter": random(shapes, seed + 1)}


def write(file, state):
    flat = {f"{part}.{name}": leaf.contiguous() for part, leaves in state.items() for name, leaf in leaves.items()}
    safetensors.save_file(flat, file)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """(a folder for adapters with an image encoder in it, the encoder of transformers)."""
    folder = tmp_path_factory.mktemp("adapters")
    net = torch_models.build_image_encoder(seed=5)
    net.save_pretrained(folder / "image_encoder")
    return folder, net


def with_adapters(states, encoder):
    """diffusers' pipeline."""
    pipe = theirs("sd15", double=False)
    parts = {name: getattr(pipe, name) for name in ("unet", "vae", "text_encoder", "scheduler")}
    pipe = diffusers.StableDiffusionPipeline(
        **parts,
        **dict.fromkeys(("tokenizer", "safety_checker")),
        image_encoder=encoder,
        feature_extractor=transformers.CLIPImageProcessor(size=SIDE, crop_size=SIDE),
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.load_ip_adapter(states, subfolder=[""] * len(states), weight_name=[""] * len(states), low_cpu_mem_usage=False)
    return pipe


@pytest.fixture(scope="module")
def pipe():
    return ours("sd15", theirs("sd15", double=False), jnp.float32)


@pytest.mark.parametrize("kind", ["plain", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("plus", "full"))])
def test_one(kind, pipe, encoder):
    folder, net = encoder
    state = adapter(theirs("sd15", double=False).unet, kind)
    write(folder / f"{kind}.safetensors", state)
    photo = np.random.default_rng(1).integers(0, 256, (20, 31, 3)).astype(np.uint8)
    control = Control(load_control(folder / f"{kind}.safetensors", pipe), photo, scale=0.6)
    torch_pipe = with_adapters([state], net)
    torch_pipe.set_ip_adapter_scale(0.6)
    found = check(pipe, control, torch_pipe, noise(), ip_adapter_image=Image.fromarray(photo), height=16, width=16)
    plain = pipe(PROMPTS, latents=noise(), steps=6, guidance_scale=5.0, negative_prompt="blurry", output="float32")
    assert np.abs(found - plain).max() > 1e-2


@pytest.mark.slow
def test_two_without_guidance_and_with_embeddings(pipe, encoder, tmp_path):
    _, net = encoder
    torch_unet = theirs("sd15", double=False).unet
    states = [adapter(torch_unet, "plain", seed=seed) for seed in (10, 20)]
    embeddings = np.random.default_rng(2).normal(size=(2, WIDTH)).astype(np.float32)
    controls = []
    for i, (state, scale) in enumerate(zip(states, (0.7, 0.3))):
        write(tmp_path / f"{i}.safetensors", state)
        controls.append(Control(load_control(tmp_path / f"{i}.safetensors", pipe), embeddings[i], scale=scale))
    torch_pipe = with_adapters(states, net)
    torch_pipe.set_ip_adapter_scale([0.7, 0.3])
    given = [torch.from_numpy(one)[None, None] for one in embeddings]
    check(pipe, controls, torch_pipe, noise(), scale=1.0, ip_adapter_image_embeds=given, height=16, width=16)


@pytest.mark.slow
def test_beside_a_controlnet(pipe, encoder, tmp_path):
    """As in diffusers, a ControlNet does not see the image."""
    _, net = encoder
    state = adapter(theirs("sd15", double=False).unet, "plain")
    write(tmp_path / "plain.safetensors", state)
    torch_net = torch_models.build_controlnet("sd15", seed=10)
    torch_net.save_pretrained(tmp_path / "net")
    embedding = np.random.default_rng(2).normal(size=(1, WIDTH)).astype(np.float32)
    control = [
        Control(load_control(tmp_path / "plain.safetensors", pipe), embedding, scale=0.7),
        Control(load_control(tmp_path / "net", pipe), picture(1), scale=0.5),
    ]
    torch_pipe = with_adapters([state], net)
    both = diffusers.StableDiffusionControlNetPipeline(**torch_pipe.components, controlnet=torch_net)
    both.set_progress_bar_config(disable=True)
    both.set_ip_adapter_scale(0.7)
    halves = np.stack([np.zeros_like(embedding), embedding])
    check(
        pipe,
        control,
        both,
        noise(),
        ip_adapter_image_embeds=[torch.from_numpy(halves)],
        image=nchw(picture(1)),
        controlnet_conditioning_scale=0.5,
    )


@pytest.mark.slow
def test_all_kinds_together_on_one_device_and_on_several(encoder, tmp_path):
    folder, _ = encoder
    torch_models.build_controlnet("sd15").save_pretrained(tmp_path / "net")
    torch_models.build_t2i_adapter().save_pretrained(tmp_path / "t2i")
    write(folder / "plus.safetensors", adapter(theirs("sd15", double=False).unet, "plus"))
    sources = tmp_path / "net", tmp_path / "t2i", folder / "plus.safetensors"
    found = []
    for count in (1, 4):
        pipe = load_pretrained(MODEL, target=Target.of(jax.devices()[:count]))
        control = [Control(load_control(source, pipe), picture(1), scale=0.7, end=0.8) for source in sources]
        found.append(pipe(["a dog", "a cat", "a bird"], control=control, steps=4, output="float32"))
    np.testing.assert_allclose(*found, atol=1e-4)


def test_files_of_pytorch_hold_the_same(pipe, encoder):
    folder, _ = encoder
    state = adapter(theirs("sd15", double=False).unet, "plain")
    write(folder / "same.safetensors", state)
    torch.save(state, folder / "same.bin")
    params = [load_control(folder / f"same.{suffix}", pipe).params for suffix in ("safetensors", "bin")]
    np.testing.assert_array_equal(params[0]["projection"]["proj"]["kernel"], params[1]["projection"]["proj"]["kernel"])
    for path, kernel in params[0]["key"].items():
        np.testing.assert_array_equal(kernel, params[1]["key"][path])


def test_attentions_are_numbered_down_up_middle():
    names = [
        f"{place}/attentions_{i}/transformer_blocks_0/attn2/to_k/kernel"
        for place in ("mid_block", "up_blocks_1", "down_blocks_10", "down_blocks_2")
        for i in (1, 0)
    ]
    found = [path.split("/transformer")[0] for path in attention_paths(dict.fromkeys(names))]
    assert found == [
        f"{place}/attentions_{i}"
        for place in ("down_blocks_2", "down_blocks_10", "up_blocks_1", "mid_block")
        for i in (0, 1)
    ]


@pytest.mark.parametrize("size", [(20, 31), (12, 12), (9, 40), (64, 13)])
def test_an_image_is_seen_as_clip_sees_it(size):
    photo = np.random.default_rng(3).integers(0, 256, (*size, 3)).astype(np.uint8)
    processor = transformers.CLIPImageProcessor(size=SIDE, crop_size=SIDE)
    expected = processor(Image.fromarray(photo), return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    np.testing.assert_allclose(clip_pixels(photo.astype(np.float32) / np.float32(255), SIDE), expected, atol=1e-5)


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda state: {"image_proj": state["image_proj"]}, "is no IP-Adapter"),
            (lambda state: state | {"image_proj": {"proj.0.weight": torch.ones(2, 2)}}, "of another kind"),
            (lambda state: state | {"image_proj": {"proj.weight": torch.ones(6, 2)}}, r"has proj.weight \[6, 2\]"),
            (lambda state: state | {"image_proj": {"latents": torch.ones(6)}}, r"has latents \[6\]"),
            (lambda state: state | {"ip_adapter": dict(list(state["ip_adapter"].items())[:-1])}, "1 missing"),
            (
                lambda state: state | {"ip_adapter": {n: leaf[:, :16] for n, leaf in state["ip_adapter"].items()}},
                "does not fit",
            ),
        ],
        ids=["half", "faces", "odd rows", "a vector", "an attention less", "another text width"],
    )
    def test_files(self, change, message, pipe, tmp_path):
        write(tmp_path / "a.safetensors", change(adapter(theirs("sd15", double=False).unet, "plain")))
        with pytest.raises(InputError, match=message) as caught:
            load_control(tmp_path / "a.safetensors", pipe)
        assert "\n" not in str(caught.value)

    def test_no_encoder_or_another(self, pipe, tmp_path):
        state = adapter(theirs("sd15", double=False).unet, "plus")
        write(tmp_path / "plus.safetensors", state)
        with pytest.raises(InputError, match="needs an image encoder, which is not there: .*image_encoder"):
            load_control(tmp_path / "plus.safetensors", pipe)
        torch_models.build_image_encoder(hidden_size=48).save_pretrained(tmp_path / "other")
        with pytest.raises(InputError, match="makes 48 features .* takes 32"):
            load_control(tmp_path / "plus.safetensors", pipe, image_encoder=tmp_path / "other")
        write(tmp_path / "plain.safetensors", adapter(theirs("sd15", double=False).unet, "plain"))
        model = load_control(tmp_path / "plain.safetensors", pipe)
        with pytest.raises(InputError, match=r"\(16, 16, 3\).*without an image encoder give embeddings \[24\]"):
            pipe("a cat", control=Control(model, picture(1)))
