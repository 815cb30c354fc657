"""What a plan says before anything trains, as a page for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from p2pftl.events import RunPlanned
from p2pftl.observe.units import owned, seconds, size, some

MOST_TWINS = 40


def show(plan: RunPlanned, console: Console | None = None, *, packing: str = "") -> None:
    """Print graph, twins and their data, predicted cost and incident timeline of a planned run; packing: who would share a process here."""
    screen = console or Console(highlight=False)
    facts = plan.facts
    if source := facts.get("source"):
        screen.print(f"[bold]first[/bold] {_source(source)}")
    screen.print(Panel(_headline(plan, facts, packing), title=f"[bold]{plan.name}[/bold]", title_align="left", border_style="cyan"))
    screen.print(_twins(facts))
    screen.print(_timeline(facts["incidents"]))
    for note in facts["topology"].get("notes", ()):
        screen.print(f"[yellow]note[/yellow] {note}")


def _source(source: Mapping[str, Any]) -> str:
    """The source task that is run before this, and its cost."""
    kind = "synthetic, " if source["synthetic"] else ""
    model = "the mean of its models" if source["model"] == "mean" else f"the model of {source['model']}"
    cost = f"{source['rounds']} rounds, {seconds(source['virtual_seconds'])} virtual, {size(source['bytes'])}"
    data = f"{kind}{source['images']} images of {', '.join(source['classes'])}"
    part = "body and head" if source["head"] else "the body"
    return f"the source task {source['name']} ({some(source['twins'], 'twin')}, {data}, {cost}); all twins start from {part} of {model}"


def _headline(plan: RunPlanned, facts: Mapping[str, Any], packing: str) -> Table:
    graph, predicted, model, data = facts["topology"], facts["predicted"], facts["model"], facts["data"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    degree = f"{graph['degree_min']}..{graph['degree_max']}, mean {graph['degree_mean']:.1f}"
    kind = graph["kind"].replace("_", " ") + ("" if graph["static"] else ", new every round")
    grid.add_row("graph", f"{kind}: {graph['twins']} twins, {graph['edges']} edges, diameter {graph['diameter']}, degree {degree}")
    grid.add_row("mixing", f"{graph['mixing']}, spectral gap {graph['spectral_gap']:.3f} (of {graph['gap_of']})")
    shape = "synthetic, " if data["synthetic"] else ""
    own = any("domain" in twin for twin in facts["twins"].values())
    split = f"a domain each, {data['test']} test images in all" if own else f"split {data['split']}, common test set {data['test']}"
    grid.add_row("data", f"{data['use']} ({shape}{data['patients']} patients, {data['images']} images), {split}")
    weights = model["weights"] or ("of the source task" if facts.get("source") else "drawn from the seed")
    shared = "all shared" if model["shared"] == model["parameters"] else f"{model['shared']:,} shared"
    if model.get("behind"):  # of a knowledge policy, which may keep the model to itself
        shared = f"{model['shared']:,} numbers travel"
    more = (f", adapters {model['adapters']}" if model.get("adapters") else "") + f", {model.get('precision', 'fp32')}"
    kind = f"{model['detector']}, on " if model.get("detector") else ""
    grid.add_row("model", f"{kind}{model['backbone']}, {model['parameters']:,} parameters ({shared}), weights {weights}{more}")
    grid.add_row("policies", ", ".join(f"{seam} {name}" for seam, name in facts["policies"].items()))
    cloud = facts["cloud"]
    grid.add_row("cloud", "none" if cloud is None else f"{cloud['use']}, every {cloud['every']} rounds, twins wait {cloud['wait']:g} s")
    cost = f"{predicted['frames']:,} frames of {size(predicted['frame_bytes'])} = {size(predicted['bytes'])}"
    grid.add_row("predicted", f"{plan.rounds} rounds, {seconds(predicted['virtual_seconds'])} virtual, {cost}; incidents and losses aside")
    if packing:
        grid.add_row("on Ray", packing)
    device = next((twin["device"] for twin in facts["twins"].values() if twin.get("device")), None)
    if device:
        grid.add_row(
            "devices",
            f"one behind every twin, a day is {seconds(device['day_s'])} virtual, {device['history']} days lived before the start",
        )
    grid.add_row("seed", str(plan.seed))
    return grid


def _twins(facts: Mapping[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    classes, twins = facts["data"]["classes"], facts["twins"]
    own = any("domain" in twin for twin in twins.values())
    table.add_column("twin", no_wrap=True, min_width=max(map(len, twins)))
    table.add_column("scanner", no_wrap=not own, max_width=16 if own else None, overflow="fold" if own else "ellipsis")
    for title in ("speed", "patients", "train+val"):
        table.add_column(title, justify="right", no_wrap=True, min_width=len(title))
    table.add_column("domain and classes" if own else " / ".join(classes), overflow="fold")
    for name in list(twins)[:MOST_TWINS]:
        twin = twins[name]
        counts = owned(name, twin) if own else " / ".join(str(twin["labels"][label]) for label in classes)
        split = f"{twin['train']}+{twin['validation']}"
        table.add_row(name, _scanner(twin["scanner"]), f"{twin['scanner']['speed']:g}x", str(twin["patients"]), split, counts)
    if len(twins) > MOST_TWINS:
        table.add_row("...", f"and {len(twins) - MOST_TWINS} more", style="dim")
    return table


def _scanner(scanner: Mapping[str, Any]) -> str:
    """What is known of a scanner; what is not known is not shown."""
    if "vendor" not in scanner:
        return str(scanner.get("seen") or "-")
    parts = [scanner["vendor"], scanner["kernel"], f"{scanner['slice_mm']:g} mm"]
    if scanner["dose"] != 1:
        parts.append(f"{scanner['dose']:g}x")
    if scanner["hu_offset"]:
        parts.append(f"{scanner['hu_offset']:+g} HU")
    return " ".join(parts)


def _timeline(incidents: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, title="incidents" if incidents else "no incidents", title_justify="left")
    table.add_column(justify="right", style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for incident in incidents:
        table.add_row(f"{incident['at']:g} s", Text(incident["text"]))
    return table
