"""Span, relation, summary and assertion metrics; the benchmark of speed."""
