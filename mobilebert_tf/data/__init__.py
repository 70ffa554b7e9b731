"""Text to batches: corpora, pre-training examples, records, tables, batches.

Nothing here knows the models that it feeds. Everything random takes its
generator as an argument.
"""
