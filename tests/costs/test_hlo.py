"""What is read out of compiled programs: known work, traffic and collectives, loops in full."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from pods import needs_libtpu, tpu_devices, uncached

from imagen_jax.costs import hlo_costs
from imagen_jax.costs.collectives import Traffic, collectives
from imagen_jax.costs.hlo import Program

CHIPS, TURNS = 4, 5
X = jax.ShapeDtypeStruct((512, 256), jnp.float32)
BYTES = 512 * 256 * 4


@pytest.fixture(autouse=True, scope="module")
def no_cache():
    with uncached():
        yield


def cpu_devices():
    return jax.devices()[:CHIPS]


@pytest.fixture(params=[cpu_devices, pytest.param(tpu_devices, marks=needs_libtpu)])
def mesh(request):
    return Mesh(request.param(), "x")


def compiled(function, mesh, *specs, out=None, arguments=None):
    """The program of `function` over the mesh, its arguments X unless given."""
    arguments = [
        jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
        for x, spec in zip(arguments or [X] * len(specs), specs, strict=True)
    ]
    out = None if out is None else NamedSharding(mesh, out)
    return jax.jit(function, out_shardings=out).lower(*arguments).compile()


def sent(function, mesh, *specs, **kwargs):
    return collectives(Program(compiled(function, mesh, *specs, **kwargs).as_text()), CHIPS)


def scattered(x, axis="x"):
    return jax.lax.psum_scatter(x, axis, scatter_dimension=0, tiled=True)


def mapped(function, mesh, ins, outs):
    return jax.shard_map(function, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False)


def test_an_all_gather(mesh):
    expected = {"all-gather": Traffic(count=1, bytes=BYTES, wire_bytes=BYTES * 3 / 4)}
    assert sent(lambda x: x * 2, mesh, P("x"), out=P()) == expected


def test_a_reduce_scatter(mesh):
    function = mapped(scattered, mesh, P(None), P("x"))
    expected = {"reduce-scatter": Traffic(count=1, bytes=BYTES, wire_bytes=BYTES * 3 / 4)}
    assert sent(function, mesh, P()) == expected


def test_an_all_reduce(mesh):
    function = mapped(lambda x: jax.lax.psum(x, "x"), mesh, P(None), P(None))
    expected = {"all-reduce": Traffic(count=1, bytes=BYTES, wire_bytes=BYTES * 3 / 2)}
    assert sent(function, mesh, P()) == expected


def test_a_permutation_and_an_all_to_all(mesh):
    shifts = [(i, (i + 1) % CHIPS) for i in range(CHIPS)]
    function = mapped(lambda x: jax.lax.ppermute(x, "x", shifts), mesh, P("x"), P("x"))
    part = BYTES // CHIPS
    expected = {"collective-permute": Traffic(count=1, bytes=part, wire_bytes=float(part))}
    assert sent(function, mesh, P("x")) == expected
    turned = sent(lambda x: x * 2, mesh, P("x"), out=P(None, "x"))
    assert turned == {"all-to-all": Traffic(count=1, bytes=part, wire_bytes=part * 3 / 4)}


@pytest.mark.parametrize("kind", ["all-gather", "all-reduce", "reduce-scatter"])
def test_in_a_loop_each_turn_counts(kind, mesh):
    def turn(x, w):
        if kind == "all-gather":
            return jnp.tanh(x @ jax.lax.all_gather(w, "x", tiled=True)), None
        if kind == "all-reduce":
            return jnp.tanh(jax.lax.psum(x @ w, "x")), None
        return jnp.tanh(x + jnp.tile(scattered(x @ w), (CHIPS, 1))), None

    rows = 256 // CHIPS if kind == "all-gather" else 256
    weights = jax.ShapeDtypeStruct((TURNS, 256, 256), jnp.float32)
    spec = P(None, "x") if rows < 256 else P()
    function = mapped(lambda x, w: jax.lax.scan(turn, x, w)[0], mesh, (P(None), spec), P(None))
    found = sent(function, mesh, P(), spec, arguments=[X, weights])
    assert list(found) == [kind]
    each = 256 * 256 * 4 if kind == "all-gather" else BYTES
    # A TPU may round what it sends to bfloat16.
    assert found[kind].count == TURNS and found[kind].bytes in (TURNS * each, TURNS * each // 2)


def test_groups_of_chips(mesh):
    mesh = Mesh(mesh.devices.reshape(2, 2), ("a", "b"))
    for axis in ("a", "b"):
        found = sent(lambda x: x * 2, mesh, P(axis), out=P())
        assert found["all-gather"].wire_bytes == BYTES / 2


def work(function, mesh, *arguments):
    executable = compiled(function, mesh, *[P()] * len(arguments), arguments=arguments)
    return hlo_costs.flops(Program(executable.as_text())), executable


def conv(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


PICTURES = jax.ShapeDtypeStruct((8, 32, 32, 128), jnp.bfloat16)
KERNEL = jax.ShapeDtypeStruct((3, 3, 128, 256), jnp.bfloat16)
QUERIES = jax.ShapeDtypeStruct((2, 64, 4, 128), jnp.bfloat16)


@needs_libtpu
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (lambda q, k: jnp.einsum("BQNH,BKNH->BNQK", q, k), (QUERIES, QUERIES)),
        (conv, (PICTURES, KERNEL)),
        (jax.grad(lambda k, x: jnp.sum(conv(x, k) ** 2)), (KERNEL, PICTURES)),
        (jax.grad(lambda x, k: jnp.sum(conv(x, k) ** 2)), (PICTURES, KERNEL)),
    ],
)
def test_work_on_a_tpu_is_near_the_compilers_own_count(function, arguments):
    found, executable = work(function, Mesh(tpu_devices(), "x"), *arguments)
    # The compiler also counts what is elementwise.
    assert 0.97 < found / executable.cost_analysis()["flops"] <= 1


BY_HAND = """HloModule by_hand

%own (stack: f32[8,16,32], turn: s32[]) -> f32[16,32] {
  %stack = f32[8,16,32]{2,1,0} parameter(0)
  %turn = s32[] parameter(1)
  %zero = s32[] constant(0)
  %cut = f32[1,16,32]{2,1,0} dynamic-slice(%stack, %turn, %zero, %zero)
  ROOT %row = f32[16,32]{1,0} bitcast(%cut)
}

%body (state: (s32[], f32[4,16], f32[8,16,32], f32[1,4,4,2], f32[3,3,2,8])) -> (s32[]) {
  %state = (s32[], f32[4,16], f32[8,16,32], f32[1,4,4,2], f32[3,3,2,8]) parameter(0)
  %turn = s32[] get-tuple-element(%state), index=0
  %x = f32[4,16]{1,0} get-tuple-element(%state), index=1
  %stack = f32[8,16,32]{2,1,0} get-tuple-element(%state), index=2
  %picture = f32[1,4,4,2]{3,2,1,0} get-tuple-element(%state), index=3
  %kernel = f32[3,3,2,8]{3,2,1,0} get-tuple-element(%state), index=4
  %w = f32[16,32]{1,0} fusion(%stack, %turn), kind=kLoop, calls=%own
  %y = f32[4,32]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %z = f32[1,4,4,8]{3,2,1,0} convolution(%picture, %kernel), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_01io->b01f
  ROOT %next = (s32[]) tuple(%turn)
}

%more (state: (s32[])) -> pred[] {
  %state = (s32[]) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (state: (s32[])) -> (s32[]) {
  %state = (s32[]) parameter(0)
  ROOT %loop = (s32[]) while(%state), condition=%more, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_work_and_traffic_of_a_program_are_those_counted_by_hand():
    """Five turns; of the 3 taps on an axis of 4 all but two fall on the picture."""
    program = Program(BY_HAND)
    dot, convolution = 2 * (4 * 32) * 16, 2 * 8 * 2 * (4 * 3 - 2) ** 2
    assert hlo_costs.flops(program) == 5 * (dot + convolution)
    own = 16 * 32  # Read out of the stack, at a place that is read too, and written.
    moved = (own + 1 + own) + (4 * 16 + own + 4 * 32) + (4 * 4 * 2 + 3 * 3 * 2 * 8 + 4 * 4 * 8)
    assert hlo_costs.hbm_bytes(program) == 5 * 4 * moved


SLICES = """HloModule slices

ENTRY %main (stack: f32[8,16,32], turn: s32[]) -> f32[2,16,32] {
  %stack = f32[8,16,32]{2,1,0} parameter(0)
  %turn = s32[] parameter(1)
  %zero = s32[] constant(0)
  %start = ((f32[8,16,32]{2,1,0}), f32[2,16,32]{2,1,0:S(1)}, s32[]{:S(2)}) slice-start(%stack), \
slice={[0:2], [0:16], [0:32]}
  %done = f32[2,16,32]{2,1,0:S(1)} slice-done(%start)
  %row = f32[1,16,32]{2,1,0:S(1)} dynamic-slice(%stack, %turn, %zero, %zero)
  %inner = f32[1,16,32]{2,1,0:S(1)} slice(%done), slice={[0:1], [0:16], [0:32]}
  ROOT %kept = f32[2,16,32]{2,1,0} copy(%done)
}
"""


def test_of_what_is_sliced_the_slices_move_and_vector_memory_is_free():
    # Two rows of the stack begin their way, one is cut at a place, none in vector memory; the copy
    # writes two.
    assert hlo_costs.hbm_bytes(Program(SLICES)) == (2 + 1 + 0 + 2) * 16 * 32 * 4


IN_OTHER_WORDS = """HloModule in_other_words

%as_it_is (w: f32[512]) -> f32[16,32] {
  %w = f32[512]{0} parameter(0)
  ROOT %matrix = f32[16,32]{1,0} bitcast(%w)
}

%product (x: f32[4,16], w: f32[512]) -> f32[4,32] {
  %x = f32[4,16]{1,0} parameter(0)
  %w = f32[512]{0} parameter(1)
  %matrix = f32[16,32]{1,0} fusion(%w), kind=kLoop, calls=%as_it_is
  ROOT %y = f32[4,32]{1,0} dot(%x, %matrix), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: f32[4,16], w: f32[512]) -> f32[4,32] {
  %x = f32[4,16]{1,0} parameter(0)
  %w = f32[512]{0} parameter(1)
  ROOT %y = f32[4,32]{1,0} fusion(%x, %w), kind=kOutput, calls=%product
}
"""


def test_what_a_fusion_hands_on_in_other_words_is_read_by_who_takes_it():
    assert hlo_costs.hbm_bytes(Program(IN_OTHER_WORDS)) == (4 * 16 + 16 * 32 + 4 * 32) * 4


def scan_of(length):
    return lambda x, w: jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length)[0]


def test_work_and_traffic_of_a_loop_grow_with_its_length(mesh):
    x = jax.ShapeDtypeStruct((8192, 8192), jnp.float32)  # More than vector memory holds.
    found = {n: work(scan_of(n), mesh, x, x) for n in (3, 12)}
    if mesh.devices.flat[0].platform == "tpu":
        assert {n: flops for n, (flops, _) in found.items()} == {n: n * 2 * 8192**3 for n in found}
        traffic = {n: hlo_costs.hbm_bytes(Program(e.as_text())) for n, (_, e) in found.items()}
        # Of each turn: x and w read, the latter perhaps in bfloat16, and x written; and a copy of x
        # perhaps, which is read and written.
        assert 2.5 <= (traffic[12] - traffic[3]) / 9 / (4 * x.size) <= 5
    for length, (_, executable) in found.items():
        program = Program(executable.as_text())
        loops = [run for run in program.runs() if run.instruction.opcode == "while"]
        turns = [program.trip_count(run.computation, run.instruction) for run in loops]
        assert turns == [length] and not program.unknown_loops


def test_a_loop_that_does_not_say_its_length_is_reported():
    function = lambda x: jax.lax.while_loop(lambda x: jnp.sum(x) < 1e6, lambda x: x + 1, x)  # noqa: E731
    program = Program(compiled(function, Mesh(cpu_devices(), "x"), P()).as_text())
    list(program.runs())
    assert len(program.unknown_loops) == 1


@needs_libtpu
def test_of_stacked_weights_a_turn_reads_its_own():
    """Not the whole stack: that would count 64 times what is read."""
    weights = jax.ShapeDtypeStruct((64, 1024, 1024), jnp.float32)
    x = jax.ShapeDtypeStruct((8, 1024), jnp.float32)
    function = lambda x, w: jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]  # noqa: E731
    executable = compiled(function, Mesh(tpu_devices(), "x"), P(), P(), arguments=[x, weights])
    traffic = hlo_costs.hbm_bytes(Program(executable.as_text()))
    assert 0.95 < traffic / (weights.size * 4) < 2.1
