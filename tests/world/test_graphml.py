"""Drawn networks: what they say is used, what is wrong is refused with its line."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from p2pftl.errors import P2pftlError
from p2pftl.world.graphml import read
from p2pftl.world.links import Link

REGIONAL = Path(__file__).parents[2] / "topologies" / "regional-12.graphml"

HEAD = """<?xml version="1.0"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
<key id="l" for="edge" attr.name="latency" attr.type="double"/>
<key id="w" for="edge" attr.name="bandwidth" attr.type="int"/>
<key id="t" for="edge" attr.name="loss" attr.type="string"/>
<key id="n" for="node" attr.name="name" attr.type="string"/>
<key id="x" for="edge" attr.name="latancy" attr.type="double"/>
"""
TAIL = "\n</graph></graphml>"
NODES = '<node id="a"/><node id="b"/><node id="c"/>'
CHAIN = '<edge source="a" target="b"/><edge source="b" target="c"/>'


def drawn(body: str, *, directed: bool = False) -> str:
    return f'{HEAD}<graph edgedefault="{"directed" if directed else "undirected"}">\n{body}{TAIL}'


@pytest.fixture
def draw(tmp_path: Path) -> Path:
    return tmp_path / "net.graphml"


def test_the_regional_network_has_twelve_hospitals_in_three_regions() -> None:
    topology = read(str(REGIONAL))
    assert topology.names == tuple(f"ct-{i:02d}" for i in range(1, 13))
    assert len(set(topology.groups.values())) == 3
    assert all(len(topology.neighbours(name)) >= 3 for name in topology.names)
    assert topology.notes == ()
    for a, b in topology.graph().edges:
        own = topology.links[a, b].on(Link())
        assert topology.links[b, a] == topology.links[a, b]
        assert 0 < own.latency < 0.1
        assert own.bandwidth != Link().bandwidth


def test_edge_values_override_the_common_link_and_the_rest_stays(draw: Path) -> None:
    draw.write_text(drawn(NODES + CHAIN.replace('"b"/>', '"b"><data key="l">0.25</data><data key="w">1000</data></edge>', 1)))
    topology = read(str(draw))
    assert topology.links["a", "b"].on(Link(jitter=0.5)) == Link(latency=0.25, bandwidth=1000.0, jitter=0.5)
    assert ("b", "c") not in topology.links


def test_a_directed_drawing_with_all_opposites_is_undirected_with_links_by_direction(draw: Path) -> None:
    there = '<edge source="a" target="b"><data key="l">0.1</data></edge><edge source="b" target="a"><data key="l">0.2</data></edge>'
    draw.write_text(drawn('<node id="a"/><node id="b"/>' + there, directed=True))
    topology = read(str(draw))
    assert not topology.directed
    assert topology.links["a", "b"].latency == 0.1
    assert topology.links["b", "a"].latency == 0.2


def test_a_directed_cycle_stays_directed(draw: Path) -> None:
    draw.write_text(drawn(NODES + CHAIN + '<edge source="c" target="a"/>', directed=True))
    topology = read(str(draw))
    assert topology.directed
    assert isinstance(topology.graph(), nx.DiGraph)
    assert (topology.neighbours("a"), topology.inward("a"), topology.possible("a")) == (("b",), ("c",), ("b", "c"))


def test_names_come_from_the_name_attribute_where_all_nodes_have_one(draw: Path) -> None:
    nodes = "".join(f'<node id="n{i}"><data key="n">site-{i}</data></node>' for i in range(3))
    draw.write_text(drawn(nodes + CHAIN.replace('"a"', '"n0"').replace('"b"', '"n1"').replace('"c"', '"n2"')))
    assert read(str(draw)).names == ("site-0", "site-1", "site-2")


def test_a_duplicate_edge_is_noted_with_both_lines_and_the_last_counts(draw: Path) -> None:
    draw.write_text(drawn(NODES + CHAIN + '\n<edge source="b" target="a"><data key="l">0.5</data></edge>'))
    topology = read(str(draw))
    assert topology.notes[0].startswith("E203")
    assert ":10:" in topology.notes[0]
    assert "line 9" in topology.notes[0]
    assert topology.links["a", "b"].latency == 0.5


def test_a_misspelt_attribute_is_noted(draw: Path) -> None:
    draw.write_text(drawn(NODES + CHAIN.replace('"b"/>', '"b"><data key="x">1</data></edge>', 1)))
    assert "did you mean latency" in read(str(draw)).notes[0]


def test_a_disconnected_drawing_is_allowed_if_the_scenario_says_so(draw: Path) -> None:
    draw.write_text(drawn(NODES))
    assert read(str(draw), disconnected=True).possible("a") == ()


EDGE = '<edge source="a" target="b"><data key="{}">{}</data></edge><edge source="b" target="c"/>'
BOMB = '<?xml version="1.0"?>\n<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n<graphml>&b;</graphml>'
BAD = {
    "edge to an unknown twin": (drawn(NODES + CHAIN + '\n<edge source="a" target="d"/>'), "E201", ":10"),
    "self loop": (drawn(NODES + CHAIN + '\n<edge source="c" target="c"/>'), "E202", ":10"),
    "disconnected": (drawn(NODES + '<edge source="a" target="b"/>'), "E204", ""),
    "directed, not strongly connected": (drawn(NODES + CHAIN, directed=True), "E204", ""),
    "entity bomb": (BOMB, "E211", ":2"),
    "external entity": ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><graphml/>', "E211", ":1"),
    "not XML": ("twins: 8\n", "E211", ":1"),
    "cut off": (drawn(NODES)[:-20], "E211", ":"),
    "other XML": ("<html><body/></html>", "E211", ""),
    "empty graph": (drawn(""), "E211", ""),
    "two graphs": (drawn(NODES + CHAIN).replace("</graph>", '</graph><graph edgedefault="undirected"/>'), "E211", ""),
    "node twice": (drawn(NODES + '\n<node id="b"/>' + CHAIN), "E211", ":10"),
    "unknown attribute type": (drawn(NODES + CHAIN).replace('attr.type="int"', 'attr.type="colour"'), "E212", ":4"),
    "text for a number": (drawn(NODES + EDGE.format("l", "fast")), "E212", ""),
    "number in a string attribute": (drawn(NODES + EDGE.format("t", "0.1")), "E212", ":9"),
    "negative latency": (drawn(NODES + EDGE.format("l", "-1")), "E212", ":9"),
    "latency nan": (drawn(NODES + EDGE.format("l", "nan")), "E212", ":9"),
    "bandwidth 0": (drawn(NODES + EDGE.format("w", "0")), "E212", ":9"),
    "undeclared key": (drawn(NODES + EDGE.format("zz", "1")), "E212", ""),
    "hyperedge": (drawn(NODES + CHAIN + '<hyperedge><endpoint node="a"/></hyperedge>'), "E212", ""),
    "reserved name": (drawn(NODES.replace('"b"', '"cloud"') + CHAIN.replace('"b"', '"cloud"')), "E125", ":9"),
    "name with a slash": (drawn(NODES.replace('"b"', '"a/b"') + CHAIN.replace('"b"', '"a/b"')), "E125", ":9"),
    "names that differ in case": (drawn(NODES.replace('"b"', '"A"') + CHAIN.replace('"b"', '"A"')), "E125", ""),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_drawings_are_refused_with_code_and_line(what: str, draw: Path) -> None:
    text, code, line = BAD[what]
    draw.write_text(text)
    with pytest.raises(P2pftlError) as caught:
        read(str(draw))
    assert caught.value.code == code
    assert caught.value.where.startswith(str(draw) + line)
    assert "\n" not in str(caught.value)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "north.graphml").write_text("x")
    big = tmp_path / "big.graphml"
    big.write_bytes(b" " * 10_000_001)
    (tmp_path / "bytes.graphml").write_bytes(b"\xff\xfe\x00\x00\x01")
    for path, says in (
        (tmp_path, "folder"),
        (tmp_path / "nord.graphml", "did you mean .*north.graphml"),
        (big, "larger than 10 MB"),
        (tmp_path / "bytes.graphml", "not well-formed"),
        (Path("/dev/null"), "regular"),
        (Path("nul\0.graphml"), "cannot be opened"),
    ):
        with pytest.raises(P2pftlError, match=says) as caught:
            read(str(path))
        assert caught.value.code == "E211"


def test_deeply_nested_xml_does_not_crash(draw: Path) -> None:
    draw.write_text(drawn(NODES + CHAIN + "<desc>" + "<b>" * 50_000 + "</b>" * 50_000 + "</desc>"))
    assert len(read(str(draw)).names) == 3


def test_too_many_twins_are_refused(draw: Path) -> None:
    draw.write_text(drawn("".join(f'<node id="n{i}"/>' for i in range(10_001))))
    with pytest.raises(P2pftlError, match="E209"):
        read(str(draw))
