# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A family that nobody has: two text encoders, the second with a summary of the text that its denoiser looks at.

It is these few lines and a line in ``FAMILIES``; the package trains it, draws with it and writes it as it does any.
"""

import dataclasses
import json
import re
import shutil
import tokenize
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import load_file

import dreambooth_jax as dbx
from dreambooth_jax.errors import InputError
from dreambooth_jax.export import save_pretrained
from dreambooth_jax.models import CLIPTextModel, UNet2DConditionModel, UNetConfig, families
from dreambooth_jax.models.components import CLIP_TEXT, UNET, VAE
from dreambooth_jax.models.condition import Condition, Conditioner, id_leaves
from dreambooth_jax.models.families import FAMILIES, SD, Family, family_of
from dreambooth_jax.models.layers import Remat
from dreambooth_jax.pipeline import describe_pretrained
from dreambooth_jax.runs import open_model
from dreambooth_jax.target import CPU, Arch, Target
from dreambooth_jax.train_setup import build_train_setup, mapper_of
from dreambooth_jax.trees import flatten, unflatten
from dreambooth_jax.weights.folders import read_family
from dreambooth_jax.weights.modules import parameter_shapes
from dreambooth_jax.weights.pretrained import load_components, load_module
from tests.runs import MODEL, tiny_config, weights
from tests.weights.folders import assert_same, write

pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")
WIDTH = 32
"""Of each text encoder; the denoiser attends to both, side by side."""


class SummedUNet(nn.Module):
    """A UNet that adds a dense layer of the text's summary to its result."""

    config: UNetConfig
    dtype: jnp.dtype = jnp.float32
    remat: Remat = "nothing"
    arch: Arch = CPU
    scan: bool = False

    def setup(self):
        self.unet = UNet2DConditionModel(self.config, self.dtype, self.remat, self.arch, self.scan)
        self.summary = nn.Dense(self.config.out_channels)

    def __call__(self, latents, timesteps, condition):
        out = self.unet(latents, timesteps, condition.states)
        return out + self.summary(condition.pooled)[:, None, None, :]


def _condition(outputs):
    first, second = outputs["text_encoder"], outputs["text_encoder_2"]
    return Condition(states=jnp.concatenate([first, second], -1), pooled=second[:, -1])


def _unet_inputs(config):
    latents, timesteps, states = UNET.dummy_inputs(config)
    return latents, timesteps, Condition(states, jax.ShapeDtypeStruct((1, WIDTH), jnp.float32))


TWO = Family(
    name="two",
    pipeline_class="TwoEncodersPipeline",
    components={
        "text_encoder": CLIP_TEXT,
        "text_encoder_2": CLIP_TEXT,
        "unet": dataclasses.replace(UNET, module_cls=SummedUNet, dummy_inputs=_unet_inputs),
        "vae": VAE,
    },
    text_encoders={"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"},
    condition=_condition,
    misfits=lambda configs: iter(()),
)


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The line in the registry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, TWO.pipeline_class, TWO)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder of the family with random weights, made of the networks of a Stable Diffusion."""
    sd = load_components(MODEL)
    configs = dict(sd.configs) | {"text_encoder_2": sd.configs["text_encoder"]}
    configs["unet"] = {**configs["unet"], "cross_attention_dim": 2 * WIDTH}
    read = {name: kind.config_cls.from_json(configs[name]) for name, kind in TWO.components.items()}
    assert read["text_encoder"].hidden_size == WIDTH
    modules = {name: kind.build(read[name]) for name, kind in TWO.components.items()}
    r = np.random.default_rng(0)

    def random(name, leaf):
        scale = 1.0 if name.endswith("embedding") else max(np.prod(leaf.shape[:-1]), 8) ** -0.5
        return (name.endswith("scale") + scale * r.normal(size=leaf.shape)).astype(np.float32)

    params = {
        name: unflatten({leaf: random(leaf, s) for leaf, s in parameter_shapes(kind, modules[name]).items()})
        for name, kind in TWO.components.items()
    }
    folder = tmp_path_factory.mktemp("two")
    for name in TWO.text_encoders.values():
        shutil.copytree(MODEL / "tokenizer", folder / "source" / name)
    two = dataclasses.replace(sd, family=TWO, modules=modules, params=params, configs=configs, folder=folder / "source")
    return write(folder / "model", two), params


def test_it_is_found_by_its_index_and_read(model):
    folder, params = model
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "TwoEncodersPipeline"
    assert index["text_encoder_2"] == ["transformers", "CLIPTextModel"]
    pipe = dbx.load_pretrained(folder)
    assert pipe.components.family is TWO
    assert_same(pipe.params, params)
    assert list(pipe.tokenizers) == ["text_encoder", "text_encoder_2"]
    (folder / "tokenizer_2").rename(folder / "gone")
    try:
        with pytest.raises(InputError, match="lacks tokenizer_2/vocab.json"):
            dbx.load_pretrained(folder)
    finally:
        (folder / "gone").rename(folder / "tokenizer_2")


def test_prompts_become_a_condition_of_both(model):
    pipe = dbx.load_pretrained(model[0])
    prompts = ["a dog", "a photo of sks dog"]
    condition = pipe.condition(pipe.params, prompts)
    ids = jnp.asarray(pipe.tokenizer(prompts))
    alone = [
        np.asarray(CLIPTextModel(pipe.text_encoder.config).apply({"params": pipe.params[name]}, ids))
        for name in TWO.text_encoders
    ]
    np.testing.assert_allclose(condition.states, np.concatenate(alone, -1), atol=1e-5)
    np.testing.assert_allclose(condition.pooled, alone[1][:, -1], atol=1e-5)
    assert condition.sizes is condition.residuals is None
    np.testing.assert_array_equal(pipe.encode_prompts(pipe.params, prompts), condition.states)


def test_pictures_depend_on_both_encoders_and_on_the_summary(model):
    pipe = dbx.load_pretrained(model[0])
    settings = {"steps": 2, "output": "float32", "guidance_scale": 3.0}
    picture = pipe("a dog", **settings)
    np.testing.assert_array_equal(picture, pipe("a dog", **settings))
    for name in ("text_encoder/", "text_encoder_2/", "unet/summary/"):
        leaves = {leaf: x * 1.3 if leaf.startswith(name) else x for leaf, x in flatten(pipe.params).items()}
        assert np.abs(pipe("a dog", params=unflatten(leaves), **settings) - picture).max() > 1e-3, name


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("stop", [0, -1])
def test_a_run_trains_samples_and_exports_it(model, tmp_path, stop):
    """With its text encoders at rest, their conditions in the batch; and with both trained."""
    options = [f"model.path={model[0]}", f"text_encoder.stop={stop}", "train.steps=2", "samples.every=2"]
    options += ["samples.steps=2", "prior.weight=0", "train.batch_size=2", "prior.class_images=null"]
    config = tiny_config(tmp_path, *options)
    folder = dbx.train(config).folder
    assert not (folder / "class_images").exists()
    assert {json.loads(line)["prior_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()} == {0}
    trained, before = weights(folder, 2), flatten(model[1])
    assert {name.split("/")[0] for name in trained} == {"unet", *(TWO.text_encoders if stop else ())}
    assert (trained["unet/summary/kernel"] != before["unet/summary/kernel"]).any()
    exported = dbx.load_pretrained(folder / "model")
    assert exported.components.family is TWO
    for name, leaf in flatten(exported.params).items():
        np.testing.assert_array_equal(leaf, trained.get(name, before[name]), err_msg=name)
    save_pretrained(tmp_path / "flax", exported, exported.params, format="flax")
    assert_same(dbx.load_pretrained(tmp_path / "flax").params, exported.params)


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_run_teaches_both_encoders_a_word(model, tmp_path):
    options = [f"model.path={model[0]}", "train.steps=2", "samples.every=0", "prior.weight=0", "train.batch_size=2"]
    options += ["adapter.kind=textual_inversion", "tokens.vectors=2", "prior.class_images=null"]
    folder = dbx.train(tiny_config(tmp_path, *options)).folder
    trained = weights(folder, 2)
    assert {name: leaf.shape for name, leaf in trained.items()} == {
        f"tokens/{encoder}": (2, WIDTH) for encoder in TWO.text_encoders
    }
    found = load_file(folder / "embedding.safetensors")
    np.testing.assert_array_equal(found["clip_l"], trained["tokens/text_encoder"])
    np.testing.assert_array_equal(found["clip_g"], trained["tokens/text_encoder_2"])
    run = open_model(str(folder))
    taught = dbx.load_pretrained(model[0]).with_embeddings({"sks": folder / "embedding.safetensors"})
    states = [pipe.condition(pipe.params, ["a sks dog"]) for pipe in (run.pipe, taught)]
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.parametrize("stop", [0, -1])
def test_the_schema_of_a_batch_is_that_of_its_batches(model, tmp_path, stop):
    target = Target.here()
    config = tiny_config(tmp_path, f"model.path={model[0]}", f"text_encoder.stop={stop}")
    setup = build_train_setup(config, describe_pretrained(model[0], target=target), mapper_of(config, target))
    (active,) = setup.steps
    batch = setup.batch(active)
    latents = ((8, 8, 8, 4), "float32")
    texts = {
        0: {"condition/states": ((8, 77, 2 * WIDTH), "float32"), "condition/pooled": ((8, WIDTH), "float32")},
        -1: {f"input_ids/{name}": ((8, 77), "int32") for name in TWO.text_encoders},
    }
    rest = {"weight": ((8,), "float32"), "is_prior": ((8,), "bool"), "index": ((8,), "int32")}
    found = {name: (leaf.shape, leaf.dtype.name) for name, leaf in batch.items()}
    assert found == {"mean": latents, "logvar": latents, **texts[stop], **rest}


def test_a_batch_brings_its_condition_or_what_it_is_made_of():
    states, pooled = np.ones((2, 3, 4), np.float32), np.ones((2, 5), np.float32)
    leaves = Condition(states=states, pooled=pooled).leaves()
    assert set(leaves) == {"condition/states", "condition/pooled"}
    back = Condition.of_batch(leaves | {"weight": np.ones(2)})
    assert back.states is states
    assert back.pooled is pooled
    assert Condition.of_batch(id_leaves({"text_encoder": np.ones((2, 3), np.int32)})) is None


def test_a_network_refuses_what_it_would_not_look_at():
    unet = UNet2DConditionModel(UNET.config_cls())
    inputs = SD.components["unet"].dummy_inputs(unet.config)
    more = Condition(inputs[2], pooled=jax.ShapeDtypeStruct((1, 8), jnp.float32))
    with pytest.raises(ValueError, match="text states alone, not at pooled"):
        jax.eval_shape(unet.init, jax.random.key(0), *inputs[:2], more)


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory):
    """A model whose denoiser takes five more channels, without weights on them."""
    sd = load_components(MODEL)
    configs = {**sd.configs, "unet": {**sd.configs["unet"], "in_channels": 9}}
    conv = sd.params["unet"]["conv_in"]
    wider = {**conv, "kernel": np.pad(conv["kernel"], [(0, 0), (0, 0), (0, 5), (0, 0)])}
    params = {**sd.params, "unet": {**sd.params["unet"], "conv_in": wider}}
    return write(tmp_path_factory.mktemp("nine") / "model", dataclasses.replace(sd, configs=configs, params=params))


class TestNineChannels:
    """The denoiser of an inpainting model, which also takes a mask and a masked picture."""

    def test_it_loads_and_computes(self, inpainting):
        """Where the further channels have no weight, it is the denoiser of the plain model."""
        pipe, plain = dbx.load_pretrained(inpainting), dbx.load_pretrained(MODEL)
        assert pipe.unet.config.in_channels == 9
        assert pipe.latent_channels == 4
        r = np.random.default_rng(0)
        latents, text = r.normal(size=(1, 8, 8, 9)).astype(np.float32), pipe.encode_prompts(pipe.params, "a dog")
        found = pipe.unet.apply({"params": pipe.params["unet"]}, jnp.asarray(latents), jnp.array([7]), text)
        expected = plain.unet.apply(
            {"params": plain.params["unet"]}, jnp.asarray(latents[..., :4]), jnp.array([7]), text
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)
        mean, _ = pipe.encode_images(pipe.params, r.normal(size=(1, 16, 16, 3)).astype(np.float32))
        assert mean.shape == (1, 8, 8, 4)

    def test_what_it_cannot_do_is_one_line(self, inpainting, tmp_path):
        message = "takes 9 channels, not the 4 of latents"
        with pytest.raises(InputError, match=message):
            dbx.load_pretrained(inpainting)("a dog")
        with pytest.raises(InputError, match=message):
            dbx.train(tiny_config(tmp_path, f"model.path={inpainting}"))


class TestOneNetwork:
    """Read alone, from a model's folder or from one of its own."""

    @pytest.mark.parametrize("name", ["text_encoder", "unet", "vae"])
    def test_it_is_the_one_of_the_model(self, name):
        sd = load_components(MODEL)
        module, params = load_module(MODEL / name, SD.components[name])
        assert module == sd.modules[name]
        assert_same(params, sd.params[name])

    def test_as_it_is_asked_for(self):
        seen = {}

        def place(name, array):
            seen[name] = array.dtype
            return jnp.asarray(array)

        module, params = load_module(MODEL / "unet", UNET, place, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
        assert module.dtype == jnp.bfloat16
        assert seen.keys() == flatten(params).keys()
        assert set(seen.values()) == {np.dtype(jnp.bfloat16)}

    def test_what_is_no_network_of_this_kind_is_one_line(self, tmp_path):
        with pytest.raises(InputError, match="is no AutoencoderKL in the diffusers layout: it lacks config.json"):
            load_module(tmp_path, VAE)
        with pytest.raises(InputError, match="vae/config.json: _class_name = 'FlaxAutoencoderKL' is not supported"):
            load_module(MODEL / "vae", UNET)


@pytest.mark.parametrize(
    "name", [None, "StableDiffusionPipeline", "FlaxStableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"]
)
def test_stable_diffusion_is_the_family_of_what_does_not_say_otherwise(name, tmp_path):
    assert family_of(name) is SD
    assert read_family(tmp_path / "model_index.json") is SD


@pytest.mark.parametrize("word", [r"\bsdxl\b", r"\bSDXL\b", r"StableDiffusionXL", r"[\"']sdxl", r"\.family\.name\b"])
def test_nothing_but_tables_asks_for_a_family_by_its_name(word):
    """Code of the package, without what it says to people: docstrings, comments and texts with blanks."""
    package = Path(families.__file__).parents[1]
    found = []
    for file in sorted(package.rglob("*.py")):
        with file.open("rb") as lines:
            tokens = [
                token.string
                for token in tokenize.tokenize(lines.readline)
                if token.type == tokenize.NAME or (token.type == tokenize.STRING and " " not in token.string)
            ]
        if file.name not in ("families.py", "layouts.py", "bases.py") and any(
            re.search(word, text) for text in [*tokens, "".join(tokens)]
        ):
            found.append(file.relative_to(package).as_posix())
    assert found == []


def test_a_conditioner_may_be_a_static_argument():
    text = CLIPTextModel(CLIP_TEXT.config_cls())
    one, other = (Conditioner((("text_encoder", text),), SD.condition) for _ in range(2))
    assert hash(one) == hash(other)
    assert one == other
    assert one.clone(remat="blocks") != one
