"""Tiny architectures, models, vocabularies and batches for all tests.

Importing this module needs neither Keras nor TensorFlow; building a model does.
All widths differ, so that a transposed or misplaced matrix is noticed. Dropout
is off unless a test turns it on.
"""

import contextlib
import os
import random

import numpy as np

import mobilebert_tf as mb

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Any lower-case text can be split into these 64 pieces.
PIECES = (
    *SPECIAL,
    *("the", "cat", "sat", "mat", "not", "good", "."),
    *_LETTERS,
    *(f"##{letter}" for letter in _LETTERS),
)
VOCAB_SIZE = len(PIECES)
MAX_LENGTH = 24
LABELS = ("no", "maybe", "yes")
# How `compile` shall build a step of `fit`: on TensorFlow without XLA, which
# takes ten times as long for steps of no time.
JIT_COMPILE = "auto" if os.environ.get("KERAS_BACKEND") == "jax" else False

_STUDENT = {
    "vocab_size": VOCAB_SIZE,
    "embedding_size": 12,
    "hidden_size": 32,
    "intra_bottleneck_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_feedforward_networks": 2,
    "max_position_embeddings": MAX_LENGTH,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.0,
}
# Feature maps and heads as the student's; wider inside, without bottleneck
# for query and key.
_TEACHER = _STUDENT | {
    "intra_bottleneck_size": 48,
    "intermediate_size": 40,
    "num_feedforward_networks": 1,
    "hidden_act": "gelu",
    "normalization_type": "layer_norm",
    "key_query_shared_bottleneck": False,
    "classifier_activation": True,
}


def student_config(**changes) -> mb.MobileBertConfig:
    """A MobileBERT of two blocks with two feed-forward networks each."""
    return mb.MobileBertConfig(**_STUDENT | changes)


def teacher_config(**changes) -> mb.MobileBertConfig:
    """An IB-BERT that `student_config()` can learn from."""
    return mb.MobileBertConfig(**_TEACHER | changes)


def tokenizer(do_lower_case: bool = True):
    return mb.WordpieceTokenizer(PIECES, do_lower_case)


def pretraining_model(config=None, **kwargs):
    return mb.MobileBertForPretraining(config or student_config(), **kwargs)


def classifier(labels=LABELS, config=None, **changes):
    config = config or student_config(**changes)
    return mb.MobileBertForSequenceClassification(config, labels)


def write_folder(folder, model=None):
    """Writes a model folder (a classifier by default) with its vocabulary."""
    model = model or classifier()
    model.save_pretrained(folder)
    tokenizer().write(folder, model.config.max_position_embeddings)
    return folder


def randomise(model, rng, gammas=(0.7, 1.3), gain=0.6) -> None:
    """Draws all weights so that no term of the network is trivial."""
    for variable in model.weights:
        part, shape = variable.path.split("/")[-1], variable.shape
        if part == "gamma":
            values = rng.uniform(*gammas, shape)
        elif part == "kernel":
            values = rng.normal(0.0, gain / np.sqrt(shape[0]), shape)
        else:
            values = rng.normal(0.0, 0.1, shape)
        variable.assign(values)


def batch(rng=0, lengths=(10, 7, 4), width=None, vocab_size=VOCAB_SIZE) -> dict:
    """Pairs of segments of the given lengths, padded to `width` or the longest.

    `rng` is a generator or a seed. Arrays are int32 [B, S].
    """
    rng = np.random.default_rng(rng)
    lengths = np.array(lengths)[:, None]
    positions = np.arange(width or lengths.max())
    mask = (positions < lengths).astype("int32")
    segments = (positions >= lengths // 2).astype("int32")
    ids = rng.integers(len(SPECIAL), vocab_size, mask.shape, dtype="int32")
    return {
        "input_ids": ids * mask,
        "input_mask": mask,
        "segment_ids": segments * mask,
    }


def pretraining_batch(
    rng=0, lengths=(10, 7, 4, 9), width=None, num_predictions=3
) -> dict:
    """A batch with masked positions (the first has none) and pair labels."""
    rng = np.random.default_rng(rng)
    inputs = batch(rng, lengths, width)
    size = len(lengths)
    used = rng.integers(1, num_predictions + 1, (size, 1))
    used[0] = 0
    weights = (np.arange(num_predictions) < used).astype("float32")
    positions = rng.integers(0, min(lengths), weights.shape, dtype="int32")
    ids = rng.integers(len(SPECIAL), VOCAB_SIZE, weights.shape, dtype="int32")
    return inputs | {
        "masked_lm_positions": positions,
        "masked_lm_ids": ids,
        "masked_lm_weights": weights,
        "next_sentence_labels": rng.integers(0, 2, (size, 1), dtype="int32"),
    }


def labelled_arrays(number: int, seed: int, width: int = MAX_LENGTH) -> dict:
    """Two-class examples of 3 to 20 pieces; the first piece tells the class."""
    rng = np.random.default_rng(seed)
    arrays = batch(rng, rng.integers(3, 21, number), width)
    labels = rng.integers(0, 2, number, dtype="int32")
    arrays["input_ids"][:, 0] = SPECIAL.index("[CLS]")
    arrays["input_ids"][:, 1] = VOCAB_SIZE - 2 + labels
    return arrays | {
        "segment_ids": np.zeros_like(arrays["input_ids"]),
        "labels": labels,
    }


def write_corpus(path, num_documents=60):
    """Writes documents of twelve short sentences about one of two topics."""
    rng = random.Random(0)
    topics = "fish wave boat shell crab", "tree stone horse field bird"
    documents = []
    for index in range(num_documents):
        nouns = topics[index % 2].split()
        sentences = [
            f"The {rng.choice(nouns)} {rng.choice(('sees', 'likes', 'finds'))} "
            f"the {rng.choice(nouns)}."
            for _ in range(12)
        ]
        documents.append("\n".join(sentences))
    path.write_text("\n\n".join(documents))
    return path


@contextlib.contextmanager
def policy(name: str):
    """The dtype policy of the layers made in this context."""
    import keras

    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def numpy(tensor) -> np.ndarray:
    """A tensor of any backend as an array."""
    import keras

    return np.asarray(keras.ops.convert_to_numpy(tensor))


def relative_error(found, wanted) -> float:
    """The largest difference, relative to the largest value."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
