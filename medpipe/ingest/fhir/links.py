"""What resources say of one another: references followed inside the input, versions, and what replaces what.

Nothing is ever fetched. An attachment's URL is looked up among the contained resources, the Bundle, the files beside
the one that is read, and the Binary resources of all files of the run; elsewhere there is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_to_bytes

import orjson

from medpipe.ingest.content import Content, Refused
from medpipe.ingest.fhir.fields import (
    CONDITIONAL,
    REFERENCE,
    first,
    first_text,
    listed,
    media_type,
    objects,
    status_of,
    withdrawn,
)
from medpipe.ingest.syntax.decoding import decode_base64
from medpipe.ingest.syntax.names import clean

if TYPE_CHECKING:
    from medpipe.ingest.notes import Reading

DATA_URL = re.compile(r"data:([^,]*),(.*)", re.DOTALL | re.IGNORECASE)
ABSOLUTE = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|[/\\]")  # a URL with a scheme, or a path from a root
REPLACING = ("DocumentReference", "Composition")
PIECE = 1 << 20


class Scope:
    """The resources that are read together, a Bundle or a file, and the scope around them."""

    def __init__(
        self,
        reading: Reading,
        content: Content | None = None,
        resources: Sequence[tuple[str | None, Mapping[str, Any]]] = (),
        around: Scope | None = None,
    ) -> None:
        self.reading, self.content, self.around = reading, content, around
        self.resources = resources
        self.by_name: dict[str, Mapping[str, Any]] = {}
        self.url_of = {id(resource): url for url, resource in resources if url}
        self.replaced: set[str] = set()
        for url, resource in resources:
            name = f"{resource.get('resourceType')}/{resource.get('id')}"
            self.by_name.setdefault(name, resource)
            if url:
                self.by_name.setdefault(url, resource)
            self.replaced |= replaced_by(resource)
        self.shown: list[str] | None = None  # words of notes that other resources of the Bundle repeat
        self._attached: set[str] | None = None

    def find(self, reference: str, container: Mapping[str, Any] | None = None) -> Mapping[str, Any] | None:
        """Returns the resource that a reference names: contained in ``container``, in the Bundle or the one around."""
        if reference.startswith("#"):
            inside = objects((container or {}).get("contained"))
            return next((one for one in inside if str(one.get("id")).lstrip("#") == reference[1:]), None)
        names = [reference, *(["/".join(match.groups())] if (match := REFERENCE.search(reference)) else [])]
        scope: Scope | None = self
        while scope is not None:
            for name in names:
                if name in scope.by_name:
                    return scope.by_name[name]
            scope = scope.around
        return None

    def only_patient(self) -> str | None:
        """Returns the id of the one Patient of the Bundle: a note in it that names nobody is about them."""
        patients = {str(one.get("id") or "") for _, one in self.resources if one.get("resourceType") == "Patient"}
        if not patients and self.around is not None:
            return self.around.only_patient()
        return clean(patients.pop()) or None if len(patients) == 1 else None

    def is_replaced(self, resource: Mapping[str, Any]) -> bool:
        """Says whether another resource of the same file, which is to be relied on, takes this one's place."""
        names = {f"{resource.get('resourceType')}/{resource.get('id')}", *identifiers(resource)}
        if url := self.url_of.get(id(resource)):
            names.add(url)
        if not names.isdisjoint(self.replaced):
            return True
        return self.around is not None and self.around.is_replaced(resource)

    def is_attached(self, binary: Mapping[str, Any]) -> bool:
        """Says whether an attachment of the input names a Binary, whose text is then read there."""
        key = binary.get("id")
        scope: Scope | None = self
        while scope is not None:
            if scope._attached is None:
                scope._attached = {target for _, resource in scope.resources for target in attached_to(resource)}
            if not scope._attached.isdisjoint((f"Binary/{key}", scope.url_of.get(id(binary)))):
                return True
            scope = scope.around
        return isinstance(key, str) and self.reading.inputs.is_attached(key)


class FileScope(Scope):
    """The scope of a file that is read line by line: what replaces what is looked for when the first note is read."""

    def __init__(self, reading: Reading, content: Content) -> None:
        super().__init__(reading, content)
        self._looked = False

    def is_replaced(self, resource: Mapping[str, Any]) -> bool:
        """Says whether another resource of the file takes this one's place."""
        if not self._looked:
            assert self.content is not None
            self.replaced = set(replaced_in(self.content, self.reading.max_file_bytes))
            self._looked = True
        return bool(self.replaced) and super().is_replaced(resource)


# --- what replaces what ---------------------------------------------------------------------


def identifiers(*holders: Any) -> Iterator[str]:
    """Yields identifiers (of resources: their business identifiers) as ``system|value``, which is no reference."""
    for holder in holders:
        for one in (*objects(holder.get("masterIdentifier")), *objects(holder.get("identifier"))):
            if isinstance(value := one.get("value"), str) and value:
                yield f"{one.get('system') or ''}|{value}"


def replaced_by(resource: Mapping[str, Any]) -> set[str]:
    """Returns what a resource takes the place of: ``Type/id``, an entry's URL, or an identifier.

    DocumentReference.relatesTo has ``code`` (a code; R5: a concept) and ``target``, Composition.relatesTo of R4
    ``targetReference`` or ``targetIdentifier``, of R5 ``type`` and ``resourceReference``.
    """
    kind = resource.get("resourceType")
    if kind not in REPLACING or "relatesTo" not in resource or withdrawn(resource):
        return set()
    found = set()
    for link in objects(resource["relatesTo"]):
        if "replaces" not in (status_of(link.get("code")), status_of(link.get("type"))):
            continue
        for name in ("target", "targetReference", "resourceReference"):
            target = first(link.get(name))
            written = target.get("reference")
            if isinstance(written, str) and written:
                match = REFERENCE.search(written)
                found |= {written, "/".join(match.groups()) if match else f"{kind}/{written.removeprefix('urn:uuid:')}"}
            found.update(identifiers(target))
        found.update(identifiers({"identifier": link.get("targetIdentifier")}))
    found.discard(f"{kind}/{resource.get('id')}")
    return found


def replaced_in(content: Content, limit: int) -> Iterator[str]:
    """Yields what the resources of a file of lines replace. Reads lines only where one may say so."""
    with content.open() as stream:
        last = b""
        while piece := stream.read(PIECE):
            if b'"replaces"' in last + piece:
                break
            last = piece[-16:]
        else:
            return
    with content.open() as stream:
        while line := stream.readline(limit + 1):
            if b'"replaces"' in line:
                try:
                    value = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                if isinstance(value, dict):
                    yield from replaced_by(value)


# --- who and where --------------------------------------------------------------------------


def reference_id(reference: Any, kind: str, scope: Scope, container: Mapping[str, Any]) -> str | None:
    """Returns the id of the first reference to a resource of a kind, or else the value of its identifier.

    ``Patient/7``, an absolute URL that ends so, ``urn:uuid:…`` (the id of the resource that it names where the Bundle
    holds it), ``Patient?identifier=system|7``, or the contained Patient ``#p``, which has no id that holds elsewhere:
    its identifier counts.
    """
    for one in objects(reference):
        written = one.get("reference")
        named = one.get("type")
        if isinstance(named, str) and named and named.rsplit("/", 1)[-1] != kind:
            continue
        if isinstance(written, str) and (written := written.strip()):
            found = _id_of(written, kind, scope, container)
            if found:
                return clean(found)
            if not written.startswith("#"):
                continue
        if identified := clean(first(one.get("identifier")).get("value")):
            return identified
    return None


def _id_of(written: str, kind: str, scope: Scope, container: Mapping[str, Any]) -> str | None:
    """Returns the id in a reference, if it may be one to a resource of the kind."""
    if match := REFERENCE.search(written):
        return match[2] if match[1] == kind else None
    if match := CONDITIONAL.match(written):
        return unquote(match[2]) if match[1] == kind else None
    found = scope.find(written, container)
    if found is not None and found.get("resourceType") != kind:
        return None
    if written.startswith("#"):
        return first_text(*(one.get("value") for one in objects((found or {}).get("identifier"))))
    if found is not None and isinstance(found.get("id"), str):
        return str(found["id"])
    return written.removeprefix("urn:uuid:").removeprefix("urn:oid:").rstrip("/").rsplit("/", 1)[-1] or None


# --- attachments ----------------------------------------------------------------------------


def attached_to(resource: Mapping[str, Any]) -> Iterator[str]:
    """Yields the URLs of all attachments of a resource, and those that name a Binary as ``Binary/id`` too."""
    stack: list[Any] = [resource]
    while stack:
        item = stack.pop()
        if isinstance(item, dict) and item.get("resourceType") == "Bundle":
            stack.extend(inner for _, inner in entries_of(item))  # not what its entries request
        elif isinstance(item, dict):
            for url in (item.get("url"), first(item.get("contentReference")).get("reference")):
                if isinstance(url, str) and url:
                    yield url
                    if match := REFERENCE.search(url):
                        yield "/".join(match.groups())
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def attached_bytes(
    attachment: Mapping[str, Any], scope: Scope, container: Mapping[str, Any]
) -> tuple[bytes, str | None, str | None]:
    """Returns the bytes of an attachment, its media type and its charset.

    Raises:
        Refused: TEXT_MISSING, BASE64_INVALID, ATTACHMENT_UNRESOLVED, SOURCE_TOO_LARGE.
    """
    media, charset = media_type(attachment.get("contentType"))
    data, url = attachment.get("data"), attachment.get("url")
    code = "TEXT_MISSING"
    if isinstance(data, str) and data.strip():
        raw = decode_base64(data)
        if raw is not None:
            return raw, media, charset
        code = "BASE64_INVALID"
    if isinstance(url, str) and (url := url.strip()):
        raw, found, its_charset = _follow(url, scope, container)
        return raw, media or found, charset or its_charset
    raise Refused(code)


def _follow(url: str, scope: Scope, container: Mapping[str, Any]) -> tuple[bytes, str | None, str | None]:
    if match := DATA_URL.fullmatch(url):  # RFC 2397
        header, body = match.groups()
        raw = decode_base64(unquote(body)) if header.lower().rstrip().endswith(";base64") else unquote_to_bytes(body)
        if raw is None:
            raise Refused("BASE64_INVALID")
        return (raw, *media_type(re.sub(r";\s*base64\s*$", "", header, flags=re.IGNORECASE)))
    binary = scope.find(url, container)
    if binary is None and (match := REFERENCE.search(url)) and match[1] == "Binary":
        binary = scope.reading.inputs.find_binary(match[2])
    if binary is not None:
        return binary_bytes(binary)
    beside = None
    if scope.content is not None and not ABSOLUTE.match(url):
        beside = scope.content.beside(url) or scope.content.beside(unquote(re.split("[?#]", url)[0]))
    if beside is None:
        raise Refused("ATTACHMENT_UNRESOLVED")
    return beside.read(scope.reading.max_file_bytes), None, None


def binary_bytes(binary: Mapping[str, Any]) -> tuple[bytes, str | None, str | None]:
    """Returns the bytes of a Binary (``data``; ``content`` in DSTU2 and STU3), its media type and its charset.

    Raises:
        Refused: TEXT_MISSING, BASE64_INVALID; ATTACHMENT_UNRESOLVED where the resource is no Binary.
    """
    if binary.get("resourceType") != "Binary":
        raise Refused("ATTACHMENT_UNRESOLVED")
    data = first_text(binary.get("data"), binary.get("content"))
    if data is None:
        raise Refused("TEXT_MISSING")
    raw = decode_base64(data)
    if raw is None:
        raise Refused("BASE64_INVALID")
    return (raw, *media_type(binary.get("contentType")))


def entries_of(bundle: Mapping[str, Any]) -> list[tuple[str | None, Mapping[str, Any]]]:
    """Returns the resources of a Bundle's entries with their full URLs."""
    return [
        (first_text(entry.get("fullUrl")), entry["resource"])
        for entry in listed(bundle.get("entry"))
        if isinstance(entry, dict) and isinstance(entry.get("resource"), dict)
    ]


def older_versions(bundle: Mapping[str, Any]) -> set[int]:
    """Returns the positions of entries of a history that a later version or a deletion has overtaken.

    A history lists the newest first (https://hl7.org/fhir/R5/http.html#history); where versions say when they were
    made, that decides.
    """
    if bundle.get("type") != "history":
        return set()
    newest: dict[str, tuple[str, int]] = {}  # name -> when it was made, position
    old = set()
    for position, entry in enumerate(listed(bundle.get("entry"))):
        resource = first(first(entry).get("resource"))
        request = first(first(entry).get("request"))
        match = REFERENCE.search(str(request.get("url")))
        if resource.get("id"):
            name = f"{resource.get('resourceType')}/{resource['id']}"
        elif request.get("method") == "DELETE" and match:
            name = "/".join(match.groups())
        else:
            continue
        response = first(first(entry).get("response"))
        made = first_text(first(resource.get("meta")).get("lastUpdated"), response.get("lastModified")) or ""
        before = newest.get(name)
        if before is not None and not (made > before[0] > ""):
            old.add(position)
            continue
        if before is not None:
            old.add(before[1])
        newest[name] = (made, position)
    return old
