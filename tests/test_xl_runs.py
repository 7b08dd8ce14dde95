# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Stable Diffusion XL is trained as any other model: batches bring what its denoiser is told of sizes."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

import dreambooth_jax as dbx
from dreambooth_jax.config.drawing import DrawingConfig
from dreambooth_jax.data.examples import ExampleTable
from dreambooth_jax.data.images import to_float
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.data.sources import load_images
from dreambooth_jax.export.adapter import save_adapter
from dreambooth_jax.pipeline import describe_pretrained
from dreambooth_jax.pipeline.rows import said_of
from dreambooth_jax.prepare.cache import Encoder, text_table
from dreambooth_jax.runs import open_model
from dreambooth_jax.size import Size
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import build_train_setup, mapper_of
from dreambooth_jax.trees import flatten
from dreambooth_jax.weights.adapters import applied, read_adapter
from tests.runs import draw_photos, tiny_config, weights
from tests.xl import theirs, written

pytest.importorskip("torch")
pytest.importorskip("diffusers")

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore:.*:ResourceWarning")]
ENCODERS = ("text_encoder", "text_encoder_2")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Its folder."""
    return written(tmp_path_factory.mktemp("xl") / "model")


def config_of(model, root, *more):
    options = [f"model.path={model}", "train.steps=2", "train.batch_size=2", "samples.steps=2", "prior.num_images=2"]
    return tiny_config(root, *options, *more)


@pytest.mark.parametrize("stop", [0, -1])
def test_the_schema_of_a_batch(model, tmp_path, stop):
    """With text encoders at rest, states and the vector of the whole text are in it; sizes always are."""
    config = config_of(model, tmp_path, f"text_encoder.stop={stop}", "train.batch_size=4")
    target = Target.here()
    setup = build_train_setup(config, describe_pretrained(model, target=target), mapper_of(config, target))
    (active,) = setup.steps
    texts = {
        0: {"condition/states": ((8, 77, 80), "float32"), "condition/pooled": ((8, 40), "float32")},
        -1: {**{f"input_ids/{name}": ((8, 77), "int32") for name in ENCODERS}, "silent": ((8,), "bool")},
    }
    latents = ((8, 8, 8, 4), "float32")
    rest = {"weight": ((8,), "float32"), "is_prior": ((8,), "bool"), "index": ((8,), "int32")}
    found = {name: (leaf.shape, leaf.dtype.name) for name, leaf in setup.batch(active).items()}
    assert found == {"mean": latents, "logvar": latents, "sizes": ((8, 6), "float32"), **texts[stop], **rest}


def test_views_tell_their_own_sizes(model, tmp_path):
    """Of each photo, of the class images, and of each bucket."""
    config = config_of(model, tmp_path, "data.crop=random", "data.flip=true", "data.buckets=3", "data.bucket_step=2")
    pipe = dbx.load_pretrained(model)
    (tmp_path / "few").mkdir()
    Image.new("RGB", (90, 30), "red").save(tmp_path / "few" / "wide.png")
    Image.new("RGB", (44, 40), "blue").save(tmp_path / "few" / "near.png")
    subject = Subject(identifier="sks", class_noun="dog")
    photos = load_images(tmp_path / "few", prompt="a dog", subject=subject, size=config.data.size)
    encoder = Encoder(pipe=pipe, data=config.data, seed=0, cache=tmp_path / "cache")
    for some in encoder.instance(photos):
        target = tuple(2 * side for side in some.size)
        for photo, told in zip(some.photos, some.sizes, strict=True):
            assert told.shape == (8, 6)
            assert {tuple(row) for row in told[:, :2]} == {tuple(photo.shape)}
            assert {tuple(row) for row in told[:, 4:]} == {target}
            assert len({tuple(row) for row in told}) > 4
    prior = encoder.prior(photos).sizes
    assert prior.shape == (2, 1, 6)
    sd = dbx.load_pretrained("embedded")
    assert Encoder(pipe=sd, data=config.data, seed=0, cache=tmp_path / "sd").prior(photos).sizes is None


def test_what_is_told_of_a_view_goes_with_its_latents(model, tmp_path):
    """A photo whose colours say where each pixel is: red from left to right, green from top to bottom."""
    config = config_of(model, tmp_path, "data.crop=random", "data.flip=true")
    pipe = dbx.load_pretrained(model)
    height, width = 60, 240
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0] = np.linspace(0, 255, width)[None]
    ramps[..., 1] = np.linspace(0, 255, height)[:, None]
    (tmp_path / "one").mkdir()
    Image.fromarray(ramps).save(tmp_path / "one" / "a.png")
    subject = Subject(identifier="sks", class_noun="dog")
    photos = load_images(tmp_path / "one", prompt="a dog", subject=subject, size=config.data.size)
    (some,) = Encoder(pipe=pipe, data=config.data, seed=0, cache=tmp_path / "cache").instance(photos)
    mean, logvar = some.moments
    table = ExampleTable(mean=mean, logvar=logvar, text={}, text_index=np.zeros(1, int), sizes=some.sizes)
    order = np.array([5, 0, 7, 2, 1, 6, 3, 4])
    batch = table.take(np.zeros(8, int), order, np.zeros(8, int))
    seen = photos[0].views(size=config.data.size, crop="random", flip=True, seed=0)[order]
    latents, _ = pipe.encode_images(pipe.params, to_float(seen))
    np.testing.assert_allclose(batch["mean"], latents, atol=1e-5)
    for picture, (_, _, top, left, *_) in zip(seen.astype(float), batch["sizes"], strict=True):
        red, green = picture[..., 0].mean(0), picture[..., 1].mean(1)
        if red[0] > red[-1]:
            red = 255 - red  # from the mirrored photo's left
        scale = (green[-2] - green[1]) / 13 * (height - 1) / 255  # pixels of the photo in one of the view
        for ramp, length, told in ((red, width, left), (green, height, top)):
            assert abs((ramp[1] * (length - 1) / 255 + 0.5) / scale - 1.5 - told) < 1
    assert len({*batch["sizes"][:, 3]}) > 4


@pytest.mark.slow
@pytest.mark.parametrize("devices", [8])
def test_shards_learn_what_one_device_does(model, tmp_path, monkeypatch, devices):
    """Losses, and by SGD gradients: layers gathered block by block, computed again, in loops."""
    options = ["train.remat=blocks", "text_encoder.stop=0", "prior.weight=0", "prior.class_images=null"]
    options += ["optimizer.kind=sgd", "optimizer.beta1=0", "optimizer.learning_rate=1e-2", "optimizer.clip_norm=null"]
    options += ["train.batch_size=8", "checkpoint.every=2", "optimizer.weight_decay=0"]
    found = []
    for count in (1, devices):
        monkeypatch.setattr(Target, "here", classmethod(lambda _, count=count: Target.of(jax.devices()[:count])))
        parallel = ["train.parallel=fsdp", f"train.fsdp_devices={count}"] if count > 1 else []
        config = config_of(model, tmp_path, *options, *parallel, f"run_dir={tmp_path / str(count)}")
        folder = dbx.train(config).folder
        losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found.append((losses, weights(folder, 2)))
    (losses, expected), (others, moved) = found
    np.testing.assert_allclose(others, losses, rtol=1e-5)
    before = flatten(dbx.load_pretrained(model).params)
    changes = {name: leaf - before[name] for name, leaf in expected.items()}
    largest = max(np.abs(change).max() for change in changes.values())
    assert largest > 1e-4
    for name, change in changes.items():
        np.testing.assert_allclose(moved[name] - before[name], change, atol=1e-3 * largest, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("stop", [0, -1])
def test_a_run(model, tmp_path, stop):
    """With prior preservation, a picture between steps and an exported folder; everything that is trained moves."""
    config = config_of(model, tmp_path, f"text_encoder.stop={stop}", "samples.every=2")
    folder = dbx.train(config).folder
    assert all(json.loads(line)["prior_loss"] > 0 for line in (folder / "metrics.jsonl").read_text().splitlines())
    trained, pipe = weights(folder, 2), dbx.load_pretrained(model)
    before = flatten(pipe.params)
    assert {name.split("/")[0] for name in trained} == {"unet", *(ENCODERS if stop else ())}
    moved = {name for name, leaf in trained.items() if (leaf != before[name]).any()}
    unread = {name for name in before if name.startswith("text_encoder/") and ("layers_1/" in name or "final" in name)}
    assert unread.isdisjoint(trained)
    assert trained.keys() - moved <= {name for name in trained if name.endswith("k_proj/bias")}
    exported = dbx.load_pretrained(folder / "model")
    for name, leaf in flatten(exported.params).items():
        np.testing.assert_array_equal(leaf, trained.get(name, before[name]), err_msg=name)
    picture = exported("a photo of sks dog", steps=2, output="float32")
    assert np.abs(picture - pipe("a photo of sks dog", steps=2, output="float32")).max() > 0


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_teacher_is_told_of_sizes(model, tmp_path):
    """Before anything was learned it is what it teaches."""
    config = config_of(model, tmp_path, "prior.kind=teacher", "text_encoder.stop=0", "adapter.kind=lora")
    folder = dbx.train(config).folder
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["prior_loss"] < 1e-8 < lines[-1]["prior_loss"]


def test_text_states_are_made_of_both_encoders(model):
    pipe = dbx.load_pretrained(model)
    condition = pipe.condition(pipe.params, ["a dog", "a photo of sks dog"])
    assert jax.tree.map(np.shape, condition._asdict()) == {
        **dict.fromkeys(("sizes", "residuals", "images", "labels", "guidance")),
        **{"states": (2, 77, 80), "pooled": (2, 40)},
    }


def test_an_empty_caption_is_what_an_empty_negative_prompt_is(model):
    """Zeros, also where text encoders learn; of a model that says otherwise, what its text encoders say."""
    pipe = dbx.load_pretrained(model)
    other = dataclasses.replace(pipe, components=dataclasses.replace(pipe.components, index={}))
    texts, draws = ["", "a dog"], np.asarray([1, 0, 0])
    for one, silence in ((pipe, True), (other, False)):
        said = one.condition(one.params, texts)
        resting, index = text_table(one, texts, params=one.params, encode=True)
        learning, _ = text_table(one, texts, params=one.params, encode=False)
        batch = {name: rows[index[draws]] for name, rows in learning.items()}
        learned = jax.jit(one.conditioner.of_batch)(one.params, batch).leaves()
        for name, leaf in said.leaves().items():
            expected = np.asarray(leaf)[draws] * (np.asarray([1, 0, 0]) if silence else np.ones(3)).reshape(
                -1, *[1] * (leaf.ndim - 1)
            )
            np.testing.assert_allclose(resting[name][index[draws]], expected, atol=1e-6)
            np.testing.assert_allclose(learned[name], expected, atol=1e-5)
        drawn = said_of(one, DrawingConfig(), texts, Size(8, 8)).get("silent")
        assert (drawn is None) == ("silent" not in batch)
        if silence:
            np.testing.assert_array_equal(drawn, [True, False])


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_lora_is_the_same_in_diffusers(tmp_path):
    """Of all three networks, as sd-scripts call their layers, and in PEFT's names: the picture is ours."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    torch_pipe = theirs(layers_per_block=2)  # of which sd-scripts' names make sense
    torch_pipe.save_pretrained(tmp_path / "model")
    options = ["adapter.kind=lora", "adapter.rank=4", "text_encoder.stop=-1", "prior.weight=0"]
    options += ["optimizer.learning_rate=3e-2", "text_encoder.learning_rate=3e-2", "prior.class_images=null"]
    folder = dbx.train(config_of(tmp_path / "model", tmp_path, *options)).folder
    file = folder / "lora.safetensors"
    arrays = load_file(file)
    prefixes = ("lora_unet_input_blocks_4_1_", "lora_unet_middle_block_1_", "lora_unet_output_blocks_0_1_")
    prefixes += ("lora_te1_text_model_encoder_layers_0_", "lora_te2_text_model_encoder_layers_2_")
    assert all(any(name.startswith(prefix) for name in arrays) for prefix in prefixes)
    assert {"_".join(name.split("_")[:2]) for name in arrays} == {"lora_unet", "lora_te1", "lora_te2"}
    with safe_open(file, "np") as opened:
        said = opened.metadata()
    assert (said["ss_base_model_version"], said["ss_v2"]) == ("sdxl_base_v1-0", "False")
    assert said["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    noise = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype("float32")
    run = {"latents": noise, "steps": 3, "guidance_scale": 4.0, "negative_prompt": "blurry", "output": "latents"}
    plain = dbx.load_pretrained(tmp_path / "model")
    params = applied(plain.params, read_adapter(file))
    found, before = plain("a sks dog", params=params, **run), plain("a sks dog", **run)
    save_adapter(folder / "peft.safetensors", plain, read_adapter(file).networks, format="peft")
    for name in (file.name, "peft.safetensors"):
        torch_pipe.load_lora_weights(folder, weight_name=name)
        with torch.no_grad():
            expected = torch_pipe(
                prompt="a sks dog",
                negative_prompt="blurry",
                latents=torch.tensor(noise.transpose(0, 3, 1, 2)),
                height=16,
                width=16,
                num_inference_steps=3,
                guidance_scale=4.0,
                output_type="latent",
            ).images
        torch_pipe.unload_lora_weights()
        expected = expected.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(found - before).max() > 1e-2
    for network in ("text_encoder", "text_encoder_2"):  # each has its part in it
        without = {**params, network: plain.params[network]}
        assert np.abs(plain("a sks dog", params=without, **run) - found).max() > 1e-4, network


TINY = [
    *("data.class_noun=dog", "data.resolution=24", "data.bucket_step=8", "prior.num_images=2", "prior.steps=2"),
    *("samples.steps=2", "samples.num_images=1", "train.steps=2", "model.vae=null"),
]


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    ("name", "more"),
    [("sdxl", ()), ("sdxl_lora", ()), ("sdxl_dreambooth_lora_24gb", ("data.buckets=2", "text_encoder.stop=-1"))],
)
def test_settings_that_ship(model, tmp_path, name, more):
    """Each trains, and its result draws another picture than the model did; what is planned of it is told before."""
    places = [f"model.path={model}", f"run_dir={tmp_path / 'run'}"]
    places += [f"data.instance_images={draw_photos(tmp_path / 'photos', 2)}"]
    config = dbx.load_config(name, [*TINY, *more, *places, "optimizer.learning_rate=0.1"])
    assert dbx.plan(config).fits is not False
    result = dbx.train(config)
    assert result.finished
    options = {"steps": 2, "height": 16, "width": 16, "output": "latents"}
    opened = open_model(str(result.folder))
    drawn = opened.pipe("a photo of sks dog", params=opened.params, **options)
    before = dbx.load_pretrained(model)("a photo of sks dog", **options)
    assert np.abs(drawn - before).max() > 1e-3
