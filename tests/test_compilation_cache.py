# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import os
import subprocess
import sys

import jax
import pytest

from dreambooth_jax.compilation_cache import keep_compiled

SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_compilation_cache")


@pytest.fixture(autouse=True)
def unset(monkeypatch, tmp_path):
    """As JAX is when nobody has set anything; all as it was afterwards."""
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_folder_is_in_the_users_cache(tmp_path, monkeypatch):
    folder = keep_compiled()
    assert folder.is_relative_to(tmp_path / "dreambooth_jax" / "compiled")
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert list(folder.iterdir()) == []  # the trial of whether it can be written to leaves nothing
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert keep_compiled().is_relative_to(tmp_path / "home" / ".cache" / "dreambooth_jax")


def test_what_is_configured_comes_first(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_a_home_that_cannot_be_written_to_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.slow
def test_the_command_keeps_what_it_compiles(tmp_path):
    """In a process of its own, as a user's is: this one's JAX is set up for the tests."""
    model = os.path.join(os.path.dirname(__file__), "fixtures", "legacy_flax_sd15")
    command = ["-m", "dreambooth_jax", "sample", model, "a dog", "--num_images=1", "--steps=1", f"--out={tmp_path}/out"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    ended = subprocess.run(
        [sys.executable, *command, "--height=16", "--width=16"],
        env=environment | {"JAX_PLATFORMS": "cpu", "JAX_LOG_COMPILES": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert list((tmp_path / "dreambooth_jax" / "compiled").rglob("*_mapped-*-cache"))
