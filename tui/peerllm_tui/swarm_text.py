"""The swarm screen's lines, in its colours. Pure; names of strangers are never markup."""

from __future__ import annotations

from rich.text import Text
from textual.content import Content
from textual.style import Style

from peerllm.local.inert_text import counted, inert
from peerllm.local.schema import PeerInfo, SwarmInfo
from peerllm_tui.block_map import COMING, DISPUTED, HOLE, LEAVING, OWN, SERVING, SHUNNED, MapRow, sign_of
from peerllm_tui.peer_table import Column, troubles
from peerllm_tui.served_models import ServedModel, named

MODEL_CHARS = 40
_TONES = {"$success": "green", "$warning": "yellow", "$error": "red"}
"""Tables take no variables of the theme."""


def cell(column: Column, peer: PeerInfo) -> Text:
    """Text that is never markup, in the colours of the map where it says the same as that."""
    says_it_too = (column.key == "state" and peer.span) or (column.key == "trust" and peer.trust)
    return Text(column.shown(peer), style=_TONES[sign_of(peer).style] if says_it_too else "")


def where(swarm: SwarmInfo) -> Content:
    others = sum(1 for peer in swarm.peers if not peer.you)
    return Content.assemble((inert(swarm.name, MODEL_CHARS), "bold"), f": {counted(others, 'other peer')} in view")


def model_choice(models: tuple[ServedModel, ...], chosen: ServedModel | None) -> list[Content]:
    """Where there is a choice, all of them, the chosen one reversed; a click shows one."""
    if len(models) < 2:
        return []
    return [
        Content(f" {title} ")
        .stylize(Style.from_meta({"@click": f"screen.show_model({number})"}))
        .stylize("reverse" if model is chosen else "")
        for number, (title, model) in enumerate(zip(_titles(models), models, strict=True))
    ]


def _titles(models: tuple[ServedModel, ...]) -> list[str]:
    """Names, with the end of the fingerprint where two models have the same."""
    names = [inert(model.name, MODEL_CHARS) for model in models]
    return [
        name if names.count(name) == 1 else f"{name} …{inert(model.fingerprint[-6:])}"
        for name, model in zip(names, models, strict=True)
    ]


def legend() -> Content:
    signs = (SERVING, COMING, LEAVING, DISPUTED, SHUNNED)
    drawn = [Content.assemble((sign.character, sign.style), f" {sign.meaning}") for sign in signs]
    return Content("   ").join([*drawn, Content(f"{HOLE} nobody"), Content(f"{OWN} this machine")])


def line_of(row: MapRow) -> Content:
    return Content.assemble((row.label, "bold" if row.peer and row.peer.you else ""), *row.bar)


def line(title: str, text: str, style: str = "") -> Content:
    return Content.assemble((f"{title}: ", "bold"), (text, style))


def about(peer: PeerInfo) -> Content:
    said = troubles(peer)
    return Content.assemble(
        (named(peer), "bold"), f" {inert(peer.peer_id)}", *((f" · {trouble}", "$warning") for trouble in said)
    )
