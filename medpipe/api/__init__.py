"""medpipe from Python: ``nlp = medpipe.load()``, ``note = nlp("text")``, ``nlp.pipe(texts)``.

The same stages as in a run, with the same rows as results, in memory; nothing is written.
"""

from medpipe.api.note import Entity, Note, Relation, Section, Summary, SummaryToken
from medpipe.api.pipeline import Pipeline, load

__all__ = ["Entity", "Note", "Pipeline", "Relation", "Section", "Summary", "SummaryToken", "load"]
