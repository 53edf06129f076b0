"""Documents and questions about them (tests/data/ask), and the files that they are made of: small PDFs and DOCX.

Knows: just enough of both formats for text. The writers share nothing with slm's loaders.
"""

import json
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ASK = Path(__file__).parent / "data" / "ask"


@dataclass(frozen=True)
class Question:
    """See tests/data/ask/README.md."""

    question: str
    document: str | None
    span: str | None
    language: str
    kind: str | None = None


def questions() -> list[Question]:
    lines = (ASK / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [Question(**json.loads(line)) for line in lines]


def write_documents(directory: Path) -> Path:
    """The twelve documents in `directory`, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    for source in sorted(path for path in (ASK / "documents").iterdir() if path.is_file()):
        name = source.name.removesuffix(".txt")
        text = source.read_text(encoding="utf-8")
        if name.endswith(".pdf"):
            (directory / name).write_bytes(pdf(text.split("\f")))
        elif name.endswith(".docx"):
            write_docx(directory / name, text)
        else:
            shutil.copy(source, directory / source.name)
    return directory


def folded(text: str) -> str:
    """The text with one blank for each run of white space, in which spans are looked for."""
    return " ".join(text.split())


def pdf(pages: Sequence[str], *, title: str = "", is_packed: bool = True) -> bytes:
    """A PDF with these pages of text, each line of it where a typewriter would put it."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>"
        % (len(pages), b" ".join(b"%d 0 R" % (5 + 2 * number) for number in range(len(pages)))),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding >>",
        b"<< /Title (%s) >>" % _escaped(title),
    ]
    for number, page in enumerate(pages):
        lines = (b"(%s) Tj T*" % _escaped(line) for line in page.strip("\n").split("\n"))
        content = b"BT /F1 9 Tf 11 TL 40 800 Td\n%s\nET" % b"\n".join(lines)
        packed = zlib.compress(content) if is_packed else content
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % (6 + 2 * number)
        )
        objects.append(stream(packed, b"/Filter /FlateDecode" if is_packed else b""))
    return assembled(objects, b"/Info 4 0 R")


def stream(content: bytes, entries: bytes = b"") -> bytes:
    """A stream object with these further entries."""
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), entries, content)


def assembled(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """A PDF of these objects, numbered from 1; the first one is the catalog."""
    out = bytearray(b"%PDF-1.4\n")
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    begin = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, begin)
    return bytes(out)


def _escaped(text: str) -> bytes:
    for character in "\\()":
        text = text.replace(character, "\\" + character)
    return text.encode("cp1252")


_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def write_docx(path: Path, text: str, *, title: str = "") -> Path:
    """A DOCX of Markdown that has headings, paragraphs and tables only."""
    body = []
    for block in text.strip().split("\n\n"):
        if block.startswith("|"):
            rows = [line.strip("|").split("|") for line in block.splitlines() if not line.startswith("|--")]
            body.append(f"<w:tbl>{''.join(map(_row, rows))}</w:tbl>")
        elif block.startswith("#"):
            marks, _, words = block.partition(" ")
            body.append(_paragraph(words, f"Heading{len(marks)}"))
        else:
            body.append(_paragraph(block))
    return pack_docx(path, f"<w:document {_W}><w:body>{''.join(body)}</w:body></w:document>", title)


def pack_docx(path: Path, document: str, title: str = "") -> Path:
    """A DOCX whose word/document.xml is this."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", f'<?xml version="1.0" encoding="UTF-8"?>{document}')
        archive.writestr(
            "docProps/core.xml",
            '<cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties"'
            f' xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{escape(title)}</dc:title></cp:coreProperties>',
        )
    return path


def _paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    middle = len(text) // 2  # as Word does: one sentence in several runs
    runs = (f'<w:r><w:t xml:space="preserve">{escape(part)}</w:t></w:r>' for part in (text[:middle], text[middle:]))
    return f"<w:p>{properties}{''.join(runs)}</w:p>"


def _row(cells: Sequence[str]) -> str:
    return f"<w:tr>{''.join(f'<w:tc>{_paragraph(cell.strip())}</w:tc>' for cell in cells)}</w:tr>"
