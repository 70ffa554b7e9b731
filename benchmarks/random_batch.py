"""A full pre-training batch of random ids, for benchmarks of the step."""

import numpy as np


def random_batch(
    vocab_size: int, batch_size: int, max_seq_length: int, predictions: int
) -> dict:
    """Returns a batch without padding, the same at every call."""
    rng = np.random.default_rng(0)
    shape = (batch_size, max_seq_length)
    masked = (batch_size, predictions)
    return {
        "input_ids": rng.integers(0, vocab_size, shape, np.int32),
        "input_mask": np.ones(shape, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "masked_lm_positions": rng.integers(
            0, max_seq_length, masked, np.int32
        ),
        "masked_lm_ids": rng.integers(0, vocab_size, masked, np.int32),
        "masked_lm_weights": np.ones(masked, np.float32),
        "next_sentence_labels": np.zeros((batch_size, 1), np.int32),
    }
