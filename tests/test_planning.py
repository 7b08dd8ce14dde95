# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""A plan says what a run takes, and a run that would take too much is not begun."""

import functools
import shutil
import subprocess
import sys

import jax
import pytest

import dreambooth_jax as dbx
from dreambooth_jax import train_setup
from dreambooth_jax.cli import main
from dreambooth_jax.config import load_config
from dreambooth_jax.errors import InputError
from dreambooth_jax.memory import bytes_per_device
from dreambooth_jax.models import UNet2DConditionModel, UNetConfig
from dreambooth_jax.models.components import UNET
from dreambooth_jax.pipeline import describe_pretrained
from dreambooth_jax.planning import admit
from dreambooth_jax.planning.advice import advice
from dreambooth_jax.planning.build import beside_a_model
from dreambooth_jax.prepare import model
from dreambooth_jax.prepare.prepared import prepare
from dreambooth_jax.runs import RunFolder
from dreambooth_jax.target import Target
from dreambooth_jax.train_setup import groups
from dreambooth_jax.trainer.training import set_up
from dreambooth_jax.training.checkpoint import complete_steps
from dreambooth_jax.training.interrupt import Interrupt
from dreambooth_jax.training.parallel import make_mapper
from dreambooth_jax.training.state import init_state
from dreambooth_jax.trees import nbytes, unflatten
from dreambooth_jax.weights.modules import parameter_shapes
from tests.runs import MODEL, tiny_config

pytestmark = pytest.mark.filterwarnings("ignore:.*:ResourceWarning")


@functools.cache
def described():
    return describe_pretrained(MODEL, target=Target.here())


def assembled(config):
    return train_setup.build_train_setup(config, described(), train_setup.mapper_of(config, Target.here()))


def held_by(config):
    return admit.state_bytes(assembled(config), optimizer=config.optimizer.kind)


@pytest.fixture(scope="module")
def skeleton(tmp_path_factory):
    """The model's folder without weights."""
    folder = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("*.msgpack", "*.safetensors", "*.npz"))
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory, skeleton):
    """Replicated on eight devices, with neither weights nor photos."""
    root = tmp_path_factory.mktemp("plan")
    return dbx.plan(tiny_config(root, "samples.every=2", f"model.path={skeleton}", "data.instance_images="))


@pytest.mark.slow
def test_the_plan_counts_what_the_run_holds(found):
    params = dbx.load_pretrained(MODEL).params
    trained = nbytes(params["unet"])
    assert found.state["parameters"] == found.state["gradients"] == trained
    assert found.state["moments (adamw)"] == pytest.approx(2 * trained, rel=1e-3)
    assert found.state["networks at rest"] == nbytes(params["vae"]) + nbytes(params["text_encoder"])
    (step,) = found.steps
    held = sum(found.state[name] for name in ("parameters", "moments (adamw)", "batch"))
    assert step.usage.arguments == pytest.approx(held, rel=1e-3)
    assert step.usage.temporaries > trained
    assert step.peak == step.idle + step.usage.peak
    assert step.flops > 6 * 8 * trained // 4, "each weight works at least once, forward and twice backward, per example"


def test_a_moving_average_is_one_more_copy(tmp_path, skeleton):
    sizes = held_by(tiny_config(tmp_path, f"model.path={skeleton}", "train.ema_decay=0.5"))
    assert sizes["moving average"] == sizes["parameters"]


@pytest.mark.slow
def test_the_plan_counts_pictures_beside_the_state(found):
    images, latents, grids = found.draws
    assert (images.pictures, images.idle, latents.pictures, grids.pictures) == (1, 0, 1, 1)
    params = dbx.load_pretrained(MODEL).params
    assert latents.idle == nbytes(params["unet"]) + nbytes(params["text_encoder"])
    assert grids.idle == pytest.approx(found.state["moments (adamw)"], abs=4), "and the number of the step"
    assert found.peak == max(step.peak for step in (*found.steps, *found.draws))


def test_what_the_optimizer_averages_is_one_more_copy_while_it_is_looked_at(tmp_path, skeleton):
    """Nothing of the model is in the state then; else the trained networks are."""
    for kind, copies in (("adamw", 0), ("schedule_free_adamw", 1)):
        options = [f"model.path={skeleton}", f"optimizer.kind={kind}", "optimizer.schedule=constant"]
        setup = assembled(tiny_config(tmp_path, *options))
        moments, trained = nbytes(setup.state) - nbytes(setup.trainable), nbytes(setup.trainable)
        assert beside_a_model(setup, *setup.pipe.params) == moments + copies * trained, kind
        vae = nbytes(setup.frozen_on_devices["vae"])
        assert beside_a_model(setup, "unet", "text_encoder") == moments + copies * trained + vae, kind


@pytest.mark.slow
def test_a_validation_is_a_program_of_the_plan(tmp_path, skeleton):
    """Its networks are those of the run, which it takes as they lie there; it has no gradients."""
    config = tiny_config(tmp_path, f"model.path={skeleton}", "data.instance_images=", "validation.holdout=1")
    *_, validation = dbx.plan(config).draws
    params = dbx.load_pretrained(MODEL).params
    assert (validation.purpose, validation.pictures) == ("validation", 1)
    own = nbytes(params["unet"]) + nbytes(params["text_encoder"])
    assert own < validation.usage.arguments < own * 1.05
    assert validation.idle == pytest.approx(2 * nbytes(params["unet"]) + nbytes(params["vae"]), rel=1e-3)


def test_the_report_has_every_number(found):
    text = str(found)
    for words in ("networks at rest", "steps 0 to 6, training unet", "TFLOP", "class images", "fits: needs", "8 x cpu"):
        assert words in text
    assert "what to change" not in text


def test_what_does_not_fit_is_exit_code_2(tmp_path, skeleton, capsys):
    settings = [f"model.path={skeleton}", "data.class_noun=dog", "data.resolution=16", "train.batch_size=4"]
    settings += ["prior.batch_size=1", "samples.every=0", "optimizer.learning_rate=1e-3", f"run_dir={tmp_path}"]
    assert main(["plan", *settings, "train.device_memory=0.001"]) == 2
    output = capsys.readouterr()
    assert "the first that is enough:\n  train.remat=blocks: " in output.out
    (line,) = [line for line in output.err.splitlines() if line.startswith("dreambooth-jax: ")]
    assert "of 0.001 GB on each device" in line


@pytest.mark.slow
def test_advice_can_be_taken_at_its_word(tmp_path, skeleton):
    """Cheapest first; each makes a run that holds less, or does less at once."""
    settings = ["train.batch_size=8", f"model.path={skeleton}", "train.ema_decay=0.5", "text_encoder.stop=-1"]
    config = tiny_config(tmp_path, *settings)
    ways = [line.split()[0].rstrip(":") for line in advice(config, assembled(config), activations=1)]
    assert [way.split("=")[0] for way in ways] == [
        "train.remat", "optimizer.moments", "optimizer.kind", "train.accumulation", "train.parallel",
        "train.ema_decay", "text_encoder.stop", "train.batch_size",
    ]  # fmt: skip

    def burden(config):
        train = config.train
        examples = assembled(config).batches.examples
        return train.remat == "nothing", examples // train.accumulation, sum(held_by(config).values())

    for way in ways:
        changed = burden(tiny_config(tmp_path, *settings, way))
        assert changed != burden(config)
        assert all(new <= old for new, old in zip(changed, burden(config), strict=True)), way


@pytest.mark.parametrize("kind", ["adamw", "adamw bfloat16", "lion bfloat16", "adafactor"])
def test_fsdp_on_eight_devices_keeps_a_sixth_at_most(kind):
    """Of the UNet of Stable Diffusion 1.5, by shapes: parameters, moments and all."""
    unet = UNet2DConditionModel(UNetConfig(cross_attention_dim=768))
    trainable = {"unet": unflatten(parameter_shapes(UNET, unet))}
    name, _, moments = kind.partition(" ")
    overrides = [f"optimizer.kind={name}", *([f"optimizer.moments={moments}"] if moments else [])]
    unet = groups.group_training(load_config(None, overrides), "unet", {"w": 0}, networks=["unet"], encoders=[])
    state = jax.eval_shape(lambda tree: init_state(tree, {"unet": unet.optimizer}, with_ema=False), trainable)
    assert nbytes(state.trainable) > 3.4e9
    assert bytes_per_device(make_mapper("fsdp", Target.of(jax.devices())).shapes(state)) < nbytes(state) / 6


def test_phases_that_train_the_same_share_a_step(tmp_path, skeleton):
    overrides = ["text_encoder.start=1", "text_encoder.stop=3", f"model.path={skeleton}", "data.instance_images="]
    run = assembled(tiny_config(tmp_path, *overrides))
    assert [phase.active for phase in run.phases] == [("unet",), ("text_encoder", "unet"), ("unet",)]
    assert list(run.steps) == [("unet",), ("text_encoder", "unet")]
    assert "input_ids/text_encoder" in run.batch(("text_encoder", "unet"))
    assert "condition/states" in run.batch(("unet",))


class TestRefusing:
    """Of a run that cannot fit nothing is begun that could have been spared."""

    def test_before_weights_are_read(self, tmp_path, monkeypatch):
        monkeypatch.setattr(model, "load_pretrained", lambda *_, **__: pytest.fail("read the weights"))
        config = tiny_config(tmp_path, "train.device_memory=0.0001")
        with pytest.raises(InputError, match=r"does not fit: .*parameters .* \+ moments .*optimizer.moments=bfloat16"):
            dbx.train(config)
        assert not (tmp_path / "run").exists()

    def test_before_the_first_step(self, tmp_path):
        """Memory for the state, but not for the activations."""
        held = sum(held_by(tiny_config(tmp_path)).values())
        config = tiny_config(tmp_path, f"train.device_memory={1.05 * held / 1e9}")
        admit.check_state(config, train_setup.mapper_of(config, Target.here()))
        with pytest.raises(InputError, match=r"does not fit: .*of it for activations.*Try train.remat=blocks"):
            admit.check_steps(config, assembled(config), first_step=0)
        admit.check_steps(config, assembled(config), first_step=config.train.steps)  # none is left to be taken

    def test_not_where_the_device_says_nothing(self, tmp_path):
        config = tiny_config(tmp_path)
        admit.check_state(config, train_setup.mapper_of(config, Target.of(jax.devices())))
        with pytest.raises(InputError, match="does not fit"):
            admit.check_state(config, train_setup.mapper_of(config, Target.of(jax.devices(), memory=1000)))


@pytest.mark.parametrize(("parallel", "stop"), [("pmap", 0), ("fsdp", 0), ("fsdp", -1)])
def test_what_is_measured_is_what_runs(tmp_path, monkeypatch, parallel, stop):
    """Shapes, dtypes and shardings to the last leaf: or the step would be compiled once more when the run takes it."""
    config = tiny_config(
        tmp_path, f"train.parallel={parallel}", f"text_encoder.stop={stop}", "prior.weight=0", "train.batch_size=8"
    )
    mapper = train_setup.mapper_of(config, Target.here())
    prepared = prepare(config, RunFolder(tmp_path / "run"), Interrupt(), mapper)
    training, trainable = set_up(config, prepared, mapper)
    (phase,) = training.setup.phases
    placed = mapper.place(training.setup.fresh_state(trainable))
    phase_inputs = training.inputs_for(phase, placed)
    real = placed, phase_inputs.frozen, mapper.place_batch(phase_inputs.data.batch_at(0))
    state, frozen, batch, _ = training.setup.step_shapes(phase.active)
    assumed = mapper.shapes(state), mapper.shapes(frozen), mapper.batch_shapes(batch)
    assert jax.tree.structure(real) == jax.tree.structure(assumed)
    for array, shape in zip(jax.tree.leaves(real), jax.tree.leaves(assumed), strict=True):
        assert (array.shape, array.dtype) == (shape.shape, shape.dtype)
        assert array.sharding.is_equivalent_to(shape.sharding, array.ndim)
    assert phase_inputs.step is training.setup.steps[phase.active]


def test_a_run_that_does_not_fit_saves_nothing(tmp_path, monkeypatch):
    def refuse(config, setup, *, first_step, sizes):
        assert (list(setup.steps), first_step) == ([("unet",)], 0)
        raise InputError("does not fit")

    monkeypatch.setattr("dreambooth_jax.trainer.run.check_steps", refuse)
    with pytest.raises(InputError, match="does not fit"):
        dbx.train(tiny_config(tmp_path, "prior.weight=0", "train.batch_size=8"))
    assert complete_steps(tmp_path / "run" / "checkpoints") == []


@pytest.mark.slow  # a process of its own, since devices are pretended before the first is used
def test_devices_can_be_pretended(tmp_path):
    settings = [f"model.path={MODEL}", "data.class_noun=dog", "data.resolution=16", "samples.every=0", "prior.weight=0"]
    command = [sys.executable, "-m", "dreambooth_jax", "plan", *settings, f"run_dir={tmp_path}", "--devices", "3"]
    done = subprocess.run(
        [*command, "train.batch_size=3", "train.parallel=fsdp"], capture_output=True, text=True, check=True
    )
    assert "compiled for 3 x cpu, sharded" in done.stdout
    refused = subprocess.run([*command, "train.batch_size=4"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "use train.batch_size 6" in refused.stderr
