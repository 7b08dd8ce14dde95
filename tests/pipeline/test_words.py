# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""New words in prompts: what they change, what they leave, and the pictures of diffusers with the same file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dreambooth_jax as dbx
from dreambooth_jax.errors import InputError
from dreambooth_jax.pipeline.words import words_of
from dreambooth_jax.trees import flatten
from dreambooth_jax.weights.embeddings import write_embedding
from tests.runs import MODEL
from tests.test_pipeline_parity import FOLDER, NEGATIVE, ours, theirs

RUN = {"steps": 2, "height": 16, "width": 16, "output": "float32"}
NEW = 2 * np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def pipe():
    return dbx.load_pretrained(MODEL)


@pytest.fixture
def file(tmp_path):
    write_embedding(tmp_path / "toy.safetensors", "<toy>", {"text_encoder": NEW})
    return tmp_path / "toy.safetensors"


def test_states_are_those_of_a_longer_table(pipe, file):
    taught = pipe.with_embeddings([file])
    ids = taught.tokenizer(["a <toy> dog"])
    v = pipe.text_encoder.config.vocab_size
    assert ids[0, 2:5].tolist() == [v, v + 1, v + 2]
    name = "text_model/embeddings/token_embedding/embedding"
    leaves = flatten(pipe.params["text_encoder"])
    embedded = np.concatenate([leaves[name], NEW])[ids]
    assert (embedded[0, 2:5] == NEW).all()
    states, before = taught.encode_prompts(taught.params, ["a <toy> dog"]), pipe.encode_prompts(pipe.params, ["a dog"])
    np.testing.assert_allclose(states[:, :2], before[:, :2], atol=1e-5)  # each token sees those before it
    assert np.abs(states[:, 2:5] - before[:, 2:5]).max() > 0.1
    np.testing.assert_array_equal(taught.encode_prompts(taught.params, ["a dog"]), before)


@pytest.fixture
def exact():
    """In float64: a longer table makes another program, whose float32 may be rounded elsewhere."""
    with jax.enable_x64(True):
        yield dbx.load_pretrained(MODEL, dtype=jnp.float64, param_dtype=jnp.float64)


@pytest.mark.slow
def test_a_word_counts_in_prompts_and_in_negative_prompts(exact, file):
    taught = exact.with_embeddings({"sks": file})
    run = RUN | {"latents": np.random.default_rng(2).normal(size=(1, 8, 8, 4))}
    plain = exact("a dog", **run)
    np.testing.assert_allclose(taught("a dog", **run), plain, rtol=0, atol=1e-12)
    one, more = (taught(f"a dog, {text}", prompt_syntax="a1111", **run) for text in ("sks", "(sks:1.5)"))
    against = taught("a dog", negative_prompt="sks", **run)
    pictures = [plain, one, more, against]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(pictures) for b in pictures[:i])
    long = taught("dog " * 74 + "sks", prompt_syntax="a1111", **run)
    np.testing.assert_array_equal(long, taught("dog " * 74 + "BREAK sks", prompt_syntax="a1111", **run))


def test_several_files_are_words_of_their_own(pipe, file, tmp_path):
    write_embedding(tmp_path / "style.safetensors", "x", {"text_encoder": NEW[:1] + 1}, form="a1111")
    taught = pipe.with_embeddings([file]).with_embeddings([tmp_path / "style.safetensors"])
    at_once = pipe.with_embeddings([file, tmp_path / "style.safetensors"])
    assert taught.tokenizers == at_once.tokenizers
    for one in (taught, at_once):
        found = words_of(one, one.params)
        np.testing.assert_array_equal(found["<toy>"]["text_encoder"], NEW)
        np.testing.assert_array_equal(found["style"]["text_encoder"], NEW[:1] + 1)
        assert list(one.word_files) == ["<toy>", "style"]
        assert all(len(digits) == 12 for digits in one.word_files.values())
    assert "added" not in str(flatten(pipe.params).keys()), "the pipeline before is as it was"


def test_what_is_wrong_is_one_line(pipe, file, tmp_path):
    with pytest.raises(InputError, match="the word '<TOY>' has vectors already"):
        pipe.with_embeddings([file]).with_embeddings({"<TOY>": file})
    write_embedding(tmp_path / "wide.safetensors", "x", {"text_encoder": np.ones((1, 768), np.float32)})
    with pytest.raises(InputError, match=r"'x' have 768 numbers, those of this model 32.*\(Stable Diffusion 1\)"):
        pipe.with_embeddings([tmp_path / "wide.safetensors"])
    with pytest.raises(InputError, match="no such file"):
        pipe.with_embeddings([tmp_path / "nothing.safetensors"])


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("form", ["diffusers", "a1111"])
def test_diffusers_draws_the_same_with_the_file(tmp_path, form):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch_pipe = theirs("sd15", double=False)
    pipe = ours("sd15", torch_pipe, jnp.float32)
    write_embedding(tmp_path / "toy.safetensors", "<toy>", {"text_encoder": NEW}, form=form)
    torch_pipe.tokenizer = transformers.CLIPTokenizer.from_pretrained(FOLDER / "tokenizer")
    token = {} if form == "diffusers" else {"token": "<toy>"}
    torch_pipe.load_textual_inversion(str(tmp_path), weight_name="toy.safetensors", **token)
    taught = pipe.with_embeddings(
        [tmp_path / "toy.safetensors"] if not token else {"<toy>": tmp_path / "toy.safetensors"}
    )
    noise = np.random.default_rng(1).normal(size=(1, 8, 8, 4)).astype("float32")
    prompt = "a photo of <toy> on the beach"
    run = {"guidance_scale": 4.0, "negative_prompt": f"{NEGATIVE} <toy>"}
    with torch.no_grad():
        expected = torch_pipe(
            prompt, latents=torch.tensor(noise.transpose(0, 3, 1, 2)), num_inference_steps=3, height=16, width=16,
            output_type="np", **run,
        ).images  # fmt: skip
    found = taught(prompt, latents=noise, steps=3, output="float32", **run)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    without = pipe(prompt, latents=noise, steps=3, output="float32", **run)
    assert np.abs(found - without).max() > 1e-2
