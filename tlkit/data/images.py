"""One picture file to RGB pixels, as a person sees it, or the reason why not."""

import errno
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

DEFAULT_MAX_PIXELS = 100_000_000

# How many times as long as broad a picture may be. Its short side becomes that of the network's
# input: of a line of one pixel, a file of 140 bytes, that makes gigabytes.
MAX_ASPECT = 50

# Named, because Pillow would otherwise also try formats that run other programs (EPS) or that
# have no signature, so that any text passes for a picture (TGA).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "QOI")
SUFFIXES = {  # what the name of a file promises about its content
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx"), "JPEG2000"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    **{".gif": "GIF", ".bmp": "BMP", ".webp": "WEBP", ".avif": "AVIF", ".qoi": "QOI"},
}
# Pillow decodes some formats in Python: QOI, BMP with run lengths, plain PPM. QOI takes 1.5 s for a
# million pixels, where a JPEG takes 0.06 s at most.
_PYTHON_EFFORT = 25
# Each scan of a JPEG goes over all pixels again; with 20,000 empty ones, 300 KB take minutes.
# Progressive files have about ten. The bytes after the marker tell a scan from other data.
_SCAN = re.compile(rb"\xff\xda\x00[\x08\x0a\x0c\x0e][\x01-\x04]")
_USUAL_SCANS = 10
NO_PICTURE = "not a picture"  # the reason for what begins like no picture
# Brands of ISO/IEC 23008-12 (HEIF), as telephones write them; Pillow has no decoder.
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")

_UPRIGHT = {  # EXIF 2.32, table 4, tag Orientation: what undoes each value
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_pillow_limit = threading.Lock()


class UnreadablePicture(ValueError):
    """A file that is no picture we can use; `str` of it is the reason in a few words."""


def read_picture(source: Path | bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Image.Image:
    """Decode a picture into mode RGB, 8 bits a channel, upright, without metadata.

    The EXIF orientation is applied, transparency lies on white, 16-bit and float values are scaled
    to 0..255 and never clipped, and an animation gives its first frame. `format` of the result is
    the format of the content ("JPEG", "PNG", ...), whatever the file is called.

    Raises UnreadablePicture, for more than `max_pixels`, as `pixels_to_decode` counts them, or a
    side over MAX_ASPECT times the other before anything is decoded.
    """
    data = source if isinstance(source, bytes) else read_bytes(source, max_pixels)
    if not data:
        raise UnreadablePicture("empty file")
    opened = _open(data)
    width, height = opened.size
    if width * height * (effort := _effort(opened, data)) > max_pixels:
        slow = " for a file as slow to decode; convert it to PNG" if effort > 1 else ""
        raise UnreadablePicture(
            f"{width}x{height} is over the limit of {max_pixels // effort} pixels{slow}"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadablePicture(f"{width}x{height} is too thin: over {MAX_ASPECT} to 1")
    content = "JPEG" if opened.format == "MPO" else opened.format  # MPO: JPEGs, one after another
    picture = _as_seen(_decode(opened))
    picture.info = {}
    picture.format = content
    return picture


def pixels_to_decode(data: bytes) -> int:
    """Pixels as the header has them, times what one takes against one of a usual file; nothing is
    decoded. Raises UnreadablePicture."""
    opened = _open(data)
    return opened.width * opened.height * _effort(opened, data)


def read_bytes(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> bytes:
    """The content of a file that may be a picture of up to `max_pixels`.

    Raises UnreadablePicture where there is no regular file, or one too large for such a picture.
    """
    try:
        found = path.stat()  # once: on a slow disk each question takes as long as the file
        if stat.S_ISDIR(found.st_mode):
            raise UnreadablePicture("a folder, not a file")
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise UnreadablePicture("not a regular file")
        # Eight bytes a pixel is 16-bit RGBA without compression; the rest is for metadata.
        if found.st_size > 8 * max_pixels + 2**26:
            raise UnreadablePicture(
                f"{found.st_size} bytes is too large for a picture of {max_pixels} pixels"
            )
        return path.read_bytes()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            fault = "a broken link" if path.is_symlink() else "no such file"
            raise UnreadablePicture(fault) from None
        raise UnreadablePicture(f"cannot be read: {error.strerror}") from error


def _open(data: bytes) -> ImageFile.ImageFile:
    try:
        with _without_pillow_limit():
            return Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
            raise UnreadablePicture("HEIC, which is not read here: convert it to JPEG") from None
        damaged = data.startswith(_SIGNATURES)
        raise UnreadablePicture("damaged header" if damaged else NO_PICTURE) from None
    except Exception as error:  # a decoder fed with rubbish raises nearly anything
        raise UnreadablePicture(_reason(error)) from error


def _effort(opened: ImageFile.ImageFile, data: bytes) -> int:
    """About how many times as long as usual each pixel takes."""
    if any(tile.codec_name in Image.DECODERS for tile in opened.tile):
        return _PYTHON_EFFORT
    if opened.format in ("JPEG", "MPO"):
        return max(1, len(_SCAN.findall(data)) // _USUAL_SCANS)
    return 1


def _decode(opened: Image.Image) -> Image.Image:
    try:
        opened.load()
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise UnreadablePicture(_reason(error)) from error
    try:
        # After load(), because Pillow turns TIFF upright there and forgets the orientation.
        turn = _UPRIGHT.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata names no orientation; the pixels are whole
        turn = None
    return opened if turn is None else opened.transpose(turn)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return "truncated"
    return f"damaged: {text or type(error).__name__}"


def _as_seen(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = Image.fromarray(_eight_bits(np.asarray(picture), picture.mode))
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        seen = Image.new("RGB", rgba.size, "white")
        seen.paste(rgba, mask=rgba)
        return seen
    try:
        return picture.convert("RGB")
    except ValueError as error:  # CIELAB, which Pillow 11 and 12 read and do not convert
        raise UnreadablePicture(f"colour mode {picture.mode} is not supported") from error


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Scale to uint8: by the range of the format where it has one, else by the values' own."""
    blocks = np.array_split(values, max(1, values.size >> 20))  # float64 takes eight bytes a pixel

    def finite(block: np.ndarray) -> np.ndarray:
        return np.nan_to_num(block.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)

    extremes = [(block.min(), block.max()) for block in map(finite, blocks) if block.size]
    least, most = min(each[0] for each in extremes), max(each[1] for each in extremes)
    low, high = 0.0, 65535.0
    if mode == "F":
        high = 1.0 if most <= 1 else 255.0
    if least < low or most > high:
        low, high = least, most
    scale = 255 / max(high - low, 1e-12)
    return np.concatenate(
        [np.rint((finite(block) - low) * scale).astype(np.uint8) for block in blocks]
    )


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Lift Pillow's own limit, which is process-wide and hides the size of what it refuses."""
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
