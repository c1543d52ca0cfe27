"""Everything an owner can set, as one frozen value: read once, passed down, never imported.

`config_sources.load_config` fills it from flags, environment, file and these defaults. Every field says
what it is, in which unit, what is allowed, and why its default is what it is; `peerllm config` prints that.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, fields
from typing import Any, cast

from peerllm.durations import FOREVER, parse_seconds
from peerllm.guest_config import GuestConfig
from peerllm.rules import BYTES, SWITCH, TEXT, TEXTS, between, is_plain, one_of
from peerllm.settings import Rule, Setting, Value, setting
from peerllm_swarm.errors import BadSpan
from peerllm_swarm.span import BlockSpan

_PEER_ID = re.compile("[1-9A-HJ-NP-Za-km-z]{46,64}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_span(text: str) -> bool:
    try:
        return not text or bool(BlockSpan.parse(text))
    except BadSpan:
        return False


def _is_peer_id(text: str) -> bool:
    return bool(_PEER_ID.fullmatch(text))


_PEERS = Rule("a list of peer ids", lambda ids: all(map(_is_peer_id, ids)))
_NAME = Rule("1 to 64 printable characters", lambda text: 1 <= len(text) <= 64 and text.isprintable())
_MODEL = Rule("a name, hf:owner/repo[:file] or a path", lambda text: bool(text) and is_plain(text))
_PORT = between(0, 65535)
_SPAN = Rule('start:end, for example 0:12, or ""', _is_span)
_SECRET = Rule("8 to 512 ASCII characters without spaces, or empty", lambda key: not key or _is_key(key))
_DEADLINE = between(0.1, 3600, "s")
_KEEPING = Rule("5m, 1h, a number of seconds, or -1 for ever", lambda s: s == FOREVER or 0 <= s < 1e9, parse_seconds)


def _is_key(text: str) -> bool:
    return 8 <= len(text) <= 512 and text.isascii() and text.isprintable() and " " not in text


@dataclass(frozen=True)
class SwarmConfig:
    name: str = setting(
        "home", _NAME, "Which of this home's swarms to take part in; home: the one joined, made or chosen last."
    )
    public: bool = setting(
        False,
        SWITCH,
        "No membership: whoever can reach this machine can use what it lends and read what passes through it. "
        "All peers of the same swarm.name find one another.",
    )
    port: int = setting(
        7338, _PORT, "Peer-to-peer TCP port; the next free one if taken, 0 for any. Fixed so that a router can map it."
    )
    listen: str = setting(
        "0.0.0.0",
        Rule("an IP address of this machine", _is_address),
        "Where peers may reach this one; all interfaces, since a peer that cannot be reached cannot serve.",
    )
    direct: bool = setting(
        True,
        SWITCH,
        "Exchange what answers need by a TCP socket of its own with peers on the local networks, which takes less time "
        "than libp2p; encrypted likewise. libp2p serves wherever that is not possible.",
    )
    direct_port: int = setting(
        7388, _PORT, "TCP port for that; the next free one if taken, 0 for any. Fixed so that a firewall can let it in."
    )
    mdns: bool = setting(True, SWITCH, "Find peers on the local network by multicast DNS; needs no set-up.")
    dht: bool = setting(True, SWITCH, "Find peers beyond the local network by the distributed hash table.")
    relay: str = setting(
        "auto",
        one_of("auto", "on", "off"),
        "Relays for peers behind NATs, used and provided: auto where the swarm reaches beyond this network, as relays "
        "of libp2p also serve strangers; on for public machines that others are to rely on.",
    )
    lan_only: bool = setting(
        False,
        SWITCH,
        "Connect to no address beyond the local networks, not even to fetch models; off, since swarms may be larger.",
    )
    bootstrap: tuple[str, ...] = setting(
        (), TEXTS, "Peers to enter the swarm by: HOST[:PORT] or multiaddrs. None: the local network is enough."
    )


@dataclass(frozen=True)
class ContributionConfig:
    enabled: bool = setting(False, SWITCH, "Lend this machine at start. Off: lending is its owner's choice.")
    model: str = setting("smollm2-135m", _MODEL, "The model whose blocks are served; the one that every machine can.")
    also: tuple[str, ...] = setting(
        (), TEXTS, "Other models to serve when the swarm needs them more. None: each costs disk, so owners choose."
    )
    memory_bytes: int = setting(
        0, BYTES, "Memory lent, in bytes, for weights, KV cache and scratch; 0 is half of what is free at start."
    )
    max_blocks: int = setting(0, between(0, 4096), "Serve at most so many blocks; 0 leaves it to the memory.")
    span: str = setting(
        "", _SPAN, 'Serve just these blocks, as start:end. "" lets the peer choose, which heals gaps in the swarm.'
    )
    slots: int = setting(4, between(1, 255), "Sessions served at once; each costs a KV cache of context_tokens.")
    context_tokens: int = setting(
        2048, between(64, 1 << 20, "tokens"), "Tokens that one session can hold; memory grows with it."
    )

    groups: str = setting(
        "auto",
        one_of("auto", "off"),
        "Serve blocks together with other peers of this local network, each a slice of every block: auto where that "
        "is faster than one peer by itself, or where none can hold a block.",
    )
    group_sync: str = setting(
        "float32",
        one_of("float32", "float16", "q80"),
        "How a group that this peer leads exchanges partial sums. float32 rounds nothing; float16 is half the bytes, "
        "q80 a quarter, for networks that are slower than 1 Gbit/s.",
    )

    @property
    def all_models(self) -> tuple[str, ...]:
        """The models that may be served, each once, the owner's favourite first."""
        return tuple(dict.fromkeys((self.model, *self.also)))


@dataclass(frozen=True)
class EngineConfig:
    kind: str = setting(
        "auto", one_of("auto", "llama", "torch"), "What computes: auto takes llama.cpp for GGUF files if it is built."
    )
    dtype: str = setting(
        "auto",
        one_of("auto", "float32", "float16", "bfloat16", "int8", "nf4"),
        "Number format of the torch engine; auto is float32 on CPUs. Peers of one route all use the same.",
    )
    repack: str = setting(
        "off",
        one_of("off", "q4_0"),
        "Weights that llama.cpp computes faster in another form: q4_0 loads Q4_1 files as Q4_0, a half faster and a "
        "little less exact. Such peers and those who ask them are a route apart; off, since it changes the numbers.",
    )
    threads: int = setting(0, between(0, 1024), "Threads of the engine; 0 measures which number is fastest.")
    priority: str = setting(
        "lowest",
        one_of("lowest", "normal"),
        "Class of the threads that serve others, for processor and disk: lowest takes only what nobody else wants; "
        "normal is for machines that do nothing else.",
    )
    device: str = setting("auto", _NAME, "cpu, cuda, cuda:1 ...; auto takes a GPU if there is one.")


@dataclass(frozen=True)
class ApiConfig:
    port: int = setting(7337, _PORT, "TCP port of the local API; the next free one if taken, 0 for any.")
    host: str = setting(
        "127.0.0.1",
        Rule("localhost or an IP address of this machine", lambda host: host == "localhost" or _is_address(host)),
        "Where the local API listens: this machine alone. Others' addresses need api.key; it is plain HTTP.",
    )
    key: str = setting(
        "", _SECRET, "Bearer key that /v1 asks for; empty: any program of this machine may use it.", secret=True
    )
    origins: tuple[str, ...] = setting(
        (), TEXTS, "Web pages (https://host:port) whose scripts may call /v1. None: browsers are refused."
    )
    store_responses: bool = setting(
        False,
        SWITCH,
        "Keep the questions and answers of /v1/responses that a program asks to store, unencrypted in the state "
        "folder. Off: what is asked leaves no trace on the disk.",
    )


@dataclass(frozen=True)
class ModelsConfig:
    dir: str = setting("", TEXT, "Folder of the weights; empty is the platform's cache folder.")


@dataclass(frozen=True)
class UpdateConfig:
    index: str = setting(
        "https://pypi.org/pypi/peerllm/json",
        Rule("an http or https address", lambda text: is_plain(text) and text.startswith(("https://", "http://"))),
        "What `peerllm update --check` asks for releases, the JSON API of a package index; nothing else asks it.",
    )


@dataclass(frozen=True)
class TimingsConfig:
    open_s: float = setting(10.0, _DEADLINE, "Seconds to open a session at every hop of a route before it is given up.")
    step_s: float = setting(10.0, _DEADLINE, "Seconds for one token through a route before a hop counts as lost.")
    prefill_s: float = setting(120.0, _DEADLINE, "Seconds for a prompt through a route; long ones take time on CPUs.")
    drain_s: float = setting(
        30.0, between(0, 3600, "s"), "Seconds that running answers may take to end when the daemon stops."
    )


@dataclass(frozen=True)
class AskingConfig:
    wire_dtype: str = setting(
        "float32",
        one_of("float32", "float16"),
        "Number format of hidden states between peers. float32 is exact, float16 is half the bytes.",
    )
    repair_s: float = setting(
        20.0, _DEADLINE, "Seconds that an answer waits for missing blocks to be served before it gives up."
    )
    load_wait_s: float = setting(
        20.0,
        between(0, 3600, "s"),
        "Seconds that an answer waits for a model that has to be loaded first; then its program is told to come again. "
        "Small models are there by then, and few programs wait longer for a first token.",
    )
    keep_alive_s: float = setting(
        300.0,
        _KEEPING,
        "Seconds after its last answer that a model stays in memory here and counts as wanted in the swarm; "
        "PEERLLM_KEEP_ALIVE sets it as well. 5m, as Ollama keeps models.",
    )
    spot_check: float = setting(
        0.02,
        between(0, 1),
        "Share of answers after which one peer's part is computed again by others and compared. 0: never. Each such "
        "answer costs the swarm up to that part once more.",
    )
    own: tuple[str, ...] = setting(
        (), _PEERS, "Ids of this owner's other machines, for requests that ask to go through own peers only."
    )
    friends: tuple[str, ...] = setting(
        (), _PEERS, "Ids of peers of people whom the owner trusts, for requests that ask for friends only."
    )
    trust: str = setting(
        "swarm",
        one_of("own", "friends", "swarm"),
        "Whose peers may see the hidden states of requests that do not say; swarm: every member's.",
    )
    deadline_s: float = setting(
        0.0, between(0, 86400, "s"), "Seconds after which an answer that does not say is given up; 0: never."
    )
    keep_s: float = setting(
        60.0,
        between(0, 3600, "s"),
        "Seconds that the session of an answer is kept, so that the next turn of the chat computes only what is new. "
        "0: none is. Peers that need a kept slot take it back at once; longer than a minute, few come back.",
    )
    prefixes: str = setting(
        "own",
        one_of("off", "own", "members"),
        "Whose prompts may begin with what peers hold of an answer's prompt when it has ended, instead of having it "
        "computed: own, this machine's; members, those of all members that say the same, who can then find out by the "
        "time it takes whether a text was asked here; off: nobody's, peers forget it at once.",
    )
    kept: int = setting(
        4, between(0, 64), "Sessions kept at once. Each costs memory for its prompt here and heartbeats to its peers."
    )
    answers: int = setting(
        32, between(1, 1024), "Answers that this machine's programs have under way at once; more wait in line."
    )
    waiting: int = setting(
        64, between(0, 4096), "Answers that may wait in line; whoever asks for more is told to come again later."
    )


@dataclass(frozen=True)
class SpeculationConfig:
    mode: str = setting(
        "auto",
        one_of("auto", "off"),
        "Guess tokens ahead and have them checked in one round through the swarm: auto where that is faster. The "
        "answer is the same either way.",
    )
    draft_model: str = setting(
        "auto",
        _MODEL,
        "A small model of the same vocabulary that guesses on this machine: its name, hf:owner/repo[:file] or path; "
        "none: only texts are looked up; auto takes a GGUF file that is on this disk and much smaller.",
    )
    max_draft: int = setting(
        32, between(1, 47, "tokens"), "Tokens guessed per round at most; more are seldom all right."
    )


@dataclass(frozen=True)
class Config:
    swarm: SwarmConfig = SwarmConfig()
    contribution: ContributionConfig = ContributionConfig()
    guest: GuestConfig = GuestConfig()  # noqa: RUF009 - frozen
    engine: EngineConfig = EngineConfig()
    asking: AskingConfig = AskingConfig()
    speculation: SpeculationConfig = SpeculationConfig()
    api: ApiConfig = ApiConfig()
    models: ModelsConfig = ModelsConfig()
    timings: TimingsConfig = TimingsConfig()
    update: UpdateConfig = UpdateConfig()


def sections() -> dict[str, Any]:
    """Section name to its defaults."""
    return {section.name: section.default for section in fields(Config)}


def settings() -> tuple[Setting, ...]:
    """Every field there is, in the order of the classes above."""
    return tuple(
        Setting(name, item.name, cast(Value, item.default), **item.metadata)
        for name, section in sections().items()
        for item in fields(section)
    )
