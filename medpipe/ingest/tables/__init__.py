"""Notes in rows: delimited text, Parquet, lines of JSON, the OMOP common data model."""
