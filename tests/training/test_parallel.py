# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreambooth_jax.errors import InputError
from dreambooth_jax.hardware.programs import collectives
from dreambooth_jax.models.parts import as_parts, whole
from dreambooth_jax.target import Target
from dreambooth_jax.training.parallel import Replicated, Sharded, check_divisible, make_mapper, sharded
from tests.training import toy


@pytest.fixture(autouse=True)
def small_leaves_are_split_too(monkeypatch):
    """The toy has no others."""
    monkeypatch.setattr(sharded, "SHARDING_THRESHOLD", 64)


def mappers():
    devices = jax.devices()
    return {
        "pmap 8": make_mapper("pmap", Target.of(devices)),
        "fsdp 8": make_mapper("fsdp", Target.of(devices)),
        "fsdp 2": make_mapper("fsdp", Target.of(devices[:2])),
        "fsdp 4 x 2": make_mapper("fsdp", Target.of(devices), fsdp_devices=2),
        "pmap 1": make_mapper("pmap", Target.of(devices[:1])),
    }


@pytest.mark.parametrize("prior_weight", [0.0, 0.5, 1.0, 2.0])
def test_every_mapper_gives_what_one_device_gives(prior_weight):
    expected, losses = toy.run(make_mapper("auto", Target.of(jax.devices()[:1])), prior_weight=prior_weight)
    for name, mapper in mappers().items():
        state, found = toy.run(mapper, prior_weight=prior_weight)
        np.testing.assert_allclose(found, losses, rtol=2e-6, err_msg=name)
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(a, np.asarray(b), rtol=2e-5, atol=2e-6, err_msg=name)


def test_gradients_are_not_multiplied_by_the_number_of_devices():
    """Adam hides a factor, the clip's norm does not."""
    norms = []
    for mapper in [make_mapper("auto", Target.of(jax.devices()[:1])), *mappers().values()]:
        step, frozen, state = toy.setup()
        args = mapper.place(state), mapper.place(frozen), mapper.place_batch(toy.batch(0, 8, 1.0))
        norms.append(float(mapper.map(step)(*args, jax.random.key(0))[1]["grad_norm"]))
    np.testing.assert_allclose(norms, norms[0], rtol=1e-6)


@pytest.mark.parametrize("accumulation", [2, 4])
def test_micro_batches_add_up_to_the_batch(accumulation):
    one = make_mapper("auto", Target.of(jax.devices()[:1]))
    expected, losses = toy.run(one)
    for mapper in (
        one,
        make_mapper("pmap", Target.of(jax.devices()[:4])),
        make_mapper("fsdp", Target.of(jax.devices()[:4])),
    ):
        state, found = toy.run(mapper, accumulation=accumulation)
        np.testing.assert_allclose(found, losses, rtol=2e-6)
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(a, np.asarray(b), rtol=2e-5, atol=2e-6)


def test_fsdp_holds_a_part_of_every_large_leaf():
    mapper = make_mapper("fsdp", Target.of(jax.devices()))
    leaf = jax.numpy.zeros((3, 3, 64, 128))
    placed = mapper.place({"w": leaf, "small": jax.numpy.zeros(8), "odd": jax.numpy.zeros((75, 77))})
    assert placed["w"].addressable_shards[0].data.shape == (3, 3, 64, 16)
    assert placed["small"].addressable_shards[0].data.shape == (8,)
    assert placed["odd"].sharding.is_fully_replicated
    step, frozen, state = toy.setup()
    state, _ = mapper.map(step)(
        mapper.place(state), mapper.place(frozen), mapper.place_batch(toy.batch(0, 8, 1.0)), jax.random.key(0)
    )
    for before, after in zip(jax.tree.leaves(mapper.restore_target(toy.setup()[2])), jax.tree.leaves(state)):
        assert after.sharding.is_equivalent_to(before.sharding, after.ndim), "the step must not change a sharding"


def test_fsdp_gathers_in_the_dtype_of_the_networks_and_scatters_gradients_in_float32():
    """Read off the compiled program: of the two kernels that are split."""
    mapper = make_mapper("fsdp", Target.of(jax.devices()), fsdp_devices=4)
    step, frozen, state = toy.setup(dtype=jnp.bfloat16, ema_decay=0.0)
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, toy.batch(0, 8, 1.0)))
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = mapper.shapes(jax.eval_shape(lambda: state)), mapper.shapes(frozen), mapper.batch_shapes(batch), key
    found = {}
    for one in collectives(mapper.map(step).lower(*shapes).compile().as_text()):
        found[one.kind, one.group] = found.get((one.kind, one.group), 0) + one.bytes, one.dtype
    kernels = 8 * toy.WIDTH + toy.WIDTH * 4
    biases = toy.WIDTH
    # A CPU gathers bfloat16 in float32. The bias is split as well; XLA also gathers it for its update.
    assert found["all-gather", 4][0] == 4 * kernels + 2 * 4 * biases
    assert found["reduce-scatter", 4] == (4 * (kernels + biases), "f32")
    assert found["all-reduce", 2][0] == 4 * (kernels + biases) / 4, "of a device's part, between the groups of four"


@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
def test_only_kernels_are_rounded_before_they_are_gathered(dtype):
    """As networks that compute in that dtype round them themselves; the norms' vectors stay as they are."""
    mapper = make_mapper("fsdp", Target.of(jax.devices()))
    tree = {"unet": {"kernel": jnp.full((8, 64), 1 + 2**-12), "scale": jnp.full(64, 1 + 2**-12)}}
    axes = jax.tree.map(mapper.axis, tree)
    assert jax.tree.leaves(axes) == [1, 0]
    specs = jax.tree.map(mapper.spec, tree)
    found = jax.shard_map(
        lambda tree: whole(as_parts(tree, axes=axes, devices="fsdp", count=8, dtype=dtype)),
        mesh=mapper.mesh,
        in_specs=(specs,),
        out_specs=jax.sharding.PartitionSpec(),
        check_vma=False,
    )(mapper.place(tree))
    assert (found["unet"]["scale"] == tree["unet"]["scale"]).all()
    rounded = dtype == jnp.bfloat16
    assert found["unet"]["kernel"].dtype == (jnp.bfloat16 if rounded else jnp.float32)
    assert (found["unet"]["kernel"] == (1 if rounded else 1 + 2**-12)).all()


def buffers(tree):
    """Where the arrays lie."""
    return [shard.data.unsafe_buffer_pointer() for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards]


def test_pmap_copies_nothing_to_place_or_to_save():
    mapper = make_mapper("pmap", Target.of(jax.devices()))
    loaded = jax.tree.map(lambda leaf: mapper.load("", np.asarray(leaf)), toy.params())
    placed = mapper.place(loaded)
    assert buffers(placed) == buffers(loaded) == buffers(mapper.logical(placed))
    assert jax.tree.map(jnp.shape, placed) == jax.tree.map(jnp.shape, toy.params())


def test_placing_and_taking_back_is_the_identity():
    tree = toy.params()
    for mapper in mappers().values():
        jax.tree.map(np.testing.assert_array_equal, tree, mapper.logical(mapper.place(tree)))


@pytest.mark.parametrize("parallel", ["pmap", "fsdp"])
def test_the_step_compiles_once(parallel):
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **__: compiles.append(name) if name == "/jax/core/compile/backend_compile_duration" else None
    )
    mapper = make_mapper(parallel, Target.of(jax.devices()))
    step, frozen, state = toy.setup()
    mapped, placed, frozen = mapper.map(step), mapper.place(state), mapper.place(frozen)
    key = jax.random.key(0)
    placed, _ = mapped(placed, frozen, mapper.place_batch(toy.batch(0, 8, 1.0)), key)
    before = len(compiles)
    for number in range(1, 4):
        placed, _ = mapped(placed, frozen, mapper.place_batch(toy.batch(number, 8, 1.0)), key)
    assert len(compiles) == before


@pytest.mark.parametrize("parallel", ["pmap", "fsdp"])
def test_a_step_that_was_compiled_from_shapes_is_not_compiled_again(parallel):
    compiles = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **__: compiles.append(name) if name == "/jax/core/compile/backend_compile_duration" else None
    )
    mapper = make_mapper(parallel, Target.of(jax.devices()))
    step, frozen, state = toy.setup()
    batch, key = toy.batch(0, 8, 1.0), jax.random.key(0)

    def compiles_of_a_call(ahead):
        mapped = mapper.map(step)
        arguments = mapper.place(jax.tree.map(jnp.copy, state)), mapper.place(frozen), mapper.place_batch(batch), key
        before = len(compiles)
        if ahead:
            shapes = mapper.shapes(state), mapper.shapes(frozen), mapper.batch_shapes(batch)
            mapped.lower(*shapes, jax.eval_shape(lambda: key)).compile()
            assert len(compiles) == before + 1
        mapped(*arguments)
        return len(compiles) - before

    compiles_of_a_call(False)  # small programs around it, too
    assert compiles_of_a_call(False) == 1
    assert compiles_of_a_call(True) == 1


def test_auto_is_pmap_on_several_devices_and_jit_on_one():
    assert isinstance(make_mapper("auto", Target.of(jax.devices())), Replicated)
    assert isinstance(make_mapper("auto", Target.of(jax.devices()[:1])), Sharded)


def test_groups_of_devices_share_a_copy():
    mapper = make_mapper("fsdp", Target.of(jax.devices()), fsdp_devices=2)
    assert dict(mapper.mesh.shape) == {"data": 4, "fsdp": 2}
    placed = mapper.place(jax.numpy.zeros((64, 128)))
    assert {shard.data.shape for shard in placed.addressable_shards} == {(64, 64)}
    with pytest.raises(InputError, match=r"train.fsdp_devices 3 does not divide the 8 devices"):
        make_mapper("fsdp", Target.of(jax.devices()), fsdp_devices=3)


@pytest.mark.parametrize("batch_size", range(1, 9))
@pytest.mark.parametrize("accumulation", [1, 3])
def test_an_indivisible_batch_names_one_that_is_divisible(batch_size, accumulation):
    options = {"copies": 2, "accumulation": accumulation, "n_devices": 8}
    if batch_size * 2 % (8 * accumulation) == 0:
        check_divisible(batch_size=batch_size, **options)
        return
    with pytest.raises(InputError, match="use train.batch_size") as error:
        check_divisible(batch_size=batch_size, **options)
    proposed = int(str(error.value).split()[-1])
    assert proposed > batch_size
    check_divisible(batch_size=proposed, **options)
