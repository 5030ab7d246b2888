"""FHIR resources, DSTU2 to R5, in JSON, XML and NDJSON."""
