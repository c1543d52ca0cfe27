"""What a model's tokens are: their bytes, their kinds, and those that end an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

from peerllm.errors import BadModelFile

MAX_TOKENS = 1 << 22

SPM_SPACE = "▁"

# Tokens that end an answer whatever the metadata says; most GGUFs name only one of theirs.
# Source: the end-of-generation set of llama.cpp, src/llama-vocab.cpp.
ENDING_TEXTS = frozenset(
    (
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
        *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<eos>"),
        *("<end_of_utterance>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
        *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
        *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
    )
)


class TokenKind(Enum):
    ORDINARY = auto()
    CONTROL = auto()  # structure of a prompt: never made from a user's text, never shown
    USER_DEFINED = auto()  # a whole text that is cut out before all else, also of a user's text
    BYTE = auto()  # one byte, for what has no token


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id. `pieces[i]` are the bytes that token i adds to the text."""

    texts: tuple[str, ...]
    pieces: tuple[bytes, ...]
    kinds: tuple[TokenKind, ...]
    eos_ids: frozenset[int]
    bos_id: int | None
    eos_id: int | None  # the one that templates write; `eos_ids` has all that end an answer
    add_bos: bool
    strips_first_space: bool  # the first word got a space in front, which decoding takes away again

    def __post_init__(self) -> None:
        if not 0 < len(self.texts) <= MAX_TOKENS or not len(self.texts) == len(self.pieces) == len(self.kinds):
            raise BadModelFile(f"tokenizer: {len(self.texts)} tokens of {len(self.kinds)} kinds")
        if len(self.ids) != len(self.texts):
            raise BadModelFile(f"tokenizer: {len(self.texts) - len(self.ids)} tokens appear twice")
        for token in (self.bos_id, self.eos_id):
            if token is not None and not 0 <= token < len(self.texts):
                raise BadModelFile(f"tokenizer: bos or eos token {token} is not one of {len(self.texts)}")
        if self.add_bos and self.bos_id is None:
            raise BadModelFile("tokenizer: asks for a bos token that it does not name")

    @cached_property
    def ids(self) -> dict[str, int]:
        return {text: token for token, text in enumerate(self.texts)}

    @cached_property
    def digest(self) -> str:
        """Hex sha256, shared by models that read and write the same tokens."""
        spelt = hashlib.sha256()
        for text in self.texts:
            spelt.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
        return spelt.hexdigest()

    def of_kind(self, *kinds: TokenKind) -> list[int]:
        """Ids of the given kinds, in order."""
        return [token for token, kind in enumerate(self.kinds) if kind in kinds]


Segmenter = Callable[[str, bool], list[int]]
"""Text without special tokens to ids; and whether it begins the prompt or stands behind a special token."""


def ending_ids(texts: Sequence[str], named: Collection[int | None]) -> frozenset[int]:
    """Tokens that end an answer: those that the metadata name, and those that are known by their text."""
    endings = {token for token, text in enumerate(texts) if text in ENDING_TEXTS}
    present = {texts[token] for token in endings}
    # Two families use these two inside an answer (gpt-oss and solar-open; gemma4), as llama.cpp knows.
    if {"<|return|>", "<|call|>"} <= present or ({"<|call|>", "<|calls|>"} & present and "<|flush|>" in present):
        endings -= {token for token in endings if texts[token] == "<|end|>"}
    if "<|tool_response>" in present:
        endings -= {token for token in endings if texts[token] == "</s>"}
    return frozenset(endings | {token for token in named if token is not None})


def byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2's encoder)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    hidden = (byte for byte in range(256) if chr(byte) not in alphabet)
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(hidden)}


def byte_level_piece(text: str, alphabet: dict[str, int]) -> bytes:
    """Bytes of a token of a byte-level vocabulary."""
    try:
        return bytes(alphabet[character] for character in text)
    except KeyError:
        return text.encode()


def spm_piece(text: str) -> bytes:
    """Bytes of a token of a SentencePiece vocabulary."""
    return text.replace(SPM_SPACE, " ").encode()


def literal_piece(text: str, kind: TokenKind) -> bytes:
    """Bytes of a control, user-defined or byte token."""
    value = byte_token_value(text) if kind is TokenKind.BYTE else None
    return text.encode() if value is None else bytes([value])


def byte_token_value(text: str) -> int | None:
    """The byte that ``<0xNN>`` stands for."""
    if len(text) != 6 or not (text.startswith("<0x") and text.endswith(">")):
        return None
    try:
        return int(text[3:5], 16)
    except ValueError:
        return None
