"""A library that behaves as llama.cpp and then does not: the installed one behind a shared object compiled here.

Every call goes on to the real library. From the moment on at which what is planted for comes true (weights loaded with
extra buffers, a context with flash attention, with more than one thread), evaluating tokens goes wrong.
"""

import ctypes
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

struct model_params { long words[MODEL_SIZE / 8]; };
struct context_params { long words[CONTEXT_SIZE / 8]; };
struct batch { long words[BATCH_SIZE / 8]; };

static int extra, flash, threads;

#define real(name) dlsym(RTLD_NEXT, name)

void *llama_model_load_from_file(const char *path, struct model_params params) {
    void *(*go)(const char *, struct model_params) = real("llama_model_load_from_file");
    extra = ((char *)&params)[EXTRA_OFFSET];
    return go(path, params);
}

void *llama_init_from_model(void *model, struct context_params params) {
    void *(*go)(void *, struct context_params) = real("llama_init_from_model");
    memcpy(&flash, (char *)&params + FLASH_OFFSET, 4);
    memcpy(&threads, (char *)&params + THREADS_OFFSET, 4);
    return go(model, params);
}

int llama_decode(void *context, struct batch batch) {
    int (*go)(void *, struct batch) = real("llama_decode");
    if (WHEN) { BEFORE; }
    return go(context, batch);
}

float *llama_get_logits_ith(void *context, int index) {
    float *(*go)(void *, int) = real("llama_get_logits_ith");
    float *found = go(context, index);
    if (found && (WHEN)) for (int i = 0; i < 256; i++) { AFTER; }
    return found;
}
"""

EXTRA, FLASH, THREADS, ALWAYS = "extra", "flash", "threads > 1", "1"

CRASHES = "raise(SIGSEGV)"
ABORTS = "raise(SIGABRT)"
KILLED = "raise(SIGKILL)"
HANGS = "for (;;) pause()"
COMPUTES_WRONGLY = "found[i] *= i % 4 ? 1.0f : 0.2f"
COMPUTES_NAN = "found[i] = i ? found[i] : NAN"


def _compiler() -> str:
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler here (cc), or no Linux: no library can be planted")
    return compiler


# The libraries that stand beside libllama.so, in a build that is not one file.
_BESIDE = ("libggml.so", "libggml-base.so", "libggml-cpu.so", "libmtmd.so")


@functools.cache
def _whole_library() -> Path:
    """A library of this machine with which nothing goes wrong before it is planted: here the own build may crash."""
    from slmchat.engine import library, native, self_test

    used = Path(native.bindings()._lib._name)
    if not self_test.try_library(2).limits.forbidden:
        return used
    prebuilt = library.prebuilt()
    if prebuilt is None or prebuilt.path == used:
        pytest.skip("every library here goes wrong by itself")
    return prebuilt.path


def plant(directory: Path, when: str, what: str) -> dict[str, str]:
    """Compile a library into `directory` that does `what` `when`; the environment with which slm uses it."""
    from slmchat.engine import native

    compiler = _compiler()
    api = native.bindings()
    real = _whole_library()
    directory.mkdir(parents=True, exist_ok=True)
    beside = {file.name: file for file in real.parent.glob("lib*.so*")} or dict.fromkeys(_BESIDE, real)
    for name, file in beside.items():
        if name != "libllama.so":
            (directory / name).symlink_to(file)
    is_before = what.startswith(("raise", "for"))
    values = {
        "MODEL_SIZE": ctypes.sizeof(api.llama_model_params),
        "CONTEXT_SIZE": ctypes.sizeof(api.llama_context_params),
        "BATCH_SIZE": ctypes.sizeof(api.llama_batch),
        "EXTRA_OFFSET": api.llama_model_params.use_extra_bufts.offset,
        "FLASH_OFFSET": api.llama_context_params.flash_attn_type.offset,
        "THREADS_OFFSET": api.llama_context_params.n_threads.offset,
        "WHEN": when,
        "BEFORE": what if is_before else "",
        "AFTER": "" if is_before else what,
    }
    source = directory / "planted.c"
    source.write_text(_SOURCE)
    made = subprocess.run(
        [
            compiler, "-shared", "-fPIC", "-w", "-o", directory / "libllama.so", source,
            *(f"-D{name}={value}" for name, value in values.items()),
            "-Wl,--no-as-needed", real, f"-Wl,-rpath,{real.parent}", "-ldl",
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return {"LLAMA_CPP_LIB_PATH": str(directory), "SLM_VERDICTS": str(directory / "verdicts")}


def plant_at_load(directory: Path, what: str) -> dict[str, str]:
    """A library that does this as soon as a process loads it; the environment that puts it into use."""
    compiler = _compiler()
    directory.mkdir()
    source = directory / "planted.c"
    source.write_text(
        f"#include <signal.h>\n#include <unistd.h>\n__attribute__((constructor)) static void load(void) {{ {what}; }}\n"
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", directory / "libllama.so", source], check=True)
    return {"LLAMA_CPP_LIB_PATH": str(directory), "SLM_VERDICTS": str(directory / "verdicts")}
