"""The weights: loaded in a thread, if they fit, on the GPU as far as its memory goes.

Knows: how a model is to be opened on this device, what the user has to know of its loading, the largest window.
Refuses to know: which model is meant, what is then said to it.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from slmchat.catalog.gguf_header import Header
from slmchat.catalog.records import Installed
from slmchat.engine import native
from slmchat.engine.api import Engine
from slmchat.engine.crash_guard import CrashGuard
from slmchat.errors import ExitCode, SlmError
from slmchat.fit.plan import FitVerdict
from slmchat.fit.shape import shape_of
from slmchat.hardware import memory
from slmchat.lazy_dataclasses import dataclass
from slmchat.models import engine_trial, load_plan, tuning
from slmchat.models.load_plan import LoadPlan
from slmchat.models.session_settings import gpu_layers, threads_of
from slmchat.options import GenerationOptions
from slmchat.settings import Settings


@dataclass(slots=True)
class _Outcome:
    engine: Engine | None = None
    error: BaseException | None = None


class Loading:
    """A model that is being loaded in a thread, so that the prompt can be read (or typed) meanwhile."""

    def __init__(
        self,
        load: Callable[[], tuple[Engine, LoadPlan | None]],
        guard: CrashGuard | None = None,
        notices: Sequence[str] = (),
        path: Path | None = None,
        begun: threading.Event | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """`load` is called in the thread: it gives the engine, and how it was opened where that was settled here.

        `guard`: what `load` guards the model with. `notices`: what the user has to know of it then, in sentences.
        `path`: the file of a model on this device. `begun` is set when Python has nothing more to do for it, but
        llama.cpp has. `meanwhile`: what has to be done anyway, in the time that is waited for it.
        """
        self._guard = guard
        self.plan: LoadPlan | None = None  # how it is opened, once that is decided
        self.notices = notices
        self.path = path
        self._begun = begun
        self._meanwhile = meanwhile
        self._outcome = _Outcome()
        self._callbacks: list[Callable[[], None]] = []
        # daemon: Ctrl-C while the weights are read ends slm at once
        self._thread = threading.Thread(target=self._load, args=(load,), daemon=True, name="model loading")
        self._thread.start()

    def _load(self, load: Callable[[], tuple[Engine, LoadPlan | None]]) -> None:
        try:
            self._outcome.engine, self.plan = load()
        except BaseException as error:  # noqa: BLE001 - raised again where the engine is asked for
            self._outcome.error = error
        if self._begun is not None:
            self._begun.set()
        for callback in self._callbacks:
            callback()

    def go_private(self) -> None:
        """From now on nothing about the model is left on the disk."""
        if self._guard is not None:
            self._guard.stop()

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call this from the loading thread at its end; not at all when it has ended already."""
        self._callbacks.append(callback)

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive() or self._outcome != _Outcome()

    @property
    def is_failed(self) -> bool:
        return self._outcome.error is not None

    def wait_until_begun(self) -> None:
        """Until the weights are read, or there is no more to wait for. What Python does from then on takes no time of
        the loading; before, the thread would share the interpreter."""
        if self._begun is not None:
            self._begun.wait()

    def engine(self) -> Engine:
        """The loaded model, after waiting for it; raises what the loading raised."""
        if not self.is_done:
            self._meanwhile()
        self._thread.join()
        if self._outcome.error is not None:
            raise self._outcome.error
        assert self._outcome.engine is not None
        return self._outcome.engine


@dataclass(frozen=True, slots=True)
class LoadedBeside:
    """What is loaded with a model, from these files, besides its own projector."""

    adapters: tuple[Path, ...] = ()
    draft: Path | None = None


def start_loading(
    installed: Installed,
    options: GenerationOptions,
    settings: Settings,
    beside: LoadedBeside | None = None,
    *,
    embeds: bool = False,
) -> Loading:
    """Begin to load an installed model, if it fits beside those; with `--force` in any case. `embeds`: it is to make
    vectors."""
    gpu_layers(options, settings)  # what is wrong with it is said at once
    notices: list[str] = []
    guard = CrashGuard(installed.path, None if settings.is_private else settings.paths.data)
    check = _check_embeds if embeds else _check_generates
    begun = threading.Event()
    if memory.address_space().value is not None:  # what takes some of it later has to be there when it is planned
        memory.share_one_heap()
        _import_session()
        native.bindings()

    def load() -> tuple[Engine, LoadPlan]:
        return _load(installed, options, settings, notices, guard, check, begun.set, beside or LoadedBeside())

    return Loading(load, guard, notices, installed.path, begun, _import_session)


def _import_session() -> None:
    """What the first session needs."""
    import slmchat.engine.session  # noqa: F401


def _check_generates(headers: Sequence[Header], name: str) -> None:
    from slmchat.catalog import model_kind

    model_kind.check_generates(headers, name)


def _check_embeds(headers: Sequence[Header], name: str) -> None:
    from slmchat.catalog import model_kind

    model_kind.check_embeds(headers, name)


def _load(
    installed: Installed,
    options: GenerationOptions,
    settings: Settings,
    notices: list[str],
    guard: CrashGuard,
    check: Callable[[Sequence[Header], str], None],
    begins: Callable[[], None],
    beside: LoadedBeside,
) -> tuple[Engine, LoadPlan]:
    """Weights in memory, on the GPU as far as its memory goes.

    Raises `SlmError`: before anything is loaded what `check` raises for the header (USAGE, DAMAGED), and NO_FIT.
    """
    from slmchat.catalog import kept_headers
    from slmchat.catalog.file_facts import FileFacts
    from slmchat.engine import llama

    facts = FileFacts(settings.paths.file_facts, is_kept=not settings.is_private)
    headers = kept_headers.read_headers(installed.parts, facts)
    check(headers, installed.key)
    trained = headers[0].context_length
    notices += _beyond_training(options, settings, trained)
    notices += engine_trial.settle(installed, settings, threads_of(options, settings), is_forced=options.force)
    found = _planned(installed, headers, options, settings, beside)
    projector = None
    if installed.projector is not None:
        from slmchat.engine.vision import Projector

        projector = Projector(installed.projector.path, threads_of(options, settings))

    def on_gpu(layers: int | None) -> Engine:
        return guard.load(
            lambda: llama.load(
                installed.path,
                gpu_layers=layers,
                device=options.device or settings.device,
                is_repacked=found.load.is_repacked,
                is_lazy=found.load.is_lazy,
                projector=projector,
                begins=begins,
            )
        )

    if gpu_layers(options, settings) and not found.available_memory.gpu:
        notices.append("the installed llama.cpp finds no GPU to put layers on; slm doctor tells why.")
    try:
        return on_gpu(found.gpu_layers), found
    except SlmError as error:
        if error.exit_code is not ExitCode.NO_FIT or not (found.gpu_layers and found.available_memory.gpu):
            raise
    notices.append(
        f"{found.gpu_layers} layers do not fit into the free memory of the GPU, so the processor computes everything "
        "(fewer may fit: --gpu-layers N)."
    )
    return on_gpu(0), replace(found, gpu_layers=0)


def _planned(
    installed: Installed,
    headers: Sequence[Header],
    options: GenerationOptions,
    settings: Settings,
    beside: LoadedBeside,
) -> LoadPlan:
    """How it is to be loaded. Raises `SlmError` (NO_FIT) where it does not fit, unless that is forced."""
    found = load_plan.plan_load(
        shape_of(headers),
        settings,
        model=installed.path,
        n_ctx=options.ctx or settings.n_ctx,
        kv_type=options.kv_type or settings.kv_type or tuning.of(installed.path, settings).kv_type,
        gpu_layers=gpu_layers(options, settings),
        device=options.device or settings.device,
        beside=load_plan.needed_beside(
            settings,
            adapters=beside.adapters,
            projector=installed.projector.path if installed.projector is not None else None,
            draft=beside.draft,
            n_ctx=options.ctx or settings.n_ctx,
        ),
    )
    if found.verdict is FitVerdict.NO and not options.force:
        raise load_plan.refusal(installed.key, found)
    return found


def _beyond_training(options: GenerationOptions, settings: Settings, trained: int | None) -> list[str]:
    n_ctx = options.ctx or settings.n_ctx
    if not n_ctx or not trained or n_ctx <= trained:
        return []
    return [beyond_training(f"--ctx {n_ctx}" if options.ctx else f"ctx = {n_ctx} in the config", trained)]


def beyond_training(asked: str, trained: int) -> str:
    """The warning for a context window larger than what the model was trained for. `asked`: what asks for it."""
    return (
        f"{asked} is more than the {trained:,} tokens for which this model was trained: "
        "beyond them its answers get worse or make no sense."
    )


def window(loading: Loading, wanted: int | None, options: GenerationOptions, *, least: int | None = None) -> int | None:
    """The context window in tokens to open: `wanted` (None: what suits this device) if it fits.

    One that does not fit becomes as large as fits, but not smaller than `least` (None: not smaller at all). Raises
    `SlmError` (NO_FIT). None only when nothing is known of the model and nothing is wanted.
    """
    found = loading.plan
    if found is None or options.force:
        return wanted or (found.load.n_ctx if found else None)
    if wanted is None:
        return found.load.n_ctx
    told = found.with_window(wanted)
    if told.verdict is not FitVerdict.NO:
        return wanted
    largest = told.largest_ctx
    if least is not None and largest >= least:
        return largest
    raise load_plan.refusal("this model", told)


def most_window(loading: Loading, options: GenerationOptions, settings: Settings) -> int:
    """Up to how many tokens a window may grow; 0: a size was asked for, or nothing is known of the model."""
    found = loading.plan
    if found is None or options.ctx or settings.n_ctx:
        return 0
    return found.shape.context_length or 0 if options.force else found.growable_ctx
