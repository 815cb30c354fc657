"""The report's section on traffic: who sent how much, what it bought, what a frame is made of, and what became of them."""

from __future__ import annotations

from dataclasses import replace

from p2pftl.observe import charts, story
from p2pftl.observe.board import CLOUD
from p2pftl.observe.charts import Plot
from p2pftl.observe.history import History, by_bytes, by_time
from p2pftl.observe.markup import table, tag, words
from p2pftl.observe.sections import Told, legend
from p2pftl.observe.units import NOTHING, said, size

SENDERS = 40


def frames(told: Told) -> str:
    """Bytes per participant, accuracy (or mAP@0.5) against bytes, what a frame is made of, frames by fate."""
    history = told.history
    shown = sorted(history.traffic.items(), key=lambda item: (-item[1].bytes, item[0]))[:SENDERS]
    order = {name: i for i, name in enumerate([*history.board.rows, CLOUD])}
    sent = [
        (name, float(mine.bytes), float(mine.bytes_lost))
        for name, mine in sorted(shown, key=lambda item: order.get(item[0], 0))
        if mine.sent
    ]
    cost = _against_bytes(told) if history.sent_at else ""
    bars = tag("figure", charts.bars(sent), legend(("bar", "delivered"), ("bar-lost", "lost"))) if sent else ""
    text = tag("p", words(story.traffic(history)))
    if len(history.traffic) > SENDERS:
        text += tag("p", f"The {SENDERS} who sent most, of {len(history.traffic):,}.", class_="hint")
    return tag(
        "section",
        tag("h2", "Traffic"),
        text,
        tag("div", bars, cost, class_="grid2"),
        tag("div", _frame(told), _fates(history), class_="grid2"),
    )


def _against_bytes(told: Told) -> str:
    """Mean accuracy against what the whole swarm had sent by then; without exchange nothing is sent, whatever is reached."""
    history, control = told.history, told.control
    split = "test" if history.scores["test"] else "validation"
    bands = by_bytes(by_time(history.scores[split]), history.sent_at)
    if not bands:
        return ""
    alone = by_time(control.scores[split])[-1:] if control else []
    other = [replace(band, x=x) for band in alone for x in (bands[0].x, bands[-1].x)]
    return tag(
        "figure",
        charts.curves(Plot(f"Mean {split} {history.board.lead.name} against bytes sent", "MB sent by all together", bands, other=other)),
    )


def _frame(told: Told) -> str:
    """What one frame holds and what that costs. Its plain size: every shared element as float32."""
    board, facts = told.history.board, told.facts
    shared, predicted = facts.get("model", {}).get("shared"), facts.get("predicted", {})
    if not board.sent or not shared:
        return ""
    header, frame = predicted.get("header_bytes"), predicted.get("frame_bytes")
    mean = board.bytes / board.sent
    rows = [
        ("codec", words(said(facts.get("policies", {}).get("codec", NOTHING)))),
        ("elements that travel in round 1", f"{shared:,}"),
        ("as plain float32", size(4 * shared)),
        ("a frame, on average", f"{size(mean)}, {mean / (4 * shared):.3f} of plain"),
    ]
    if header and frame:
        rows.append(("its header", f"{size(header)}, {100 * header / (frame - header):.2f} % of the payload"))
    return table(("frame", ""), rows, "facts")


def _fates(history: History) -> str:
    board = history.board
    rows = [("sent", "", board.sent), ("delivered", "", board.sent - board.lost)]
    rows += [("lost", reason, count) for reason, count in history.lost.most_common()]
    rows += [("refused", f"{code} {reason}", count) for (code, reason), count in history.refused.most_common()]
    cells = [(fate, words(why), f"{count:,}", f"{100 * count / board.sent:.1f} %" if board.sent else NOTHING) for fate, why, count in rows]
    return table(("frames", "reason", ">count", ">of sent"), cells, "facts")
