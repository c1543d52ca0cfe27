"""Where the torch engine takes its tensors from: a safetensors checkpoint, or a GGUF file (see `gguf_torch`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor
from transformers import PretrainedConfig

from peerllm.engine.torch_families import Family, config_of, family_of
from peerllm.errors import BadModelFile
from peerllm_swarm.span import BlockSpan

if TYPE_CHECKING:
    from peerllm.model.checkpoint import Checkpoint
    from peerllm.model.progress import Progress


@dataclass(frozen=True)
class Cut:
    """What is kept of a tensor: ``[start, end)`` on one of its axes."""

    axis: int
    start: int
    end: int


Part = Callable[[str], Cut | None]
"""What is kept of the tensor of that name within its block; None for all of it."""


class TorchWeights(Protocol):
    """Tensors under the names that transformers gives them, one at a time, in main memory."""

    @property
    def config(self) -> PretrainedConfig: ...

    @property
    def family(self) -> Family: ...

    def ensure(self, span: BlockSpan, progress: Progress | None = None, part: Part | None = None) -> None:
        """Fetch what the span, or that part of it, needs and is not here yet."""
        ...

    def block(self, number: int, part: Part | None = None) -> Iterator[tuple[str, Tensor]]:
        """Name within the block and tensor, or that part of it, floating point as stored (GGUF: float32)."""
        ...

    def ends(self, names: Sequence[str], progress: Progress | None = None) -> dict[str, Tensor]:
        """Those of the named tensors outside the blocks that the file has, fetched if need be."""
        ...

    def rope_factors(self) -> Tensor | None:
        """What the rotary frequencies are to be divided by, if the file stores such factors."""
        ...


class CheckpointWeights:
    """A Hugging Face checkpoint in safetensors, of any of the families."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._config = config_of(checkpoint.config)
        self._family = family_of(str(checkpoint.config["model_type"]))
        self._base = self._stored_base()

    @property
    def config(self) -> PretrainedConfig:
        return self._config

    @property
    def family(self) -> Family:
        return self._family

    def ensure(self, span: BlockSpan, progress: Progress | None = None, part: Part | None = None) -> None:
        if part is None:
            self._checkpoint.ensure([name for block in span for name in self._block_names(block)], progress)
            return
        for block in span:
            for name in self._block_names(block):
                self._checkpoint.ensure([name], progress, _rows(part(name.removeprefix(self._prefix(block)))))

    def block(self, number: int, part: Part | None = None) -> Iterator[tuple[str, Tensor]]:
        for name in self._block_names(number):
            within = name.removeprefix(self._prefix(number))
            cut = part(within) if part is not None else None
            tensor = self._checkpoint.read([name], rows=_rows(cut))[name]
            if cut is not None and cut.axis == 1:
                tensor = tensor[:, cut.start : cut.end].contiguous()
            yield within, tensor

    def _prefix(self, number: int) -> str:
        return f"{self._base}{self._family.names.blocks}{number}."

    def ends(self, names: Sequence[str], progress: Progress | None = None) -> dict[str, Tensor]:
        stored = {name: self._stored(name) for name in names}
        found = {name: stored[name] for name in names if stored[name] in self._checkpoint.tensors}
        tensors = self._checkpoint.read(list(found.values()), progress)
        return {name: tensors[stored_name] for name, stored_name in found.items()}

    def rope_factors(self) -> None:
        """None: a checkpoint's config says it all."""

    def _stored_base(self) -> str:
        """`base` or nothing: checkpoints saved from the bare model, such as BLOOM's, leave it out."""
        base = self._family.names.base
        return base if base + self._family.names.embedding in self._checkpoint.tensors else ""

    def _stored(self, name: str) -> str:
        base = self._family.names.base
        return self._base + name.removeprefix(base) if name.startswith(base) else name

    def _block_names(self, number: int) -> list[str]:
        names = self._checkpoint.block_names(number)
        if not names:
            raise BadModelFile(f"the checkpoint has no tensors of block {number}")
        return names


def _rows(cut: Cut | None) -> tuple[int, int] | None:
    """Only rows lie together in the file."""
    return (cut.start, cut.end) if cut is not None and cut.axis == 0 else None
