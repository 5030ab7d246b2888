"""Stage 1: files of any supported format become documents, and what cannot be read becomes rejects."""
