"""What a model is asked about passages: whether one has the answer, to copy what answers a question, and to answer it.

The passages stand first and the question behind them. So they are read once for both steps, and once for several
questions about the same passages. Only the first of these questions is about one passage alone.

Knows: the words, the order. Refuses to know: which passages, what becomes of the completion.
"""

from collections.abc import Sequence

from slmchat.conversation.attachments import Attachment, fenced_before
from slmchat.conversation.messages import Message, Role
from slmchat.generation.prompt import PromptRequest
from slmchat.retrieval.index import Passage
from slmchat.retrieval.quotations import Quotation
from slmchat.retrieval.vectors import context
from slmchat.sanitize import sanitize

NONE = "None"
"""What a model writes where nothing answers the question."""

_QUOTE = (
    "Question: {question}\n\nCopy the sentences of the text above that answer this question, word by word, in the form "
    f'[1] "sentence". If no sentence answers it, write {NONE}.'
)
_ANSWER = (
    "Question: {question}\n\nThese sentences of the text answer it:\n{quotations}\n\nAnswer the question in one or two "
    "sentences of your own, in the language of the question. Say nothing that they do not say, and put the number of "
    "the sentence behind what you say, like [1]."
)
# Word by word what was measured (tests/ask_belief.py): how probable a model finds Yes depends on the words.
_READER = "You are a careful reader."
_STATED = "Is the answer to this question stated in the text above? Answer Yes or No."
# Where the model completes a text (`--raw`).
_QUOTE_CUE, _ANSWER_CUE = "\n\nSentences:\n", "\n\nAnswer:"


class PassagesRequest(PromptRequest):
    """Something asked about passages. They stand first, and nothing in the question says where they go."""

    def __init__(self, asked: str, passages: Sequence[Passage], prefix: Sequence[Message]) -> None:
        """`asked`: question and instruction. `prefix`: a system message."""
        super().__init__(asked, [Attachment(passage.chunk.text, label(passage)) for passage in passages], prefix)

    def _composed(self, attachments: Sequence[Attachment]) -> str:
        return fenced_before(self.instruction, attachments)


def to_judge(question: str, text: str) -> PromptRequest:
    """The request for whether a text states the answer, by Yes or No. The system message is slm's own: another one may
    ask for another language."""
    return PromptRequest(f"{text}\n\nQuestion: {question}\n{_STATED}", (), (Message(Role.SYSTEM, _READER),))


def whole(passage: Passage) -> str:
    """A passage below what tells what it is about."""
    return f"{context(passage.chunk)}\n{passage.chunk.text}"


def to_quote(question: str, passages: Sequence[Passage], prefix: Sequence[Message], *, is_raw: bool) -> PromptRequest:
    """The request for what answers the question, word by word."""
    cue = _QUOTE_CUE if is_raw else ""
    return PassagesRequest(_QUOTE.replace("{question}", question) + cue, passages, prefix)


def to_answer(
    question: str,
    passages: Sequence[Passage],
    quotations: Sequence[Quotation],
    prefix: Sequence[Message],
    *,
    is_raw: bool,
) -> PromptRequest:
    """The request for an answer that refers to these quotations."""
    said = "\n".join(f'[{quotation.number}] "{quotation.text}"' for quotation in quotations)
    cue = _ANSWER_CUE if is_raw else ""
    before, behind = _ANSWER.split("{quotations}")  # nothing in a document or a question is a place to be filled
    return PassagesRequest(f"{before.replace('{question}', question)}{said}{behind}{cue}", passages, prefix)


def label(passage: Passage) -> str:
    """What stands above a passage: its document, the page, the headings."""
    chunk = passage.chunk
    page = f", page {chunk.page}" if chunk.page is not None else ""
    return sanitize(" > ".join((f"{chunk.title}{page}", *chunk.heading)), one_line=True)
