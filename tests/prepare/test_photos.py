# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import pytest

from dreambooth_jax.data.sources import Photo
from dreambooth_jax.prepare.photos import check_captions


def photos(*prompts, has_caption):
    return [Photo(name="x", prompt=prompt, has_caption=has_caption, digest="0", file=b"") for prompt in prompts]


@pytest.mark.parametrize(
    ("prompts", "silent"),
    [
        (["a photo of sks dog", "sks dog asleep"], 0),
        (["a dog asleep", "sks dog asleep", "a dog, running"], 2),
    ],
)
def test_captions_without_the_identifier_are_a_warning(caplog, prompts, silent):
    check_captions(photos(*prompts, has_caption=True), identifier="sks")
    assert [line.split(" captions")[0] for line in caplog.messages] == (
        [f"{silent} of {len(prompts)}"] if silent else []
    )


def test_an_instance_prompt_without_it_is_said_once_and_elsewhere(caplog):
    check_captions(photos("a photo of a dog", has_caption=False), identifier="sks")
    assert not caplog.messages
