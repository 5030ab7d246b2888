"""The body of a note, whatever it is written in, to text."""
