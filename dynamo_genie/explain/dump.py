"""Writes what is known of one graph into a folder; `docs/explain.md` says which file holds what."""

from __future__ import annotations

import json
import threading
import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.fx import GraphModule

from dynamo_genie.explain.folders import replace_text
from dynamo_genie.explain.plan_text import plan_text
from dynamo_genie.explain.records import to_json
from dynamo_genie.explain.report_html import report_html
from dynamo_genie.explain.story import GraphStory
from dynamo_genie.observe import CallTraffic, GraphObserver
from dynamo_genie.passes.graphs.annotated_text import annotated_records, annotated_text
from dynamo_genie.passes.graphs.pipeline import PassRecord
from dynamo_genie.passes.placement.plan import PlacementPlan
from dynamo_genie.passes.placement.topology import Topology
from dynamo_genie.passes.understanding.analysis import Analysis


class DumpObserver(GraphObserver):
    """Writes the graph after each pass at once; plan and report when there is news, and when the program ends."""

    def __init__(self, folder: Path, story: GraphStory) -> None:
        self._folder = folder
        self._pages = _Pages(folder, story)
        self._files = 0
        weakref.finalize(self, self._pages.write)  # also at the end of the program

    def captured(self, gm: GraphModule) -> None:
        self._write_graph("captured", gm)

    def passed(self, record: PassRecord, gm: GraphModule) -> None:
        self._write_graph(record.name, gm)
        self._pages.passes.append(record)
        steps = json.dumps([_step(step) for step in self._pages.passes], indent=2)
        (self._folder / "passes.json").write_text(steps + "\n", encoding="utf-8")

    def analysed(self, gm: GraphModule, analysis: Analysis) -> None:
        self._write_graph("analysed", gm)
        self._pages.story.analysed(gm, analysis)
        self._pages.news()
        self._pages.write()

    def placed(self, gm: GraphModule, plan: PlacementPlan, topology: Topology, predicted: CallTraffic) -> None:
        if self._pages.story.placed(plan, topology, predicted):
            self._pages.news()
            self._pages.write()

    def called(self, plan: PlacementPlan, measured: CallTraffic) -> None:
        calls = self._pages.story.called(plan, measured)
        self._pages.news()
        if calls & (calls - 1) == 0:  # after 1, 2, 4, 8, ... calls: a few writes however long it runs
            self._pages.write()

    def _write_graph(self, name: str, gm: GraphModule) -> None:
        stem = f"{self._files:02}_{name}"
        self._files += 1
        (self._folder / f"{stem}.py").write_text(annotated_text(gm, stem), encoding="utf-8")
        lines = ",\n".join(json.dumps(record) for record in annotated_records(gm))  # a node a line: these diff too
        (self._folder / f"{stem}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


class _Pages:
    """The files that change while the program runs. Knows no observer, so that the last write can outlive it."""

    def __init__(self, folder: Path, story: GraphStory) -> None:
        self.story = story
        self.passes: list[PassRecord] = []
        self._folder = folder
        self._lock = threading.Lock()
        self._has_news = False

    def news(self) -> None:
        self._has_news = True

    def write(self) -> None:
        """Bring the files up to date, unless they are."""
        with self._lock:
            if not self._has_news:
                return
            self._has_news = False
            report, picture = self.story.report(), self.story.picture()
            assert picture is not None
            replace_text(self._folder / "plan.json", to_json(report))
            replace_text(self._folder / "plan.txt", plan_text(report))
            replace_text(self._folder / "report.html", report_html(report, picture, self.passes))


def _step(record: PassRecord) -> dict[str, Any]:
    return {**asdict(record), "operators": dict(record.operators)}
