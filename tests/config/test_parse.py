# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dreambooth_jax.checks import check_config
from dreambooth_jax.config import Config, keys, load_config, save_config, to_dict
from dreambooth_jax.config.parse import _MEANT
from dreambooth_jax.errors import InputError

# those of the embedded model's pretraining belong to a script
CONFIGS = sorted(p for p in (Path(__file__).parents[2] / "configs").glob("*.yaml") if "pretrain" not in p.name)


def write(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def test_without_a_file_everything_is_default():
    assert load_config() == Config()


def test_a_saved_config_is_read_back(tmp_path):
    config = load_config(None, ["train.steps=7", "samples.prompts=[a, 'b, c']", "text_encoder.learning_rate=1e-7"])
    assert config.samples.prompts == ("a", "b, c")
    save_config(tmp_path / "c.yaml", config)
    assert load_config(tmp_path / "c.yaml") == config


def test_overrides_win_over_files(tmp_path):
    path = write(tmp_path, "train:\n  steps: 5\n  seed: 3\noptimizer:\n  learning_rate: 1e-5\n")
    config = load_config(path, ["train.steps=9"])
    assert (config.train.steps, config.train.seed, config.optimizer.learning_rate) == (9, 3, 1e-5)
    assert replace(config, train=Config().train, optimizer=Config().optimizer) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  stepz: 5\n", r"unknown key train.stepz; did you mean train.steps\?"),
        ("trian:\n  steps: 5\n", r"unknown key trian"),
        ("train:\n  steps: 3.7\n", r"train.steps.*int.*3.7"),
        ("train:\n  parallel: tpu\n", r"train.parallel.*pmap.*tpu"),
        ("data: null\n", "data is empty"),
        ("data: [\n", "c.yaml|Problems parsing"),
    ],
)
def test_bad_files_are_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        load_config(write(tmp_path, text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=5", r"did you mean train.steps\?"),
        ("learning_rate=1", r"did you mean optimizer.learning_rate\?"),
        ("train.steps=many", "train.steps.*many"),
        ("zzz=1", "see --help"),
        ("train.step=1", r"unknown key train.step; did you mean train.steps\?"),
        ("samples.prompts+=x", "does not add: write samples.prompts= and all of it"),
        ("train=5", "train is a group of settings: set one of them, such as train.steps=VALUE"),
        ("train.steps", r"train.steps.*expected"),
        ("train.steps.x=3", "unknown key train.steps.x; did you mean train.steps"),
        ("train.steps=true", "train.steps.*int.*True"),
        ("train.seed=1e3", r"train.seed must be a whole number \(int\), not 1000"),
        ("adapter.kind=lorra", r"adapter.kind must be one of 'full', .*, not lorra; did you mean lora\?$"),
        ("adapter.kind=LoHa", r"not LoHa; did you mean loha\?$"),
        ("adapter.kind=dora", "not dora: it is adapter.kind=lora adapter.dora=output, or input for A1111 and ComfyUI$"),
        ("optimizer.kind=adamw8bit", r"not adamw8bit; did you mean adamw\?$"),
        ("optimizer.schedule=cosin", r"not cosin; did you mean cosine\?$"),
        ("objective.weighting=minsnr", r"not minsnr; did you mean min_snr\?$"),
        ("train.dtype=float64", "train.dtype must be one of 'auto', 'float32', 'bfloat16', not float64"),
        ("train.deterministic=maybe", "train.deterministic must be true or false, not maybe"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate must be a finite number, not nan"),
        ("train.device_memory=x", "train.device_memory must be a finite number, not x"),
        ("prior.height=x", r"prior.height must be a whole number \(int\), not x"),
        ("train.steps=[1, 2]", "train.steps is '.1, 2.', but must be a single value"),
        ("samples.prompts=[a, [b]]", "samples.prompts has .*quote it"),
        ("samples.prompts=[yes]", "samples.prompts has True, which YAML takes for no text: quote it"),
        ("samples.prompts=[a", "samples.prompts, line 1"),
        ("samples.prompts=[&a x, *a]", "anchors"),
        ("=3", "unknown key ''; see --help"),
        ("a\nb=3", r"unknown key a\\nb"),
        ("config=nowhere.yaml", "nowhere.yaml is not there"),
    ],
)
def test_bad_overrides_are_one_line(override, message):
    with pytest.raises(InputError, match=message) as error:
        load_config(None, [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("a {identifier} dog on the beach; a painting", ("a {identifier} dog on the beach", "a painting")),
        ("one alone", ("one alone",)),
        ("a, b: c", ("a, b: c",)),
        ("null; 5; yes", ("null", "5", "yes")),
        (" a ;; b; ", ("a", "b")),
        ("a 😀; 'quoted' \"twice\"; back\\slash", ("a 😀", "'quoted' \"twice\"", "back\\slash")),
        ('["a; b", c]', ("a; b", "c")),
        ("[]", ()),
    ],
)
def test_lists_are_separated_by_semicolons(text, prompts):
    assert load_config(None, [f"samples.prompts={text}"]).samples.prompts == prompts


def test_one_config_does_not_depend_on_those_before_it(tmp_path):
    load_config(write(tmp_path, "data: {flip: true}"), ["train.steps=7"])
    assert load_config() == Config()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_and_holds_differences_only(path):
    import yaml

    config = load_config(path)
    assert config != Config()
    assert len(path.read_text().splitlines()) <= 25
    defaults = to_dict(Config())
    for group, values in yaml.safe_load(path.read_text()).items():
        for key, value in values.items() if isinstance(values, dict) else []:
            assert value != defaults[group][key], f"{group}.{key} repeats the default"


def test_keys_are_all_there():
    flat = set(keys())
    assert {"run_dir", "model.path", "prior.weight", "export.dtype"} <= flat
    assert flat == {
        f"{g}.{k}" if isinstance(v, dict) else g
        for g, v in to_dict(Config()).items()
        for k in (v if isinstance(v, dict) else [g])
    }


ODD = ["null", "[]", "{a: 1}", ".nan", "-1", "1e400", "0x10", "1:30", "'", "%", "&a", "*a", "!!x", "|", "\t", "a\nb"]
ODD += [
    "\0",
    "\udc80",
    "😀",
    "x" * 5000,
    "[" * 3000,
    "(",
    "\\",
    "~nobody/x",
    "2026-01-01",
    "[[a]]",
    "{{x}}",
    "}",
    "{x}",
]


@pytest.mark.parametrize("text", ["010", "1:30"])
def test_a_number_means_one_number(text):
    with pytest.raises(InputError, match=f"train.steps.*{text} means different numbers"):
        load_config(None, [f"train.steps={text}"])


@pytest.mark.parametrize("odd", ["a third of all", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("number", "key"), list(enumerate(keys())))
def test_whatever_a_setting_is_set_to_is_a_value_or_one_line(number, key, odd, caplog):
    refused = []
    for value in ODD if odd == "all" else ODD[number % 3 :: 3]:
        try:
            check_config(load_config(None, ["data.class_noun=dog", f"{key}={value}"]))
        except InputError as error:
            refused.append(str(error))
    assert all(len(line) < 600 and "\n" not in line for line in [*refused, *caplog.messages])


@pytest.mark.parametrize(("key", "name"), sorted(_MEANT))
def test_what_others_call_a_setting_leads_to_settings_that_there_are(key, name):
    settings = re.findall(r"[\w.]+=[\w.-]+", _MEANT[key, name])
    assert settings
    load_config(None, settings)
