"""Prompts to tokens, tokens to bytes, with one rule: only template text may spell control tokens.

Knows: the vocabulary of a loaded model. Refuses to know: what the parts of a prompt mean.

Tokenizing every part by itself would be safe but wrong: "[INST] " + "Hello" are other tokens than "[INST] Hello".
So control tokens are looked for in the template's text only, and what stands between two of them, template and user
text together, is tokenized as one run in which no control token is recognised.
"""

import ctypes
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from slmchat.engine.api import InfillTokens
from slmchat.engine.requests import Image, Part, Prompt
from slmchat.engine.results import AtLeast
from slmchat.engine.vision import Vision
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from slmchat.engine.least_tokens import LeastTokens

# The longest piece of a token, in bytes; longer ones (rare) take a second call.
_PIECE_BYTES = 64

# Characters of a prompt from which on it is worth a look how many tokens they are at least: 0.6 s of tokenizing.
_LONG = 1024 * 1024

# Texts of earlier completions that are kept: each turn of a conversation looks at all of them, more than once.
_MOST_SAID = 256
_NO_CHARACTER = "\ufffd"  # what stands for bytes that are no character

# What markers of turns look like: <start_of_turn>, [INST], <|user|>; not the "\n\n" and "<h1>" of other tokens.
_MARKER = re.compile(r"^[<\[].*[A-Za-z].*[>\]]$")

# Markers that templates put together ('<|' + role + '|>', as Phi-4-mini does), so that their text does not spell them.
_COMPOSED = "<|system|><|user|><|assistant|>"

# Tokens between files that llama.cpp has no name for; behind a fill they mean that it is over (CodeGemma, StarCoder 2).
_FILE_SEPARATORS = ("<|file_separator|>", "<file_sep>")

# Pre-tokenizers (`tokenizer.ggml.pre`) of models that were trained to read the suffix first: Mellum and Seed-Coder, as
# far as is known; no file says it. `--infill-order` has the last word.
_SUFFIX_FIRST = frozenset(("mellum", "seed-coder"))


@dataclass(slots=True)
class _Run:
    """Text between two control tokens, or the ids that stand in its place (of an earlier completion, of an image)."""

    text: str = ""
    tokens: tuple[int, ...] = ()


@dataclass(slots=True)
class _Control:
    token: int
    attributes: int


@dataclass(slots=True)
class _Layout:
    """A prompt as control tokens and the runs between them."""

    items: list[_Run | _Control] = field(default_factory=list)

    def add_text(self, text: str) -> None:
        last = self.items[-1] if self.items else None
        if isinstance(last, _Run) and not last.tokens:
            last.text += text
        else:
            self.items.append(_Run(text))


class Vocabulary:
    """The tokenizer of one model."""

    def __init__(self, api: ModuleType, model: Any, vision: Vision | None = None, *, tokenizer: str = "") -> None:
        """`vision`: what turns images into tokens; None: this model gets none. `tokenizer`: what the file names its
        pre-tokenizer."""
        self._api = api
        self.vision = vision
        self.handle = self._vocab = api.llama_model_get_vocab(model)
        self.n_tokens: int = api.llama_vocab_n_tokens(self._vocab)
        self._bos: int = api.llama_vocab_bos(self._vocab)
        self._adds_bos: bool = api.llama_vocab_get_add_bos(self._vocab)
        self._buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        self.infill = self._find_infill(is_suffix_first=tokenizer in _SUFFIX_FIRST)
        self._ends = self._find_ends()
        self._guarded = self._find_guarded(model)
        self._said = functools.lru_cache(_MOST_SAID)(self._said_by)
        self._guard = re.compile("|".join(map(re.escape, self._guarded))) if self._guarded else None

    def text_of(self, token: int) -> str:
        """The spelling of a token in the vocabulary; empty where the model has no such token (-1)."""
        if token < 0:
            return ""
        text: bytes | None = self._api.llama_vocab_get_text(self._vocab, token)
        return (text or b"").decode("utf-8", "replace")

    @property
    def bos_text(self) -> str:
        return self.text_of(self._bos)

    @property
    def eos_text(self) -> str:
        return self.text_of(self._api.llama_vocab_eos(self._vocab))

    @property
    def eos(self) -> int:
        """The end-of-sequence token that the file names; -1 when it names none."""
        return int(self._api.llama_vocab_eos(self._vocab))

    @property
    def ends(self) -> tuple[int, ...]:
        """All end-of-generation tokens."""
        return tuple(token for token in range(self.n_tokens) if self.is_end(token))

    def is_plain_text(self, token: int) -> bool:
        """Whether a token is an ordinary piece of text, neither control nor user-defined nor a byte."""
        return bool(self._api.llama_vocab_get_attr(self._vocab, token) & self._api.LLAMA_TOKEN_ATTR_NORMAL)

    def is_end(self, token: int) -> bool:
        """True for end-of-generation tokens (end of sequence, end of turn, end of a fill, ...)."""
        return token in self._ends or bool(self._api.llama_vocab_is_eog(self._vocab, token))

    def is_same(self, other: "Vocabulary") -> bool:
        """Whether both mean the same by every token id."""
        count = self.n_tokens
        return count == other.n_tokens and all(self.text_of(id) == other.text_of(id) for id in range(count))

    def tokens_of(self, spellings: Sequence[str]) -> frozenset[int]:
        """The ids of those spellings that are one token of this vocabulary."""
        found = (self._raw_tokens(spelling, parse_special=True) for spelling in spellings)
        return frozenset(ids[0] for ids in found if len(ids) == 1)

    def piece(self, token: int, *, is_shown: bool = False) -> bytes:
        """The bytes a token stands for; control tokens stand for none unless `is_shown`."""
        # int32_t llama_token_to_piece(vocab, token, char * buf, int32_t length, int32_t lstrip, bool special);
        size = self._api.llama_token_to_piece(self._vocab, token, self._buffer, _PIECE_BYTES, 0, is_shown)
        if size >= 0:
            return self._buffer.raw[:size]
        buffer = ctypes.create_string_buffer(-size)
        return buffer.raw[: self._api.llama_token_to_piece(self._vocab, token, buffer, -size, 0, is_shown)]

    @functools.cached_property
    def pieces(self) -> Mapping[bytes, int]:
        """The plain tokens by the bytes that they write; of several that write the same, the one that is not a byte.

        Built at the first use (0.1 s for 49,152 tokens, 0.5 s for 262,144) and kept. Control tokens and user-defined
        ones are left out: no text spells them.
        """
        normal, byte = self._api.LLAMA_TOKEN_ATTR_NORMAL, self._api.LLAMA_TOKEN_ATTR_BYTE
        attributes_of, piece = functools.partial(self._api.llama_vocab_get_attr, self._vocab), self.piece
        found: dict[bytes, int] = {}
        for token in range(self.n_tokens):
            attributes = attributes_of(token)
            if attributes & normal:
                found[piece(token)] = token
            elif attributes & byte:
                found.setdefault(piece(token), token)
        found.pop(b"", None)
        return found

    def count(self, prompt: Prompt, most: int | None = None) -> int:
        """The prompt's tokens, exactly; an `AtLeast` where they are surely more than `most`. Raises as `tokenize`."""
        if most is not None and (least := self.least_tokens(prompt)) > most:
            return AtLeast(least)
        return len(self.tokenize(prompt))

    def tokenize(self, prompt: Prompt) -> list[int]:
        """The prompt's tokens: control tokens from template text only, never two beginning-of-sequence tokens.

        Raises `SlmError`: USAGE when the prompt has an image and the model cannot see, and what reading images raises.
        """
        tokens: list[int] = []
        for item in self._lay_out(prompt).items:
            if isinstance(item, _Control):
                tokens.append(item.token)
            elif item.tokens:
                tokens.extend(item.tokens)
            else:
                tokens.extend(self._tokenize_plain(item.text))
        if self._adds_bos and self._bos >= 0 and tokens[:1] != [self._bos]:
            tokens.insert(0, self._bos)
        return tokens

    def least_tokens(self, prompt: Prompt) -> int:
        """So many tokens a very long prompt has, or more, at a glance; 0 for any other."""
        said = [part.text for part in prompt.parts if not (part.is_template or part.tokens or part.image)]
        return self._least.of(said) if sum(map(len, said)) >= _LONG else 0

    @functools.cached_property
    def _least(self) -> "LeastTokens":
        from slmchat.engine.least_tokens import LeastTokens  # most prompts are short

        return LeastTokens(self._api, self._vocab, self.n_tokens, functools.partial(self.piece, is_shown=True))

    def _lay_out(self, prompt: Prompt) -> _Layout:
        layout = _Layout()
        for part in prompt.parts:
            if part.image is not None:
                layout.items.append(_Run(tokens=self._image_tokens(part.image)))
            elif part.tokens and self._is_said_by(part.tokens, part.text):
                layout.items.append(_Run(tokens=part.tokens))
            elif part.is_template:
                self._lay_out_template(layout, part.text)
            else:
                layout.add_text(part.text)
        self._strip_around_controls(layout)
        return layout

    def _is_said_by(self, tokens: tuple[int, ...], text: str) -> bool:
        """Whether these ids, which were kept with a text, are that text here as well: the file of a model may be
        another one of the same name by now. White space around it does not count, nor what is no whole character."""
        return not text or self._said(tokens) == text.replace(_NO_CHARACTER, "").strip()

    def _said_by(self, tokens: tuple[int, ...]) -> str | None:
        """The text of these ids without the white space around it; None where this vocabulary has not all of them."""
        if max(tokens) >= self.n_tokens:
            return None
        text = b"".join(map(self.piece, tokens)).decode("utf-8", "replace")
        return text.replace(_NO_CHARACTER, "").strip()

    def _image_tokens(self, image: Image) -> tuple[int, ...]:
        if self.vision is None:
            raise SlmError("this model does not see images.", exit_code=ExitCode.USAGE)
        return self.vision.tokens_of(image)

    def _lay_out_template(self, layout: _Layout, text: str) -> None:
        for token in self._raw_tokens(text, parse_special=True):
            attributes = self._api.llama_vocab_get_attr(self._vocab, token)
            spelling = self.text_of(token)
            if not attributes & self._api.LLAMA_TOKEN_ATTR_CONTROL and spelling not in self._guarded:
                continue
            place = text.find(spelling)
            if place < 0:
                continue
            if place:
                layout.add_text(text[:place])
            layout.items.append(_Control(token, attributes))
            text = text[place + len(spelling) :]
        if text:
            layout.add_text(text)

    def _strip_around_controls(self, layout: _Layout) -> None:
        """LSTRIP and RSTRIP tokens swallow the white space beside them (llama-vocab.cpp, tokenizer_st_partition)."""
        items = layout.items
        for index, item in enumerate(items):
            if not isinstance(item, _Control):
                continue
            before = items[index - 1] if index else None
            after = items[index + 1] if index + 1 < len(items) else None
            if item.attributes & self._api.LLAMA_TOKEN_ATTR_LSTRIP and isinstance(before, _Run):
                before.text = before.text.rstrip(" \t\n\v\f\r")
            if item.attributes & self._api.LLAMA_TOKEN_ATTR_RSTRIP and isinstance(after, _Run):
                after.text = after.text.lstrip(" \t\n\v\f\r")

    def continued(self, prompt: Prompt, tokens: Sequence[int], text: str) -> list[int]:
        """The tokens of a plain text behind a prompt that has these `tokens`, as the model would go on with it."""
        whole = self.tokenize(replace(prompt, parts=(*prompt.parts, Part(text))))
        if whole[: len(tokens)] == list(tokens) and len(whole) > len(tokens):
            return whole[len(tokens) :]
        return self._continued(text, is_first=False)  # the text would change the prompt's last token

    def text_tokens(self, text: str) -> list[int]:
        """A text by itself with the marks that the model wants around it; nothing in it is a control token."""
        return self._raw_tokens(text, parse_special=False, adds_marks=True)

    def template_tokens(self, text: str) -> list[int]:
        """The tokens of a template's text behind other text: what it spells of control tokens is one."""
        layout = _Layout()
        self._lay_out_template(layout, text)
        self._strip_around_controls(layout)
        tokens: list[int] = []
        for item in layout.items:
            tokens += [item.token] if isinstance(item, _Control) else self._continued(item.text, is_first=False)
        return tokens

    @property
    def turn_ends(self) -> tuple[int, ...]:
        """The tokens with which an answer ends: of the sequence, of the turn."""
        found = (self._api.llama_vocab_eos(self._vocab), self._api.llama_vocab_eot(self._vocab))
        return tuple(dict.fromkeys(token for token in found if token >= 0))

    def _tokenize_plain(self, text: str) -> list[int]:
        """Tokens of a run without control tokens.

        llama.cpp recognises user-defined tokens even where control tokens are switched off, and some files mark their
        turn markers as user-defined. Where a guarded one appears, its spelling is broken after the first character.
        """
        if not self._guard:
            return self._raw_tokens(text, parse_special=False)
        tokens: list[int] = []
        begin = 0
        while match := self._guard.search(text, begin):
            tokens += self._continued(text[begin : match.start() + 1], is_first=begin == 0)
            begin = match.start() + 1
        return tokens + self._continued(text[begin:], is_first=begin == 0)

    def _continued(self, text: str, *, is_first: bool) -> list[int]:
        """Tokens of text that goes on; SentencePiece would put a space before it, so a line end stands there first."""
        if not is_first:
            line_end = self._raw_tokens("\n", parse_special=False)
            tokens = self._raw_tokens("\n" + text, parse_special=False)
            if tokens[: len(line_end)] == line_end:
                return tokens[len(line_end) :]
        return self._raw_tokens(text, parse_special=False)

    def _raw_tokens(self, text: str, *, parse_special: bool, adds_marks: bool = False) -> list[int]:
        if not text:
            return []
        data = text.encode("utf-8", "replace")
        capacity = len(data) + 8
        # int32_t llama_tokenize(vocab, text, text_len, tokens, n_tokens_max, bool add_special, bool parse_special);
        while True:
            buffer = (self._api.llama_token * capacity)()
            count = self._api.llama_tokenize(self._vocab, data, len(data), buffer, capacity, adds_marks, parse_special)
            if count >= 0:
                return list(buffer[:count])
            capacity = -count

    def _find_infill(self, *, is_suffix_first: bool) -> InfillTokens | None:
        """The model's fill-in-the-middle tokens; None unless it has one for prefix, suffix and middle."""
        api, vocab = self._api, self._vocab
        prefix, suffix, middle, separator, repository = (
            int(find(vocab))
            for find in (
                api.llama_vocab_fim_pre,
                api.llama_vocab_fim_suf,
                api.llama_vocab_fim_mid,
                api.llama_vocab_fim_sep,
                api.llama_vocab_fim_rep,
            )
        )
        if min(prefix, suffix, middle) < 0:
            return None
        if separator < 0:
            separator = max(self.tokens_of(_FILE_SEPARATORS), default=-1)
        return InfillTokens(
            prefix,
            suffix,
            middle,
            separator if separator >= 0 else None,
            repository if repository >= 0 else None,
            is_suffix_first,
        )

    def _find_ends(self) -> frozenset[int]:
        """What ends a fill besides llama.cpp's own end-of-generation tokens (there: padding, repository, separator).

        A model that begins another gap or another file has said what it had to say (CodeGemma's model card).
        """
        if self.infill is None:
            return frozenset()
        tokens = (self.infill.prefix, self.infill.suffix, self.infill.middle, self.infill.separator)
        return frozenset(token for token in tokens if token is not None)

    def _find_guarded(self, model: Any) -> frozenset[str]:
        """Spellings of user-defined tokens that the chat template writes as markers of turns, or that end a fill."""
        template: bytes | None = self._api.llama_model_chat_template(model, None)
        text = (template or b"").decode("utf-8", "replace") + "".join(map(self.text_of, self._ends))
        spellings = {
            self.text_of(token)
            for token in self._raw_tokens(text + _COMPOSED, parse_special=True)
            if self._api.llama_vocab_get_attr(self._vocab, token) & self._api.LLAMA_TOKEN_ATTR_USER_DEFINED
        }
        return frozenset(text for text in spellings if _MARKER.search(text))
