# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Single files in the layout of the original code: read, written, told apart, and refused."""

import dataclasses
import hashlib
import json
import logging
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dreambooth_jax.errors import InputError
from dreambooth_jax.models.clip_configs import CLIPTextConfig
from dreambooth_jax.models.configs import UNetConfig, VAEConfig
from dreambooth_jax.weights import files, hub, names, pretrained
from dreambooth_jax.weights.layouts import SD1, SD2
from dreambooth_jax.weights.ldm_writing import write_single_file
from dreambooth_jax.weights.modules import parameter_shapes
from dreambooth_jax.weights.pretrained import describe_components, load_components
from dreambooth_jax.weights.single_file import open_single_file
from tests.weights.folders import FIXTURES, assert_same, write
from tests.weights.originals import Original, open_clip_layer

ORIGINALS = {
    "sd1": Original(),
    "sd2": Original(version=2, context_dim=128, num_res_blocks=2, channel_mult=(1, 2, 2), attention_levels=(0, 1)),
    "inpainting": Original(in_channels=9),
}
TOKENIZERS = {1: FIXTURES / "legacy_flax_sd15" / "tokenizer", 2: FIXTURES / "legacy_flax_sd21" / "tokenizer"}


@pytest.fixture(scope="module", params=ORIGINALS)
def original(request, tmp_path_factory):
    """(what was written, the file, the folder of its tokenizer)."""
    sizes = ORIGINALS[request.param]
    file = sizes.write(tmp_path_factory.mktemp(request.param) / "model.safetensors")
    return sizes, file, TOKENIZERS[sizes.version]


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    """A file of Stable Diffusion 1 with its tokenizer beside it."""
    folder = tmp_path_factory.mktemp("single")
    shutil.copytree(TOKENIZERS[1], folder / "tokenizer")
    return ORIGINALS["sd1"].write(folder / "dog.safetensors")


def written(path: Path, components, **options) -> Path:
    write_single_file(
        path,
        params=components.params,
        configs=components.configs,
        scheduler_config=components.scheduler_config,
        **options,
    )
    return path


def stored_by(layout, component, config):
    """(prefix, where behind it) of each parameter of a component."""
    kind, home = layout.family.components[component], layout.homes[component]
    shapes = parameter_shapes(kind, kind.build(config))
    return [(home.prefix, home.dialect.place(config, names.torch_name(name))) for name in shapes]


class TestRoundTrip:
    """Nothing changes on the way."""

    def test_a_file_that_is_read_is_written_again(self, original, tmp_path):
        _, file, tokenizer = original
        again = written(tmp_path / "again.safetensors", load_components(file, tokenizer=tokenizer))
        old, new = load_file(file), load_file(again)
        assert old.keys() == new.keys()
        for name, array in old.items():
            assert array.dtype == new[name].dtype
            np.testing.assert_array_equal(array, new[name], err_msg=name)

    @pytest.mark.parametrize("kind", ["legacy_flax_sd15", "legacy_flax_sd21"])
    def test_a_folder_goes_through_a_file(self, kind, tmp_path):
        """Heads, norms, schedule and all: more than shapes tell of these networks."""
        folder = load_components(FIXTURES / kind)
        file = written(tmp_path / "one.safetensors", folder)
        opened = load_components(file, tokenizer=FIXTURES / kind / "tokenizer")
        assert_same(opened.params, folder.params)
        assert opened.modules == folder.modules
        assert opened.scheduler_config == folder.scheduler_config
        assert opened.configs == folder.configs

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision(self, sd15, tmp_path, dtype):
        file = written(tmp_path / "half.safetensors", sd15, dtype=dtype)
        rounded = jax.tree.map(lambda x: np.asarray(x, dtype).astype(np.float32), sd15.params)
        assert_same(load_components(file, tokenizer=TOKENIZERS[1]).params, rounded)

    def test_names_of_the_real_networks(self):
        """As many as the published files have, each once: 686, 248 and 196 of Stable Diffusion 1."""
        kinds = {
            "unet": (UNetConfig(cross_attention_dim=768), 686),
            "vae": (VAEConfig(block_out_channels=(128, 256, 512, 512), layers_per_block=2,
                              down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4),
                    248),
            "text_encoder": (CLIPTextConfig(hidden_size=768, num_attention_heads=12, intermediate_size=3072), 196),
        }  # fmt: skip
        real = Original(
            model_channels=320, channel_mult=(1, 2, 4, 4), attention_levels=(0, 1, 2), num_res_blocks=2,
            context_dim=768,
            vae_channels=128, vae_mult=(1, 2, 4, 4), layers=12, vocabulary=49408,
        ).shapes()  # fmt: skip
        found = set()
        for component, (config, count) in kinds.items():
            keys = [home + stored.key for home, stored in stored_by(SD1, component, config)]
            assert len(keys) == len(set(keys)) == count
            found.update(keys)
        assert found == real.keys()

    def test_names_of_open_clip(self):
        config = CLIPTextConfig(hidden_size=64, num_attention_heads=1, num_hidden_layers=2, hidden_act="gelu")
        stored = stored_by(SD2, "text_encoder", config)
        assert len(stored) == len(set(stored))
        tower = Original(version=2).shapes()
        names_of_tower = {name for name in tower if name.startswith("cond_stage_model")}
        assert {home + one.key for home, one in stored} == names_of_tower


class TestMetadata:
    """What the file says of itself."""

    @pytest.mark.parametrize(
        ("kind", "architecture", "prediction", "resolution"),
        [
            ("legacy_flax_sd15", "stable-diffusion-v1", "epsilon", None),
            ("legacy_flax_sd21", "stable-diffusion-v2-768-v", "v", None),
        ],
    )
    def test_modelspec(self, kind, architecture, prediction, resolution, tmp_path):
        components = load_components(FIXTURES / kind)
        file = written(tmp_path / "a dog.safetensors", components)
        with safe_open(file, "np") as opened:
            said = opened.metadata()
        side = components.configs["unet"]["sample_size"] * components.modules["vae"].config.downscale
        assert said["modelspec.sai_model_spec"] == "1.0.1"
        assert said["modelspec.architecture"] == architecture
        assert said["modelspec.prediction_type"] == prediction
        assert said["modelspec.resolution"] == f"{side}x{side}"
        assert said["modelspec.title"] == "a dog"
        assert said["modelspec.implementation"]
        assert said["format"] == "pt"
        data = file.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        assert said["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data[start:]).hexdigest()

    @pytest.mark.parametrize(
        ("changes", "markers", "said"),
        [
            ({"prediction_type": "epsilon"}, set(), "epsilon"),
            ({"prediction_type": "v_prediction"}, {"v_pred"}, "v"),
            ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, {"v_pred", "ztsnr"}, "v"),
            ({"prediction_type": "sample"}, set(), None),
        ],
    )
    def test_what_others_do_not_expect_of_a_first_version(self, sd15, tmp_path, changes, markers, said):
        scheduler = {**sd15.scheduler_config, **changes}
        file = written(tmp_path / "m.safetensors", dataclasses.replace(sd15, scheduler_config=scheduler))
        with safe_open(file, "np") as opened:
            assert opened.metadata().get("modelspec.prediction_type") == said
            assert set(opened.keys()) & {"v_pred", "ztsnr"} == markers
        assert load_components(file, tokenizer=TOKENIZERS[1]).scheduler_config == scheduler
        for form in ({}, {"modelspec.prediction_type": said or ""}):  # to who knows nothing of ours
            save_file(load_file(file), tmp_path / "other.safetensors", metadata=form)
            found = open_single_file(tmp_path / "other.safetensors").scheduler_config
            expected = {**changes, "prediction_type": "v_prediction" if said == "v" else "epsilon"}
            assert {key: found.get(key) for key in expected} == expected

    def test_the_same_model_is_the_same_file(self, sd15, tmp_path):
        one, two = (written(tmp_path / name / "x.safetensors", sd15) for name in "ab")
        assert one.read_bytes() == two.read_bytes()

    @pytest.mark.parametrize(
        ("metadata", "markers", "expected"),
        [
            ({"modelspec.prediction_type": "v"}, (), "v_prediction"),
            ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, (), "v_prediction"),
            ({"ss_base_model_version": "sd_v2_v"}, (), "v_prediction"),
            ({}, ("v_pred",), "v_prediction"),
            ({"modelspec.prediction_type": "epsilon"}, ("wide norm",), "epsilon"),
            ({}, ("wide norm",), "v_prediction"),
            ({}, (), "epsilon"),
        ],
    )
    def test_what_the_denoiser_predicts(self, metadata, markers, expected, tmp_path, caplog):
        arrays = Original(version=2).arrays()
        norm = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
        extra = {
            "v_pred": {"v_pred": np.zeros(0, np.float32)},
            "wide norm": {norm: np.linspace(-1, 1, 64, dtype=np.float32)},
        }
        for marker in markers:
            arrays |= extra[marker]
        save_file(arrays, tmp_path / "m.safetensors", metadata=metadata or None)
        with caplog.at_level(logging.INFO):
            found = open_single_file(tmp_path / "m.safetensors")
        assert found.scheduler_config["prediction_type"] == expected
        assumed = not metadata and "v_pred" not in markers
        assert ("does not say what it predicts" in caplog.text) == assumed
        told = open_single_file(tmp_path / "m.safetensors", prediction_type="sample")
        assert told.scheduler_config["prediction_type"] == "sample"

    def test_zero_terminal_snr(self, tmp_path):
        arrays = ORIGINALS["sd1"].arrays() | {"ztsnr": np.zeros(0, np.float32), "v_pred": np.zeros(0, np.float32)}
        save_file(arrays, tmp_path / "m.safetensors")
        found = load_components(tmp_path / "m.safetensors", tokenizer=TOKENIZERS[1])
        assert found.scheduler_config["rescale_betas_zero_snr"] is True
        assert found.scheduler_config["prediction_type"] == "v_prediction"

    def test_what_is_told_of_a_model_is_part_of_its_fingerprint(self, sd1, tmp_path):
        plain = load_components(sd1)
        copy = Path(shutil.copyfile(sd1, tmp_path / "renamed.safetensors"))
        assert load_components(copy, tokenizer=sd1.parent / "tokenizer").fingerprint == plain.fingerprint
        told = load_components(sd1, prediction_type="v_prediction")
        assert told.fingerprint != plain.fingerprint
        other = {k: v + 1 if k.startswith("first_stage_model.") else v for k, v in load_file(sd1).items()}
        save_file(other, copy)
        assert load_components(copy, tokenizer=sd1.parent / "tokenizer").fingerprint != plain.fingerprint


class TestForms:
    """The same model, as different tools have left it."""

    def _same(self, sd1, tmp_path, change):
        file = tmp_path / "m.safetensors"
        save_file(change(load_file(sd1)), file)
        opened = load_components(file, tokenizer=sd1.parent)
        assert_same(opened.params, load_components(sd1).params)

    def test_with_what_training_left(self, sd1, tmp_path, caplog):
        extra = {
            "model_ema.diffusion_modelout0bias": np.zeros(3, np.float32),
            "model_ema.decay": np.zeros((), np.float32),
            "betas": np.zeros(1000, np.float32),
            "alphas_cumprod": np.zeros(1000),
            "global_step": np.zeros((), np.int64),
            "cond_stage_model.transformer.text_model.embeddings.position_ids": np.arange(77)[None],
        }
        with caplog.at_level(logging.INFO):
            self._same(sd1, tmp_path, lambda arrays: arrays | extra)
        assert "also holds a moving average" in caplog.text

    def test_old_names_of_the_text_encoder(self, sd1, tmp_path):
        self._same(sd1, tmp_path, lambda arrays: {k.replace(".text_model.", "."): v for k, v in arrays.items()})

    def test_dense_layers_of_the_autoencoder(self, sd1, tmp_path):
        def squeeze(arrays):
            return {k: v[:, :, 0, 0] if ".attn_1." in k and v.ndim == 4 else v for k, v in arrays.items()}

        self._same(sd1, tmp_path, squeeze)

    def test_the_whole_tower_of_open_clip_and_its_other_prefix(self, tmp_path):
        """The original keeps a layer that it does not use, and what only similarities need."""
        sizes = ORIGINALS["sd2"]
        arrays, width = sizes.arrays(), sizes.context_dim
        save_file(arrays, tmp_path / "used.safetensors")
        top = "cond_stage_model.model."
        layer = open_clip_layer(f"{top}transformer.resblocks.{sizes.layers}", width)
        arrays |= {name: np.ones(shape, np.float32) for name, shape in layer}
        arrays |= {
            f"{top}text_projection": np.ones((width, width), np.float32),
            f"{top}logit_scale": np.ones((), np.float32),
        }
        save_file(arrays, tmp_path / "whole.safetensors")
        turbo = {name.replace(top, "conditioner.embedders.0.model."): array for name, array in arrays.items()}
        save_file(turbo, tmp_path / "turbo.safetensors")
        used, *others = (
            load_components(tmp_path / f"{name}.safetensors", tokenizer=TOKENIZERS[2])
            for name in ("used", "whole", "turbo")
        )
        for other in others:
            assert other.modules == used.modules
            assert_same(other.params, used.params)

    def test_describing_reads_no_weights(self, sd1, monkeypatch):
        expected = load_components(sd1)
        monkeypatch.setattr(files, "_load", lambda *_: pytest.fail("read"))
        described = describe_components(sd1)
        assert described.modules == expected.modules
        assert jax.tree.map(np.shape, expected.params) == jax.tree.map(lambda leaf: leaf.shape, described.params)


class TestTokenizer:
    """Where it comes from."""

    def test_given_as_its_folder_or_a_models(self, sd1):
        for given in (TOKENIZERS[1], TOKENIZERS[1].parent):
            assert load_components(sd1, tokenizer=given).tokenizers == {"text_encoder": TOKENIZERS[1]}

    @pytest.mark.parametrize("version", [1, 2])
    def test_saved_by_a_newer_library(self, sd1, version, tmp_path):
        """transformers 5 leaves vocab.json out."""
        from transformers import CLIPTokenizer

        CLIPTokenizer.from_pretrained(str(TOKENIZERS[version])).save_pretrained(tmp_path / "saved")
        (tmp_path / "saved" / "vocab.json").unlink(missing_ok=True)
        assert (tmp_path / "saved" / "tokenizer.json").is_file()
        if version == 1:
            assert load_components(sd1, tokenizer=tmp_path / "saved").tokenizers["text_encoder"] == tmp_path / "saved"
        else:
            with pytest.raises(InputError, match="pads with '!'"):
                load_components(sd1, tokenizer=tmp_path / "saved")

    def test_beside_the_file(self, sd1):
        assert load_components(sd1).tokenizers == {"text_encoder": sd1.parent / "tokenizer"}

    def test_in_the_hubs_cache(self, sd1, tmp_path, monkeypatch):
        file = Path(shutil.copyfile(sd1, tmp_path / "m.safetensors"))
        asked = []

        def cached(repository, name):
            asked.append(repository)
            return TOKENIZERS[1] / Path(name).name if repository == "CompVis/stable-diffusion-v1-4" else None

        monkeypatch.setattr("dreambooth_jax.weights.tokenizer_files.cached", cached)
        assert load_components(file).tokenizers == {"text_encoder": TOKENIZERS[1]}
        assert asked[0] == "stable-diffusion-v1-5/stable-diffusion-v1-5"

    def test_nowhere(self, sd1, tmp_path, monkeypatch):
        file = Path(shutil.copyfile(sd1, tmp_path / "m.safetensors"))
        monkeypatch.setattr(hub, "download", lambda *_, **__: pytest.fail("downloaded"))
        monkeypatch.setattr("dreambooth_jax.weights.tokenizer_files.cached", lambda *_: None)
        with pytest.raises(
            InputError, match=r"holds no tokenizer: give one with --tokenizer FOLDER .*model\.tokenizer"
        ):
            load_components(file)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (
                TOKENIZERS[2],
                "pads with '!', but the text_encoder of a Stable Diffusion 1 in .* with '<.endoftext.>'",
            ),
            (FIXTURES, "has no tokenizer: neither"),
            (
                Path(pretrained.__file__).parents[1] / "embedded",
                "has 1006 entries, the text_encoder of a Stable Diffusion 1 in .* 553",
            ),
        ],
    )
    def test_one_that_does_not_fit(self, sd1, given, message):
        with pytest.raises(InputError, match=message):
            load_components(sd1, tokenizer=given)

    def test_a_folder_has_its_own(self):
        with pytest.raises(InputError, match="only single files need one"):
            load_components(FIXTURES / "legacy_flax_sd15", tokenizer=TOKENIZERS[1])


class TestRefused:
    """One line that says what it is."""

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            (["encoder.conv_in.weight"], "an autoencoder alone"),
            (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"], "an adapter for a model"),
            (["down_blocks.0.resnets.0.conv1.weight"], "a denoiser alone, which goes with unet="),
            (["control_model.time_embed.0.weight"], "a ControlNet"),
            (["model.diffusion_model.double_blocks.0.img_mod.lin.weight"], "a model of another kind"),
            (["a", "b"], "its arrays are called a, b"),
            (["model.diffusion_model.input_blocks.0.0.weight"], "has no vae and no text_encoder"),
            (
                [
                    "model.diffusion_model.input_blocks.0.0.weight",
                    "model.diffusion_model.label_emb.0.0.weight",
                    "first_stage_model.quant_conv.weight",
                    "conditioner.embedders.0.transformer.a",
                ],
                "has no text_encoder_2: take",
            ),
            (
                [
                    "model.diffusion_model.input_blocks.0.0.weight",
                    "model.diffusion_model.label_emb.0.0.weight",
                    "first_stage_model.quant_conv.weight",
                    "conditioner.embedders.0.model.ln_final.bias",
                ],
                "is no refiner of Stable Diffusion XL: it lacks",
            ),
            (["lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha"], "an adapter for a Stable Diffusion XL"),
        ],
    )
    def test_something_else(self, arrays, message, tmp_path):
        save_file({name: np.zeros(3, np.float32) for name in arrays}, tmp_path / "m.safetensors")
        with pytest.raises(InputError, match=message) as caught:
            load_components(tmp_path / "m.safetensors")
        assert str(tmp_path / "m.safetensors") in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_such_file(self, tmp_path):
        with pytest.raises(InputError, match="no such file$"):
            load_components(tmp_path / "dog.safetensors")
        (tmp_path / "dogs.safetensors").touch()
        with pytest.raises(InputError, match=r"no such file; did you mean .*/dogs\.safetensors\?"):
            load_components(tmp_path / "dog.safetensors")

    def test_a_folder_of_such_a_name_is_a_folder(self, sd15, tmp_path):
        write(tmp_path / "dog.safetensors", sd15)
        assert_same(load_components(tmp_path / "dog.safetensors").params, sd15.params)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda a: a.pop("model.diffusion_model.out.2.weight"), "lacks out.2.weight"),
            (lambda a: a.pop("first_stage_model.post_quant_conv.weight"), "lacks post_quant_conv.weight"),
            (lambda a: a.pop("model.diffusion_model.out.2.bias"), "by its shapes: 1 missing: conv_out/bias"),
            (lambda a: a.update({"model.diffusion_model.other.bias": a["first_stage_model.quant_conv.bias"]}),
             "1 extra: model/diffusion_model.other"),
        ],
    )  # fmt: skip
    def test_a_part_is_missing_or_unknown(self, sd1, tmp_path, change, message):
        arrays = load_file(sd1)
        change(arrays)
        save_file(arrays, tmp_path / "m.safetensors")
        with pytest.raises(InputError, match=message.replace("model/diff", "model.diff")):
            load_components(tmp_path / "m.safetensors", tokenizer=sd1.parent)

    @pytest.mark.parametrize("text", ["{", "[]", '{"unet": 3}', "[" * 100_000])
    def test_configurations_of_its_own_that_are_none(self, sd1, tmp_path, text):
        save_file(load_file(sd1), tmp_path / "m.safetensors", metadata={"dreambooth_jax.configs": text})
        with pytest.raises(InputError, match=r"dreambooth_jax\.configs of .* (is not valid JSON|holds no settings)"):
            load_components(tmp_path / "m.safetensors", tokenizer=sd1.parent)

    @pytest.mark.parametrize("name", ["revision", "variant"])
    def test_what_only_repositories_have(self, sd1, name):
        with pytest.raises(InputError, match=f"{name} = x: .* is a single file"):
            load_components(sd1, **{name: "x"})

    @pytest.mark.parametrize("name", ["folder", "m.ckpt", ""])
    def test_a_name_that_is_none_of_a_file(self, sd15, tmp_path, name):
        with pytest.raises(InputError, match="format = ldm writes one file"):
            written(tmp_path / name, sd15)

    def test_a_file_stays_where_another_cannot_be_saved(self, sd15, tmp_path):
        file = tmp_path / "m.safetensors"
        file.write_bytes(b"before")
        broken = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), sd15.params)
        with pytest.raises(InputError, match="not finite: nothing is saved"):
            write_single_file(
                file, params=broken, configs=sd15.configs, scheduler_config=sd15.scheduler_config, finite=True
            )
        assert file.read_bytes() == b"before"
        assert [one.name for one in tmp_path.iterdir()] == ["m.safetensors"]


def test_json_of_its_own_holds_everything(sd15, tmp_path):
    with safe_open(written(tmp_path / "m.safetensors", sd15), "np") as opened:
        own = json.loads(opened.metadata()["dreambooth_jax.configs"])
    assert own.keys() == {"text_encoder", "unet", "vae", "scheduler"}
