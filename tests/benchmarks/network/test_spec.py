from __future__ import annotations

import pytest

from dynamo_genie.bench.network.spec import NetworkShape, parse_network
from dynamo_genie.errors import OptionError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10gbit,0.1ms", NetworkShape("10gbit,0.1ms", 10e9, 0.1e-3)),
        (" 1Gbit ", NetworkShape("1gbit", 1e9, 0.0)),
        ("500us", NetworkShape("500us", None, 500e-6)),
        ("100mbit, 5ms, 0.5%", NetworkShape("100mbit,5ms,0.5%", 100e6, 5e-3, 0.005)),
        ("loopback", NetworkShape("loopback", None, 0.0)),
    ],
)
def test_a_network_is_read_from_text(text: str, expected: NetworkShape) -> None:
    found = parse_network(text)
    assert found.name == expected.name
    assert found.shaped == expected.shaped
    assert found.rate_bits_s == expected.rate_bits_s
    assert found.delay_s == pytest.approx(expected.delay_s)
    assert found.loss == pytest.approx(expected.loss)


@pytest.mark.parametrize("text", ["", "10", "10gbit,1gbit", "fast", "10gbit;1ms", "-1gbit", "0gbit", "100%", "1ms,"])
def test_what_is_no_network_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(OptionError, match="write RATE,DELAY,LOSS"):
        parse_network(text)
