"""Texts to vectors with an embedding model (`LlamaEmbedder`).

Knows: the tokens of a text as the model was trained on it, many texts in one batch, the pooling that the file names,
vectors of length 1. Refuses to know: where texts come from, what vectors are compared with.

A text is evaluated whole, in one batch: models that look both ways need that, and pooling too. So the context is as
large as the longest text that has come, in steps, and is made anew for a longer one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from slmchat.engine import native
from slmchat.engine.callbacks import guarded, raise_interrupt
from slmchat.engine.context import DECODE_ABORTED, context_params, decode_failed
from slmchat.engine.feed import Feed
from slmchat.engine.loaded import model_metadata
from slmchat.engine.requests import SessionSettings, TextOrTokens
from slmchat.engine.results import Embedding, Result
from slmchat.engine.vocabulary import Vocabulary
from slmchat.errors import ExitCode, SlmError, usage_error

# Texts that go together into one batch, and the step in which its room for tokens grows.
_MOST_TEXTS = 64
_STEP = 512
# Texts that are read before a batch is made, and how long a text waits for others, in seconds: so a program that writes
# a line and waits for its vector gets it, and a file is read in large groups.
_AHEAD = 256
_PATIENCE_S = 0.02


class LlamaEmbedder:
    """A llama.cpp context for embeddings. Not for two threads at once, except `cancel`."""

    def __init__(
        self, api: ModuleType, model: Any, vocabulary: Vocabulary, settings: SessionSettings, *, is_cut: bool
    ) -> None:
        """`is_cut`: of a text that is longer than the model was trained for, its beginning counts."""
        self._api = api
        self._model = model
        self._vocabulary = vocabulary
        self._settings = settings
        self._is_cut = is_cut
        self._is_cancelled = False
        self._feed: Feed[list[int] | SlmError] | None = None
        self._handle: Any = None
        self._room = 0  # tokens of one batch
        self._n_trained: int = api.llama_model_n_ctx_train(model)
        self._abort = api.ggml_abort_callback(guarded(lambda _data: self._is_cancelled, instead=True))

    def cancel(self) -> None:
        """End `run` soon; from any thread or a signal handler."""
        self._is_cancelled = True
        if self._feed is not None:
            self._feed.wake()

    def run(self, texts: Iterator[TextOrTokens]) -> Iterator[Embedding | SlmError]:
        """A vector for each text, in order, or the error that it failed with: USAGE for an empty text, CONTEXT for one
        that is too long. Raises `SlmError`: NO_FIT, DAMAGED when the model computes no numbers, BUG."""
        self._is_cancelled = False
        # mypy takes what both kinds of texts have in common for what they are
        feed: Feed[list[int] | SlmError] = Feed(texts, self._tokens, ahead=_AHEAD)  # type: ignore[arg-type]
        self._feed = feed
        try:
            while group := self._group(feed):
                whole = [one for one in group if not isinstance(one, SlmError)]
                self._open(max(map(len, whole), default=0))
                found = iter(self._embedded(whole))
                for one in group:
                    made = one if isinstance(one, SlmError) else next(found, None)
                    if made is None:  # cancelled
                        return
                    yield made
        finally:
            feed.stop()
            self.close()

    def _group(self, feed: Feed[list[int] | SlmError]) -> list[list[int] | SlmError]:
        """The texts that are there, at least one; none at the end. Raises what their iterator raised."""
        group: list[list[int] | SlmError] = []
        while len(group) < _AHEAD and not (feed.is_ended or self._is_cancelled):
            item = feed.take(_PATIENCE_S if group else None)
            if item is None:
                break
            assert not isinstance(item, Result)
            feed.make_room()
            group.append(item)
        return group

    def close(self) -> None:
        """Free the context."""
        if self._handle is not None:
            self._api.llama_batch_free(self._batch)
            self._api.llama_free(self._handle)
            self._handle, self._room = None, 0

    def _tokens(self, text: TextOrTokens) -> list[int] | SlmError:
        if not (text.strip() if isinstance(text, str) else text):
            return usage_error("the text is empty.", "a vector needs words")
        tokens = self._vocabulary.text_tokens(text) if isinstance(text, str) else list(text)
        n_known = self._vocabulary.n_tokens
        if not isinstance(text, str) and not all(0 <= token < n_known for token in tokens):
            return usage_error(f"the vocabulary of this model has the tokens 0 to {n_known - 1:,}.")
        if self._n_trained and len(tokens) > self._n_trained:
            if not self._is_cut:
                return SlmError(
                    f"the text is {len(tokens):,} tokens and this model was trained for {self._n_trained:,}.",
                    hint="shorter pieces; or only the beginning: --on-overflow trim",
                    exit_code=ExitCode.CONTEXT,
                )
            end = [] if self._vocabulary.is_plain_text(tokens[-1]) else tokens[-1:]
            tokens = tokens[: self._n_trained - len(end)] + end
        return tokens

    def _open(self, longest: int) -> None:
        """See that there is room for a text of so many tokens. Raises `SlmError` (NO_FIT)."""
        room = max(_STEP, -(-longest // _STEP) * _STEP)
        if room <= self._room:
            return
        self.close()
        api = self._api
        params = context_params(api, replace(self._settings, n_ctx=room), room)
        params.embeddings = True
        params.n_seq_max = _MOST_TEXTS
        params.kv_unified = True
        if self._pooling_of_file() == api.LLAMA_POOLING_TYPE_NONE:
            params.pooling_type = api.LLAMA_POOLING_TYPE_MEAN  # as sentence-transformers does where nothing is said
        native.clear_log()
        self._handle = api.llama_init_from_model(self._model, params)
        if not self._handle:
            raise SlmError(
                f"a batch of {room:,} tokens does not fit into the memory of this device.",
                hint="shorter pieces",
                exit_code=ExitCode.NO_FIT,
            )
        self._room = room
        self._width = api.llama_model_n_embd_out(self._model)
        self._batch = api.llama_batch_init(room, 0, 1)
        api.llama_set_abort_callback(self._handle, self._abort, None)

    def _pooling_of_file(self) -> int:
        """llama.h, enum llama_pooling_type; 0 where the file names none."""
        architecture = self._metadata("general.architecture")
        return int(self._metadata(f"{architecture}.pooling_type") or self._api.LLAMA_POOLING_TYPE_NONE)

    def _metadata(self, key: str) -> str:
        return model_metadata(self._api, self._model, key)

    def _embedded(self, texts: Sequence[list[int]]) -> Iterator[Embedding]:
        group: list[list[int]] = []
        size = 0
        for tokens in texts:
            if group and (size + len(tokens) > self._room or len(group) == _MOST_TEXTS):
                yield from self._evaluated(group)
                group, size = [], 0
            if self._is_cancelled:
                return
            group.append(tokens)
            size += len(tokens)
        if group:
            yield from self._evaluated(group)

    def _evaluated(self, group: Sequence[list[int]]) -> list[Embedding]:
        """The vectors of texts that go into one batch; none when that was cancelled."""
        api, batch, index = self._api, self._batch, 0
        for sequence, tokens in enumerate(group):
            for position, token in enumerate(tokens):
                batch.token[index] = token
                batch.pos[index] = position
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = sequence
                batch.logits[index] = True
                index += 1
        batch.n_tokens = index
        memory = api.llama_get_memory(self._handle)
        if memory:  # models that look both ways have none
            api.llama_memory_clear(memory, True)
        status = int(api.llama_decode(self._handle, batch))
        if status == DECODE_ABORTED:
            if not self._is_cancelled:
                raise_interrupt()
            return []
        if status:
            raise decode_failed(status)
        return [Embedding(self._vector(sequence), len(tokens)) for sequence, tokens in enumerate(group)]

    def _vector(self, sequence: int) -> tuple[float, ...]:
        # float * llama_get_embeddings_seq(struct llama_context * ctx, llama_seq_id seq_id);
        found = self._api.llama_get_embeddings_seq(self._handle, sequence)
        values = found[: self._width] if found else []
        length = math.sqrt(math.fsum(value * value for value in values))
        if not length or not math.isfinite(length):
            raise SlmError(
                "the model computes no vector for this text.",
                hint="slm verify checks the weights; slm doctor tests llama.cpp",
                exit_code=ExitCode.DAMAGED,
            )
        return tuple(value / length for value in values)
