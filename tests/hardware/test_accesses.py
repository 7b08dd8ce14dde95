# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""Traffic, arrays and loops read off programs."""

import re

import jax
import jax.numpy as jnp
import pytest

from dreambooth_jax.hardware.hlo import Array, parse
from dreambooth_jax.hardware.programs import kernels, largest, traffic, unread_loops
from tests.hardware.test_exchanges import module

N = 64


def lowered(function, *arguments):
    return jax.jit(function).lower(*arguments).compile()


def square(*leading):
    return jax.ShapeDtypeStruct((*leading, N, N), jnp.float32)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambda x: jnp.sin(x) * 2, (square(),)),
        (lambda x, y: jax.nn.gelu(x @ y) @ y, (square(), square())),
        (lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME"), (square(2, 4), jnp.ones((8, 4, 3, 3)))),
        (lambda x: jax.nn.softmax(x).sum(0), (square(),)),
    ],
)
def test_without_loops_it_is_what_xla_counts(function, arguments):
    compiled = lowered(function, *arguments)
    ours, theirs = traffic(compiled.as_text()), compiled.cost_analysis()["bytes accessed"]
    assert ours == pytest.approx(theirs, rel=0.01)


def test_an_elementwise_function_reads_and_writes_once():
    assert traffic(lowered(lambda x: jnp.tanh(x) + x * x, square()).as_text()) == 2 * N * N * 4


@pytest.mark.parametrize("steps", [2, 5, 16])
def test_a_loop_has_the_traffic_of_its_body_as_often_as_it_runs(steps):
    def function(x, w):
        return jax.lax.scan(lambda c, v: (jnp.tanh(c @ v), c.sum()), x, w)

    def scanned(length):
        return traffic(lowered(function, square(), square(length)).as_text())

    first, second, third = scanned(steps), scanned(steps + 1), scanned(2 * steps + 1)
    body = second - first
    # the stacked weights are read slice by slice: they do not make a step dearer where there are more of them
    assert third - second == steps * body
    # at least both factors are read and the product is written, and a step makes no more than four arrays in all
    assert 3 * N * N * 4 < body < 12 * N * N * 4


@pytest.mark.parametrize(("first", "last"), [(0, 7), (3, 11), (-2, 1)])
def test_loops_are_counted_without_xla_s_word(first, last):
    def function(x):
        return jax.lax.fori_loop(first, last, lambda i, c: jnp.tanh(c @ c) + i, x)

    text = lowered(function, square()).as_text()
    assert "known_trip_count" in text
    unsaid = re.sub(r"known_trip_count", "something", text)
    assert traffic(unsaid) == traffic(text)
    assert unread_loops(unsaid) == unread_loops(text) == 0


def loop(limit="7", direction="LT", amount="1", first="0", operation="add"):
    more = f"""
%body (b: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {{
  %b = (s32[], f32[4,8]{{1,0}}) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  %x = f32[4,8]{{1,0}} get-tuple-element(%b), index=1
  %one = s32[] constant({amount})
  %next = s32[] {operation}(%i, %one)
  %y = f32[4,8]{{1,0}} tanh(%x)
  ROOT %t = (s32[], f32[4,8]{{1,0}}) tuple(%next, %y)
}}

%condition (d: (s32[], f32[4,8])) -> pred[] {{
  %d = (s32[], f32[4,8]{{1,0}}) parameter(0)
  %j = s32[] get-tuple-element(%d), index=0
  %last = s32[] constant({limit})
  ROOT %c = pred[] compare(%j, %last), direction={direction}
}}
"""
    return module(
        f"""
        %p = f32[4,8]{{1,0}} parameter(0)
        %zero = s32[] constant({first})
        %start = s32[] copy(%zero)
        %s = (s32[], f32[4,8]{{1,0}}) tuple(%start, %p)
        %w = (s32[], f32[4,8]{{1,0}}) while(%s), condition=%condition, body=%body
        ROOT %r = f32[4,8]{{1,0}} get-tuple-element(%w), index=1""",
        more=more,
    )


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ({}, range(7)),
        ({"direction": "LE"}, range(8)),
        ({"amount": "3"}, range(0, 7, 3)),
        ({"first": "5"}, range(5, 7)),
        ({"first": "9"}, range(9, 7)),
        ({"limit": "0", "direction": "GT", "first": "10", "amount": "-2"}, range(10, 0, -2)),
        ({"limit": "0", "direction": "GE", "first": "10", "operation": "subtract"}, range(10, -1, -1)),
    ],
)
def test_conditions_count_as_python_s_ranges(words, values):
    text = loop(**words)
    assert unread_loops(text) == 0
    copy, body = 2 * 4, 2 * 128 + 3 * 4
    assert traffic(text) == copy + len(values) * body


@pytest.mark.parametrize("words", [{"limit": "unknown"}, {"operation": "multiply"}, {"amount": "-1"}])
def test_a_loop_that_cannot_be_counted_counts_once_and_is_told(words):
    assert unread_loops(loop(**words)) == 1
    assert traffic(loop(**words)) == traffic(loop(limit="1"))


FUSIONS = """
%slicing (a: f32[100,8], i: s32[]) -> f32[8] {
  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %z = s32[] constant(0)
  %s = f32[1,8]{1,0} dynamic-slice(%a, %i, %z), dynamic_slice_sizes={1,8}
  ROOT %b = f32[8]{0} bitcast(%s)
}

%updating (a.1: f32[100,8], u: f32[8], i.1: s32[]) -> f32[100,8] {
  %a.1 = f32[100,8]{1,0} parameter(0)
  %u = f32[8]{0} parameter(1)
  %i.1 = s32[] parameter(2)
  %z.1 = s32[] constant(0)
  %n = f32[8]{0} negate(%u)
  %v = f32[1,8]{1,0} bitcast(%n)
  ROOT %d = f32[100,8]{1,0} dynamic-update-slice(%a.1, %v, %i.1, %z.1)
}

%both (a.2: f32[100,8], i.2: s32[]) -> f32[100,8] {
  %a.2 = f32[100,8]{1,0} parameter(0)
  %i.2 = s32[] parameter(1)
  %s.2 = f32[1,8]{1,0} dynamic-slice(%a.2, %i.2, %i.2), dynamic_slice_sizes={1,8}
  ROOT %t.2 = f32[100,8]{1,0} subtract(%a.2, %s.2)
}
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("f32[8]{0} fusion(%big, %i), kind=kLoop, calls=%slicing", 32 + 32 + 4),
        ("f32[100,8]{1,0} fusion(%big, %row, %i), kind=kLoop, calls=%updating", 32 + 32 + 4),
        ("f32[100,8]{1,0} fusion(%big, %i), kind=kLoop, calls=%both", 3200 + 3200 + 4),
        ("f32[1,8]{1,0} dynamic-slice(%big, %i, %i), dynamic_slice_sizes={1,8}", 32 + 32),
        ("f32[100,8]{1,0} dynamic-update-slice(%big, %row, %i, %i)", 32 + 32),
        ("f32[100,8]{1,0} copy(%big)", 3200 + 3200),
        ("f32[800]{0} bitcast(%big)", 0),
        ("(f32[100,8]{1,0}, f32[8]{0}) tuple(%big, %row)", 0),
        ('(f32[8]{0}, s8[4096]{0}) custom-call(%big), custom_call_target="__cublas$gemm"', 3200 + 32),
        ('f32[100,8]{1,0} custom-call(), custom_call_target="AllocateBuffer"', 0),
    ],
)
def test_slices_and_updates_count_not_the_arrays_they_are_of(line, expected):
    text = module(
        f"""
        %big = f32[100,8]{{1,0}} parameter(0)
        %row = f32[8]{{0}} parameter(1)
        %i = s32[] parameter(2)
        ROOT %r = {line}""",
        more=FUSIONS,
    )
    assert traffic(text) == expected


def test_pairs_read_at_their_start_and_write_at_their_end():
    pair = """
        %p = f32[16,128]{1,0:T(8,128)} parameter(0)
        %s = (f32[16,128]{1,0:T(8,128)S(1)}, f32[16,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)
        %d = f32[16,128]{1,0:T(8,128)S(1)} copy-done(%s)
        %s2 = ((f32[16,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%p)
        %d2 = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%s2)
        %s3 = (f32[16,128]{1,0:T(8,128)}, f32[16,128]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%d)
        ROOT %d3 = f32[16,128]{1,0:T(8,128)} copy-done(%s3)"""
    # to the chip, half of it once more, and back
    assert traffic(module(pair)) == 16 * 128 * 4 * 5 // 2


@pytest.mark.parametrize(
    ("array", "logical", "stored", "hbm"),
    [
        (Array("f32", (100, 8), "{1,0}"), 3200, 3200, 3200),
        (Array("bf16", (3, 5), "{1,0:T(8,128)(2,1)}"), 30, 8 * 128 * 2, 8 * 128 * 2),
        (Array("f32", (3, 130, 5), "{1,2,0:T(8,128)}"), 7800, 3 * 8 * 256 * 4, 3 * 8 * 256 * 4),
        (Array("s32", (), "{:T(128)}"), 4, 512, 512),
        (Array("f32", (8, 128), "{1,0:T(8,128)S(1)}"), 4096, 4096, 0),
        (Array("f32", (8, 128), "{1,0:S(1)}"), 4096, 4096, 4096),  # a GPU's, registered for exchange
        (Array("f32", (8, 128), "{1,0:S(5)}"), 4096, 4096, 0),  # on the host
        (Array("s4", (5,), "{0}"), 3, 3, 3),
        (Array("pred", (5,), "{0}"), 5, 5, 5),
        (Array("f8e4m3fn", (5,), "{0}"), 5, 5, 5),
        (Array("token", (), ""), 0, 0, 0),
    ],
)
def test_bytes_of_arrays(array, logical, stored, hbm):
    assert (array.bytes, array.stored, array.hbm) == (logical, stored, hbm)


def test_calls_and_conditionals_are_walked():
    more = """
%called (a: f32[4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  ROOT %b = f32[4,8]{1,0} tanh(%a)
}
"""
    for line, times in (
        ("call(%p), to_apply=%called", 1),
        ("conditional(%k, %p, %p), branch_computations={%called, %called}", 2),
        ("conditional(%k, %p, %p), true_computation=%called, false_computation=%called", 2),
    ):
        text = module(f"%p = f32[4,8]{{1,0}} parameter(0)\n%k = s32[] parameter(1)\nROOT %r = f32[4,8]{{1,0}} {line}",
                      more=more)  # fmt: skip
        assert traffic(text) == times * 2 * 128


def test_the_largest_arrays_are_those_that_are_written():
    def function(x, y):
        return jnp.tanh(x @ y), jnp.concatenate([x, y])

    found = largest(lowered(function, square(), square()).as_text(), 3)
    assert found[0].shape == (2 * N, N)
    assert [one.bytes for one in found] == sorted((one.bytes for one in found), reverse=True)
    assert found[1].shape == (N, N)
    assert all(one.dtype == "f32" and one.count > 0 for one in found)


def test_arrays_inside_of_fusions_and_updated_in_place_are_not_materialised():
    text = module(
        """
        %big = f32[100,8]{1,0} parameter(0)
        %row = f32[8]{0} parameter(1)
        %i = s32[] parameter(2)
        %f = f32[100,8]{1,0} fusion(%big, %row, %i), kind=kLoop, calls=%updating
        ROOT %g = f32[8]{0} fusion(%f, %i), kind=kLoop, calls=%slicing, metadata={op_name="jit(f)/row"}""",
        more=FUSIONS,
    )
    (only,) = largest(text)
    assert (only.shape, only.dtype, only.bytes, only.count) == ((8,), "f32", 32, 1)
    assert (only.opcode, only.source) == ("fusion", "jit(f)/row")


def test_kernels_are_counted_by_target():
    text = module("""
        %p = f32[4,8]{1,0} parameter(0)
        %a = (f32[4,8]{1,0}, u8[0]{0}) custom-call(%p), custom_call_target="__cudnn$fmhaSoftmax", backend_config={}
        %b = (f32[4,8]{1,0}, u8[0]{0}) custom-call(%p), custom_call_target="__cudnn$fmhaSoftmax"
        ROOT %c = f32[4,8]{1,0} custom-call(%p), custom_call_target="tpu_custom_call\"""")
    assert kernels(text) == {"__cudnn$fmhaSoftmax": 2, "tpu_custom_call": 1}


def test_programs_are_read_whole():
    compiled = lowered(lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), c.sum()), x, length=3), square())
    program = parse(compiled.as_text())
    assert program.entry in program.computations
    assert program.devices == 1
    for computation in program.computations.values():
        assert computation.root in computation.instructions
        for instruction in computation.instructions.values():
            assert set(instruction.operands) <= set(computation.instructions)
            assert instruction.results


def test_an_attribute_with_lines_of_its_own_ends_no_computation():
    """As Pallas writes its kernels' metadata on TPUs."""
    text = """HloModule m, num_partitions=1

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %kernel = f32[8]{0} custom-call(%a), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 512}"
}}, metadata={op_name="kernel"}
  ROOT %after = f32[8]{0} negate(%kernel)
}
"""
    program = parse(text)
    assert list(program.computations[program.entry].instructions) == ["a", "kernel", "after"]
    assert traffic(text) == 4 * 32
