"""A question and what came of it, as JSON has it.

Knows: the keys, which docs/ask.md explains. Refuses to know: who writes them where.
"""

from slmchat.generation.response import Completion
from slmchat.retrieval.answers import Answer
from slmchat.retrieval.index import Passage
from slmchat.retrieval.nearest import nearness
from slmchat.retrieval.quotations import Quotation


def answer_record(answer: Answer, model: str, load_s: float) -> dict[str, object]:
    """The object of `slm ask --json`. `answer` is null where there is none. `load_s`: as a completion has it."""
    completion = Completion(
        answer.text, None, answer.thinking, answer.finish_reason, answer.usage, answer.timings, answer.seed
    ).record(model, load_s)
    del completion["completion"]
    return {
        "question": answer.question,
        "answer": answer.text or None,
        "refusal": answer.refusal or None,
        "quotations": [_quotation(quotation, answer.passages) for quotation in answer.quotations],
        "passages": [_passage(passage, answer.question) for passage in answer.passages],
        **completion,
    }


def _quotation(quotation: Quotation, passages: tuple[Passage, ...]) -> dict[str, object]:
    return {
        "number": quotation.number,
        "text": quotation.text,
        "file": str(quotation.file),
        "page": quotation.page,
        "lines": [quotation.first_line, quotation.last_line],
        "passage": [passage.chunk for passage in passages].index(quotation.passage.chunk),
    }


def _passage(passage: Passage, question: str) -> dict[str, object]:
    chunk = passage.chunk
    return {
        "file": str(chunk.path),
        "title": chunk.title,
        "heading": list(chunk.heading),
        "page": chunk.page,
        "lines": [chunk.first_line, chunk.last_line],
        "text": chunk.text,
        "nearness": round(nearness(question, chunk.text), 4),
        "similarity": None if passage.similarity is None else round(passage.similarity, 4),
    }
