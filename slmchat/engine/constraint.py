"""Choosing tokens that keep to a grammar.

Knows: llama.cpp's grammar sampler, how few candidates it has to look at, what no grammar of llama.cpp's refuses though
it should. Refuses to know: where a constraint comes from, and whether the finished text is right.

The grammar stands where llama.cpp's tools put it when they are exact: behind the penalties, before top-k, top-p, min-p
and temperature. Looking at the whole vocabulary costs 36 ms a token with Gemma's 262,144 tokens. So the grammar sees
only the most probable candidates, and more of them only where those that it leaves would not be enough for the same
choice: all of the vocabulary in the end.
"""

import codecs
import ctypes
import itertools
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

from slmchat.engine import native
from slmchat.engine.gbnf import to_gbnf
from slmchat.engine.loaded import LoadedModel
from slmchat.engine.logits import LogitsCheck
from slmchat.engine.requests import Constraint, ConstraintKind
from slmchat.engine.sampler import Sampler, SamplerSettings, choosers, penalties
from slmchat.engine.vocabulary import Vocabulary
from slmchat.errors import ExitCode, SlmError, usage_error

if TYPE_CHECKING:
    from slmchat.engine.quotation_sampler import QuotationSampler

# How many of the most probable tokens are looked at, before all of them are.
_WIDTHS = (64, 256, 2048)
# Of what the grammar leaves of more than these, as many are looked at from here: the rest of them seldom counts.
_SHORT = 64
# Up to this many, llama.cpp sorts without overwriting the others (llama-sampler.cpp, llama_sampler_top_k_impl).
_KEEPS = 128

# Grammars larger or deeper than any that people write: llama.cpp parses them recursively.
_MOST_GRAMMAR = 1 << 20
_MOST_NESTED = 200

_NEVER = -math.inf


def open_sampler(
    loaded: LoadedModel, settings: SamplerSettings, constraint: Constraint | None, shown: frozenset[int] = frozenset()
) -> "Sampler | ConstrainedSampler | QuotationSampler":
    """What picks the tokens of one generation. `shown`: control tokens that are text of it.

    Raises `SlmError` (USAGE) when the constraint cannot be used.
    """
    api, vocabulary = loaded.api, loaded.vocabulary
    if constraint is None:
        return Sampler(api, vocabulary.n_tokens, settings)
    if constraint.kind is ConstraintKind.QUOTATIONS:
        from slmchat.engine.quotation_sampler import QuotationSampler  # 4 ms, for answers from documents alone

        return QuotationSampler(api, vocabulary, settings, constraint)
    gbnf = to_gbnf(constraint)
    grammar = loaded.grammars.copy(gbnf, lambda: compiled(api, vocabulary, gbnf))
    return ConstrainedSampler(api, vocabulary, settings, grammar, shown)


class ConstrainedSampler:
    """A `Sampler` that picks only tokens which the grammar allows, or an end where the grammar may end.

    Penalties first, then the grammar, then the rest of the chain, as if the grammar had seen every token. One
    exception: where fewer candidates than `top_k` are left and min-p would cut everything not looked at, top-p counts
    probabilities among those looked at.
    """

    def __init__(
        self,
        api: ModuleType,
        vocabulary: Vocabulary,
        settings: SamplerSettings,
        grammar: Any,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        """`grammar`: llama.cpp's sampler of it, at its beginning; `close` frees it. `shown`: control tokens that write
        their spelling."""
        self._api = api
        self._vocabulary = vocabulary
        self._settings = settings
        self._shown = shown
        self._grammar = grammar
        self._text = codecs.getincrementaldecoder("utf-8")("strict")
        self._failure: BaseException | None = None
        self._check = LogitsCheck(api, vocabulary.n_tokens)
        self._tail = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        for sampler in choosers(api, settings):
            api.llama_sampler_chain_add(self._tail, sampler)
        self._top = {width: api.llama_sampler_init_top_k(width) for width in _WIDTHS}
        self._short = api.llama_sampler_init_top_k(_SHORT)
        self._chain = penalties(api, vocabulary.n_tokens, settings)
        # struct llama_sampler_i { name, accept, apply, ... };  kept here for as long as the chain may call it
        self._interface = api.llama_sampler_i(
            name=api.llama_sampler_i_name(lambda _sampler: b"grammar"), apply=api.llama_sampler_i_apply(self._apply)
        )
        api.llama_sampler_chain_add(self._chain, api.llama_sampler_init(ctypes.byref(self._interface), None))

    def pick(self, context: Any, index: int = -1) -> int:
        """The next token, from the logits of the batch's token `index` (-1: the last one).

        Raises `SlmError`: UNSATISFIED when the model has no token with which the grammar could go on, DAMAGED when the
        logits are no numbers.
        """
        self._check.before(context, index)
        token = int(self._api.llama_sampler_sample(self._chain, context, index))
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        self._check.picked(context, index, token)
        if not self._vocabulary.is_end(token):
            self._api.llama_sampler_accept(self._grammar, token)
            self._text.decode(self._piece(token))
        return token

    def close(self) -> None:
        """Free the chains and the grammar."""
        for sampler in (self._chain, self._tail, self._grammar, self._short, *self._top.values()):
            self._api.llama_sampler_free(sampler)

    def _apply(self, _sampler: Any, pointer: Any) -> None:
        """void (*apply)(struct llama_sampler * smpl, llama_token_data_array * cur_p);  called by the chain."""
        try:
            token = self._choose(pointer)
        except BaseException as error:  # noqa: BLE001 - C is above us: pick() raises it again
            self._failure = error
            token = 0
        array = pointer.contents
        array.data[0].id = token
        array.selected = 0

    def _choose(self, pointer: Any) -> int:
        array = pointer.contents
        data = ctypes.addressof(array.data.contents)
        n_all = array.size
        kept: Any = None  # all candidates, before a sort has overwritten some
        is_whole = True
        for width in (*(width for width in _WIDTHS if width < n_all), n_all):
            if kept is None and _KEEPS < width < n_all:
                kept = self._copied(data, n_all)
            if not is_whole:
                ctypes.memmove(data, kept, ctypes.sizeof(kept))
            if width < n_all:
                array.size, array.sorted = n_all, False
                self._api.llama_sampler_apply(self._top[width], pointer)
                is_whole = width <= _KEEPS
            candidates = self._copied(data, width)
            token = self._chosen(candidates, is_all=width == n_all)
            if token is not None:
                return token
        raise SlmError(
            "this model has no token with which the text could go on as it has to.",
            hint="a grammar that asks for characters which the model cannot write, or a contradiction in it",
            exit_code=ExitCode.UNSATISFIED,
        )

    def _copied(self, data: int, count: int) -> Any:
        made = (self._api.llama_token_data * count)()
        ctypes.memmove(made, data, ctypes.sizeof(made))
        return made

    def _chosen(self, candidates: Any, *, is_all: bool) -> int | None:
        """The token chosen among these; None when that would not be the choice among all."""
        lowest = candidates[len(candidates) - 1].logit
        array = self._api.llama_token_data_array(data=candidates, size=len(candidates), selected=-1, sorted=False)
        self._api.llama_sampler_apply(self._grammar, ctypes.byref(array))
        if len(candidates) <= _SHORT:
            return self._chosen_of(candidates, lowest, is_all=is_all)
        whole = self._copied(ctypes.addressof(candidates), len(candidates))
        self._api.llama_sampler_apply(self._short, ctypes.byref(array))
        best = self._copied(ctypes.addressof(candidates), _SHORT)
        if best[_SHORT - 1].logit == _NEVER:  # these are all that the grammar has left
            return self._chosen_of(best, lowest, is_all=is_all)
        token = self._chosen_of(best, best[_SHORT - 1].logit, is_all=False)
        return token if token is not None else self._chosen_of(whole, lowest, is_all=is_all)

    def _chosen_of(self, candidates: Any, lowest: float, *, is_all: bool) -> int | None:
        """The same among candidates of which the grammar has taken its own. `lowest`: nothing else is more probable."""
        logits = memoryview(candidates).cast("B").cast("f")[1::3].tolist()
        allowed = [place for place, logit in enumerate(logits) if logit != _NEVER]
        while allowed and (is_all or self._is_enough([logits[place] for place in allowed], lowest)):
            left = (self._api.llama_token_data * len(allowed))(*(candidates[place] for place in allowed))
            array = self._api.llama_token_data_array(data=left, size=len(left), selected=-1, sorted=False)
            self._api.llama_sampler_apply(self._tail, ctypes.byref(array))
            token = int(array.data[array.selected].id)
            if self._is_text(token):
                return token
            allowed = [place for place in allowed if candidates[place].id != token]
        return None

    def _is_enough(self, logits: list[float], lowest: float) -> bool:
        """Whether nothing beyond these candidates could be chosen; `lowest`: the logit of the last one looked at."""
        settings = self._settings
        if settings.temperature <= 0 or 0 < settings.top_k <= len(logits):
            return True
        return settings.min_p > 0 and lowest - max(logits) < math.log(settings.min_p)

    def _is_text(self, token: int) -> bool:
        """Whether the token writes what the grammar takes it for.

        To the grammar every control token is its spelling, and an incomplete character may be followed by anything of
        the right length. The text would then be another one.
        """
        if self._vocabulary.is_end(token):
            return True
        state = self._text.getstate()
        try:
            self._text.decode(piece := self._piece(token))
        except UnicodeDecodeError:
            return False
        finally:
            self._text.setstate(state)
        return bool(piece)

    def _piece(self, token: int) -> bytes:
        return self._vocabulary.piece(token, is_shown=token in self._shown)


def compiled(api: ModuleType, vocabulary: Vocabulary, gbnf: str) -> Any:
    """llama.cpp's grammar sampler. Raises `SlmError` (USAGE) with the line where it could not go on reading."""
    try:
        written = gbnf.encode()
    except UnicodeEncodeError:  # half of a character (a surrogate)
        written = b""
    if len(gbnf) > _MOST_GRAMMAR or b"\0" in written or not written.strip() or _nesting(written) > _MOST_NESTED:
        raise _unreadable("it is empty, larger than 1 MiB, nested too deep or not text")
    native.clear_log()
    with tempfile.TemporaryFile() as said:
        with _native_stderr_to(said):
            sampler = api.llama_sampler_init_grammar(vocabulary.handle, written, b"root")
        if sampler:
            return sampler
        said.seek(0)
        raise _unreadable(_reason(said.read().decode("utf-8", "replace"), gbnf))


def _nesting(gbnf: bytes) -> int:
    """How deep parentheses stand inside each other. Without a loop over the characters: for a large schema that took
    as long as to make the grammar."""
    return max(itertools.accumulate(map(_STEPS.__getitem__, gbnf.translate(None, _NO_PARENTHESES)), initial=0))


_STEPS = {ord("("): 1, ord(")"): -1}
_NO_PARENTHESES = bytes(set(range(256)) - _STEPS.keys())


@contextmanager
def _native_stderr_to(file: BinaryIO) -> Iterator[None]:
    """llama.cpp's grammar parser writes its complaints to the process's stderr and nowhere else."""
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _reason(said: str, gbnf: str) -> str:
    """What is wrong, from "parse: error parsing grammar: REASON at REST\\n\\nGRAMMAR\\n" or from the log."""
    reason = said.partition("error parsing grammar: ")[2].removesuffix(f"\n\n{gbnf}\n")
    what, at, rest = reason.partition(" at ")
    if at and gbnf.endswith(rest):
        before = gbnf[: len(gbnf) - len(rest)]
        place = f"in line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"
        return f"{what} {place}, at {rest.splitlines()[0][:40]!r}" if rest.strip() else f"{what} {place}, at its end"
    logged = " ".join(line.strip() for line in native.log_lines() if "grammar" in line and "failed to" not in line)
    return reason.strip() or logged or "llama.cpp does not say why"


def _unreadable(reason: str) -> SlmError:
    return usage_error(
        f"the grammar cannot be read: {reason}.",
        "GBNF is described in docs/structured.md; the first rule is called root",
    )
