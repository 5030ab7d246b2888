"""What a person reads: the terminal and, later, HTML pages."""
