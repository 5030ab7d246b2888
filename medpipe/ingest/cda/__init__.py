"""HL7 CDA R2: documents of XML, and what they come in."""
