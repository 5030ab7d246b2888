"""Fuzzing of the readers: seeds of every format, mutated; no crash, no hang, no flood of memory, nothing said aloud.

A short run is part of ``make test`` (``test_fuzz.py``); ``make fuzz`` makes 20,000 inputs a reader::

    python -m tests.ingest.fuzzing [--format NAME] [--count N] [--seed N] [--keep DIR]

An input is mutated a few times over: truncated, bits flipped, spliced with another seed, a slice repeated, nested, or
blown up, its encoding changed, words of the format put in. What is held to, for every input, read as its format and by
its content: nothing is raised; no reject says STAGE_FAILED (a bug); no message quotes the note; every record is
accounted for and the rows keep their contracts; sections lie inside the text; five seconds and 2 GiB are not passed.
"""

from __future__ import annotations

import argparse
import base64
import faulthandler
import gzip
import io
import json
import random
import resource
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from medpipe.ingest.inputs import Inputs
from medpipe.ingest.read import READERS, read_source
from medpipe.ingest.sources import Source
from medpipe.ingest.stage import read_chunks
from medpipe.records import Document, Reject

SECONDS = 5
MEMORY_MB = 2048
CANARY = "CANARYWORD"
NOTE = f"CC: cough and {CANARY}.\nHPI: She has a cough — 38,5 °C fever.\n\nPLAN:\n1. Rest.\n2. Fluids.\n"
B64 = base64.b64encode(NOTE.encode()).decode()


def fhir_seeds() -> list[bytes]:
    attachment = {"contentType": "text/plain; charset=utf-8", "data": B64}
    reference = {
        "resourceType": "DocumentReference", "id": "d1", "status": "current", "docStatus": "final",
        "subject": {"reference": "Patient/p1"}, "date": "2026-01-30T21:40:00+01:00",
        "type": {"coding": [{"system": "http://loinc.org", "code": "11506-3"}]},
        "content": [{"attachment": attachment}, {"attachment": {"url": "Binary/b1"}}],
    }  # fmt: skip
    div = f'<div xmlns="http://www.w3.org/1999/xhtml"><p>{CANARY} cough</p><table><tr><td>1</td><td>2</td></tr></table></div>'
    composition = {
        "resourceType": "Composition", "id": "c1", "title": "Discharge", "date": "2026-01-30",
        "section": [{"title": "Plan", "text": {"status": "additional", "div": div}, "section": [{"title": "x", "text": {"div": div}}]}],
    }  # fmt: skip
    report = {"resourceType": "DiagnosticReport", "id": "r", "conclusion": NOTE, "presentedForm": [attachment]}
    binary = {"resourceType": "Binary", "id": "b1", "contentType": "text/plain", "data": B64}
    resources = [reference, composition, report, binary, {"resourceType": "Patient", "id": "p1"}]
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"fullUrl": f"urn:uuid:{n}", "resource": one} for n, one in enumerate(resources)],
    }
    xml = f"""<?xml version="1.0" encoding="UTF-8"?>
<Bundle xmlns="http://hl7.org/fhir"><type value="collection"/><entry><resource><DocumentReference><id value="d1"/>
<status value="current"/><content><attachment><contentType value="text/plain"/><data value="{B64}"/></attachment></content>
</DocumentReference></resource></entry><entry><resource><Composition><title value="Note"/><section><title value="Plan"/><text>
<status value="additional"/>{div}</text></section></Composition></resource></entry></Bundle>"""
    return [json.dumps(bundle).encode(), json.dumps(composition, indent=2).encode(), xml.encode()]


def ndjson_seeds() -> list[bytes]:
    bundle = json.loads(fhir_seeds()[0])
    lines = [json.dumps(entry["resource"]) for entry in bundle["entry"]]
    return ["\n".join(lines).encode(), "\r\n".join([*lines, "null", '"text"', json.dumps({"text": NOTE})]).encode()]


def json_seeds() -> list[bytes]:
    note = {"document_id": "7", "patient_id": "p1", "authored_at": "2026-01-30", "language": "en", "text": NOTE}
    return [json.dumps(note).encode(), json.dumps([note, note | {"document_id": "8"}], indent=1).encode()]


def ccda_seeds() -> list[bytes]:
    narrative = (
        f"<table><caption>Findings</caption><thead><tr><th>A</th><th>B</th></tr></thead><tbody><tr><td>{CANARY}</td>"
        "<td>2<br/>3</td></tr></tbody></table><list listType='ordered'><item><caption>x</caption>One</item><item>Two</item></list>"
        "<paragraph>She has a <content styleCode='Bold'>cough</content>.</paragraph>"
    )
    document = f"""<?xml version="1.0" encoding="UTF-8"?>
<ClinicalDocument xmlns="urn:hl7-org:v3" xmlns:sdtc="urn:hl7-org:sdtc"><id root="1.2.3" extension="7"/>
<code code="34133-9" codeSystem="2.16.840.1.113883.6.1" displayName="Summary"/><title>Summary</title>
<effectiveTime value="20260130214000+0100"/><languageCode code="en-US"/><recordTarget><patientRole><id root="1" extension="p1"/>
</patientRole></recordTarget><component><structuredBody><component><section><code code="10164-2"/><title>HPI</title><text>
{narrative}</text><component><section><title>Inner</title><text>Plain {CANARY}</text></section></component></section></component>
</structuredBody></component></ClinicalDocument>"""
    unstructured = f"""<ClinicalDocument xmlns="urn:hl7-org:v3"><component><nonXMLBody><text mediaType="text/plain"
representation="B64">{B64}</text></nonXMLBody></component></ClinicalDocument>"""
    fragment = f"<section><title>Plan</title><text><sdtc:x/>{narrative}</text></section>"
    return [document.encode(), unstructured.encode(), fragment.encode()]


def hl7v2_seeds() -> list[bytes]:
    head = "MSH|^~\\&|LAB|H|EHR|H|20260130214000+0100||{kind}|{number}|P|2.5.1|||||||UNICODE UTF-8"
    oru = [
        head.format(kind="ORU^R01^ORU_R01", number=1), "PID|1||p1^^^H^MR||Doe^Jane", "PV1|1|I|||||||||||||||||v1",
        "OBR|1||9|18748-4^Imaging report^LN|||20260130|||||||||||||||||F",
        f"OBX|1|TX|IMP^Impression||Cough and {CANARY}.\\.br\\No \\T\\ fracture~second line||||||F",
        "OBX|2|FT|||More\\X0D\\text \\E\\ here||||||F", "NTE|1||A comment of some words",
        f"OBX|3|ED|PDF^Doc||^TEXT^html^Base64^{B64}||||||F", "OBX|4|NM|718-7^Hb^LN||9.8|g/dL|||||F",
    ]  # fmt: skip
    mdm = [
        head.format(kind="MDM^T02", number=2),
        "PID|1||p1",
        "TXA|1|DS|TX|20260130|||||||||7|||||AU",
        f"OBX|1|TX|||{NOTE}||||||F",
    ]
    batch = ["FHS|^~\\&", "BHS|^~\\&", *oru, *mdm, "BTS|2", "FTS|1"]
    return [
        "\r".join(oru).encode(),
        "\n".join(batch).encode(),
        b"\x0b" + "\r".join(mdm).encode() + b"\x1c\r" + b"\x0b" + "\r".join(oru).encode() + b"\x1c\r",
        "\r\n".join(oru).replace("UNICODE UTF-8", "8859/1").encode("latin-1", "replace"),
    ]


def table_seeds() -> list[bytes]:
    rows = [
        ["note_id", "patient_id", "note_date", "text"],
        ["1", "p1", "01/30/2026 09:40 PM", NOTE],
        ["2", "p2", "", f'"{CANARY}" said'],
    ]
    csv = "\r\n".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    tsv = "\n".join("\t".join(cell.replace("\n", " ") for cell in row) for row in rows)
    return [csv.encode(), tsv.encode(), ("\ufeff" + csv.replace(",", ";")).encode("utf-16"), parquet(rows)]


def omop_seeds() -> list[bytes]:
    names = [
        "NOTE_ID",
        "PERSON_ID",
        "NOTE_DATE",
        "NOTE_DATETIME",
        "NOTE_TYPE_CONCEPT_ID",
        "NOTE_CLASS_CONCEPT_ID",
        "NOTE_TITLE",
        "NOTE_TEXT",
    ]
    rows = [names, ["1", "7", "2026-01-30", "2026-01-30 21:40:00", "44814637", "0", "Progress", NOTE]]
    csv = "\n".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    return [csv.encode(), csv.lower().replace(",", "\t").encode(), parquet(rows)]


def parquet(rows: list[list[str]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: [row[index] for row in rows[1:]] for index, name in enumerate(rows[0])})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def text_seeds() -> list[bytes]:
    rtf = f"{{\\rtf1\\ansi\\ansicpg1252\\uc1{{\\fonttbl{{\\f0 Arial;}}}}\\f0\\b Plan\\b0\\par Cough {CANARY} \\'e9\\u8212 -\\par}}"
    html = f"<html><head><title>t</title></head><body><h1>Plan</h1><p>{CANARY} &amp; cough<br>x<table><tr><td>1<td>2</table></body></html>"
    return [NOTE.encode(), NOTE.encode("utf-16"), NOTE.encode("cp1252"), rtf.encode(), html.encode(), pdf(NOTE)]


def pdf(text: str) -> bytes:
    """A PDF of one page with a text layer."""
    lines = "".join(
        f"({line}) Tj T* " for line in text.encode("ascii", "ignore").decode().replace("(", "").splitlines()
    )
    stream = f"BT /F1 12 Tf 14 TL 72 720 Td {lines}ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, one in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return bytes(
        out
    ) + b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(out),
    )


def archive_seeds() -> list[bytes]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (
            ("IHE_XDM/SUBSET01/DOC1.XML", ccda_seeds()[0]),
            ("notes/a.txt", NOTE.encode()),
            ("inner.gz", gzip.compress(ndjson_seeds()[0], mtime=0)),
        ):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # of no time: the same each run
    return [
        buffer.getvalue(),
        gzip.compress(ndjson_seeds()[0], mtime=0),
        gzip.compress(hl7v2_seeds()[1], mtime=0),
    ]


SEEDS = {
    "fhir": fhir_seeds, "ndjson": ndjson_seeds, "json": json_seeds, "ccda": ccda_seeds, "hl7v2": hl7v2_seeds,
    "omop": omop_seeds, "table": table_seeds, "text": text_seeds, "archive": archive_seeds,
}  # fmt: skip
# What parsers trip over.
WORDS = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\n", b"\x0b", b"\x1c\r", b"|", b"^", b"~", b"\\", b"&", b"<", b">",
    b"&#0;", b"&#xD800;", b"&lol;", b"<![CDATA[", b"]]>", b"<!--", b"<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/hosts'>]>", b"<?xml?>",
    b'"', b"'", b"{", b"}", b"[", b"]", b",", b"null", b"NaN", b"1e999", b"-0", b'"\\ud800"', b"\\u0000", b"9" * 400, b"MSH|", b"OBX|1|TX|||",
    b"{\\rtf1", b"\\u-1?", b"\\bin9999999 ", b"\\pict", b"%PDF-1.7", b"endstream", b"/Length 999999999", b"PK\x03\x04", b"PAR1", b"\x1f\x8b",
    b"http://127.0.0.1:9/x", b"file:///etc/hosts", b"../../etc/hosts", b"data:text/plain;base64,QQ==", b"\xe2\x80\xae", b"\xf0\x9f\xa4\x92",
]  # fmt: skip


def mutate(chance: random.Random, raw: bytes, others: list[bytes]) -> bytes:
    """Returns a mutation of ``raw``, of at most a megabyte."""
    out = bytearray(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        size = len(out)
        at, to = sorted((chance.randrange(size + 1), chance.randrange(size + 1)))
        kind = chance.randrange(11)
        if kind == 0:
            del out[at:]
        elif kind == 1:
            del out[at : min(to, at + 200)]
        elif kind == 2:
            for _ in range(chance.choice((1, 2, 8, 64))):
                if out:
                    out[chance.randrange(len(out))] ^= 1 << chance.randrange(8)
        elif kind == 3:
            out[at:at] = chance.choice(WORDS) * chance.choice((1, 1, 2, 50))
        elif kind == 4:
            other = chance.choice(others)
            cut = chance.randrange(len(other) + 1)
            out[at:to] = other[cut : cut + chance.randrange(2000)]
        elif kind == 5:
            out[at:at] = bytes(out[at : min(to, at + 300)]) * chance.choice((2, 20, 500))
        elif kind == 6:  # nested deeply
            part = bytes(out[at : min(to, at + 12)])
            out[at:at] = chance.choice((b"[", b'{"a":', b"<a>", b"<div>", b"{\\b ", part)) * chance.choice(
                (100, 3000, 30_000)
            )
        elif kind == 7:  # a huge field
            out[at:at] = chance.choice((b"A", b"9", b" ", b"\n", b"=", b"\xc3\xa9", b"a ")) * chance.choice(
                (1000, 70_000, 300_000)
            )
        elif kind == 8:
            out[at:to] = bytes(chance.randrange(256) for _ in range(min(to - at, 64)))
        elif kind == 9:
            text = bytes(out).decode("utf-8", "replace")
            out = bytearray(
                text.encode(chance.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "utf-7")), "replace")
            )
        else:
            out = bytearray(
                bytes(out).replace(chance.choice((b"\n", b"\r", b'"', b"<", b"|", b",")), chance.choice(WORDS))
            )
        del out[1 << 20 :]
    return bytes(out)


def inputs(name: str, count: int, seed: int) -> Iterator[bytes]:
    """Yields the seeds of a format as they are, then mutations of them."""
    chance = random.Random(f"{name}-{seed}")
    seeds = SEEDS[name]()
    everything = [one for make in SEEDS.values() for one in make()]
    yield from seeds
    for _ in range(count):
        others = seeds if chance.random() < 0.7 else everything
        yield mutate(chance, chance.choice(seeds), others)


def check(path: Path, format: str) -> Counter[str]:
    """Reads a file and holds the reader to what the module's docstring promises; returns what came out, counted."""
    source = Source(path, "a")
    items = list(
        read_source(source, format=format, max_note_chars=2_000_000, max_file_bytes=4 << 20, inputs=Inputs([source]))
    )
    assert items, "a file ends as nothing at all"
    for item in items:
        if isinstance(item, Reject):
            assert item.code != "STAGE_FAILED", item.message
            assert CANARY not in item.message and CANARY not in item.record, "a message quotes the note"
        elif isinstance(item, Document):
            for section in item.sections:
                assert 0 <= section.start <= section.body_start <= section.end <= len(item.text), (
                    "a section outside the text"
                )
    found: Counter[str] = Counter()
    for output in read_chunks(
        [source],
        format=format,
        max_note_chars=2_000_000,
        max_file_bytes=4 << 20,
        chunk_documents=64,
        chunk_chars=1 << 22,
        run_id="r",
    ):
        found.update(output.counts)
    assert found["records"] == found["documents"] + found["duplicates"] + found["not_notes"] + found["rejected"]
    return found


def run(name: str, count: int, seed: int, folder: Path, keep: Path | None = None) -> tuple[Counter[str], list[str]]:
    """Fuzzes one reader; returns what came out, and what went wrong (with the number of the input)."""
    found: Counter[str] = Counter()
    wrong: list[str] = []
    path = folder / "a"
    formats = ("auto",) if name == "archive" else (name, "auto")
    for number, raw in enumerate(inputs(name, count, seed)):
        path.write_bytes(raw)
        started = time.process_time()
        for format in formats:
            faulthandler.dump_traceback_later(24 * SECONDS, exit=True)  # a hang in C, which no signal ends
            try:
                found.update(check(path, format))
            except Exception as error:
                wrong.append(f"{name} {number} as {format}: {type(error).__name__}: {str(error)[:200]}")
                if keep is not None:
                    (keep / f"{name}-{seed}-{number}").write_bytes(raw)
        seconds = time.process_time() - started  # of this process: the machine may be busy
        if seconds > SECONDS:
            wrong.append(f"{name} {number}: {seconds:.1f} s")
            if keep is not None:
                (keep / f"{name}-{seed}-{number}").write_bytes(raw)
    faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    if peak > MEMORY_MB:
        wrong.append(f"{name}: {peak} MB of memory")
    return found, wrong


def main() -> None:
    """Fuzzes the readers named on the command line, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=list(SEEDS), action="append")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for inputs that something went wrong with")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in options.format or SEEDS:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            found, wrong = run(name, options.count, options.seed, Path(folder), options.keep)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        kinds = ", ".join(f"{key} {found[key]}" for key in ("records", "documents", "not_notes", "rejected"))
        print(
            f"{name}: {options.count} inputs, {kinds}; {len(wrong)} wrong; {time.perf_counter() - started:.0f} s, {peak} MB",
            flush=True,
        )
        for line in wrong[:20]:
            print("  " + line, flush=True)
        failed = failed or bool(wrong)
    sys.exit(failed)


if __name__ == "__main__":
    assert set(READERS) <= set(SEEDS), "a reader without seeds"
    main()
