"""What is wrong with a picture that can be decoded nonetheless."""

import simplejpeg

# How libjpeg begins what it says of damage; what else it objects to is unusual and no more.
_OF_DAMAGE = (
    "Corrupt JPEG data: ",
    "Premature end of JPEG file",
    "Inconsistent progression sequence",
)
_JFIF = slice(6, 11), slice(11, 13)  # its name and revision, where a file begins with them


def fault_in(data: bytes, content: str) -> str | None:
    """The first fault in the bytes of a file that Pillow decodes, in libjpeg's own words.

    Where the data of a JPEG make no sense its decoder goes on, and some of the picture may be grey,
    shifted or of another colour; Pillow does not tell. A changed byte may well be a valid one: of
    files with 512 bytes of zeros in them nine in ten are noticed (docs/LOG.md). libjpeg tells the
    first thing only: an odd number in the header, such as that of a transform that it does not
    know, hides what comes after it.

    Args:
        content: the format; None is returned for all but "JPEG", whose decoders tell what they
            notice.
    """
    if content != "JPEG":
        return None
    name, revision = _JFIF
    if data[name] == b"JFIF\0":  # it would tell of a revision that it does not know, and stop there
        data = data[: revision.start] + b"\x01\x01" + data[revision.stop :]
    try:
        # In grey and as small as can be: all data are read, and few pixels made of them.
        simplejpeg.decode_jpeg(data, colorspace="GRAY", min_height=1, min_width=1)
    except ValueError as error:
        said = str(error)
        return said.removeprefix(_OF_DAMAGE[0]) if said.startswith(_OF_DAMAGE) else None
    return None
