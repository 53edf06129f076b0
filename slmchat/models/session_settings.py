"""How a session of a model is opened: threads, KV cache, drafts, layers for the GPU.

Knows: flags over settings over what `slm tune` measured over what this device has.
Refuses to know: how a session computes, which model is chosen.
"""

from pathlib import Path

from slmchat.catalog.gguf import read_headers
from slmchat.engine.kvstore import KvStore
from slmchat.engine.requests import BATCH_TOKENS, SessionSettings
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.fit.memory import DEFAULT_KV_TYPE
from slmchat.models import tuning
from slmchat.models.resolve import find
from slmchat.option_fields import number_or_auto
from slmchat.options import GenerationOptions
from slmchat.ranges import GPU_LAYERS
from slmchat.reporting import Reporter
from slmchat.settings import Settings


def kv_store(settings: Settings) -> KvStore | None:
    """The states on disk; None with `--private`, and where the user has switched them off."""
    if settings.is_private or not settings.has_kv_cache:
        return None
    return KvStore(settings.paths.kv_states, settings.kv_cache_limit)


def session_settings(
    options: GenerationOptions, settings: Settings, n_ctx: int, model: Path | None = None
) -> SessionSettings:
    """Threads, KV cache and drafts: flags over settings over what `slm tune` measured over what this device has.

    `model`: the file whose measurements count.
    """
    tuned = tuning.of(model, settings) if model is not None else tuning.UNTUNED
    chosen = options.threads or settings.threads
    usual = chosen or threads_of(options, settings)
    return SessionSettings(
        n_ctx=n_ctx,
        threads=chosen or tuned.threads or usual,
        threads_batch=chosen or tuned.threads_batch or usual,
        kv_type=options.kv_type or settings.kv_type or tuned.kv_type or DEFAULT_KV_TYPE,
        flash_attention=tuned.flash_attention,
        batch_tokens=tuned.batch_tokens or BATCH_TOKENS,
        adapts_threads=not (options.threads or settings.threads),
        speculation=options.speculation or settings.speculation,
    )


def threads_of(options: GenerationOptions, settings: Settings) -> int:
    """Threads that compute: asked for, or as many as this device has cores for it."""
    from slmchat.engine import threads

    return options.threads or settings.threads or threads.of_this_device()


# What `--draft` takes besides a name: the pair that the catalog states.
DRAFT_AUTO = "auto"


def draft_model(options: GenerationOptions, settings: Settings, pair: str | None, reporter: Reporter) -> Path | None:
    """The file of the model of `--draft`, its header checked. `pair`: what the catalog states for this model.

    Raises `SlmError`: NO_MODEL, DAMAGED, or USAGE for what cannot answer and together with `--speculation off`. With
    `auto` a pair that is not there is no error: the user is told, and nothing drafts.
    """
    if options.draft is None:
        return None
    if options.speculation == "off":
        raise usage_error("--draft and --speculation off contradict each other.", "leave one out")
    if options.draft == DRAFT_AUTO and pair is None:
        reporter.note("(the catalog states no model that drafts for this one)")
        return None
    try:
        found = find(pair if options.draft == DRAFT_AUTO else options.draft, settings, reporter)
    except SlmError as error:
        if options.draft != DRAFT_AUTO or error.exit_code is not ExitCode.NO_MODEL:
            raise
        reporter.note(f"({pair} would draft for this model, and is not installed: slm pull {pair})")
        return None
    from slmchat.catalog import model_kind

    model_kind.check_generates(read_headers(found.parts), found.key)
    return found.path


def gpu_layers(options: GenerationOptions, settings: Settings) -> int | None:
    """Layers for the GPU, None for llama.cpp's own choice."""
    if options.gpu_layers is None:
        return settings.gpu_layers
    return number_or_auto(options.gpu_layers, "--gpu-layers", GPU_LAYERS)
