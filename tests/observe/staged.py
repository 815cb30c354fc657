"""A staged run: the events that a swarm of twins on a ring would emit, with everything that can go wrong, without training anything."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path
from typing import Any

from p2pftl import events as fact
from p2pftl.events import Event

VENDORS = ("SIEMENS", "GE", "PHILIPS", "TOSHIBA")
KERNELS = ("bone", "standard", "lung", "soft")
CLASSES = ("clear", "ground glass", "nodule")
FRAME = 48_200
CLOUD_DOWN = (62.0, 128.0)


class Staged:
    """Twin i fits for a time of its own; frames take 0.2 s and 5 MB/s; the rest is a script scaled to `rounds`."""

    def __init__(
        self, twins: int = 8, rounds: int = 12, seed: int = 7, exchange: bool = True, synthetic: bool = True, lost: bool = False
    ) -> None:
        self.names = [f"ct-{i:0{len(str(twins)) if twins > 99 else 2}d}" for i in range(1, twins + 1)]
        self.rounds, self.seed, self.exchange, self.synthetic, self.lost_for_real = rounds, seed, exchange, synthetic, lost
        self.random = random.Random(seed)
        self.events: list[Event] = []
        self.heard: dict[str, list[tuple[float, str]]] = {name: [] for name in self.names}
        eventful = exchange and twins >= 6
        self.down = {self.names[2]: (70.0, 105.0)} if eventful else {}
        self.crash = (self.names[4], 84.0, 92.0) if eventful else None
        self.late = (self.names[-1], 40.0) if eventful else None

    def neighbours(self, i: int) -> list[str]:
        n = len(self.names)
        return sorted({self.names[(i - 1) % n], self.names[(i + 1) % n]} - {self.names[i]})

    def scanner(self, i: int) -> dict[str, Any]:
        return {
            "vendor": VENDORS[i % 4], "kernel": KERNELS[i // 2 % 4], "kvp": 120.0, "mas": 100.0, "dose": (1.0, 0.5, 0.25)[i % 3],
            "slice_mm": (1.5, 3.0)[i % 2], "hu_offset": (0.0, 0.0, 12.0, -8.0)[i % 4], "speed": (1.0, 0.6, 1.4)[i % 3],
        }  # fmt: skip

    def labels(self, i: int) -> tuple[int, ...]:
        chance = random.Random(f"{self.seed} {i}")
        return tuple(chance.randint(4, 70) for _ in CLASSES)

    def facts(self) -> dict[str, Any]:
        n = len(self.names)
        edges = [
            [self.names[i], self.names[(i + 1) % n], {"latency": 0.2, "bandwidth": 5e6, "loss": 0.02}] for i in range(n if n > 2 else n - 1)
        ]
        edges += [[name, "cloud", {"latency": 0.4, "bandwidth": 1e7, "loss": 0.0}] for name in self.names] if self.exchange else []
        twins = {
            name: {
                "scanner": self.scanner(i), "train": sum(self.labels(i)), "validation": 24, "test": 120, "patients": 12 + i % 5,
                "labels": dict(zip(CLASSES, self.labels(i), strict=True)), "neighbours": self.neighbours(i),
            }
            for i, name in enumerate(self.names)
        }  # fmt: skip
        return {
            "twins": twins, "edges": edges, "positions": {}, "exchange": self.exchange,
            "topology": {
                "kind": "ring", "twins": n, "edges": n, "diameter": n // 2, "degree_min": 2, "degree_mean": 2.0, "degree_max": 2,
                "spectral_gap": 0.1953, "mixing": "metropolis", "static": True,
            },
            "cloud": {"use": "fedavg", "every": 4, "wait": 3.0} if self.exchange else None,
            "incidents": self.script(),
            "predicted": {"bytes": 9_400_000, "virtual_seconds": 190.0, "frame_bytes": FRAME, "header_bytes": 400},
            "model": {"backbone": "compact", "parameters": 48_131, "shared": 47_936, "weights": None, "digest": "9c1f0a77"},
            "policies": {
                "transfer": {"use": "fedbn"}, "aggregator": {"use": "weighted_mean"}, "codec": {"use": "half"},
                "partners": {"use": "all"}, "pace": {"use": "synchronous", "wait": 1.5}, "mixing": "metropolis",
            },
            "data": {"use": "phantom", "synthetic": self.synthetic, "classes": list(CLASSES), "patients": 120, "images": 960, "test": 120},
        }  # fmt: skip

    def script(self) -> list[dict[str, Any]]:
        if not self.down:
            return []
        down, (from_, to) = self.names[2], self.down[self.names[2]]
        return [
            {"kind": "join", "twins": [self.names[-1]], "at": 40.0, "until": None, "text": f"{self.names[-1]} joins late"},
            {"kind": "outage", "twins": ["cloud"], "at": CLOUD_DOWN[0], "until": CLOUD_DOWN[1], "text": "the cloud is down"},
            {"kind": "outage", "twins": [down], "at": from_, "until": to, "text": f"{down} is switched off"},
            {
                "kind": "slow_link",
                "twins": self.names[:2],
                "at": 30.0,
                "until": 110.0,
                "text": f"the link {self.names[0]}, {self.names[1]} is 10 times slower",
            },
            {"kind": "crash", "twins": [self.names[4]], "at": 84.0, "until": 92.0, "text": f"the process of {self.names[4]} is killed"},
        ]

    def run(self) -> list[Event]:
        self.events.append(
            fact.RunPlanned(
                t=0.0, name="quickstart", seed=self.seed, rounds=self.rounds, classes=CLASSES, synthetic=self.synthetic, facts=self.facts()
            )
        )
        times = {name: self.fits(i) for i, name in enumerate(self.names)}
        if self.exchange:
            for i, name in enumerate(self.names):
                self.frames(i, name, times[name])
        for i, name in enumerate(self.names):
            self.learning(i, name, times[name])
        self.incidents()
        end = max(event.t for event in self.events)
        self.events.append(fact.RunFinished(t=end, status="degraded" if self.lost_for_real else "done"))
        order = {id(event): number for number, event in enumerate(self.events)}
        return sorted(self.events, key=lambda event: (event.t, order[id(event)]))

    def fits(self, i: int) -> list[tuple[float, float]]:
        """(start, end) of every fit of twin i."""
        name = self.names[i]
        t = self.late[1] if self.late and self.late[0] == name else 0.0
        span = sum(self.labels(i)) * 0.09 / self.scanner(i)["speed"] + 2.0
        found = []
        for _ in range(self.rounds):
            until = t + span
            for off, on in [
                *([self.down[name]] if name in self.down else []),
                *([self.crash[1:]] if self.crash and self.crash[0] == name else []),
            ]:
                if t < on and until > off:
                    t, until = on, on + span
            found.append((t, until))
            t = until + 1.5
        return found

    def frames(self, i: int, name: str, fits: list[tuple[float, float]]) -> None:
        for number, (_, sent) in enumerate(fits, 1):
            for to in self.neighbours(i):
                slow = 10 if {name, to} == set(self.names[:2]) and 30 < sent < 110 else 1
                arrives = sent + 0.2 + FRAME / 5e6 * slow
                why = "loss" if self.random.random() < 0.03 else ""
                if to in self.down and self.down[to][0] < arrives < self.down[to][1]:
                    why = "receiver down"
                self.events.append(
                    fact.FrameSent(t=sent, twin=name, to=to, round=number, bytes=FRAME, arrives=None if why else arrives, lost=why)
                )
                if why:
                    continue
                if self.random.random() < 0.02:
                    self.events.append(fact.FrameRefused(t=arrives, twin=to, sender=name, round=number, code="E407", reason="duplicate"))
                    continue
                if number == 6 and i == 1:
                    self.events.append(fact.FrameRefused(t=arrives, twin=to, sender=name, round=number, code="E415", reason="not finite"))
                    continue
                self.events.append(fact.FrameHeard(t=arrives, twin=to, sender=name, round=number, bytes=FRAME, staleness=arrives - sent))
                self.heard[to].append((arrives, name))
            if number % 4 == 0:
                self.ask_cloud(name, number, sent)

    def ask_cloud(self, name: str, number: int, sent: float) -> None:
        dead = CLOUD_DOWN[0] < sent < CLOUD_DOWN[1]
        self.events.append(
            fact.FrameSent(
                t=sent,
                twin=name,
                to="cloud",
                round=number,
                bytes=FRAME,
                arrives=None if dead else sent + 0.4,
                lost="receiver down" if dead else "",
            )
        )
        if dead:
            self.events.append(fact.CloudMissed(t=sent + 1.5, twin=name, round=number))
            return
        self.events.append(fact.CloudMerged(t=sent + 0.5, twin="cloud", round=number // 4, twins=(name,), samples=90))
        self.events.append(fact.FrameSent(t=sent + 0.5, twin="cloud", to=name, round=number, bytes=FRAME, arrives=sent + 0.9))
        self.heard[name].append((sent + 0.9, "cloud"))

    def learning(self, i: int, name: str, fits: list[tuple[float, float]]) -> None:
        """What is seen of the twin itself: fits, merges and scores that rise and saturate, lower without exchange."""
        labels = self.labels(i)
        self.events.append(
            fact.TwinReady(
                t=0.0,
                twin=name,
                incarnation=1,
                train=sum(labels),
                validation=24,
                test=120,
                patients=12 + i % 5,
                labels=labels,
                scanner=self.scanner(i),
            )
        )
        top = (0.86 if self.exchange else 0.68) - 0.05 * (i % 3)
        before = 0.0
        for number, (start, end) in enumerate(fits, 1):
            level = 0.34 + (top - 0.34) * (1 - 0.76**number) + self.random.uniform(-0.03, 0.03)
            self.events.append(fact.FitStarted(t=start, twin=name, round=number, until=end))
            self.events.append(
                fact.Fitted(t=end, twin=name, round=number, loss=1.4 - level + 0.05 * (i % 2), samples=sum(labels), steps=9, trained=1.0)
            )
            merged = end + 1.5
            came = sorted({sender for at, sender in self.heard[name] if before < at <= merged})
            weights = {sender: round(1 / 3, 4) for sender in came} | {name: round(1 - len(came) / 3, 4)}
            missing = tuple(sorted(set(self.neighbours(i)) - set(came))) if self.exchange else ()
            self.events.append(fact.Merged(t=merged, twin=name, round=number, weights=weights, staleness=0.2 + 0.02 * i, missing=missing))
            for split in ("validation", "test"):
                if split == "validation" or number % 2 == 0 or number == self.rounds:
                    self.events.append(
                        fact.Scored(
                            t=merged, twin=name, round=number, split=split, metrics=self.metrics(level, 120 if split == "test" else 24)
                        )
                    )
            self.events.append(fact.RoundDone(t=merged, twin=name, round=number, bytes_sent=2 * FRAME * number, heard=len(came)))
            before = merged
        digest = f"{zlib.crc32(f'{self.seed} {name}'.encode()):08x}" * 4
        if not (self.lost_for_real and i == 0):
            self.events.append(fact.TwinDone(t=before, twin=name, rounds=self.rounds, model=digest))

    def metrics(self, level: float, count: int) -> dict[str, Any]:
        each = count // len(CLASSES)
        right = [min(each, max(0, round(each * level + self.random.uniform(-2, 2)))) for _ in CLASSES]
        confusion = tuple(
            tuple(
                right[a] if a == b else (each - right[a] + (b > a)) // 2 if abs(a - b) <= 1 or a == 1 else (each - right[a]) // 2
                for b in range(3)
            )
            for a in range(3)
        )
        accuracy = sum(right) / (each * 3)
        return {
            "accuracy": accuracy, "balanced_accuracy": accuracy - 0.01, "precision": accuracy + 0.012, "recall": accuracy - 0.01,
            "f1": accuracy - 0.004, "auroc": min(1.0, accuracy + 0.1) if count > 24 else None,
            "loss": 1.3 - accuracy, "confusion": confusion,
        }  # fmt: skip

    def incidents(self) -> None:
        for item in self.script():
            twin = item["twins"][0] if len(item["twins"]) == 1 else ""
            if item["kind"] == "crash":
                self.events += [
                    fact.IncidentBegan(t=item["at"], twin=twin, kind="crash", text=item["text"]),
                    fact.Crashed(t=item["at"], twin=twin, incarnation=1, scripted=True),
                    fact.Revived(t=item["until"], twin=twin, incarnation=2, round=6),
                    fact.TwinReady(
                        t=item["until"], twin=twin, incarnation=2, train=90, validation=24, test=120, patients=12, labels=(30, 30, 30)
                    ),
                ]
                continue
            self.events.append(fact.IncidentBegan(t=item["at"], twin=twin, kind=item["kind"], text=item["text"]))
            if item["until"] is not None:
                text = {"cloud": "the cloud is back", "": "the link is as before"}.get(twin, f"{twin} is back")
                self.events.append(fact.IncidentEnded(t=item["until"], twin=twin, kind=item["kind"], text=text))
        if self.lost_for_real:
            self.events += [
                fact.Crashed(t=150.0, twin=self.names[0], incarnation=1, scripted=False),
                fact.TwinLost(t=155.0, twin=self.names[0], incarnation=1, reason="its process died twice"),
            ]


def staged(**options: Any) -> list[Event]:
    """The events of a staged run, in order of virtual time."""
    return Staged(**options).run()


def png(width: int = 128, height: int = 128, seed: int = 0) -> bytes:
    """A grey PNG with a blob in it."""
    rows = b"".join(
        b"\x00"
        + bytes(min(255, max(0, int(200 - ((x - width / 2) ** 2 + (y - height / 2) ** 2) / 20 + seed * 7 % 40))) for x in range(width))
        for y in range(height)
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def save(run: Path, **options: Any) -> Path:
    """Write a run folder: events of the staged run and of its control, and previews (portrait, landscape and square ones)."""
    from p2pftl.observe.record import Record

    with Record(run / "events.msgpack") as sink:
        for event in staged(**options):
            sink(event)
    with Record(run / "control" / "events.msgpack") as sink:
        for event in staged(**{**options, "exchange": False}):
            sink(event)
    (run / "previews").mkdir()
    for i, name in enumerate(Staged(**options).names[:8]):
        (run / "previews" / f"{name}.png").write_bytes(png(*((128, 128), (96, 128), (128, 90))[i % 3], seed=i))
    return run
