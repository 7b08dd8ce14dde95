# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""What words mean, without anything being done."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.cli.parsing import normalise, read_call
from dreambooth_jax.cli.verbs import VERBS
from dreambooth_jax.errors import InputError


def words(verb, *arguments):
    return normalise(VERBS[verb], arguments)


def test_words_find_their_options():
    assert words("train", "a.yaml", "b.yml", "train.steps=4", "--train.seed", "3") == [
        "--config=a.yaml", "--config=b.yml", "--train.steps=4", "--train.seed=3",
    ]  # fmt: skip
    assert words("sample", "--steps", "3", "run", "a, b", "c", "seed=4", "--num-images=2") == [
        "--source=run", '--prompts=["a, b", "c"]', "--steps=3", "--seed=4", "--num_images=2",
    ]  # fmt: skip
    assert words("export", "run", "out") == ["--source=run", "--out=out"]
    assert words("check", "a.pt", "--json") == words("check", "--json=true", "a.pt") == ["--file=a.pt", "--json=true"]
    assert words("export", "run", "model", "dtype=float16") == ["--source=run", "--out=model", "--dtype=float16"]


SPELLINGS = (lambda key, value: [f"{key}={value}"], lambda k, v: [f"--{k}={v}"], lambda k, v: [f"--{k}", v])


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_spelling_of_a_setting_means_the_same_to_every_verb(verb, spell):
    values = {"run_dir": "here", "train.steps": "7", "steps": "7", "dtype": "float32", "step": "3"}
    needed = {"source": "run", "run": "run", "out": "model", "file": "a.safetensors", "sources": "[run]"}
    fields = {field.name: field for field in dataclasses.fields(VERBS[verb].settings)}
    given = {k: v for k, v in (values | needed).items() if k.split(".")[0] in fields}
    settings = read_call(VERBS[verb], [word for key, value in given.items() for word in spell(key, value)]).settings
    for key, value in given.items():
        found = settings
        for name in key.split("."):
            found = getattr(found, name)
        assert (f"[{', '.join(found)}]" if isinstance(found, tuple) else str(found)) == value


@pytest.mark.parametrize(
    "prompt",
    [
        *(
            "a dog 😀",
            "😀",
            "- a dog -",
            "-a dog",
            "--a dog--",
            "a: dog",
            "[a]",
            '"',
            "a\\b",
            "null",
            "a\nb",
            "E = mc2",
        ),
        *("\x7f\x85\u2028\ufeff", "{a}", "~", "a=b on a wall", "http://a.b/?c=d"),
    ],
)
def test_a_prompt_is_what_was_typed(prompt):
    separator = ["--"] if prompt == "a=b on a wall" else []
    assert read_call(VERBS["sample"], ["run", *separator, prompt, "a cat"]).settings.prompts == (prompt, "a cat")


@pytest.mark.slow
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1))
def test_after_two_dashes_every_word_is_a_prompt(prompts):
    assert read_call(VERBS["sample"], ["run", "--", *prompts]).settings.prompts == tuple(prompts)


@pytest.mark.parametrize("text", ["😀", "-blurry", "null", "{a: b}", "a=b", "[1, 2]"])
def test_the_value_of_an_option_is_what_was_typed(text):
    assert read_call(VERBS["sample"], ["run", "a dog", f"negative_prompt={text}"]).settings.negative_prompt == text
    assert read_call(VERBS["train"], [f"data.instance_prompt={text}"]).settings.data.instance_prompt == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "run", "a dog", "stepz=1"], "unknown key stepz"),
        (["sample", "run", "a dog", "num-imagez=1"], "unknown key num_imagez; did you mean num_images"),
        (["sample", "run", "a dog", "steps", "20"], "'steps' looks like a setting"),
        (["sample", "run", "a dog", "steps", "=", "20"], "'steps' looks like a setting"),
        (["sample", "run", "a dog", "=20"], "'=20' looks like a setting"),
        (["sample", "run", "a dog", "steps = 20"], "'steps = 20' looks like a setting"),
        (["sample", "run", "a dog", "--steps 20"], "'--steps 20' looks like a setting"),
        (["sample", "run", "a dog", "—steps=20"], "'—steps=20' looks like a setting"),
        (["sample", "run", "a dog", "-n", "4"], "'-n' looks like a setting"),
        (["sample", "run", "a dog", "--prompts=[a]"], "--prompts are both given"),
        (["sample", "run", "a dog", "--source=other"], "run and --source are both given"),
        (["export", "run", "a", "b"], "'b' is one word too many after 'run' 'a'"),
        (["export", "run", "a", "dtype", "float16"], "'dtype' looks like a setting"),
        (["train", "photos"], "'photos' is neither a setting (KEY=VALUE) nor a file that ends in .yaml"),
        (["train", "train.steps", "400"], "'train.steps' looks like a setting"),
        (["prior", "--", "a dog"], "'a dog' is neither a setting"),
    ],
)
def test_a_word_that_has_no_place_is_one_line(arguments, message):
    with pytest.raises(InputError) as error:
        read_call(VERBS[arguments[0]], arguments[1:])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
