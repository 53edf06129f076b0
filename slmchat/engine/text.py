"""From the bytes of tokens to whole characters, with stop sequences held back.

Knows: UTF-8 and the stop sequences. Refuses to know: tokens, templates, terminals.
"""

import codecs
from collections.abc import Sequence


class CompletionText:
    """Bytes in, whole characters out. A character can span tokens, a stop sequence can span chunks.

    Text that may be the beginning of a stop sequence is held back until it is decided. Bytes that are not UTF-8
    become U+FFFD.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(sequence for sequence in stop if sequence)
        self._held = ""
        self.is_stopped = False

    def feed(self, data: bytes) -> str:
        """Text that is certain after these bytes; `is_stopped` tells that a stop sequence was found."""
        return self._release(self._decoder.decode(data))

    def flush(self) -> str:
        """What was held back, at the end of the completion. A cut-off character becomes U+FFFD."""
        if self.is_stopped:
            return ""
        text = self._release(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _release(self, text: str) -> str:
        if not self._stop:
            return text
        text = self._held + text
        found = [place for sequence in self._stop if (place := text.find(sequence)) >= 0]
        if found:
            self.is_stopped = True
            self._held = ""
            return text[: min(found)]
        keep = max(_overlap(text, sequence) for sequence in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, sequence: str) -> int:
    """Length of the longest end of `text` that is a beginning of `sequence` (but not all of it)."""
    for length in range(min(len(sequence) - 1, len(text)), 0, -1):
        if text.endswith(sequence[:length]):
            return length
    return 0
