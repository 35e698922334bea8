"""The portable Program: it survives the wire unchanged, and nothing malformed gets through."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_genie.errors import ProtocolError
from dynamo_genie.runtime.wire import program as p
from dynamo_genie.runtime.wire.operators import ATEN, OPERATORS
from dynamo_genie.runtime.wire.tensor import DTYPES, InlineTensor, TensorSpec

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.builds(p.Ref, st.just(0)),
    st.builds(p.ComplexNumber, st.floats(allow_nan=False), st.floats(allow_nan=False)),
    st.builds(p.DtypeName, st.sampled_from(DTYPES)),
    st.just(p.LayoutName("strided")),
    st.just(p.MemoryFormatName("channels_last")),
)
arguments = leaves | st.builds(p.Items, st.lists(leaves, max_size=3).map(tuple))
keywords = st.dictionaries(st.text("abc", min_size=1, max_size=4), arguments, max_size=3)
nodes = st.builds(
    p.Node,
    st.sampled_from(sorted(OPERATORS)),
    st.lists(arguments, max_size=4).map(tuple),
    keywords.map(lambda named: tuple(sorted(named.items(), key=lambda pair: pair[0]))),
)
constants = st.just(InlineTensor(TensorSpec("float32", (1,), (1,)), bytes(4)))
programs = st.builds(
    p.Program,
    version=st.just(p.PROGRAM_VERSION),
    inputs=st.lists(st.builds(p.ScalarInput, st.sampled_from(["int", "float", "bool"])), max_size=3).map(
        lambda scalars: (p.TensorInput("float32", 2), *scalars)
    ),
    constants=st.lists(constants, max_size=2).map(tuple),
    nodes=st.lists(nodes, max_size=5).map(tuple),
    outputs=st.lists(st.none() | st.integers(-5, 5) | st.just(p.Ref(0)), max_size=3).map(tuple),
    mutated_inputs=st.sampled_from([(), (0,)]),
    random=st.booleans(),
)


def program_of(*nodes: p.Node, outputs: tuple = (), mutated: tuple = (), version: int = p.PROGRAM_VERSION) -> p.Program:
    return p.Program(version, (p.TensorInput(), p.ScalarInput("int")), (), nodes, outputs, mutated)


@given(programs)
def test_a_program_survives_the_wire(program: p.Program) -> None:
    encoded = p.encode_program(program)
    assert p.decode_program(encoded) == program
    assert p.encode_program(p.decode_program(encoded)) == encoded


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_as_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        p.decode_program(data)


@given(programs, st.data())
def test_damaged_bytes_decode_to_a_valid_program_or_a_protocol_error(program: p.Program, data: st.DataObject) -> None:
    encoded = bytearray(p.encode_program(program))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = p.decode_program(bytes(encoded))
    except ProtocolError:
        return
    p.validate_program(decoded)


def test_numbers_keep_their_type_and_their_sign() -> None:
    node = p.Node("aten.add.Tensor", (1, 1.0, True, -0.0, math.inf))
    again = p.decode_program(p.encode_program(program_of(node))).nodes[0]
    assert [type(argument) for argument in again.args] == [int, float, bool, float, float]
    assert math.copysign(1, again.args[3]) == -1


def test_equal_programs_share_a_digest_and_different_ones_do_not() -> None:
    one = p.program_digest(p.encode_program(program_of(p.Node("aten.abs.default", (p.Ref(0),)))))
    same = p.program_digest(p.encode_program(program_of(p.Node("aten.abs.default", (p.Ref(0),)))))
    other = p.program_digest(p.encode_program(program_of(p.Node("aten.neg.default", (p.Ref(0),)))))
    assert one == same != other
    assert len(one) == 32


deep: p.Argument = 1
for _ in range(p.MAX_NESTING + 1):
    deep = p.Items((deep,))

MALFORMED = {
    "an operator that is not in the table": program_of(p.Node("aten.set_.source_Tensor", (p.Ref(0),))),
    "an attribute walk": program_of(p.Node("torch.os.system", ("true",))),
    "a reference to itself": program_of(p.Node("aten.abs.default", (p.Ref(2),))),
    "a reference forward, in a list": program_of(p.Node("aten.cat.default", (p.Items((p.Ref(9),)),))),
    "a reference forward, by keyword": program_of(p.Node("aten.add.Tensor", (), (("other", p.Ref(5)),))),
    "an output that does not exist": program_of(outputs=(p.Ref(2),)),
    "an output that is text": program_of(outputs=("text",)),
    "lists nested too deep": program_of(p.Node("aten.cat.default", (deep,))),
    "keywords out of order": program_of(p.Node("aten.abs.default", (), (("b", 1), ("a", 1)))),
    "a keyword twice": program_of(p.Node("aten.abs.default", (), (("a", 1), ("a", 1)))),
    "a mutated input that is a number": program_of(mutated=(1,)),
    "a mutated input that does not exist": program_of(mutated=(7,)),
    "another version": program_of(version=99),
}


@pytest.mark.parametrize("program", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_program_is_refused(program: p.Program) -> None:
    with pytest.raises(ProtocolError):
        p.validate_program(program)
    with pytest.raises(ProtocolError):
        p.decode_program(p.encode_program(program))


def test_a_bomb_of_nested_lists_is_refused() -> None:
    bomb = b"\x92\xa1i\x91" * 100_000 + b"\xc0"
    whole = msgspec.msgpack.encode([1, [], []])[:-1] + b"\x91\x92\xa1x\x91" + bomb
    with pytest.raises(ProtocolError):
        p.decode_program(whole)


def test_the_table_holds_nothing_that_reaches_past_tensors() -> None:
    forbidden = ("set_", "resize", "from_file", "record_stream", "pin", "mkldnn", "cudnn", "_for_cpu", "storage.")
    names = {key.split(".")[1] for key in ATEN}
    assert not [name for name in names if name.startswith(forbidden) or name.endswith("_for_cpu")]
    assert len(ATEN) == len(set(ATEN))
