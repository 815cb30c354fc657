"""Pictures can be painted of every topology, hold every twin, and are the same every time."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from p2pftl.world.drawing import png, positions, svg, terminal
from p2pftl.world.links import Link
from p2pftl.world.scene import HEIGHT, WIDTH, Box, Words, compose, short
from p2pftl.world.topologies import (
    Clusters,
    Complete,
    Epidemic,
    ErdosRenyi,
    Exponential,
    File,
    Grid,
    Line,
    OnePeerExponential,
    Regular,
    Ring,
    ScaleFree,
    SmallWorld,
    Star,
    Torus,
    Tree,
)  # fmt: skip

LONG = tuple("Hospital_of_a_very_long_name_no." + "x" * 30 + str(i) for i in range(4))
REGIONAL = File(str(Path(__file__).parents[2] / "topologies" / "regional-12.graphml"))
EVERY: list[Any] = [
    Ring(8), Complete(8), Star(8), Line(5), Line(17), Grid(3, 4), Torus(4, 4), Tree(2, 15), Regular(4, 16), SmallWorld(4, 0.2, 20),
    ErdosRenyi(0.3, 16), ScaleFree(2, 24), Exponential(16), Clusters(4, 3, 2), Clusters(1, 3), Clusters(7, 2), OnePeerExponential(8),
    Epidemic(4, 15), Ring(1), Star(2), Ring(3, ("a", "ab", "abc")), Complete(4, LONG), REGIONAL,
]  # fmt: skip


@pytest.mark.parametrize("policy", EVERY, ids=lambda policy: str(policy)[:40])
def test_every_topology_has_its_three_pictures(policy: Any) -> None:
    topology = policy.build(1)
    places = positions(topology)
    assert set(places) == set(topology.names)
    assert all(-1e-9 <= part <= 1 + 1e-9 for place in places.values() for part in place)
    assert len(set(places.values())) == len(places)
    picture = ET.fromstring(svg(topology, 1))
    words = {"".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {short(name) for name in topology.names} <= words
    text = terminal(topology, 1)
    assert max(map(len, text.splitlines())) <= 80
    assert all(short(name, 12) in text for name in topology.names)
    assert Image.open(io.BytesIO(png(topology, 1, scale=1))).size == (WIDTH, HEIGHT)


def test_labels_do_not_overlap_and_stay_inside() -> None:
    for policy in EVERY:
        labels = [mark for mark in compose(policy.build(1)) if isinstance(mark, Box) and mark.radius and mark.title]
        for i, a in enumerate(labels):
            assert a.width / 2 <= a.x <= WIDTH - a.width / 2
            assert all(abs(a.x - b.x) >= (a.width + b.width) / 2 or abs(a.y - b.y) >= (a.height + b.height) / 2 for b in labels[:i])


def test_pictures_are_the_same_every_time_and_use_the_places_given() -> None:
    topology = Regular(4, 16).build(3)
    assert svg(topology) == svg(Regular(4, 16).build(3))
    assert svg(topology, positions={name: (i / 15, 0.5) for i, name in enumerate(topology.names)}) != svg(topology)


def test_slower_links_have_another_colour_and_the_legend_says_so() -> None:
    picture = svg(Clusters(3, 2).build(0), link=Link(latency=0.01))
    assert "latency 10 ms" in picture
    assert "40 ms" in picture
    assert "every link 10 ms" in svg(Ring(4).build(0), link=Link(latency=0.01))


def test_names_from_a_file_cannot_leave_their_place_in_the_svg() -> None:
    marks = compose(Ring(3).build(0), groups={"ct-01": "<script>", "ct-02": "<script>", "ct-03": "b"})
    assert any(isinstance(mark, Words) and mark.text == "<script>" for mark in marks)
    picture = svg(Ring(3).build(0), groups={"ct-01": "<script>", "ct-02": "<script>", "ct-03": "b"})
    assert "<script>" not in picture
    assert "&lt;script&gt;" in picture


def test_large_topologies_are_summarised_in_the_terminal_and_dotted_in_pictures() -> None:
    topology = ScaleFree(3, 300).build(0)
    text = terminal(topology)
    assert "and 288 more twins" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "ct-007: " in svg(topology)


def test_many_twins_on_a_ring_still_fit_the_terminal() -> None:
    assert "(01 stands for ct-01)" in terminal(Ring(40).build(0))
