"""Pictures of every kind are read as a person sees them, and everything else says why not."""

import io
import os
import struct
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from tlkit.data import images
from tlkit.data.images import UnreadablePicture, pixels_to_decode, read_picture

RNG = np.random.default_rng(0)


def encoded(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def photo(width: int = 64, height: int = 48) -> Image.Image:
    """Smooth colour with some noise: JPEG keeps it to within a few levels."""
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([x * 3, y * 4, 255 - x - y], axis=-1) % 256
    return Image.fromarray((waves // 2 + RNG.integers(0, 9, waves.shape)).astype(np.uint8))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


def pixels(data: bytes) -> np.ndarray:
    picture = read_picture(data)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def test_jpeg_and_png_match_pillow(tmp_path: Path) -> None:
    for form in ("JPEG", "PNG"):
        data = encoded(photo(), form)
        path = tmp_path / f"x.{form.lower()}"
        path.write_bytes(data)
        np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data))))
        np.testing.assert_array_equal(np.asarray(read_picture(path)), pixels(data))
        assert read_picture(path).format == form


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG"])
def test_exif_orientation_is_applied(orientation: int, form: str) -> None:
    upright = photo()
    # How a camera would store the upright picture under each orientation (the inverse transform).
    stored = {
        1: lambda p: p,
        2: lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda p: p.transpose(Image.Transpose.ROTATE_180),
        4: lambda p: p.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda p: p.transpose(Image.Transpose.TRANSPOSE),
        6: lambda p: p.transpose(Image.Transpose.ROTATE_90),
        7: lambda p: p.transpose(Image.Transpose.TRANSVERSE),
        8: lambda p: p.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = pixels(encoded(stored, form, exif=exif))
    assert seen.shape == (48, 64, 3)
    assert np.abs(seen.astype(int) - np.asarray(upright)).mean() < (8 if form == "JPEG" else 0.01)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_is_no_damage_to_the_picture() -> None:
    for form in ("JPEG", "PNG"):
        for start in (b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0", b"rubbish"):
            data = encoded(photo(), form, exif=b"Exif\0\0" + start + b"\xff" * 9)
            assert read_picture(data).size == (64, 48)


def test_result_carries_no_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = read_picture(encoded(photo(), "JPEG", exif=exif, dpi=(72, 72)))
    assert picture.info == {}
    assert not picture.getexif()


def test_grey_and_one_bit() -> None:
    grey = photo().convert("L")
    expected = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    np.testing.assert_array_equal(pixels(encoded(grey, "PNG")), expected)
    assert set(np.unique(pixels(encoded(grey.convert("1"), "PNG")))) == {0, 255}


def test_palette_shows_its_colours() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    np.testing.assert_array_equal(pixels(encoded(palette, "PNG")), [[[255, 0, 0], [0, 0, 255]]])


def test_transparency_lies_on_white() -> None:
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(0, 0, 0, 0), (255, 0, 0, 255), (0, 0, 0, 51)])
    np.testing.assert_array_equal(
        pixels(encoded(rgba, "PNG")), [[[255, 255, 255], [255, 0, 0], [204, 204, 204]]]
    )
    grey_alpha = Image.new("LA", (1, 1), (0, 0))
    assert pixels(encoded(grey_alpha, "PNG")).min() == 255
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    for form in ("PNG", "GIF"):
        seen = pixels(encoded(palette, form, transparency=0))
        np.testing.assert_array_equal(seen, [[[255, 255, 255], [0, 255, 0]]])
    keyed = encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG", transparency=(9, 8, 7))
    assert pixels(keyed).min() == 255


def test_mpo_of_a_stereo_camera_is_a_jpeg() -> None:
    data = encoded(photo(), "MPO", save_all=True, append_images=[photo()])
    assert read_picture(data).format == "JPEG"


def test_cmyk_jpeg_keeps_its_colours() -> None:
    original = photo()
    seen = pixels(encoded(original.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(seen.astype(int) - np.asarray(original)).mean() < 10


@pytest.mark.parametrize(("form", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2")])
def test_sixteen_bits_are_scaled_not_clipped(form: str, dtype: str) -> None:
    values = np.array([[0, 257, 25700, 65535]], dtype=dtype)
    seen = pixels(encoded(Image.fromarray(values), form))
    np.testing.assert_array_equal(seen[0, :, 0], [0, 1, 100, 255])


def test_sixteen_bit_ppm_and_rgb_png() -> None:
    body = struct.pack(">3H", 0, 25700, 65535)
    seen = pixels(b"P5 3 1 65535\n" + body)
    np.testing.assert_array_equal(seen[0, :, 0], [0, 100, 255])
    seen = pixels(b"P6 1 1 65535\n" + body)
    np.testing.assert_allclose(seen[0, 0], [0, 100, 255], atol=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([np.nan, 0.5, 1.0], [0, 128, 255]),
        ([np.inf, 0.5, 1.0], [0, 128, 255]),
        ([-np.inf, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 51.0, 102.0], [0, 51, 102]),
        ([300.0, 300.0, 300.0], [0, 0, 0]),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_float_tiff_is_scaled(values: list[float], expected: list[int]) -> None:
    data = encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    np.testing.assert_array_equal(pixels(data)[0, :, 0], expected)


def test_too_little_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", full)
    with pytest.raises(MemoryError):
        read_picture(encoded(photo(), "PNG"))


def test_thirty_two_bit_integers_are_scaled() -> None:
    values = np.array([[0, 500_000, 1_000_000]], dtype=np.int32)
    seen = pixels(encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(seen[0, :, 0], [0, 128, 255])


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    for form in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
        np.testing.assert_array_equal(pixels(data)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "AVIF"])
@pytest.mark.parametrize("kept", [0.97, 0.5, 0.1])
def test_truncated_file_is_refused(form: str, kept: float) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    data = encoded(photo(200, 150), form)
    with pytest.raises(UnreadablePicture, match=r"truncated|damaged|not a picture"):
        read_picture(data[: int(len(data) * kept)])


def test_truncated_says_so() -> None:
    for form in ("JPEG", "PNG"):
        data = encoded(photo(200, 150), form)
        with pytest.raises(UnreadablePicture, match=r"^truncated$"):
            read_picture(data[: len(data) // 2])


def a_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "text")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, I am text\n" * 20, "not a picture"),
        (b"\0" * 1000, "not a picture"),
        (a_zip(), "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"\xff\xd8\xff\xe0", "damaged header"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, which is not read here: convert it to JPEG"),
        (png_header(50_000, 50_000), "50000x50000 is over the limit of 100000000 pixels"),
    ],
)
def test_what_is_no_picture_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadablePicture) as error:
        read_picture(data)
    assert str(error.value) == reason


def test_limit_is_exact_and_pillow_is_left_as_found(
    recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000_000)  # whatever an earlier test left
    data = encoded(photo(10, 10), "PNG")
    assert read_picture(data, max_pixels=100).size == (10, 10)
    with pytest.raises(UnreadablePicture, match="10x10 is over the limit of 99 pixels"):
        read_picture(data, max_pixels=99)
    # Over Pillow's own limit and within ours: truncated, so nothing large is decoded here.
    with pytest.raises(UnreadablePicture, match=r"truncated|damaged"):
        read_picture(png_header(20_000, 20_000)[:60], max_pixels=500_000_000)
    assert Image.MAX_IMAGE_PIXELS == 10_000_000
    assert not recwarn.list


@pytest.mark.parametrize(("form", "effort"), [("QOI", 25), ("PPM", 25), ("JPEG", 10), ("MPO", 10)])
def test_a_picture_that_decodes_slowly_may_have_fewer_pixels(form: str, effort: int) -> None:
    """Kilobytes of Pillow's own Python formats, or of a JPEG's scans, would decode for minutes."""
    data = b"P3 10 10 255\n" + 300 * b"7 "
    if form != "PPM":
        two = {"save_all": True, "append_images": [photo(10, 10)]} if form == "MPO" else {}
        data = encoded(photo(10, 10), form, progressive=True, **two)
    if form in ("JPEG", "MPO"):
        last = data.rindex(b"\xff\xda")
        data = data[:last] + (100 - data.count(b"\xff\xda")) * data[last:-2] + data[last:]
    assert read_picture(data, max_pixels=100 * effort).size == (10, 10)
    assert pixels_to_decode(data) == 100 * effort
    with pytest.raises(UnreadablePicture, match="over the limit of 99 pixels for a file as slow"):
        read_picture(data, max_pixels=100 * effort - 1)


def test_a_picture_too_long_for_its_breadth_is_refused() -> None:
    for size in ((50, 1), (1, 50), (100, 2)):
        assert read_picture(encoded(Image.new("RGB", size), "PNG")).size == size
    for size in ((51, 1), (1, 51), (20_000, 2)):
        with pytest.raises(UnreadablePicture, match=f"{size[0]}x{size[1]} is too thin: over 50 to"):
            read_picture(encoded(Image.new("RGB", size), "PNG"))


def test_large_deep_pictures_are_scaled_by_their_whole_range() -> None:
    values = np.linspace(0, 65535, 1500 * 1400).reshape(1500, 1400).astype(np.uint16)
    expected = np.rint(values * (255 / 65535)).astype(np.uint8)
    found = np.asarray(read_picture(encoded(Image.fromarray(values), "PNG")))
    assert (found == expected[..., None]).all()
    below = values.astype(np.int32) - 1000  # under the range of the format, on one side
    found = np.asarray(read_picture(encoded(Image.fromarray(below), "TIFF")))
    expected = np.rint((below + 1000) * (255 / 65535)).astype(np.uint8)
    assert (found == expected[..., None]).all()


def test_threads_leave_pillows_limit_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000_000)
    data = encoded(photo(8, 8), "PNG")
    thread = threading.Thread(target=read_picture, args=(data,))
    with images._without_pillow_limit():
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()  # or it would take the lifted limit for Pillow's own
    thread.join()
    assert Image.MAX_IMAGE_PIXELS == 10_000_000


def test_the_disk_is_asked_once_about_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.png").write_bytes(encoded(photo(), "PNG"))
    asked, ask = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path, **how: asked.append(path) or ask(path, **how))
    read_picture(tmp_path / "x.png")
    assert asked == [tmp_path / "x.png"]


def test_paths_that_are_no_regular_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "x.jpg"
    folder.mkdir()
    with pytest.raises(UnreadablePicture, match="a folder, not a file"):
        read_picture(folder)
    with pytest.raises(UnreadablePicture, match="no such file"):
        read_picture(tmp_path / "absent.jpg")
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"\xff\xd8\xff")
    large, most = tmp_path / "large.jpg", 2**26 + 8 * 1000
    for size in (most, most + 1):
        with large.open("wb") as file:
            file.truncate(size)  # sparse
        reason = "damaged" if size == most else "too large for a picture of 1000 pixels"
        with pytest.raises(UnreadablePicture, match=reason):
            read_picture(large, max_pixels=1000)


@pytest.mark.skipif(os.name == "nt", reason="POSIX files")
def test_links_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(UnreadablePicture, match="a broken link"):
        read_picture(tmp_path / "link.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    with pytest.raises(UnreadablePicture, match="a broken link"):
        read_picture(tmp_path / "self.jpg")
    with pytest.raises(UnreadablePicture, match=r"cannot be read: File name too long"):
        read_picture(tmp_path / ("n" * 300))
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadablePicture, match="not a regular file"):
        read_picture(tmp_path / "pipe.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_rubbish_after_a_signature_never_raises_anything_else() -> None:
    starts = [
        encoded(photo(16, 12), form) for form in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")
    ]
    refused = 0
    for start in starts:
        for _ in range(60):
            data = bytearray(start)
            for _ in range(6):
                data[RNG.integers(4, len(data))] = RNG.integers(0, 256)
            try:
                assert read_picture(bytes(data), max_pixels=10_000_000).mode == "RGB"
            except UnreadablePicture:  # any other exception fails the test
                refused += 1
    assert refused > 20
