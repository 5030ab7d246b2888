"""Corpora, the training loop, and one trainer a model."""
