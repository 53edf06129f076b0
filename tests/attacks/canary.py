"""A file of the user's that no attack may read, change or delete."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

SECRET = "-----BEGIN OPENSSH PRIVATE KEY----- b3BlbnNzaC1rZXktdjEA"


@dataclass(frozen=True)
class Canary:
    """`file` alone in its directory, as it was when it was made."""

    file: Path
    before: tuple[object, ...]

    @classmethod
    def make(cls, directory: Path) -> "Canary":
        directory.mkdir(parents=True)
        file = directory / "id_rsa"
        file.write_text(SECRET * 20)
        file.chmod(0o600)
        return cls(file, _state(file))

    def check(self, said: str = "") -> None:
        """It is as it was, nothing has been put beside it, and nothing of it was said."""
        assert self.file.exists(), "the canary was deleted"
        assert _state(self.file) == self.before, "the canary was changed"
        assert SECRET not in said and "b3BlbnNzaC1rZXktdjEA" not in said
        assert os.listdir(self.file.parent) == [self.file.name], "something was put beside the canary"


def _state(file: Path) -> tuple[object, ...]:
    found = file.lstat()
    return file.read_bytes(), stat.S_IMODE(found.st_mode), found.st_mtime_ns, found.st_ino
