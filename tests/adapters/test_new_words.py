# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Settings of new words: what their vectors begin with, when they are trained, and what does not go together."""

import pytest

from dreambooth_jax.adapters.new_words import begin, beginnings_of, words_of
from dreambooth_jax.checks import problems
from dreambooth_jax.config import load_config
from dreambooth_jax.data.tokenizer import load_tokenizer
from dreambooth_jax.errors import InputError
from dreambooth_jax.train_setup.groups import settings_of_group
from tests.runs import MODEL


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODEL / "tokenizer")


def config_of(*overrides, kind="textual_inversion"):
    of_kind = [f"adapter.kind={kind}", "prior.weight=0", "data.class_noun=dog", f"model.path={MODEL}"]
    return load_config(None, [*of_kind, *overrides])


def test_the_word_is_the_identifier_and_begins_as_the_class(tokenizer):
    config = config_of("tokens.vectors=2")
    assert words_of(config) == {"sks": 2}
    dog = tokenizer.words(["dog"])[0][0]
    assert beginnings_of(config, {"one": tokenizer, "two": tokenizer}) == {
        name: [(dog,)] * 2 for name in ("one", "two")
    }


def test_several_words_begin_each_with_its_own_or_all_with_one(tokenizer):
    dog, cat = (ids[0] for ids in tokenizer.words(["dog", "cat"]))
    config = config_of("tokens.words=<a>; <b>", "tokens.init=dog; cat")
    assert beginnings_of(config, {"one": tokenizer}) == {"one": [(dog,), (cat,)]}
    config = config_of("tokens.words=<a>; <b>", "tokens.init=cat", "tokens.vectors=2")
    assert beginnings_of(config, {"one": tokenizer}) == {"one": [(cat,)] * 4}


def test_several_subjects_have_a_word_each(tokenizer):
    subjects = "[{identifier: <a>, class_noun: cat, instance_images: x}, {identifier: <b>, instance_images: y}]"
    config = config_of(f"data.concepts={subjects}")
    assert words_of(config) == {"<a>": 1, "<b>": 1}
    dog, cat = (ids[0] for ids in tokenizer.words(["dog", "cat"]))
    assert beginnings_of(config, {"one": tokenizer}) == {"one": [(cat,), (dog,)]}


def test_tokens_of_a_text_and_vectors(tokenizer):
    ids = tokenizer.words(["photo of dog"])[0]
    assert len(ids) == 3
    assert begin("photo of dog", tokenizer, vectors=3, mean=False) == [(i,) for i in ids]
    assert begin("photo of dog", tokenizer, vectors=2, mean=True) == [tuple(ids)] * 2
    assert begin(" ", tokenizer, vectors=2, mean=False) == [(), ()]
    with pytest.raises(InputError, match=r"is 3 tokens \(photo</w>, of</w>, dog</w>\) for 2 vectors: set tokens.vect"):
        begin("photo of dog", tokenizer, vectors=2, mean=False)
    with pytest.raises(InputError, match="is nothing to the tokenizer"):
        begin("<|endoftext|>", tokenizer, vectors=2, mean=True)


@pytest.mark.parametrize(
    ("words", "message"), [('["a,b", c]', "cannot be a new word"), ("[Toy, toy]", "has a word twice")]
)
def test_what_can_be_no_word_is_one_line(words, message):
    with pytest.raises(InputError, match=message):
        words_of(config_of(f"tokens.words={words}"))


def test_groups_have_the_settings_that_speak_of_them():
    config = config_of("tokens.start=3", "tokens.stop=9", kind="pivotal")
    encoders = ("text_encoder",)
    assert settings_of_group(config, "tokens", encoders, encoders) is config.tokens
    assert settings_of_group(config, "text_encoder", encoders, encoders) is config.text_encoder
    assert settings_of_group(config, "unet", ("unet",), encoders) is None
    assert config.tokens.stretch(20) == (3, 9)
    assert config.tokens.stretch(5) == (3, 5)
    assert config_of().tokens.stretch(5) == (0, 5)


@pytest.mark.parametrize(
    ("kind", "told", "message"),
    [
        ("full", ["tokens.vectors=2"], "tokens.vectors is 2, but adapter.kind=full learns no words"),
        ("lora", ["tokens.norm=table"], "tokens.norm is 'table', but adapter.kind=lora learns no words"),
        (
            "textual_inversion",
            ["prior.weight=1"],
            "class images, which are called without the new word, teach it nothing",
        ),
        ("textual_inversion", ["text_encoder.stop=-1"], "text_encoder.stop is -1, but words are all that is trained"),
        ("textual_inversion", ["tokens.alone=3"], "tokens.alone is 3, but words are all that is trained"),
        ("textual_inversion", ["tokens.start=9", "tokens.stop=9"], "tokens.start 9 is not before tokens.stop 9"),
        ("textual_inversion", ["adapter.rank=2"], "adapter.rank is 2, but adapter.kind=textual_inversion has no use"),
        ("textual_inversion", ["tokens.init=a; b"], "tokens.init has 2 texts for 1 words"),
        ("pivotal", ["tokens.alone=800"], "tokens.alone is 800, but the run has 800 steps"),
    ],
)
def test_what_does_not_go_together_is_one_line(kind, told, message):
    found = list(problems(config_of(*told, kind=kind)))
    assert any(message in line for line in found), found
    assert all("\n" not in line for line in found)


@pytest.mark.parametrize("kind", ["textual_inversion", "pivotal"])
def test_the_defaults_go_together(kind):
    assert not list(problems(config_of(kind=kind)))
