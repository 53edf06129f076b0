"""What slm asks of llama.cpp less than it could, because that crashes, hangs or computes wrongly on this machine.

Knows: the faster ways of llama.cpp that can be left out one by one, how parameters are kept within what is left, and
the record of what was tried.
Refuses to know: how it is found out what works (self_test.py), where that is kept (verdicts.py).

Whatever loads weights or opens a context passes its parameters through one of the methods here. Nothing else in slm
asks which of these ways is open, but for `fit`, which counts what they take, and `slm tune`, which compares them.
"""

import ctypes
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from slmchat.engine import native
from slmchat.lazy_dataclasses import dataclass

if TYPE_CHECKING:  # the child of the self-test needs none of it
    from slmchat.engine.requests import SessionSettings

FEATURES = {
    "has_extra_buffers": "weights repacked for this processor",
    "has_flash_attention": "flash attention",
    "has_gpu": "the GPU",
    "has_threads": "more than one thread",
}
"""Field -> its name in sentences, in the order in which they are left out: the likeliest fault first."""

# struct llama_model_params: an array of devices that ends in NULL; none at all is an array of one NULL.
_NO_DEVICES = (ctypes.c_void_p * 1)(None)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The ways of llama.cpp that are open. Without arguments: all.

    `has_extra_buffers`: weights may be copied into layouts for AMX, KleidiAI and other kernels of the processor
    (llama_model_params.use_extra_bufts). `has_threads`: more than one.
    """

    has_extra_buffers: bool = True
    has_flash_attention: bool = True
    has_gpu: bool = True
    has_threads: bool = True

    @property
    def forbidden(self) -> tuple[str, ...]:
        """The fields that are closed."""
        return tuple(name for name in FEATURES if not getattr(self, name))

    def in_words(self) -> str:
        """What is left out: "flash attention and the GPU"; empty when nothing is."""
        *before, last = [FEATURES[name] for name in self.forbidden] or [""]
        return f"{', '.join(before)} and {last}" if before else last

    def without(self, feature: str) -> "EngineLimits":
        return replace(self, **{feature: False})

    def with_(self, feature: str) -> "EngineLimits":
        return replace(self, **{feature: True})

    def both(self, other: "EngineLimits") -> "EngineLimits":
        """Only what both leave open."""
        return EngineLimits(*(getattr(self, field.name) and getattr(other, field.name) for field in fields(self)))

    def model_params(self, params: Any) -> Any:
        """The same struct llama_model_params, within the limits."""
        params.use_extra_bufts = bool(params.use_extra_bufts and self.has_extra_buffers)
        if not self.has_gpu:
            params.n_gpu_layers = 0
            params.devices = ctypes.cast(_NO_DEVICES, ctypes.c_void_p)
        return params

    def context_params(self, params: Any) -> Any:
        """The same struct llama_context_params, within the limits."""
        api = native.bindings()
        if not self.has_flash_attention:
            params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if not self.has_threads:
            params.n_threads = params.n_threads_batch = 1
        return params

    def projector_params(self, params: Any) -> Any:
        """The same struct mtmd_context_params, within the limits."""
        params.use_gpu = bool(params.use_gpu and self.has_gpu)
        if not self.has_flash_attention:
            params.flash_attn_type = native.bindings().LLAMA_FLASH_ATTN_TYPE_DISABLED
        if not self.has_threads:
            params.n_threads = 1
        return params

    def kv_type(self, wanted: str) -> str:
        """What the KV cache is made of when this is wanted: llama.cpp quantizes V for flash attention alone."""
        return wanted if self.has_flash_attention else "f16"

    def session(self, settings: "SessionSettings") -> "SessionSettings":
        """The same settings, within the limits."""
        if not self.has_flash_attention:
            settings = replace(settings, flash_attention=False, kv_type=self.kv_type(settings.kv_type))
        if not self.has_threads:
            settings = replace(settings, threads=1, threads_batch=1)
        return settings


ALL = EngineLimits()
"""Nothing is left out."""

LEAST = EngineLimits(*(False for _ in FEATURES))
"""The plain way: weights as they lie in the file, the processor alone, one thread."""

HANGS = "hangs"
"""The fault of what does not come to an end."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way that was tried. `fault` is empty when it worked: "crashes (SIGSEGV)", "hangs", "computes wrongly …"."""

    limits: EngineLimits
    fault: str

    def in_words(self) -> str:
        return f"without {self.limits.in_words()}" if self.limits.forbidden else "with everything"


@dataclass(frozen=True, slots=True)
class SelfTestVerdict:
    """What works. `is_broken`: not even the plain way does. `untried`: why nothing could be found out, else empty."""

    limits: EngineLimits = ALL
    attempts: tuple[Attempt, ...] = ()
    seconds: float = 0.0
    is_broken: bool = False
    untried: str = ""

    @property
    def fault(self) -> str:
        """What the fast way does wrong; empty when it works."""
        return self.attempts[0].fault if self.attempts else ""
