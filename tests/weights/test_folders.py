# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Which files are taken, from a folder or the hub, and what happens to a folder that is saved over."""

import errno
import os
import resource
from pathlib import Path

import huggingface_hub as hub
import pytest
from huggingface_hub import errors

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.families import SD
from dreambooth_jax.weights.folders import choose_weights, layout_of, locate, needed_files
from dreambooth_jax.weights.replacing import replacing
from tests.weights.folders import FIXTURES

LAYOUT = layout_of(SD)
PLAIN = {
    *("model_index.json", "scheduler/scheduler_config.json"),
    *("tokenizer/merges.txt", "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json"),
    *("tokenizer/vocab.json", "text_encoder/config.json", "unet/config.json", "vae/config.json"),
}
SD15 = {
    *PLAIN,
    *(".gitattributes", "README.md", "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "v1-inference.yaml"),
    *("feature_extractor/preprocessor_config.json", "safety_checker/config.json", "safety_checker/model.safetensors"),
    *(f"text_encoder/{name}" for name in ("model.safetensors", "model.fp16.safetensors", "pytorch_model.bin")),
    *(
        f"{component}/diffusion_pytorch_model.{kind}"
        for component in ("unet", "vae")
        for kind in ("bin", "fp16.bin", "safetensors", "fp16.safetensors")
    ),
    *("unet/diffusion_pytorch_model.non_ema.safetensors", "unet/diffusion_pytorch_model.non_ema.bin"),
}
FLAX = {
    *PLAIN,
    *("text_encoder/flax_model.msgpack", "unet/diffusion_flax_model.msgpack", "vae/diffusion_flax_model.msgpack"),
}
PICKLES = {
    *PLAIN,
    *("text_encoder/pytorch_model.bin", "unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin"),
}


def _sharded(mark: str, *, number_first: bool = False) -> set[str]:
    ends = [f"-{i:05}-of-00002{mark}" if number_first else f"{mark}-{i:05}-of-00002" for i in (1, 2)]
    return {
        *PLAIN,
        f"unet/diffusion_pytorch_model.safetensors.index{mark}.json",
        *(f"unet/diffusion_pytorch_model{end}.safetensors" for end in ends),
        f"text_encoder/model{mark}.safetensors",
        f"vae/diffusion_pytorch_model{mark}.safetensors",
    }


class TestChoice:
    """Of real repositories' names."""

    @pytest.mark.parametrize(
        ("names", "variant", "expected"),
        [
            (SD15, None, ("model.safetensors", "diffusion_pytorch_model.safetensors")),
            (SD15, "fp16", ("model.fp16.safetensors", "diffusion_pytorch_model.fp16.safetensors")),
            (SD15, "non_ema", ("model.safetensors", "diffusion_pytorch_model.non_ema.safetensors")),
            (FLAX, None, ("flax_model.msgpack", "diffusion_flax_model.msgpack")),
            (PICKLES, None, ("pytorch_model.bin", "diffusion_pytorch_model.bin")),
            (FLAX | PICKLES, None, ("flax_model.msgpack", "diffusion_flax_model.msgpack")),
            (SD15 | FLAX, None, ("model.safetensors", "diffusion_pytorch_model.safetensors")),
            (_sharded(""), None, ("model.safetensors", "diffusion_pytorch_model.safetensors.index.json")),
            (
                SD15 | _sharded(".bf16"),
                "bf16",
                ("model.bf16.safetensors", "diffusion_pytorch_model.safetensors.index.bf16.json"),
            ),
        ],
    )
    def test_text_encoder_and_unet(self, names, variant, expected):
        chosen = choose_weights(names, LAYOUT, variant=variant, where="here")
        assert chosen["text_encoder"] == f"text_encoder/{expected[0]}"
        assert chosen["unet"] == f"unet/{expected[1]}"

    @pytest.mark.parametrize(
        ("names", "variant", "message"),
        [
            (SD15, "fp61", "no weights of variant fp61"),
            (_sharded(".fp16"), None, "text_encoder has its weights in variants only: choose variant=fp16"),
            (
                {*PLAIN, *(f"{name}/pytorch_model.bin.index.json" for name in ("text_encoder", "unet", "vae"))},
                None,
                r"text_encoder has its weights as PyTorch pickles of other names, .*python -c .*use_safetensors=False",
            ),
            (PLAIN, None, "here/text_encoder has no weights"),
            (SD15 - {"vae/config.json"}, None, "it lacks vae/config.json"),
            (SD15 - {"scheduler/scheduler_config.json"}, None, "it lacks scheduler/scheduler_config.json"),
            ({"README.md", "pytorch_lora_weights.safetensors"}, None, "it lacks .*tokenizer/vocab.json"),
        ],
    )
    def test_what_is_missing_is_said(self, names, variant, message):
        with pytest.raises(InputError, match=message) as caught:
            choose_weights(names, LAYOUT, variant=variant, where="here")
        assert "\n" not in str(caught.value)

    def test_only_what_is_needed_is_downloaded(self):
        files = needed_files(SD15, choose_weights(SD15, LAYOUT, variant="fp16", where="here"), LAYOUT)
        weights = {"text_encoder/model.fp16.safetensors"}
        weights |= {f"{name}/diffusion_pytorch_model.fp16.safetensors" for name in ("unet", "vae")}
        assert set(files) == PLAIN | weights

    @pytest.mark.parametrize(("variant", "number_first"), [(None, False), ("fp16", False), ("fp16", True)])
    def test_shards_are_downloaded_with_their_index(self, variant, number_first):
        mine = _sharded(f".{variant}" if variant else "", number_first=number_first)
        names = mine | _sharded(".bf16") | PICKLES
        assert set(needed_files(names, choose_weights(names, LAYOUT, variant=variant, where="here"), LAYOUT)) == mine


class TestLocate:
    """A folder, or something that is none."""

    def test_folder(self):
        folder, weights = locate(str(FIXTURES / "legacy_flax_sd15"))
        assert folder == FIXTURES / "legacy_flax_sd15"
        assert weights["unet"] == folder / "unet" / "diffusion_flax_model.msgpack"

    @pytest.mark.parametrize(
        "source", ["./runs/dog", "/no/such/folder", "model", "a/b/c", "~/model", "../x/y", "a b/c"]
    )
    def test_what_is_no_hub_id_is_never_looked_up(self, source, monkeypatch):
        monkeypatch.setattr(hub.HfApi, "list_repo_files", lambda *_, **__: pytest.fail("looked up"))
        with pytest.raises(InputError, match="no such folder"):
            locate(source)

    def test_no_model(self):
        with pytest.raises(InputError, match=r"model\.path is empty"):
            locate("")

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["config.yaml", "model/model_index.json"], r"the folder of a run: its model is .*/given/model$"),
            (["checkpoints/400/state"], "the folder of a run whose model is not finished: .*dreambooth-jax export"),
            (
                ["refs/main", "snapshots/abc/x"],
                "the hub's cache of a repository: give its id, .*, or .*/snapshots/abc$",
            ),
            (["models--org--sd/refs/main"], "the hub's cache: give a repository's id, such as org/sd$"),
        ],
    )
    def test_a_folder_that_has_a_model_somewhere_says_where(self, names, message, tmp_path):
        for name in names:
            (tmp_path / "given" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "given" / name).touch()
        with pytest.raises(InputError, match=f"given is {message}"):
            locate(str(tmp_path / "given"))

    def test_the_hubs_folder_names_its_repository(self, tmp_path):
        (tmp_path / "models--org--sd-1.5" / "snapshots").mkdir(parents=True)
        with pytest.raises(InputError, match=r"give its id, org/sd-1\.5$"):
            locate(str(tmp_path / "models--org--sd-1.5"))


class TestHub:
    """A repository that a fake of the hub's client library has."""

    @pytest.fixture
    def repository(self, monkeypatch, tmp_path):
        calls = []

        def list_repo_files(self, repo, *, revision=None):
            calls.append(("list", repo, revision))
            return sorted(SD15)

        def snapshot_download(repo, *, revision=None, allow_patterns=None):
            calls.append(("index" if allow_patterns == ["model_index.json"] else "download", repo, revision))
            for name in allow_patterns:
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).write_text("{}")
            return str(tmp_path)

        monkeypatch.setattr(hub.HfApi, "list_repo_files", list_repo_files)
        monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
        monkeypatch.chdir(tmp_path)
        return calls

    def _fail(self, monkeypatch, error):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(hub.HfApi, "list_repo_files", fail)

    def test_download(self, repository, tmp_path):
        folder, weights = locate("org/sd-1.5", revision="v2", variant="fp16")
        assert repository == [(what, "org/sd-1.5", "v2") for what in ("list", "index", "download")]
        assert folder == tmp_path
        assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()} == {
            *PLAIN,
            *(str(file.relative_to(tmp_path)) for file in weights.values()),
        }

    def test_what_exists_here_is_not_looked_up(self, repository, tmp_path):
        (tmp_path / "org" / "model").mkdir(parents=True)
        with pytest.raises(InputError, match="org/model is no Stable Diffusion model"):
            locate("org/model")
        assert not repository

    def test_of_a_repository_of_pickles_those_that_can_be_read(self, repository, monkeypatch):
        monkeypatch.setattr(hub.HfApi, "list_repo_files", lambda *_, **__: sorted(PICKLES))
        _, weights = locate("org/model")
        assert {file.name for file in weights.values()} == {"pytorch_model.bin", "diffusion_pytorch_model.bin"}

    def test_a_repository_of_other_pickles_is_refused_before_the_download(self, repository, monkeypatch):
        parts = {*PLAIN, *(f"{name}/model.ckpt" for name in ("text_encoder", "unet", "vae"))}
        monkeypatch.setattr(hub.HfApi, "list_repo_files", lambda *_, **__: sorted(parts))
        with pytest.raises(InputError, match=r"pickles of .*from_pretrained\('org/model', use_safetensors=False\)"):
            locate("org/model")
        assert [what for what, *_ in repository] == ["index"]

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            (errors.RepositoryNotFoundError, "org/model: neither a folder here nor on the hub"),
            (errors.RevisionNotFoundError, "neither a folder here nor on the hub"),
            (errors.GatedRepoError, "org/model is gated"),
        ],
    )
    def test_repository_that_cannot_be_had(self, repository, monkeypatch, kind, message):
        self._fail(monkeypatch, kind.__new__(kind, "404\n\nmore"))  # its __init__ wants the HTTP client's response
        with pytest.raises(InputError, match=message) as caught:
            locate("org/model")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("error", [OSError("no route\nto host"), errors.OfflineModeIsEnabled("offline mode is on")])
    def test_no_network(self, repository, monkeypatch, error):
        self._fail(monkeypatch, error)
        monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: None)
        with pytest.raises(InputError, match="hub cannot be reached .no route.$|hub cannot be reached .offline mode"):
            locate("org/model")

    def test_without_network_the_cache_serves(self, repository, monkeypatch):
        snapshot = FIXTURES / "legacy_flax_sd15"
        self._fail(monkeypatch, errors.OfflineModeIsEnabled("offline mode is on"))
        cache = {("org/model", "model_index.json", "flax"): str(snapshot / "model_index.json")}
        monkeypatch.setattr(
            hub, "try_to_load_from_cache", lambda repo, name, *, revision=None: cache.get((repo, name, revision))
        )
        folder, weights = locate("org/model", revision="flax")
        assert folder == snapshot
        assert weights["vae"] == snapshot / "vae" / "diffusion_flax_model.msgpack"

    def test_a_download_that_breaks_off(self, repository, monkeypatch):
        def fail(*_, **__):
            raise OSError("connection reset")

        monkeypatch.setattr(hub, "snapshot_download", fail)
        with pytest.raises(InputError, match="run again to go on .connection reset"):
            locate("org/model")

    def test_the_real_library_offline(self, monkeypatch, tmp_path):
        """The tests' environment forbids it the network."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputError, match="cannot be reached"):
            locate("no-such-organisation/no-such-model")


class TestReplacing:
    """Saving is all or nothing."""

    @pytest.fixture
    def target(self, tmp_path):
        target = tmp_path / "model"
        (target / "unet").mkdir(parents=True)
        (target / "unet" / "old.bin").write_text("old")
        (target / "model_index.json").write_text("old")
        (target / "notes.txt").write_text("mine")
        return target

    def _content(self, folder: Path) -> dict[str, str]:
        return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}

    def _save(self, target: Path, *, size: int = 1) -> None:
        with replacing(target) as new:
            (new / "unet").mkdir()
            (new / "unet" / "new.bin").write_text("n" * size)
            (new / "model_index.json").write_text("new")

    def test_new(self, tmp_path):
        self._save(tmp_path / "deep" / "model")
        assert self._content(tmp_path) == {"deep/model/unet/new.bin": "n", "deep/model/model_index.json": "new"}
        assert os.listdir(tmp_path / "deep") == ["model"]

    def test_over_an_old_one(self, target):
        self._save(target)
        kept = {"unet/old.bin": "old", "notes.txt": "mine"}
        assert self._content(target) == {"unet/new.bin": "n", "model_index.json": "new", **kept}

    def test_what_new_files_supersede_goes_when_they_come(self, target):
        with replacing(target, superseded=["unet/old.bin", "unet/never.bin", "unet/new.bin"]) as new:
            (new / "unet").mkdir()
            (new / "unet" / "new.bin").write_text("n")
            assert (target / "unet" / "old.bin").exists()
        assert self._content(target) == {"unet/new.bin": "n", "model_index.json": "old", "notes.txt": "mine"}

    def test_what_a_link_leads_to_is_not_written_into(self, target, tmp_path):
        (target / "unet").rename(tmp_path / "elsewhere")
        (target / "unet").symlink_to(tmp_path / "elsewhere")
        self._save(target)
        assert self._content(tmp_path / "elsewhere") == {"old.bin": "old"}
        assert self._content(target)["unet/new.bin"] == "n"

    def test_through_a_link(self, target, tmp_path):
        (tmp_path / "link").symlink_to(target)
        self._save(tmp_path / "link")
        assert self._content(target)["model_index.json"] == "new"

    def test_a_full_disk_leaves_everything_as_it_was(self, target, tmp_path):
        before = self._content(tmp_path)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limit[1]))
        try:
            with pytest.raises(InputError, match="model could not be saved, what was there before still is") as caught:
                self._save(target, size=300_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert "\n" not in str(caught.value)
        assert self._content(tmp_path) == before
        assert not [name for name in os.listdir(target) if name.startswith(".")]

    def test_a_failing_block_leaves_everything_as_it_was(self, target, tmp_path):
        before = self._content(tmp_path)
        with pytest.raises(KeyboardInterrupt), replacing(target) as new:
            (new / "unet").mkdir()
            raise KeyboardInterrupt
        assert self._content(tmp_path) == before

    @pytest.mark.parametrize("linked", [False, True])
    def test_an_interruption_between_two_renames_takes_all_back(self, target, tmp_path, monkeypatch, linked):
        if linked:
            (target / "unet").rename(tmp_path / "elsewhere")
            (target / "unet").symlink_to(tmp_path / "elsewhere")
        before, link = self._content(target), (target / "unet").is_symlink()
        rename = Path.rename

        def interrupted(self, place):
            if self.name == "new.bin" and "new" in self.parts:
                raise OSError(errno.EIO, "unplugged")
            return rename(self, place)

        monkeypatch.setattr(Path, "rename", interrupted)
        with pytest.raises(InputError, match="unplugged"):
            self._save(target)
        assert self._content(target) == before
        assert (target / "unet").is_symlink() == link
        assert (target / "unet" / "old.bin").read_text() == "old"

    def test_a_file_in_the_way(self, tmp_path):
        (tmp_path / "model").touch()
        with pytest.raises(InputError, match="is a file"):
            self._save(tmp_path / "model")
