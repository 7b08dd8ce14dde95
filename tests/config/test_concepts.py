# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Several subjects in the settings: files, the command line, what is filled in, what is refused."""

import pytest

from dreambooth_jax.checks import check_config
from dreambooth_jax.config import load_config, save_config, to_dict
from dreambooth_jax.config.concepts import concepts_of
from dreambooth_jax.errors import InputError
from dreambooth_jax.planning.elsewhere import config_of
from dreambooth_jax.training.resume import changed_keys, check_same_run

DOG = ["data.concepts.0.identifier=sks", "data.concepts.0.class_noun=dog", "data.concepts.0.instance_images=dogs"]
CAT = ["data.concepts.1.identifier=zwx", "data.concepts.1.class_noun=cat", "data.concepts.1.instance_images=cats"]
FLOW = "data.concepts=[{identifier: sks, class_noun: dog, instance_images: dogs}, {identifier: zwx, class_noun: cat, "
FLOW += "instance_images: cats}]"
YAML = """data:
  concepts:
    - {identifier: sks, class_noun: dog, instance_images: dogs}
    - identifier: zwx
      class_noun: cat
      instance_images: cats
"""


def test_all_ways_to_say_it_are_one(tmp_path):
    (tmp_path / "c.yaml").write_text(YAML)
    config = load_config(tmp_path / "c.yaml")
    assert config == load_config(None, [*DOG, *CAT]) == load_config(None, [FLOW])
    save_config(tmp_path / "saved.yaml", config)
    assert load_config(tmp_path / "saved.yaml") == config == config_of(to_dict(config))
    check_config(config)
    changed = load_config(tmp_path / "c.yaml", ["data.concepts.1.weight=0.5"])
    assert [one.weight for one in changed.data.concepts] == [None, 0.5]
    assert load_config(tmp_path / "c.yaml", ["data.concepts=[]"]) == load_config()
    json = load_config(None, ['data.concepts=[{"identifier": "sks", "weight": 1e-3, "repeats": 2}]'])
    assert (json.data.concepts[0].weight, json.data.concepts[0].repeats) == (1e-3, 2)


def test_what_a_subject_does_not_say_is_the_runs():
    shared = ["data.class_noun=dog", "prior.weight=0.3", "prior.num_images=7", "prior.class_prompt=one {class_noun}"]
    own = ["data.concepts.1.weight=0", "data.concepts.1.class_prompt=my {class_noun}", "data.concepts.1.class_noun=cat"]
    dog, cat = concepts_of(load_config(None, [*shared, DOG[0], CAT[0], *own]))
    assert (dog.class_noun, dog.weight, dog.num_images, dog.class_images_prompt) == ("dog", 0.3, 7, "one {class_noun}")
    assert (cat.class_noun, cat.weight, cat.num_images, cat.class_images_prompt) == ("cat", 0, 7, "my {class_noun}")
    (alone,) = concepts_of(load_config(None, [*shared, "data.identifier=abc"]))
    assert (alone.key, alone.name, alone.identifier, alone.weight) == ("data", "", "abc", 0.3)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.concepts.1.identifier=SKS"], r"data.concepts.1.identifier is 'SKS', as in data.concepts.0: one word"),
        (["data.instance_images=photos"], "data.instance_images is 'photos', but data.concepts have their own"),
        (["data.concepts.0.repeats=2"], "data.concepts.1 has no repeats, but others have"),
        (["data.concepts.2.identifier=abc"], "data.concepts.2.instance_images is empty"),
        (["data.concepts.0.identifier= "], "data.concepts.0.identifier is empty"),
        (["data.concepts.0.weight=-1"], "data.concepts.0.weight is -1"),
        (["data.concepts.0.instance_weight=0"], "data.concepts.0.instance_weight is 0"),
        (["data.concepts.0.instance_weight=nan"], "data.concepts.0: instance_weight must be a finite number"),
        (["data.concepts.0.class_noun= "], "data.concepts.0.class_noun is empty"),
        (["data.concepts.1.instance_prompt=a {noun}"], "unknown field {noun}"),
        (["data.concepts.1.identifer=x"], r"data.concepts.1: unknown key identifer; did you mean identifier\?"),
        (["data.concepts.1.repeats=x"], r"data.concepts.1: repeats must be a whole number \(int\), not x"),
        (["data.concepts.3.identifier=x"], "there are 2 entries, numbered from 0, so the next is 2"),
        (["data.concepts=3"], "data.concepts is 3, but must be a list of at most 100"),
        (["data.concepts=[3]"], "must be a list of at most 100"),
        (["data.concepts=["], "data.concepts, line 1"),
        (["data.concepts.1=x"], "unknown key data.concepts.1"),
        (["run_dir=dogs"], "run_dir dogs is the folder of the photos"),
    ],
)
def test_what_is_wrong_is_one_line(overrides, message):
    with pytest.raises(InputError, match=message) as error:
        check_config(load_config(None, [*DOG, *CAT, *overrides]))
    assert "\n" not in str(error.value)


def test_a_prompt_without_the_word_is_named_where_it_is_said(caplog):
    check_config(load_config(None, [*DOG, *CAT, "data.concepts.1.instance_prompt=a cat"]))
    (line,) = caplog.messages
    assert line.startswith("data.concepts.1.instance_prompt 'a cat' has no {identifier}")


def test_a_run_goes_on_with_the_same_subjects_only():
    base = to_dict(load_config(None, [*DOG, *CAT]))

    def changed(*overrides):
        return changed_keys(base, to_dict(load_config(None, [*DOG, *CAT, *overrides])))

    assert changed() == []
    assert changed("data.concepts.0.instance_images=moved", "data.concepts.1.class_images=x") == []
    assert changed("data.concepts.1.weight=0.5") == ["data.concepts.1.weight"]
    third = ["data.concepts.2.identifier=abc", "data.concepts.2.instance_images=x"]
    assert changed(*third) == ["data.concepts.2.identifier"]
    older = to_dict(load_config(None, [*DOG, *CAT]))
    for one in older["data"]["concepts"]:
        one.pop("repeats")  # a setting that came later
    assert changed_keys(older, base) == []
    meta = {"step": 4, "config": base, "fingerprints": {}}
    new = to_dict(load_config(None, [*DOG, *CAT, "data.concepts.0.identifier=xyz"]))
    with pytest.raises(InputError, match="data.concepts.0.identifier was 'sks' and is 'xyz'"):
        check_same_run(meta, config=new, fingerprints={})
