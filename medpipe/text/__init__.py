"""Text with its offsets kept: tokens, sentences, sections, features, batches."""
