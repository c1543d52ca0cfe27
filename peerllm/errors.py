"""What can go wrong on this machine, as its owner or a program sees it.

PeerllmError                 exit code 1
├── UsageError               2: a flag, config field or argument that cannot be used
│   ├── UnknownRequest       no such request is kept (says which are)
│   ├── UnknownResponse      no response of that id is stored
│   └── StorageOff           responses are not stored here (names the setting)
├── AlreadyRunning           2: a second daemon for the same home
├── NotRunning               3: a client finds no daemon
├── NotSetUp                 the daemon is asked for where only the clients are installed (names `peerllm setup`)
├── SetUpFailed              offline, no room, no venv module, or pip failed (says what to do)
├── NoServiceManager         systemd, launchd or the task scheduler cannot be talked to (says what to do instead)
├── UpdateCheckFailed        the index of releases cannot be reached, or answers rubbish
├── BadAnswer                what answers at the local API's address is no peerllm, or another version
├── NoTerminal               4: a screen is asked for where there is none (says what to do)
├── BadLedger                a ledger file that is damaged or of a later version
├── BadReceipt               a receipt that is none, or that one of its sides cannot agree to
├── BadHistory               a file of kept conversations that is damaged or of a later version
├── BadKeyring               a file of a swarm's keys that is damaged or cannot be used (names it, says what to do)
├── JoinFailed               an invitation that did not lead into its swarm, or what only the swarm's issuers may do
├── ModelError
│   ├── UnknownModel         no such name in the catalog, the cache or the hub
│   ├── UnsupportedModel     an architecture, format or quantisation not admitted (names those that are)
│   ├── BadModelFile         bytes that are no valid GGUF, safetensors or tokenizer
│   ├── DigestMismatch       a file that is not what it says it is
│   └── PullFailed           no connection, no disk space, offline
├── EngineError
│   ├── EngineUnavailable    llama.cpp or torch (or CUDA, bitsandbytes) is not installed here
│   ├── NoMemory             a span does not fit into what is lent (says what would)
│   ├── NoSlot               every session slot of a loaded span is taken
│   ├── BadRows              rows that do not continue a session, or hold no numbers
│   ├── EngineFault          the engine failed in a way that is nobody's request's fault
│   ├── GroupBroken          a member of a tensor-parallel group is gone, silent or out of step (says which)
│   └── WrongResults         a loaded span computes something else than it is known to
├── WireError                bytes or streams between peers
│   ├── BadFrame             bytes that are no frame of ours, or too many of them
│   ├── PeerGone             the stream broke, or was silent for too long
│   └── Refused              the peer answered no, with a code
├── NoGroup                  a tensor-parallel group that did not come about (says who declined or was lost)
├── NoPeers                  5: no route covers the model now (names the missing blocks)
├── DeadlineExceeded         an answer took longer than its request gave it (a TimeoutError, too)
├── TooManyAnswers           programs of this machine ask for more at once than it takes (says when to ask again)
├── ModelLoading             not yet: the model is being fetched or loaded (says how far it is)
└── GenerationError          a request that cannot be carried out (deadline, lost hop)
    └── ContextTooLong       prompt and answer do not fit into the context (counts both)
"""

from __future__ import annotations

from typing import ClassVar


class PeerllmError(Exception):
    """The root: what a command line prints after ``peerllm:`` and turns into an exit code."""

    exit_code: ClassVar[int] = 1


class UsageError(PeerllmError):
    exit_code = 2


class UnknownRequest(UsageError): ...


class UnknownResponse(UsageError): ...


class StorageOff(UsageError): ...


class AlreadyRunning(PeerllmError):
    exit_code = 2


class NotRunning(PeerllmError):
    exit_code = 3


class NotSetUp(PeerllmError): ...


class SetUpFailed(PeerllmError): ...


class NoServiceManager(PeerllmError): ...


class UpdateCheckFailed(PeerllmError): ...


class BadAnswer(PeerllmError): ...


class NoTerminal(PeerllmError):
    exit_code = 4


class BadLedger(PeerllmError): ...


class BadReceipt(PeerllmError):
    """`fault` is one word: malformed, version, foreign, stale, clock, over_claim or signature."""

    def __init__(self, message: str, *, fault: str = "malformed") -> None:
        super().__init__(message)
        self.fault = fault


class BadHistory(PeerllmError): ...


class BadKeyring(PeerllmError): ...


class JoinFailed(PeerllmError): ...


class ModelError(PeerllmError): ...


class UnknownModel(ModelError): ...


class UnsupportedModel(ModelError): ...


class BadModelFile(ModelError): ...


class DigestMismatch(ModelError): ...


class PullFailed(ModelError): ...


class EngineError(PeerllmError): ...


class EngineUnavailable(EngineError): ...


class NoMemory(EngineError): ...


class NoSlot(EngineError): ...


class BadRows(EngineError): ...


class EngineFault(EngineError): ...


class GroupBroken(EngineError): ...


class WrongResults(EngineError): ...


class WireError(PeerllmError): ...


class BadFrame(WireError): ...


class PeerGone(WireError): ...


class Refused(WireError):
    """The peer said no; ``code`` is one of the codes in docs/protocol.md."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.reason = message


class NoGroup(PeerllmError): ...


class NoPeers(PeerllmError):
    exit_code = 5


class ModelLoading(PeerllmError):
    """Ask again after `retry_after_s` seconds; the message says what is going on meanwhile.

    `fraction` (0 to 1) of `model` is loaded, and the rest takes `eta_s` seconds; None where that is not known.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 2.0,
        model: str = "",
        fraction: float | None = None,
        eta_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.model = model
        self.fraction = fraction
        self.eta_s = eta_s


class TooManyAnswers(PeerllmError):
    """Ask again after `retry_after_s` seconds."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(PeerllmError, TimeoutError): ...


class GenerationError(PeerllmError): ...


class ContextTooLong(GenerationError):
    """Nothing was computed; the counts are those of the message, 0 where only that is known."""

    def __init__(
        self, message: str, *, context_tokens: int = 0, prompt_tokens: int = 0, answer_tokens: int = 0
    ) -> None:
        super().__init__(message)
        self.context_tokens = context_tokens
        self.prompt_tokens = prompt_tokens
        self.answer_tokens = answer_tokens


class HopLost(GenerationError):
    """A hop of a route is of no more use; `peer_id` is the one to avoid for now."""

    def __init__(self, peer_id: str, reason: str) -> None:
        super().__init__(f"hop {peer_id}: {reason}")
        self.peer_id = peer_id
        self.reason = reason


class HopBusy(HopLost):
    """A hop has no room for one more session just now; nothing is wrong with it."""


class HopLeaves(HopLost):
    """A hop has said that it goes; nothing is wrong with it."""


class HistoryLost(HopLost):
    """A hop does not remember what it had sent to a lost one, so the whole route has to be begun anew."""
