from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from p2pftl.device import receive as module
from p2pftl.device.receive import CT_IMAGE, DOSE_REPORT, VERIFICATION, Receiver, receive
from p2pftl.device.show import SUFFIX
from p2pftl.device.watch import Totals, watch
from p2pftl.errors import DataError, UsageError
from tests.device.ct_headers import event, image, report
from tests.imaging.ct_file import PIXELS, SECRET, encode, text, uid

pynetdicom = pytest.importorskip("pynetdicom", reason="the extra dicomnet is not installed")

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"


def ct(number: int = 1, **more: Any) -> pydicom.FileDataset:
    return pydicom.dcmread(BytesIO(encode(image(number, **more))), force=True)


def send(
    port: int, *what: pydicom.Dataset, title: str = "P2PFTL", caller: str = "CT99", contexts: tuple[str, ...] = (CT_IMAGE, DOSE_REPORT)
) -> list[int | None]:
    """Send over one association; the statuses, None where no answer came, [] where the association was refused."""
    entity = pynetdicom.AE(ae_title=caller)
    for context in contexts:
        entity.add_requested_context(context, "1.2.840.10008.1.2.1")
    link = entity.associate("127.0.0.1", port, ae_title=title)
    if not link.is_established:
        return []
    connection = link.dul.socket.socket
    try:
        return [getattr(link.send_c_store(data), "Status", None) if link.is_established else None for data in what]
    finally:
        if link.is_established:
            link.release()
        connection.close()  # pynetdicom leaves it open where the other side was quicker


@pytest.fixture(scope="module")
def only_receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(tmp_path_factory.mktemp("receive") / "in", port=0) as receiver:
        yield receiver


@pytest.fixture
def receiver(only_receiver: Receiver) -> Receiver:
    """The same for all tests (it takes half a second to end), emptied."""
    for path in stored(only_receiver):
        path.unlink()
    only_receiver.refused.clear()
    return only_receiver


def stored(receiver: Receiver) -> list[Path]:
    assert [path for path in receiver.folder.iterdir() if path.suffix != ".dcm"] == []
    return sorted(receiver.folder.glob("*.dcm"))


def test_it_answers_an_echo(receiver: Receiver) -> None:
    entity = pynetdicom.AE()
    entity.add_requested_context(VERIFICATION)
    link = entity.associate("127.0.0.1", receiver.port, ae_title="P2PFTL")
    assert link.send_c_echo().Status == 0
    link.release()


def test_an_image_and_a_dose_report_are_stored_as_they_were_sent(receiver: Receiver) -> None:
    one, dose = ct(), report([event()])
    assert send(receiver.port, one, dose) == [0, 0]
    files = stored(receiver)
    found = {str(data.SOPInstanceUID): data for data in map(pydicom.dcmread, files)}
    assert found[one.SOPInstanceUID].PixelData == one.PixelData
    assert found.keys() == {str(one.SOPInstanceUID), str(dose.SOPInstanceUID)}
    assert not any(SECRET in path.name or "1.2.3" in path.name for path in files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in [*files, receiver.folder])


def test_an_image_sent_twice_is_one_file(receiver: Receiver) -> None:
    assert send(receiver.port, ct(), ct()) == [0, 0]
    assert len(stored(receiver)) == 1


def test_what_is_neither_ct_nor_dose_report_is_not_even_negotiated(receiver: Receiver) -> None:
    other = ct(tags={0x00080016: ("UI", uid(MR_IMAGE))})
    assert send(receiver.port, other, contexts=(MR_IMAGE,)) == []
    assert stored(receiver) == []


def renamed(request: Any) -> None:
    request.AffectedSOPInstanceUID = "1.2.66"


def of_another_class(request: Any) -> None:
    request.AffectedSOPClassUID = MR_IMAGE


def with_another_content(request: Any) -> None:
    request.DataSet = BytesIO(encode(image(2))[encode(image(2)).index(b"\x08\0\x08\0CS") :])


def with_noise(request: Any) -> None:
    request.DataSet = BytesIO(b"\xff" * 64)


@pytest.mark.parametrize(
    ("change", "status"), [(renamed, 0xA900), (of_another_class, 0x0122), (with_another_content, 0xA900), (with_noise, 0xC000)]
)
def test_what_is_not_what_its_request_says_is_refused(receiver: Receiver, change: Callable[[Any], None], status: int) -> None:
    entity = pynetdicom.AE(ae_title="CT99")
    entity.add_requested_context(CT_IMAGE, "1.2.840.10008.1.2.1")
    link = entity.associate("127.0.0.1", receiver.port, ae_title="P2PFTL")
    really = link.dimse.send_msg
    link.dimse.send_msg = lambda request, context: (change(request), really(request, context))
    try:
        assert link.send_c_store(ct()).Status == status
    finally:
        link.release()
    assert receiver.refused == {f"0x{status:04X}": 1}
    assert stored(receiver) == []


def test_a_broken_image_is_stored_and_left_to_the_ingest(receiver: Receiver) -> None:
    assert send(receiver.port, ct(tags={PIXELS: None})) == [0]
    assert len(stored(receiver)) == 1


def test_an_object_above_the_limit_is_refused_for_lack_of_resources(tmp_path: Path) -> None:
    with Receiver(tmp_path / "in", port=0, limit=len(encode(image())) - 300) as receiver:
        assert send(receiver.port, ct()) == [0xA700]
        assert stored(receiver) == []


def test_a_sender_that_sends_without_end_is_hung_up_on(tmp_path: Path) -> None:
    with Receiver(tmp_path / "in", port=0, limit=20_000) as receiver:
        big = ct()
        big.PixelData = bytes(2_000_000)
        assert send(receiver.port, big) == [None]
        assert receiver.refused == {"too large": 1}
        assert send(receiver.port, ct()) == [0]
        assert len(stored(receiver)) == 1


def test_a_full_disk_is_a_status_and_leaves_no_file(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, f"No space left on {SECRET}")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert send(receiver.port, ct()) == [0xA700]
    assert stored(receiver) == []
    assert send(receiver.port, ct()) == [0]


def test_another_called_title_is_refused(receiver: Receiver) -> None:
    assert send(receiver.port, ct(), title="OTHER") == []


def test_only_named_senders_may_send_where_any_are_named(tmp_path: Path) -> None:
    with Receiver(tmp_path / "in", port=0, callers=["CT01"]) as receiver:
        assert send(receiver.port, ct(), caller="CT02") == []
        assert send(receiver.port, ct(), caller="CT01") == [0]


def test_a_port_in_use_is_one_clear_error(tmp_path: Path, receiver: Receiver) -> None:
    with pytest.raises(UsageError, match="E603"):
        Receiver(tmp_path / "other", port=receiver.port)
    with pytest.raises(UsageError, match="E603"):
        Receiver(tmp_path / "other", port=70_000)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_it_opens_to_the_network_for_named_senders_only(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="E615"):
        Receiver(tmp_path / "in", port=0, host=host)


def test_without_pynetdicom_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynetdicom", None)
    with pytest.raises(UsageError, match=r"E614.*dicomnet"):
        Receiver(tmp_path / "in", port=0)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="E30"):
        Receiver(tmp_path / "file" / "in", port=0)


def test_it_ends_while_somebody_is_connected_and_gives_the_port_back(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "in", port=0)
    entity = pynetdicom.AE(ae_title="CT99")
    entity.add_requested_context(CT_IMAGE)
    link = entity.associate("127.0.0.1", receiver.port, ae_title="P2PFTL")
    assert link.is_established
    receiver.close()
    receiver.close()
    with socket.create_server(("127.0.0.1", receiver.port)):
        """Free again."""
    link.abort()


def test_nothing_that_was_sent_reaches_a_log(
    receiver: Receiver, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        odd = {0x00180060: ("DS", text(SECRET)), 0x00080022: ("DA", text(SECRET)), 0x00083010: ("UI", text(SECRET))}
        receiver_log = [record for record in caplog.records if record.threadName != "MainThread"]
        assert send(receiver.port, ct(tags=odd)) == [0]
    assert receiver_log == []
    assert SECRET not in "".join(capfd.readouterr())


def test_what_is_received_becomes_twins(tmp_path: Path) -> None:
    stop, said, found = threading.Event(), list[str](), list[Totals]()

    def work() -> None:
        how: dict[str, Any] = {"port": 0, "every": 0.02, "calm": 0.0, "wait": 0.0, "stop": stop, "say": said.append}
        found.append(receive(tmp_path / "in", tmp_path / "out", **how))

    thread = threading.Thread(target=work)
    thread.start()
    while not said:
        time.sleep(0.01)
    port = int(said[0].rpartition(":")[2])
    images = [ct(number, series=number % 2, serial=str(number % 3), z=2.0 * number) for number in range(12)]
    assert send(port, *images, images[0], report([event()], study=5)) == [0] * 14
    until = time.monotonic() + 20
    while time.monotonic() < until and not list((tmp_path / "out").glob(f"*{SUFFIX}")):
        time.sleep(0.02)
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    assert found[0].images + found[0].reports > 0
    assert said[0].startswith("P2PFTL listens on")
    rest = watch(tmp_path / "in", tmp_path / "out", every=0.01, once=True, say=said.append)
    assert (rest.images, rest.reports, rest.refused) == (12, 1, {})
    assert sorted(rest.twins.values()) == [0, 4, 4, 4]  # the report is another scanner's
    assert not any(SECRET in line for line in said)


def test_the_limits_leave_room_for_every_ct_slice() -> None:
    assert module.LIMIT > 2 * 2048 * 2048
