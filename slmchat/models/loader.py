"""From a name to a loaded model: find it, read its header, load it, settle the sampler.

Shared by the errands that talk to a model. Knows: in which order that happens.
Refuses to know: what is then said to the model.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from slmchat.catalog.gguf import read_headers
from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed
from slmchat.conversation import thinking
from slmchat.conversation.messages import Message, Role
from slmchat.engine import crash_markers
from slmchat.engine.api import BATCH_TOKENS, Done, Engine, Event, Limits, Prefill, SessionSettings
from slmchat.engine.kvstore import KvStore
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.fit.memory import DEFAULT_KV_TYPE
from slmchat.fit.plan import Verdict
from slmchat.fit.shape import shape_of
from slmchat.models import adapters, device_fit, engine_trial, tuning
from slmchat.models.device_fit import LoadPlan
from slmchat.options import GenerationOptions
from slmchat.personas import Persona
from slmchat.personas import find as find_persona
from slmchat.personas import load as load_personas
from slmchat.settings import KV_TYPES, SPECULATION, Settings
from slmchat.terminal import interrupts
from slmchat.terminal.console import Console

Record = TypeVar("Record", Event, Done)


def seal(settings: Settings, *, configures: bool = False, writable: Sequence[Path] = ()) -> None:
    """Close the process to the network before anything untrusted is read. Raises `SlmError` (UNSEALED) if it must be.

    A GPU backend needs local sockets while it starts, so that the seal then closes in two steps, both before a model
    file is opened. `configures`: this command may change the configuration. With `--private` not even slm's own
    directories stay writable, and core dumps are off. `writable`: what else this errand has to write.
    """
    from slmchat.engine import native, verdicts
    from slmchat.privacy.seal import Seal, own_directories

    found_out = verdicts.directory(settings.paths.cache)
    own = () if settings.is_private else own_directories(settings.paths, found_out, configures=configures)
    closing = Seal(is_required=settings.is_offline, writable=(*own, *writable))
    closing.close_network()
    if native.has_gpu_backend():
        known = verdicts.library(found_out)  # its child needs local sockets as well
        if not known.verdict.is_broken:
            native.start_devices()
    closing.close_local()
    if settings.is_private:
        from slmchat.privacy import dumps

        dumps.switch_off()


def find(name: str | None, settings: Settings, console: Console) -> Installed:
    """The installed model that this name (or the default) stands for; `SlmError` NO_MODEL with what to pull.

    The catalog is parsed only when the name is not that of an installed model: `slm run` has no time for it.
    """
    library = Library(settings.paths, warn=console.warn)
    finder = adapters.finder(settings, library)
    name = name or settings.model or library.default_model(finder.names)
    if name is None:
        is_empty = not any(record.answers for record in library.all())
        raise SlmError(
            "no model is installed." if is_empty else "several models are installed and none is chosen.",
            hint="slm pull smollm2:135m" if is_empty else "name one with -m; slm list shows them",
            exit_code=ExitCode.NO_MODEL,
        )
    return finder.find(name)


def is_first_run(settings: Settings) -> bool:
    """Nothing is installed and no model is named anywhere."""
    library = Library(settings.paths)
    return settings.model is None and library.default_model() is None and not library.all()


def personas(settings: Settings) -> dict[str, Persona]:
    """The built-in personas and the user's own, by name."""
    return load_personas(settings.personas, settings.paths.config_file)


def with_persona(options: GenerationOptions, settings: Settings) -> GenerationOptions:
    """The options with what the persona of `-p` gives where nothing else was given."""
    if options.persona is None:
        return options
    persona = find_persona(options.persona, personas(settings))
    return replace(
        options,
        model=options.model or (None if options.endpoint else persona.model),
        system=options.system if options.system is not None else persona.system,
        max_tokens=options.max_tokens or persona.max_tokens,
        stop=options.stop or list(persona.stop),
    )


def persona_of(options: GenerationOptions, settings: Settings) -> Persona | None:
    """The persona of `-p`, if one was given."""
    return find_persona(options.persona, personas(settings)) if options.persona else None


def example_messages(persona: Persona | None) -> list[Message]:
    """The few-shot examples of a persona as messages."""
    if persona is None:
        return []
    return [
        message
        for user, assistant in persona.examples
        for message in (Message(Role.USER, user), Message(Role.ASSISTANT, assistant))
    ]


class Recommended(Protocol):
    """A model with the sampler settings that its makers recommend."""

    @property
    def sampler(self) -> Mapping[str, float]: ...


def sampler_settings(model: Recommended, settings: Settings, options: GenerationOptions) -> SamplerSettings:
    """The sampler: slm's defaults < the model's recommended ones < the config's < the persona's < the flags."""
    persona = persona_of(options, settings)
    return (
        SamplerSettings()
        .with_values(model.sampler)
        .with_values(settings.sampler)
        .with_values(persona.sampler if persona else {})
        .with_values(options.sampler_values())
    )


def limits(options: GenerationOptions, n_alternatives: int | None = None) -> Limits:
    """Where a completion ends; the marks around a thought are shown to whoever tells thought and answer apart.

    `n_alternatives` not None: the chances of its tokens are told, with so many others at each place.
    """
    return Limits(
        options.max_tokens,
        tuple(options.stop),
        shown=() if options.raw else thinking.TOKENS,
        n_alternatives=n_alternatives,
    )


def kv_store(settings: Settings) -> KvStore | None:
    """The states on disk; None with `--private`, and where the user has switched them off."""
    if settings.is_private or not settings.has_kv_cache:
        return None
    return KvStore(settings.paths.kv_states, settings.kv_cache_limit)


def session_settings(
    options: GenerationOptions,
    settings: Settings,
    n_ctx: int,
    store: KvStore | None = None,
    draft_model: Path | None = None,
    model: Path | None = None,
) -> SessionSettings:
    """Threads, KV cache and drafts: flags over settings over what `slm tune` measured over what this device has.

    `model`: the file whose measurements count.
    """
    speculation = options.speculation or settings.speculation
    if speculation not in SPECULATION:
        raise SlmError(
            f"--speculation cannot be '{speculation}'.",
            hint=f"one of {', '.join(SPECULATION)}",
            exit_code=ExitCode.USAGE,
        )
    tuned = tuning.of(model, settings) if model is not None else tuning.UNTUNED
    chosen = options.threads or settings.threads
    usual = chosen or _threads(options, settings)
    return SessionSettings(
        n_ctx=n_ctx,
        threads=chosen or tuned.threads or usual,
        threads_batch=chosen or tuned.threads_batch or usual,
        kv_type=_kv_type(options, settings) or tuned.kv_type or DEFAULT_KV_TYPE,
        flash_attention=tuned.flash_attention,
        batch_tokens=tuned.batch_tokens or BATCH_TOKENS,
        store=store,
        adapts_threads=not (options.threads or settings.threads),
        speculation=speculation,
        draft_model=draft_model,
    )


def _threads(options: GenerationOptions, settings: Settings) -> int:
    from slmchat.engine import threads

    return options.threads or settings.threads or threads.of_this_device()


def _kv_type(options: GenerationOptions, settings: Settings) -> str | None:
    """What was asked for; None: nothing."""
    kv_type = options.kv_type or settings.kv_type
    if kv_type is not None and kv_type not in KV_TYPES:
        raise SlmError(
            f"--kv-type cannot be '{kv_type}'.", hint=f"one of {', '.join(KV_TYPES)}", exit_code=ExitCode.USAGE
        )
    return kv_type


def draft_model(options: GenerationOptions, settings: Settings, console: Console) -> Path | None:
    """The file of the model of `--draft`, its header checked.

    Raises `SlmError`: NO_MODEL, DAMAGED, or USAGE for what cannot answer and together with `--speculation off`.
    """
    if options.draft is None:
        return None
    if options.speculation == "off":
        raise SlmError(
            "--draft and --speculation off contradict each other.", hint="leave one out", exit_code=ExitCode.USAGE
        )
    found = find(options.draft, settings, console)
    from slmchat.catalog import model_kind

    model_kind.check_generates(read_headers(found.parts), found.key)
    return found.path


def gpu_layers(options: GenerationOptions, settings: Settings) -> int | None:
    """Layers for the GPU, None for llama.cpp's own choice."""
    if options.gpu_layers is None or options.gpu_layers == "auto":
        return settings.gpu_layers if options.gpu_layers is None else None
    if not options.gpu_layers.isdecimal():
        raise SlmError(
            f"--gpu-layers cannot be '{options.gpu_layers}'.", hint="auto or a number", exit_code=ExitCode.USAGE
        )
    return int(options.gpu_layers)


@dataclass(slots=True)
class _Outcome:
    engine: Engine | None = None
    error: BaseException | None = None


class Loading:
    """A model that is being loaded in a thread, so that the prompt can be read (or typed) meanwhile."""

    def __init__(
        self,
        load: Callable[[], tuple[Engine, LoadPlan | None]],
        mark: crash_markers.CrashMarker | None = None,
        notices: Sequence[str] = (),
        path: Path | None = None,
    ) -> None:
        """`load` is called in the thread: it gives the engine, and how it was opened where that was settled here.

        `path`: the file of a model on this device.

        `notices`: what the user has to know of it then, in sentences. `mark` says on the disk that a model is on trial:
        while it is loaded, and until its first token.
        """
        self._mark = mark
        self.opening: LoadPlan | None = None  # how it is opened, once that is decided
        self.notices = notices
        self.path = path
        if mark is not None:
            mark.set()
        self._outcome = _Outcome()
        self._callbacks: list[Callable[[], None]] = []
        # daemon: Ctrl-C while the weights are read ends slm at once
        self._thread = threading.Thread(target=self._load, args=(load, mark), daemon=True, name="model loading")
        self._thread.start()

    def _load(self, load: Callable[[], tuple[Engine, LoadPlan | None]], mark: crash_markers.CrashMarker | None) -> None:
        try:
            self._outcome.engine, self.opening = load()
        except BaseException as error:  # noqa: BLE001 - raised again where the engine is asked for
            self._outcome.error = error
        if mark is not None:
            mark.clear()
        for callback in self._callbacks:
            callback()

    @contextlib.contextmanager
    def on_trial(self) -> Iterator[None]:
        """What happens in here, llama.cpp has not yet done with this model: an abort is told at the next start."""
        mark = self._mark
        if mark is not None:
            mark.set()
        try:
            yield
        finally:
            if mark is not None:
                mark.clear()

    def tried(self, events: Iterator[Record]) -> Iterator[Record]:
        """The events of a generation, or what a pool has done; up to the first token of this model it is on trial."""
        with self.on_trial():
            for event in events:
                is_failure = isinstance(event, Done) and event.error is not None
                if not isinstance(event, Prefill) and not is_failure:
                    self._mark = None  # `on_trial` takes it away
                    break
                yield event
            else:
                return
        yield event
        yield from events

    def go_private(self) -> None:
        """From now on no mark is left on the disk."""
        mark, self._mark = self._mark, None
        if mark is not None:
            mark.clear()

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call this from the loading thread at its end; not at all when it has ended already."""
        self._callbacks.append(callback)

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive() or self._outcome != _Outcome()

    @property
    def is_failed(self) -> bool:
        return self._outcome.error is not None

    def engine(self) -> Engine:
        """The loaded model, after waiting for it; raises what the loading raised."""
        self._thread.join()
        if self._outcome.error is not None:
            raise self._outcome.error
        assert self._outcome.engine is not None
        return self._outcome.engine


def start_loading(installed: Installed, options: GenerationOptions, settings: Settings) -> Loading:
    """Begin to load an installed model, if it fits; with `--force` in any case."""
    gpu_layers(options, settings), _kv_type(options, settings)  # what is wrong with them is said at once
    notices: list[str] = []
    mark = None if settings.is_private else crash_markers.CrashMarker(settings.paths.data, installed.path)
    return Loading(lambda: _load(installed, options, settings, notices), mark, notices, installed.path)


def _load(
    installed: Installed, options: GenerationOptions, settings: Settings, notices: list[str]
) -> tuple[Engine, LoadPlan]:
    """Weights in memory, on the GPU as far as its memory goes.

    Raises `SlmError`: before anything is loaded USAGE or DAMAGED for what cannot answer, and NO_FIT.
    """
    from slmchat.catalog import kept_headers, model_kind
    from slmchat.catalog.file_facts import FileFacts
    from slmchat.engine import llama
    from slmchat.engine.vision import Projector

    facts = FileFacts(settings.paths.file_facts, is_kept=not settings.is_private)
    headers = kept_headers.read_headers(installed.parts, facts)
    model_kind.check_generates(headers, installed.key)
    trained = headers[0].context_length
    if options.ctx and trained and options.ctx > trained:
        notices.append(
            f"--ctx {options.ctx} is more than the {trained:,} tokens for which this model was trained: "
            "beyond them its answers get worse or make no sense."
        )
    notices += engine_trial.settle(installed, settings, _threads(options, settings), is_forced=options.force)
    layers, device = gpu_layers(options, settings), options.device or settings.device
    found = device_fit.plan_load(
        shape_of(headers),
        settings,
        model=installed.path,
        n_ctx=options.ctx or settings.n_ctx,
        kv_type=_kv_type(options, settings) or tuning.of(installed.path, settings).kv_type,
        gpu_layers=layers,
        device=device,
    )
    if found.verdict is Verdict.NO and not options.force:
        raise device_fit.refusal(installed.key, found)
    file = installed.projector
    projector = Projector(file.path, _threads(options, settings)) if file is not None else None

    def on_gpu(layers: int | None) -> Engine:
        return llama.load(
            installed.path,
            gpu_layers=layers,
            device=device,
            is_repacked=found.load.is_repacked,
            is_lazy=found.load.is_lazy,
            projector=projector,
        )

    if layers and not found.room.gpu:
        notices.append("the installed llama.cpp finds no GPU to put layers on; slm doctor tells why.")
    try:
        return on_gpu(found.gpu_layers), found
    except SlmError as error:
        if error.exit_code is not ExitCode.NO_FIT or not (found.gpu_layers and found.room.gpu):
            raise
    notices.append(
        f"{found.gpu_layers} layers do not fit into the free memory of the GPU, so the processor computes everything "
        "(fewer may fit: --gpu-layers N)."
    )
    return on_gpu(0), replace(found, gpu_layers=0)


def window(loading: Loading, wanted: int | None, options: GenerationOptions, *, least: int | None = None) -> int | None:
    """The context window in tokens to open: `wanted` (None: what suits this device) if it fits.

    One that does not fit becomes as large as fits, but not smaller than `least` (None: not smaller at all). Raises
    `SlmError` (NO_FIT). None only when nothing is known of the model and nothing is wanted.
    """
    found = loading.opening
    if found is None or options.force:
        return wanted or (found.load.n_ctx if found else None)
    if wanted is None:
        return found.load.n_ctx
    told = found.with_window(wanted)
    if told.verdict is not Verdict.NO:
        return wanted
    largest = told.largest_ctx
    if least is not None and largest >= least:
        return largest
    raise device_fit.refusal("this model", told)


def tell_of_small_window(n_ctx: int, usual: int, console: Console) -> None:
    """Say that memory leaves less of a context window than there would be otherwise."""
    if n_ctx < usual:
        console.note(f"memory is short: a context window of {n_ctx:,} tokens instead of {usual:,}.")


class Cancellable(Protocol):
    """What Ctrl-C may end: a session, a pool, or what stands for one."""

    def cancel(self) -> None: ...


@contextlib.contextmanager
def cancelled_by_ctrl_c(session: Cancellable) -> Iterator[None]:
    """While this lasts, Ctrl-C ends the generation and keeps what came; a second one is a KeyboardInterrupt."""
    with interrupts.cancelling(session.cancel):
        yield


def report(loading: Loading, console: Console) -> None:
    """What the user has to know of a model that is loaded now, and for `-v` what llama.cpp said meanwhile."""
    for notice in loading.notices:
        console.warn(notice)
    if console.is_verbose:
        from slmchat.engine import native

        for line in native.log_lines():
            console.detail(line)
