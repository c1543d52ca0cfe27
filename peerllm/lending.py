"""What this machine lends for: the models its owner allows, and which of them the swarm needs it for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from peerllm.config import Config
from peerllm.engine.courtesy import on_thread
from peerllm.errors import PeerllmError
from peerllm.model.progress import Progress
from peerllm.model.store import ModelStore, StoredModel
from peerllm.serving.offer import LeftOver, Offer, Prepared, unlimited, work_out_offer
from peerllm_swarm.balancing import Elsewhere
from peerllm_swarm.model_choice import ServableModel, better_model, model_places, wanted_model
from peerllm_swarm.record_codec import MAX_LENT_MODELS
from peerllm_swarm.records import SwarmView
from peerllm_swarm.score import UNKNOWN_BLOCK_MS
from peerllm_swarm.span import PeerId

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lot:
    """A model that could be served, and what of it this machine can hold."""

    stored: StoredModel
    offer: Offer

    def servable(self, block_ms: float) -> ServableModel:
        spec, offer = self.offer.spec, self.offer
        return ServableModel(spec.name, offer.fingerprint, spec.blocks, offer.capacity_blocks, block_ms)


class Lending:
    """Chooses among the lots that `prepare` opened last."""

    def __init__(
        self,
        store: ModelStore,
        config: Callable[[], Config],
        peer_id: PeerId,
        block_ms: Callable[[], float],
        progress: Progress,
        *,
        left_over: LeftOver = unlimited,
    ) -> None:
        """`config` is read anew each time; `block_ms` is measured, per block and token, 0 before it was."""
        self._store = store
        self._config = config
        self._left_over = left_over
        self._peer_id = peer_id
        self._block_ms = block_ms
        self._progress = progress
        self._lots: list[Lot] = []

    async def prepare(self, view: SwarmView) -> Prepared:
        """Open the models, fetching what that takes, and choose the one where this machine is of most use.

        Raises:
            PeerllmError: why the first of them cannot be served, if none can.
        """
        first: PeerllmError | None = None
        lots: list[Lot] = []
        config = self._config()
        for name in config.contribution.all_models:
            try:
                opening = partial(self._store.open, name, self._progress)
                stored = await on_thread(opening, polite=config.engine.priority == "lowest")
                offer = work_out_offer(stored.spec, config, threads=config.engine.threads, left_over=self._left_over)
                lots.append(Lot(stored, offer))
            except PeerllmError as error:
                first = first or error
                log.warning("model not lent for model=%s: %s", name, error)
        if not lots:
            raise first or PeerllmError("no model is set; set contribution.model")
        self._lots = lots
        best = model_places(view, self._servable(), self._peer_id)[0].model.fingerprint
        chosen = next(lot for lot in lots if lot.offer.fingerprint == best)
        return Prepared(chosen.stored, chosen.offer, tuple(lot.offer.fingerprint for lot in lots)[:MAX_LENT_MODELS])

    def elsewhere(self, view: SwarmView, fingerprint: str, check: bool) -> Elsewhere | None:
        """Why another of the models needs this machine more than the one it serves, if one does.

        Without `check` only whether somebody waits for it, which is quickly found out.
        """
        if len(self._lots) < 2:
            return None
        better = better_model if check else wanted_model
        return better(view, self._servable(), self._peer_id, fingerprint)

    def _servable(self) -> list[ServableModel]:
        return [lot.servable(self._block_ms() or UNKNOWN_BLOCK_MS) for lot in self._lots]
