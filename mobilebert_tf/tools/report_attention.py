"""What heads look at: maps of one sentence, and how far two models differ."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# A sentence of so many pieces labels an attention map legibly.
_SENTENCE_PIECES = 10
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def example_sentence(
    texts: Sequence[str], tokenizer: WordpieceTokenizer
) -> str:
    """Picks the first sentence that suits an attention map in length."""
    sentences = [
        sentence for text in texts for sentence in _SENTENCE_END.split(text)
    ]
    lengths = tokenizer.tokenize(sentences).row_lengths().numpy()
    return sentences[int(np.argmin(np.abs(lengths - _SENTENCE_PIECES)))]


def attention_maps(encoder, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns attention probabilities, [B, L, N, S, S]."""
    probs = encoder(inputs, training=False).attention_probs
    return np.stack([np.asarray(block) for block in probs], axis=1)


def attention_difference(
    ours: np.ndarray, theirs: np.ndarray, input_mask: np.ndarray
) -> float:
    """The share of attention that lies elsewhere, mean over real queries.

    Total variation: 0 for the same maps, 1 for disjoint ones.

    Args:
        ours: [B, L, N, S, S].
        theirs: the same of another model.
        input_mask: [B, S], 1 for real tokens.
    """
    elsewhere = 0.5 * np.abs(ours - theirs).sum(axis=-1)  # [B, L, N, S]
    by_query = elsewhere.mean(axis=(1, 2))
    return float((by_query * input_mask).sum() / input_mask.sum())
