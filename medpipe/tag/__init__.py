"""Stage 2: documents become nested entities with assertions."""
