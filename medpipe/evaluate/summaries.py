"""ROUGE and faithfulness of the summarizer against reference summaries, end to end.

The stages run as they do in a night: tagger, relations, summarizer. ROUGE-1, ROUGE-2 and ROUGE-L are those of
rouge-score (Lin 2004) with stemming, F-measure, mean over the pairs. Faithfulness is not the stage's own word: the
tagger reads the summaries too, and what it finds in them is looked up in the source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from medpipe.errors import MedpipeError
from medpipe.ids import hash_text, make_id
from medpipe.lake import contracts
from medpipe.learn.corpora import read_pairs
from medpipe.text.tokens import tokenize

ROUGE = ("rouge1", "rouge2", "rougeL")
NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
LIST_MARK = re.compile(r"(?:^|(?<=[.:;?!]\s))\d{1,2}\s?[.)](?=\s)")  # "1. No effusion. 2. Old fracture."
CHUNK = 256  # texts that the stages hold at a time
RUN_ID = "evaluation"


def evaluate_summarizer(
    corpus: Path,
    *,
    model: str | Path = "summarizer",
    tagger: str | Path | None = "tagger",
    relations: str | Path | None = "relations",
    device: str = "auto",
    profile: str = "standard",
    limit: int | None = None,
) -> dict[str, Any]:
    """Returns the scores of a summarizer on a file of pairs.

    Args:
        corpus: JSON lines with ``source`` and ``summary``.
        model: the summarizer.
        tagger: for the entity features and the check; ``None`` leaves both out.
        relations: for the relation feature; ``None`` leaves it out.
        device: auto, cpu, cuda or cuda:N.
        profile: of the summarizer: fast, standard or accurate.
        limit: how many pairs, from the first; ``None``: all.

    Returns:
        Fractions of one: ``rouge1``, ``rouge2``, ``rougeL``; ``unsupported_entities`` (of the entities that the tagger
        finds in the summaries, those whose words do not follow each other in the source), ``unsupported_numbers`` (of
        the numbers in the summaries, those not in the source), ``polarity_errors`` (of the entities whose words the
        source has as an entity too, those negated on one side only); ``n``, the pairs.

    Raises:
        MedpipeError: CORPUS_NOT_FOUND, CORPUS_INVALID, MODEL_NOT_FOUND, EXTRA_MISSING.
    """
    score = rouge_scorer()
    pairs = read_pairs(corpus)[:limit]
    sources = [pair.source for pair in pairs]
    tables = annotate(sources, tagger=tagger, relations=relations, device=device)
    texts = summarize(tables, model=model, device=device, profile=profile)
    rouge = np.array([score(pair.summary, text) for pair, text in zip(pairs, texts, strict=True)])
    means = rouge.mean(axis=0).tolist() if len(rouge) else [0.0] * len(ROUGE)
    scores: dict[str, Any] = dict(zip(ROUGE, means, strict=True))
    scores["unsupported_entities"], scores["polarity_errors"] = 0.0, 0.0
    if "entities" in tables:
        summaries = annotate(texts, tagger=tagger, relations=None, device=device, sections=False)
        scores |= entity_faithfulness(sources, _mentions(tables, sources), texts, _mentions(summaries, texts))
    return scores | {"unsupported_numbers": unsupported_numbers(sources, texts), "n": len(pairs)}


def rouge_scorer() -> Callable[[str, str], list[float]]:
    """Returns ``(reference, text) -> F-measures`` in the order of ``ROUGE``.

    Raises:
        MedpipeError: EXTRA_MISSING where rouge-score is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MedpipeError("EXTRA_MISSING", package="rouge-score", extra="evaluate") from error
    scorer = RougeScorer(list(ROUGE), use_stemmer=True)

    def score(reference: str, text: str) -> list[float]:
        found = scorer.score(reference, text)
        return [found[name].fmeasure for name in ROUGE]

    return score


# --- the stages over plain texts --------------------------------------------------------------


def annotate(
    texts: Sequence[str],
    *,
    tagger: str | Path | None,
    relations: str | Path | None,
    device: str = "auto",
    cache: Path | None = None,
    sections: bool = True,
) -> dict[str, pa.Table]:
    """Runs the stages before the summarizer over plain texts.

    Args:
        texts: the notes.
        tagger, relations: models; ``None`` leaves the stage out.
        device: auto, cpu, cuda or cuda:N.
        cache: a folder that keeps the tables, by texts and models.
        sections: whether the notes have sections where they have headings, as after ingest.

    Returns:
        The tables ``documents`` (only what stages read; in the order of ``texts``), ``sections``, and, where their
        models were given, ``entities`` and ``relations``.
    """
    tables = {"documents": _documents(texts)}
    tables["sections"] = _sections(texts) if sections else contracts.empty_table("sections")
    if tagger is None:
        return tables
    from medpipe.tag.stage import Tagger

    tables["entities"] = _cached(cache, "entities", texts, Tagger, tagger, tables, device)
    if relations is not None:
        from medpipe.relate.stage import Relater

        tables["relations"] = _cached(cache, "relations", texts, Relater, relations, tables, device)
    return tables


def _documents(texts: Sequence[str]) -> pa.Table:
    """Returns the columns of ``documents`` that stages read; ids count the texts, so that their order is kept."""
    count = len(texts)
    return pa.table(
        {
            "document_id": pa.array([f"{index:032d}" for index in range(count)], pa.string()),
            "source": pa.array(["evaluation"] * count, pa.string()),
            "record": pa.array([str(index) for index in range(count)], pa.string()),
            "patient_id": pa.nulls(count, pa.string()),
            "text": pa.array(texts, pa.string()),
        }
    )


def _sections(texts: Sequence[str]) -> pa.Table:
    """Returns the sections that ingest finds in plain texts."""
    from medpipe.ingest.stage import sections_table
    from medpipe.records import Document
    from medpipe.text.sections import find_sections

    documents = [
        Document(f"{index:032d}", "evaluation", str(index), "text", text, "", sections=tuple(find_sections(text)))
        for index, text in enumerate(texts)
    ]
    return sections_table(documents, RUN_ID)


def _cached(
    cache: Path | None,
    table: str,
    texts: Sequence[str],
    stage: Any,
    model: str | Path,
    tables: dict[str, pa.Table],
    device: str,
) -> pa.Table:
    """Returns what a stage makes of the tables, from the cache where it was made before."""
    loaded = stage.load(model, device=device)
    sections = str(len(tables["sections"]))
    key = make_id("annotated", table, sections, loaded.model.weights_hash, *(hash_text(text) for text in texts))
    path = cache / f"{table}-{key[:16]}.arrow" if cache is not None else None
    if path is not None and path.is_file():
        with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
            return reader.read_all()
    made = pa.concat_tables([loaded.run(chunk, run_id=RUN_ID).rows[table] for chunk in _chunks(tables)])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, made.schema) as writer:
            writer.write_table(made)
        partial.replace(path)
    return made


def _chunks(tables: dict[str, pa.Table]) -> list[dict[str, pa.Table]]:
    """Returns the tables cut into chunks of whole documents, at least one."""
    documents = tables["documents"]
    pieces = [documents.slice(first, CHUNK) for first in range(0, max(1, len(documents)), CHUNK)]
    return [
        {name: _of(table, piece) if name != "documents" else piece for name, table in tables.items()}
        for piece in pieces
    ]


def _of(table: pa.Table, documents: pa.Table) -> pa.Table:
    """Returns the rows of ``table`` that belong to ``documents``."""
    import pyarrow.compute as pc

    return table.filter(pc.is_in(table["document_id"], value_set=documents["document_id"].combine_chunks()))


def summarize(
    tables: dict[str, pa.Table],
    *,
    model: str | Path = "summarizer",
    device: str = "auto",
    profile: str = "standard",
) -> list[str]:
    """Returns the summary of every document of ``tables``, in the order of their ids; "" where there is none."""
    from medpipe.summarize.stage import Summarizer
    from medpipe.tag.assertion import Assertion

    stage = Summarizer.load(model, device=device, profile=profile, engine=Assertion.load())
    texts = dict.fromkeys(tables["documents"]["document_id"].to_pylist(), "")
    for chunk in _chunks(tables):
        rows = stage.run(chunk, run_id=RUN_ID).rows["summaries"]
        texts |= dict(zip(rows["document_id"].to_pylist(), rows["text"].to_pylist(), strict=True))
    return list(texts.values())


# --- faithfulness -----------------------------------------------------------------------------

Mention = tuple[tuple[str, ...], bool]  # words, lower-cased; negated


def _mentions(tables: dict[str, pa.Table], texts: Sequence[str]) -> list[list[Mention]]:
    """Returns the entities of every text."""
    found: list[list[Mention]] = [[] for _ in texts]
    entities = tables["entities"]
    for name, text, negated in zip(
        entities["document_id"].to_pylist(), entities["text"].to_pylist(), entities["negated"].to_pylist(), strict=True
    ):
        found[int(name)].append((words_of(text), negated))
    return found


def words_of(text: str) -> tuple[str, ...]:
    """Returns the lower-cased words and numbers of a text, without marks."""
    return tuple(word.lower() for word in tokenize(text).strings(text) if word[0].isalnum())


def entity_faithfulness(
    sources: Sequence[str],
    source_mentions: Sequence[Sequence[Mention]],
    summaries: Sequence[str],
    summary_mentions: Sequence[Sequence[Mention]],
) -> dict[str, float]:
    """Returns which part of the summaries' entities the sources do not hold, and which part is turned round.

    An entity is unsupported where its words do not follow each other anywhere in the source; it is a polarity error
    where the source has entities of the same words and all of them are negated and it is not, or the reverse.
    """
    entities = unsupported = known = turned = 0
    for source, in_source, in_summary in zip(sources, source_mentions, summary_mentions, strict=True):
        running = " " + " ".join(words_of(source)) + " "
        polarity: dict[tuple[str, ...], set[bool]] = {}
        for words, negated in in_source:
            polarity.setdefault(words, set()).add(negated)
        for words, negated in in_summary:
            entities += 1
            unsupported += f" {' '.join(words)} " not in running
            known += words in polarity
            turned += words in polarity and negated not in polarity[words]
    return {"unsupported_entities": unsupported / max(1, entities), "polarity_errors": turned / max(1, known)}


def unsupported_numbers(sources: Sequence[str], summaries: Sequence[str]) -> float:
    """Returns which part of the summaries' numbers their sources do not hold; the numbers of a list are none."""
    numbers = missing = 0
    for source, summary in zip(sources, summaries, strict=True):
        held = set(NUMBER.findall(source))
        said = NUMBER.findall(LIST_MARK.sub(" ", summary))
        numbers += len(said)
        missing += sum(number not in held for number in said)
    return missing / max(1, numbers)
