# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Folders in every form, to parameters and back; the legacy Flax models compute what they always did."""

import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import serialization
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dreambooth_jax.diffusion.schedule import as_in_pipelines
from dreambooth_jax.errors import InputError
from dreambooth_jax.models.components import UNET
from dreambooth_jax.models.families import SD
from dreambooth_jax.trees import flatten
from dreambooth_jax.weights.pretrained import load_components, load_module
from tests.weights.folders import FIXTURES, KINDS, assert_same, rename, rewrite, shard, weights, write


@pytest.fixture(scope="module", params=KINDS)
def legacy(request):
    """(components, reference) of a fixture that diffusers' own Flax classes wrote."""
    folder = FIXTURES / request.param
    return load_components(folder), np.load(folder / "reference.npz")


class TestLegacyFlax:
    """max |Δ| ≤ 1e-5 of the output's scale."""

    def _close(self, ours, reference):
        assert ours.shape == reference.shape
        assert np.abs(np.asarray(ours) - reference).max() <= 1e-5 * np.abs(reference).max()

    def _apply(self, components, name, *inputs, **options):
        module = components.modules[name]
        return jax.jit(lambda p, *x: module.apply({"params": p}, *x, **options))(components.params[name], *inputs)

    @pytest.mark.parametrize("prompt", [("input_ids", "text_hidden"), ("uncond_ids", "uncond_hidden")])
    def test_text_states(self, legacy, prompt):
        components, reference = legacy
        ids, hidden = (reference[key] for key in prompt)
        self._close(self._apply(components, "text_encoder", ids.astype(np.int32)), hidden)

    def test_unet(self, legacy):
        components, reference = legacy
        latents = reference["unet_sample"].transpose(0, 2, 3, 1)
        out = self._apply(components, "unet", latents, reference["unet_timesteps"], reference["text_hidden"])
        self._close(out, reference["unet_out"].transpose(0, 2, 3, 1))

    def test_vae(self, legacy):
        components, reference = legacy
        images = reference["vae_image"].transpose(0, 2, 3, 1)
        mean, logvar = self._apply(components, "vae", images, method="encode")
        self._close(mean, reference["vae_mean"])
        self._close(logvar, reference["vae_logvar"])
        latents = reference["unet_sample"].transpose(0, 2, 3, 1)  # what the reference was decoded from
        decoded = self._apply(components, "vae", latents, method="decode")
        self._close(decoded, reference["vae_decoded"].transpose(0, 2, 3, 1))

    def test_written_back_it_is_the_same_file(self, legacy, tmp_path):
        components, _ = legacy
        write(tmp_path / "model", components, format="flax")
        for name in ("text_encoder/flax_model", "unet/diffusion_flax_model", "vae/diffusion_flax_model"):
            old, new = (
                flatten(serialization.msgpack_restore((folder / f"{name}.msgpack").read_bytes()))
                for folder in (components.folder, tmp_path / "model")
            )
            assert_same(new, old)
        old, new = (json.loads((f / "model_index.json").read_text()) for f in (components.folder, tmp_path / "model"))
        assert new == {**{k: v for k, v in old.items() if k != "_diffusers_version"}, "requires_safety_checker": False}
        for name in ("unet", "vae"):
            assert json.loads((tmp_path / "model" / name / "config.json").read_text()) == components.configs[name]


class TestForms:
    """Every form of the same weights gives the same parameters."""

    def test_safetensors(self, folder, sd15):
        assert_same(load_components(folder).params, sd15.params)

    def test_shards(self, folder, sd15):
        for component in ("unet", "text_encoder"):
            shard(folder, component)
        assert_same(load_components(folder).params, sd15.params)

    @pytest.mark.parametrize(("name", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
    def test_variants(self, sd15, tmp_path, name, dtype):
        folder = write(tmp_path / "model", sd15, dtype=dtype)
        for component in ("unet", "vae"):
            weights(folder, component).rename(weights(folder, component).with_suffix(f".{name}.safetensors"))
        shard(folder, "text_encoder", variant=name)
        rounded = jax.tree.map(lambda x: np.asarray(x, jnp.dtype(dtype)).astype(np.float32), sd15.params)
        assert_same(load_components(folder, variant=name).params, rounded)

    def test_text_encoder_of_transformers_5_and_one_with_position_ids(self, folder, sd15):
        rename(folder, "text_encoder", "text_model.", "")
        assert_same(load_components(folder).params, sd15.params)
        rewrite(folder, "text_encoder", lambda arrays: {**arrays, "embeddings.position_ids": np.arange(77)[None]})
        assert_same(load_components(folder).params, sd15.params)

    @pytest.mark.parametrize("ones", [(), (1, 1)])
    def test_vae_attention_under_its_old_names_dense_or_convolution(self, folder, sd15, ones):
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            rename(folder, "vae", f"attentions.0.{new}", f"attentions.0.{old}")

        def reshape(arrays):
            old = ("query.weight", "key.weight", "value.weight", "proj_attn.weight")
            return {k: v.reshape(*v.shape, *ones) if k.endswith(old) else v for k, v in arrays.items()}

        rewrite(folder, "vae", reshape)
        assert_same(load_components(folder).params, sd15.params)

    def test_projections_of_the_unet_as_dense(self, folder, sd15):
        def squeeze(arrays):
            return {
                k: v[:, :, 0, 0] if k.endswith(("proj_in.weight", "proj_out.weight")) else v for k, v in arrays.items()
            }

        rewrite(folder, "unet", squeeze)
        assert_same(load_components(folder).params, sd15.params)

    def test_parameters_in_another_dtype(self, folder, sd15):
        expected = jax.tree.map(lambda x: np.asarray(x, ml_dtypes.bfloat16), sd15.params)
        assert_same(load_components(folder, param_dtype=jnp.bfloat16).params, expected)

    def test_place_sees_every_leaf_and_decides_where_it_goes(self, folder, sd15):
        sharding = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("fsdp",)), PartitionSpec())
        seen = {}

        def place(name, array):
            assert array.flags.c_contiguous
            seen[name] = array.shape
            return jax.device_put(array, sharding)

        params = load_components(folder, place=place).params
        assert seen == {name: leaf.shape for name, leaf in flatten(sd15.params).items()}
        assert {leaf.sharding for leaf in jax.tree.leaves(params)} == {sharding}
        assert_same(params, sd15.params)

    def test_modules_are_built_as_asked(self, folder):
        components = load_components(folder, dtype=jnp.bfloat16, remat="blocks")
        assert components.modules["unet"].remat == components.modules["text_encoder"].remat == "blocks"
        assert {components.modules[name].dtype for name in components.params} == {jnp.bfloat16}


class TestScheduler:
    """What old exports and conversions state, and diffusers' pipelines replace."""

    @pytest.mark.parametrize(
        ("stated", "said"),
        [
            ({"clip_sample": True, "steps_offset": 0}, "clip_sample=False (not True) and steps_offset=1 (not 0)"),
            ({"clip_sample": True}, "clip_sample=False (not True)"),
            ({"clip_sample": False, "steps_offset": 1}, None),
        ],
    )
    def test_it_is_used_as_they_do_and_said_once(self, folder, caplog, stated, said, tmp_path):
        file = folder / "scheduler" / "scheduler_config.json"
        others = {key: value for key, value in json.loads(file.read_text()).items() if key not in stated}
        file.write_text(json.dumps({**others, **stated}))
        with caplog.at_level("INFO", logger="dreambooth_jax"):
            components = load_components(folder)
        assert [said in line for line in caplog.messages] == ([True] if said else [])
        used = {
            **others,
            **dict.fromkeys(stated, None),
            **{k: {"clip_sample": False, "steps_offset": 1}[k] for k in stated},
        }
        assert components.scheduler_config == used
        write(tmp_path / "again", components)
        again = json.loads((tmp_path / "again" / "scheduler" / "scheduler_config.json").read_text())
        assert {key: again[key] for key in stated} == {key: used[key] for key in stated}

    @pytest.mark.parity
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    @pytest.mark.parametrize("stated", [{"clip_sample": True}, {"steps_offset": 0}, {"steps_offset": 2}, {}])
    def test_diffusers_does_so(self, stated):
        diffusers = pytest.importorskip("diffusers")
        nothing = ("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor")
        scheduler = diffusers.DDIMScheduler.from_config({"clip_sample": False, "steps_offset": 1, **stated})
        theirs = diffusers.StableDiffusionPipeline(
            **dict.fromkeys(nothing), scheduler=scheduler, requires_safety_checker=False
        )
        expected = {key: theirs.scheduler.config[key] for key in ("clip_sample", "steps_offset")}
        assert as_in_pipelines({"clip_sample": False, "steps_offset": 1, **stated}) == expected


class TestErrors:
    """One line that names the file."""

    def _fails(self, folder, message):
        with pytest.raises(InputError, match=message) as caught:
            load_components(folder)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_what_does_not_fit_is_listed_before_anything_is_read(self, folder):
        def spoil(arrays):
            del arrays["conv_in.bias"]
            return {**arrays, "conv_out.weight": arrays["conv_out.weight"][1:], "ghost.weight": np.zeros(3)}

        rewrite(folder, "unet", spoil)
        with pytest.raises(InputError) as caught:
            load_components(folder, place=lambda *_: pytest.fail("read"))
        for part in (
            str(weights(folder, "unet")),
            "1 missing: conv_in/bias",
            "1 extra: ghost",
            "1 misshaped: conv_out",
        ):
            assert part in str(caught.value)

    def test_a_parameter_under_two_names(self, folder):
        rewrite(folder, "vae", lambda a: {**a, "encoder.mid_block.attentions.0.query.bias": a["quant_conv.bias"]})
        self._fails(folder, "1 extra: encoder.mid_block.attentions.0.")

    def test_a_square_kernel_of_the_wrong_kind(self, folder):
        name = "down_blocks.0.resnets.0.conv1.weight"
        rewrite(folder, "unet", lambda arrays: {**arrays, name: arrays[name][:, :, :1, :1]})
        self._fails(folder, r"conv1/kernel is \(1, 1, 32, 32\), not \(3, 3, 32, 32\)")

    @pytest.mark.parametrize("dtype", [np.int8, np.int32, np.bool_])
    def test_whole_numbers_are_no_weights(self, folder, dtype):
        rewrite(folder, "unet", lambda arrays: {**arrays, "conv_in.bias": arrays["conv_in.bias"].astype(dtype)})
        self._fails(folder, "unet/conv_in/bias is .*, not real: take weights that are not quantised")

    @pytest.mark.parametrize("name", [5, None, ["x"]])
    def test_a_class_name_that_is_none_is_the_usual_one(self, folder, name):
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
        assert load_components(folder).family is SD

    @pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json"])
    def test_missing_settings(self, folder, name):
        (folder / name).unlink()
        assert str(folder) in self._fails(folder, f"lacks {name}")

    @pytest.mark.parametrize("content", ["{", "[]", "\xff"])
    def test_broken_settings(self, folder, content):
        (folder / "vae" / "config.json").write_text(content, encoding="latin-1")
        self._fails(folder, str(folder / "vae" / "config.json"))

    def test_missing_component(self, folder):
        shutil.rmtree(folder / "vae")
        self._fails(folder, "lacks vae/config.json")

    def test_missing_weights(self, folder):
        weights(folder, "vae").unlink()
        self._fails(folder, f"{folder}/vae has no weights")

    def test_pickles(self, folder):
        weights(folder, "vae").rename(folder / "vae" / "diffusion_pytorch_model.bin")
        self._fails(folder, "diffusion_pytorch_model.bin is broken .no zip archive")
        (folder / "vae" / "diffusion_pytorch_model.bin").rename(folder / "vae" / "model.ckpt")
        self._fails(folder, "pickles of other names, or in parts: convert them once")

    def test_truncated(self, folder):
        file = weights(folder, "unet")
        file.write_bytes(file.read_bytes()[:-1])
        self._fails(folder, f"{file} is broken .truncated")

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_a_value_that_is_not_finite(self, folder, value):
        def spoil(arrays):
            bias = arrays["mid_block.resnets.0.conv1.bias"].copy()
            bias[3] = value
            return {**arrays, "mid_block.resnets.0.conv1.bias": bias}

        rewrite(folder, "unet", spoil)
        found = self._fails(folder, "unet/mid_block/resnets_0/conv1/bias has 1 values that are not finite")
        assert str(weights(folder, "unet")) in found
        with pytest.raises(InputError, match="mid_block/resnets_0/conv1/bias has 1 values"):
            load_module(folder / "unet", UNET)

    def test_nothing_but_zeros(self, folder):
        """What a file holds whose room was made before its download failed: it would draw grey pictures."""
        rewrite(folder, "unet", lambda arrays: {name: 0 * array for name, array in arrays.items()})
        self._fails(folder, "all weights of unet are zero")
        with pytest.raises(InputError, match="all weights are zero"):
            load_module(folder / "unet", UNET)

    def test_a_value_beyond_the_dtype_that_is_asked_for(self, folder):
        rewrite(folder, "unet", lambda a: {**a, "conv_in.bias": a["conv_in.bias"].astype(np.float64) * 0 + 1e300})
        with np.errstate(over="ignore"):
            self._fails(folder, "unet/conv_in/bias has 32 values that are not finite")

    @pytest.mark.parametrize(
        ("component", "change"),
        [
            ("vae", '"scaling_factor": 0'),
            ("vae", '"scaling_factor": NaN'),
            ("vae", '"latent_channels": 0'),
            ("vae", '"block_out_channels": [32, 0]'),
            ("unet", '"in_channels": 0'),
            ("unet", '"in_channels": 4.5'),
            ("unet", '"in_channels": 1000000000000'),
            ("unet", '"block_out_channels": [32, -64]'),
            ("unet", '"layers_per_block": 1000000'),
            ("unet", '"norm_eps": Infinity'),
            ("unet", '"freq_shift": 16'),
            ("unet", '"sample_size": 0'),
            ("text_encoder", '"hidden_size": 0'),
            ("text_encoder", '"num_hidden_layers": 0'),
            ("text_encoder", '"vocab_size": 1e3'),
            ("text_encoder", '"layer_norm_eps": -1e-5'),
            ("text_encoder", '"max_position_embeddings": 0'),
        ],
    )
    def test_numbers_that_are_none_of_a_network_name_the_file_and_the_key(self, folder, component, change):
        file = folder / component / "config.json"
        key = change.split('"')[1]
        rest = json.dumps({name: value for name, value in json.loads(file.read_text()).items() if name != key})
        file.write_text(rest[:-1] + f", {change}" + "}")
        assert self._fails(folder, f"{key} = ").startswith(f"{file}: {key} = ")

    def test_model_index_does_not_matter(self, folder, sd15):
        (folder / "model_index.json").unlink()
        assert_same(load_components(folder).params, sd15.params)

    @pytest.mark.parametrize(
        ("component", "changes", "message"),
        [
            ("unet", {"in_channels": 3}, "unet's in_channels = 3 is less than the vae's latent_channels = 4"),
            ("unet", {"out_channels": 8}, "unet's out_channels = 8 does not fit the vae's latent_channels = 4"),
            (
                "unet",
                {"cross_attention_dim": 64},
                "cross_attention_dim = 64 does not fit the text_encoder's hidden_size",
            ),
            ("unet", {"addition_embed_type": "text_time"}, "unet/config.json: addition_embed_type"),
            ("unet", {"layers_per_block": 2}, "does not fit its config.json: .* missing: "),
        ],
    )
    def test_settings_that_ask_for_another_model(self, folder, component, changes, message):
        file = folder / component / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        self._fails(folder, message)
