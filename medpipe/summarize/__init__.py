"""Stage 4: documents, entities and relations become summaries."""
