"""What a program sends and holds, read from its text: worked by hand on small programs written out here."""

import pytest

from r1jax import hlo

# Two layers in a loop that counts to 28, one of them inside a loop of 4 steps; a loop that ends when it likes.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%ring (state: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %state = (s32[], bf16[4,8]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %part = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %collective-permute-start = (bf16[4,8]{1,0}, bf16[4,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%part), channel_id=1, source_target_pairs={{0,1},{1,0}}, metadata={op_name="jit(step)/while/body/layer/ffn/dot_general"}
  %collective-permute-done = bf16[4,8]{1,0} collective-permute-done(%collective-permute-start)
  ROOT %next = (s32[], bf16[4,8]) tuple(%i, %collective-permute-done)
}

%ring_condition (state: (s32[], bf16[4,8])) -> pred[] {
  %state.1 = (s32[], bf16[4,8]) parameter(0)
  %four = s32[] constant(4)
  %i = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%i, %four), direction=LT
}

%gather_step (g: bf16[2,8]) -> bf16[16,8] {
  %g = bf16[2,8] parameter(0)
  ROOT %all-gather.1 = bf16[16,8]{1,0} all-gather(%g), channel_id=2, replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_1'}, dimensions={0}, metadata={op_name="jit(step)/while/body/layer/attention/convert"}
}

%async_collective_fusion.1 (h: bf16[2,8]) -> bf16[16,8] {
  %h = bf16[2,8] parameter(0)
  ROOT %all-gather.2 = bf16[16,8]{1,0} all-gather(%h), channel_id=2, replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_1'}, dimensions={0}
}

%gather_end (k: bf16[2,8]) -> bf16[16,8] {
  %k = bf16[2,8] parameter(0)
  ROOT %all-gather.3 = bf16[16,8]{1,0} all-gather(%k), channel_id=2, replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_1'}, dimensions={0}
}

%layer (layer_state: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %layer_state = (s32[], bf16[4,8]) parameter(0)
  %async-collective-start = (bf16[2,8], bf16[16,8]) fusion(%x), kind=kCustom, calls=%gather_step
  %inside = (s32[], bf16[4,8]) while(%layer_state), condition=%ring_condition, body=%ring
  %meanwhile = bf16[16,8] fusion(%y), kind=kLoop, calls=%async_collective_fusion.1
  %async-collective-done = bf16[16,8] fusion(%z), kind=kCustom, calls=%gather_end
  ROOT %out = (s32[], bf16[4,8]) tuple(%j, %w)
}

%layers_condition (layers_state: (s32[], bf16[4,8])) -> pred[] {
  %layers_state = (s32[], bf16[4,8]) parameter(0)
  %count = s32[]{:T(128)} constant(28)
  %j = s32[] get-tuple-element(%layers_state), index=0
  ROOT %less.1 = pred[] compare(%j, %count), direction=LT
}

%decode (d: (s32[], f32[6])) -> (s32[], f32[6]) {
  %d = (s32[], f32[6]) parameter(0)
  %all-reduce.5 = f32[6]{0:T(128)} all-reduce(%v), channel_id=5, replica_groups=[2,8]<=[16], to_apply=%add
  ROOT %o = (s32[], f32[6]) tuple(%n, %all-reduce.5)
}

%going_on (e: (s32[], f32[6])) -> pred[] {
  %e = (s32[], f32[6]) parameter(0)
  %most = s32[] constant(100)
  %at = s32[] get-tuple-element(%e), index=0
  %below = pred[] compare(%at, %most), direction=LT
  ROOT %both = pred[] and(%below, %not_done)
}

ENTRY %main (p: bf16[2,8]) -> f32[] {
  %p = bf16[2,8]{1,0} parameter(0), metadata={op_name="params['gate_EDF']"}
  %layers = (s32[], bf16[4,8]) while(%start), condition=%layers_condition, body=%layer
  %tokens = (s32[], f32[6]) while(%begin), condition=%going_on, body=%decode
  %reduce-scatter = f32[3,4]{1,0} reduce-scatter(%grad), channel_id=6, replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add
  %all-reduce = (f32[2], bf16[4]) all-reduce(%u, %t), channel_id=7, replica_groups=mesh['axis_0'=2,'axis_1'=8] {'axis_0','axis_1':(2)4}, to_apply=%add
  ROOT %done = f32[] constant(0)
}
"""  # noqa: E501


def found(kind: str) -> list[hlo.Collective]:
    return [x for x in hlo.collectives(PROGRAM, 8) if x.kind == kind]


def test_a_ring_inside_a_layer_is_counted_for_each_step_of_each_layer():
    (ring,) = found("collective-permute")
    assert (ring.shape, ring.times, ring.bytes) == ("bf16[4,8]", 28 * 4, 28 * 4 * 4 * 8 * 2)
    assert not ring.open_ended and ring.source.endswith("layer/ffn/dot_general")


def test_a_gather_that_is_spread_over_other_work_counts_once_a_layer():
    (gather,) = found("all-gather")
    assert (gather.group, gather.times, gather.bytes) == (8, 28, 28 * (16 * 8 * 2 * 7 // 8))


def test_a_loop_of_unknown_length_counts_one_pass_and_says_so():
    loop, both = sorted(found("all-reduce"), key=lambda x: -x.open_ended)
    assert loop.open_ended and (loop.group, loop.times, loop.bytes) == (8, 1, 2 * 6 * 4 * 7 // 8)
    assert not both.open_ended and both.shape == "2 x f32[2]"


def test_an_axis_may_be_split_and_a_tuple_is_the_sum_of_its_arrays():
    both = next(x for x in found("all-reduce") if not x.open_ended)
    assert both.group == 2 * 4 and both.bytes == int(2 * 7 / 8 * (2 * 4 + 4 * 2))


def test_a_reduce_scatter_sends_what_it_takes_not_what_it_gives():
    (scatter,) = found("reduce-scatter")
    assert (scatter.group, scatter.bytes) == (4, 3 * (3 * 4 * 4))


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", [[0, 4]]),
        ("replica_groups=mesh['a'=2,'b'=8] {'a','b':(2)4}", [[0, 1, 2, 3, 8, 9, 10, 11]]),
        ("replica_groups=mesh['b'=8] {'b':(1)2}", [[0, 4]]),
        ("replica_groups=[2,4]<=[8]", [[0, 1, 2, 3]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [[0, 4]]),
        ("replica_groups={{0,5},{1,4}}", [[0, 5]]),
        ("source_target_pairs={{0,1},{1,0}}, channel_id=4", [[0, 1], [1, 0]]),
    ],
)
def test_groups_as_they_are_written(written, groups):
    assert hlo._groups(f"%x), channel_id=1, {written}, dimensions={{0}}") == groups


def test_what_crosses_slices():
    crossing = {x.kind for x in hlo.collectives(PROGRAM, 8) if x.crosses}
    assert crossing == {"all-reduce"}, "of devices 0, 1, 2, 3, 8, ..."
    assert {x.kind for x in hlo.collectives(PROGRAM, 1)} == {x.kind for x in hlo.collectives(PROGRAM, 1) if x.crosses}


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("bf16[2,3]{1,0:T(8,128)(2,1)S(1)}", 12),
        ("(f32[4], s8[8])", 24),
        ("s4[8]", 4),
        ("f8e4m3fn[8]", 8),
        ("pred[]", 1),
        ("token[]", 0),
    ],
)
def test_bytes_of_a_shape(shape, size):
    assert hlo.bytes_of(shape) == size


def test_the_largest_arrays_of_main_memory():
    assignment = """\
BufferAssignment:
allocation 0: size 4096, page 0, parameter 0, shape |bf16[2,8]| at ShapeIndex {}:
 value: <9 p @0> (size=4096,offset=0): bf16[2,8]{1,0:T(8,128)(2,1)}
allocation 1: size 99999, color 1, page 0:
 value: <10 fast @1> (size=99999,offset=0): f32[9]{0:S(1)}
allocation 2: size 9000, page 0, preallocated-temp:
 value: <11 all-reduce.5 @0> (size=8192,offset=0): f32[6]{0:T(128)}
 value: <12 small @0> (size=512,offset=0): f32[1]{0}
 value: <13 both{} @0> (size=8192,offset=0): (f32[3], f32[3])
"""
    first, second = hlo.buffers(assignment, PROGRAM, least=1024)
    assert (first.bytes, first.kind, first.shape, first.source) == (8192, "temporary", "f32[6]", "all-reduce.5")
    assert (second.bytes, second.kind, second.source) == (4096, "argument", "params['gate_EDF']")
