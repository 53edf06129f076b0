"""One llama.cpp context whose KV cache several sequences share; cells of a common beginning are held once.

Knows: batches of tokens of many sequences, copying a beginning from one sequence to another, aborting.
Refuses to know: what the sequences are, how many there should be (parallelism.py), sampling.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from slmchat.engine import native, sequence_state
from slmchat.engine.api import SessionSettings
from slmchat.engine.callbacks import guarded, raise_interrupt
from slmchat.engine.context import DECODE_ABORTED, DECODE_NO_PLACE, context_params, decode_failed, refused_kv_type
from slmchat.engine.snapshots import Snapshots, has_state
from slmchat.engine.threads import Sample, Watch
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Tokens of one sequence that stand one after the other from `position` on."""

    sequence: int
    position: int
    tokens: Sequence[int]
    needs_logits: bool = True  # of the last token
    needs_all_logits: bool = False  # of every token


class Sequences:
    """A KV cache of `n_cells` tokens for sequences 0 to `n_sequences` - 1. Not for two threads at once."""

    def __init__(
        self,
        api: ModuleType,
        model: Any,
        settings: SessionSettings,
        *,
        started: Sample,
        n_sequences: int,
        n_cells: int,
        is_cancelled: Callable[[], bool],
        abortable_from: int,
    ) -> None:
        """`started`: as `LoadedModel` has it. `is_cancelled` is asked inside batches of `abortable_from` tokens or
        more.

        Raises `SlmError` (NO_FIT) when the memory cannot be had."""
        self._api = api
        self._model = model
        self._is_cancelled = is_cancelled
        self._abortable_from = abortable_from
        # A sliding window has forgotten what lies before it, a recurrent state cannot go back: of these only a whole
        # sequence can be copied (llama-kv-cache-iswa.cpp, llama-memory-recurrent.cpp).
        self._has_state = has_state(api, model)
        self.can_copy_part: bool = not (self._has_state or api.llama_model_n_swa(model))
        self._abort = api.ggml_abort_callback(guarded(lambda _data: is_cancelled(), instead=True))
        self._no_abort = api.ggml_abort_callback()
        self.batch_tokens = min(settings.batch_tokens, n_cells)
        params = context_params(api, settings, self.batch_tokens)
        self._threads = settings.threads
        # fewer threads add up in another order, and what has to repeat must not depend on what else computes here
        is_adapting = settings.adapts_threads and not settings.is_repeatable
        self._watch = Watch(settings.threads, started) if is_adapting else None
        params.n_ctx = n_cells
        params.n_seq_max = n_sequences
        params.kv_unified = True  # one buffer: without it a copy is a copy of the whole cache
        native.clear_log()
        self.handle = api.llama_init_from_model(model, params)
        if not self.handle:
            raise refused_kv_type(settings) or SlmError(
                f"a KV cache of {n_cells:,} tokens does not fit into the memory of this device.",
                hint="fewer at once: --parallel 1; or a smaller window: --ctx N",
                exit_code=ExitCode.NO_FIT,
            )
        self._memory = api.llama_get_memory(self.handle)
        # struct llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max);
        self._batch = api.llama_batch_init(self.batch_tokens, 0, 1)

    def close(self) -> None:
        """Free the KV cache."""
        if self.handle is not None:
            self._api.llama_batch_free(self._batch)
            self._api.llama_free(self.handle)
            self.handle = None

    def forget_all(self) -> None:
        """Empty the KV cache."""
        self._api.llama_memory_clear(self._memory, False)

    def forget(self, sequence: int) -> None:
        """Take one sequence out of the KV cache; cells that others share stay."""
        self._api.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def copy(self, source: int, target: int, n_tokens: int) -> None:
        """Let `target`, which is empty, begin with the first tokens of `source`: all of them, unless `can_copy_part`.

        No numbers are copied: the cells belong to both from now on.
        """
        self._api.llama_memory_seq_cp(self._memory, source, target, 0, n_tokens if self.can_copy_part else -1)

    def snapshots(self, sequence: int) -> Snapshots:
        """What brings one sequence back to where its memory cannot be cut."""
        made = Snapshots(self._api, self._model, lambda n_tokens: n_tokens, sequence)
        made.follow(self.handle)
        return made

    def state_size(self, sequence: int) -> int:
        """Bytes of the state of a sequence."""
        return sequence_state.state_size(self._api, self.handle, sequence)

    def save(self, sequence: int, tokens: Sequence[int], path: Path) -> bool:
        """Write the state of a sequence, which holds these tokens, to an existing file; False when that fails."""
        return sequence_state.save(self._api, self.handle, sequence, tokens, path)

    def load(self, sequence: int, tokens: Sequence[int], path: Path) -> bool:
        """Let a sequence hold the state that was saved with these tokens; False, and an empty one, when it cannot."""
        self.forget(sequence)
        is_loaded = sequence_state.load(self._api, self.handle, sequence, tokens, path)
        if not is_loaded:
            self.forget(sequence)
        return is_loaded

    def batches(self, spans: Sequence[tuple[TokenSpan, _Item]]) -> Iterator[list[tuple[TokenSpan, _Item]]]:
        """These, with whatever belongs to them, as `evaluate` takes them: as many in each batch as it holds.

        A recurrent state takes tokens of several sequences only in equal numbers: of spans of unequal length
        llama.cpp makes pieces, and on some processors what it computes for a sequence then depends on its neighbours
        (docs/decisions.md). So for such models a span of several tokens has a batch of its own; single tokens go
        together, in the order of their sequences, which makes one piece of neighbours.
        """
        if self._has_state:
            singles = [item for item in spans if len(item[0].tokens) == 1]
            yield from ([item] for item in spans if len(item[0].tokens) > 1)
            spans = sorted(singles, key=lambda item: item[0].sequence)
        batch: list[tuple[TokenSpan, _Item]] = []
        size = 0
        for item in spans:
            if batch and size + len(item[0].tokens) > self.batch_tokens:
                yield batch
                batch, size = [], 0
            batch.append(item)
            size += len(item[0].tokens)
        if batch:
            yield batch

    def evaluate(self, spans: Sequence[TokenSpan]) -> list[int] | None:
        """Evaluate these tokens in one batch: for each span the index of its logits; None when there is no place.

        Together at most `batch_tokens`. When `is_cancelled` says so inside, what the cache holds is no longer known:
        the caller must `forget_all`. Raises `SlmError` (BUG) when llama.cpp fails.
        """
        batch, index, places = self._batch, 0, []
        token, pos, sequence, logits = batch.token, batch.pos, batch.seq_id, batch.logits
        for span in spans:
            position = span.position
            for value in span.tokens:
                token[index] = value
                pos[index] = position
                batch.n_seq_id[index] = 1
                sequence[index][0] = span.sequence
                logits[index] = span.needs_all_logits
                position += 1
                index += 1
            logits[index - 1] = span.needs_logits
            places.append(index - 1)
        batch.n_tokens = index
        self._give_way()
        status = self._decode(index)
        if status == DECODE_NO_PLACE:
            return None
        if status == DECODE_ABORTED and not self._is_cancelled():
            raise_interrupt()
        if status not in (0, DECODE_ABORTED):
            raise decode_failed(status)
        return places

    def rested(self) -> None:
        """Nothing was computed here until now: what others used meanwhile kept nobody waiting."""
        if self._watch is not None:
            self._watch.look(is_computing=False)

    def _give_way(self) -> None:
        """Compute with fewer threads while other programs need the processors, single tokens and prompts alike."""
        threads = self._threads if self._watch is None else self._watch.look()
        if threads != self._threads:
            # void llama_set_n_threads(struct llama_context * ctx, int32_t n_threads, int32_t n_threads_batch);
            self._api.llama_set_n_threads(self.handle, threads, threads)
            self._threads = threads

    def _decode(self, n_tokens: int) -> int:
        if n_tokens < self._abortable_from:
            return int(self._api.llama_decode(self.handle, self._batch))
        self._api.llama_set_abort_callback(self.handle, self._abort, None)
        try:
            return int(self._api.llama_decode(self.handle, self._batch))
        finally:
            self._api.llama_set_abort_callback(self.handle, self._no_abort, None)
