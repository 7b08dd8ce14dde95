# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Files of settings as editors, other systems and accidents leave them."""

import time
from pathlib import Path

import pytest

from dreambooth_jax.cli import main
from dreambooth_jax.config import Config, load_config
from dreambooth_jax.config.files import HOMES, shipped
from dreambooth_jax.errors import InputError

TEXT = "run_dir: läufe\ntrain:\n  steps: 7\nsamples:\n  prompts: [a dog, 'a 😀']\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_saved_on_windows_is_the_same_file(tmp_path, encoding, newline):
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "c.yaml").write_bytes((mark + TEXT.replace("\n", newline)).encode(encoding))
    config = load_config(tmp_path / "c.yaml")
    assert (config.run_dir, config.train.steps, config.samples.prompts) == ("läufe", 7, ("a dog", "a 😀"))


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl")
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train:\n  steps: 1\n  steps: 2\n", "line 3: steps stands here twice"),
        ("train:\n  steps: 1\ndata:\n  flip: true\ntrain:\n  seed: 2\n", "line 5: train stands here twice"),
        (BOMB, "line 1: & and *"),
        ("train: &t\n  steps: 1\n", "line 1: & and *"),
        ("train:\n  <<: *x\n", "line 2: & and *"),
        ("run_dir: !!binary aGVsbG8=\n", "line 1: the tag"),
        ("run_dir: !!python/object/apply:os.system [ls]\n", "line 1: the tag"),
        ("train:\n  steps: !!int 3\n", "line 2: the tag"),
        ("[" * 5000, "too many brackets"),
        ("{" * 5000, "too many brackets"),
        ("train:\n  steps: " + "9" * 5000 + "\n", "4300 digits"),
        ("train:\n\tsteps: 4\n", "line 2"),
        ("train:\n  steps: 4\n---\ntrain:\n  steps: 5\n", "line 3"),
        ("- a\n- b\n", "holds no settings"),
        ("just words\n", "holds no settings"),
        ("run_dir: a\0b\n", "zero bytes"),
        ("run_dir: \"a\\0b\"\n", "run_dir"),
        ("train:\n  steps: 010\n", "line 2: 010 means different numbers"),
        ("train: {steps: 1:30}\n", "line 1: 1:30 means different numbers"),
        ("prior: {weight: 01.5}\n", "line 1: 01.5 means different numbers"),
        ("? [a, b]\n: 3\n", "line 1: a key is a word"),
        ("1: 2\n", "unknown key 1"),
        ("null: 2\n", "unknown key null"),
        ("train.steps: 3\ntrain: {steps: 4}\n", "train.steps stands here twice"),
        ("data: {class_noun: no}\n", "data.class_noun must be text: put it in quotes, not False"),
        ("train: 5\n", "train is a group of settings"),
        ("data:\n  class_noun:\n", "data.class_noun is empty"),
        ("train:\n  step: 5\n", "unknown key train.step; did you mean train.steps?"),
        ("train: {steps: {a: 1}}\n", "train.steps"),
        ("samples: {prompts: [[a]]}\n", "samples.prompts"),
        ("optimizer: {learning_rate: true}\n", "optimizer.learning_rate"),
        ("data: {class_noun: 5}\n", "data.class_noun"),
        (b"\xff\xfe\x00", "is not text"),
        (b"run_dir: l\xe4ufe\n", "is not text in UTF-8 (byte 10): save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is not text in UTF-8"),
        (b"x" * 2_000_000, "no file of settings"),
        (b"\x80\x04\x95", "is not text in UTF-8"),
    ],
    ids=range(37),
)  # fmt: skip
def test_what_is_no_file_of_settings_is_one_line_at_once(tmp_path, content, message, capsys):
    path = tmp_path / "c.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    began = time.process_time()
    assert main(["train", str(path), "data.class_noun=dog"]) == 2
    assert time.process_time() - began < 20
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert len(line) < 700


def test_scalars_are_read_as_yaml_users_expect(tmp_path):
    (tmp_path / "c.yaml").write_text("run_dir: 2026-01-01\noptimizer: {learning_rate: 1e-5, clip_norm: null}\n")
    config = load_config(tmp_path / "c.yaml")
    assert (config.run_dir, config.optimizer.learning_rate, config.optimizer.clip_norm) == ("2026-01-01", 1e-5, None)


def test_dotted_keys_and_semicolons_work_in_files(tmp_path):
    (tmp_path / "c.yaml").write_text("train.steps: 5\nsamples: {prompts: a dog; a cat}\n")
    config = load_config(tmp_path / "c.yaml")
    assert (config.train.steps, config.samples.prompts) == (5, ("a dog", "a cat"))


def test_an_empty_file_changes_nothing(tmp_path):
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "c.yaml") == Config()


def test_shipped_settings_have_names(tmp_path, monkeypatch):
    files = {path.stem: path for path in (Path(__file__).parents[2] / "configs").glob("*.yaml")}
    assert {"quickstart", "sd15"} <= set(shipped()) == {name for name in files if "pretrain" not in name}
    for name in shipped():
        assert load_config(name) == load_config(files[name]) != Config()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sd15").mkdir()  # a folder of that name, such as a run's, is not meant
    assert load_config("sd15").model.path == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    (tmp_path / "sd14").write_text("run_dir: mine\n")  # a file is
    assert load_config("sd14").run_dir == "mine"


def test_shipped_settings_are_in_the_package():
    assert HOMES[0].is_dir()
    assert {path.name for path in HOMES[0].glob("*.yaml")} == {path.name for path in HOMES[1].glob("*.yaml")}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.yaml", "nowhere.yaml is not there; settings that ship with the package: embedded, .*"),
        ("configs/sd15.yaml", "did you mean sd15, which ships with the package"),
        ("", "a settings file is not there"),
        (".", "is a folder"),
    ],
)
def test_a_missing_file_is_named_with_what_there_is(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message.replace("embedded, ", "")):
        load_config(name)


def test_the_command_line_takes_names(capsys):
    assert main(["train", "sd15", "data.instance_images=nowhere"]) == 2
    assert "data.class_noun is empty" in capsys.readouterr().err
    assert main(["train", "sd55", "data.instance_images=nowhere"]) == 2
    assert "sd15" in capsys.readouterr().err
