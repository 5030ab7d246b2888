"""PDFs made by hand: invented pages, and what a broken or hostile producer would write."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence

FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
PADDING = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")


def pdf(
    pages: Sequence[bytes], *more: bytes, resources: bytes = b"", page: bytes = b"", password: str | None = None
) -> bytes:
    """A PDF of content streams, with the font ``F1``; ``more`` are objects from number 4 on.

    ``password`` is the user's; the streams are then encrypted with RC4 of 40 bits (ISO 32000-1, 7.6).
    """
    first = 4 + len(more)
    kids = b" ".join(b"%d 0 R" % (first + 2 * index) for index in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(pages), kids),
        FONT,
        *more,
    ]
    key = b""
    if password is not None:
        padded = (password.encode() + PADDING)[:32]
        owner = rc4(hashlib.md5(padded).digest()[:5], padded)
        key = hashlib.md5(padded + owner + b"\xfc\xff\xff\xff" + b"id").digest()[:5]
        user = rc4(key, PADDING)
    for index, content in enumerate(pages):
        number = first + 2 * index + 1
        if key:
            content = rc4(hashlib.md5(key + number.to_bytes(3, "little") + b"\0\0").digest()[:10], content)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R %s "
            b"/Resources << /Font << /F1 3 0 R >> %s >> >>" % (number, page, resources)
        )
        objects.append(stream(content))
    trailer = b""
    if key:
        objects.append(
            b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (owner.hex().encode(), user.hex().encode())
        )
        trailer = b" /Encrypt %d 0 R /ID [<6964> <6964>]" % len(objects)
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, one in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R%s >>\nstartxref\n%d\n%%%%EOF"
    return bytes(out) + end % (len(objects) + 1, table, len(objects) + 1, trailer, len(out))


def stream(content: bytes, fields: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), fields, content)


def show(*texts: tuple[float, float, str], size: int = 10) -> bytes:
    """A content stream that shows texts at places."""
    parts = [f"BT /F1 {size} Tf {x} {y} Td ({text}) Tj ET".encode("cp1252") for x, y, text in texts]
    return b"\n".join(parts)


def lines(text: str, size: int = 10) -> bytes:
    """A content stream that shows lines below each other."""
    return show(*((72, 720 - 14 * index, line) for index, line in enumerate(text.split("\n"))), size=size)


def bomb(size_mb: int) -> bytes:
    """Data of FlateDecode that unpacks to so many megabytes of blanks, without packing them all."""
    packer = zlib.compressobj(9)
    head = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * (size_mb - 1)


def rc4(key: bytes, data: bytes) -> bytes:
    box = list(range(256))
    j = 0
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) % 256
        box[i], box[j] = box[j], box[i]
    out = bytearray()
    i = j = 0
    for value in data:
        i = (i + 1) % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        out.append(value ^ box[(box[i] + box[j]) % 256])
    return bytes(out)
