"""The geometry of the picture: boxes apart from one another, arrows clear of boxes, any graph taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamo_genie.explain.layout import BOX_HEIGHT, BOX_WIDTH, Layout, lay_out

Arrows = list[tuple[int, int]]

graphs = st.integers(1, 14).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=30))
)


def overlaps(layout: Layout) -> list[tuple[int, int]]:
    boxes = list(enumerate(layout.centres))
    return [
        (i, j)
        for i, (x, y) in boxes
        for j, (u, v) in boxes
        if i < j and abs(x - u) < BOX_WIDTH and abs(y - v) < BOX_HEIGHT
    ]


@given(graphs)
def test_no_two_boxes_overlap_and_all_lie_on_the_picture(graph: tuple[int, Arrows]) -> None:
    layout = lay_out(*graph)
    assert len(layout.centres) == graph[0]
    assert overlaps(layout) == []
    for x, y in layout.centres:
        assert BOX_WIDTH / 2 <= x <= layout.width - BOX_WIDTH / 2
        assert BOX_HEIGHT / 2 <= y <= layout.height - BOX_HEIGHT / 2


@given(graphs)
def test_what_flows_forward_flows_down_and_clear_of_the_boxes_on_its_way(graph: tuple[int, Arrows]) -> None:
    layout = lay_out(*graph)
    for route in layout.routes:
        if route.source >= route.target:
            continue
        heights = [y for _, y in route.points]
        assert heights == sorted(heights)
        for x, y in route.points[1:-1]:
            assert all(abs(x - u) >= BOX_WIDTH / 2 or abs(y - v) > BOX_HEIGHT / 2 + 1 for u, v in layout.centres)


def test_a_picture_does_not_depend_on_the_order_of_the_arrows() -> None:
    arrows = [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)]
    assert lay_out(4, arrows) == lay_out(4, arrows[::-1])
