"""One llama.cpp context whose KV cache several sequences share; cells of a common beginning are held once.

Or each sequence has a part of the cache for itself (`is_split`): a token is then compared with the cells of its own
sequence, not with those of all. llama.cpp computes sequences together that have neighbouring numbers.

Knows: batches of tokens of many sequences, copying a beginning from one sequence to another, aborting.
Refuses to know: what the sequences are, how many there should be (parallelism.py), sampling.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from slmchat.engine import image_tokens, native, sequence_state
from slmchat.engine.callbacks import guarded, raise_interrupt
from slmchat.engine.context import (
    DECODE_ABORTED,
    DECODE_NO_PLACE,
    IMAGE_BATCH_TOKENS,
    context_params,
    decode_failed,
    refused_kv_type,
)
from slmchat.engine.loaded import LoadedModel
from slmchat.engine.requests import SessionSettings, counting_adapters
from slmchat.engine.snapshots import Snapshots, has_state
from slmchat.engine.threads import Watch
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
        loaded: LoadedModel,
        settings: SessionSettings,
        *,
        n_sequences: int,
        n_cells: int,
        is_cancelled: Callable[[], bool],
        abortable_from: int,
        is_split: bool = False,
        has_images: bool = False,
        longest: int | None = None,
    ) -> None:
        """`is_cancelled` is asked inside batches of `abortable_from` tokens or more. `is_split`: each sequence has its
        share of the cells for itself. `has_images`: tokens may stand for images. `longest`: no sequence gets more
        tokens than these; None: nobody knows.

        Raises `SlmError`: NO_FIT when the memory cannot be had, DAMAGED for an adapter of another model."""
        self._api = api = loaded.api
        self._model = model = loaded.model
        self._is_cancelled = is_cancelled
        self._abortable_from = abortable_from
        self._has_gpu = native.has_gpu_backend()
        self._has_state = has_state(api, model)
        self.can_copy_part: bool = not (self._has_state or _forgets(api, model, longest))
        self._abort = api.ggml_abort_callback(guarded(lambda _data: is_cancelled(), instead=True))
        self._no_abort = api.ggml_abort_callback()
        self._vision = loaded.vocabulary.vision if has_images else None
        most = settings.batch_tokens if self._vision is None else max(settings.batch_tokens, IMAGE_BATCH_TOKENS)
        # llama.cpp plans its memory for one token of each sequence, and aborts where a batch has no place for that
        # (llama-context.cpp: graph_reserve)
        self.batch_tokens = min(max(most, n_sequences), n_cells)
        params = context_params(api, settings, self.batch_tokens)
        self._threads = settings.threads
        self._watch = Watch(settings.threads, loaded.started) if settings.adapts_threads else None
        params.n_ctx = n_cells
        params.n_seq_max = n_sequences
        self.is_split = is_split
        self._n_sequences = n_sequences
        self.handle = self._opened(params)
        if not self.handle:
            raise refused_kv_type(settings) or SlmError(
                f"a KV cache of {n_cells:,} tokens does not fit into the memory of this device.",
                hint="fewer at once: --parallel 1; or a smaller window: --ctx N",
                exit_code=ExitCode.NO_FIT,
            )
        # cells that one sequence may have
        self.capacity = n_cells // n_sequences if self.is_split else n_cells
        self._memory = api.llama_get_memory(self.handle)
        self.weights_size: int = api.llama_model_size(model)
        # struct llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max);
        self._batch = api.llama_batch_init(self.batch_tokens, 0, 1)
        try:
            loaded.adapters.apply(self.handle, counting_adapters(settings.adapters))
        except SlmError:
            self.close()
            raise

    def _opened(self, params: Any) -> Any:
        """llama.cpp's context, empty where the memory cannot be had. A kind of cache whose sequences slm does not know
        how to copy is one buffer for all of them."""
        api = self._api
        params.kv_unified = not self.is_split  # one buffer: without it a copy is a copy of numbers
        native.clear_log()
        handle = api.llama_init_from_model(self._model, params)
        if handle and self.is_split and not sequence_state.is_plain(api, handle, self._n_sequences):
            api.llama_free(handle)
            self.is_split = False
            return self._opened(params)
        return handle

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

        `n_tokens`: where images are among them, the position behind them (`position`). No numbers are copied, unless
        the cache is split: the cells belong to both from now on.
        """
        if self.is_split:
            # llama.cpp would copy the whole buffer, and not before the next batch, whatever comes between
            sequence_state.write(self._api, self.handle, target, sequence_state.read(self._api, self.handle, source))
            if self.can_copy_part:
                self._api.llama_memory_seq_rm(self._memory, target, n_tokens, -1)
            return
        self._api.llama_memory_seq_cp(self._memory, source, target, 0, n_tokens if self.can_copy_part else -1)

    def swap(self, one: int, other: int) -> None:
        """Let two sequences of a split cache change places."""
        api, handle = self._api, self.handle
        states = sequence_state.read(api, handle, one), sequence_state.read(api, handle, other)
        for sequence, state in zip((other, one), states, strict=True):
            self.forget(sequence)
            sequence_state.write(api, handle, sequence, state)

    def cut(self, sequence: int, position: int) -> bool:
        """Take everything from a position on out of a sequence, where a part of it can be; False: it cannot."""
        return self.can_copy_part and bool(self._api.llama_memory_seq_rm(self._memory, sequence, position, -1))

    def position(self, tokens: Sequence[int], n_tokens: int) -> int:
        """The position of the token behind the first `n_tokens`: an image may take fewer positions than tokens."""
        return n_tokens if self._vision is None else n_tokens - self._vision.surplus(tokens[:n_tokens])

    def read(self, sequence: int, tokens: Sequence[int], begin: int, end: int) -> bool | None:
        """Evaluate the tokens from `begin` to `end` of a sequence that holds those before, images among them included.

        True when done; the logits of the last one then have the index -1, where that is an image's. None: there is no
        place for them. False: cancelled, as `evaluate` says. Raises `SlmError` (BUG), and what the projector raises.
        """
        for first, last in image_tokens.batches(tokens[begin:end], self.batch_tokens):
            piece = tokens[begin + first : begin + last]
            position = self.position(tokens, begin + first)
            if not image_tokens.is_image_token(piece[0]):
                is_done = self.evaluate([TokenSpan(sequence, position, piece, needs_logits=False)]) is not None
            else:
                is_done = self._look_at(sequence, position, piece)
            if not is_done:
                return None
            if self._is_cancelled():
                return False
        return True

    def _look_at(self, sequence: int, position: int, tokens: Sequence[int]) -> bool:
        """Evaluate what the projector makes of the image slice that these tokens stand for; False: no place for it."""
        assert self._vision is not None
        seen = self._vision.see(tokens[0], position, self._is_cancelled)
        if seen is None:  # cancelled
            return True
        self._api.llama_set_causal_attn(self.handle, not seen.is_non_causal)
        try:
            for begin in range(0, len(tokens), self.batch_tokens):
                count = min(self.batch_tokens, len(tokens) - begin)
                if not self._is_decoded(seen.batch(begin, count, sequence), count):
                    return False
                if self._is_cancelled():
                    break
        finally:
            self._api.llama_set_causal_attn(self.handle, True)
        return True

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
        if self.is_split:
            return sequence_state.save_split(self._api, self.handle, sequence, self._n_sequences, tokens, path)
        return sequence_state.save(self._api, self.handle, sequence, tokens, path)

    def load(self, sequence: int, tokens: Sequence[int], path: Path) -> bool:
        """Let a sequence hold the state that was saved with these tokens; False, and an empty one, when it cannot."""
        self.forget(sequence)
        if self.is_split:
            is_loaded = sequence_state.load_split(self._api, self.handle, sequence, self._n_sequences, tokens, path)
        else:
            is_loaded = sequence_state.load(self._api, self.handle, sequence, tokens, path)
        if not is_loaded:
            self.forget(sequence)
        return is_loaded

    def batches(self, spans: Sequence[tuple[TokenSpan, _Item]]) -> Iterator[list[tuple[TokenSpan, _Item]]]:
        """These, with whatever belongs to them, as `evaluate` takes them: as many in each batch as it holds.

        A recurrent state takes tokens of several sequences only in equal numbers: of spans of unequal length
        llama.cpp makes pieces, and on some processors what it computes for a sequence then depends on its neighbours
        (docs/decisions.md). So for such models a span of several tokens has a batch of its own; single tokens go
        together, in the order of their sequences, which makes one piece of neighbours. A split cache wants that order
        as well (llama-batch.cpp, split_equal).
        """
        if self._has_state:
            singles = [item for item in spans if len(item[0].tokens) == 1]
            yield from ([item] for item in spans if len(item[0].tokens) > 1)
            spans = singles
        if self._has_state or self.is_split:
            spans = sorted(spans, key=lambda item: item[0].sequence)
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
        return places if self._is_decoded(batch, index) else None

    def _is_decoded(self, batch: Any, n_tokens: int) -> bool:
        """Evaluate a batch; False when there is no place for it. Raises `SlmError` (BUG) when llama.cpp fails."""
        self._give_way()
        status = self._decode(batch, n_tokens)
        if status == DECODE_NO_PLACE:
            return False
        if status == DECODE_ABORTED and not self._is_cancelled():
            raise_interrupt()
        if status not in (0, DECODE_ABORTED):
            raise decode_failed(status)
        return True

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

    def _decode(self, batch: Any, n_tokens: int) -> int:
        if n_tokens < self._abortable_from:
            return self._computed(batch)
        self._api.llama_set_abort_callback(self.handle, self._abort, None)
        try:
            return self._computed(batch)
        finally:
            self._api.llama_set_abort_callback(self.handle, self._no_abort, None)

    def _computed(self, batch: Any) -> int:
        """The status of llama_decode, when a GPU too is done (as in context.py)."""
        status = int(self._api.llama_decode(self.handle, batch))
        if self._has_gpu:
            self._api.llama_synchronize(self.handle)
        return status


def _forgets(api: Any, model: Any, longest: int | None) -> bool:
    """Whether the model has a sliding window that is shorter than a sequence may be.

    It has forgotten what lies before it, as a recurrent state cannot go back: of these only a whole sequence can be
    copied (llama-kv-cache-iswa.cpp, llama-memory-recurrent.cpp).
    """
    n_window = api.llama_model_n_swa(model)
    return bool(n_window) and (longest is None or longest > n_window)
