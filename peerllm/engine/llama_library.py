"""llama.cpp as one loaded library: imported late, silent, with the few ggml functions its binding leaves out."""

from __future__ import annotations

import ctypes
import importlib
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from peerllm.engine.threads import limit_spinning
from peerllm.errors import EngineUnavailable

log = logging.getLogger(__name__)

_GGML_ERROR, _GGML_CONTINUATION = 4, 5
_recent_errors: deque[str] = deque(maxlen=3)


@dataclass(frozen=True)
class LlamaLibrary:
    """The binding's module and what is needed beside it."""

    api: Any  # the module llama_cpp.llama_cpp
    tensor_get: int  # address of void ggml_backend_tensor_get(tensor, data, offset, size)
    tensor_bytes: int  # address of size_t ggml_nbytes(tensor)
    tensor_data: int  # address of void * ggml_get_data(tensor)
    name_offset: int  # of the name within struct ggml_tensor
    source_offset: int  # of the pointer to the first operand, for a matrix product its weights


@cache
def llama_library() -> LlamaLibrary:
    """Load llama.cpp once per process.

    Raises:
        EngineUnavailable: llama-cpp-python is not installed, or its library cannot be loaded here.
    """
    limit_spinning()
    try:
        api: Any = importlib.import_module("llama_cpp.llama_cpp")
    except (ImportError, OSError, RuntimeError, FileNotFoundError) as error:
        raise EngineUnavailable(
            f"llama.cpp cannot be loaded ({error}); install it with `pip install 'peerllm[llama]'` "
            "(needs a C++ compiler) or use --engine torch"
        ) from error
    api.llama_log_set(_log_callback(api), None)
    api.llama_backend_init()
    base = _ggml_base(Path(api.__file__).parent / "lib")
    return LlamaLibrary(
        api=api,
        tensor_get=_address(base, "ggml_backend_tensor_get"),
        tensor_bytes=_address(base, "ggml_nbytes"),
        tensor_data=_address(base, "ggml_get_data"),
        name_offset=_name_offset(base),
        source_offset=_source_offset(base),
    )


def recent_errors() -> str:
    """What llama.cpp complained about last: the reason that its calls do not return."""
    return "; ".join(_recent_errors) or "llama.cpp gives no reason"


@cache  # the library keeps only the pointer: the callback must live as long as the process
def _log_callback(api: Any) -> Any:
    level = 0

    @api.llama_log_callback
    def forward(new_level: int, text: bytes, _user_data: object) -> None:
        nonlocal level
        level = level if new_level == _GGML_CONTINUATION else new_level
        line = text.decode(errors="replace").strip()
        if not line or set(line) == {"."}:  # the progress dots of loading
            return
        if level == _GGML_ERROR:
            _recent_errors.append(line)
        log.debug("llama.cpp: %s", line)

    return forward


def _ggml_base(directory: Path) -> ctypes.CDLL:
    for name in _library_names("ggml-base"):
        if (directory / name).exists():
            return ctypes.CDLL(str(directory / name))
    raise EngineUnavailable(f"{directory} has no ggml-base library; reinstall llama-cpp-python or use --engine torch")


def _library_names(stem: str) -> Sequence[str]:
    return f"lib{stem}.so", f"lib{stem}.dylib", f"{stem}.dll", f"lib{stem}.dll"


def _address(library: ctypes.CDLL, function: str) -> int:
    address = ctypes.cast(getattr(library, function), ctypes.c_void_p).value
    if address is None:
        raise EngineUnavailable(f"llama.cpp's library lacks {function}; reinstall llama-cpp-python")
    return address


def _name_offset(library: ctypes.CDLL) -> int:
    """Where a tensor's name lies: `ggml_get_name` adds just this offset to the pointer it is given."""
    get_name = library.ggml_get_name
    get_name.restype, get_name.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    blank = ctypes.create_string_buffer(4096)
    return get_name(ctypes.addressof(blank)) - ctypes.addressof(blank)


class _ContextParameters(ctypes.Structure):
    """struct ggml_init_params"""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def _source_offset(library: ctypes.CDLL) -> int:
    """Where a tensor points to its first operand: found in one that was made of a known tensor."""
    begin, new, negate, end = library.ggml_init, library.ggml_new_tensor_1d, library.ggml_neg, library.ggml_free
    begin.restype, begin.argtypes = ctypes.c_void_p, [_ContextParameters]
    new.restype, new.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
    negate.restype, negate.argtypes = ctypes.c_void_p, [ctypes.c_void_p] * 2
    end.restype, end.argtypes = None, [ctypes.c_void_p]
    context = begin(_ContextParameters(1 << 16, None, True))
    operand = new(context, 0, 32)
    made = negate(context, operand)
    words = (ctypes.c_uint64 * (_name_offset(library) // 8)).from_address(made)
    places = [8 * place for place, word in enumerate(words) if word == operand]
    end(context)
    if len(places) != 1:
        raise EngineUnavailable("llama.cpp's tensors are laid out in an unknown way; reinstall llama-cpp-python")
    return places[0]
