"""Bytes to characters, lines, JSON and XML: what all formats are written in."""
