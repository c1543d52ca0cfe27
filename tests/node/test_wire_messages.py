import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from peerllm.errors import BadFrame
from peerllm.wire.messages import (
    Assembled,
    At,
    Attach,
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
    Prefixes,
    Recall,
    Receipt,
    RefusalCode,
    Refused,
    Resume,
    Resumed,
    Rewind,
    SessionId,
    Step,
    Want,
    WireDtype,
    new_session_id,
)
from peerllm.wire.receipt_messages import RECEIPT_BYTES, SIGNATURE_BYTES
from peerllm_swarm.group_traffic import SyncForm
from peerllm_swarm.span import PeerId

OPEN = Open(
    session=SessionId(bytes(16)),
    fingerprint="0123456789abcdef",
    enter=0,
    exit=12,
    tokens=2048,
    wire_dtype=WireDtype.FLOAT16,
    previous=None,
    next=PeerId("12D3KooWNext"),
    next_addresses=("/ip4/10.0.0.2/tcp/7338",),
)
RESUME = Resume(5, 9, None, PeerId("12D3KooWNext"), ("/ip4/10.0.0.2/tcp/7338",), 0)
RECEIPT = Receipt(bytes(RECEIPT_BYTES), bytes(SIGNATURE_BYTES))
INVITE = Invite(
    group=bytes(16),
    fingerprint="0123456789abcdef",
    start=3,
    end=9,
    members=((PeerId("12D3KooWA"), ()), (PeerId("12D3KooWB"), ("/ip4/10.0.0.2/tcp/1",))),
    slices=((0, 2, 0, 96), (2, 3, 96, 192)),
    sync=SyncForm.Q80,
    slots=4,
    context_tokens=2048,
)
STEP = Step(1, 0, Want.LAST, np.zeros((2, 8), np.float16), ((10, 20),))


@pytest.mark.parametrize(
    ("message", "change"),
    [
        (OPEN, {"session": b"short"}),
        (OPEN, {"session": "0123456789abcdef"}),
        (OPEN, {"fingerprint": ""}),
        (OPEN, {"fingerprint": "x" * 513}),
        (OPEN, {"fingerprint": "bell\a"}),
        (OPEN, {"enter": 12}),
        (OPEN, {"enter": -1}),
        (OPEN, {"exit": 0}),
        (OPEN, {"exit": 4097}),
        (OPEN, {"exit": True}),
        (OPEN, {"tokens": 1 << 32}),
        (OPEN, {"tokens": 1.5}),
        (OPEN, {"silent_below": -1}),
        (RESUME, {"to": -1}),
        (RESUME, {"after": 1 << 32}),
        (RESUME, {"previous": ""}),
        (RESUME, {"next_addresses": ["/ip4/10.0.0.2/tcp/7338"]}),
        (RESUME, {"next_addresses": ("/ip4/10.0.0.2/tcp/7338",) * 17}),
        (RESUME, {"replay_from": 6}),
        (RESUME, {"replay_from": True}),
        (RESUME, {"next": None}),
        (At(1, 1, 1), {"received": -1}),
        (At(1, 1, 1), {"done": 1.0}),
        (At(1, 1, 1), {"position": None}),
        (Resumed(1), {"after": "1"}),
        (OPEN, {"wire_dtype": 3}),
        (OPEN, {"wire_dtype": True}),
        (OPEN, {"next": 7}),
        (OPEN, {"next": "é"}),
        (OPEN, {"next_addresses": ("/ip4/10.0.0.2/tcp/1",) * 17}),
        (OPEN, {"next_addresses": "/ip4/10.0.0.2/tcp/1"}),
        (OPEN, {"next_addresses": (b"/ip4",)}),
        (STEP, {"step": -1}),
        (STEP, {"position": 1 << 32}),
        (STEP, {"want": 4}),
        (STEP, {"hidden": np.zeros((2, 8), np.float64)}),
        (STEP, {"hidden": np.zeros((2, 8), ">f2")}),
        (STEP, {"hidden": np.zeros(8, np.float16)}),
        (STEP, {"hidden": np.zeros((8, 2), np.float16).T}),
        (STEP, {"hidden": np.zeros((4097, 1), np.float16)}),
        (STEP, {"hidden": np.zeros((1, 65537), np.float16)}),
        (STEP, {"hidden": np.zeros((1, 0), np.float16)}),
        (STEP, {"hidden": np.zeros((33, 32768), np.float32)}),
        (STEP, {"timings": ((1, 2),) * 65}),
        (STEP, {"timings": ((1, -2),)}),
        (Refused(RefusalCode.LOADING, "", 1.0), {"retry_after_s": math.nan}),
        (Refused(RefusalCode.LOADING, "", 1.0), {"retry_after_s": "soon"}),
        (Refused(RefusalCode.LOADING, "", 1.0), {"code": "because"}),
        (Failed(1, FailureCode.INTERNAL, ""), {"code": ["internal"]}),
        (Failed(1, FailureCode.INTERNAL, ""), {"message": b"bytes"}),
        (Attach(new_session_id()), {"session": None}),
        (Opened(1), {"tokens": -1}),
        (Rewind(1), {"to": None}),
        (Ping(1), {"stamp": 1 << 64}),
        (OPEN, {"sharing": 3}),
        (Prefixes(1, (4,), bytes(16)), {"positions": (0,)}),
        (Prefixes(1, (4,), bytes(16)), {"positions": [4]}),
        (Prefixes(1, (4, 8), bytes(32)), {"positions": (8, 4)}),
        (Prefixes(1, (4,), bytes(16)), {"digests": bytes(17)}),
        (Prefixes(1, (), b""), {"positions": tuple(range(1, 130)), "digests": bytes(16 * 129)}),
        (Leaving(1.0), {"within_s": -1.0}),
        (Close(""), {"reason": None}),
        (Recall(0, 1), {"start": 1}),
        (Recall(0, 1), {"end": 0}),
        (Recall(0, 1), {"end": 1 << 32}),
        (Digest(3, 4), {"start": -1}),
        (Digest(3, 4), {"end": True}),
        (Digested(bytes(16)), {"digest": bytes(15)}),
        (Extend(3, 9, 64), {"to": -1}),
        (Extend(3, 9, 64), {"after": 1 << 32}),
        (Extend(3, 9, 64), {"tokens": True}),
        (Digested(bytes(16)), {"digest": "0123456789abcdef"}),
        (RECEIPT, {"body": RECEIPT.body[1:]}),
        (RECEIPT, {"body": RECEIPT.body + b"\0"}),
        (RECEIPT, {"body": "0" * RECEIPT_BYTES}),
        (RECEIPT, {"signature": bytes(63)}),
        (Countersigned(bytes(64)), {"signature": b""}),
        (Countersigned(bytes(64)), {"signature": None}),
        (Contested(""), {"reason": b"bytes"}),
        (INVITE, {"group": bytes(15)}),
        (INVITE, {"start": 9}),
        (INVITE, {"sync": "float64"}),
        (INVITE, {"sync": {}}),
        (INVITE, {"slots": 256}),
        (INVITE, {"members": INVITE.members[:1], "slices": INVITE.slices[:1]}),
        (INVITE, {"members": INVITE.members * 5}),
        (INVITE, {"members": (INVITE.members[0],) * 2}),
        (INVITE, {"members": (INVITE.members[0], ("12D3KooWB",))}),
        (INVITE, {"members": (INVITE.members[0], ("12D3KooWB", ("/ip4/10.0.0.2/tcp/1",) * 17))}),
        (INVITE, {"members": (INVITE.members[0], ({}, ()))}),
        (INVITE, {"slices": INVITE.slices[:1]}),
        (INVITE, {"slices": (INVITE.slices[0], (3, 3, 96, 192))}),
        (INVITE, {"slices": (INVITE.slices[0], (2, 3, 96))}),
        (INVITE, {"slices": (INVITE.slices[0], (2, 3, 96, 1 << 25))}),
        (Assembled(1), {"weights_bytes": -1}),
        (Declined(""), {"reason": None}),
    ],
)
def test_nonsense_is_refused_when_built(message: Message, change: dict[str, Any]) -> None:
    with pytest.raises(BadFrame):
        dataclasses.replace(message, **change)


def test_an_overlong_error_message_is_cut_so_that_it_can_still_be_reported() -> None:
    assert len(Failed(1, FailureCode.INTERNAL, "x" * 10_000).message) == 512
    assert Close("half a surrogate \ud800").reason == "half a surrogate ?"


def test_codes_may_be_given_as_text() -> None:
    assert Refused("no_slot", "full") == Refused(RefusalCode.NO_SLOT, "full", 0.0)  # pyright: ignore[reportArgumentType]


def test_session_ids_are_random() -> None:
    assert len({new_session_id() for _ in range(100)}) == 100
