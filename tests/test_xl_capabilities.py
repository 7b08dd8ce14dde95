# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whatever is there for Stable Diffusion is there for XL: few runs, each with many things in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax.config import load_config
from dreambooth_jax.target import Target
from dreambooth_jax.weights.embeddings import write_embedding
from tests.runs import draw_photos, tiny_config, weights
from tests.xl import theirs, written

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

pytestmark = [
    *(pytest.mark.parity, pytest.mark.slow, pytest.mark.usefixtures("one_device")),
    *(pytest.mark.filterwarnings(f"ignore:.*:{kind}") for kind in ("ResourceWarning", "FutureWarning", "UserWarning")),
]
DRAW = {"steps": 2, "height": 16, "width": 16, "output": "float32"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a model in it."""
    root = tmp_path_factory.mktemp("xl")
    written(root / "model")
    return root


@pytest.fixture(scope="module")
def pipe(root):
    return dbx.load_pretrained(root / "model", target=Target.of(jax.devices()[:1]))


def config_of(root, folder, *more):
    options = [f"model.path={root / 'model'}", f"run_dir={root / folder}", "train.steps=3", "checkpoint.every=1"]
    options += ["prior.num_images=2", "samples.steps=2", "samples.num_images=1", "train.batch_size=2"]
    return tiny_config(root, *options, *more)


def test_diffusers_reads_a_word_for_both_encoders(pipe, tmp_path):
    r = np.random.default_rng(3)
    vectors = {"text_encoder": r.normal(size=(2, 32)), "text_encoder_2": r.normal(size=(2, 48))}
    write_embedding(tmp_path / "toy.safetensors", "<toy>", vectors)
    torch_pipe = theirs()
    for place in (torch_pipe.text_encoder_2.config, torch_pipe.text_encoder_2.text_model):
        place.eos_token_id = 552  # without it PyTorch's takes the highest id, that of a new word, for a text's end
    for part, number in (("clip_l", ""), ("clip_g", "_2")):
        from safetensors.torch import load_file

        torch_pipe.load_textual_inversion(
            load_file(tmp_path / "toy.safetensors")[part],
            token="<toy>",
            text_encoder=getattr(torch_pipe, f"text_encoder{number}"),
            tokenizer=getattr(torch_pipe, f"tokenizer{number}"),
        )
    noise = r.normal(size=(1, 8, 8, 4)).astype("float32")
    prompt, run = "a photo of <toy>", {"guidance_scale": 4.0, "negative_prompt": "blurry <toy>"}
    taught = pipe.with_embeddings({"<toy>": tmp_path / "toy.safetensors"})
    found = taught(prompt, latents=noise, steps=2, output="latents", **run)
    latents = torch.tensor(noise.transpose(0, 3, 1, 2))
    with torch.no_grad():
        expected = torch_pipe(
            prompt, latents=latents, num_inference_steps=2, height=16, width=16, output_type="latent", **run
        ).images
    expected = expected.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_long_prompts_are_chunks_in_both_encoders(pipe):
    """States of all chunks, one after the other; the vector of the whole text is the first one's."""
    ids = {name: np.stack([tokenizer(["a dog", "at night"])]) for name, tokenizer in pipe.tokenizers.items()}
    ids = jax.tree.map(jnp.asarray, ids)
    ones = jax.tree.map(lambda rows: jnp.ones(rows.shape), ids)
    both = pipe.conditioner.of_chunks(pipe.params, ids, ones, restore_mean=np.bool_(True))
    first, second = (pipe.conditioner(pipe.params, {name: rows[:, k] for name, rows in ids.items()}) for k in (0, 1))
    np.testing.assert_allclose(both.states, np.concatenate([first.states, second.states], axis=1), atol=1e-5)
    np.testing.assert_allclose(both.pooled, first.pooled, atol=1e-6)


def test_tools_of_drawing(pipe):
    """A picture to start from, a mask, a second pass, an autoencoder in strips."""
    picture = np.random.default_rng(0).uniform(size=(16, 16, 3)).astype(np.float32)
    mask = np.zeros((16, 16), np.float32)
    mask[:8] = 1
    run = {"steps": 2, "output": "float32", "image": picture, "hires_scale": 1.5, "hires_by": "picture"}
    whole = pipe("a dog", **run)
    assert whole.shape == (1, 24, 24, 3)
    np.testing.assert_allclose(pipe("a dog", tiled=True, **run), whole, atol=1e-4)
    kept = pipe("a dog", steps=2, output="float32", image=picture, mask=mask, mask_blur=0)
    np.testing.assert_allclose(kept[0, 8:], picture[8:], atol=1e-6)
    assert np.abs(kept[0, :8] - picture[:8]).max() > 1e-2


@pytest.mark.parametrize("encoder", ["text_encoder"])
def test_two_subjects_with_one_encoder_alone(root, encoder):
    """Full training, the text encoder's in a phase of its own, of several subjects, taught by the model as it was."""
    for i, name in enumerate(("dog", "cat")):
        if not (root / name).exists():
            draw_photos(root / name, 2 + i)
    subjects = [f"data.concepts.{i}.instance_images={root / name}" for i, name in enumerate(("dog", "cat"))]
    options = [*subjects, f"adapter.text_encoder_targets={encoder}/.*", "text_encoder.stop=1", "prior.kind=teacher"]
    options += ["data.resolution=16", f"model.path={root / 'model'}", "prior.num_images=2", "prior.steps=2"]
    options += ["train.steps=2", "train.batch_size=8", "checkpoint.every=2", "samples.every=0"]

    folder = dbx.train(load_config("two_subjects", [f"run_dir={root / encoder}", *options])).folder
    assert {name.split("/")[0] for name in weights(folder, 2)} == {"unet", encoder}
