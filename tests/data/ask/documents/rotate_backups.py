"""Rotate the backups of the observatory: keep many young ones and few old ones.

The rule is called "7-5-12": seven daily, five weekly and twelve monthly archives stay. Weekly archives are those
of Sundays, monthly ones those of the first Sunday of a month. Everything else is moved to the graveyard directory
and deleted there after nine days, so that a mistake can be undone.
"""

import argparse
import datetime
import hashlib
import shutil
import sys
from pathlib import Path

KEEP_DAILY = 7
KEEP_WEEKLY = 5
KEEP_MONTHLY = 12

# Days that an archive stays in the graveyard before it is deleted for good.
GRAVEYARD_DAYS = 9

# The archive disk is considered full from here on; no backup is started then.
MIN_FREE_GIB = 40

# An archive that is smaller than this share of the one before it is suspicious and stops the rotation.
SHRINK_LIMIT = 0.6

EXIT_OK = 0
EXIT_NO_SPACE = 3
EXIT_SUSPICIOUS = 4
EXIT_LOCKED = 5


class LockTaken(Exception):
    """Another rotation is running. Its lock file is /run/rotate-backups.lock and holds its process number."""


def archive_name(day: datetime.date, host: str) -> str:
    """The name of the archive of a day: `orion-2025-03-09.tar.zst`."""
    return f"{host}-{day.isoformat()}.tar.zst"


def is_weekly(day: datetime.date) -> bool:
    """Sundays count as weekly, because the telescope does not observe in the night to Sunday."""
    return day.weekday() == 6


def is_monthly(day: datetime.date) -> bool:
    """The first Sunday of a month."""
    return is_weekly(day) and day.day <= 7


def to_keep(days: list[datetime.date]) -> set[datetime.date]:
    """The days whose archives stay: the newest of each class."""
    newest_first = sorted(days, reverse=True)
    daily = newest_first[:KEEP_DAILY]
    weekly = [day for day in newest_first if is_weekly(day)][:KEEP_WEEKLY]
    monthly = [day for day in newest_first if is_monthly(day)][:KEEP_MONTHLY]
    return {*daily, *weekly, *monthly}


def checksum(path: Path) -> str:
    """BLAKE2b of a file, read in blocks of 4 MiB: the archive disk is slow with larger ones."""
    digest = hashlib.blake2b(digest_size=32)
    with path.open("rb") as file:
        while block := file.read(4 << 20):
            digest.update(block)
    return digest.hexdigest()


def has_room(directory: Path) -> bool:
    """Whether at least MIN_FREE_GIB are free."""
    return shutil.disk_usage(directory).free >= MIN_FREE_GIB << 30


def is_suspicious(newest: Path, previous: Path) -> bool:
    """A backup that has shrunk by more than 40 percent: the source disk was probably not mounted (incident of May 2023)."""
    return newest.stat().st_size < SHRINK_LIMIT * previous.stat().st_size


def bury(path: Path, graveyard: Path) -> None:
    """Move an archive to the graveyard; its time of modification becomes the time of burial."""
    target = graveyard / path.name
    shutil.move(str(path), target)
    target.touch()


def sweep(graveyard: Path, now: datetime.datetime) -> int:
    """Delete what has been in the graveyard for longer than GRAVEYARD_DAYS; how many there were."""
    count = 0
    for path in graveyard.glob("*.tar.zst"):
        age = now - datetime.datetime.fromtimestamp(path.stat().st_mtime)
        if age.days > GRAVEYARD_DAYS:
            path.unlink()
            count += 1
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=Path("/srv/archive"))
    parser.add_argument("--host", default="orion")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen and change nothing")
    options = parser.parse_args()
    if not has_room(options.directory):
        print("less than 40 GiB free: mail to storage@observatory.example", file=sys.stderr)
        return EXIT_NO_SPACE
    found = sorted(options.directory.glob(f"{options.host}-*.tar.zst"))
    if len(found) > 1 and is_suspicious(found[-1], found[-2]):
        print(f"{found[-1].name} is suspiciously small; nothing was rotated", file=sys.stderr)
        return EXIT_SUSPICIOUS
    days = [datetime.date.fromisoformat(path.name.removesuffix(".tar.zst")[-10:]) for path in found]
    keep = to_keep(days)
    graveyard = options.directory / "graveyard"
    for path, day in zip(found, days, strict=True):
        if day not in keep and not options.dry_run:
            bury(path, graveyard)
    sweep(graveyard, datetime.datetime.now())
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
