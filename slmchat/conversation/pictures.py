"""Pictures that go along with a message: from the bytes of a file to pixels that a model can be shown.

Knows: which formats are read, what is refused before a decoder sees it, orientation, transparency, what stays of a file
(its pixels and its name, nothing else of what it says of camera, place or time). The only place that imports Pillow.
Refuses to know: models, projectors, tokens, terminals.

The bytes are not trusted. What decides is their beginning, not the file's name; sizes are read from the header and
bounded before anything is unpacked; the decoder of just that one format gets them. A picture that is not whole is
refused.
"""

import io
import os
import stat
import warnings
from dataclasses import field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from slmchat.engine.requests import Image
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.user_paths import user_path

if TYPE_CHECKING:
    from PIL.Image import Image as Decoded

# What is accepted, in bytes of the file and in pixels (a phone's largest photographs have 50 MP and 20 MB).
MOST_BYTES = 50 * 1024**2
MOST_PIXELS = 64_000_000
MOST_SIDE = 20_000
MOST_RATIO = 100

# The longer side after decoding, in pixels. No model of the catalog takes in more: SmolVLM 2048, Qwen about 1800 for a
# square, Gemma 3 896.
USED_SIDE = 2048

_BEGINNINGS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP"}
_ORIENTATION = 0x0112  # the EXIF tag


@dataclass(slots=True, unsafe_hash=True)
class Picture:
    """A picture of a message: its file's name, its size in pixels, and the id of its pixels (`Image.id`).

    It holds pixels, or a PNG of them (from the archive), and makes the one from the other when it is asked.
    """

    name: str
    width: int
    height: int
    id: str
    _image: Image | None = field(default=None, compare=False, repr=False)
    _png: bytes | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, name: str, image: Image) -> "Picture":
        return cls(name, image.width, image.height, image.id, image)

    @classmethod
    def kept(cls, name: str, width: int, height: int, id: str, png: bytes) -> "Picture":
        """A picture that was kept as a PNG; what is wrong with it is found when it is decoded."""
        return cls(name, width, height, id, None, png)

    def image(self) -> Image:
        """The pixels. Raises `SlmError` (DAMAGED) when what was kept is not this picture."""
        if self._image is None:
            image = decode(self._png or b"", self.name)
            if image.id != self.id:
                raise _refused(self.name, "it is not the picture that was kept")
            self._image = image
        return self._image

    def purify(self) -> None:
        """See that what was kept elsewhere is this picture, and keep only its pixels. Raises `SlmError` (DAMAGED)."""
        self.image()
        self._png = None

    def png(self) -> bytes:
        """The pixels as a PNG, without anything else in it."""
        if self._png is None:
            assert self._image is not None
            out = io.BytesIO()
            size = (self._image.width, self._image.height)
            _pillow().frombytes("RGB", size, self._image.rgb).save(out, "PNG")
            self._png = out.getvalue()
        return self._png

    def small_png(self, width: int, height: int) -> bytes:
        """A PNG that fits into this box, for a preview."""
        out = io.BytesIO()
        self._small(width, height).save(out, "PNG")
        return out.getvalue()

    def small_indexed(self, width: int, height: int, colours: int) -> tuple[int, list[tuple[int, int, int]], bytes]:
        """The same in few colours: its width, the palette, and the place in the palette of each pixel."""
        small = self._small(width, height).quantize(colours)
        flat = small.getpalette() or []
        palette = [(flat[place], flat[place + 1], flat[place + 2]) for place in range(0, len(flat), 3)]
        return small.width, palette, small.tobytes()

    def _small(self, width: int, height: int) -> "Decoded":
        image = self.image()
        small: Decoded = _pillow().frombytes("RGB", (image.width, image.height), image.rgb)
        small.thumbnail((width, height))
        return small

    def describe(self) -> str:
        """Name and size for people: `cat.png, 640 × 480 pixels`."""
        return f"{self.name}, {self.width:,} × {self.height:,} pixels"


def format_of(data: bytes) -> str | None:
    """Which of the accepted formats these bytes begin like."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for beginning, name in _BEGINNINGS.items() if data.startswith(beginning)), None)


def is_picture(path: Path) -> bool:
    """Whether a file begins like a picture that slm reads; False when it cannot be read."""
    try:
        with _opened(path) as stream:
            data = stream.read(16)
    except (OSError, SlmError):
        return False
    return looks_like_picture(data)


def looks_like_picture(data: bytes) -> bool:
    """Whether bytes begin like a picture and not like a text: "BM" begins both, and a bitmap goes on with zeros."""
    return format_of(data) is not None and (not data.startswith(b"BM") or b"\0" in data[:16])


def read(path: Path) -> Picture:
    """A picture from a file. Raises `SlmError`: USAGE when it cannot be read, DAMAGED when it is not sound."""
    try:
        with _opened(path) as stream:
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise usage_error(f"{path} cannot be read: {error.strerror}.") from error
    if len(data) > MOST_BYTES:
        raise _refused(path.name, f"it has more than {MOST_BYTES // 1024**2} MiB")
    return Picture.of(path.name, decode(data, path.name))


def decode(data: bytes, name: str) -> Image:
    """The first frame as the model is to see it: upright, on white, at most `USED_SIDE` pixels wide or high.

    Raises `SlmError`: DAMAGED when it is not a sound picture or too large, USAGE when Pillow is missing.
    """
    kind = format_of(data)
    if kind is None:
        raise _refused(name, "it is not a picture that slm reads (PNG, JPEG, WebP, GIF, BMP)")
    pillow = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own of large pictures: the limits are ours
            with pillow.open(io.BytesIO(data), formats=[kind]) as opened:
                _check_size(opened.width, opened.height, name)
                opened.draft("RGB", (USED_SIDE, USED_SIDE))  # a large JPEG is decoded at half its size, or less
                opened.load()
                decoded = _plain(_upright(opened))
    except SlmError:
        raise
    except pillow.DecompressionBombError as error:  # more than twice Pillow's own limit, seen in the header
        raise _refused(name, f"it has more pixels than slm decodes ({MOST_PIXELS // 10**6} million)") from error
    except MemoryError as error:
        raise SlmError(f"{name} does not fit into the memory of this device.", exit_code=ExitCode.NO_FIT) from error
    except Exception as error:  # decoders of foreign bytes: whatever they raise is their refusal
        raise _refused(name, f"its {kind} data is damaged{_reason(error)}") from error
    return Image.of(decoded.width, decoded.height, decoded.tobytes())


def _opened(path: Path) -> io.BufferedReader:
    """Open a regular file. A FIFO would wait for ever; one that is opened and closed has lost its writer."""
    try:
        if not stat.S_ISREG(user_path(path).stat().st_mode):
            raise usage_error(f"{path} is not a regular file.")
        descriptor = os.open(user_path(path), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise usage_error(f"'{path}' is not the name of a file.") from error
    stream = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        stream.close()
        raise usage_error(f"{path} is not a regular file.")
    return stream


def _check_size(width: int, height: int, name: str) -> None:
    size = f"{width:,} × {height:,} pixels"
    if width < 1 or height < 1:
        raise _refused(name, "it has no pixels")
    if width * height > MOST_PIXELS or max(width, height) > MOST_SIDE:
        raise _refused(name, f"{size} are more than slm decodes ({MOST_PIXELS // 10**6} million, {MOST_SIDE:,} a side)")
    if max(width, height) > MOST_RATIO * min(width, height):
        raise _refused(name, f"{size} are a line, not a picture")


def _upright(opened: "Decoded") -> "Decoded":
    """Turned and mirrored as its EXIF data say; data that cannot be read say nothing."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    try:
        orientation = opened.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - metadata may hold anything; the pixels are sound
        orientation = None
    turn = turns.get(orientation) if isinstance(orientation, int) else None
    return opened if turn is None else opened.transpose(turn)


def _plain(picture: "Decoded") -> "Decoded":
    """Three bytes a pixel, what is transparent on white, and no larger than a model can use."""
    pillow = _pillow()
    if picture.mode.startswith("I"):  # 16 bits of grey, which a plain conversion would cut off at 255
        picture = picture.convert("I").point(lambda value: value / 256).convert("L")
    if "A" in picture.getbands() or "transparency" in picture.info:
        seen = picture.convert("RGBA")
        ground = pillow.new("RGBA", seen.size, (255, 255, 255, 255))
        picture = pillow.alpha_composite(ground, seen)
    picture = picture.convert("RGB")
    picture.thumbnail((USED_SIDE, USED_SIDE), pillow.Resampling.LANCZOS)
    return picture


def _pillow() -> ModuleType:
    """Pillow, imported late (30 ms). Raises `SlmError` (USAGE) when it is missing."""
    try:
        import PIL.Image
    except ImportError as error:
        raise usage_error(
            "pictures are read by the library Pillow, which is not installed.",
            "pip install pillow; in Termux: pkg install python-pillow",
        ) from error
    return PIL.Image


def _reason(error: Exception) -> str:
    """What the decoder says, in brackets; nothing where it only names an object of Python's."""
    text = " ".join(str(error).split()).rstrip(".")
    return f" ({text[:100]})" if text and "<" not in text else ""


def _refused(name: str, reason: str) -> SlmError:
    return SlmError(f"{name} cannot be used as a picture: {reason}.", exit_code=ExitCode.DAMAGED)
