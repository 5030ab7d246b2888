"""Generated notes in every format that is read, for ``medpipe bench ingest``.

A writer takes texts and a folder, and writes what an export of that format would hold: one file with all notes, or
one file a note where the format has no other way.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

Texts = Iterator[str]


def document_references(texts: Texts) -> Iterator[dict[str, Any]]:
    """Yields notes as FHIR DocumentReferences."""
    for index, text in enumerate(texts):
        attachment = {"contentType": "text/plain", "data": base64.b64encode(text.encode()).decode()}
        yield {
            "resourceType": "DocumentReference", "id": f"bench-{index}", "status": "current",
            "subject": {"reference": f"Patient/{index % 97}"}, "content": [{"attachment": attachment}],
        }  # fmt: skip


def write_fhir_ndjson(texts: Texts, folder: Path) -> None:
    """Writes a bulk export."""
    with (folder / "notes.ndjson").open("w", encoding="utf-8") as file:
        for resource in document_references(texts):
            file.write(json.dumps(resource) + "\n")


def write_fhir_json(texts: Texts, folder: Path) -> None:
    """Writes Bundles of 100 notes."""
    entries = [{"resource": resource} for resource in document_references(texts)]
    for start in range(0, len(entries), 100):
        bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries[start : start + 100]}
        (folder / f"bundle-{start}.json").write_text(json.dumps(bundle), encoding="utf-8")


def write_fhir_xml(texts: Texts, folder: Path) -> None:
    """Writes one XML Bundle."""
    with (folder / "bundle.xml").open("w", encoding="utf-8") as file:
        file.write('<Bundle xmlns="http://hl7.org/fhir"><type value="collection"/>')
        for index, resource in enumerate(document_references(texts)):
            data = resource["content"][0]["attachment"]["data"]
            file.write(
                f'<entry><resource><DocumentReference><id value="bench-{index}"/><status value="current"/><subject>'
                f'<reference value="Patient/{index % 97}"/></subject><content><attachment>'
                '<contentType value="text/plain"/>'
                f'<data value="{data}"/></attachment></content></DocumentReference></resource></entry>\n'
            )
        file.write("</Bundle>")


def write_ccda(texts: Texts, folder: Path) -> None:
    """Writes a document a note: one section of paragraphs and a table."""
    for index, text in enumerate(texts):
        paragraphs = "".join(f"<paragraph>{escape(line)}</paragraph>" for line in text.split("\n"))
        rows = "".join(f"<tr><td>2026-01-{day:02}</td><td>{day}.4</td></tr>" for day in range(1, 21))
        (folder / f"{index}.xml").write_text(
            f'<?xml version="1.0"?><ClinicalDocument xmlns="urn:hl7-org:v3"><id root="1.2" extension="{index}"/>'
            '<code code="11506-3" codeSystem="2.16.840.1.113883.6.1"/><title>Progress note</title><component>'
            f"<structuredBody><component><section><title>Narrative</title><text>{paragraphs}<table><tbody>{rows}</tbody>"
            "</table></text></section></component></structuredBody></component></ClinicalDocument>",
            encoding="utf-8",
        )


def write_hl7v2(texts: Texts, folder: Path) -> None:
    """Writes a stream of ORU messages, a line of the note an OBX."""
    with (folder / "stream.hl7").open("w", encoding="utf-8", newline="") as file:
        for index, text in enumerate(texts):
            segments = [
                f"MSH|^~\\&|A|B|C|D|20260130120000||ORU^R01|{index}|P|2.5.1",
                f"PID|1||{index % 97}^^^H^MR",
                "OBR|1|||11506-3^Progress note^LN|||20260130",
            ]
            for number, line in enumerate(text.split("\n"), 1):
                segments.append(
                    f"OBX|{number}|TX|11506-3^Progress note^LN||{line.replace('&', chr(92) + 'T' + chr(92))}||||||F"
                )
            file.write("\r".join(segments) + "\r\n")


NOTE_COLUMNS = ["note_id", "person_id", "note_date", "note_title", "note_text"]


def write_omop_csv(texts: Texts, folder: Path) -> None:
    """Writes a NOTE table as CSV."""
    with (folder / "NOTE.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(NOTE_COLUMNS)
        writer.writerows([index, index % 97, "2026-01-30", "Progress note", text] for index, text in enumerate(texts))


def write_omop_parquet(texts: Texts, folder: Path) -> None:
    """Writes a NOTE table as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    notes = list(texts)
    count = len(notes)
    columns = [
        list(range(count)),
        [n % 97 for n in range(count)],
        ["2026-01-30"] * count,
        ["Progress note"] * count,
        notes,
    ]
    pq.write_table(pa.table(dict(zip(NOTE_COLUMNS, columns, strict=True))), folder / "NOTE.parquet")


def write_text(texts: Texts, folder: Path) -> None:
    """Writes a file a note."""
    for index, text in enumerate(texts):
        (folder / f"{index}.txt").write_text(text, encoding="utf-8")


def write_html(texts: Texts, folder: Path) -> None:
    """Writes a page a note."""
    for index, text in enumerate(texts):
        body = "".join(f"<p>{escape(line)}</p>" for line in text.split("\n"))
        (folder / f"{index}.html").write_text(f"<html><body>{body}</body></html>", encoding="utf-8")


def write_rtf(texts: Texts, folder: Path) -> None:
    """Writes an RTF document a note."""
    for index, text in enumerate(texts):
        body = "\\par\n".join(text.split("\n"))
        (folder / f"{index}.rtf").write_text(f"{{\\rtf1\\ansi\\ansicpg1252\\f0\\fs20 {body}}}", encoding="cp1252")


def write_pdf(texts: Texts, folder: Path) -> None:
    """Writes a PDF of one long page a note."""
    for index, text in enumerate(texts):
        lines = text.replace("\\", "").replace("(", "").replace(")", "").split("\n")
        stream = "BT /F1 10 Tf 12 TL 40 20000 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
        objects = [
            "<< /Type /Catalog /Pages 2 0 R >>",
            "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 900 20100] /Contents 4 0 R "
            "/Resources << /Font << /F1 5 0 R >> >> >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
            "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ]
        out, places = "%PDF-1.4\n", []
        for number, one in enumerate(objects, 1):
            places.append(len(out))
            out += f"{number} 0 obj\n{one}\nendobj\n"
        table = "".join(f"{place:010d} 00000 n \n" for place in places)
        out += (
            f"xref\n0 6\n0000000000 65535 f \n{table}trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF"
        )
        (folder / f"{index}.pdf").write_bytes(out.encode("cp1252"))


WRITERS: dict[str, Callable[[Texts, Path], None]] = {
    "fhir_ndjson": write_fhir_ndjson, "fhir_json": write_fhir_json, "fhir_xml": write_fhir_xml, "ccda": write_ccda,
    "hl7v2": write_hl7v2, "omop_csv": write_omop_csv, "omop_parquet": write_omop_parquet, "text": write_text,
    "html": write_html, "rtf": write_rtf, "pdf": write_pdf,
}  # fmt: skip
