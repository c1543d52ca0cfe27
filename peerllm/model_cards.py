"""The models that can be asked for, and how near the swarm is to answering with each. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from peerllm.api.node_services import ModelCard
from peerllm.config import ContributionConfig
from peerllm.generation.asked_model import ways_of
from peerllm.model import catalog
from peerllm.model.known_models import KnownModel
from peerllm.model.references import PREFIX
from peerllm.model.spec import ModelSpec
from peerllm_swarm.outlook import Outlook, outlook
from peerllm_swarm.records import SwarmView

STATES = ("ready", "loading", "loadable", "unavailable")
"""In the order of the list: programs take its first model if their user has chosen none."""


@dataclass(frozen=True)
class _Askable:
    """One model; what it may be asked for by, and its shape if it was opened here before."""

    name: str
    names: tuple[str, ...] = ()
    spec: ModelSpec | None = None

    @property
    def can_be_opened(self) -> bool:
        """Not so a file of another machine, which others serve by a name that says nothing here."""
        return self.spec is not None or self.name.startswith(PREFIX) or catalog.find(self.name) is not None

    def fingerprints(self, view: SwarmView) -> Mapping[str, tuple[str, str]]:
        """With engine and dtype, which records do not tell."""
        if self.spec is not None:
            return ways_of(self.spec)
        return {record.fingerprint: ("", "") for record in view.records if record.model == self.name}

    def blocks(self, view: SwarmView) -> int:
        if self.spec is not None:
            return self.spec.blocks
        return next((record.blocks for record in view.records if record.model == self.name), 0)


def model_cards(
    view: SwarmView, known: Sequence[KnownModel], lent: ContributionConfig, *, created: int
) -> list[ModelCard]:
    """Of the catalog, of what was opened here before, and of what peers serve; ready ones first.

    Args:
        known: as `ModelStore.known` has them.
        lent: whose models come first among equals, and whose context is that of models nobody serves yet.
    """
    models = _askable(view, known)
    understood = {fingerprint for model in models for fingerprint in model.fingerprints(view)}
    more = any(set(record.lends) - understood for record in view.records)
    cards = [_card(model, view, lent, created, more) for model in models]
    favourites = {name: at for at, name in enumerate(lent.all_models)}

    def order(card: ModelCard) -> tuple[int, int, str]:
        favour = min((favourites[name] for name in (card.id, *card.names) if name in favourites), default=len(cards))
        return STATES.index(card.state), favour, card.id

    return sorted(cards, key=order)


def engines_of(known: Sequence[KnownModel]) -> dict[str, str]:
    """By fingerprint, the engine behind every way of serving what was opened here before."""
    return {of: engine for model in known for of, (engine, _) in ways_of(model.spec).items()}


def _askable(view: SwarmView, known: Sequence[KnownModel]) -> list[_Askable]:
    here = {model.name: model for model in reversed(known)}  # of those of one name the first, as when it is asked for
    found = {model.name: _Askable(model.name, (model.source,), model.spec) for model in here.values()}
    for entry in catalog.CATALOG:
        spec = here[entry.name].spec if entry.name in here else None
        found[entry.name] = _Askable(entry.name, _names_of(entry), spec)
    served = {fingerprint for model in found.values() for fingerprint in model.fingerprints(view)}
    for record in view.records:
        if record.fingerprint and record.fingerprint not in served and record.model not in found:
            found[record.model] = _Askable(record.model)
    return list(found.values())


def _names_of(entry: catalog.CatalogEntry) -> tuple[str, ...]:
    return (*entry.aliases, entry.source) if isinstance(entry.source, str) else entry.aliases


def _card(model: _Askable, view: SwarmView, lent: ContributionConfig, created: int, more: bool) -> ModelCard:
    """`more`: peers may serve something that is not known here."""
    ways, blocks = model.fingerprints(view), model.blocks(view)
    ahead = outlook(view, ways, blocks) if blocks else None
    engine, dtype = ways.get(ahead.fingerprint, ("", "")) if ahead is not None else ("", "")
    card = ModelCard(
        id=model.name,
        created=created,
        owned_by="peerllm",
        state=_state(ahead, more) if model.can_be_opened else "unavailable",
        context_tokens=_context_tokens(model, ahead, view, lent),
        names=model.names,
        blocks=blocks,
        engine=engine,
        dtype=dtype,
    )
    if ahead is None:
        return card
    fraction = None if ahead.is_served else ahead.fraction
    return replace(card, covered=ahead.covered, peers=ahead.serving, fraction=fraction, eta_s=ahead.left_s)


def _state(ahead: Outlook | None, more: bool) -> str:
    if ahead is None:  # who may serve it is known once it was asked for, which fetches its description
        return "loadable" if more else "unavailable"
    if ahead.is_served:
        return "ready"
    if not ahead.is_possible:
        return "unavailable"
    return "loading" if ahead.coming or ahead.serving else "loadable"


def _context_tokens(model: _Askable, ahead: Outlook | None, view: SwarmView, lent: ContributionConfig) -> int | None:
    """What any route holds at least; of a model that nobody serves, what this machine would give it."""
    if ahead is not None and ahead.is_served:
        room = min(record.cache_tokens_left for record in view.online(ahead.fingerprint))
        return min(room, model.spec.context_tokens) if model.spec is not None else room
    return min(lent.context_tokens, model.spec.context_tokens) if model.spec is not None else None
