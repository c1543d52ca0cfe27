import struct

import msgpack
import numpy as np
import pytest

from peerllm.errors import BadFrame
from peerllm.wire.codec import HEADER_BYTES, MAX_CONTROL_BYTES, MAX_STEP_BYTES, FrameDecoder, encode
from peerllm.wire.messages import (
    Assemble,
    Assembled,
    At,
    Attach,
    Attached,
    Close,
    Contested,
    Countersigned,
    Declined,
    Digest,
    Digested,
    Extend,
    Failed,
    FailureCode,
    Invite,
    Leaving,
    Message,
    Open,
    Opened,
    Ping,
    Pong,
    Prefixes,
    Recall,
    Receipt,
    RefusalCode,
    Refused,
    Rest,
    Resume,
    Resumed,
    Rewind,
    Step,
    Want,
    Where,
    Willing,
    WireDtype,
    new_session_id,
)
from peerllm.wire.receipt_messages import RECEIPT_BYTES, SIGNATURE_BYTES
from peerllm_swarm.group_traffic import SyncForm
from peerllm_swarm.span import PeerId
from tests.support.streams import same, step

EVERY_MESSAGE: list[Message] = [
    Open(new_session_id(), "ab" * 8, 3, 9, 4096, WireDtype.FLOAT32, PeerId("12D3KooWA"), None, ()),
    Open(new_session_id(), "ab" * 8, 0, 1, 1, WireDtype.FLOAT16, None, PeerId("12D3KooWB"), ("/ip4/10.0.0.2/tcp/1",)),
    Opened(4096),
    Refused(RefusalCode.NO_SLOT, "4 of 4 sessions are taken", 2.5),
    Attach(new_session_id()),
    Attached(),
    step(rows=1, hidden=4096),
    step(rows=33, hidden=17, dtype=WireDtype.FLOAT32),
    Step(7, 0, Want.NONE, np.zeros((0, 64), np.float16), ((1, 2), (3, 0xFFFFFFFF))),
    Rewind(12),
    Resume(40, 17, PeerId("12D3KooWA"), PeerId("12D3KooWB"), ("/ip4/10.0.0.2/tcp/1",), 0),
    Resume(0, 1, None, None, (), None),
    Resumed(17),
    Where(),
    At(17, 16, 40),
    Failed(3, FailureCode.NEXT_GONE, "der nächste Knoten ist weg"),
    Close("done"),
    Ping(1 << 63),
    Pong(0),
    Leaving(30.0),
    Recall(0, 512),
    Digest(3, 4),
    Digested(bytes(range(16))),
    Rest(),
    Extend(40, 17, 4096),
    Prefixes(3, (16, 32, 1000), bytes(range(48))),
    Prefixes(3, (), b""),
    Receipt(bytes(range(RECEIPT_BYTES)), bytes(SIGNATURE_BYTES)),
    Countersigned(bytes(range(SIGNATURE_BYTES))),
    Contested("900 tokens claimed, 300 sent"),
    Invite(
        bytes(16),
        "ab" * 8,
        3,
        9,
        ((PeerId("12D3KooWA"), ()), (PeerId("12D3KooWB"), ("/ip4/10.0.0.2/tcp/1",))),
        ((0, 2, 0, 96), (2, 3, 96, 192)),
        SyncForm.Q80,
        4,
        2048,
    ),
    Willing(),
    Declined("its owner needs it"),
    Assemble(),
    Assembled(1 << 40),
]


def _frame(message: Message) -> bytes:
    return b"".join(encode(message))


def _raw(code: int, body: bytes, *, magic: int = 0xB1, flags: int = 0, size: int | None = None) -> bytes:
    return struct.pack("<BBHI", magic, code, flags, len(body) if size is None else size) + body


def _step_body(
    *, rows: int = 1, hidden: int = 4, dtype: int = 1, want: int = 1, timings: int = 0, last: int = 0
) -> bytes:
    return struct.pack("<IIIIBBBB", 1, 2, rows, hidden, dtype, want, timings, last) + bytes(8)


@pytest.mark.parametrize("message", EVERY_MESSAGE, ids=lambda message: type(message).__name__)
def test_every_message_comes_back(message: Message) -> None:
    [decoded] = FrameDecoder().feed(_frame(message))
    assert same(decoded, message)


def test_bytes_may_come_in_any_pieces() -> None:
    sent = b"".join(_frame(message) for message in EVERY_MESSAGE)
    for size in (1, 2, 3, 7, 8, 9, 64, 1000, len(sent)):
        decoder = FrameDecoder()
        pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
        decoded = [message for piece in pieces for message in decoder.feed(piece)]
        assert all(same(*pair) for pair in zip(decoded, EVERY_MESSAGE, strict=True))


def test_a_step_is_laid_out_as_documented() -> None:
    """The bytes of docs/protocol.md: a change here is a new version of the protocol."""
    message = Step(1, 2, Want.ALL, np.array([[1.0, -2.0]], np.float16), ((3, 4),))
    assert _frame(message).hex(" ") == (
        "b1 06 00 00 20 00 00 00"  # magic and version, type, flags, length
        " 01 00 00 00 02 00 00 00 01 00 00 00 02 00 00 00 01 02 01 00"  # step, position, T, D, dtype, want, timings, 0
        " 03 00 00 00 04 00 00 00"  # queue, compute
        " 00 3c 00 c0"
    )


def test_a_control_message_is_laid_out_as_documented() -> None:
    assert _frame(Opened(300)).hex(" ") == "b1 02 00 00 04 00 00 00 91 cd 01 2c"
    assert _frame(Attached()).hex(" ") == "b1 05 00 00 01 00 00 00 90"


def test_rows_are_copied_neither_on_the_way_out_nor_in() -> None:
    message = step(rows=4)
    _, payload = encode(message)
    assert np.shares_memory(np.frombuffer(payload, np.uint8), message.hidden)
    data = _frame(message)
    [decoded] = FrameDecoder().feed(data)
    assert isinstance(decoded, Step)
    assert np.shares_memory(decoded.hidden, np.frombuffer(data, np.uint8))


def test_rows_of_different_frames_do_not_share_memory() -> None:
    decoder = FrameDecoder()
    first, second = _frame(step(1)), _frame(step(2))
    decoded = [*decoder.feed(first[:20]), *decoder.feed(first[20:] + second[:20]), *decoder.feed(second[20:])]
    assert same(decoded[0], step(1))
    assert same(decoded[1], step(2))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_raw(5, b"\x90", magic=0xB2), id="another version"),
        pytest.param(b"GET / HTTP/1.1\r\n", id="another protocol"),
        pytest.param(_raw(0, b"\x90"), id="type 0"),
        pytest.param(_raw(200, b"\x90"), id="unknown type"),
        pytest.param(_raw(5, b"\x90", flags=1), id="unknown flag"),
        pytest.param(_raw(5, b"", size=MAX_CONTROL_BYTES + 1), id="control too long"),
        pytest.param(_raw(6, b"", size=MAX_STEP_BYTES + 1), id="step too long"),
        pytest.param(_raw(5, b""), id="empty body"),
        pytest.param(_raw(5, b"\x90\x90"), id="bytes behind the body"),
        pytest.param(_raw(5, b"\x91\x01"), id="a field too many"),
        pytest.param(_raw(2, b"\x90"), id="a field too few"),
        pytest.param(_raw(2, b"\x05"), id="no array"),
        pytest.param(_raw(2, msgpack.packb(["300"]) or b""), id="wrong type"),
        pytest.param(_raw(2, msgpack.packb([{"a": 1}]) or b""), id="map for a number"),
        pytest.param(_raw(2, b"\x91\xd4\x01\x00"), id="extension type"),
        pytest.param(_raw(9, b"\x91\xa2\xff\xfe"), id="no UTF-8"),
        pytest.param(_raw(9, b"\x91\xdb\xff\xff\xff\xff"), id="text of 4 GiB"),
        pytest.param(_raw(2, b"\xdd\xff\xff\xff\xff"), id="array of 4 G"),
        pytest.param(_raw(2, b"\x91" * 10_000 + b"\x01"), id="nested 10000 times"),
        pytest.param(_raw(6, bytes(19)), id="step shorter than its header"),
        pytest.param(_raw(6, _step_body(dtype=0)), id="no dtype"),
        pytest.param(_raw(6, _step_body(dtype=3)), id="unknown dtype"),
        pytest.param(_raw(6, _step_body(want=4)), id="unknown want"),
        pytest.param(_raw(6, _step_body(last=1)), id="reserved byte"),
        pytest.param(_raw(6, _step_body(timings=65)), id="too many timings"),
        pytest.param(_raw(6, _step_body(timings=1)), id="payload shorter than said"),
        pytest.param(_raw(6, _step_body(hidden=3)), id="payload longer than said"),
        pytest.param(_raw(6, _step_body(rows=0, hidden=0)), id="no D"),
        pytest.param(_raw(6, _step_body(rows=4097)), id="too many rows"),
        pytest.param(_raw(6, _step_body(rows=0xFFFFFFFF, hidden=0xFFFFFFFF)), id="huge shape"),
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    for pieces in ([data], [data[:5], data[5:]], [data[:HEADER_BYTES], data[HEADER_BYTES:]]):
        decoder = FrameDecoder()
        with pytest.raises(BadFrame):
            [list(decoder.feed(piece)) for piece in pieces]


def test_messages_before_the_garbage_are_still_delivered() -> None:
    feeding = FrameDecoder().feed(_frame(Rewind(1)) + b"garbage!")
    assert next(feeding) == Rewind(1)
    with pytest.raises(BadFrame):
        next(feeding)


def test_a_header_that_promises_too_much_is_refused_before_anything_is_kept() -> None:
    with pytest.raises(BadFrame):
        list(FrameDecoder().feed(_raw(6, b"", size=0xFFFFFFFF)))
