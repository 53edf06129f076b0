"""Pictures from anywhere: what is decoded, what is refused before it is, what stays of a file."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from conftest import run_slm
from gguf_vision import write_tiny_gemma3, write_tiny_siglip
from PIL import Image as Pillow
from PIL import PngImagePlugin

from slmchat.conversation import pictures
from slmchat.conversation.pictures import Picture
from slmchat.engine.requests import Image
from slmchat.errors import ExitCode, SlmError


def drawn(width: int = 40, height: int = 20, mode: str = "RGB") -> Pillow.Image:
    """Red on the left, blue on the right, a white corner at the top left."""
    picture = Pillow.new("RGB", (width, height), (0, 0, 255))
    picture.paste((255, 0, 0), (0, 0, width // 2, height))
    picture.paste((255, 255, 255), (0, 0, 4, 4))
    return picture.convert(mode)


def encoded(picture: Pillow.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def pixel(image: Image, x: int, y: int) -> tuple[int, ...]:
    start = 3 * (y * image.width + x)
    return tuple(image.rgb[start : start + 3])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header claims a size that its data need not have."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refusal(data: bytes) -> str:
    with pytest.raises(SlmError) as caught:
        pictures.decode(data, "it")
    assert caught.value.exit_code is ExitCode.DAMAGED
    assert "\n" not in caught.value.message
    return caught.value.message


# What is read


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP"])
def test_formats_without_loss(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = pictures.decode(encoded(drawn(), kind, **options), "it")
    assert (image.width, image.height) == (40, 20)
    assert [pixel(image, 0, 0), pixel(image, 10, 10), pixel(image, 30, 10)] == [
        (255, 255, 255), (255, 0, 0), (0, 0, 255),
    ]  # fmt: skip


def test_jpeg() -> None:
    image = pictures.decode(encoded(drawn(400, 200), "JPEG", quality=95), "it")
    red, _, blue = pixel(image, 100, 100)
    assert red > 240 and blue < 15


def test_what_decides_is_the_beginning_not_the_name(tmp_path: Path) -> None:
    file = tmp_path / "picture.txt"
    file.write_bytes(encoded(drawn(), "PNG"))
    assert pictures.is_picture(file)
    assert pictures.read(file).describe() == "picture.txt, 40 × 20 pixels"
    file.write_text("BMW makes cars.\nRIFF is a word.")
    assert not pictures.is_picture(file)


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (39, 0)), (3, (39, 19)), (4, (0, 19)), (5, (0, 0)), (6, (19, 0)), (7, (19, 39)), (8, (0, 39))],
)
def test_exif_orientation_is_respected(orientation: int, corner: tuple[int, int]) -> None:
    """The white corner, top left in the file, is where a viewer shows it (EXIF 2.3, tag 0x0112)."""
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    image = pictures.decode(encoded(drawn(), "PNG", exif=exif), "it")
    assert (image.width, image.height) == ((40, 20) if orientation < 5 else (20, 40))
    assert pixel(image, *corner) == (255, 255, 255)


def test_exif_that_cannot_be_read_is_passed_over() -> None:
    broken = encoded(drawn(), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nothing")
    assert pictures.decode(broken, "it").width == 40


def test_transparency_becomes_white() -> None:
    clear = Pillow.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert pixel(pictures.decode(encoded(clear, "PNG"), "it"), 4, 4) == (255, 255, 255)
    palette = Pillow.new("P", (8, 8), 0)
    palette.putpalette([200, 0, 0, 0, 0, 200])
    palette.putpixel((0, 0), 1)
    seen = pictures.decode(encoded(palette, "PNG", transparency=0), "it")
    assert [pixel(seen, 4, 4), pixel(seen, 0, 0)] == [(255, 255, 255), (0, 0, 200)]


def test_sixteen_bits_of_grey_keep_their_shades() -> None:
    grey = Pillow.new("I;16", (8, 8), 0x8000)
    assert pixel(pictures.decode(encoded(grey, "PNG"), "it"), 4, 4) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK"])
def test_other_kinds_of_colour(mode: str) -> None:
    image = pictures.decode(encoded(drawn(mode=mode), "JPEG" if mode == "CMYK" else "PNG"), "it")
    assert len(image.rgb) == 3 * 40 * 20


def test_of_an_animation_the_first_frame(tmp_path: Path) -> None:
    frames = [Pillow.new("RGB", (8, 8), (255, 0, 0)), Pillow.new("RGB", (8, 8), (0, 0, 255))]
    for kind in ("GIF", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert pixel(pictures.decode(data, "it"), 4, 4)[0] > 240


@pytest.mark.slow
def test_large_pictures_are_made_as_small_as_models_use_them() -> None:
    image = pictures.decode(encoded(Pillow.new("RGB", (5000, 1000)), "PNG"), "it")
    assert (image.width, image.height) == (pictures.USED_SIDE, 410)
    photo = pictures.decode(encoded(Pillow.new("RGB", (9000, 6000)), "JPEG"), "it")
    assert max(photo.width, photo.height) == pictures.USED_SIDE
    small = pictures.decode(encoded(drawn(2048, 30), "PNG"), "it")
    assert (small.width, small.height) == (2048, 30)


def test_nothing_but_the_pixels_stays() -> None:
    """Neither the place where a photograph was taken nor a comment gets into what is kept."""
    exif = Pillow.Exif()
    exif.get_ifd(0x8825)[1] = "SECRETPLACE"
    exif[0x010E] = "SECRETPLACE"
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "SECRETPLACE")
    data = encoded(drawn(), "PNG", exif=exif, pnginfo=info)
    assert b"SECRETPLACE" in data
    kept = Picture.of("it", pictures.decode(data, "it")).png()
    assert b"SECRETPLACE" not in kept
    assert Picture.kept("it", 40, 20, pictures.decode(data, "it").id, kept).image() == pictures.decode(data, "it")


# What is refused


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_truncated_pictures_are_refused(kind: str) -> None:
    data = encoded(drawn(200, 100), kind)
    assert "data is damaged" in refusal(data[: len(data) * 2 // 3])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"%PDF-1.7 \0",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        encoded(drawn(), "TIFF"),
        encoded(drawn(), "ICO"),
        encoded(drawn(), "PPM"),
        b"RIFF\0\0\0\0WAVEfmt ",
        b"%!PS-Adobe-3.0 EPSF-3.0",
    ],
    ids=["empty", "text", "pdf", "svg", "tiff", "ico", "ppm", "wav", "eps"],
)
def test_other_types_are_refused(data: bytes) -> None:
    assert "it is not a picture that slm reads" in refusal(data)


def test_a_wrong_type_behind_a_right_beginning_is_refused() -> None:
    assert "data is damaged" in refusal(b"\x89PNG\r\n\x1a\n" + encoded(drawn(), "JPEG"))
    assert "data is damaged" in refusal(b"\xff\xd8\xff" + encoded(drawn(), "PNG"))
    assert "data is damaged" in refusal(b"GIF89a")
    assert "data is damaged" in refusal(b"BM" + bytes(60))


def test_bombs_are_refused_before_they_are_unpacked() -> None:
    bomb = png_of_size(60_000, 60_000, zlib.compress(bytes(10_000)))
    assert "it has more pixels than slm decodes (64 million)" in refusal(bomb)
    assert "are more than slm decodes" in refusal(png_of_size(9_000, 9_000))
    assert "are more than slm decodes" in refusal(png_of_size(1, 100_000))
    assert "are a line, not a picture" in refusal(png_of_size(10, 10_000))
    assert refusal(png_of_size(0, 10))


@pytest.mark.slow
def test_bombs_in_what_is_not_pixels_are_refused() -> None:
    """Compressed text of a gigabyte beside one pixel."""
    packed = zlib.compressobj(9)
    data = b"".join(packed.compress(bytes(1 << 20)) for _ in range(200)) + packed.flush()
    start, rest = png_of_size(1, 1, zlib.compress(bytes(4)))[:33], png_of_size(1, 1, zlib.compress(bytes(4)))[33:]
    try:
        image = pictures.decode(start + chunk(b"zTXt", b"Comment\0\0" + data) + rest, "it")
    except SlmError as error:
        outcome = error.exit_code
    else:
        outcome = image.id and ExitCode.DAMAGED  # read without the text: as good
    assert outcome is ExitCode.DAMAGED


def test_files_that_are_too_long_or_no_files(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(encoded(drawn(), "PNG"))
    os.truncate(large, pictures.MOST_BYTES + 1)
    with pytest.raises(SlmError, match="more than 50 MiB") as caught:
        pictures.read(large)
    assert caught.value.exit_code is ExitCode.DAMAGED
    fifo = tmp_path / "fifo.png"
    os.mkfifo(fifo)
    assert not pictures.is_picture(fifo)  # and does not wait for somebody to write into it
    for wrong in (fifo, tmp_path, tmp_path / "missing.png", Path("a\0b")):
        with pytest.raises(SlmError) as caught:
            pictures.read(wrong)
        assert caught.value.exit_code is ExitCode.USAGE


def test_a_kept_picture_that_was_exchanged_is_refused() -> None:
    other = encoded(drawn(50, 20), "PNG")
    with pytest.raises(SlmError, match="not the picture that was kept"):
        Picture.kept("it", 40, 20, "0" * 64, other).image()


def test_pixels_must_make_an_image() -> None:
    for width, height, length in ((2, 2, 11), (0, 1, 0), (-1, -4, 12)):
        with pytest.raises(ValueError, match="do not make an image"):
            Image.of(width, height, bytes(length))


@pytest.mark.real
def test_hostile_pictures_end_in_exit_6_with_one_sentence(tmp_path: Path, home: Path) -> None:
    model = write_tiny_gemma3(tmp_path / "model.gguf")
    write_tiny_siglip(tmp_path / "mmproj.gguf")
    whole = encoded(drawn(200, 100), "PNG")
    for name, data in {
        "bomb": png_of_size(60_000, 60_000),
        "line": png_of_size(1, 100_000),
        "cut": whole[:300],
    }.items():
        file = tmp_path / f"{name}.png"
        file.write_bytes(data)
        done = run_slm("run", "-m", model, "-f", file, "what is this", home=home)
        assert (done.code, done.out) == (6, "")
        assert done.err.startswith(f"slm: {name}.png cannot be used as a picture: ")
        assert done.err.count("\n") == 1


@pytest.mark.real
def test_nothing_imports_pillow_before_there_is_a_picture(home: Path) -> None:
    import subprocess
    import sys

    code = "import sys, slmchat.cli, slmchat.commands.run, slmchat.commands.repl.app; print('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs of POSIX")
def test_a_fifo_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever writes into it would be there for this one look, and be gone for the reader who comes then.
    os.mkfifo(fifo := tmp_path / "fifo")

    def opened(*_: object) -> int:
        raise AssertionError("opened")

    monkeypatch.setattr(pictures.os, "open", opened)
    assert not pictures.is_picture(fifo)
    with pytest.raises(SlmError, match="is not a regular file"):
        pictures.read(fifo)
