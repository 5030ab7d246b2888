"""MIME packages (RFC 2046, RFC 2387): documents with the files that they refer to, as CDA R2 is exchanged."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message

from medpipe.ingest.content import Content, Refused, bytes_content

HEADER = rb"[A-Za-z][A-Za-z0-9-]*:[^\n]*\n(?:[ \t][^\n]*\n)*"
START = re.compile(rb"\s*(?:" + HEADER + rb"){0,40}?(?:MIME-Version:|Content-Type:\s*multipart/)", re.IGNORECASE)
PART, MOST_PARTS = re.compile(rb"^--\S", re.MULTILINE), 10_000  # a line that may begin a part
XML_MEDIA = re.compile(r"(?:text|application)/(?:[a-z0-9.-]+\+)?xml$")


@dataclass(frozen=True, slots=True)
class Part:
    """A part that is no package itself."""

    name: str
    media: str
    charset: str | None
    raw: bytes
    keys: tuple[str, ...]  # what a reference may call it: content id, location, file name

    @property
    def is_xml(self) -> bool:
        """Whether its media type is one of XML."""
        return XML_MEDIA.match(self.media) is not None


def is_package(head: bytes) -> bool:
    """Says whether bytes begin with the headers of a MIME package."""
    return START.match(head[:4000]) is not None


def parts_of(raw: bytes) -> list[Part]:
    """Returns the parts of a package, those of packages in it in their place.

    Raises:
        Refused: RECORD_INVALID where there are none, or they lie too deep.
    """
    if len(PART.findall(raw)) > MOST_PARTS:
        raise Refused("RECORD_INVALID", where=f"more than {MOST_PARTS:,} MIME parts")
    try:
        package = email.message_from_bytes(raw.lstrip(), policy=email.policy.compat32)
        leaves = [part for part in package.walk() if not part.is_multipart()] if package.is_multipart() else []
        found = [_part(number, leaf) for number, leaf in enumerate(leaves)]
    except (RecursionError, ValueError, LookupError) as error:
        raise Refused("RECORD_INVALID", where="MIME parts") from error
    if not found:
        raise Refused("RECORD_INVALID", where="MIME parts")
    return found


def _part(number: int, part: Message) -> Part:
    raw = part.get_payload(decode=True)
    keys = [str(part.get("Content-ID") or "").strip(" <>"), str(part.get("Content-Location") or "").strip()]
    keys.append(part.get_filename() or "")
    return Part(
        f"part.{number}", part.get_content_type(), part.get_content_charset(),
        raw if isinstance(raw, bytes) else b"", tuple(key for key in keys if key),
    )  # fmt: skip


def find_part(parts: Sequence[Part], reference: str) -> Part | None:
    """Returns the part that a reference names: ``cid:…``, a location or a file name."""
    key = re.sub(r"^(cid|mid):", "", reference, flags=re.IGNORECASE).strip(" <>")
    return next((part for part in parts if key in part.keys), None)


def part_content(part: Part) -> Content:
    """Returns a part as content; its name is what tells a suffix, where anything does."""
    return bytes_content(next((key for key in reversed(part.keys) if "." in key), part.name), part.raw)
