# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import time

from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.metadata.a1111 import read_a1111
from dreambooth_jax.metadata.infotext import quoted, read_infotext, unquoted, write_infotext
from dreambooth_jax.metadata.ours import parameters_of
from dreambooth_jax.size import Size
from tests.metadata.files import A1111


def test_a_text_of_a1111():
    found = read_infotext(A1111)
    assert found.prompt == "a photo of a (dog:1.2) <lora:fluffy:0.8>, sunset\non a hill"
    assert found.negative_prompt == "blurry, low quality"
    assert list(found.pairs)[:4] == ["Steps", "Sampler", "Schedule type", "CFG scale"]
    assert found.pairs["Lora hashes"] == "fluffy: 0123456789ab"
    assert found.pairs["Size"] == "512x768"


def test_what_is_quoted_is_what_stands_between_values():
    """As ``quote`` of A1111 does: a comma, a colon, a new line."""
    assert [quoted(value) for value in ("a b", "a,b", "a: b", "a\nb", '"a"', "é: 😀")] == [
        *("a b", '"a,b"', '"a: b"', '"a\\nb"', '"a"', '"é: 😀"'),
    ]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_values_that_need_quotes_come_back(value):
    if quoted(value) != value:
        assert unquoted(quoted(value)) == value


line = st.text("ab (),:[]<>😀é", min_size=1).map(str.strip).filter(bool)


@given(line, line | st.just(""), st.dictionaries(st.sampled_from(["Model", "VAE", "User"]), line))
def test_what_is_written_is_read_back(prompt, negative_prompt, pairs):
    pairs = {"Steps": "20", "Sampler": "Euler a", "CFG scale": "7", "Size": "8x8"} | pairs
    found = read_infotext(write_infotext(prompt, negative_prompt, pairs))
    assert found == (prompt, negative_prompt, pairs)


def test_the_order_and_names_of_a1111():
    about = {
        **{"prompt": "a dog", "negative_prompt": "", "seed": 3, "model": "runs/dog at step 2", "steps": 20},
        **{"sampler": "dpmpp_2m_sde", "schedule": "karras", "guidance_scale": 7.0, "clip_skip": 2, "noise": "torch"},
        **{"noise_seed_delta": 31337, "ancestral_eta": 0.5, "eta": 0.0, "profile": "a1111"},
    }
    text, version = parameters_of(about, Size(height=768, width=512)).rsplit(", Version: ", 1)
    assert version.startswith("dreambooth-jax ")
    assert text == (
        "a dog\nSteps: 20, Sampler: DPM++ 2M SDE, Schedule type: Karras, CFG scale: 7, Seed: 3, Size: 512x768, "
        "Model: runs/dog at step 2, Clip skip: 2, ENSD: 31337, RNG: CPU, Eta: 0.5"
    )


def test_what_we_write_of_variations_and_second_passes_is_read_back(tmp_path):
    """By our reader of A1111's text, as if the picture was theirs."""
    about = {"prompt": "a dog", "seed": 9, "steps": 5, "sampler": "euler", "guidance_scale": 7.0, "noise": "philox"}
    about |= {"variation_of": 3, "variation_strength": 0.25, "hires_scale": 1.5, "hires_by": "latent", "hires_steps": 7}
    remake = read_a1111(parameters_of(about | {"hires_strength": 0.6}, Size(height=96, width=144)))
    assert remake.seed == 9
    expected = {"variation_of": 3, "variation_strength": 0.25, "hires_scale": 1.5, "hires_steps": 7}
    assert expected.items() <= dict(remake.options).items()
    assert (remake.options["height"], remake.options["width"], remake.options["hires_strength"]) == (64, 96, 0.6)


def test_a_refiner_is_told_as_a1111_does():
    about = {"prompt": "a dog", "seed": 9, "steps": 5, "sampler": "euler", "guidance_scale": 7.0, "noise": "philox"}
    about |= {"refiner": "models/refiner", "refiner_start": 0.75}
    text = parameters_of(about, Size(height=96, width=144))
    assert ", Refiner: models/refiner, Refiner switch at: 0.75, Version: " in text
    remake = read_a1111(text)
    assert remake.options["refiner_start"] == 0.75
    assert remake.lacking == ["the refiner that drew its last steps, models/refiner: give it with refiner=MODEL"]


def test_a_last_line_of_few_pairs_belongs_to_the_prompt():
    assert read_infotext("a dog\nwith a: b, c: d") == ("a dog\nwith a: b, c: d", "", {})
    assert read_infotext("Negative prompt: x") == ("", "x", {})
    assert read_infotext("") == ("", "", {})


def test_long_lines_cost_no_more_than_they_are_long():
    for line in ("a" * 2**20, "a b" * 2**18, '"' * 2**20, 'a: "' + "\\" * 2**20, "a:" * 2**18):
        start = time.process_time()
        read_infotext(line)
        assert time.process_time() - start < 20
