"""Text to word pieces: normalization, vocabularies, the tokenizer."""
