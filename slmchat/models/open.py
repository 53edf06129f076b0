"""A model, opened: chosen, loaded behind whatever else happens, asked through sessions. Every door begins here.

Knows: the order in which that happens, once for all: found, its adapters and its draft model looked at, loading begun,
what the user has to know of it told, windows of a size that fits made.
Refuses to know: how the process is closed in before (backend.py), what is said to the model (generation/), who asks.
"""

from collections.abc import Sequence
from dataclasses import replace

from slmchat.catalog.records import Installed
from slmchat.conversation.pictures import Picture
from slmchat.engine.api import Engine, Pool, Session, StreamPool, TextLogits
from slmchat.engine.requests import Adapter, Part, Prompt, SessionSettings
from slmchat.engine.sequential_pool import OneByOne
from slmchat.errors import ExitCode, SlmError
from slmchat.fit.plan import DEFAULT_LARGEST_CTX
from slmchat.models import loader, vision
from slmchat.models.backend import Backend, BackendModel, LocalModel
from slmchat.models.file_watch import ModelFile
from slmchat.models.loader import LoadedBeside
from slmchat.models.session_settings import DRAFT_AUTO, draft_model, kv_store, session_settings
from slmchat.models.warm_server import WarmLocalModel
from slmchat.options import GenerationOptions
from slmchat.reporting import Reporter
from slmchat.settings import Settings


def open_model(backend: Backend, options: GenerationOptions, settings: Settings, reporter: Reporter) -> "OpenModel":
    """Choose the model that the options name, or the default, and begin to load it.

    `backend`: where models are looked for; what opened it has closed everything else (`open_backend`).
    Raises `SlmError` before anything is loaded: USAGE, NO_MODEL, NETWORK, DAMAGED.
    """
    model = backend.find(options.model, settings, reporter).with_projector(options.mmproj)
    return OpenModel(backend.warmed(model, options, settings), options, settings, reporter)


def open_installed(
    installed: Installed, options: GenerationOptions, settings: Settings, reporter: Reporter
) -> "OpenModel":
    """An installed model, in a process that is closed in already. Raises `SlmError` as `open_model` does."""
    return OpenModel(LocalModel(installed), options, settings, reporter, is_remembered=False)


class OpenModel:
    """A model that was found and whose loading has begun, and the sessions of it."""

    def __init__(
        self,
        model: BackendModel,
        options: GenerationOptions,
        settings: Settings,
        reporter: Reporter,
        *,
        is_remembered: bool = True,
    ) -> None:
        """`is_remembered`: the next command that names no model may mean this one."""
        self._is_remembered = is_remembered
        self.model = model
        self.options = options
        self.settings = settings
        self.reporter = reporter
        self.adapters = model.with_adapters(options.lora, settings)
        self._draft = draft_model(options, settings, model.draft, reporter)
        self._store = kv_store(settings)
        self._file = ModelFile(model.key, model.files)
        self._engine: Engine | None = None
        self.loading = model.start(options, settings, self._beside())

    def _beside(self) -> LoadedBeside:
        """What this process loads with the model."""
        files = tuple(path for each in self.adapters if (path := getattr(each, "path", None)) is not None)
        return LoadedBeside(files, self._draft)

    # The weights

    @property
    def engine(self) -> Engine:
        """The loaded model, after waiting for it; the first time, what the user has to know of it is told.

        Raises what its loading raised.
        """
        if self._engine is None:
            if not self.loading.is_done:
                self.reporter.status("loading the model …")
            try:
                self._engine = self.loading.engine()
            finally:
                self.reporter.status("")
            self.model.report(self.loading, self.reporter)
            if self._is_remembered and not self.settings.is_private:
                self.model.remember(self.settings)
        return self._engine

    @property
    def engine_if_there(self) -> Engine | None:
        """The loaded model, without waiting for it and without telling anything; None while there is none."""
        is_there = self.loading.is_done and not self.loading.is_failed
        return self._engine or (self.loading.engine() if is_there else None)

    @property
    def warm_ctx(self) -> int | None:
        """The largest window of a model in the memory of a server; None: it is in this process."""
        return self.model.n_ctx if isinstance(self.model, WarmLocalModel) else None

    def has_room_in_server(self, wanted: int | None) -> bool:
        """Whether the window of a server that has the model is as large as it would be here: `wanted`, None: what suits
        this device."""
        model = self.model
        if not isinstance(model, WarmLocalModel):
            return True
        if wanted is not None:
            return wanted <= model.n_ctx
        return not model.is_ctx_asked or model.n_ctx >= min(DEFAULT_LARGEST_CTX, self.trained_context_length)

    @property
    def is_server_gone(self) -> bool:
        """Whether the model was in the memory of a server that has ended."""
        return isinstance(self.model, WarmLocalModel) and self.model.engine.is_gone()

    def load_here(self) -> None:
        """Let this process load the model that a server has had in memory. Sessions must be closed before."""
        if isinstance(self.model, WarmLocalModel):
            self.model.engine.close()
            self.model, self._engine = self.model.here(), None
            self.loading = self.model.start(self.options, self.settings, self._beside())

    @property
    def is_loaded(self) -> bool:
        """Whether it has been loaded and told."""
        return self._engine is not None

    @property
    def trained_context_length(self) -> int:
        """Tokens for which it was trained; 0: not known. Waits for the model."""
        return self.engine.info.trained_context_length

    def check_file(self) -> None:
        """Say once when its file was removed or replaced. Raises `SlmError` (DAMAGED) when it was changed in place."""
        self._file.check(self.reporter)

    def count(self, prompt: Prompt, most: int | None = None) -> int:
        """Tokens of a prompt, as `Engine.count`. Raises `SlmError` for a picture that cannot be taken in."""
        return self.engine.count(prompt, most)

    def count_text(self, text: str, most: int | None = None) -> int:
        """Tokens of a text by itself, without a chat template. `most`: as `Engine.count` has it."""
        return self.engine.count(Prompt((Part(text),)), most)

    def cost(self, picture: Picture) -> int:
        """Tokens that a picture takes. Raises `SlmError` when it cannot be taken in."""
        return vision.cost(picture, self.engine)

    def describe(self, pictures: Sequence[Picture]) -> list[str]:
        """A line for each picture: name, size, tokens. Raises `SlmError` for one that cannot be taken in."""
        return [f"{picture.describe()}, {self.cost(picture):,} tokens" for picture in pictures]

    # Sessions

    def window(self, wanted: int | None = None, *, least: int | None = None) -> int:
        """The context window in tokens to open: `wanted` (None: what suits this device), if it fits.

        One that does not fit becomes as large as fits, and the user is told; but not smaller than `least` (None: not
        smaller at all). 0: nothing is known of the model. Raises `SlmError` (NO_FIT).
        """
        if self.warm_ctx is not None:
            return min(wanted or self.warm_ctx, self.warm_ctx)
        trained = self.trained_context_length
        n_ctx = loader.window(self.loading, wanted, self.options, least=least) or trained
        usual = wanted or min(DEFAULT_LARGEST_CTX, trained)
        if n_ctx < usual:
            self.reporter.note(f"memory is short: a context window of {n_ctx:,} tokens instead of {usual:,}.")
        return n_ctx

    def expected_window(self, wanted: int | None = None) -> int:
        """What `window` is going to be, as far as it is known now, without telling anything; 0: not known."""
        if (engine := self.engine_if_there) is None:
            return 0
        if self.warm_ctx is not None:
            return min(wanted or self.warm_ctx, self.warm_ctx)
        try:
            return loader.window(self.loading, wanted, self.options) or engine.info.trained_context_length
        except SlmError:  # said when the window is opened
            return 0

    def session_settings(self, n_ctx: int, *, threads: int | None = None) -> SessionSettings:
        """How a window of `n_ctx` tokens is opened, without states on disk and without drafts."""
        options = replace(self.options, threads=threads) if threads is not None else self.options
        made = session_settings(options, self.settings, n_ctx, model=self.loading.path)
        return replace(made, adapters=self.adapters)

    def open_session(
        self, n_ctx: int, *, is_multi_turn: bool = True, may_grow: bool = False, threads: int | None = None
    ) -> Session:
        """A context window. `is_multi_turn`: more than one generation will follow in it. `may_grow`: for a long
        completion it becomes larger, as far as memory goes, where nobody asked for a size.

        Raises `SlmError` (NO_FIT, and DAMAGED for an adapter).
        """
        made = self.session_settings(n_ctx, threads=threads)
        most_ctx = self._most_window() if may_grow else 0
        made = replace(made, store=self._store, draft_model=self._draft, is_multi_turn=is_multi_turn, most_ctx=most_ctx)
        try:
            return self.engine.open_session(made)
        except SlmError as error:
            if self._draft is None or self.options.draft != DRAFT_AUTO or error.exit_code is ExitCode.BUG:
                raise
            self._draft = None
            self.reporter.note(f"(nothing drafts: {error.message.rstrip('.')})")
            return self.engine.open_session(replace(made, draft_model=None))

    def _most_window(self) -> int:
        """Up to how many tokens a window may grow; 0: a size was asked for, or nothing is known of the model."""
        if self.warm_ctx is not None and not (self.options.ctx or self.settings.n_ctx):
            return self.warm_ctx
        return loader.most_window(self.loading, self.options, self.settings)

    def open_plain_session(self, n_ctx: int) -> Session:
        """A context window without drafts, of which nothing is kept on the disk and for which nothing is looked up
        there: for what is measured, and for texts that no conversation owns. Raises `SlmError` as `open_session` does.
        """
        return self.engine.open_session(self.session_settings(n_ctx))

    def open_pool(
        self, n_ctx: int, parallel: int | None = None, *, is_repeatable: bool = False, are_all_there: bool = False
    ) -> Pool:
        """Many windows of `n_ctx` tokens at once, None: as many as pay. What all prompts begin with is kept.

        `are_all_there`: no request keeps the others waiting, as one from a pipe may; which of them share a batch then
        does not depend on the clock. `is_repeatable`: neither does anything else, and no state on the disk has a say.

        Raises `SlmError` (NO_FIT).
        """
        return self.engine.open_pool(self._pool_settings(n_ctx, is_repeatable, are_all_there), parallel)

    def open_pool_for(self, n_ctx: int, parallel: int | None, pictures: Sequence[Picture]) -> Pool:
        """As `open_pool`, for requests that are all there; where these are shown, a pool of one, as no engine here
        decodes pictures side by side."""
        if pictures and not self.engine.info.has_own_layout:  # an endpoint sees as many at once as it likes
            return OneByOne(self.open_plain_session(n_ctx))
        return self.open_pool(n_ctx, parallel, are_all_there=True)

    def open_stream_pool(self, n_ctx: int, parallel: int | None = None) -> StreamPool:
        """Windows whose answers are read while they come, None: as many as suit. Their states are kept on the disk.

        Raises `SlmError`: NO_FIT, USAGE where the engine has none.
        """
        settings = replace(self.session_settings(n_ctx), store=self._store)
        return self.engine.open_stream_pool(settings, parallel)

    def open_scorer(self, n_ctx: int, *, is_repeatable: bool = False, are_all_there: bool = False) -> Pool:
        """A window for scores of given texts; `is_repeatable`, `are_all_there`: as in `open_pool`.

        Raises `SlmError`: NO_FIT, USAGE where the engine has none.
        """
        return self.engine.open_scorer(self._pool_settings(n_ctx, is_repeatable, are_all_there))

    def _pool_settings(self, n_ctx: int, is_repeatable: bool, are_all_there: bool) -> SessionSettings:
        settings = self.session_settings(n_ctx)
        return replace(
            settings,
            # fewer threads add up in another order, and what has to repeat must not depend on what else computes here
            adapts_threads=settings.adapts_threads and not is_repeatable,
            store=None if is_repeatable else self._store,
            waits_for_requests=is_repeatable or are_all_there,
        )

    def open_text_logits(self, n_ctx: int) -> TextLogits:
        """What tells all logits of a text, in a window of `n_ctx` tokens. Raises `SlmError`: NO_FIT, USAGE where the
        engine has none to tell."""
        return self.engine.open_text_logits(self.session_settings(n_ctx))

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        """The LoRA adapters of the sessions that are opened from now on."""
        self.adapters = tuple(adapters)

    # Until the end

    def go_private(self) -> None:
        """From now on nothing is written and nothing that was written is looked at."""
        self.settings = replace(self.settings, is_private=True)
        self.load_here()  # a server keeps what it reads
        self.loading.go_private()
        if self._store is not None:
            self._store.close()

    def close(self) -> None:
        """Free the weights, if they have been loaded."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
