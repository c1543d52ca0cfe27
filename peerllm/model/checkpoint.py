"""A safetensors checkpoint, maybe only partly here: which tensor lies where, and what model it is."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peerllm.errors import BadModelFile
from peerllm.model.checkpoint_config import family_keys, read_config, shape_of
from peerllm.model.progress import Progress
from peerllm.model.safetensors_header import LENGTH_BYTES, HeaderTensor, header_length, parse_header
from peerllm.model.spec import ModelSpec, WeightFormat
from peerllm.model.weights_file import WeightsFile

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_INDEX_BYTES = 32 << 20  # the longest published has 9 MB

_FIRST_READ_BYTES = 64 << 10
_TORCH_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "U16": "uint16",
    "I16": "int16",
    "F16": "float16",
    "BF16": "bfloat16",
    "U32": "uint32",
    "I32": "int32",
    "F32": "float32",
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
}


@dataclass(frozen=True)
class CheckpointTensor:
    """One tensor and the file it lies in; `offset` counts from the start of that file."""

    file: WeightsFile
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def rows(self, wanted: tuple[int, int] | None) -> CheckpointTensor:
        """These rows of it, as a tensor of their own; None for all. Raises `BadModelFile` where there are fewer."""
        if wanted is None:
            return self
        start, end = wanted
        if not self.shape or not 0 <= start <= end <= self.shape[0]:
            raise BadModelFile(f"{self.file.path}: rows {start}:{end} of a tensor {list(self.shape)}")
        row_bytes = self.nbytes // self.shape[0] if self.shape[0] else 0
        shape = (end - start, *self.shape[1:])
        return replace(self, shape=shape, offset=self.offset + start * row_bytes, nbytes=(end - start) * row_bytes)


class Checkpoint:
    """`path` holds config and tokenizer files; `files` are the weights by name, fetched tensor by tensor."""

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        files: Mapping[str, WeightsFile],
        tensors: dict[str, CheckpointTensor],
    ) -> None:
        self.path = path
        self.config = config
        self.files = files
        self.tensors = tensors
        self._keys = family_keys(config)

    @classmethod
    def open(cls, path: Path, files: Mapping[str, WeightsFile], progress: Progress | None = None) -> Checkpoint:
        """Read the config and the header of every file.

        Raises:
            UnsupportedModel: an architecture that is not admitted, or quantised weights.
            BadModelFile: a config, index or header that cannot be right.
        """
        config = read_config(path / CONFIG)
        family_keys(config)
        tensors: dict[str, CheckpointTensor] = {}
        for file_name, file in files.items():
            for name, found in _header(file, progress).items():
                if name in tensors:
                    raise BadModelFile(f"{path}: tensor {name[:80]!r} is in {file_name} and in another file")
                tensors[name] = CheckpointTensor(file, found.dtype, found.shape, found.offset, found.nbytes)
        return cls(path, config, files, tensors)

    @property
    def downloaded_bytes(self) -> int:
        return sum(file.downloaded_bytes for file in self.files.values())

    def block_of(self, name: str) -> int | None:
        """The block a tensor belongs to; None for the ends."""
        head, found, number = name.removeprefix(self._keys.base).partition(self._keys.blocks_prefix)
        digits = number.partition(".")[0]
        return int(digits) if found and not head and digits.isdecimal() and len(digits) < 6 else None

    def block_names(self, block: int) -> list[str]:
        """Names of the tensors of one block."""
        return [name for name in self.tensors if self.block_of(name) == block]

    def holds_block(self, block: int) -> bool:
        """Are all of the block's tensors on this disk?"""
        tensors = [self.tensors[name] for name in self.block_names(block)]
        return all(tensor.file.holds([(tensor.offset, tensor.nbytes)]) for tensor in tensors)

    def ensure(
        self, names: Iterable[str], progress: Progress | None = None, rows: tuple[int, int] | None = None
    ) -> int:
        """Make the bytes of the tensors, or of these rows of each, present; the bytes that had to be downloaded."""
        ranges: dict[str, list[tuple[int, int]]] = defaultdict(list)
        files: dict[str, WeightsFile] = {}
        for tensor in (self._tensor(name).rows(rows) for name in names):
            ranges[str(tensor.file.path)].append((tensor.offset, tensor.nbytes))
            files[str(tensor.file.path)] = tensor.file
        return sum(files[path].ensure(wanted, progress) for path, wanted in ranges.items())

    def read(
        self, names: Sequence[str], progress: Progress | None = None, rows: tuple[int, int] | None = None
    ) -> dict[str, torch.Tensor]:
        """The named tensors, or these rows of each, in main memory, dtype as stored; fetches only their bytes."""
        self.ensure(names, progress, rows)
        return {name: _load(self._tensor(name).rows(rows)) for name in names}

    def spec(self, name: str, licence: str | None = None) -> ModelSpec:
        """Shape and identity of the model."""
        shape = shape_of(self.config)
        sizes, dtypes, ends_bytes = [0] * shape.blocks, Counter[str](), 0
        for tensor_name, tensor in self.tensors.items():
            block = self.block_of(tensor_name)
            if block is None:
                ends_bytes += tensor.nbytes
                continue
            if block >= shape.blocks:
                raise BadModelFile(f"{self.path}: {tensor_name[:80]!r} belongs to no block of 0:{shape.blocks}")
            sizes[block] += tensor.nbytes
            dtypes[tensor.dtype] += tensor.nbytes
        if 0 in sizes:
            raise BadModelFile(f"{self.path}: block {sizes.index(0)} has no tensors")
        return ModelSpec(
            name=name,
            format=WeightFormat.SAFETENSORS,
            digest=self.digest(),
            block_bytes=tuple(sizes),
            ends_bytes=ends_bytes,
            quantisation=_TORCH_NAMES[dtypes.most_common(1)[0][0]],
            licence=licence,
            **vars(shape),
        )

    def digest(self) -> str:
        """Hex sha256 over config and weights: the same for a copy on disk and the repository it came from."""
        lines = [f"{CONFIG} {hashlib.sha256((self.path / CONFIG).read_bytes()).hexdigest()}"]
        lines += [f"{name} {file.size} {file.digest}" for name, file in sorted(self.files.items())]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _tensor(self, name: str) -> CheckpointTensor:
        if name not in self.tensors:
            raise BadModelFile(f"{self.path}: has no tensor {name[:80]!r}")
        return self.tensors[name]


def weight_names(available: Iterable[str], index: Path | None) -> list[str]:
    """Names of the weights files: what the index says, or the one file without an index.

    Raises:
        BadModelFile: the index is broken or names files that are not there; there is no safetensors file at all.
    """
    present = {name for name in available if name.endswith(".safetensors") and "/" not in name}
    if index is not None:
        return _indexed(index, present)
    if SINGLE in present or len(present) == 1:
        return [SINGLE if SINGLE in present else present.pop()]
    raise BadModelFile(f"no {SINGLE} and no {INDEX}, but {len(present)} other safetensors files")


def _indexed(index: Path, present: set[str]) -> list[str]:
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError("too large")
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadModelFile(f"{index} is no index of safetensors files: {error!r}") from error
    absent = sorted(str(name)[:80] for name in names - present)
    if absent or not names:
        raise BadModelFile(f"{index} names files that are not there: {', '.join(absent[:5]) or 'none at all'}")
    return sorted(names)


def _header(file: WeightsFile, progress: Progress | None) -> dict[str, HeaderTensor]:
    try:
        file.ensure([(0, min(_FIRST_READ_BYTES, file.size))], progress)
        with file.path.open("rb") as source:
            length = header_length(source.read(LENGTH_BYTES), file.size)
            file.ensure([(0, LENGTH_BYTES + length)], progress)
            return parse_header(source.read(length), file.size)
    except BadModelFile as error:
        raise BadModelFile(f"{file.path}: {error}") from error


def _load(tensor: CheckpointTensor) -> torch.Tensor:
    import torch

    dtype = getattr(torch, _TORCH_NAMES[tensor.dtype])
    if not tensor.nbytes:
        return torch.empty(tensor.shape, dtype=dtype)
    buffer = bytearray(tensor.nbytes)
    with tensor.file.path.open("rb") as source:
        source.seek(tensor.offset)
        if source.readinto(buffer) != tensor.nbytes:
            raise BadModelFile(f"{tensor.file.path} has been cut short")
    return torch.frombuffer(buffer, dtype=dtype).reshape(tensor.shape)
