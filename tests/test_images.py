"""Pictures of every kind, whole and damaged, become pixels or a reason."""

import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from convnets.listing import kinds
from convnets.listing.kinds import ImageError
from convnets.pictures import images
from convnets.sources import sample
from tests.commands import ROOT

try:
    import pillow_heif
except ImportError:
    HEIC = []
else:
    pillow_heif.register_heif_opener()
    HEIC = ["HEIF"]

RED = Image.new("RGB", (60, 40), (250, 10, 10))
BLUE = Image.new("RGB", (60, 40), (10, 10, 250))
KINDS = ["JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", *HEIC]
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)  # some formats leave their settings in the image
    return buffer.getvalue()


def colour(content: bytes) -> list[int]:
    """The one colour of a picture."""
    pixels = images.decode(content, 20)
    assert (pixels.shape, pixels.dtype) == ((20, 20, 3), np.uint8)
    assert np.ptp(pixels.reshape(-1, 3), axis=0).max() < 12
    return pixels[10, 10].tolist()


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010F] = "maker"
    return exif.tobytes()


def ifd(*entries: tuple[int, int, int, bytes], rest: bytes = b"") -> bytes:
    """EXIF with tags as (tag, type, count, 4 bytes of value or offset), written by hand."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    count = struct.pack("<H", len(entries))
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + count + body + bytes(4) + rest


def png(pixels: np.ndarray, kind: int, clear: bytes = b"") -> bytes:
    """A PNG of 16 bits and the colour type `kind`, which Pillow reads but does not write."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        + (chunk(b"tRNS", clear) if clear else b"")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def deep(*values: float, dtype: type = np.uint16) -> np.ndarray:
    """Values side by side, each wide enough to stay pure in the middle."""
    return np.repeat(np.array([values], dtype), 40, axis=0).repeat(40, axis=1)


def greys(content: bytes, count: int) -> list[int]:
    """The values that `deep` put side by side."""
    pixels = images.decode(content, 20 * count)
    assert (pixels == pixels[..., :1]).all()
    return pixels[10, 10::20, 0].tolist()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(80, 60), (1300, 900), (2600, 500)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_ordinary_pictures_keep_their_bytes(kind, mode, size, orientation):
    """A change would change every result of the pipeline, by little and without a word."""
    drawn = sample.draw("cat", 0, 0).resize(size).convert(mode)
    content = encoded(drawn, kind, exif=oriented(orientation))
    with Image.open(io.BytesIO(content)) as image:
        image.draft("RGB", (156, 156))
        upright = ImageOps.exif_transpose(image.convert("RGB"))
        expected = np.asarray(upright.resize((78, 78), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(images.decode(content, 78), expected)


def ycck() -> bytes:
    """A JPEG of CMYK stored as luminance and chrominance, which Pillow reads but does not write."""
    *inks, black = RED.convert("CMYK").split()
    stored = [ImageOps.invert(band) for band in Image.merge("RGB", inks).convert("YCbCr").split()]
    content = encoded(Image.merge("CMYK", [*stored, black]))
    before = b"Adobe\0d\0\0\0\0"
    assert before + b"\0" in content
    return content.replace(before + b"\0", before + b"\2")


@pytest.mark.parametrize(
    "content",
    [
        *(encoded(RED, kind) for kind in KINDS),
        encoded(RED, progressive=True),
        encoded(RED.convert("CMYK")),
        ycck(),
        encoded(RED.quantize(), "PNG"),
        encoded(RED.convert("RGBA"), "PNG"),
        encoded(RED.convert("RGBA"), "WEBP", lossless=True),
        encoded(RED.quantize(), "BMP"),
        encoded(RED, "JPEG2000", no_jp2=True),
        encoded(RED.convert("RGBA"), "JPEG2000"),
        encoded(RED, "JPEG2000", tile_size=(32, 32), irreversible=True),
        b"P6\n# by hand\n4 4 # another\n65535\n" + 16 * struct.pack(">3H", 64250, 2570, 2570),
        b"P6 4 4 51 " + 16 * bytes([50, 2, 2]),
        b"P3 4 4\n# by hand\n255\n" + 16 * b"250 10 10 # red\n",
        encoded(RED, "TIFF", compression="tiff_lzw"),
        encoded(RED, "TIFF", compression="jpeg"),
        encoded(RED.quantize(), "TIFF"),
        *(encoded(RED.convert(mode), "TIFF") for mode in ("CMYK", "YCbCr", "LAB", "RGBX")),
    ],
)
def test_every_kind_keeps_its_colour(content):
    assert np.abs(np.subtract(colour(content), (250, 10, 10))).max() < 12


def chunk(name: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + check


def noted(*chunks: bytes) -> bytes:
    """A PNG with chunks behind its header."""
    content = encoded(RED, "PNG")
    return content[:33] + b"".join(chunks) + content[33:]


ZEROS = zlib.compress(bytes(5 * 2**20))
NOISE = np.random.default_rng(0).bytes(3 * 2**20)
SHORT = encoded(RED)


@pytest.mark.parametrize(
    "content",
    [
        noted(chunk(b"iCCP", b"name\0\0" + ZEROS)),
        noted(chunk(b"iCCP", b"name\0\0" + zlib.compress(NOISE))),
        noted(chunk(b"zTXt", b"key\0\0" + ZEROS)),
        noted(chunk(b"iTXt", b"key\0\1\0\0\0" + ZEROS)),
        noted(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + ZEROS)),
        noted(*70 * [chunk(b"tEXt", b"key\0" + bytes(2**20))]),
        noted(chunk(b"tEXt", b"key\0text")[:-1] + b"?", chunk(b"prIv", NOISE)),
        encoded(RED, "PNG")[:-12] + chunk(b"zTXt", b"key\0\0" + ZEROS) + chunk(b"IEND", b""),
        encoded(RED, "PNG") + NOISE,
        encoded(RED, icc_profile=NOISE),
        SHORT[:2] + 200 * (b"\xff\xfe\xff\xff" + bytes(65533)) + SHORT[2:],
        SHORT[:2] + 999 * b"\xff" + SHORT[2:20] + bytes(999) + SHORT[20:] + NOISE,
        b"\xef\xbb\xbf\r\n" + SHORT,
        encoded(RED, "WEBP", icc_profile=NOISE, xmp=NOISE),
        encoded(RED, "GIF", comment=NOISE),
        encoded(RED, "TIFF", icc_profile=NOISE, description="text" * 2**20),
        encoded(RED, "JPEG2000", comment=60_000 * "c") + NOISE,
    ],
)
def test_notes_and_what_is_around_do_not_cost_the_picture(content):
    assert np.abs(np.subtract(colour(content), (250, 10, 10))).max() < 12


def test_a_turn_is_kept_where_other_notes_are_cut_out():
    xmp = b'<x:xmpmeta><a tiff:Orientation="6"/></x:xmpmeta>'
    content = encoded(TURNED, "PNG")
    for note in (
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(oriented(6)), oriented(6).hex().encode())),
        ),
    ):
        assert_upright(content[:33] + note + content[33:])


def tiff(*tags: tuple[int, int, bytes]) -> bytes:
    """A TIFF of 8 × 8 pixels by its other tags: number, type of value and value."""
    size = {1: 1, 2: 1, 3: 2, 4: 4}
    tags = ((256, 3, b"\x08\0"), (257, 3, b"\x08\0"), *tags)
    body, rest = struct.pack("<H", len(tags)), b""
    for tag, kind, value in sorted(tags):
        stored = value.ljust(4, b"\0")
        if len(value) > 4:
            stored = struct.pack("<I", 14 + 12 * len(tags) + len(rest))
            rest += value
        body += struct.pack("<HHI", tag, kind, len(value) // size[kind]) + stored
    return b"II*\0\x08\0\0\0" + body + bytes(4) + rest


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}H", *values)


@pytest.mark.parametrize(
    ("bands", "colours", "bits"), [(13, 1, 16), (4, 1, 8), (3, 1, 16), (5, 2, 8), (8, 2, 16)]
)
def test_more_bands_than_a_picture_has_are_named(bands, colours, bits):
    content = tiff(
        (258, 3, words(*bands * [bits])),
        (262, 3, words(colours)),
        (277, 3, words(bands)),
        (338, 3, words(*(bands - 2 * colours + 1) * [0])),
        (273, 4, struct.pack("<I", 0)),
    )
    with pytest.raises(ImageError, match=rf"^{bands} bands, .* RGB"):
        images.header(content)
    siz = bytearray(encoded(RED, "JPEG2000", no_jp2=True))
    siz[41] = bands + 2
    with pytest.raises(ImageError, match=rf"^{bands + 2} bands, "):
        images.header(bytes(siz))


def rescanned(times: int) -> bytes:
    """A progressive JPEG whose last scan is there so many times."""
    content = encoded(Image.new("RGB", (4000, 3000)), progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + times * scan + content[-2:]


def recoded(at: int, *values: tuple[str, int]) -> bytes:
    """A JPEG 2000 with other values in its header, from a place on."""
    content = bytearray(encoded(Image.new("RGB", (2000, 2000)), "JPEG2000"))
    start = content.index(b"\xff\x4f\xff\x51") + at
    for form, value in values:
        struct.pack_into(form, content, start, value)
        start += struct.calcsize(form)
    return bytes(content)


def run_lengths(side: int) -> bytes:
    """A BMP of run lengths, which Pillow decodes in Python, of a few bytes."""
    head = struct.pack("<IiiHHIIIIII", 40, side, side, 1, 8, 1, 2, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1080, 0, 0, 1078) + head + bytes(1024) + b"\0\1"


SIZ, COD = 8, 51  # where a JPEG 2000 has its size, and how it is coded
GREY = ((258, 3, words(8)), (262, 3, words(1)), (277, 3, words(1)), (259, 3, words(5)))


@pytest.mark.parametrize(
    ("content", "costs"),
    [
        (rescanned(1200), "1,210 scans cost as much as 1,452.0 megapixels"),
        (SHORT[:2] + 2**20 * b"\xff\xe0\0\2" + SHORT[2:], "more segments"),
        (SHORT[:2] + 600 * (b"\xff\xe1\0\x0aExif\0\0\0\0") + SHORT[2:], "more segments"),
        (SHORT[:2] + 2**22 * b"\xff" + SHORT[2:], "more segments or padding"),
        (rescanned(0)[:-2] + 2**17 * b"\xff\xfe\0\2" + b"\xff\xd9", "more segments"),
        (noted(2**18 * chunk(b"IDAT", b"")), "more chunks"),
        (run_lengths(5000), "costs as much as 1,875.0 megapixels"),
        (b"P3 2000 2000 255 ", "costs as much as 300.0 megapixels"),
        (tiff(*GREY, (322, 4, b"\xff\xff\xff\x7f"), (323, 4, b"\0\1\0\0")), "a tile costs"),
        (tiff(*GREY, (322, 2, b"abcd"), (323, 4, b"\xff\xff\xff\x7f")), "a tile costs"),
        (tiff(*GREY, (273, 4, bytes(2**22))), "its strips or tiles cost"),
        (recoded(SIZ + 16, (">I", 1), (">I", 1)), "tiles, layers and blocks cost"),
        (recoded(COD + 6, (">H", 65535)), "tiles, layers and blocks cost"),
        (recoded(COD + 10, ("B", 0), ("B", 0)), "tiles, layers and blocks cost"),
        (recoded(SIZ, (">I", 60_000), (">I", 60_000)), "3,600.0 megapixels"),
    ],
)
def test_what_decoding_would_cost_is_known_before(content, costs):
    """Each took seconds or gigabytes."""
    for function in (images.header, lambda content: images.decode(content, 8)):
        with pytest.raises(ImageError, match=costs):
            function(content)


def test_precincts_count_wherever_they_are_told():
    content = encoded(Image.new("RGB", (2000, 2000)), "JPEG2000")
    coding = bytearray(content[content.index(b"\xff\x52") :][:14])
    coding[3:5], levels = bytes([coding[3] + 6, 1]), coding[9]
    assert levels == 5
    of_tile = bytes(coding) + 6 * b"\x11"
    place = content.index(b"\xff\x93")
    with pytest.raises(ImageError, match="blocks cost"):
        images.header(content[:place] + of_tile + content[place:])
    assert images.header(content) == ("JPEG2000", (2000, 2000))


def test_a_comment_may_be_in_front_of_a_gif_s_first_frame_only_for_a_while():
    content = encoded(RED, "GIF")
    place = content.index(b",")
    with pytest.raises(ImageError):
        images.header(content[:place] + b"!\xfe" + 2**22 * b"\1a" + b"\0" + content[place:])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "PPM"])
def test_pictures_of_one_bit(kind):
    half = Image.new("1", (40, 40))
    half.paste(1, (0, 0, 20, 40))
    pixels = images.decode(encoded(half, kind), 40)
    assert (pixels[:, 0].min(), pixels[:, -1].max()) == (255, 0)


@pytest.mark.parametrize("kind", ["MPO", "PNG", "WEBP", "GIF", "TIFF", "AVIF", *HEIC])
def test_the_first_of_several_frames_is_decoded(kind):
    content = encoded(RED, kind, save_all=True, append_images=[BLUE.copy()])
    assert np.abs(np.subtract(colour(content), (250, 10, 10))).max() < 12


# Stored pixels from upright ones, by the orientation that turns them back.
STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.T,
    6: np.rot90,
    7: lambda a: np.rot90(a.T, 2),
    8: lambda a: np.rot90(a, -1),
}
UPRIGHT = np.zeros((40, 60), np.uint8)
UPRIGHT[:20, :20] = 255


def assert_upright(content: bytes) -> None:
    pixels = images.decode(content, 60)
    assert pixels[3:27, 3:17].min() > 200
    assert pixels[33:, 23:].max() < 55


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, "RGB") for kind in ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF", *HEIC)),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        *(("PNG", mode) for mode in ("1", "P", "LA", "RGBA", "I;16")),
        *(("TIFF", mode) for mode in ("1", "P", "RGBA", "I;16", "I", "F", "LAB")),
        ("WEBP", "RGBA"),
        ("AVIF", "RGBA"),
    ],
)
def test_exif_turns_every_mode(kind, mode, orientation):
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    if mode == "I;16":
        stored = Image.fromarray(np.asarray(stored).astype(np.uint16) * 257)
    else:
        stored = stored.convert("RGB").convert(mode) if mode == "LAB" else stored.convert(mode)
    assert_upright(encoded(stored, kind, exif=oriented(orientation)))


TURNED = Image.fromarray(np.ascontiguousarray(STORED[6](UPRIGHT)))
SIX = (ORIENTATION, 3, 1, b"\6\0\0\0")
DAMAGED = {
    "text for a number": ifd(SIX, (0x011A, 2, 12, struct.pack("<I", 38)), rest=b"72 per inch\0"),
    "one character": ifd(SIX, (0x011A, 2, 2, b"7\0\0\0"), (0x0128, 3, 1, b"\2\0\0\0")),
    "offsets beyond the end": ifd(SIX, *((tag, 4, 1, b"\xff" * 4) for tag in (0x8769, 0x8825))),
    "truncated": ifd(SIX, (0x010F, 2, 900, b"\xff\0\0\0"))[:-10],
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP"])
def test_damaged_exif_still_turns(kind, damage):
    assert_upright(encoded(TURNED.convert("RGB"), kind, exif=DAMAGED[damage]))


@pytest.mark.parametrize(
    ("tag", "damaged"),
    [((282, 5, 1), (282, 2, 1)), ((271, 2, 6), (0x8769, 4, 1)), ((271, 2, 6), (0x8825, 2, 6))],
)
def test_damaged_tags_of_a_tiff_still_turn(tag, damaged):
    content = encoded(TURNED, "TIFF", exif=oriented(6), dpi=(72, 72))
    before, after = (struct.pack("<HHI", *numbers) for numbers in (tag, damaged))
    assert content.count(before) == 1
    assert_upright(content.replace(before, after))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0\xff\xfe\xfd", b"Exif\0\0II*\0\xff\xff"])
def test_unreadable_exif_turns_nothing(kind, exif):
    assert_upright(encoded(Image.fromarray(UPRIGHT).convert("RGB"), kind, exif=exif))


@pytest.mark.parametrize("kind", ["AVIF", *HEIC])
def test_unreadable_exif_where_the_turn_is_stored_elsewhere(kind):
    content = encoded(TURNED.convert("RGB"), kind, exif=oriented(6))
    assert content.count(b"MM\0*") == 1
    assert_upright(content.replace(b"MM\0*", b"????"))


def test_exif_with_a_wrong_checksum():
    content = bytearray(encoded(Image.fromarray(UPRIGHT), "PNG", exif=oriented(6)))
    content[content.index(b"eXIf") + 10] ^= 1
    assert_upright(bytes(content))


@settings(max_examples=200)
@given(exif=st.binary(max_size=80), kind=st.sampled_from(["JPEG", "PNG", "WEBP"]))
def test_no_exif_costs_the_picture(exif, kind):
    images.decode(encoded(RED, kind, exif=b"Exif\0\0II*\0\x08\0\0\0" + exif), 8)


def shifted(*values: int, bits: int) -> list[int]:
    return [value >> (bits - 8) for value in values]


@pytest.mark.parametrize(
    ("highest", "bits"),
    [(200, 8), (1023, 10), (1024, 12), (4095, 12), (4096, 14), (16384, 16), (65535, 16)],
)
def test_grey_of_up_to_sixteen_bits_keeps_its_contrast(highest, bits):
    values = (0, highest // 3, highest)
    pixels, expected = deep(*values), shifted(*values, bits=bits)
    little, whole = Image.fromarray(pixels), Image.fromarray(pixels.astype(np.int32))
    big = Image.frombytes("I;16B", little.size, pixels.astype(">u2").tobytes())
    assert greys(encoded(little, "PNG"), 3) == expected
    assert greys(encoded(little, "TIFF"), 3) == expected
    assert greys(encoded(little, "TIFF", compression="tiff_lzw"), 3) == expected
    assert greys(encoded(big, "TIFF"), 3) == expected
    assert greys(encoded(whole, "TIFF"), 3) == expected


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ((0, 1000, 100_000), np.int32, (0, 2, 255)),
        ((-100, 0, 100), np.int32, (0, 127, 255)),
        ((0, 0.5, 1), np.float32, (0, 127, 255)),
        ((0, 0.25), np.float32, (0, 63)),
        ((0, 100, 255), np.float32, (0, 100, 255)),
        ((-5, 0, 5), np.float32, (0, 127, 255)),
        ((500, 1000), np.float32, (0, 255)),
        ((-3e38, 3e38), np.float32, (0, 255)),
        ((np.nan, 0, 1), np.float32, (0, 0, 255)),
        ((np.inf, 300, 0), np.float32, (255, 255, 0)),
        ((np.nan, np.nan), np.float32, (0, 0)),
        ((7, 7), np.uint16, (7, 7)),
        ((0, 0), np.int32, (0, 0)),
        ((1000, 1000), np.float32, (0, 0)),
    ],
)
def test_other_numbers_are_scaled_by_their_range(values, dtype, expected):
    content = encoded(Image.fromarray(deep(*values, dtype=dtype)), "TIFF")
    assert greys(content, len(values)) == list(expected)


@pytest.mark.parametrize(("highest", "factor"), [(1023, 85), (4095, 17), (16383, 255 / 63)])
def test_sixteen_bit_colours_keep_their_contrast(highest, factor):
    """Pillow keeps the upper byte of each. What is in it is brought to its full range."""
    grey = deep(0, highest // 2, highest)
    expected = [int((value >> 8) * factor) for value in (0, highest // 2, highest)]
    assert greys(png(np.stack([grey] * 3, axis=2), 2), 3) == expected
    opaque = np.full_like(grey, 65535)
    assert greys(png(np.stack([grey, grey, grey, opaque], axis=2), 6), 3) == expected
    assert greys(png(np.stack([grey, opaque], axis=2), 4), 3) == expected


def test_full_sixteen_bit_colours_are_as_pillow_decodes_them():
    red = np.repeat(np.array([[[65535, 2570, 2570]]], np.uint16), 40, axis=0).repeat(40, axis=1)
    assert colour(png(red, 2)) == [255, 10, 10]


CLEAR = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
BLACK = Image.new("L", (40, 40), 0)
EXTRA = struct.pack("<HHI", 338, 3, 1)  # the TIFF tag of alpha, before its value


@pytest.mark.parametrize(
    "content",
    [
        *(encoded(CLEAR, kind) for kind in ("PNG", "WEBP", "TIFF", "AVIF", *HEIC)),
        encoded(CLEAR.convert("LA"), "PNG"),
        encoded(CLEAR.convert("LA"), "TIFF"),
        encoded(CLEAR.convert("LA"), "TIFF").replace(EXTRA + b"\2", EXTRA + b"\1"),  # premultiplied
        encoded(CLEAR.convert("PA"), "TIFF"),
        encoded(CLEAR, "GIF"),
        *(encoded(BLACK.convert(mode), "PNG", transparency=0) for mode in ("1", "L", "P")),
        encoded(BLACK.convert("P"), "PNG", transparency=bytes(256)),
        encoded(BLACK.convert("RGB"), "PNG", transparency=(0, 0, 0)),
        encoded(BLACK.convert("P"), "GIF", transparency=0),
        png(np.zeros((40, 40), np.uint16), 0, b"\0\0"),
        png(np.zeros((40, 40, 2), np.uint16), 4),
        png(np.zeros((40, 40, 4), np.uint16), 6),
    ],
)
def test_transparency_is_white(content):
    assert colour(content) == [255, 255, 255]


def test_half_transparent_is_half_white():
    half = Image.new("RGBA", (40, 40), (0, 0, 0, 128))
    assert colour(encoded(half, "PNG")) == [127, 127, 127]


def test_strips_meet(monkeypatch):
    drawn = sample.draw("cat", 0, 0).convert("RGBA")
    drawn.putalpha(drawn.convert("L"))
    content = encoded(drawn, "PNG")
    whole = images.decode(content, 78)
    monkeypatch.setattr(images, "STRIP", 7 * drawn.width)
    np.testing.assert_array_equal(images.decode(content, 78), whole)


def test_a_photograph_of_108_megapixels_is_decoded():
    large = Image.new("L", (12_000, 9_000), 77)
    assert colour(encoded(large)) == [77, 77, 77]


def test_a_panorama_is_decoded():
    wide = Image.linear_gradient("L").resize((60_000, 300))
    pixels = images.decode(encoded(wide), 60)
    assert (pixels[0].max(), pixels[-1].min()) < (10, 245)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
        ("PNG", "RGBA", {"compress_level": 1, "exif": oriented(6)}),
        ("WebP", "RGBA", {"method": 0}),
        ("AVIF", "RGBA", {"speed": 10, "subsampling": "4:4:4"}),
        ("JPEG2000", "RGBA", {"codeblock_size": (32, 32)}),
        ("JPEG2000", "RGB", {"precinct_size": (64, 64), "codeblock_size": (32, 32)}),
        ("TIFF", "F", {"compression": "tiff_lzw", "tiffinfo": {278: 3000, 274: 6}}),
    ],
)
def test_a_large_picture_takes_no_more_memory_than_its_bound_allows(tmp_path, kind, mode, options):
    pixels = 3000 * 3000
    (tmp_path / "large").write_bytes(encoded(Image.new(mode, (3000, 3000)), kind, **options))
    code = (
        "import re; from pathlib import Path; from convnets.pictures import images;"
        "content = Path('large').read_bytes();"
        "peak = lambda: int(re.search('VmHWM:(.*)kB', Path('/proc/self/status').read_text())[1]);"
        "before = peak(); images.decode(content, 180); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    strip = 40 * images.STRIP  # the steps of one strip come on top
    assert int(done.stdout) * 1024 < images.DECODERS[kind][1] * pixels + strip


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_pixels_are_refused(kind, monkeypatch):
    monkeypatch.setattr(images, "MEMORY", 20_000)
    with pytest.raises(
        ImageError, match=r"^too large: 0\.1 megapixels, \w+ is decoded up to 0\.0; "
    ):
        images.decode(encoded(Image.new("RGB", (300, 200)), kind), 8)


def test_a_bomb_is_refused():
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    expected = r"400\.0 megapixels, PNG is decoded up to 187\.5; make it smaller"
    with pytest.raises(ImageError, match=expected):
        images.decode(bomb, 78)


PHOTO = sample.draw("cat", 0, 0)


@pytest.mark.parametrize("content", [b"<html></html>", b"%PDF-1.7", encoded(PHOTO, "ICO")])
def test_other_formats_are_refused(content):
    with pytest.raises(ImageError, match=r"^not a JPEG, PNG, .*GIF or BMP$"):
        images.decode(content, 78)
    with pytest.raises(ImageError, match=r"^an empty file$"):
        images.decode(b"", 78)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_pictures_are_refused(kind, share):
    content = encoded(PHOTO, kind)
    if kind == "MPO":  # the second picture alone is missing otherwise
        content = encoded(PHOTO, kind, save_all=True, append_images=[PHOTO])[: len(content)]
    with pytest.raises(ImageError):
        images.decode(content[: int(share * len(content))], 78)


@pytest.mark.parametrize(
    "error",
    [
        *(KeyError, AttributeError, MemoryError, RecursionError, NotImplementedError),
        *(struct.error, zlib.error, Image.DecompressionBombError),
    ],
)
def test_any_error_of_a_decoder_is_one_printable_line(error, monkeypatch):
    def fail(file):
        raise error("\x1b[2J one\n  two " + 1000 * "x")

    monkeypatch.setitem(images.DECODERS, "JPEG", (fail, 1))
    with pytest.raises(ImageError) as caught:
        images.decode(encoded(RED), 8)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_ctrl_c_passes(monkeypatch):
    def stop(file):
        raise KeyboardInterrupt

    monkeypatch.setitem(images.DECODERS, "JPEG", (stop, 1))
    with pytest.raises(KeyboardInterrupt):
        images.decode(encoded(RED), 8)


def test_a_heic_without_its_decoder_gets_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    with pytest.raises(ImageError, match=r"pip install pillow-heif"):
        images.decode(content, 8)


def test_nothing_reaches_the_screen(capfd):
    lzw = bytearray(encoded(PHOTO, "TIFF", compression="tiff_lzw"))
    lzw[100:200] = bytes(100)
    many = encoded(RED, "TIFF").replace(
        struct.pack("<HHII", 277, 3, 1, 3), b"\x15\1\4\0\1\0\0\0zzzz"
    )
    exif = encoded(RED, exif=DAMAGED["truncated"])
    with warnings.catch_warnings(action="error"):
        for content in (bytes(lzw), many):
            with pytest.raises(ImageError):
                images.decode(content, 8)
        images.decode(exif, 8)
    assert capfd.readouterr() == ("", "")


SEEDS = [
    *(encoded(PHOTO.resize((24, 16)), kind, exif=oriented(6)) for kind in KINDS),
    encoded(PHOTO.resize((24, 16)), progressive=True),
    encoded(PHOTO.resize((24, 16)).quantize(16), "PNG"),
    encoded(Image.fromarray(deep(0, 999)[::4, ::4].copy()), "PNG"),
    encoded(PHOTO.resize((24, 16)).convert("RGBA"), "WEBP", lossless=True),
    encoded(PHOTO.resize((24, 16)), "TIFF", compression="tiff_lzw"),
    encoded(PHOTO.resize((24, 16)), "TIFF", compression="jpeg"),
    encoded(PHOTO.resize((24, 16)), "JPEG2000", no_jp2=True, tile_size=(8, 8)),
    encoded(PHOTO.resize((24, 16)).convert("1"), "PPM"),
    b"P3 4 4 # comment\n255\n" + 16 * b"250 10 10\n",
    noted(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>"), chunk(b"zTXt", b"key\0\0" + ZEROS)),
]


@settings(
    max_examples=2500,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    seed=st.sampled_from(SEEDS),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    kept=st.just(1.0) | st.floats(0, 1),
)
def test_damaged_bytes_are_pixels_or_a_reason(capfd, seed, flips, kept):
    content = bytearray(seed)
    for place, value in flips:
        content[int(place * len(content))] = value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "MEMORY", 20_000_000)  # a flipped size takes no gigabyte
        try:
            pixels = images.decode(bytes(content[: int(kept * len(content))]), 8)
        except ImageError as error:
            assert str(error).isprintable()
        else:
            assert (pixels.shape, pixels.dtype) == ((8, 8, 3), np.uint8)
            assert images.header(bytes(content[: int(kept * len(content))]))
    assert capfd.readouterr() == ("", "")


PLAIN = "cat.jpg cat.JPEG cat.jfif cat.HIF cat.jp2 cat.pgm cat.pbm cat.tiff"
ODD = "cat cat.JPG_large cat.jpg!d cat.jpeg?x=1 0a1b2c.9f d41d8cd98f00b204 cat.bin cat.tmp"


@pytest.mark.parametrize("kind", [each for each in KINDS if each != "TIFF"])
def test_a_picture_is_known_by_its_first_bytes_where_its_ending_says_nothing(kind):
    asked = []

    def read(name, most):
        asked.append(most)
        return encoded(RED, kind)[:most]

    assert all(kinds.is_picture(name, read) for name in PLAIN.split())
    assert not asked
    assert all(kinds.is_picture(name, read) for name in ODD.split())
    assert max(asked) <= 1024
    for known in ("cat.txt", "cat.csv", "cat.mp4", "cat.pdf", "cat.html"):
        assert not kinds.is_picture(known, read)
    assert len(asked) == len(ODD.split())


def test_what_begins_as_a_tiff_is_one_by_its_ending_or_without_any():
    """As raw photographs and slides do."""
    content = encoded(RED, "TIFF")
    names = ("cat", "cat.tif", "cat.cr2", "cat.dng", "cat.NEF", "cat.svs")
    seen = [name for name in names if kinds.is_picture(name, lambda *_: content)]
    assert seen == ["cat", "cat.tif"]


@pytest.mark.parametrize(
    "content",
    [b"", b"BMW is a car, and no picture", b"P5 is a letter", b"GIF", b"II*", b"# text\n"],
)
def test_other_files_are_no_pictures(content):
    assert kinds.kind(content) is None
    assert not kinds.is_picture("cat", lambda *_: content)


def test_what_cannot_be_looked_at_is_no_picture():
    def read(name, most):
        raise PermissionError(13, "Permission denied")

    assert not kinds.is_picture("cat", read)
    assert kinds.is_picture("cat.jpg", read)
