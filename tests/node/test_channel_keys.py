"""The handshake of direct connections: whoever does not have the secret, or repeats what was said, gets nowhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from peerllm.errors import BadFrame
from peerllm.wire.channel_keys import (
    HELLO_BYTES,
    PROOF_BYTES,
    REPLY_BYTES,
    AnsweringHandshake,
    ChannelKeys,
    Link,
    OpeningHandshake,
    _Noise,
    link_context,
    link_secret,
    read_hello,
)
from peerllm.wire.sealed_frames import Sealer
from tests.support.streams import FAR, NEAR

LINK = Link(bytes(range(16)), NEAR, FAR, bytes(range(32)))
PURPOSE = "peerllm.session/1"


def _handshake(opener: Link = LINK, answerer: Link = LINK, number: int = 7) -> tuple[ChannelKeys, ChannelKeys]:
    opening = OpeningHandshake(opener, number, PURPOSE)
    answering = AnsweringHandshake(answerer, opening.hello)
    proof = opening.proof(answering.reply)
    return opening.keys, answering.keys(proof)


def test_both_sides_have_the_same_keys_and_each_direction_its_own() -> None:
    opener, answerer = _handshake()
    assert (opener.send, opener.receive) == (answerer.receive, answerer.send)
    assert opener.send != opener.receive


def test_no_connection_has_the_keys_of_another() -> None:
    keys = [key for _ in range(20) for key in (lambda pair: (pair[0].send, pair[0].receive))(_handshake())]
    assert len(set(keys)) == 40


def test_the_purpose_is_known_once_the_hello_is_proven_and_nothing_shows_it_before() -> None:
    opening = OpeningHandshake(LINK, 0, PURPOSE)
    answering = AnsweringHandshake(LINK, opening.hello)
    assert answering.is_for(PURPOSE)
    assert not answering.is_for("peerllm.push/1")
    assert read_hello(opening.hello) == (LINK.link_id, 0)
    assert (len(opening.hello), len(answering.reply)) == (HELLO_BYTES, REPLY_BYTES)


@pytest.mark.parametrize(
    "other",
    [
        replace(LINK, secret=bytes(32)),
        replace(LINK, opener=FAR, answerer=NEAR),
        replace(LINK, opener=FAR),
        replace(LINK, link_id=bytes(16)),
    ],
    ids=["secret", "roles", "opener", "link"],
)
def test_who_agreed_on_something_else_is_refused(other: Link) -> None:
    with pytest.raises(BadFrame):
        AnsweringHandshake(other, OpeningHandshake(LINK, 0, PURPOSE).hello)


@given(bit=st.integers(0, 8 * HELLO_BYTES - 1))
def test_any_flipped_bit_of_a_hello_is_refused(bit: int) -> None:
    hello = _flipped(OpeningHandshake(LINK, 7, PURPOSE).hello, bit)
    with pytest.raises(BadFrame):
        _answer(hello)


@given(bit=st.integers(0, 8 * REPLY_BYTES - 1))
def test_any_flipped_bit_of_a_reply_is_refused(bit: int) -> None:
    opening = OpeningHandshake(LINK, 7, PURPOSE)
    reply = AnsweringHandshake(LINK, opening.hello).reply
    with pytest.raises(BadFrame):
        opening.proof(_flipped(reply, bit))


@given(bit=st.integers(0, 8 * PROOF_BYTES - 1))
def test_any_flipped_bit_of_a_proof_is_refused(bit: int) -> None:
    opening = OpeningHandshake(LINK, 7, PURPOSE)
    answering = AnsweringHandshake(LINK, opening.hello)
    with pytest.raises(BadFrame):
        answering.keys(_flipped(opening.proof(answering.reply), bit))


@given(length=st.integers(0, 2 * HELLO_BYTES).filter(lambda length: length != HELLO_BYTES))
def test_messages_of_another_length_are_refused(length: int) -> None:
    opening = OpeningHandshake(LINK, 7, PURPOSE)
    with pytest.raises(BadFrame):
        read_hello((opening.hello * 2)[:length])
    with pytest.raises(BadFrame):
        opening.proof((AnsweringHandshake(LINK, opening.hello).reply * 4)[: length if length != REPLY_BYTES else 0])


def test_a_recorded_hello_and_its_proof_prove_nothing_to_a_new_answer() -> None:
    opening = OpeningHandshake(LINK, 7, PURPOSE)
    proof = opening.proof(AnsweringHandshake(LINK, opening.hello).reply)
    with pytest.raises(BadFrame):
        AnsweringHandshake(LINK, opening.hello).keys(proof)


def test_a_reply_to_another_hello_is_refused() -> None:
    recorded = AnsweringHandshake(LINK, OpeningHandshake(LINK, 7, PURPOSE).hello).reply
    with pytest.raises(BadFrame):
        OpeningHandshake(LINK, 7, PURPOSE).proof(recorded)


def test_what_was_said_is_of_no_use_when_it_is_said_back() -> None:
    opening = OpeningHandshake(LINK, 7, PURPOSE)
    with pytest.raises(BadFrame):
        opening.proof(opening.hello[-REPLY_BYTES:])
    answering = AnsweringHandshake(LINK, opening.hello)
    with pytest.raises(BadFrame):
        answering.keys(answering.reply[-PROOF_BYTES:])


def test_a_link_has_one_secret_which_depends_on_everything_that_was_said() -> None:
    here, there = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    opener, answerer = here.public_key().public_bytes_raw(), there.public_key().public_bytes_raw()
    context = link_context(bytes(16), NEAR, FAR)
    secret = link_secret(here, answerer, opener=opener, answerer=answerer, context=context)
    assert secret == link_secret(there, opener, opener=opener, answerer=answerer, context=context)
    others = [link_context(bytes(15), NEAR, FAR), link_context(bytes(16), FAR, NEAR)]
    assert secret not in [
        link_secret(here, answerer, opener=opener, answerer=answerer, context=other) for other in others
    ]


def test_a_public_key_that_fixes_the_secret_is_refused() -> None:
    own = X25519PrivateKey.generate()
    with pytest.raises(BadFrame):
        link_secret(own, bytes(32), opener=bytes(32), answerer=bytes(32), context=b"")


def test_messages_are_those_of_another_implementation_of_the_noise_framework() -> None:
    """Made by the package noiseprotocol 0.3.1 from these ephemeral keys, this prologue and this secret."""
    noise = _Noise(b"prologue", bytes(range(32)))
    opener = X25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
    answerer = X25519PrivateKey.from_private_bytes(bytes(range(64, 96)))
    there, back = (key.public_key().public_bytes_raw() for key in (opener, answerer))
    noise.mix_ephemeral(there)
    assert (there + noise.seal(b"payload")).hex() == (
        "358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254255426900da19ac5effea867729e545c2fc5ffd98aa8ae"
    )
    noise.mix_ephemeral(back)
    noise.mix_key(opener.exchange(answerer.public_key()))
    assert (back + noise.seal(b"")).hex() == (
        "79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51aa4b07f281f4426e9132dd24d259e844c"
    )
    assert noise.hash.hex() == "4d4b6a758857107bf767750603cd9b45816f6ba28955f37c18dca44f671ea0a8"
    first, second, _ = noise.split()
    assert Sealer(first).seal(b"there")[1].hex() == "357e7eceda1b0a17ba918b5bdb366bb53f8fe5b484"
    assert Sealer(second).seal(b"back")[1].hex() == "847b9684d6a126ac5f0c3aa1144d168135941d58"


def _answer(hello: bytes) -> AnsweringHandshake:
    link_id, _ = read_hello(hello)
    return AnsweringHandshake(replace(LINK, link_id=link_id), hello)


def _flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
