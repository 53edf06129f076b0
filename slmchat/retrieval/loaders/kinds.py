"""What a file is: by its name, and by how it begins where the name does not say it.

Knows: names of files, first bytes. Refuses to know: what stands in them.
"""

from pathlib import Path

from slmchat import text_files
from slmchat.retrieval.documents import DocumentKind
from slmchat.retrieval.loaders.bounds import NotDocument, mislabelled

READABLE = "text, Markdown, HTML, PDF with text, DOCX, ODT, RTF, EPUB, e-mail (.eml), notebooks (.ipynb), CSV and code"
"""What is read, in words."""

# So much of a file tells whether it is text: a page of a disk.
FIRST_BYTES = 4096

# Languages of the two surveys that are read most (Stack Overflow, GitHub Octoverse), and their settings.
_CODE = """.py .pyi .js .mjs .cjs .ts .tsx .jsx .java .kt .kts .scala .go .rs .c .h .cc .cpp .cxx .hpp .hh .cs .fs
.swift .m .mm .rb .php .pl .pm .lua .r .jl .dart .ex .exs .erl .hs .ml .clj .lisp .el .vim .sh .bash .zsh .fish .ps1
.sql .css .scss .less .vue .svelte .json .jsonl .yaml .yml .toml .ini .cfg .conf .xml .proto .graphql .tf .gradle .cmake
.mk .asm .s .f90 .for .pas .v .vhd .sol .zig .nim .groovy .bat .cmd .awk .sed .diff .patch"""
_BY_SUFFIX = {
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd", ".mdx", ".rmd", ".qmd"), DocumentKind.MARKDOWN),
    **dict.fromkeys((".html", ".htm", ".xhtml"), DocumentKind.HTML),
    **dict.fromkeys((".csv", ".tsv"), DocumentKind.CSV),
    **dict.fromkeys((".docx", ".docm", ".dotx", ".dotm"), DocumentKind.DOCX),
    **dict.fromkeys((".odt", ".ott"), DocumentKind.ODT),
    ".pdf": DocumentKind.PDF,
    ".rtf": DocumentKind.RTF,
    ".epub": DocumentKind.EPUB,
    ".eml": DocumentKind.EMAIL,
    ".ipynb": DocumentKind.NOTEBOOK,
    **dict.fromkeys((".txt", ".text", ".rst", ".adoc", ".org", ".tex", ".log", ".srt"), DocumentKind.TEXT),
    **dict.fromkeys(_CODE.split(), DocumentKind.CODE),
}
_COMPOUND = b"\xd0\xcf\x11\xe0"  # older Office, and what newer Office has encrypted
_RTF = b"{\\rtf"
_ARCHIVES = (DocumentKind.DOCX, DocumentKind.ODT, DocumentKind.EPUB)
# Pictures that are text to a computer.
_PICTURES = (".svg", ".eps", ".ps")


def kind_of(path: Path, first: bytes) -> DocumentKind:
    """The kind of a file that begins with these bytes. Raises `Unreadable` for what is not a document, as `NotDocument`
    where it does not claim to be one."""
    suffix = path.suffix.lower()
    if suffix in _PICTURES:
        raise NotDocument("is a picture, not text")
    named = _BY_SUFFIX.get(suffix)
    if first.startswith(_RTF):
        return DocumentKind.RTF
    if b"%PDF-" in first[:1024]:  # readers of PDF look for it in the first 1,024 bytes
        return DocumentKind.PDF
    if first.startswith(b"PK\x03\x04") and named in _ARCHIVES:
        return named
    if first.startswith(_COMPOUND) and named is DocumentKind.DOCX:
        return named  # with a password, or not one: docx.py tells
    if named in (DocumentKind.PDF, DocumentKind.RTF, *_ARCHIVES):
        raise mislabelled(suffix)
    if b"\0" in first and not text_files.mark_of(first)[0]:
        raise NotDocument(why_not_text(first))
    if named is None and first.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        return DocumentKind.HTML
    return named or DocumentKind.TEXT


def why_not_text(data: bytes) -> str:
    """Why these bytes are not text, in words that do not depend on the place of the wrong one."""
    try:
        text_files.decode(data)
    except text_files.NotText as error:
        return error.reason.partition(" (")[0].partition(": its")[0]
    return text_files.BINARY
