"""Who hears of events: sinks that may fail without ending the run, and one that notes what nobody scripted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from p2pftl.events import Event, FitRejected

Sink = Callable[[Event], None]


class Telling:
    """Passes events to sinks; a sink that raises is left out from then on and named, the run goes on.

    The recorder comes first and is not left out: what it cannot write ends the run with its error.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.recorder, *self.sinks = sinks
        self.broken: list[str] = []

    def __call__(self, event: Event) -> None:
        self.recorder(event)
        for sink in list(self.sinks):
            self._pass_on(sink, event)

    def _pass_on(self, sink: Sink, event: Event) -> None:
        try:
            sink(event)
        except Exception as error:
            self.sinks.remove(sink)
            self.broken.append(f"{type(sink).__name__} stopped: {type(error).__name__}")


class Diverged:
    """Collects fits that gave no usable parameters: nobody scripted them, so such a run is not simply done."""

    def __init__(self) -> None:
        self.fits: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, FitRejected):
            self.fits.append(f"a fit of {event.twin} diverged and was thrown away")
