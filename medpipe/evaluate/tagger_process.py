"""A tagger in a process of its own, for ``medpipe bench tag --peers``: it waits for texts on stdin and times itself.

Of a peer, the process is ``PYTHON tagger_process.py SCRIPT MODEL`` with the Python of the peer's environment, so this
file needs nothing but the standard library. SCRIPT is a module with ``load(folder)``, which returns a function from a
list of texts to an iterable of sets of (start, end, type). Ours is ``python -m medpipe.evaluate.tagger_process ours
MODEL PROFILE``.

A line of stdin names a JSON file with a list of texts; a line of stdout answers with seconds, CPU seconds and, for
every text, the entities.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

Span = tuple[int, int, str]
Predict = Callable[[list[str]], Iterable[Iterable[Span]]]


def load_peer(script: str, model: str) -> Predict:
    """Returns the tagger of a peer's script."""
    sys.path.insert(0, str(Path(script).parent))  # the script may import its neighbours
    spec = importlib.util.spec_from_file_location(Path(script).stem, script)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{script} is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    predict: Predict = module.load(Path(model))
    return predict


def load_ours(model: str, profile: str) -> Predict:
    """Returns our tagger, from strings to the rows of ``entities`` in Arrow: all of the stage, assertion included."""
    import pyarrow as pa

    from medpipe.lake import contracts
    from medpipe.tag.stage import Tagger

    tagger = Tagger.load(model, device="cpu", profile=profile)
    sections = contracts.empty_table("sections")

    def predict(texts: list[str]) -> list[list[Span]]:
        ids = pa.array([f"{number:08d}" for number in range(len(texts))])
        documents = dict.fromkeys(("document_id", "patient_id", "source", "record"), ids)
        table = pa.table(documents | {"text": pa.array(texts)})
        rows = tagger.run({"documents": table, "sections": sections}, run_id="bench").rows["entities"]
        predict.rows = rows  # type: ignore[attr-defined]  # what comes now is not timed
        return []

    return predict


def read_rows(rows: object, texts: int) -> list[list[Span]]:
    """Returns the entities of every text from our rows."""
    found: list[list[Span]] = [[] for _ in range(texts)]
    columns = (rows[name].to_pylist() for name in ("document_id", "start", "end", "label"))  # type: ignore[index]
    for document, start, end, label in zip(*columns, strict=True):
        found[int(document)].append((start, end, label))
    return found


def main(arguments: list[str]) -> None:
    """Answers until stdin ends."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a peer prints is no answer
    ours = arguments[0] == "ours"
    predict = load_ours(*arguments[1:]) if ours else load_peer(*arguments)
    for line in sys.stdin:
        texts = json.loads(Path(line.strip()).read_text(encoding="utf-8"))
        begin, cpu = time.perf_counter(), time.process_time()
        found: list[Iterable[Span]] = list(predict(texts))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        if ours:
            found = [*read_rows(predict.rows, len(texts))]  # type: ignore[attr-defined]
        spans = [sorted((start, end, label) for start, end, label in of) for of in found]
        answers.write(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "spans": spans}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
