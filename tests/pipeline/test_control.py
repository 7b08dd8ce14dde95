# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Whole guided runs with ControlNets and T2I-Adapters against diffusers' pipelines, with the same random weights."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from dreambooth_jax import Control, InputError, load_control
from dreambooth_jax.models import ControlNetConfig, ControlNetModel
from dreambooth_jax.models.condition import Condition, Residuals
from dreambooth_jax.pipeline.control import ControlNetGuide, weights_of_rows
from dreambooth_jax.pipeline.control_kinds import KINDS
from dreambooth_jax.pipeline.control_pictures import resized
from dreambooth_jax.pipeline.controls import ControlModel
from dreambooth_jax.size import Size
from dreambooth_jax.training.parallel import sharding
from dreambooth_jax.weights.ldm_control import PREFIX, control_place
from tests import torch_models
from tests.pipeline.diffusers_noise import posterior_noise, replaced
from tests.test_pipeline_parity import NEGATIVE, PROMPTS, ours, theirs

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")
diffusers = pytest.importorskip("diffusers")

pytestmark = pytest.mark.parity

SIZE = 16
"""Pixels of a side."""


def noise(dtype="float32"):
    return np.random.default_rng(0).normal(size=(2, SIZE // 2, SIZE // 2, 4)).astype(dtype)


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)


def nchw(image):
    return torch.from_numpy(image.astype(np.float32) / np.float32(255)).permute(2, 0, 1)[None]


def controlled(pipe, nets):
    """diffusers' pipeline of the same networks, with ControlNets."""
    parts = {name: getattr(pipe, name) for name in ("unet", "vae", "text_encoder", "scheduler")}
    both = diffusers.StableDiffusionControlNetPipeline(
        **parts,
        controlnet=nets if len(nets) > 1 else nets[0],
        **dict.fromkeys(("tokenizer", "safety_checker", "feature_extractor")),
        requires_safety_checker=False,
    )
    both.set_progress_bar_config(disable=True)
    return both


def expected(torch_pipe, pipe, latents, **run):
    def embed(texts):
        ids = torch.tensor(pipe.tokenizer(texts), dtype=torch.long)
        return torch_pipe.text_encoder(ids).last_hidden_state

    with torch.no_grad():
        final = torch_pipe(
            prompt_embeds=embed(PROMPTS),
            negative_prompt_embeds=embed([NEGATIVE] * 2),
            latents=None if latents is None else torch.tensor(latents.transpose(0, 3, 1, 2)),
            output_type="latent",
            **run,
        ).images
        images = torch_pipe.vae.decode(final / torch_pipe.vae.config.scaling_factor).sample
    return [leaf.numpy().transpose(0, 2, 3, 1) for leaf in (final, (images / 2 + 0.5).clamp(0, 1))]


def check(pipe, control, torch_pipe, latents, *, tolerance=1e-4, scale=5.0, steps=6, **run):
    mine = {"negative_prompt": NEGATIVE, "latents": latents, "steps": steps, "guidance_scale": scale}
    wanted = expected(torch_pipe, pipe, latents, num_inference_steps=steps, guidance_scale=scale, **run)
    for output, other in zip(("latents", "float32"), wanted):
        found = pipe(PROMPTS, control=control, output=output, **mine)
        np.testing.assert_allclose(found, other, atol=tolerance * max(np.abs(other).max(), 1))
    return found


@pytest.fixture(scope="module")
def sd15(tmp_path_factory):
    """(diffusers' pipeline, ours, two of their ControlNets, ours read from folders)."""
    torch_pipe = theirs("sd15", double=False)
    pipe = ours("sd15", torch_pipe, jnp.float32)
    nets = [torch_models.build_controlnet("sd15", seed=seed) for seed in (10, 20)]
    models = []
    for i, net in enumerate(nets):
        folder = tmp_path_factory.mktemp("controlnet") / str(i)
        net.save_pretrained(folder)
        models.append(load_control(folder, pipe))
    return torch_pipe, pipe, nets, models


def test_one_controlnet_with_all_scales_and_intervals_in_one_program(sd15):
    torch_pipe, pipe, nets, (model, _) = sd15
    both, plain = controlled(torch_pipe, nets[:1]), pipe(PROMPTS, latents=noise(), steps=6, output="float32")
    seen = [plain]
    intervals = [(1.0, 0.0, 1.0), (0.4, 0.0, 0.5), (-1.5, 1 / 3, 1.0), (1.0, 0.2, 0.9)]
    compiled = set()
    for scale, start, end in intervals:
        seen.append(
            check(
                pipe,
                Control(model, picture(1), scale=scale, start=start, end=end),
                both,
                noise(),
                image=nchw(picture(1)),
                controlnet_conditioning_scale=scale,
                control_guidance_start=start,
                control_guidance_end=end,
            )
        )
        compiled.add(sharding._mapped._cache_size())
    assert len(compiled) == 1, "what the first one needed is all that there is"
    assert all(np.abs(a - b).max() > 1e-2 for i, a in enumerate(seen) for b in seen[:i])


@pytest.mark.slow
def test_two_controlnets_without_guidance(sd15):
    torch_pipe, pipe, nets, models = sd15
    controls = [Control(models[0], picture(1), 0.7, end=0.6), Control(models[1], picture(2), 0.3, start=0.4)]
    check(
        pipe,
        controls,
        controlled(torch_pipe, nets),
        noise(),
        scale=1.0,
        image=[nchw(picture(1)), nchw(picture(2))],
        controlnet_conditioning_scale=[0.7, 0.3],
        control_guidance_start=[0.0, 0.4],
        control_guidance_end=[0.6, 1.0],
    )


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_in_float64(count):
    torch_pipe = theirs("sd21", double=True)
    nets = [torch_models.build_controlnet("sd21", seed=seed, double=True) for seed in (10, 20)[:count]]
    latents = np.random.default_rng(0).normal(size=(2, 8, 8, 4))
    with jax.enable_x64(True):
        pipe = ours("sd21", torch_pipe, jnp.float64)
        controls = []
        for i, net in enumerate(nets):
            module = ControlNetModel(ControlNetConfig.from_json(torch_models.config_json(net)), dtype=jnp.float64)
            params = torch_models.params_from_torch(net)
            model = ControlModel(kind=KINDS["ControlNetModel"], module=module, params=params, name="net")
            controls.append(Control(model, picture(i), scale=0.8))
        check(
            pipe,
            controls,
            controlled(torch_pipe, nets),
            latents,
            tolerance=1e-9,
            image=[nchw(picture(i)) for i in range(count)] if count > 1 else nchw(picture(0)),
            controlnet_conditioning_scale=[0.8] * count if count > 1 else 0.8,
        )


@pytest.mark.slow
@pytest.mark.parametrize("scale", [5.0, 1.0])
def test_guess_mode(sd15, scale):
    torch_pipe, pipe, nets, (model, _) = sd15
    check(
        pipe,
        Control(model, picture(1), guess=True),
        controlled(torch_pipe, nets[:1]),
        noise(),
        scale=scale,
        image=nchw(picture(1)),
        guess_mode=True,
    )


def test_a_scale_of_zero_or_an_interval_outside_is_no_control(sd15):
    _, pipe, _, (model, _) = sd15
    run = {"latents": noise(), "steps": 3, "output": "float32"}
    plain = pipe(PROMPTS, **run)
    for control in (Control(model, picture(1), 0.0), Control(model, picture(1), start=0.5, end=0.6)):
        np.testing.assert_allclose(pipe(PROMPTS, control=control, **run), plain, atol=1e-5)


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_t2i_adapters(sd15, tmp_path, count):
    torch_pipe, pipe, _, _ = sd15
    grey = [{}, {"in_channels": 1}]
    nets = [torch_models.build_t2i_adapter(seed=30 + i, **grey[i]) for i in range(count)]
    parts = {name: getattr(torch_pipe, name) for name in ("unet", "vae", "text_encoder", "scheduler")}
    both = diffusers.StableDiffusionAdapterPipeline(
        **parts,
        adapter=nets if count > 1 else nets[0],
        **dict.fromkeys(("tokenizer", "safety_checker", "feature_extractor")),
        requires_safety_checker=False,
    )
    both.set_progress_bar_config(disable=True)
    controls, images, scales = [], [], [0.7, 0.4][:count]
    for i, net in enumerate(nets):
        net.save_pretrained(tmp_path / str(i))
        given = picture(i)
        if i:
            given = np.repeat(given[..., :1], 3, axis=-1)
        controls.append(Control(load_control(tmp_path / str(i), pipe), given, scale=scales[i]))
        images.append(nchw(given)[:, : net.config.in_channels].repeat(2, 1, 1, 1))
    check(
        pipe,
        controls,
        both,
        noise(),
        image=images if count > 1 else images[0],
        adapter_conditioning_scale=scales if count > 1 else scales[0],
        height=SIZE,
        width=SIZE,
    )
    with pytest.raises(InputError, match="guess mode is for ControlNets"):
        pipe(PROMPTS, control=Control(controls[0].model, picture(1), guess=True))


def original(net):
    """The weights of a ControlNet of diffusers by the names of the original code."""
    config = ControlNetConfig.from_json(torch_models.config_json(net))
    return {PREFIX + control_place(config, name).key: leaf.contiguous() for name, leaf in net.state_dict().items()}


def test_names_of_the_original_code_are_those_that_diffusers_reads(tmp_path):
    net = torch_models.build_controlnet("sd15", conditioning_embedding_out_channels=(8, 12, 16, 24))
    safetensors.save_file(original(net), tmp_path / "control.safetensors")
    (tmp_path / "config.json").write_text(net.to_json_string())
    again = diffusers.ControlNetModel.from_single_file(tmp_path / "control.safetensors", config=str(tmp_path))
    assert again.state_dict().keys() == net.state_dict().keys()
    for name, leaf in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], leaf), name


def test_a_single_file_of_the_original_code(sd15, tmp_path):
    """It holds what its folder does."""
    _, pipe, (net, _), (model, _) = sd15
    state = original(net)
    safetensors.save_file(state, tmp_path / "control.safetensors")
    torch.save({"state_dict": state}, tmp_path / "control.pth")
    for name in ("control.safetensors", "control.pth"):
        found = load_control(tmp_path / name, pipe)
        jax.tree.map(np.testing.assert_array_equal, found.params, model.params)
    kept = ("block_out_channels", "down_block_types", "layers_per_block", "conditioning_embedding_out_channels")
    for name in (*kept, "cross_attention_dim", "use_linear_projection", "conditioning_channels"):
        assert getattr(found.module.config, name) == getattr(model.module.config, name), name
    hint, middle = "control_model.input_hint_block.0.weight", "control_model.middle_block_out.0.weight"
    for wrong, message in (
        ({"a.weight": torch.ones(2)}, "other.safetensors holds no ControlNetModel that its names tell"),
        ({hint: state[hint]}, "other.safetensors holds no ControlNetModel that we know: lacks"),
        ({**state, hint: torch.ones(3)}, "other.safetensors .* lacks control_model.input_hint_block.0.weight"),
        ({name: leaf for name, leaf in state.items() if name != middle}, "1 missing: controlnet_mid_block/kernel"),
        ({**state, "control_model.more": torch.ones(3)}, "1 extra"),
    ):
        safetensors.save_file(wrong, tmp_path / "other.safetensors")
        with pytest.raises(InputError, match=message) as caught:
            load_control(tmp_path / "other.safetensors", pipe)
        assert "\n" not in str(caught.value)


def test_intervals_go_by_calls_of_the_network(sd15):
    """Also of samplers that call it twice a step, as diffusers' Heun."""
    torch_pipe, pipe, nets, (model, _) = sd15
    both = controlled(torch_pipe, nets[:1])
    leading = {"timestep_spacing": "leading"}
    both.scheduler = diffusers.HeunDiscreteScheduler.from_config(torch_pipe.scheduler.config, **leading)
    control = Control(model, picture(1), start=0.3, end=0.7)
    wanted = {"control_guidance_start": 0.3, "control_guidance_end": 0.7, "image": nchw(picture(1))}
    run = {"latents": noise(), "guidance_scale": 5.0}
    expected_latents, _ = expected(both, pipe, noise(), num_inference_steps=6, guidance_scale=5.0, **wanted)
    found = pipe(PROMPTS, control=control, sampler="heun", steps=6, negative_prompt=NEGATIVE, output="latents", **run)
    np.testing.assert_allclose(found, expected_latents, atol=1e-4 * np.abs(expected_latents).max())


@pytest.mark.slow
def test_from_a_picture_the_interval_is_of_what_is_run(sd15):
    torch_pipe, pipe, (net, _), (model, _) = sd15
    start = np.random.default_rng(1).uniform(size=(2, SIZE, SIZE, 3)).astype("float32")
    run = {"strength": 0.5, "guidance_scale": 5.0}
    found = pipe(
        PROMPTS,
        control=Control(model, picture(1), start=0.2, end=0.6),
        image=list(start),
        latents=noise(),
        negative_prompt=NEGATIVE,
        seed=3,
        steps=10,
        profile="diffusers",
        output="latents",
        **run,
    )
    parts = {name: part for name, part in torch_pipe.components.items() if part is not None}
    parts |= dict.fromkeys(("tokenizer", "safety_checker", "feature_extractor"))
    both = diffusers.StableDiffusionControlNetImg2ImgPipeline(**parts, controlnet=net, requires_safety_checker=False)
    both.set_progress_bar_config(disable=True)
    module = "pipelines.controlnet.pipeline_controlnet_img2img"
    drawn = posterior_noise((3, 4), noise().shape[1:], "float32")
    with replaced("models.autoencoders.vae", drawn), replaced(module, noise()):
        wanted, _ = expected(
            both,
            pipe,
            None,
            image=torch.tensor(start.transpose(0, 3, 1, 2)),
            control_image=nchw(picture(1)),
            control_guidance_start=0.2,
            control_guidance_end=0.6,
            controlnet_conditioning_scale=1.0,
            num_inference_steps=10,
            **run,
        )
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


class CountingNet(nn.Module):
    """A ControlNet of one skip connection that tells when it runs."""

    ran: Callable[[], None]

    def hint(self, picture):
        return picture

    def residuals(self, latents, timesteps, condition, hint):
        jax.debug.callback(self.ran)
        return Residuals(skips=(latents + hint,), middle=latents)


def test_where_it_does_not_count_it_is_not_run():
    runs = []
    guide = ControlNetGuide(module=CountingNet(lambda: runs.append(1)))
    x, condition = jnp.ones((2, 4, 4, 3)), Condition(jnp.zeros((2, 1, 1)))

    @jax.jit
    def told(weight):
        return guide.tell({}, x, jnp.zeros(2), condition, x, weight).residuals

    weights = weights_of_rows([0.5], [(0.25, 0.75)], length=4, size=6)[:, 0]
    assert weights.tolist() == [0, 0.5, 0.5, 0, 0, 0]
    found = [told(weight) for weight in weights]
    jax.effects_barrier()
    assert len(runs) == 2
    for weight, residuals in zip(weights, found):
        np.testing.assert_allclose(residuals.skips[0], 2 * weight * x)
        np.testing.assert_allclose(residuals.middle, weight * x)


def test_each_picture_has_its_own(sd15):
    """One picture for all is that picture for each, and batch mates do not count."""
    _, pipe, _, (model, _) = sd15
    run = {"steps": 2, "output": "float32", "latents": noise()}
    both = pipe(PROMPTS, control=Control(model, [picture(1), picture(2)]), **run)
    for i in range(2):
        same = pipe(PROMPTS, control=Control(model, picture(1 + i)), **run)
        np.testing.assert_allclose(both[i], same[i], atol=1e-5)


class TestPictures:
    @pytest.mark.parametrize("own", [(31, 50), (9, 12), (16, 16)])
    def test_they_are_resized_as_diffusers_does(self, own):
        levels = np.random.default_rng(5).integers(0, 256, (*own, 3)).astype(np.uint8)
        processor = diffusers.image_processor.VaeImageProcessor(do_convert_rgb=True, do_normalize=False)
        theirs = processor.preprocess(Image.fromarray(levels), height=16, width=24)
        found = resized(levels.astype(np.float32) / np.float32(255), Size(16, 24))
        np.testing.assert_allclose(found, theirs[0].numpy().transpose(1, 2, 0), atol=1e-6)

    @pytest.mark.parametrize(
        ("told", "drawn"),
        [({"height": 16, "width": 16}, (16, 16)), pytest.param({}, (16, 24), marks=pytest.mark.slow)],
    )
    def test_their_size_is_drawn_unless_another_is_told(self, sd15, told, drawn):
        _, pipe, _, (model, _) = sd15
        found = pipe(PROMPTS, control=Control(model, np.zeros((16, 25, 3), np.uint8)), steps=1, **told)
        assert found.shape == (2, *drawn, 3)


class TestRefused:
    def test_what_does_not_fit(self, sd15, tmp_path):
        pipe = sd15[1]
        torch_models.build_controlnet("sd15", cross_attention_dim=48).save_pretrained(tmp_path / "wide")
        with pytest.raises(InputError, match="wide does not fit .*: its cross_attention_dim = 48, the denoiser's 32"):
            load_control(tmp_path / "wide", pipe)
        torch_models.build_controlnet("sd15", layers_per_block=2).save_pretrained(tmp_path / "deep")
        with pytest.raises(InputError, match="skip connections have 32, 32, 32, 32, 64, 64 channels, 32, 32, 32, 64"):
            load_control(tmp_path / "deep", pipe)
        with pytest.raises(InputError, match="is AutoencoderKL, which guides no denoiser"):
            torch_models.build_vae().save_pretrained(tmp_path / "vae")
            load_control(tmp_path / "vae", pipe)
        with pytest.raises(InputError, match="lacks config.json"):
            load_control(tmp_path, pipe)

    @pytest.mark.usefixtures("untyped")
    def test_what_is_out_of_bounds(self, sd15):
        _, pipe, _, (model, _) = sd15
        for wrong, message in (
            ({"start": 0.6, "end": 0.5}, r"\(0.6, 0.5\).*start before end"),
            ({"end": 1.5}, "from 0 to 1"),
            ({"scale": np.inf}, "scale = inf"),
        ):
            with pytest.raises(InputError, match=message):
                Control(model, picture(1), **wrong)
        with pytest.raises(InputError, match="what load_control returns"):
            Control("canny", picture(1))
        with pytest.raises(InputError, match="must be a Control"):
            pipe("a cat", control=[model])
        with pytest.raises(InputError, match="3 pictures.*one for each of 2 prompts"):
            pipe(PROMPTS, control=Control(model, [picture(i) for i in range(3)]))
