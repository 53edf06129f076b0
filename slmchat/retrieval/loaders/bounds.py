"""What a file may cost, and how a reader says that a file is not for it.

Knows: the limits of every reader. Refuses to know: formats.
"""

# Bytes of a file, and of what is unpacked from one. The largest manuals of processors have 25 MB, as a PDF.
MOST_BYTES = 64 << 20
# Characters of text of one document: 20 times the Bible.
MOST_CHARACTERS = 80_000_000
MOST_PAGES = 10_000
# Members of a ZIP archive: a document has some dozens, and one for each of its pictures.
MOST_MEMBERS = 20_000
# Seconds between two pages of a PDF, for another document, which comes whole, and for any. pypdf reads 20 to 200 pages
# in a second, and a book of 6 million characters takes 11 seconds.
MOST_SILENCE_S = 20.0
MOST_WHOLE_S = 180.0
MOST_S = 600.0
# Bytes of memory of the process that reads all but plain text, where the system can limit it.
MOST_MEMORY = 2 << 30

DAMAGED, ENCRYPTED = "is damaged", "is encrypted"
TOO_LARGE = f"is larger than {MOST_BYTES >> 20} MiB"
TOO_LONG = f"has more than {MOST_CHARACTERS // 1_000_000} million characters"


class Unreadable(Exception):
    """A file that does not become a document. `reason` goes on behind its name, and is the same for all of its kind:
    "is encrypted"."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def mislabelled(suffix: str) -> Unreadable:
    """The error for a file that is not what its name says."""
    return Unreadable(f"is called {suffix} and is not one")


class NotDocument(Unreadable):
    """It is another kind of file: nobody expects it to be read."""
