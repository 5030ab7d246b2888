"""Views of the tables in other formats: never a second store."""
