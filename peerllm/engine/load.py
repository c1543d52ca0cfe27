"""Which engine runs a model on this machine, and a loaded span or the ends of it.

An engine's own modules are imported only when it was chosen: torch and llama.cpp each cost a second.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from peerllm.engine.admitted import TORCH_ARCHITECTURES, TORCH_DTYPES
from peerllm.engine.span_engine import Ends, SpanEngine
from peerllm.errors import BadModelFile, EngineUnavailable, UnsupportedModel
from peerllm.model.spec import ModelSpec, WeightFormat
from peerllm_swarm.slices import BlockSlice, check_slices
from peerllm_swarm.span import BlockSpan

if TYPE_CHECKING:
    from peerllm.engine.slice_engine import SliceEngine
    from peerllm.engine.thread_cap import ThreadCap
    from peerllm.engine.torch_weights import TorchWeights
    from peerllm.model.gguf import GgufFile
    from peerllm.model.progress import Progress
    from peerllm.model.store import StoredModel

ENGINES = ("auto", "llama", "torch")


def choose_engine(
    spec: ModelSpec, wanted: str = "auto", *, dtype: str | None = None, device: str = "auto"
) -> tuple[str, str]:
    """Engine and dtype, as they go into the fingerprint; nothing is loaded yet.

    "auto" is llama for a GGUF file whose architecture it admits, where llama.cpp is installed and nothing was asked
    for that only torch can do (a dtype or CUDA); torch otherwise, in float32 on a CPU and bfloat16 on CUDA.

    Raises:
        EngineUnavailable: the wanted engine is not installed here, or cannot compute in `dtype`.
        UnsupportedModel: the wanted engine cannot run this model.
    """
    if wanted not in ENGINES:
        raise EngineUnavailable(f"there is no engine {wanted!r}, only {', '.join(ENGINES)}")
    stored = spec.quantisation.lower()
    if wanted == "llama":
        _require_llama(spec)
        if dtype not in (None, stored, spec.repacked_dtype):
            raise EngineUnavailable(f"llama.cpp runs {spec.name} as stored, in {stored}, not in {dtype}")
        return "llama", dtype or stored
    only_torch = dtype not in (None, stored, spec.repacked_dtype) or device.startswith("cuda")
    if wanted == "auto" and not only_torch and _llama_runs(spec):
        return "llama", dtype or stored
    _require_torch(spec, dtype)
    return "torch", dtype or ("bfloat16" if choose_device(device).startswith("cuda") else "float32")


def choose_device(wanted: str = "auto") -> str:
    """The device of the torch engine: CUDA where there is one, else the CPU; what is asked for by name as it is."""
    if wanted != "auto":
        return wanted
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def load_span(
    model: StoredModel,
    span: BlockSpan,
    *,
    engine: str = "auto",
    dtype: str | None = None,
    device: str = "auto",
    slots: int,
    context_tokens: int,
    threads: int,
    cap: ThreadCap | None = None,
    progress: Progress | None = None,
) -> SpanEngine:
    """Fetch and load just the tensors of `span`; whether they fit is asked before, see `budget`.

    `threads` of 0 finds out while computing how many are fastest, never more than `cap` allows at that moment.

    Raises:
        EngineUnavailable, UnsupportedModel: see `choose_engine`.
        BadModelFile: the file's tensors and its description do not fit one another.
        PullFailed: no connection, or no space left.
        NoMemory: the cache cannot be allocated.
    """
    chosen, chosen_dtype = choose_engine(model.spec, engine, dtype=dtype, device=device)
    if chosen == "llama":
        from peerllm.engine.llama_span import LlamaSpan
        from peerllm.model.span_gguf import cut_span

        path = cut_span(model, span, progress, dtype=chosen_dtype)
        spec = replace(model.spec, quantisation=chosen_dtype)
        return LlamaSpan.load(path, spec, span, slots=slots, context_tokens=context_tokens, threads=threads, cap=cap)

    from peerllm.engine.torch_span import TorchSpan

    return TorchSpan.load(
        torch_weights(model),
        model.spec,
        span,
        dtype=chosen_dtype,
        device=choose_device(device),
        slots=slots,
        context_tokens=context_tokens,
        threads=threads,
        cap=cap,
        progress=progress,
    )


def load_slice(
    model: StoredModel,
    span: BlockSpan,
    slices: Sequence[BlockSlice],
    index: int,
    *,
    engine: str = "auto",
    dtype: str | None = None,
    device: str = "auto",
    slots: int,
    context_tokens: int,
    threads: int,
    cap: ThreadCap | None = None,
    progress: Progress | None = None,
) -> SliceEngine:
    """Fetch and load what the group's member `index` holds of `span`; it computes once it has joined an `Exchange`.

    `slots` and `context_tokens` are the same on all members. Other arguments and errors are those of `load_span`.

    Raises:
        CannotSlice: the slices are not the whole block, in order, cut where it can be cut.
    """
    chosen, chosen_dtype = choose_engine(model.spec, engine, dtype=dtype, device=device)
    if chosen == "torch":
        from peerllm.engine.torch_slice import TorchSlice

        return TorchSlice.load(
            torch_weights(model),
            model.spec,
            span,
            slices,
            index,
            dtype=chosen_dtype,
            device=choose_device(device),
            slots=slots,
            context_tokens=context_tokens,
            threads=threads,
            cap=cap,
            progress=progress,
        )
    if chosen_dtype != model.spec.quantisation.lower():
        raise EngineUnavailable(f"{model.spec.name}: slices are cut as stored, not repacked to {chosen_dtype}")
    from peerllm.engine.llama_span import LlamaSpan
    from peerllm.model.slice_gguf import block_shape, cut_slice

    shape = block_shape(model)
    check_slices(shape, slices)
    part = slices[index]
    heads, kv_heads = part.query_heads(shape), part.kv_heads
    spec = replace(model.spec, heads=heads[1] - heads[0], kv_heads=kv_heads[1] - kv_heads[0])
    return LlamaSpan.load(
        cut_slice(model, span, part, progress),
        spec,
        span,
        slots=slots,
        context_tokens=context_tokens,
        threads=threads,
        cap=cap,
        in_group=True,
    )


def fetch_span(
    model: StoredModel, span: BlockSpan, *, engine: str, dtype: str | None = None, progress: Progress | None = None
) -> None:
    """What `load_span` needs on this disk, so that it then takes no longer than reading it.

    Raises:
        UnsupportedModel, BadModelFile, PullFailed: as `load_span`.
    """
    if engine == "llama":
        from peerllm.model.span_gguf import cut_span

        cut_span(model, span, progress, dtype=dtype)
    else:
        torch_weights(model).ensure(span, progress)


def load_ends(
    model: StoredModel, *, engine: str, dtype: str | None = None, threads: int, progress: Progress | None = None
) -> Ends:
    """Embedding, norm and head for a route whose spans run in `engine` and `dtype`; always on the CPU."""
    if engine == "llama":
        from peerllm.engine.llama_ends import LlamaEnds
        from peerllm.model.span_gguf import cut_ends

        _require_llama(model.spec)
        path = cut_ends(model, progress)
        return LlamaEnds.load(path, _gguf(model), threads=threads)

    from peerllm.engine.torch_ends import TorchEnds

    return TorchEnds.load(
        torch_weights(model), dtype="float32" if dtype == "float32" else "bfloat16", progress=progress
    )


def torch_weights(model: StoredModel) -> TorchWeights:
    """The model's tensors as the torch engine reads them, from either format."""
    if model.spec.format is WeightFormat.GGUF:
        from peerllm.engine.gguf_torch import GgufWeights

        return GgufWeights(_gguf(model))

    from peerllm.engine.torch_weights import CheckpointWeights

    if model.checkpoint is None:
        raise BadModelFile(f"{model.spec.name} is stored without its checkpoint")
    return CheckpointWeights(model.checkpoint)


def _gguf(model: StoredModel) -> GgufFile:
    if model.gguf is None:
        raise BadModelFile(f"{model.spec.name} is stored without its GGUF file")
    return model.gguf


def _llama_runs(spec: ModelSpec) -> bool:
    try:
        _require_llama(spec)
    except (EngineUnavailable, UnsupportedModel):
        return False
    return True


def _require_llama(spec: ModelSpec) -> None:
    from peerllm.model.span_gguf import ADMITTED

    if spec.format is not WeightFormat.GGUF:
        raise UnsupportedModel(f"{spec.name} is no GGUF file, which is all that llama.cpp reads; take the engine torch")
    if spec.architecture not in ADMITTED:
        raise UnsupportedModel(f"{spec.name}: llama serves {', '.join(ADMITTED)}, not {spec.architecture}")
    if importlib.util.find_spec("llama_cpp") is None:
        raise EngineUnavailable("llama.cpp is not installed: pip install 'peerllm[llama]', or take the engine torch")


def _require_torch(spec: ModelSpec, dtype: str | None) -> None:
    admitted = TORCH_ARCHITECTURES[spec.format]
    if spec.architecture not in admitted:
        raise UnsupportedModel(
            f"{spec.name}: the torch engine reads {', '.join(admitted)} from {spec.format}, not {spec.architecture}"
        )
    if dtype is not None and dtype not in TORCH_DTYPES:
        raise EngineUnavailable(f"the torch engine computes in {', '.join(TORCH_DTYPES)}, not in {dtype}")
    if importlib.util.find_spec("torch") is None:
        raise EngineUnavailable("torch is not installed: pip install 'peerllm[node]'")
