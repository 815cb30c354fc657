"""`p2pftl twin`: what is known of a scanner, where it comes from, what if it ran otherwise. Thin like cli.py, and caught by it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p2pftl.errors import DataError, ScenarioError, UsageError, nearest
from p2pftl.observe.units import some

if TYPE_CHECKING:
    from p2pftl.device.supplied import Check
    from p2pftl.device.whatif import Answer
    from p2pftl.imaging.scanner import Scanner

FAILED = 1  # exit code of a phantom that fails
STORY = ("created", "lifecycle", "maintained", "happened", "quarantine", "model_flag", "desired", "acknowledged")

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="The scanner behind a twin: state, log, quality assurance, what-if. Start with [bold]p2pftl twin simulate --out DIR[/bold].",
)


class Form(StrEnum):
    """How a device is exported."""

    json = "json"
    dtdl = "dtdl"


class Kernel(StrEnum):
    """Kernels of the model."""

    soft = "soft"
    standard = "standard"
    lung = "lung"
    bone = "bone"


Place = Annotated[Path, typer.Argument(metavar="RUN_OR_DIR", help="The folder of a run or of twins, or one log in it.", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Which twin.", show_default=False)]
AnyName = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Which twin; all of them if not given.", show_default=False)]
Local = Annotated[bool, typer.Option("--local", help="Also what must not leave the twin: hashed serial number, dates of the hardware.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the twins.")]
Every = Annotated[float, typer.Option(min=0.05, max=3600, metavar="S", help="Seconds between two looks.")]
Calm = Annotated[float, typer.Option(min=0, metavar="S", help="A series is complete when nothing came for so long.")]
Wait = Annotated[float, typer.Option(min=0, metavar="S", help="How long a dose report is waited for.")]


PatientRule = Annotated[
    str, typer.Option("--phantom-patient", metavar="PATTERN", help='Patient ids that are test objects, as in "QA*".', show_default=False)
]
ProtocolRule = Annotated[
    str, typer.Option("--phantom-protocol", metavar="PATTERN", help="Protocol names that are test objects.", show_default=False)
]


@app.command()
def show(place: Place, name: AnyName = None, local: Local = False) -> int:
    """Show what is known of a scanner, and since when and from where; without NAME one line per twin."""
    from p2pftl.device import show as words

    day_s = _day_s(place)
    for one in _names(place, name):
        log = words.opened(place, one)
        if name or place.is_file():
            typer.echo(words.show(log.state, calendar=words.Calendar.of(log, day_s), local=local))
        else:
            state = log.state
            about = [str(known) for path in ("attributes.vendor", "attributes.model", "config.kernel_group") if (known := state.get(path))]
            typer.echo(f"{one}: {state.lifecycle}, {len(log)} entries" + (f" ({' '.join(about)})" if about else ""))
    return 0


@app.command()
def history(
    place: Place,
    name: Name,
    kind: Annotated[list[str] | None, typer.Option(metavar="KIND", help="Only facts of this kind. Repeatable.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also readings, exposures and phantoms.")] = False,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the last N.", show_default=False)] = None,
) -> int:
    """Tell what happened to a scanner, oldest first: incidents, alarms, services, states of its life."""
    from p2pftl.device import show as words
    from p2pftl.device.state import FACTS

    for one in kind or ():
        if one not in FACTS:
            raise UsageError("E613", f"no such kind of fact: {one}", fix=nearest(one, FACTS))
    log = words.opened(place, name)
    kinds = () if everything else tuple(kind or STORY)
    typer.echo(words.history(log, calendar=words.Calendar.of(log, _day_s(place)), kinds=kinds, last=last or 0))
    left = sum(entry.fact.kind not in kinds for entry in log.entries)
    if left and not kind and not everything:
        typer.echo(f"and {left} readings, phantoms and exposures: --all shows them")
    return 0


@app.command()
def export(
    place: Place,
    name: Name,
    form: Annotated[Form, typer.Option(help="An Eclipse Ditto thing, or the DTDL model of every twin.")] = Form.json,
    local: Local = False,
) -> int:
    """Print a scanner's state for other programs, with unit, time and source of every value."""
    from p2pftl.device import show as words

    typer.echo(words.exported(words.opened(place, name), form.value, local=local))
    return 0


@app.command()
def verify(
    place: Place,
    name: AnyName = None,
    head: Annotated[
        str, typer.Option(metavar="HASH", help="The head that was kept: shows a cut-off end as well.", show_default=False)
    ] = "",
) -> int:
    """Check a log, entry by entry; one that was changed, cut or reordered is refused at that entry."""
    from p2pftl.device import show as words

    names = _names(place, name)
    if head and len(names) > 1:
        raise UsageError("E613", "--head belongs to one twin", fix="give its NAME")
    for one in names:
        typer.echo(words.verify(place, one, expected=head.lower()))
    return 0


@app.command()
def whatif(
    place: Place,
    name: Name,
    dose: Annotated[float, typer.Option(metavar="FACTOR", help="Factor on the tube load.")] = 1.0,
    kernel: Annotated[Kernel | None, typer.Option(help="Another reconstruction kernel.", show_default=False)] = None,
    slice_mm: Annotated[
        float | None, typer.Option("--slice", min=0.01, metavar="MM", help="Another slice thickness.", show_default=False)
    ] = None,
    kvp: Annotated[float | None, typer.Option(min=1, metavar="KV", help="Another tube voltage.", show_default=False)] = None,
) -> int:
    """Predict noise, sharpness, dose, tube life and, in a run, accuracy under another protocol. Nothing is sent to the scanner."""
    if dose == 1 and kernel is None and slice_mm is None and kvp is None:
        raise UsageError("E613", "nothing is asked", fix="give --dose, --kernel, --slice or --kvp")
    from p2pftl.device import show as words
    from p2pftl.device.whatif import Question, ask, protocol

    state = words.opened(place, name).state
    answer = ask(state, Question(dose, kernel.value if kernel else None, kvp, slice_mm))
    now, then = protocol(state), answer.scanner
    typer.echo(f"{state.name}: {now.kvp:g} kV, {now.mas * now.dose:g} mAs, {now.slice_mm:g} mm, {now.kernel}")
    typer.echo(f"what if: {then.kvp:g} kV, {then.mas * then.dose:g} mAs, {then.slice_mm:g} mm, {then.kernel}")
    _answer(answer)
    _model(place, state.name, now, then)
    if state.get("config.recon") is None:
        typer.echo("note: the headers do not say how it reconstructs; filtered backprojection is assumed")
    return 0


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write the logs to.", show_default=False)],
    scanners: Annotated[int, typer.Option(min=1, max=99, help="How many.")] = 3,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long they live.")] = 180,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 1,
    incident: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help='"hu_drift twin=ct-02 at=60 rate=0.5", days and HU per day. Repeatable.', show_default=False),
    ] = None,
    phantoms: Annotated[int, typer.Option(min=0, max=100, help="Also write the last so many daily water phantoms as DICOM.")] = 0,
) -> int:
    """Write months of device life of a few synthetic scanners as logs."""
    from p2pftl.device.fleet import simulate as live
    from p2pftl.device.fleet import told

    incidents = [told(text) for text in incident or ()]
    live(out, scanners=scanners, days=days, seed=seed, incidents=incidents, phantoms=phantoms, say=typer.echo)
    return 0


@app.command()
def qa(
    places: Annotated[list[Path], typer.Argument(metavar="FILES_OR_DIR", help="DICOM of a water phantom.", show_default=False)],
    patients: Annotated[bool, typer.Option("--patients", help="Look at air, fat and aorta of patients instead; it only warns.")] = False,
) -> int:
    """Measure water phantoms: HU, noise, uniformity, rings, sharpness; judged day by day. Exit code 1 if one fails."""
    from p2pftl.device.supplied import measure

    for one in places:
        _is_there(one, "give files, or the folder that holds them")
    if patients:
        return _patients(places)
    found = measure(places)
    for place, (title, checks) in enumerate(found.checks.items()):
        typer.echo(("\n" if place else "") + title)
        typer.echo("   day  images  water HU  noise HU  edge HU  air HU  ring HU  MTF50/mm  NPS/mm  status")
        for check in checks:
            typer.echo(_check(check))
    _refused(found.refused)
    return FAILED if any(check.status == "fail" for checks in found.checks.values() for check in checks) else 0


def _patients(places: Sequence[Path]) -> int:
    """Say what patients' slices tell of the calibration of each scanner: pass or warn, medians over slices."""
    from p2pftl.device.supplied import patients

    found, refused = patients(places)
    width = max(map(len, found))
    typer.echo(f"{'scanner':{width}}  slices  air HU  fat HU  aorta HU  status")
    for title, one in found.items():
        air, fat, aorta = ("-" if value is None else f"{value:.0f}" for value in (one.middle.air, one.middle.fat, one.middle.aorta))
        why = f": {'; '.join(one.reasons)}" if one.reasons else ""
        typer.echo(f"{title:{width}}  {one.images:6d}  {air:>6s}  {fat:>6s}  {aorta:>8s}  {one.status}{why}")
    _refused(refused)
    return 0


def _refused(refused: Mapping[str, Sequence[int]]) -> None:
    for code, numbers in sorted(refused.items()):
        listed = ", ".join(map(str, numbers[:10])) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
        typer.echo(f"not measured: {code}, files {listed} (in natural order of their paths)")


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that DICOM files arrive in.", show_default=False)],
    out: Out = Path("twins"),
    once: Annotated[bool, typer.Option("--once", help="Take what is there, then stop.")] = False,
    every: Every = 1.0,
    calm: Calm = 5.0,
    wait: Wait = 600.0,
    patient: PatientRule = "",
    protocol: ProtocolRule = "",
) -> int:
    """Follow a folder into one twin per scanner, until Ctrl-C: configuration, dose, tube load. Exit code 1 if a scanner's phantom fails."""
    from p2pftl.device.headers import Site
    from p2pftl.device.watch import watch as follow

    _not_logs(out)
    _is_there(folder, "give the folder that DICOM files arrive in")
    follow(folder, out, every=every, calm=calm, wait=wait, once=once, site=Site(patient, protocol), say=typer.echo)
    return _failing(out)


@app.command()
def receive(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 11112,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; another one than this machine's needs --from.")
    ] = "127.0.0.1",
    title: Annotated[str, typer.Option(metavar="AE", help="Application entity title.")] = "P2PFTL",
    callers: Annotated[
        list[str] | None, typer.Option("--from", metavar="AE", help="Take from this sender only. Repeatable.", show_default=False)
    ] = None,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Folder to keep the received files in.")] = Path("received"),
    out: Out = Path("twins"),
    every: Every = 1.0,
    calm: Calm = 5.0,
    wait: Wait = 600.0,
    patient: PatientRule = "",
    protocol: ProtocolRule = "",
) -> int:
    """Receive DICOM (C-STORE) into one twin per scanner, until Ctrl-C. Needs the extra dicomnet."""
    from p2pftl.device.headers import Site
    from p2pftl.device.receive import receive as listen

    for one in (title, *(callers or ())):
        if not (one.strip() and one.isascii() and one.isprintable() and len(one) <= 16 and "\\" not in one):
            raise UsageError("E613", f"{one!r} is no application entity title", fix="1 to 16 ASCII characters")
    listen(
        folder, out, port=port, host=host, title=title, callers=callers or (), every=every, calm=calm, wait=wait,
        site=Site(patient, protocol), say=typer.echo,
    )  # fmt: skip
    return 0


@app.command()
def service(
    place: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of watched twins.", show_default=False)],
    name: Name,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="What was done: air_cal, water_cal, tube_replace ...", show_default=False)],
    by: Annotated[str, typer.Option(metavar="WHO", help="Who did it, as a role.", show_default=False)],
    part: Annotated[str, typer.Option(metavar="TEXT", help="Which part.", show_default=False)] = "",
    note: Annotated[str, typer.Option(metavar="TEXT", help="What else is to remember.", show_default=False)] = "",
    hours: Annotated[float, typer.Option(min=0, metavar="H", help="How long the scanner stood still.")] = 0.0,
) -> int:
    """Record a service that was done to a watched scanner: it is trusted again when its next phantoms pass."""
    from p2pftl.device.service import serviced

    state = serviced(place, name, kind, time.time(), by=by, part=part, note=note, downtime_h=hours)
    typer.echo(f"{name}: {kind.replace('_', ' ')} recorded, now {state.lifecycle}")
    return 0


def _names(place: Path, name: str | None) -> list[str]:
    """The twin that is asked for, else all that have a log."""
    from p2pftl.device.show import SUFFIX

    if name is not None:
        return [name]
    if place.is_file():
        return [place.name.removesuffix(SUFFIX)]
    found = {file.name.removesuffix(SUFFIX) for folder in (place, place / "twins") for file in folder.glob(f"*{SUFFIX}")}
    return sorted(found) or [""]  # nothing found is said by whoever opens it


def _day_s(place: Path) -> float:
    """Seconds of a device day: as the run's scenario has it, else those of a day."""
    from p2pftl.device.tube import DAY

    run = _run_of(place)
    if run is None:
        return DAY
    from p2pftl.scenario.load import load

    device = load(run / "scenario.yaml").device
    return DAY if device is None else device.day_s


def _run_of(place: Path) -> Path | None:
    """The run folder that holds `place`: itself, or the one whose twins it is or is in."""
    folders = (place, *place.absolute().parents[:2])
    return next((one for one in folders if (one / "scenario.yaml").is_file() and (one == place or (one / "twins").is_dir())), None)


def _is_there(place: Path, fix: str) -> None:
    if not place.exists():
        raise DataError("E301", "no such file or folder", where=place.name, fix=fix)


def _failing(out: Path) -> int:
    """Say which scanners' last phantom failed; the exit code."""
    from p2pftl.device import show as words

    code = 0
    for name in filter(None, _names(out, None)):
        state = words.opened(out, name).state
        if state.get("qa.status") == "fail":
            typer.echo(f"{name}: the last phantom failed, {state.get('qa.reason')}")
            code = FAILED
    return code


def _not_logs(out: Path) -> None:
    if out.is_file():
        raise UsageError("E510", "the twins' folder is a file", where=out.name, fix="choose another --out")


def _answer(answer: Answer) -> None:
    from p2pftl.device.whatif import rows

    labels = {"noise": "noise, HU", "cnr": "CNR of 20 HU", "mtf50": "MTF50, 1/mm", "nps_f": "mean noise frequency, 1/mm"}
    typer.echo(f"\n{'':<30}{'now':>10}{'then':>10}{'change':>10}")
    for what, now, then in rows(answer):
        typer.echo(f"{labels.get(what, what):<30}{now:>10.3g}{then:>10.3g}{100 * (then / now - 1):>+9.0f} %")
    if answer.life is None or answer.gained is None:
        typer.echo("tube life: not known, the log has no load per day")
    else:
        life = answer.life
        typer.echo(f"tube life left then: {life.p50:.0f} days (p10 {life.p10:.0f}, p90 {life.p90:.0f}), {answer.gained:+.0f} at the median")
    for note in answer.notes:
        typer.echo(f"note: {note}")


def _model(place: Path, name: str, now: Scanner, then: Scanner) -> None:
    """What the twin's final model makes of slices scanned so, where they can be; else why not."""
    run = _run_of(place)
    if run is None:
        typer.echo("model metrics: none, this is not the folder of a run")
        return
    from p2pftl.rescan import rescan

    try:
        found = rescan(run, name, now, then)
    except ScenarioError as error:
        typer.echo(f"model metrics: none, {error.problem} ({error.fix})")
        return
    rows = [("accuracy", found.now["accuracy"], found.then["accuracy"]), ("AUROC", found.now["auroc"], found.then["auroc"])]
    typer.echo(f"final model, {some(found.images, 'synthetic validation slice')} scanned anew:")
    for label, before, after in rows:
        shown = ["undefined" if value is None else f"{value:.3f}" for value in (before, after)]
        change = "" if before is None or after is None else f"{after - before:+.3f}"
        typer.echo(f"{label:<30}{shown[0]:>10}{shown[1]:>10}{change:>10}")


def _check(check: Check) -> str:
    found = check.reading
    hu = f"{found.mean:>8.1f}  {found.sd:>8.2f}  {found.unif:>7.1f}  {found.air:>6.0f}  {found.ring:>7.2f}"
    said = "  ".join(part for part in (check.status, "; ".join(check.reasons)) if part)
    day = "?" if check.day is None else f"{check.day:.1f}"
    return f"{day:>6}  {check.images:>6}  {hu}  {found.mtf50:>8.3f}  {found.nps_f:>6.3f}  {said}"
