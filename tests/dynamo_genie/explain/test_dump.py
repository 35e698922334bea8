"""Where dumps go, and what happens when they cannot: an early word, or a warning, never a changed computation."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch.fx import Graph, GraphModule

from dynamo_genie.errors import OptionError
from dynamo_genie.explain.dump import DumpObserver
from dynamo_genie.explain.folders import dump_roots, new_folder
from dynamo_genie.explain.guarded import Guarded
from dynamo_genie.explain.observers import watch_for
from dynamo_genie.explain.story import GraphStory
from dynamo_genie.options import Options


@pytest.fixture
def gm() -> GraphModule:
    graph = Graph()
    graph.output((graph.placeholder("x"),))
    return GraphModule(torch.nn.Module(), graph)


def test_no_two_graphs_share_a_folder(tmp_path: Path) -> None:
    names = [new_folder(tmp_path / "dumps", "0_0_inference").name for _ in range(3)]
    assert names == ["0_0_inference", "0_0_inference_2", "0_0_inference_3"]


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match=r"debug_dir '.*file/dumps' cannot be written: .*GENIE_DEBUG_DIR"):
        dump_roots(Options(debug_dir=str(tmp_path / "file" / "dumps")), {})


def test_torch_compile_debug_dumps_into_torchs_own_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "debug_dir_root", str(tmp_path))
    [root] = dump_roots(Options(), {"TORCH_COMPILE_DEBUG": "1"})
    assert root.is_relative_to(tmp_path)
    assert root.name == "genie"


def test_nobody_watches_unless_asked() -> None:
    assert watch_for(Options())("inference") is None


def test_a_dump_that_fails_warns_once_and_is_given_up(
    gm: GraphModule, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = new_folder(tmp_path, "0_0_inference")
    observer = Guarded([lambda: DumpObserver(folder, GraphStory("0_0_inference", "0/0", "inference"))])
    folder.rmdir()
    with caplog.at_level(logging.WARNING, logger="dynamo_genie"):
        observer.captured(gm)
        observer.captured(gm)
    assert [record.message for record in caplog.records] == [
        "a dump or log of a compiled graph failed and is given up; the computation goes on"
    ]


def test_a_dump_that_cannot_begin_warns_and_the_others_go_on(
    gm: GraphModule, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def no_room() -> DumpObserver:
        raise OSError("no space left on device")

    folder = new_folder(tmp_path, "0_0_inference")
    observer = Guarded([no_room, lambda: DumpObserver(folder, GraphStory("0_0_inference", "0/0", "inference"))])
    observer.captured(gm)
    assert "no space left" in caplog.text
    assert (folder / "00_captured.py").is_file()
