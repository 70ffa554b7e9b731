"""Text to batches: WordPiece tokens, corpora, pre-training and task examples.

This room knows nothing of the models it feeds. It may use TensorFlow for what
TensorFlow is good at here (WordPiece kernels, `tf.data`); everything random
takes its generator as an argument.
"""
