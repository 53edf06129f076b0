"""Whether a library's structures are those of the declarations, told without a call that passes one by value.

Knows: how a C function returns a large structure on each kind of processor, what llama.cpp's default structures hold.
Refuses to know: where the library comes from (library.py), what is said when it does not belong (native.py).

llama.cpp changes its structures between versions. A library with another `llama_context_params` reads beyond what
ctypes hands over, and computes wrongly or dies. The functions that return default structures take none, and write what
they return to where the caller says. They are let write into a buffer with room to spare, filled with one byte: then it
can be seen where they wrote, how far, and whether the defaults lie where the declarations expect them.

Where the caller says it: on x86-64, by System V's convention as by Microsoft's, the address is a hidden first argument,
which ctypes can pass as an ordinary one. On 64-bit Arm it is in a register of its own (x8), on others elsewhere; libffi
knows where, and ctypes stands on it: called directly, it takes a buffer of ours. Where libffi is out of reach (inside
Python), ctypes returns the structure into a buffer that is as large but filled with nothing known: then the defaults
are compared, and how far was written is not told.
"""

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from slmchat.lazy_dataclasses import dataclass

# Bytes of the buffer: more than ten times the largest structure. The byte that it is filled with is neither a boolean
# nor, four or eight times, any number that is a default.
_ROOM = 4096
_UNTOUCHED = 0xA5

# libffi: ffi_status FFI_OK; FFI_TYPE_STRUCT; enum ffi_abi: the default is the second one on 64-bit Arm, RISC-V and most
# others, the third on x86-64 (FFI_UNIX64), where only the tests go this way.
_FFI_OK, _FFI_TYPE_STRUCT = 0, 13
_IS_X86_64 = ctypes.sizeof(ctypes.c_void_p) == 8 and (
    "AMD64" in sys.version if sys.platform == "win32" else os.uname().machine in ("x86_64", "amd64")
)
_FFI_DEFAULT_ABI = 2 if _IS_X86_64 else 1


class _FfiType(ctypes.Structure):
    # typedef struct _ffi_type { size_t size; unsigned short alignment; unsigned short type;
    #                            struct _ffi_type **elements; } ffi_type;
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("alignment", ctypes.c_ushort),
        ("type", ctypes.c_ushort),
        ("elements", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True)
class Returned:
    """What a function wrote. `is_tail_known`: bytes that it left alone can be told from others."""

    data: bytes
    is_tail_known: bool = True


def other_structure(api: ModuleType) -> str | None:
    """The name of the first structure of libllama that is another one than declared; None: all are the same.

    `api`: the declarations, with a library whose functions have been found.
    """
    token = (ctypes.c_int32 * 1)(7)
    tokens = ctypes.cast(token, ctypes.POINTER(api.llama_token))
    # struct llama_batch llama_batch_get_one(llama_token * tokens, int32_t n_tokens);
    probes: tuple[tuple[str, type[ctypes.Structure], Sequence[int], Mapping[str, Any]], ...] = (
        ("llama_model_default_params", api.llama_model_params, (), _MODEL_DEFAULTS),
        ("llama_context_default_params", api.llama_context_params, (), _CONTEXT_DEFAULTS),
        (
            "llama_batch_get_one",
            api.llama_batch,
            (ctypes.addressof(token), 1),
            {"n_tokens": 1, "token": tokens, "embd": None, "pos": None, "seq_id": None, "logits": None},
        ),
    )
    for name, structure, arguments, defaults in probes:
        if not is_declared(returned(api._lib, name, arguments), structure, defaults):
            return structure.__name__
    return None


def other_multimodal_structure(module: ModuleType) -> str | None:
    """The same for libmtmd."""
    found = returned(module._libmtmd, "mtmd_context_params_default", ())
    structure: type[ctypes.Structure] = module.mtmd_context_params
    return None if is_declared(found, structure, _MULTIMODAL_DEFAULTS) else structure.__name__


# What the default functions of llama.cpp return (llama-model.cpp, llama-context.cpp, mtmd.cpp), as far as it does not
# depend on the device.
_MODEL_DEFAULTS: Mapping[str, Any] = {
    "devices": None, "tensor_buft_overrides": None, "n_gpu_layers": -1, "split_mode": 1, "load_mode": -1,
    "lazy_mode": 1, "main_gpu": 0, "tensor_split": None, "progress_callback_user_data": None, "kv_overrides": None,
    "vocab_only": False, "check_tensors": False, "use_extra_bufts": True, "no_host": False, "no_alloc": False,
}  # fmt: skip
_CONTEXT_DEFAULTS: Mapping[str, Any] = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_threads": 4, "n_threads_batch": 4,
    "rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1, "flash_attn_type": -1, "yarn_ext_factor": -1.0,
    "yarn_orig_ctx": 0, "defrag_thold": -1.0, "cb_eval_user_data": None, "type_k": 1, "type_v": 1,
    "abort_callback_data": None, "embeddings": False, "offload_kqv": True, "no_perf": True, "op_offload": True,
    "swa_full": True, "kv_unified": False, "samplers": None, "n_samplers": 0,
}  # fmt: skip
_MULTIMODAL_DEFAULTS: Mapping[str, Any] = {
    "use_gpu": True, "n_threads": 4, "flash_attn_type": -1, "warmup": True, "image_min_tokens": -1,
    "image_max_tokens": -1, "cb_eval_user_data": None, "batch_max_tokens": 1024, "progress_callback_user_data": None,
}  # fmt: skip


def is_declared(found: Returned, structure: type[ctypes.Structure], defaults: Mapping[str, Any]) -> bool:
    """Whether the bytes are the declared structure: all of it written, nothing behind it, the defaults in place."""
    size = ctypes.sizeof(structure)
    if found.is_tail_known and found.data[size:].strip(bytes([_UNTOUCHED])):
        return False
    expected = bytes(structure(**defaults))
    for name, kind, *_ in structure._fields_:
        place = getattr(structure, name)
        part = slice(place.offset, place.offset + place.size)
        written = found.data[part]
        if found.is_tail_known and written == bytes([_UNTOUCHED]) * place.size:
            return False
        if kind is ctypes.c_bool and written not in (b"\0", b"\1"):
            return False
        if name in defaults and written != expected[part]:
            return False
    return True


def returned(library: ctypes.CDLL, name: str, arguments: Sequence[int]) -> Returned:
    """What the function writes as its result. `arguments`: addresses and whole numbers, six at most."""
    if _IS_X86_64:
        return by_hidden_argument(library, name, arguments)
    return by_libffi(library, name, arguments) or by_value(library, name, arguments)


def by_hidden_argument(library: ctypes.CDLL, name: str, arguments: Sequence[int]) -> Returned:
    """For x86-64: the address of the result as the first argument."""
    function, buffer = library[name], _untouched()  # library[name] is a new object, whose types are nobody else's
    function.restype = None
    function(ctypes.c_void_p(ctypes.addressof(buffer)), *map(ctypes.c_uint64, arguments))
    return Returned(bytes(buffer))


def by_libffi(library: ctypes.CDLL, name: str, arguments: Sequence[int]) -> Returned | None:
    """For any convention: the library below ctypes, with a result buffer of ours; None where it is out of reach."""
    import _ctypes

    try:
        ffi = ctypes.CDLL(getattr(_ctypes, "__file__", None))
        prepare, call = ffi.ffi_prep_cif, ffi.ffi_call
        number = ctypes.addressof(_FfiType.in_dll(ffi, "ffi_type_uint64"))
    except (OSError, AttributeError, ValueError):
        return None
    elements = (ctypes.c_void_p * (_ROOM // 8 + 1))(*[number] * (_ROOM // 8))
    structure = _FfiType(0, 0, _FFI_TYPE_STRUCT, ctypes.addressof(elements))
    kinds = (ctypes.c_void_p * (len(arguments) + 1))(*[number] * len(arguments))
    values = [ctypes.c_uint64(argument) for argument in arguments]
    addresses = (ctypes.c_void_p * (len(values) + 1))(*map(ctypes.addressof, values))
    interface = ctypes.create_string_buffer(256)  # ffi_cif, 32 bytes and a little more on some processors
    # ffi_status ffi_prep_cif(ffi_cif *cif, ffi_abi abi, unsigned int nargs, ffi_type *rtype, ffi_type **atypes);
    if prepare(interface, _FFI_DEFAULT_ABI, len(values), ctypes.byref(structure), kinds) != _FFI_OK:
        return None
    buffer = _untouched()
    # void ffi_call(ffi_cif *cif, void (*fn)(void), void *rvalue, void **avalue);
    call.restype = None
    call(interface, ctypes.cast(library[name], ctypes.c_void_p), buffer, addresses)
    return Returned(bytes(buffer))


def by_value(library: ctypes.CDLL, name: str, arguments: Sequence[int]) -> Returned:
    """For any convention: as a structure that is larger than the real one. What lies behind that is not told."""

    class Wide(ctypes.Structure):
        _fields_ = (("data", ctypes.c_uint8 * _ROOM),)

    function = library[name]
    function.restype = Wide
    return Returned(bytes(function(*map(ctypes.c_uint64, arguments))), is_tail_known=False)


def _untouched() -> "ctypes.Array[ctypes.c_uint8]":
    return (ctypes.c_uint8 * _ROOM).from_buffer_copy(bytes([_UNTOUCHED]) * _ROOM)
