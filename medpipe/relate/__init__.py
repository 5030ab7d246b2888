"""Stage 3: documents and entities become relations."""
