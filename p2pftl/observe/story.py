"""The run in plain words: what was run, what came out, what went wrong and how it was survived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p2pftl.observe.board import CLOUD
from p2pftl.observe.history import History, Span
from p2pftl.observe.lead import ACCURACY, PROBED, RESTORED, told_by
from p2pftl.observe.summary import Document
from p2pftl.observe.units import clock, figure, seconds, size, some

SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def setting(history: History) -> str:
    """What was run and who learnt from whom."""
    plan = history.board.plan
    if plan is None:
        return "The plan of this run was not recorded."
    facts = plan.facts
    data, model = facts.get("data", {}), facts.get("model", {})
    kind = ("synthetic " if plan.synthetic else "") + _DATA.get(data.get("use", ""), "images")
    count = len(history.board.rows)
    first = f"{spelt(count).capitalize()} {'twin' if count == 1 else 'twins'} of CT scanners trained {_model(model)} on {kind}"
    if model.get("detector"):
        first += f" to find {joined(plan.classes[1:])}, each on its own studies only."
    elif model.get("kind"):
        goal = "to restore masked pixels" if model["kind"] == "masked" else "to answer its own question with a head of its own"
        first += f", each {goal}, on its own studies only."
    else:
        first += (
            f" to tell apart {joined(plan.classes)}, each on its own studies only." if plan.classes else ", each on its own studies only."
        )
    return f"{first} {_exchange(history, facts)}"


def source(facts: Mapping[str, Any]) -> str:
    """What the twins began with."""
    kind = "synthetic images" if facts["synthetic"] else "images"
    what = "body and head of" if facts["head"] else "the body of"
    model = "the mean of the models" if facts["model"] == "mean" else f"the model of {facts['model']}"
    first = f"All twins started from {what} {model} of {facts['name']}, a source task that was run before"
    setting = f"{some(facts['twins'], 'twin')}, {facts['images']} {kind} of {joined(facts['classes'])}, {some(facts['rounds'], 'round')}"
    value = facts.get("value")
    end = f", at the end {figure(value)} {facts['metric']} on its own test set" if value is not None else ""
    return f"{first}: {setting}{end}."


def outcome(document: Document, history: History) -> str:
    """The figures, with and without exchange."""
    lead = told_by(document)
    value = document["mean"].get(lead.key)
    if value is None:
        return "No twin was scored on the test set."
    words = f"At the end the twins classify {percent(value)} of the common test set correctly on average"
    if lead is PROBED:
        words = f"At the end a linear probe on what a twin's encoder tells knows {percent(value)} of its own test set on average"
    elif lead is RESTORED:
        words = f"At the end {percent(value)} of the error over masked pixels are removed on average"
    elif lead is not ACCURACY:
        words = f"At the end the twins' detectors have a mean {lead.name} of {percent(value)} on the common test set"
    worst = document.get("worst")
    if worst and len(document["twins"]) > 1:
        words += f"; the weakest, {worst}, {percent(document['twins'][worst]['test'][lead.key])}"
    control = document.get("control")
    if not control or control["mean"].get(lead.key) is None:
        return words + "."
    margin, limits = control["margin"][lead.key], control["interval"][lead.key]
    return words + f". The same run without any exchange reaches {percent(control['mean'][lead.key])}. {verdict(margin, limits)}"


def verdict(margin: float, limits: Any) -> str:
    """What the margin says, and how sure it is."""
    points = f"{100 * abs(margin):.1f} percentage points"
    span = f" (95 % interval {100 * limits[0]:+.1f} to {100 * limits[1]:+.1f})" if limits else ""
    if limits and limits[0] <= 0 <= limits[1]:
        return f"The difference of {100 * margin:+.1f} percentage points{span} is not clearly different from none."
    return f"Exchange brought {points}{span}." if margin > 0 else f"Exchange cost {points}{span}."


def caution(document: Document) -> str:
    """What the figures do not cover."""
    words = []
    pairs = (document.get("control") or {}).get("pairs", 0)
    if pairs > 1:
        words.append(f"The interval is over {some(pairs, 'twin')} of one seed; other seeds may differ more.")
    if document.get("synthetic"):
        words.append("The images are synthetic: these figures say how the method behaves, nothing about patients.")
    return " ".join(words)


def trouble(history: History, spans: list[Span]) -> list[tuple[Span, str]]:
    """Every incident with how it was survived."""
    return [(span, survived(history, span)) for span in spans]


def survived(history: History, span: Span) -> str:
    """One incident in a sentence or two."""
    until = span.end if span.end is not None else history.end
    start = f"{sentence(span.text)}"
    if span.kind == "outage" and CLOUD in span.twins:
        return f"{start} {_without_cloud(history, span.start, until)}"
    if span.kind == "crash":
        return f"{start} {_revived(history, span)}"
    if span.kind == "outage":
        return " ".join([start, _without_twins(history, span, until), *(_came_out(history, name) for name in span.twins[:3])])
    if span.kind == "join":
        return " ".join([start, *(_came_out(history, name) for name in span.twins[:3])])
    if span.kind == "partition":
        return f"{start} {_split(history, span, until)}"
    return start


def traffic(history: History) -> str:
    """Losses and refusals in a sentence."""
    board = history.board
    if not board.sent:
        return "No frame was sent."
    words = f"{some(board.sent, 'frame')} ({size(board.bytes)}) were sent"
    words += f"; {board.lost:,} ({100 * board.lost / board.sent:.1f} %) were lost on the way" if board.lost else "; none was lost"
    words += f" and {board.refused:,} refused on arrival." if board.refused else "."
    if board.lost or board.refused:
        words += " The receivers merged what they had and went on."
    return words


def scanners(history: History) -> str:
    """What befell the devices behind the twins, "" where there are none."""
    if not history.devices:
        return ""
    shut = [name for name, device in sorted(history.devices.items()) if device.windows]
    services = sum(len(device.services) for device in history.devices.values())
    withheld = sum(len(device.withheld) for device in history.devices.values())
    left_out = sum(event.images for device in history.devices.values() for event in device.withdrawn)
    words = f"{some(len(history.devices), 'scanner')} lived their days behind the twins; "
    words += f"{joined(shut)} {'was' if len(shut) == 1 else 'were'} quarantined, with {some(services, 'service')} in all" if shut else (
        f"none was quarantined, with {some(services, 'service')} in all")  # fmt: skip
    words += f"; {some(left_out, 'image')} left the training and validation sets and {some(withheld, 'update')} stayed with the twin."
    adapted = sum(len(device.adapting) for device in history.devices.values())
    return words + (f" After a change of protocol norm and head were adapted alone in {some(adapted, 'round')}." if adapted else "")


def rejected(history: History) -> str:
    """Local fits that came to nothing."""
    fits = some(history.rejected, "local fit")
    return f"{fits} gave no usable parameters; the twin kept those it had." if history.rejected else ""


def when(span: Span) -> str:
    """The span's times, unless its text says them already."""
    if f"{span.start:.10g} s" in span.text:
        return ""
    return seconds(span.start) + (f" to {seconds(span.end)}" if span.end is not None and span.end > span.start else "")


def ending(document: Document) -> str:
    """How the run ended."""
    status, reasons = document["status"], document.get("reasons") or ()
    why = f" {sentence('; '.join(reasons))}" if reasons else ""
    if status == "interrupted":
        return f"The run was interrupted: what follows is what was done until then.{why}"
    if status == "failed":
        return f"The run stopped before its end: what follows is what was done until then.{why}"
    if document["degraded"]:
        lost = [name for name, twin in document["twins"].items() if twin.get("state") == "lost"]
        who = f" ({joined(lost)} did not come back): its figures are those of the twins that remain." if lost else "."
        return f"The run finished, but something real, not scripted, was lost{who}{why}"
    return ""


def markdown(document: Document, history: History) -> str:
    """A short text about the run, for a terminal, a pull request or a mail."""
    spans, lead = history.rank(), told_by(document)
    lines = [f"# {document['name']}", "", setting(history), "", outcome(document, history)]
    end = ending(document)
    lines += ["", *filter(None, (end, caution(document)))]
    lines += ["", source(document["source"])] if document.get("source") else []
    lines += ["", "What happened:", ""] if spans else []
    lines += ["- " + ": ".join(filter(None, (when(span), text))) for span, text in trouble(history, spans)]
    lines += ["", rejected(history)] if history.rejected else []
    lines += ["", scanners(history)] if history.devices else []
    lines += ["", traffic(history), "", f"| twin | test {lead.name} | {lead.beside[0][0]} | rounds | sent |", "|---|---:|---:|---:|---:|"]
    for name, twin in document["twins"].items():
        test = twin["test"]
        cells = (name, figure(test.get(lead.key)), figure(test.get(lead.beside[0][1])), str(twin["rounds"]), size(twin["bytes_sent"]))
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"seed {document['seed']}, digest `{document['digest']}`, {seconds(document['virtual_seconds'])} virtual,"]
    return "\n".join([*lines, f"{clock(document['wall_seconds'])} wall, executor {document['executor']}."]) + "\n"


def spelt(count: int) -> str:
    """Small numbers as words."""
    return SMALL[count] if count < len(SMALL) else f"{count:,}"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def joined(names: Any) -> str:
    """ "a", "a and b", "a, b and c"; more than five end in "and 12 more"."""
    shown = [str(name) for name in names]
    if len(shown) > 5:
        shown = [*shown[:4], f"{len(shown) - 4} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def sentence(text: str) -> str:
    """With a capital unless it begins with a twin's name, and with a full stop."""
    text = text.strip().rstrip(".")
    head = text.split(" ", 1)[0]
    return (text if "-" in head or any(letter.isdigit() for letter in head) else text[:1].upper() + text[1:]) + "."


def _model(model: Mapping[str, Any]) -> str:
    name, size_ = model.get("backbone"), model.get("parameters")
    words = f"a {name} model" if name else "a model"
    return f"{words} ({size_:,} parameters)" if isinstance(size_, int) else words


def _exchange(history: History, facts: Mapping[str, Any]) -> str:
    rounds = some(history.board.rounds, "round")
    if facts.get("exchange") is False:
        return f"Nothing was exchanged: every twin learnt alone for {rounds}."
    policies = facts.get("policies", {})
    kind = facts.get("topology", {}).get("kind") or "given"
    whom = _PARTNERS.get(_use(policies.get("partners")), "partners among the neighbours")
    over = str(kind).replace("_", " ")
    article = "an" if over[:1] in "aeiou" else "a"
    cloud = facts.get("cloud")
    alone = "" if cloud else ", without a server,"
    words = f"They learnt from each other{alone} over {article} {over} topology: {rounds} of training and merging with {whom}"
    if not cloud:
        return words + "."
    every = cloud.get("every")
    return (
        words
        + f", and a cloud ({_use(cloud)}) that averages all of them "
        + (f"every {every} rounds." if every and every > 1 else "every round.")
        + _groups(history.board.groups)
    )


def _groups(groups: Sequence[Sequence[str]]) -> str:
    """What a cloud that may keep several models came to; nothing of one that keeps a single one by design."""
    if not groups:
        return ""
    if len(groups) == 1:
        return " It never parted the twins: all ended with one model, as with plain averaging."
    return f" It ended with {len(groups)} models: {'; '.join(', '.join(group) for group in groups)}."


def _use(policy: Any) -> str:
    return str(policy.get("use", "")) if isinstance(policy, Mapping) else str(policy or "")


def _without_cloud(history: History, start: float, until: float) -> str:
    wait = float(((history.board.plan.facts.get("cloud") if history.board.plan else None) or {}).get("wait") or 0.0)
    missed = [name for t, name in history.missed if start <= t <= until + wait]
    back = next((t for t in history.ticks.get(CLOUD, []) if t >= until), None)
    who = some(len(set(missed)), "twin")
    words = f"{who} went on without its answer, {some(len(missed), 'time')} in all." if missed else "Nobody missed it."
    return words + (f" It merged again at {seconds(back)}." if back is not None else "")


def _without_twins(history: History, span: Span, until: float) -> str:
    """How often those who would have heard from the twins merged without them."""
    facts = history.board.plan.facts.get("twins", {}) if history.board.plan else {}
    gone = set(span.twins)
    around = {peer for name in gone for peer in facts.get(name, {}).get("neighbours", ())} or set(history.board.rows)
    times = sum(1 for t, name, senders in history.merges if span.start <= t <= until and name in around - gone and not gone & senders)
    return f"Its neighbours merged {some(times, 'time')} without it." if times else "Nobody had to merge without it."


def _split(history: History, span: Span, until: float) -> str:
    times = sum(1 for t, _, _ in history.merges if span.start <= t <= until)
    return f"Every part went on by itself, with {some(times, 'merge')} meanwhile."


def _revived(history: History, span: Span) -> str:
    words = []
    for name in span.twins:
        back = next((event for event in history.revivals if event.twin == name and event.t >= span.start), None)
        gone = next((event for event in history.losses_of_twins if event.twin == name), None)
        if back is not None:
            state = f"its last saved state, after {some(back.round, 'round')}, as incarnation {back.incarnation}"
            words.append(f"{name} came back {seconds(back.t - span.start)} later from {state}.")
            words.append(_came_out(history, name))
        elif gone is not None:
            words.append(f"{name} did not come back: {gone.reason}.")
    return " ".join(words)


def _came_out(history: History, name: str) -> str:
    row = history.board.rows.get(name)
    if row is None:
        return ""
    accuracy = row.accuracy("test")
    words = f"{name} finished {row.round} of {history.board.rounds} rounds"
    return words + (f" with test {history.board.lead.name} {figure(accuracy)}." if accuracy is not None else ".")


_DATA = {
    "phantom": "thorax CT phantoms",
    "phantom_boxes": "thorax phantoms",
    "dicom": "CT series in DICOM",
    "images": "images",
    "npz": "images",
}
_PARTNERS = {
    "all": "all neighbours",
    "random": "neighbours drawn anew each round",
    "none": "nobody",
    "one_peer_exponential": "one partner at a distance that doubles each round",
    "epidemic": "partners drawn anew from the whole swarm each round",
}
