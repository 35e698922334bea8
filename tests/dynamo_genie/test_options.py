from __future__ import annotations

from pathlib import Path

import pytest

from dynamo_genie.errors import OptionError
from dynamo_genie.options import LinkSpeed, Options, resolve_options


def test_defaults() -> None:
    assert resolve_options(None, {}) == Options((), None, 30.0, 600.0, None)


def test_options_beat_the_environment_and_the_environment_beats_the_default() -> None:
    environ = {"GENIE_DAEMONS": "tcp://a:1", "GENIE_CONNECT_TIMEOUT_S": "7"}
    options = resolve_options({"daemons": "tcp://b:2"}, environ)
    assert (options.daemons, options.connect_timeout_s, options.request_timeout_s) == (("tcp://b:2",), 7.0, 600.0)


@pytest.mark.parametrize("value", ["tcp://a:1", ["tcp://a:1"], ("tcp://a:1",), " tcp://a:1 ,"])
def test_one_daemon_in_any_form(value: object) -> None:
    assert resolve_options({"daemons": value}, {}).daemons == ("tcp://a:1",)


@pytest.mark.parametrize("value", [["tcp://a:1", "tcp://b:1"], "tcp://a:1,tcp://b:1"])
def test_several_daemons_keep_their_order(value: object) -> None:
    assert resolve_options({"daemons": value}, {}).daemons == ("tcp://a:1", "tcp://b:1")


def test_pieces_are_on_and_exact_unless_option_or_environment_says_otherwise() -> None:
    default, told, given = (
        resolve_options(None, {}),
        resolve_options(None, {"GENIE_PIPELINE": "off", "GENIE_EXACT": "no"}),
        resolve_options({"pipeline": "auto", "exact": True}, {"GENIE_PIPELINE": "off", "GENIE_EXACT": "0"}),
    )
    assert [(each.pipeline, each.exact) for each in (default, told, given)] == [
        ("auto", True), ("off", False), ("auto", True),
    ]  # fmt: skip


@pytest.mark.parametrize(("variable", "value"), [("GENIE_PIPELINE", "on"), ("GENIE_EXACT", "nearly")])
def test_a_bad_value_in_the_environment_names_the_variable(variable: str, value: str) -> None:
    with pytest.raises(OptionError, match=f"{variable} must be .*{value!r}"):
        resolve_options(None, {variable: value})


def test_links_are_read_from_text() -> None:
    [first, second] = resolve_options(
        None, {"GENIE_LINKS": "client~tcp://a:1=0.001,1e9; tcp://a:1~tcp://b:1=0,2e9"}
    ).links
    assert first == LinkSpeed(frozenset({"client", "tcp://a:1"}), 0.001, 1e9)
    assert second == LinkSpeed(frozenset({"tcp://a:1", "tcp://b:1"}), 0.0, 2e9)


def test_an_unknown_option_names_the_known_ones_and_the_likely_one() -> None:
    with pytest.raises(OptionError) as caught:
        resolve_options({"deamons": "tcp://a:1"}, {})
    text = str(caught.value)
    assert text.startswith("unknown option 'deamons'. Did you mean 'daemons'? Known: ")
    for name in ("daemons", "key_file", "connect_timeout_s", "request_timeout_s", "progress"):
        assert name in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("daemons", 7),
        ("daemons", [7]),
        ("daemons", "gpu-box:7777"),
        ("key_file", 7),
        ("key_file", ""),
        ("connect_timeout_s", 0),
        ("connect_timeout_s", -1),
        ("connect_timeout_s", float("inf")),
        ("connect_timeout_s", float("nan")),
        ("connect_timeout_s", True),
        ("request_timeout_s", "soon"),
        ("daemons", ["tcp://a:1", "tcp://a:1"]),
        ("daemons", ["tcp://a:1", "tcp://a:1#0"]),
        ("daemons", "tcp://a:1#first"),
        ("placement", "clever"),
        ("placement_seed", "one"),
        ("errors", "soon"),
        ("links", "client~client=0,1"),
        ("links", "client~tcp://a:1=0,0"),
        ("links", "client~tcp://a:1=fast"),
        ("debug_dir", 7),
        ("progress", "perhaps"),
        ("progress", 1.5),
        ("pipeline", "on"),
        ("pipeline", True),
        ("exact", "nearly"),
        ("exact", None),
        ("exact", 1),
    ],
)
def test_a_bad_value_names_option_and_value(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=name) as caught:
        resolve_options({name: value}, {})
    assert str(value) in str(caught.value) or value[0] in str(caught.value)  # type: ignore[index]


@pytest.mark.parametrize(
    ("daemons", "several"),
    [
        (None, False),
        ("tcp://a:1", False),
        ("tcp://a:1#3", False),
        ("tcp://a:1#*", True),
        ("tcp://a:1,tcp://a:1#1", True),
    ],
)
def test_a_graph_may_be_spread_over_daemons_and_over_devices_of_one(daemons: str | None, several: int) -> None:
    assert resolve_options({"daemons": daemons} if daemons else {}, {}).several == several


def test_a_bad_variable_is_named_as_such() -> None:
    with pytest.raises(OptionError, match="GENIE_REQUEST_TIMEOUT_S"):
        resolve_options(None, {"GENIE_REQUEST_TIMEOUT_S": "soon"})


@pytest.mark.parametrize(("text", "value"), [("1", True), ("no", False), ("AUTO", None), ("", None)])
def test_progress_from_the_environment(text: str, value: bool | None) -> None:
    assert resolve_options(None, {"GENIE_PROGRESS": text}).progress is value


def test_a_key_file_may_be_a_path() -> None:
    assert resolve_options({"key_file": Path("/k")}, {}).key_file == "/k"


def test_options_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Options().progress = True  # type: ignore[misc]


def test_a_mode_brings_its_placement_unless_one_is_given() -> None:
    assert resolve_options(None, {}).mode.name == "semantic"
    options = resolve_options({"mode": "handle"}, {"GENIE_MODE": "naive"})
    assert (options.mode.name, options.placement, options.mode.placement) == ("handle", None, "blind")
    assert resolve_options({"mode": "handle", "placement": "semantic"}, {}).placement == "semantic"
    with pytest.raises(OptionError, match="must be one of local, naive, remote_cache, handle, semantic, not 'smart'"):
        resolve_options({"mode": "smart"}, {})
