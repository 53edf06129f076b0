"""Large pastes, folded while they are edited.

Knows: which paste is large, the character that stands for it, how it is shown. Refuses to know: keys and prompts.

A large paste is one character of the text while it is edited: a high surrogate, which no terminal can send, shown as
`[pasted text: 120 lines, 4,800 characters]`. So it is moved over, deleted and undone as one, and sent in full.
"""

from typing import TYPE_CHECKING

from slmchat.wording import counted

if TYPE_CHECKING:
    from prompt_toolkit.layout.processors import Processor

# A paste from this size on is folded in the display (the whole text is sent).
FOLD_LINES, FOLD_CHARACTERS = 8, 1000
_FIRST_FOLD, _FOLDS = 0xD800, 0x400  # high surrogates


class Pastes:
    """Pasted texts that are folded: one character each in the text that is edited."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._count = 0

    def fold(self, text: str) -> str:
        """What goes into the edited text for a paste: itself when it is small, else one character.

        A paste with block marks is folded too: they are part of what was pasted, not of what was typed.
        """
        is_small = text.count("\n") + 1 < FOLD_LINES and len(text) < FOLD_CHARACTERS
        if is_small and '"""' not in text:
            return text
        char = chr(_FIRST_FOLD + self._count % _FOLDS)
        self._count += 1
        self._texts[char] = text
        return char

    def extend(self, char: str, text: str) -> None:
        """More of the paste that this character stands for: it is read in parts."""
        self._texts[char] = self._whole(char) + text

    def expand(self, text: str) -> str:
        """The text with every folded paste in full."""
        return "".join(map(self._whole, text)) if any(map(is_fold, text)) else text

    def expand_at(self, text: str, cursor: int) -> tuple[str, int]:
        """The text and the cursor with the paste at the cursor in full, or the one before it, or else all of them."""
        before, after = text[:cursor], text[cursor:]
        if is_fold(after[:1]):
            after = self._whole(after[0]) + after[1:]
        elif is_fold(before[-1:]):
            before = before[:-1] + self._whole(before[-1])
        else:
            before, after = self.expand(before), self.expand(after)
        return before + after, len(before)

    def label(self, char: str) -> str:
        """What the display shows for one character of the edited text."""
        if not is_fold(char):
            return char if char != "\t" else "    "
        text = self._whole(char)
        lines = text.removesuffix("\n").count("\n") + 1
        return f"[pasted text: {counted(lines, 'line')}, {len(text):,} characters]"

    def _whole(self, char: str) -> str:
        return self._texts.get(char, char)


def is_fold(char: str) -> bool:
    """Whether this character stands for a folded paste."""
    return len(char) == 1 and _FIRST_FOLD <= ord(char) < _FIRST_FOLD + _FOLDS


def processor(pastes: Pastes) -> "Processor":
    """Shows folded pastes by their label and tabs as spaces."""
    from bisect import bisect_right
    from itertools import accumulate

    from prompt_toolkit.formatted_text.utils import fragment_list_to_text
    from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
    from prompt_toolkit.layout.utils import explode_text_fragments

    class Folds(Processor):
        def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
            fragments = transformation_input.fragments
            if not any(char == "\t" or is_fold(char) for char in fragment_list_to_text(fragments)):
                return Transformation(fragments)
            shown = [(style, pastes.label(char)) for style, char, *_ in explode_text_fragments(fragments)]
            starts = list(accumulate((len(text) for _, text in shown), initial=0))
            return Transformation(
                [*shown],
                source_to_display=lambda position: starts[min(position, len(starts) - 1)],
                display_to_source=lambda position: bisect_right(starts, position) - 1,
            )

    return Folds()
