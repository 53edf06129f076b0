"""ZIP archives that others have made: what may come of reading one.

Knows: errors. Refuses to know: which archive, what is in it.
"""

import struct
import zipfile
import zlib

NOT_READABLE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error),
    *(EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError),
)
"""Whatever `zipfile` raises for a damaged or hostile file; `RuntimeError`: it wants a password. Of one in memory also
`OSError`; elsewhere that is the disk."""
