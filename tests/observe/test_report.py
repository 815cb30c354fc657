"""The report."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from p2pftl import events as fact
from p2pftl.errors import CheckpointError
from p2pftl.observe import record, report, story
from p2pftl.observe.charts import Plot, Scale, curves, step_of
from p2pftl.observe.history import Band, Point, by_bytes, by_round, by_time, fold
from p2pftl.observe.summary import Summary
from p2pftl.observe.summary import save as save_summary
from tests.observe.staged import FRAME, png, save, staged

VOID = {"meta", "img"}
DRAWN = {"line", "path", "rect", "circle"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed without having been opened, or the other way round."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID | DRAWN, f"<{tag}/> would stay open"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def sound(text):
    """A page that is well-formed, whose drawings are XML without broken numbers, and that asks for nothing."""
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    for drawing in re.findall(r"<svg.*?</svg>", text, flags=re.S):
        ElementTree.fromstring(drawing)
        assert not re.search(r"\b(nan|inf)\b", drawing.split("<text")[0])
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "Content-Security-Policy" in text
    return text


def written(run):
    return sound(report.write(run).read_text(encoding="utf-8"))


def recorded(run, stream):
    with record.Record(run / "events.msgpack") as sink:
        for event in stream:
            sink(event)
    return run


def test_the_report_tells_the_whole_run_in_one_small_file(tmp_path):
    text = written(save(tmp_path / "run"))
    assert len(text) < 400_000
    for words in (
        "Eight twins of CT scanners", "without any exchange", "95 % interval", "The cloud is down", "incarnation 2", "ct-08 joins late",
        "Confusion", "Traffic", "not finite", "receiver down", "spectral gap", "Every twin", "Run it again", "p2pftl run scenario.yaml",
    ):  # fmt: skip
        assert words in text
    assert text.count("data:image/png;base64,") == 8


def test_the_traffic_section_says_what_a_frame_holds_and_what_accuracy_the_bytes_bought(tmp_path):
    text = written(save(tmp_path / "run")).partition("<h2>Traffic</h2>")[2].partition("<h2>")[0]
    assert "Mean test accuracy against bytes sent" in text
    assert "no exchange" in text
    assert "<td>half</td>" in text
    assert f"{4 * 47_936 / 1000:.0f} kB" in text
    assert f"{100 * 400 / (FRAME - 400):.2f} % of the payload" in text
    (tmp_path / "alone").mkdir()
    alone = written(recorded(tmp_path / "alone", staged(exchange=False, rounds=3)))
    assert "against bytes sent" not in alone
    assert "of the payload" not in alone


def test_synthetic_is_said_where_data_are_synthetic_and_nowhere_else(tmp_path):
    synthetic = written(save(tmp_path / "a"))
    assert synthetic.count(">synthetic</span>") == 8
    assert "synthetic data" in synthetic
    real = written(save(tmp_path / "b", synthetic=False)).replace("synthetic</td>", "").replace("data synthetic", "")
    assert "synthetic" not in real.split("</style>")[1].replace("thorax CT phantoms", "")


def test_the_digest_is_worked_out_when_the_summary_is_missing(tmp_path):
    run = save(tmp_path / "run", rounds=2)
    text = written(run)
    assert record.digest(staged(rounds=2)) in text
    assert record.digest(staged(rounds=2)) in report.markdown(run)


def test_a_written_summary_is_used(tmp_path):
    run = save(tmp_path / "run", rounds=2)
    sink = Summary()
    for event in staged(rounds=2):
        sink(event)
    content = sink.document(digest="feed" * 8, executor="ray", wall_seconds=61.0, consensus_distance=0.5, versions={"torch": "2.10.0"})
    save_summary(content, run / "summary.json")
    text = written(run)
    assert "feed" * 8 in text
    assert "--executor ray" in text
    assert "version of torch" in text


@pytest.mark.parametrize("count", [0, 1, 9, 40, 150, 500])
def test_a_run_cut_short_still_has_a_report(tmp_path, count):
    text = written(recorded(tmp_path, staged()[:count]))
    assert "interrupted" in text


@pytest.mark.parametrize(
    "options", [{"twins": 1, "rounds": 1}, {"twins": 2}, {"exchange": False}, {"lost": True}, {"twins": 45, "rounds": 3}]
)
def test_small_large_lonely_and_degraded_runs_have_a_report(tmp_path, options):
    text = written(recorded(tmp_path, staged(**options)))
    assert ("was lost" in text) == bool(options.get("lost"))


def test_a_thousand_twins_fit_two_megabytes(tmp_path):
    text = written(recorded(tmp_path, staged(twins=1000, rounds=2)))
    assert len(text) < 2_000_000
    assert "of 1,000" in text
    assert max(table.count("<tr") for table in re.findall(r"<table.*?</table>", text, flags=re.S)) <= 101


def test_previews_are_shown_once_per_scanner_and_within_bounds(tmp_path):
    run = recorded(tmp_path, staged(twins=60, rounds=1))
    (run / "previews").mkdir()
    for i in range(1, 61):
        (run / "previews" / f"ct-{i:02d}.png").write_bytes(png(seed=i))
    shown = written(run).count("data:image/png;base64,")
    assert 1 < shown <= 24


def test_names_from_a_scenario_cannot_break_the_page(tmp_path):
    evil = "<script>alert('x')</script>\"&"
    stream = [
        fact.RunPlanned(
            t=0.0, name=evil, seed=1, rounds=1, classes=(evil, "b"), synthetic=True,
            facts={
                "twins": {evil: {"scanner": {"vendor": evil, "kernel": evil, "dose": 1.0}, "neighbours": [evil]}},
                "policies": {evil: evil}, "edges": [[evil, "b", {}]],
            },
        ),
        fact.TwinReady(t=0.0, twin=evil, incarnation=1, train=1, validation=1, test=1, patients=1, labels=(1, 2)),
        fact.IncidentBegan(t=0.5, twin=evil, kind=evil, text=evil),
        fact.FrameSent(t=0.6, twin=evil, to="b", round=1, bytes=9, arrives=None, lost=evil),
        fact.FrameRefused(t=0.7, twin=evil, sender="b", round=1, code="E415", reason=evil),
        fact.Scored(t=1.0, twin=evil, round=1, split="test", metrics={"accuracy": 0.5, "confusion": ((1, 0), (1, 0))}),
        fact.Scored(t=2.0, twin=evil, round=2, split="test", metrics={"accuracy": 0.6, "confusion": ((1, 0), (0, 1))}),
    ]  # fmt: skip
    assert "alert(" in written(recorded(tmp_path, stream))


def test_a_folder_without_events_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="E501"):
        report.write(tmp_path)


def test_the_verdict_is_only_as_strong_as_the_interval():
    assert story.verdict(0.1, (0.05, 0.15)).startswith("Exchange brought 10.0")
    assert story.verdict(-0.1, (-0.15, -0.05)).startswith("Exchange cost 10.0")
    assert "not clearly different" in story.verdict(0.1, (-0.05, 0.25))
    assert story.verdict(0.1, None) == "Exchange brought 10.0 percentage points."


def test_the_story_says_how_each_incident_was_survived():
    history = fold((0.0, event) for event in staged())
    told = {span.kind + ",".join(span.twins): text for span, text in story.trouble(history, history.rank())}
    assert "went on without it" in told["outagecloud"]
    assert "merged again at" in told["outagecloud"]
    assert "neighbours merged 3 times without it" in told["outagect-03"]
    assert "came back 8.00 s later" in told["crashct-05"]
    assert "finished 12 of 12 rounds" in told["joinct-08"]


def test_a_revived_twin_counts_once_per_round():
    bands = by_round({"a": [Point(1.0, 1, 0.2), Point(2.0, 2, 0.4), Point(5.0, 2, 0.6)], "b": [Point(3.0, 2, 0.8)]})
    assert [(band.x, band.mean, band.twins) for band in bands] == [(1.0, 0.2, 1), (2.0, pytest.approx(0.7), 2)]


def test_rounds_counted_from_zero_are_drawn_from_one():
    stream = [fact.FitStarted(t=0.0, twin="a", round=0, until=1.0)]
    stream += [fact.Scored(t=float(k), twin="a", round=k, split="test", metrics={"accuracy": 0.5}) for k in range(3)]
    history = fold((0.0, event) for event in stream)
    assert [band.x for band in by_round(history.scores["test"])] == [1.0, 2.0, 3.0]


def test_what_a_twin_kept_of_itself_is_what_it_gave_to_nobody():
    history = fold([(0.0, fact.Merged(t=1.0, twin="a", round=0, weights={"b": 0.25, "c": 0.25}, staleness=0.0))])
    assert history.influence["a", "a"] == pytest.approx(0.5)


def test_over_time_every_twin_keeps_its_last_value():
    bands = by_time({"a": [Point(1.0, 1, 0.2), Point(3.0, 2, 0.4)], "b": [Point(2.0, 1, 0.6)]})
    assert [(band.x, band.mean, band.low, band.high) for band in bands] == [
        (1.0, 0.2, 0.2, 0.2), (2.0, 0.4, 0.2, 0.6), (3.0, 0.5, 0.4, 0.6),
    ]  # fmt: skip
    moved = by_bytes(bands, [(0.5, 1_000_000), (2.5, 3_000_000)])
    assert [band.x for band in moved] == [1.0, 1.0, 3.0]


def test_ticks_are_round_numbers_inside_the_range():
    for low, high in ((0.0, 1.0), (0.31, 0.87), (0.0, 353.8), (0.0, 12.0), (1e-6, 3e-6)):
        ticks = Scale(low, high, 0, 100).ticks(5)
        assert 2 <= len(ticks) <= 8
        assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert step_of(0.0) == 1.0


def test_a_flat_curve_and_a_curve_of_one_moment_can_be_drawn():
    for bands in ([Band(0.0, 0.5, 0.5, 0.5, 1)], [Band(0.0, 0.5, 0.5, 0.5, 1), Band(9.0, 0.5, 0.5, 0.5, 1)]):
        ElementTree.fromstring(curves(Plot("flat", "round", bands)))
