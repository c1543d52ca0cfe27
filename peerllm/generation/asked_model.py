"""A model as its asker needs it: ends, tokenizer and chat template, but no blocks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property

from peerllm.engine.admitted import TORCH_DTYPES
from peerllm.engine.load import choose_engine, load_ends
from peerllm.engine.span_engine import Ends, fingerprint
from peerllm.errors import EngineUnavailable, ModelLoading, UnsupportedModel
from peerllm.generation.answer import Doing
from peerllm.generation.constraint import Constraints
from peerllm.generation.drafting.drafts import Drafts, DraftSettings, ModelDrafts
from peerllm.generation.ends_thread import EndsThread
from peerllm.generation.keep_alive import Kept
from peerllm.local.schema import SpeculationStatus
from peerllm.model.chat_template import ChatTemplate
from peerllm.model.families import Family
from peerllm.model.progress import ProgressEvent
from peerllm.model.spec import REPACKED, ModelSpec
from peerllm.model.store import ModelStore, StoredModel
from peerllm.model.tokenizer import Tokenizer

log = logging.getLogger(__name__)

WAYS = (
    ("llama", None),
    *(("llama", dtype) for dtype in REPACKED.values()),
    *(("torch", dtype) for dtype in TORCH_DTYPES),
)
"""Engine and dtype that peers may serve with; the asker can ask each whose ends it can compute itself."""

LOOK_S = 1.0
"""Between two looks at how far the fetching of a model is."""

LONG_S = 3600.0


def ways_of(spec: ModelSpec) -> dict[str, tuple[str, str]]:
    """Fingerprint to (engine, dtype) of every way of serving the model that can be asked from here."""
    found: dict[str, tuple[str, str]] = {}
    for engine, dtype in WAYS:
        try:
            chosen = choose_engine(spec, engine, dtype=dtype, device="cpu")
        except (EngineUnavailable, UnsupportedModel):
            continue
        found[fingerprint(spec, *chosen)] = chosen
    return found


@dataclass
class AskedModel:
    """One model, opened once; ends are loaded for an engine when its peers are first asked."""

    stored: StoredModel
    tokenizer: Tokenizer
    template: ChatTemplate
    threads: int
    drafts: ModelDrafts | None = None
    repack: str = "off"
    """The dtype of repacked weights whose peers are asked, too."""
    _ends: dict[str, EndsThread] = field(default_factory=dict[str, EndsThread])
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def spec(self) -> ModelSpec:
        return self.stored.spec

    @property
    def family(self) -> Family:
        return self.template.family

    @cached_property
    def constraints(self) -> Constraints:
        return Constraints(self.tokenizer)

    def fingerprints(self) -> dict[str, tuple[str, str]]:
        """Fingerprint to (engine, dtype) of every way of serving this model that can be asked from here."""
        others = self.spec.repacked_dtype if self.repack != self.spec.repacked_dtype else None
        return {of: way for of, way in ways_of(self.spec).items() if way[1] != others}

    async def ends(self, of: str) -> EndsThread:
        """The two ends for peers of that fingerprint; the first call loads them."""
        async with self._loading:
            if of not in self._ends:
                engine, dtype = self.fingerprints()[of]
                self._ends[of] = EndsThread(await asyncio.to_thread(self._load, engine, dtype))
                log.info("ends loaded model=%s engine=%s", self.spec.name, engine)
            return self._ends[of]

    def _load(self, engine: str, dtype: str) -> Ends:
        return load_ends(self.stored, engine=engine, dtype=dtype, threads=self.threads)

    async def shutdown(self) -> None:
        for ends in self._ends.values():
            await ends.shutdown()
        self._ends.clear()
        if self.drafts is not None:
            await self.drafts.shutdown()


class AskedModels:
    """The models this daemon has been asked for, each once, whatever it was called."""

    def __init__(
        self,
        store: ModelStore,
        *,
        threads: int,
        wait_s: float = LONG_S,
        drafts: DraftSettings | None = None,
        repack: str = "off",
    ) -> None:
        """`wait_s` is how long a request waits for a model's files; answers are guessed ahead as `drafts` say.

        `repack` is the dtype of repacked weights whose peers are asked, too.
        """
        self._store = store
        self._drafts = Drafts(drafts or DraftSettings(), store)
        self._threads = threads
        self._repack = repack
        self._wait_s = wait_s
        self._models: dict[str, _Open] = {}
        self._names: dict[str, str] = {}  # what a model was asked for by, to its own name
        self._opening: dict[str, _Opening] = {}
        self._unused = asyncio.Event()

    def speculation(self) -> SpeculationStatus:
        """How answers are guessed ahead, and what that has come to."""
        totals = self._drafts.totals
        loaded = (each.model.drafts.model for each in self._models.values() if each.model.drafts is not None)
        return SpeculationStatus(
            self._drafts.settings.enabled,
            totals.rounds,
            totals.drafted,
            totals.accepted,
            draft_models=tuple(dict.fromkeys(name for name in loaded if name)),
        )

    @asynccontextmanager
    async def using(self, name: str, doing: Doing | None = None) -> AsyncIterator[AskedModel]:
        """The model, which stays in memory for as long as it is used.

        Raises:
            UnknownModel, UnsupportedModel, PullFailed, BadModelFile, DigestMismatch: it cannot be opened.
            ModelLoading: its files are still being fetched.
        """
        open_model = await self._opened(name, doing or Doing())
        open_model.users += 1
        try:
            yield open_model.model
        finally:
            open_model.users -= 1
            open_model.used_at = time.monotonic()
            self._unused.set()

    async def get(self, name: str) -> AskedModel:
        """The model, which may be freed as soon as nobody is `using` it."""
        return (await self._opened(name, Doing())).model

    def kept(self) -> tuple[Kept, ...]:
        """What is in memory, with the time (of `time.monotonic`) that it was used last."""
        return tuple(Kept(name, None if each.users else each.used_at) for name, each in self._models.items())

    async def free(self, name: str) -> bool:
        """Forget the model of that own name and give its memory back, unless it is in use."""
        if name not in self._models or self._models[name].users:
            return False
        freed = self._models.pop(name)
        self._names = {asked: own for asked, own in self._names.items() if own != name}
        await freed.model.shutdown()
        return True

    async def wait_for_unused(self, at_most_s: float) -> None:
        """Return once a model has been used to the end, or after so many seconds."""
        self._unused.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await self._unused.wait()

    async def shutdown(self) -> None:
        for opening in list(self._opening.values()):
            opening.task.cancel()
        await asyncio.gather(*(opening.task for opening in self._opening.values()), return_exceptions=True)
        for each in self._models.values():
            await each.model.shutdown()

    async def _opened(self, name: str, doing: Doing) -> _Open:
        """Wait for one opening of it, which goes on if this caller does not; other models are not kept waiting."""
        deadline = time.monotonic() + self._wait_s
        while self._names.get(name) not in self._models:
            opening = self._opening.get(name) or self._begin_to_open(name)
            try:
                await asyncio.wait((opening.task,), timeout=min(LOOK_S, max(0.0, deadline - time.monotonic())))
            finally:
                doing.waiting = ""
            if opening.task.done():
                opening.task.result()
            elif time.monotonic() >= deadline:
                raise ModelLoading(str(opening), model=name, fraction=opening.fraction)
            else:
                doing.waiting = str(opening)
        return self._models[self._names[name]]

    def _begin_to_open(self, name: str) -> _Opening:
        opening = _Opening(name)
        opening.task = asyncio.create_task(self._open(opening))
        opening.task.add_done_callback(lambda task: self._end_opening(name, task))
        self._opening[name] = opening
        return opening

    async def _open(self, opening: _Opening) -> None:
        stored = await asyncio.to_thread(self._store.open, opening.name, opening.note)
        own = f"{stored.spec.name}@{stored.spec.digest[:16]}"  # files of one name may lie in several folders
        if own not in self._models:
            tokenizer = await asyncio.to_thread(Tokenizer.of, stored)
            template = ChatTemplate.of(stored, tokenizer)
            drafts = self._drafts.of(stored, tokenizer)
            self._models[own] = _Open(AskedModel(stored, tokenizer, template, self._threads, drafts, self._repack))
        self._names[opening.name] = own

    def _end_opening(self, name: str, task: asyncio.Task[None]) -> None:
        self._opening.pop(name, None)
        if not task.cancelled() and task.exception() is not None:
            log.info("model not opened model=%s error=%s", name[:120], type(task.exception()).__name__)


@dataclass
class _Open:
    """A model in memory."""

    model: AskedModel
    users: int = 0
    used_at: float = field(default_factory=time.monotonic)


@dataclass
class _Opening:
    """A model that is about to be in memory; its `task` is set by whoever begins it."""

    name: str
    task: asyncio.Task[None] = field(init=False)
    progress: ProgressEvent | None = None

    def note(self, event: ProgressEvent) -> None:
        self.progress = event

    @property
    def fraction(self) -> float | None:
        return self.progress.fraction if self.progress is not None else None

    def __str__(self) -> str:
        done = f", {self.fraction:.0%} of {self.progress.what}" if self.progress and self.fraction is not None else ""
        return f"{self.name} is being fetched{done}"
