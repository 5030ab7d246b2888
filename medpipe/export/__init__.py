"""Views of the tables for other tools."""
