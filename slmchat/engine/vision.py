"""Images as tokens: llama.cpp's multimodal library (libmtmd) with one projector file.

Knows: what an image becomes (slices and the marks around them), how its pixels become embeddings, which are known.
Refuses to know: files of images and their formats, templates, when anything is evaluated (context.py).
"""

import ctypes
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from slmchat.engine import native
from slmchat.engine.callbacks import guarded
from slmchat.engine.image_tokens import is_first, numbers
from slmchat.engine.limits import EngineLimits
from slmchat.engine.requests import Image
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass

# Embeddings kept, so that a second question does not encode an image again: 2.6 MB for one of Gemma 3 4B.
_EMBEDDING_BYTES = 128 * 1024**2
# Pixels of images in prompts; an image that a prompt needs beyond this is refused.
_PIXEL_BYTES = 256 * 1024**2

# A model that sees a whole image at once must evaluate it in one batch (context.py: IMAGE_BATCH_TOKENS).
_MOST_AT_ONCE = 512

# While an image is encoded (seconds on a small device), Ctrl-C is looked for after so many nodes of the graph.
_NODES_BETWEEN_LOOKS = 32

# How many times longer one side of an image may be. Scaled to what models look at (224 pixels and more), no side may
# vanish: some versions of llama.cpp throw an exception then, others end the process.
_MOST_SLENDER = 200


@dataclass(frozen=True, slots=True)
class Projector:
    """The file of an image encoder (mmproj), and the threads that it computes with."""

    path: Path
    threads: int


@dataclass(frozen=True, slots=True)
class _Slice:
    """A piece of an image that is encoded by itself: its size in tokens, and in positions of the model's attention."""

    n_tokens: int
    n_positions: int


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a slice comes from: the id and the size of the image, and the number of the slice in it."""

    image: str
    width: int
    height: int
    number: int
    slice: _Slice


@dataclass(frozen=True, slots=True)
class Seen:
    """An image slice ready to be evaluated. `is_non_causal`: its tokens see each other, so they go in one batch."""

    api: ModuleType
    embedding: Any  # ctypes array of floats, row by row
    n_tokens: int
    positions: tuple[Any, ...]  # a ctypes array for each dimension of the rotary embedding
    is_non_causal: bool

    def batch(self, begin: int, count: int, sequence: int = 0) -> Any:
        """A llama_batch of `count` tokens from `begin` on, for this sequence; its memory lives as long as it does."""
        width = len(self.embedding) // self.n_tokens
        positions = [dimension[begin : begin + count] for dimension in self.positions]
        batch = self.api.llama_batch()
        batch.n_tokens = count
        start = ctypes.addressof(self.embedding) + begin * width * ctypes.sizeof(ctypes.c_float)
        batch.embd = ctypes.cast(start, ctypes.POINTER(ctypes.c_float))
        flat = [position for dimension in positions for position in dimension]
        batch.pos = (self.api.llama_pos * len(flat))(*flat)
        if sequence:
            own = (self.api.llama_seq_id * 1)(sequence)
            batch.n_seq_id = (ctypes.c_int32 * count)(*[1] * count)
            batch.seq_id = (ctypes.POINTER(self.api.llama_seq_id) * count)(*[own] * count)
        return batch


class Vision:
    """What a model sees with. The projector is read when the first image comes.

    A thread that lays out prompts may ask `tokens_of` while another one looks (`see`): it waits for that.
    """

    def __init__(self, api: ModuleType, model: Any, projector: Projector, limits: EngineLimits) -> None:
        self._api = api
        self._limits = limits
        self._model = model
        self._projector = projector
        self._mtmd: Any = None
        self._context: Any = None
        self._is_cancelled: Callable[[], bool] = lambda: False
        self._looks = 0
        self._callback: Any = None  # referenced for as long as the library may call it
        self._layouts: dict[tuple[int, int], list[_Slice | tuple[int, ...]]] = {}
        self._places: dict[int, _Place] = {}  # by the first token of a slice
        self._images: OrderedDict[str, Image] = OrderedDict()
        self._embeddings: OrderedDict[int, Any] = OrderedDict()
        self._chunks: tuple[str, Any] | None = None  # the image that was cut into slices last
        self._lock = threading.Lock()
        stat = projector.path.stat()
        self._key = f"{projector.path.name}:{stat.st_size}:{stat.st_mtime_ns}"

    def close(self) -> None:
        """Free the projector."""
        self._free_chunks()
        if self._context is not None:
            self._mtmd.mtmd_free(self._context)
            self._context = None

    # Tokens

    def tokens_of(self, image: Image) -> tuple[int, ...]:
        """The tokens that an image takes, the model's own marks around it included. Raises `SlmError` (DAMAGED)."""
        with self._lock:
            return self._tokens_of(image)

    def _tokens_of(self, image: Image) -> tuple[int, ...]:
        self._open()
        self._images[image.id] = image
        self._images.move_to_end(image.id)
        while len(self._images) > 1 and sum(len(kept.rgb) for kept in self._images.values()) > _PIXEL_BYTES:
            self._images.popitem(last=False)
        tokens: list[int] = []
        number = 0
        for piece in self._layout(image.width, image.height):
            if isinstance(piece, _Slice):
                ids = numbers(f"{self._key}|{image.id}|{number}", piece.n_tokens)
                self._places[ids[0]] = _Place(image.id, image.width, image.height, number, piece)
                tokens += ids
                number += 1
            else:
                tokens += piece
        return tuple(tokens)

    def surplus(self, tokens: Sequence[int]) -> int:
        """How many more tokens than positions the images among these tokens take (0 for most models)."""
        if not self._places or not self._uses_mrope():
            return 0
        places = (self._places.get(token) for token in tokens if is_first(token))
        return sum(place.slice.n_tokens - place.slice.n_positions for place in places if place)

    def _layout(self, width: int, height: int) -> list[_Slice | tuple[int, ...]]:
        """What an image of this size becomes: slices, and tokens between them. It needs no pixels."""
        known = self._layouts.get((width, height))
        if known is None:
            chunks = self._cut(width, height, None)
            try:
                known = [self._described(chunk) for chunk in self._each(chunks)]
            finally:
                self._mtmd.mtmd_input_chunks_free(chunks)
            self._layouts[width, height] = known
        return known

    def _described(self, chunk: Any) -> _Slice | tuple[int, ...]:
        mtmd = self._mtmd
        if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            count = ctypes.c_size_t()
            tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
            return tuple(tokens[: count.value])
        return _Slice(mtmd.mtmd_input_chunk_get_n_tokens(chunk), mtmd.mtmd_input_chunk_get_n_pos(chunk))

    # Pixels to embeddings

    def see(self, first: int, position: int, is_cancelled: Callable[[], bool]) -> Seen | None:
        """The slice that begins with the token `first`, to stand at `position`; None when cancelled.

        An image that was seen before is not encoded again. Raises `SlmError` (BUG) when llama.cpp fails.
        """
        with self._lock:
            return self._seen(first, position, is_cancelled)

    def _seen(self, first: int, position: int, is_cancelled: Callable[[], bool]) -> Seen | None:
        place = self._places[first]
        embedding = self._embeddings.get(first)
        if embedding is None:
            embedding = self._encoded(place, is_cancelled)
            if embedding is None:
                return None
            self._embeddings[first] = embedding
        self._embeddings.move_to_end(first)
        while len(self._embeddings) > 1 and sum(map(ctypes.sizeof, self._embeddings.values())) > _EMBEDDING_BYTES:
            self._embeddings.popitem(last=False)
        is_non_causal = bool(self._mtmd.mtmd_decode_use_non_causal(self._context, None))
        return Seen(self._api, embedding, place.slice.n_tokens, self._positions(place, position), is_non_causal)

    def _encoded(self, place: _Place, is_cancelled: Callable[[], bool]) -> Any:
        """Embeddings of one slice, None when cancelled."""
        chunk = self._slices_of(place.image)[place.number]
        self._is_cancelled = is_cancelled
        native.clear_log()
        # int32_t mtmd_encode_chunk(mtmd_context * ctx, const mtmd_input_chunk * chunk);
        status = self._mtmd.mtmd_encode_chunk(self._context, chunk)
        self._is_cancelled = lambda: False
        if is_cancelled():
            return None
        if status != 0:
            raise SlmError(f"llama.cpp failed while reading an image: {_said()}.", exit_code=ExitCode.BUG)
        length = self._api.llama_model_n_embd_inp(self._model) * place.slice.n_tokens
        embedding = (ctypes.c_float * length)()
        # float * mtmd_get_output_embd(mtmd_context * ctx);
        ctypes.memmove(embedding, self._mtmd.mtmd_get_output_embd(self._context), ctypes.sizeof(embedding))
        return embedding

    def _slices_of(self, image_id: str) -> list[Any]:
        if self._chunks is None or self._chunks[0] != image_id:
            self._free_chunks()
            image = self._images.get(image_id)
            if image is None:
                raise SlmError(
                    f"the images of this prompt take more than {_PIXEL_BYTES // 1024**2} MiB.",
                    hint="fewer images at once",
                    exit_code=ExitCode.NO_FIT,
                )
            self._chunks = (image_id, self._cut(image.width, image.height, image.rgb))
        return self._slices(self._chunks[1])

    def _slices(self, chunks: Any) -> list[Any]:
        mtmd = self._mtmd
        kind = mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE
        return [chunk for chunk in self._each(chunks) if mtmd.mtmd_input_chunk_get_type(chunk) == kind]

    def _positions(self, place: _Place, start: int) -> tuple[Any, ...]:
        """Positions from `start` on: one for each token, or (M-RoPE) four of them."""
        n_tokens = place.slice.n_tokens
        array = self._api.llama_pos * n_tokens
        if not self._uses_mrope():
            return (array(*range(start, start + n_tokens)),)
        mtmd = self._mtmd
        chunks = self._cut(place.width, place.height, None)
        try:
            image = mtmd.mtmd_input_chunk_get_tokens_image(self._slices(chunks)[place.number])
            # struct mtmd_decoder_pos mtmd_image_tokens_get_decoder_pos(image_tokens, llama_pos pos_0, size_t i);
            at = [mtmd.mtmd_image_tokens_get_decoder_pos(image, start, index) for index in range(n_tokens)]
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
        # the order of mtmd-helper-common.h, set_position_mrope_2d
        return tuple(array(*(getattr(one, name) for one in at)) for name in "tyxz")

    def _uses_mrope(self) -> bool:
        return bool(self._mtmd.mtmd_decode_use_mrope(self._context))

    # The library

    def _open(self) -> None:
        """Read the projector. Raises `SlmError`: DAMAGED when it is none for this model, NO_FIT."""
        if self._context is not None:
            return
        self._mtmd = native.multimodal()
        self._context = self._loaded(0)
        largest = max((piece.n_tokens for piece in self._layout(2048, 2048) if isinstance(piece, _Slice)), default=0)
        if largest > _MOST_AT_ONCE and self._mtmd.mtmd_decode_use_non_causal(self._context, None):
            self._mtmd.mtmd_free(self._context)
            self._context = None
            self._layouts.clear()
            self._context = self._loaded(_MOST_AT_ONCE)

    def _loaded(self, most_tokens: int) -> Any:
        mtmd, path = self._mtmd, self._projector.path
        params = mtmd.mtmd_context_params_default()
        params.n_threads = self._projector.threads
        params.print_timings = False
        params.warmup = False  # it would encode an empty image first
        if most_tokens:
            params.image_max_tokens = most_tokens
        if self._callback is None:
            self._callback = self._api.ggml_backend_sched_eval_callback(guarded(self._look, instead=False))
        params.cb_eval = self._callback
        native.clear_log()
        context = mtmd.mtmd_init_from_file(os.fsencode(path), self._model, self._limits.projector_params(params))
        if not context or not mtmd.mtmd_support_vision(context):
            said = _said() if not context else "it has no image encoder"
            if context:
                mtmd.mtmd_free(context)
            if native.is_out_of_memory():
                raise SlmError(
                    f"{path.name} does not fit into the memory of this device.",
                    hint="a smaller model that sees: slm list --available",
                    exit_code=ExitCode.NO_FIT,
                )
            raise SlmError(
                f"llama.cpp cannot see with {path.name}: {said}.",
                hint="the projector (mmproj) must be the one made for this model",
                exit_code=ExitCode.DAMAGED,
            )
        return context

    def _look(self, _tensor: Any, is_asking: bool, _data: Any) -> bool:
        """bool (*ggml_backend_sched_eval_callback)(struct ggml_tensor * t, bool ask, void * user_data);

        Asked before each node whether its result is to be looked at; then once more, and False ends the computation.
        """
        if not is_asking:
            return not self._is_cancelled()
        self._looks += 1
        return self._looks % _NODES_BETWEEN_LOOKS == 0

    def _cut(self, width: int, height: int, rgb: bytes | None) -> Any:
        """mtmd_input_chunks of one image; without pixels only its sizes are right. Raises `SlmError` (DAMAGED)."""
        what = f"llama.cpp cannot take in an image of {width} x {height} pixels"
        if max(width, height) > _MOST_SLENDER * min(width, height):
            message = f"{what}: one side is more than {_MOST_SLENDER} times the other."
            raise SlmError(message, exit_code=ExitCode.DAMAGED)
        mtmd = self._mtmd
        data = None if rgb is None else (ctypes.c_uint8 * len(rgb)).from_buffer_copy(rgb)
        bitmap = mtmd.mtmd_bitmap_init(width, height, data)
        chunks = mtmd.mtmd_input_chunks_init()
        part = mtmd.mtmd_input_part(None, bitmap)
        parts = (ctypes.POINTER(mtmd.mtmd_input_part) * 1)(ctypes.pointer(part))
        native.clear_log()
        # int32_t mtmd_tokenize_from_parts(ctx, output, const mtmd_input_part * const * parts, n_parts, add_special);
        status = mtmd.mtmd_tokenize_from_parts(self._context, chunks, parts, 1, False)
        mtmd.mtmd_bitmap_free(bitmap)
        if status != 0:
            mtmd.mtmd_input_chunks_free(chunks)
            raise SlmError(f"{what}: {_said()}.", exit_code=ExitCode.DAMAGED)
        return chunks

    def _each(self, chunks: Any) -> list[Any]:
        mtmd = self._mtmd
        return [mtmd.mtmd_input_chunks_get(chunks, index) for index in range(mtmd.mtmd_input_chunks_size(chunks))]

    def _free_chunks(self) -> None:
        if self._chunks is not None:
            self._mtmd.mtmd_input_chunks_free(self._chunks[1])
            self._chunks = None


def _said() -> str:
    """The last thing that the library said of an error."""
    lines = native.log_lines()
    told = next(
        (line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "no reason given"
    )
    return told.rpartition("error: ")[2].partition("\n")[0].strip(" .")
