"""The fenced code blocks of an answer.

Knows: fences as CommonMark has them, through markdown-it-py: longer fences around shorter ones, fences in lists and
quotations, tildes, one that the end of the text closes.
Refuses to know: where an answer comes from, how Markdown looks on a terminal (terminal/markdown.py).
"""

from slmchat.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """What stands between two fences.

    `text`: as it was written, each line ended. `language`: the first word behind the fence, may be empty.
    `is_open`: no fence closes it, the text ends in it. Models forget the last fence; a cut answer looks the same.
    """

    text: str
    language: str
    is_open: bool


def code_blocks(text: str) -> list[CodeBlock]:
    """The fenced blocks in the order of the text; those without any content are left out."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark")
    parser.core.ruler.enableOnly(["normalize", "block"])  # fences are blocks: what stands inside of lines is not read
    text = text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n") + "\n"
    blocks = []
    for token in parser.parse(text):
        if token.type != "fence" or not token.content.strip() or token.map is None:
            continue
        begin, end = token.map
        has_closing = end - begin == token.content.count("\n") + 2
        language = next(iter(token.info.split()), "")
        blocks.append(CodeBlock(token.content, language, is_open=not has_closing and end >= text.count("\n")))
    return blocks
