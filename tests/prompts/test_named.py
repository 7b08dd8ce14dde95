# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Templates of prompts, and lists of them that are known by name."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dreambooth_jax.checks import check_config
from dreambooth_jax.cli.prompts import fill_prompts, words_of
from dreambooth_jax.config import SamplingConfig, load_config, save_config
from dreambooth_jax.data.prompts import Subject
from dreambooth_jax.errors import InputError
from dreambooth_jax.evaluation.samples import SampleSettings
from dreambooth_jax.options import SampleOptions
from dreambooth_jax.prompts.emphasis import sections
from dreambooth_jax.prompts.named import ANATOMY, NAMED, expanded
from dreambooth_jax.prompts.wildcards import draw
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.trainer.grids import grids_of

DOG = Subject(identifier="sks", class_noun="dog")
DOCS = Path(__file__).parents[2] / "docs" / "prompts.md"


def test_the_papers_lists_are_25_prompts_each_with_its_two_words():
    things, animals = NAMED["dreambooth-object"], NAMED["dreambooth-live"]
    for prompts in (things, animals):
        assert len(set(prompts)) == 25
        assert all(prompt.count("{identifier} {class_noun}") == 1 for prompt in prompts)
    shared = set(things) & set(animals)
    assert len(shared) == 15  # 10 places and 5 properties
    assert set(things[-5:]) == set(animals[-5:]) <= shared
    assert all(re.search(r"wearing|outfit", prompt) for prompt in set(animals) - shared)
    assert DOG.fill(things[12]) == "a sks dog with the Eiffel Tower in the background"
    assert DOG.fill(animals[-1]) == "a cube shaped sks dog"


def test_the_anatomy_grows_by_one_part_a_line():
    lines = NAMED["anatomy"]
    assert len(lines) == len(ANATOMY)
    for number, line in enumerate(lines, 1):
        assert all(part in line for part in list(ANATOMY.values())[:number])
        assert not any(part in line for part in list(ANATOMY.values())[number:])
    documented = DOCS.read_text(encoding="utf-8")
    assert all(f"| {name} | {example.replace('{', '`{').replace('}', '}`')} |" in documented
               for name, example in ANATOMY.items())  # fmt: skip


def test_prompts_to_learn_a_word_with_have_it_by_itself():
    for name in ("inversion-object", "inversion-style"):
        assert len(set(NAMED[name])) == len(NAMED[name]) > 15
        assert all(prompt.count("{identifier}") == 1 and "{class_noun}" not in prompt for prompt in NAMED[name])


def test_the_courses_list_has_the_two_words_once_in_each():
    assert len(set(NAMED["course"])) == len(NAMED["course"]) == 13
    assert all(prompt.count("{identifier} {class_noun}") == 1 for prompt in NAMED["course"])
    assert DOG.fill(NAMED["course"][0]) == "a photo of sks dog in a bucket"


def test_a_name_stands_for_its_prompts():
    assert expanded(["a dog", "dreambooth-live", "a cat"]) == ["a dog", *NAMED["dreambooth-live"], "a cat"]
    with pytest.raises(InputError, match="no prompts of the name 'dreambooth-lives'; did you mean dreambooth-live"):
        expanded(["dreambooth-lives"])
    assert expanded(["a dream, dreambooth-live"]) == ["a dream, dreambooth-live"]


def filled(prompt, source="x", **told):
    options = SampleOptions(source=str(source), **told)
    return fill_prompts([prompt], words_of(options), syntax=options.prompt_syntax)


def test_of_several_subjects_that_one_fills_fields_whose_word_is_told(tmp_path):
    concepts = "[{identifier: sks, class_noun: dog, instance_images: a}, {identifier: zwx, class_noun: cat, "
    save_config(tmp_path / "config.yaml", load_config(None, [f"data.concepts={concepts}instance_images: b}}]"]))
    assert filled("a {identifier} {class_noun}", tmp_path, identifier="zwx") == ["a zwx cat"]
    with pytest.raises(InputError, match="tell identifier="):
        filled("a {identifier} {class_noun}", tmp_path)
    assert filled("sks dog and zwx cat", tmp_path) == ["sks dog and zwx cat"]


def test_fields_of_the_command_line_are_the_runs_unless_told(tmp_path):
    run = tmp_path
    save_config(run / "config.yaml", load_config(None, ["data.class_noun=dog", "data.identifier=zwx"]))
    assert filled("a {identifier} {class_noun}", run) == ["a zwx dog"]
    assert filled("a {identifier} {class_noun}", run, identifier="abc", class_noun="cat") == ["a abc cat"]
    assert filled("a {identifier} {class_noun}", identifier="abc", class_noun="cat") == ["a abc cat"]
    assert filled("a {identifier}", prompt_syntax="plain") == ["a {identifier}"]
    assert len(filled("dreambooth-live", run, prompt_syntax="plain")) == 25
    assert filled("dreambooth-object", run)[0] == "a zwx dog in the jungle"
    with pytest.raises(InputError, match=r"^the prompt 'a \{class_noun\}' has \{class_noun\}: tell class_noun=\.\.\.$"):
        filled("a {class_noun}", identifier="abc")
    with pytest.raises(
        InputError, match=r"unknown field \{clas_noun\} .* did you mean \{class_noun\}\? .* \\\{ and \\\}"
    ):
        filled("a {clas_noun}", run)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a {red|blue} {class_noun}", "a {red|blue} dog"),
        ("{a|{identifier}|{b|c}}", "{a|sks|{b|c}}"),
        (r"\{identifier\} {identifier}", r"\{identifier\} sks"),
        ("{{identifier}}", "{sks}"),
        ("({identifier}:1.3) [a|b]", "(sks:1.3) [a|b]"),
    ],
)
def test_braces_in_a1111s_syntax(template, expected):
    assert DOG.fill(template, syntax="a1111") == expected


@given(st.text(max_size=30))
def test_any_text_can_be_written_with_backslashes(text):
    text = re.sub("BREAK|_", "", text)
    escaped = re.sub(r"([\\()\[\]{}|])", r"\\\1", text)
    said = draw(DOG.fill(escaped, syntax="a1111"), seed=0)
    assert "".join(part.text for part in sections(said)[0]) == " ".join(text.split())


def test_wildcards_in_a_run_are_checked_before_it_starts():
    config = load_config(None, ["data.class_noun=dog", "samples.prompts=a {red|blue} {class_noun}; anatomy"])
    with pytest.raises(InputError, match=r"unknown field \{red\|blue\}"):
        check_config(config)
    config = load_config(
        None,
        ["data.class_noun=dog", "samples.prompts=a {red|blue} {class_noun}; anatomy", "samples.prompt_syntax=a1111"],
    )
    check_config(config)
    prompts = grids_of(config, RunFolder(Path("run"))).settings.prompts
    assert prompts[:2] == ["a {red|blue} dog", "a sks dog"]
    assert len(prompts) == 1 + len(ANATOMY) + 1


def test_a_picture_says_what_was_drawn(tmp_path):
    (tmp_path / "hats.txt").write_text("a fez\n")
    sampling = SamplingConfig(prompt_syntax="a1111", wildcards=str(tmp_path), negative_prompt="{a|b}")
    settings = SampleSettings(prompts=["a {red|blue} dog in __hats__", "a cat"], sampling=sampling)
    for seed in range(8):
        said = settings.said(0, seed)
        assert said["prompt"] == draw("a {red|blue} dog in a fez", seed=seed)
        assert said["negative_prompt"] == draw("{a|b}", seed=seed, side="negative")
        assert said["prompt_template"] == "a {red|blue} dog in __hats__"
        assert "prompt_template" not in settings.said(1, seed)
    plain = SampleSettings(prompts=["a {red|blue} dog"])
    assert plain.said(0, 0) == {"prompt": "a {red|blue} dog", "negative_prompt": ""}
    assert SimpleNamespace(**said).prompt
