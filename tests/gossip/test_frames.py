"""A frame is believed after every check, refused by the code of TRUST.md section 8 (M), and nothing but FrameRefused ever escapes."""

from __future__ import annotations

import math
import pickle
import sys
import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pftl.agenda import Parcel
from p2pftl.device.lifecycle import NEXT
from p2pftl.errors import FrameRefused
from p2pftl.events import FrameRefused as FrameRefusedFact
from p2pftl.gossip.frames import HEADER_CAP, PREFIX, VERSION, Header, digest, finite, plain, seal, unseal
from p2pftl.gossip.seams import LIFECYCLES
from p2pftl.world.topologies import Ring
from tests.gossip.mail import EXPECTED, PART, WHOLE, altered, frame, header, mailbox, wrapped
from tests.toys import LAYOUT, Toy, toy

HEAD, PAYLOAD = frame()
SIZE = PAYLOAD.nbytes
BODY = HEAD[PREFIX.size :]


def code(head: bytes, payload: memoryview | bytes = PAYLOAD) -> str:
    """The code a frame is refused by, "" if it is accepted."""
    try:
        mailbox().open(head, memoryview(payload), 5.0)
    except FrameRefused as refusal:
        return refusal.code
    return ""


def with_(**changes: Any) -> str:
    return code(*altered(lambda plain: {**plain, **changes}))


def test_a_good_frame_says_what_was_sent() -> None:
    assert unseal(HEAD, PAYLOAD, EXPECTED) == header()
    assert (mailbox().open(HEAD, PAYLOAD, 5.0).part.values == PART).all()


def test_short_cut_and_lengthened_frames_are_e401() -> None:
    for end in range(len(HEAD)):
        assert code(HEAD[:end]) == "E401"
    assert code(b"") == "E401"
    assert code(HEAD + b"\0") == "E401"
    assert code(HEAD, bytes(PAYLOAD)[:-1]) == "E401"
    assert code(HEAD, bytes(PAYLOAD) + b"\0") == "E401"


def test_anything_but_our_magic_is_e402_pickle_too() -> None:
    assert code(b"P2PG" + HEAD[4:]) == "E402"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert code(pickle.dumps([PART] * 3, protocol)) == "E402"


def test_another_version_is_e403() -> None:
    assert code(wrapped(BODY, SIZE, version=VERSION + 1)) == "E403"
    assert code(wrapped(BODY, SIZE, version=VERSION - 1)) == "E403"


def test_what_claims_to_be_too_long_is_e404_before_it_is_read() -> None:
    assert code(wrapped(BODY, SIZE, said=HEADER_CAP + 1)) == "E404"
    assert code(wrapped(BODY, 2**63)) == "E404"
    with pytest.raises(FrameRefused, match="E404"):
        seal(header(run="r" * 5000), np.zeros(0, np.uint8))


def test_an_unknown_sender_is_e405_also_oneself() -> None:
    assert with_(sender="ct-09") == with_(sender="ct-01") == with_(sender="") == "E405"


def test_one_flipped_bit_of_the_payload_is_e406() -> None:
    for bit in range(0, 8 * SIZE, 5):
        flipped = bytearray(PAYLOAD)
        flipped[bit // 8] ^= 1 << bit % 8
        assert code(HEAD, bytes(flipped)) == "E406"
    assert with_(sha256=b"") == with_(sha256=bytes(32)) == "E406"


def test_another_run_or_receiver_is_e410() -> None:
    assert with_(run="other") == with_(receiver="ct-03") == "E410"


@pytest.mark.parametrize("key", list(Header.__dataclass_fields__))
def test_a_missing_key_and_one_of_another_type_are_e412(key: str) -> None:
    assert code(*altered(lambda plain: {name: value for name, value in plain.items() if name != key})) == "E412"
    for wrong in (None, True, {"a": 1}, [None], "1" if key not in ("run", "kind", "sender", "receiver", "codec", "layout") else 1):
        assert with_(**{key: wrong}) in {"E412", "E413"}


def test_an_unknown_key_and_a_key_that_is_no_text_are_e412() -> None:
    assert with_(extra=1) == "E412"
    assert code(*altered(lambda plain: {1: 2, **plain})) == "E412"
    assert code(*altered(lambda plain: {b"run": 2, **plain})) == "E412"


def test_a_duplicate_key_is_e412() -> None:
    pairs = msgpack.unpackb(BODY, object_pairs_hook=list)
    packer = msgpack.Packer()
    doubled = packer.pack_map_header(len(pairs) + 1) + b"".join(packer.pack(item) for pair in (*pairs, pairs[0]) for item in pair)
    assert code(wrapped(doubled, SIZE)) == "E412"
    assert code(wrapped(packer.pack_map_header(len(pairs)) + b"".join(packer.pack(i) for p in pairs for i in p), SIZE)) == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        BODY + b"\0",
        BODY[:-1],
        msgpack.packb([1, 2]),
        msgpack.packb("text"),
        msgpack.packb(None),
        msgpack.packb({"run": msgpack.ExtType(5, b"x")}),
        msgpack.packb({"run": msgpack.Timestamp(1)}),
        b"\x91" * 3000 + b"\xc0",
        b"\x81\xa1a" * 1300 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xffaaaa",
        b"\x81\xa1\xff\x00",
        msgpack.packb({"run": "r" * 200}),
        pickle.dumps({"run": 1}),
    ],
)
def test_a_header_that_is_not_one_map_of_plain_values_is_e412(body: bytes) -> None:
    assert code(wrapped(body, SIZE)) == "E412"


def test_impossible_values_are_e412() -> None:
    assert with_(kind="order") == with_(round=-1) == with_(seq=-1) == with_(incarnation=-1) == with_(degree=-1) == "E412"
    assert with_(met=-2) == with_(answers=-2) == "E412"
    for name in ("age", "mass", "sent_at", "closes"):
        assert with_(**{name: -1.0}) == with_(**{name: math.nan}) == with_(**{name: -math.inf}) == with_(**{name: 1e300}) == "E412"
    assert with_(age=math.inf) == with_(mass=math.inf) == with_(sent_at=math.inf) == "E412"
    assert with_(closes=math.inf) == ""


def test_other_tensors_are_e413() -> None:
    n = LAYOUT.size
    assert with_(layout="0" * 16) == "E413"
    for ranges in (
        (),
        ((0, n + 1),),
        ((-1, n),),
        ((3, 3),),
        ((5, 2),),
        ((0, 4), (3, n)),
        ((4, n), (0, 4)),
        (0, n),
        ((0, 1, 2),),
        ((0.0, 4.0),),
    ):
        assert with_(ranges=ranges) == "E413"


def test_another_codec_or_payload_size_is_e414() -> None:
    assert with_(codec="Half") == "E414"
    assert with_(ranges=((0, 3),)) == with_(ranges=((0, LAYOUT.size - 1),)) == "E414"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_e415(bad: float) -> None:
    part = PART.copy()
    part[5] = bad
    assert code(*frame(part)) == "E415"
    with pytest.raises(FrameRefused, match="E415"):
        finite(part)


@pytest.mark.parametrize("samples", [0, -1, 10**18])
def test_an_impossible_number_of_samples_is_e417(samples: int) -> None:
    assert with_(samples=samples) == "E417"


MARKS = (1.7, 0.35, 0.5, 0.4, 6.0, 0.2)
GOOD = (MARKS, 0.5, "warn", "standard")


@pytest.mark.parametrize(
    "signs",
    [
        (),
        GOOD[:3],
        (*GOOD, "serial 4711"),
        (MARKS[:5], *GOOD[1:]),
        ((*MARKS, 1.0), *GOOD[1:]),
        ((1, *MARKS[1:]), *GOOD[1:]),
        ((math.nan, *MARKS[1:]), *GOOD[1:]),
        ((math.inf, *MARKS[1:]), *GOOD[1:]),
        ((1e9, *MARKS[1:]), *GOOD[1:]),
        (((1.0,), *MARKS[1:]), *GOOD[1:]),
        ("abcdef", *GOOD[1:]),
        (b"abcdef", *GOOD[1:]),
        (None, *GOOD[1:]),
        (MARKS, 1, *GOOD[2:]),
        (MARKS, True, *GOOD[2:]),
        (MARKS, 1.01, *GOOD[2:]),
        (MARKS, -0.01, *GOOD[2:]),
        (MARKS, math.nan, *GOOD[2:]),
        (*GOOD[:2], "broken", "standard"),
        (*GOOD[:2], 3, "standard"),
        (*GOOD[:2], ("warn",), "standard"),
        (*GOOD[:3], ""),
        (*GOOD[:3], "Jane"),
        (*GOOD[:3], "b70f"),
        (*GOOD[:3], "ä"),
        (*GOOD[:3], "a" * 17),
        (*GOOD[:3], 7),
    ],
)
def test_signs_are_four_values_of_known_kinds_and_nothing_else_is_e412(signs: Any) -> None:
    assert with_(signs=signs) == "E412"


def test_an_unknown_fingerprint_and_all_ways_of_a_devices_life_are_good_signs() -> None:
    assert with_(signs=GOOD) == with_(signs=((), *GOOD[1:])) == ""
    assert all(with_(signs=(MARKS, 0.0, now, "unknown")) == "" for now in LIFECYCLES)
    assert set(LIFECYCLES) == {"unknown", *NEXT}


def test_a_frame_without_an_update_is_believed_with_quality_0_only() -> None:
    nothing, silent = np.zeros(0, np.uint8), ((), 0.0, "quarantined", "soft")
    about = {"ranges": (), "sha256": digest(nothing)}

    def sent(payload: bytes, **changes: Any) -> str:
        body = msgpack.packb(plain(header()) | about | changes)
        return code(wrapped(body, len(payload)), payload)

    assert sent(b"", signs=silent) == ""
    assert sent(b"", signs=((), 0.5, "warn", "soft")) == "E413"
    assert sent(b"", signs=silent, kind="upload") == ""  # asks the cloud for the answer alone
    assert sent(b"", signs=silent, kind="answer") == "E413"
    assert sent(bytes(8), signs=silent, sha256=digest(np.zeros(8, np.uint8))) == "E413"
    assert sent(b"", signs=silent, ranges=WHOLE) == "E414"
    heard = mailbox().open(wrapped(msgpack.packb(plain(header()) | about | {"signs": silent}), 0), memoryview(b""), 5.0)
    assert heard.header.withheld
    assert len(heard.part.values) == 0


def test_part_of_the_tensors_can_travel() -> None:
    part = PART[2:7]
    assert unseal(*frame(part, ranges=((2, 4), (6, 9))), EXPECTED).ranges == ((2, 4), (6, 9))


def test_refusals_tell_nothing_of_what_was_sent() -> None:
    secret = "PATIENT-0815"
    for head, payload in (
        altered(lambda plain: {**plain, "sender": secret}),
        altered(lambda plain: {**plain, secret: 1}),
        (secret.encode() * 4, PAYLOAD),
    ):
        with pytest.raises(FrameRefused) as caught:
            unseal(head, memoryview(payload), EXPECTED)
        assert secret not in str(caught.value)


chunks = st.binary(max_size=40)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(at=st.integers(0, len(HEAD) - 1), cut=st.integers(0, 12), put=chunks)
@example(at=0, cut=0, put=b"")
def test_heads_with_bytes_changed_anywhere_are_accepted_or_refused_nothing_else(at: int, cut: int, put: bytes) -> None:
    code(HEAD[:at] + put + HEAD[at + cut :])


@settings(deadline=None, max_examples=200)
@given(
    body=chunks
    | st.dictionaries(st.text(max_size=9) | st.sampled_from(list(Header.__dataclass_fields__)), plain_values, max_size=20).map(
        msgpack.packb
    )
)
def test_any_header_bytes_are_refused(body: bytes) -> None:
    assert code(wrapped(body, SIZE)) in {"E404", "E412"}


@settings(deadline=None, max_examples=300)
@given(key=st.sampled_from(list(Header.__dataclass_fields__)), value=plain_values)
def test_any_value_of_any_key_is_accepted_or_refused_nothing_else(key: str, value: Any) -> None:
    with_(**{key: value})


@settings(deadline=None, max_examples=100)
@given(head=st.binary(max_size=200), payload=st.binary(max_size=200))
def test_noise_is_refused(head: bytes, payload: bytes) -> None:
    assert code(head, payload).startswith("E4")


class Effort:
    """Counts calls, of Python and of C functions; a clock would count the garbage of other tests too."""

    def __init__(self) -> None:
        self.calls = 0

    def __enter__(self) -> Effort:
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _count(self, frame: object, event: str, what: object) -> None:
        self.calls += event.endswith("call")


def test_the_dearest_headers_cost_a_bounded_effort() -> None:
    """As long as allowed, wrong at their very end: nested, many keys, many ranges, all in descending order at last."""
    pairs = tuple((2 * k, 2 * k + 1) for k in range(560))
    doubled = msgpack.packb(dict.fromkeys(map(str, range(31)), (0,) * 100))
    for body in (b"\x91" * (HEADER_CAP - 1) + b"\xc0", doubled, b"\x81\xa1a" * 1300 + b"\xc0", altered_body(ranges=(*pairs, (0, 1)))):
        assert len(body) <= HEADER_CAP
        with Effort() as effort:
            assert code(wrapped(body, SIZE)) in {"E412", "E413"}
        assert effort.calls < 10_000


def altered_body(**changes: Any) -> bytes:
    return altered(lambda plain: {**plain, **changes})[0][PREFIX.size :]


@pytest.mark.slow
@settings(deadline=None, max_examples=50_000)
@given(data=st.data())
def test_fifty_thousand_mutated_frames_are_refused_with_little_effort_and_memory(data: st.DataObject) -> None:
    mutated = bytearray(HEAD)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    tracemalloc.start()
    with Effort() as effort:
        code(bytes(mutated))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert effort.calls < 10_000
    assert peak < 64e6


def test_a_header_too_long_to_be_accepted_is_not_sent() -> None:
    many = tuple((2 * k, 2 * k + 1) for k in range(2000))
    with pytest.raises(FrameRefused, match="E404"):
        seal(header(ranges=many), np.zeros(0, np.uint8))


def test_the_hash_is_that_of_the_payload() -> None:
    assert header().sha256 == digest(np.frombuffer(PAYLOAD, np.uint8))
    assert ((0, PART.size),) == WHOLE


def test_a_payload_hashed_in_this_process_is_not_hashed_again_and_any_other_is() -> None:
    run = toy(Ring(names=("a", "b")).build(1), rounds=1)
    sender = run("a")
    sender.begin(0.0)
    (parcel,) = sender.advance(1e9).parcels
    assert parcel.payload is not None
    assert parcel.hashed == digest(parcel.payload)
    flipped = parcel.payload.copy()
    flipped[0] ^= 1
    swapped = replace(parcel, payload=flipped)
    elsewhere = pickle.loads(pickle.dumps(parcel))
    assert swapped.hashed is None
    assert elsewhere.hashed is None
    assert replace(elsewhere, payload=parcel.payload).hashed is None
    assert code_of(run, swapped) == "E406"
    assert code_of(run, elsewhere) == code_of(run, parcel) == ""


def code_of(run: Toy, parcel: Parcel) -> str:
    """How twin b takes it."""
    receiver = run("b")
    receiver.post(parcel)
    (event,) = receiver.advance(1e9).events
    return event.code if isinstance(event, FrameRefusedFact) else ""
