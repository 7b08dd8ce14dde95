# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Exchanges read off programs: bytes known by arithmetic, in programs compiled here and snippets of other platforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from dreambooth_jax.errors import InputError
from dreambooth_jax.hardware.programs import KINDS, Collective, collectives, moved, moved_between_hosts

P = PartitionSpec
ROWS, WIDTH = 16, 24
PAYLOAD = ROWS * WIDTH * 4  # bytes of a float32 array of one device


def compiled(function, *shapes, mesh=(8,), specs=None):
    """Text of a function that each of eight devices runs on its part; parts are stacked along the first axis."""
    names = ("a", "b")[: len(mesh)]
    devices = Mesh(np.asarray(jax.devices()).reshape(mesh), names)
    mapped = jax.shard_map(function, mesh=devices, in_specs=P(names), out_specs=specs or P(names), check_vma=False)
    arguments = [jax.ShapeDtypeStruct((8 * shape[0], *shape[1:]), jnp.float32) for shape in shapes]
    return jax.jit(mapped).lower(*arguments).compile().as_text()


@pytest.mark.parametrize(
    ("kind", "function", "payload"),
    [
        ("all-reduce", lambda x: jax.lax.psum(x, "a"), PAYLOAD),
        ("all-gather", lambda x: jax.lax.all_gather(x, "a", tiled=True), 8 * PAYLOAD),
        ("reduce-scatter", lambda x: jax.lax.psum_scatter(x, "a", tiled=True), PAYLOAD),
        ("all-to-all", lambda x: jax.lax.all_to_all(x, "a", 0, 0, tiled=True), PAYLOAD),
        ("collective-permute", lambda x: jax.lax.ppermute(x, "a", [(i, (i + 1) % 8) for i in range(8)]), PAYLOAD),
    ],
)
def test_payloads_of_each_kind(kind, function, payload):
    assert collectives(compiled(function, (ROWS, WIDTH))) == [Collective(kind, "f32", 8, 1, payload)]


def test_groups_are_the_devices_along_an_axis():
    def function(x):
        return jax.lax.psum(x, "a") + jax.lax.pmax(x, "b")

    found = collectives(compiled(function, (ROWS, WIDTH), mesh=(2, 4)))
    assert {(one.group, one.count, one.bytes) for one in found} == {(2, 1, PAYLOAD), (4, 1, PAYLOAD)}


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_loops_count_as_often_as_they_run(steps):
    def function(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(jax.lax.psum(c, "a")), None), x, length=steps)[0]

    assert collectives(compiled(function, (ROWS, WIDTH))) == [
        Collective("all-reduce", "f32", 8, steps, steps * PAYLOAD)
    ]


def test_pmap_exchanges_between_replicas():
    step = jax.pmap(lambda x: jax.lax.psum(x, "i"), axis_name="i")
    text = step.lower(jax.ShapeDtypeStruct((8, ROWS, WIDTH), jnp.float32)).compile().as_text()
    assert collectives(text) == [Collective("all-reduce", "f32", 8, 1, PAYLOAD)]


def test_a_program_of_one_device_sends_nothing():
    assert collectives(jax.jit(jnp.sin).lower(jnp.ones(8)).compile().as_text()) == []


@pytest.mark.parametrize("group", [1, 2, 8, 256])
def test_a_ring(group):
    assert moved("all-reduce", 1e6, group) == moved("reduce-scatter", 1e6, group) + moved("all-gather", 1e6, group)
    # in one gather every device sends its own part to each of the others
    assert moved("all-gather", 1e6, group) == pytest.approx((group - 1) * 1e6 / group)
    for kind in KINDS:
        assert moved(kind, 2e6, group) == 2 * moved(kind, 1e6, group)
        assert moved(kind, 1e6, group) <= moved(kind, 1e6, None)
        if kind != "collective-permute":
            assert moved(kind, 1e6, 1) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_between_hosts(kind):
    # a card in each host: all exchange is between hosts; one host: none; more cards share it and never send more
    assert moved_between_hosts(kind, 1e6, hosts=4, cards=1) == moved(kind, 1e6, 4)
    assert moved_between_hosts(kind, 1e6, hosts=1, cards=8) == 0
    assert moved_between_hosts(kind, 1e6, hosts=4, cards=8) <= moved(kind, 1e6, 32)


def test_unknown_kinds_are_refused():
    with pytest.raises(InputError, match="collective 'gossip': not one of all-reduce"):
        moved("gossip", 1, 2)


def module(body, header="num_partitions=4", more=""):
    """Text of a module with these instructions in its entry."""
    lines = "\n".join(f"  {line.strip()}" for line in body.strip().splitlines())
    entry = f"ENTRY %main (p: f32[4,8]) -> f32[4,8] {{\n{lines}\n}}\n"
    return f"HloModule jit_f, is_scheduled=true, {header}\n\n{more}\n{entry}"


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("replica_groups={{0,1},{2,3}}", 2),
        ("replica_groups={}", 4),
        ("replica_groups=[2,2]<=[4]", 2),
        ("replica_groups=[1,4]<=[2,2]T(1,0)", 4),
        ("replica_groups=mesh['axis_0'=1,'axis_1'=4,'axis_2'=1] {'axis_1'}", 4),
        ("replica_groups=mesh['x'=2,'y'=8] {'x','y'}", 16),
        ("replica_groups=mesh['x'=8] {'x':(2)4}", 4),
        ("channel_id=1", None),
    ],
)
def test_ways_to_write_groups(groups, size):
    text = module(f"""
        %p = f32[4,8]{{1,0}} parameter(0)
        ROOT %r = f32[4,8]{{1,0}} all-reduce(%p), channel_id=1, {groups}, to_apply=%add""")
    assert collectives(text) == [Collective("all-reduce", "f32", size, 1, 128)]


def test_pairs_count_once_on_gpus():
    text = module("""
        %p = f32[4,8]{1,0} parameter(0)
        %g = (f32[4,8]{1,0}, f32[16,8]{1,0}) all-gather-start(%p), replica_groups={{0,1,2,3}}, dimensions={0}
        %gd = f32[16,8]{1,0} all-gather-done(%g)
        %s = ((f32[16,8]{1,0}), f32[4,8]{1,0}) reduce-scatter-start(%gd), replica_groups={{0,1,2,3}}, to_apply=%add
        %sd = f32[4,8]{1,0} reduce-scatter-done(%s)
        %c = (f32[4,8]{1,0}, f32[4,8]{1,0}) collective-permute-start(%sd), source_target_pairs={{0,1},{1,0}}
        %cd = f32[4,8]{1,0} collective-permute-done(%c)
        %r = f32[4,8]{1,0} all-reduce-start(%cd), replica_groups={{0,1,2,3}}, to_apply=%add
        ROOT %rd = f32[4,8]{1,0} all-reduce-done(%r)""")
    assert {one.kind: (one.group, one.count, one.bytes) for one in collectives(text)} == {
        "all-gather": (4, 1, 512),
        "reduce-scatter": (4, 1, 512),
        "all-reduce": (4, 1, 128),
        "collective-permute": (2, 1, 128),
    }


@pytest.mark.parametrize("memory", ["", "S(1)", "S(3)"])
def test_payloads_count_wherever_a_tpu_keeps_them(memory):
    large, small = (f"f32[{rows},128]{{1,0:T(8,128){memory}}}" for rows in (32, 8))
    text = module(f"""
        %p = {small} parameter(0)
        %g = {large} all-gather(%p), replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
        %s = ({small}, {large}, u32[]{{:S(2)}}, u32[]{{:S(2)}}) all-gather-start(%p), replica_groups={{{{0,1,2,3}}}}
        ROOT %d = {large} all-gather-done(%s)""")
    assert collectives(text) == [Collective("all-gather", "f32", 4, 2, 2 * 32 * 128 * 4)]


def test_asynchronous_computations_count_once():
    wrapped = """
%wrapped (x: bf16[4,8]) -> bf16[16,8] {
  %x = bf16[4,8]{1,0} parameter(0)
  ROOT %g = bf16[16,8]{1,0} all-gather(%x), replica_groups={{0,1,2,3}}, dimensions={0}
}
"""
    text = module(
        """
        %p = bf16[4,8]{1,0} parameter(0)
        %a = ((bf16[4,8]{1,0}), bf16[16,8]{1,0}) async-start(%p), calls=%wrapped
        %u = ((bf16[4,8]{1,0}), bf16[16,8]{1,0}) async-update(%a)
        ROOT %d = bf16[16,8]{1,0} async-done(%u)""",
        more=wrapped,
    )
    assert collectives(text) == [Collective("all-gather", "bf16", 4, 1, 256)]


def test_several_arrays_in_one_exchange():
    text = module("""
        %p = f32[4,8]{1,0} parameter(0)
        %q = bf16[2]{0} parameter(1)
        ROOT %r = (f32[4,8]{1,0}, bf16[2]{0}) all-reduce(%p, /*index=1*/%q), replica_groups={{0,1,2,3}}""")
    assert collectives(text) == [Collective("all-reduce", "bf16+f32", 4, 1, 132)]


def test_a_tpu_s_exchange_that_spans_three_fusions_is_one():
    vmem, flag = "{1,0:T(8,128)S(1)}", "u32[]{:S(2)}"
    state = f"(f32[8,128]{vmem}, f32[32,128]{{1,0:T(8,128)}}, {flag})"
    fusions = f"""
%begin (a: f32[8,128]) -> (f32[8,128], f32[32,128], u32[]) {{
  %a = f32[8,128]{vmem} parameter(0)
  %g = f32[32,128]{{1,0:T(8,128)}} all-gather(%a), replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
  ROOT %s = {state} custom-call(%g), custom_call_target="AsyncCollectiveStart"
}}

%work (b: f32[8,128], c: f32[32,128], d: u32[]) -> (f32[8,128], f32[32,128], u32[]) {{
  %b = f32[8,128]{vmem} parameter(0)
  %c = f32[32,128]{{1,0:T(8,128)}} parameter(1)
  %d = {flag} parameter(2)
  %h = f32[32,128]{{1,0:T(8,128)}} all-gather(%b), replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
  ROOT %t = (f32[8,128]{vmem}, f32[32,128]{{1,0:T(8,128)}}, {flag}) tuple(%b, %h, %d)
}}

%end (b2: f32[8,128], c2: f32[32,128], d2: u32[]) -> f32[32,128] {{
  %b2 = f32[8,128]{vmem} parameter(0)
  %c2 = f32[32,128]{{1,0:T(8,128)}} parameter(1)
  %d2 = {flag} parameter(2)
  %i = f32[32,128]{{1,0:T(8,128)}} all-gather(%b2), replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
  ROOT %e = f32[32,128]{{1,0:T(8,128)}} custom-call(%b2, %c2, %i, %d2), custom_call_target="AsyncCollectiveDone"
}}
"""
    text = module(
        f"""
        %p = f32[8,128]{vmem} parameter(0)
        %x = {state} fusion(%p), kind=kCustom, calls=%begin
        %x0 = f32[8,128]{vmem} get-tuple-element(%x), index=0
        %x1 = f32[32,128]{{1,0:T(8,128)}} get-tuple-element(%x), index=1
        %x2 = {flag} get-tuple-element(%x), index=2
        %y = {state} fusion(%x0, %x1, %x2), kind=kOutput, calls=%work
        %y1 = f32[32,128]{{1,0:T(8,128)}} get-tuple-element(%y), index=1
        ROOT %z = f32[32,128]{{1,0:T(8,128)}} fusion(%x0, %y1, %x2), kind=kCustom, calls=%end""",
        more=fusions,
    )
    assert collectives(text) == [Collective("all-gather", "f32", 4, 1, 32 * 128 * 4)]

    from dreambooth_jax.hardware.programs import traffic

    assert traffic(text) == 32 * 128 * 4  # written once; all else lies on the chip or is passed on


def test_a_tpu_s_all_reduce_of_which_a_fusion_takes_a_slice_is_a_reduce_scatter():
    fused = """
%all-reduce-scatter.1 (a: f32[32,128], i: s32[]) -> f32[8,128] {
  %a = f32[32,128]{1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %r = f32[32,128]{1,0:T(8,128)} all-reduce(%a), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %s = f32[8,128]{1,0:T(8,128)} dynamic-slice(%r, %i, %i), dynamic_slice_sizes={8,128}
}
"""
    text = module(
        """
        %p = f32[32,128]{1,0:T(8,128)} parameter(0)
        %i = s32[]{:T(128)} parameter(1)
        ROOT %f = f32[8,128]{1,0:T(8,128)} fusion(%p, %i), kind=kCustom, calls=%all-reduce-scatter.1""",
        more=fused,
    )
    assert collectives(text) == [Collective("reduce-scatter", "f32", 4, 1, 32 * 128 * 4)]
