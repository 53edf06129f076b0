"""Encodings by the names that pages, letters and old documents give them.

What is called Latin-1 has the quotation marks and dashes of Windows, what is called GB2312 or Shift_JIS has characters
of the larger sets that go on from these: so every browser and mail program reads them (WHATWG Encoding).

Knows: names, what is meant by them. Refuses to know: where a name stands, what a text is read as that has none.
"""

import codecs

# By Python's name of the encoding.
_MEANT = {
    **{
        "iso8859-1": "cp1252",
        "iso8859-9": "cp1254",
        "iso8859-11": "cp874",
        "tis-620": "cp874",
        "euc_kr": "cp949",
        "shift_jis": "cp932",
    },
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
}
# Names that Python lacks.
_OTHER_NAMES = {
    **{"x-sjis": "cp932", "windows-874": "cp874", "iso-8859-8-i": "iso8859-8", "x-gbk": "gb18030"},
    **{"x-mac-cyrillic": "mac_cyrillic", "x-mac-roman": "mac_roman", "cp10000": "mac_roman", "cp10001": "cp932"},
    **{"cp10002": "cp950", "cp10003": "cp949", "cp10006": "mac_greek", "cp10007": "mac_cyrillic", "cp10008": "gb18030"},
    **{"cp10029": "mac_latin2", "cp10079": "mac_iceland", "cp10081": "mac_turkish", "cp65001": "utf-8"},
}


def codec_of(name: str) -> str | None:
    """The encoding that is meant by a name, as Python calls it. None: nobody knows it, it is not one of text, or it is
    ASCII, which says nothing of a text that has other characters."""
    try:
        found = codecs.lookup(_OTHER_NAMES.get(name.strip().lower(), name.strip())).name
        b"a\xff".decode(found, "replace")
    except (LookupError, ValueError):  # also: a zero byte in the name
        return None
    return None if found == "ascii" else _MEANT.get(found, found)
