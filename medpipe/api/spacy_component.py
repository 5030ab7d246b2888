"""medpipe as a component of spaCy: ``nlp.add_pipe("medpipe")`` (extra ``spacy``).

The spans and extensions are those of ``medpipe.export.spacy_docs``. The Doc keeps its own tokens: a mention that
begins or ends within a token gets all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from medpipe.api.note import Note
from medpipe.api.pipeline import Pipeline, load
from medpipe.export.spacy_docs import annotate, import_spacy, register_extensions

if TYPE_CHECKING:
    from spacy.tokens import Doc

import_spacy()

from spacy.language import Language  # noqa: E402  an error of ours where it is not installed


@Language.factory(
    "medpipe",
    default_config={"stages": ["tag", "relate", "summarize"], "settings": {}},
    assigns=["doc.spans", "doc.ents"],
)
def make_component(nlp: Language, name: str, stages: list[str], settings: dict[str, Any]) -> Component:
    """Makes the component; ``stages`` and ``settings`` are the arguments of ``medpipe.load``."""
    return Component(load(stages=stages, **settings))


class Component:
    """Annotates Docs with what medpipe finds in their text."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        register_extensions()

    def __call__(self, doc: Doc) -> Doc:
        """Annotates one Doc."""
        return add_note(doc, self.pipeline(doc.text))

    def pipe(self, docs: Iterable[Doc], *, batch_size: int = 64) -> Iterator[Doc]:
        """Annotates Docs in batches."""
        stream = iter(docs)
        while batch := list(islice(stream, batch_size)):
            notes = self.pipeline.pipe([doc.text for doc in batch], batch_size=batch_size)
            for doc, note in zip(batch, notes, strict=True):
                yield add_note(doc, note)

    # The models are files of their own; spaCy writes and reads the configuration alone.
    def to_disk(self, path: Any, *, exclude: Sequence[str] = ()) -> None:
        """Writes nothing."""

    def from_disk(self, path: Any, *, exclude: Sequence[str] = ()) -> Component:
        """Reads nothing."""
        return self

    def to_bytes(self, *, exclude: Sequence[str] = ()) -> bytes:
        """Gives nothing."""
        return b""

    def from_bytes(self, data: bytes, *, exclude: Sequence[str] = ()) -> Component:
        """Takes nothing."""
        return self


def add_note(doc: Doc, note: Note) -> Doc:
    """Puts a note's rows onto its Doc."""
    summaries = note.to_arrow("summaries").to_pylist()
    annotate(
        doc,
        note.document,
        note.to_arrow("entities").to_pylist(),
        note.to_arrow("relations").to_pylist(),
        summaries[0] if summaries else None,
    )
    return doc
