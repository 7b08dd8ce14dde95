# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What ``sample`` says of the files of two models reaches that which has such files."""

import shutil

import pytest

import dreambooth_jax as dbx
from dreambooth_jax.cli.refiner import open_refiner, told_of_model
from dreambooth_jax.errors import InputError
from dreambooth_jax.options import SampleOptions
from tests import xl
from tests.weights.originals import REFINER


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A refiner in a single file, without tokenizers beside it."""
    return REFINER.write(tmp_path_factory.mktemp("refiner") / "refiner.safetensors")


def test_a_tokenizer_is_that_of_the_single_file(file, tmp_path):
    for name, kind in xl.TOKENIZERS.items():
        shutil.copytree(xl.FIXTURES / kind / "tokenizer", tmp_path / name)
    pipe = dbx.load_pretrained("embedded")
    options = SampleOptions(source="embedded", refiner=str(file), tokenizer=str(tmp_path / "tokenizer"))
    assert told_of_model(options)["tokenizer"] is None
    refiner = open_refiner(options, pipe)
    assert refiner.components.tokenizers == {"text_encoder_2": tmp_path / "tokenizer_2"}
    both = SampleOptions(source=str(file), refiner=str(file), tokenizer=options.tokenizer)
    assert told_of_model(both)["tokenizer"] == options.tokenizer
    with pytest.raises(InputError, match="which holds no tokenizer: give one with --tokenizer FOLDER"):
        open_refiner(SampleOptions(source="embedded", refiner=str(file)), pipe)


def test_a_refiner_without_a_variant_has_its_plain_files(tmp_path):
    pipe = dbx.load_pretrained("embedded")
    options = SampleOptions(source="embedded", refiner="embedded", variant="fp16")
    assert open_refiner(options, pipe).components.fingerprint == pipe.components.fingerprint
    with pytest.raises(InputError, match="has no weights of variant fp16"):
        dbx.load_pretrained("embedded", variant="fp16")
