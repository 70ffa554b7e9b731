"""Pre-training examples as `tf.Example` messages, as google-research/bert has.

Names, types and lengths of the features, and the checks of what is read.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from mobilebert_tf.data.batches import Arrays
from mobilebert_tf.errors import InputError


def feature_lengths(
    max_seq_length: int, max_predictions_per_seq: int
) -> dict[str, int]:
    """Returns the length of each feature of a record, by name.

    In the file `masked_lm_weights` is float32 and the others are int64.
    """
    return {
        "input_ids": max_seq_length,
        "input_mask": max_seq_length,
        "segment_ids": max_seq_length,
        "masked_lm_positions": max_predictions_per_seq,
        "masked_lm_ids": max_predictions_per_seq,
        "masked_lm_weights": max_predictions_per_seq,
        "next_sentence_labels": 1,
    }


def serialize_examples(batch: Arrays) -> list[bytes]:
    """Serialises a batch as `tf.Example` messages.

    The bytes are those of protobuf's deterministic serialisation.
    `tf.io.encode_proto` makes them for the whole batch, level by level of the
    nested messages; building messages in Python takes longer than masking does.

    Args:
        batch: integer arrays and float32 arrays, each [B, ...].

    Returns:
        B messages, with features in the order of their names.
    """
    entries = []
    for name in sorted(batch):
        values = np.reshape(batch[name], (len(batch[name]), -1))
        kind = "float" if values.dtype == np.float32 else "int64"
        values = values.astype(kind.replace("float", "float32"))
        message = f"{kind.capitalize()}List"
        packed = _encode(f"tensorflow.{message}", value=values)
        feature = _encode("tensorflow.Feature", **{f"{kind}_list": packed})
        key = np.full((len(values), 1), name.encode(), object)
        entries.append(
            _encode("tensorflow.Features.FeatureEntry", key=key, value=feature)
        )
    features = _encode("tensorflow.Features", feature=np.hstack(entries))
    return _encode("tensorflow.Example", features=features)[:, 0].tolist()


def _encode(message_type: str, **fields: np.ndarray) -> np.ndarray:
    """Encodes fields, each [B, count], as messages, object [B, 1]."""
    sizes = [np.full(len(array), array.shape[1]) for array in fields.values()]
    messages = tf.io.encode_proto(
        np.stack(sizes, axis=1).astype(np.int32),
        list(fields.values()),
        list(fields),
        message_type,
    )
    return messages.numpy()[:, None]


def parse_examples(
    records: Sequence[bytes],
    places: Sequence[tuple[str, int]],
    *,
    max_seq_length: int,
    max_predictions_per_seq: int,
    vocab_size: int,
) -> dict[str, np.ndarray]:
    """Parses serialised examples; the reverse of `serialize_examples`.

    Args:
        records: B messages.
        places: file and number, from 0, of each record, for error messages.
        max_seq_length: S.
        max_predictions_per_seq: P.
        vocab_size: bound of the ids.

    Returns:
        The arrays of `TextStream.batches`.

    Raises:
        InputError: a feature is missing, has another type or length, or has a
            value out of range.
    """
    lengths = feature_lengths(max_seq_length, max_predictions_per_seq)
    spec = {
        name: tf.io.FixedLenFeature(
            [length],
            tf.float32 if name == "masked_lm_weights" else tf.int64,
        )
        for name, length in lengths.items()
    }
    try:
        parsed = tf.io.parse_example(np.array(records, object), spec)
    # UnicodeDecodeError: TensorFlow's message quotes bytes that are not text.
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError):
        for record, place in zip(records, places, strict=True):
            _check_features(record, place, lengths)
        raise
    batch = {name: tensor.numpy() for name, tensor in parsed.items()}
    _check_ranges(batch, places, vocab_size)
    return {
        name: array if array.dtype == np.float32 else array.astype(np.int32)
        for name, array in batch.items()
    }


def _check_features(
    record: bytes, place: tuple[str, int], lengths: dict[str, int]
) -> None:
    """Raises an error that says why TensorFlow could not parse a record."""
    file, number = place
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise InputError(
            file, "a tf.Example", "something else", f"record {number}"
        ) from error
    for name, length in lengths.items():
        kind = "float" if name == "masked_lm_weights" else "int64"
        expected = f"{length} {kind} values of {name}"
        found = "none"
        if name in features:
            field = features[name].WhichOneof("kind") or "no_list"
            count = len(getattr(features[name], field).value)
            found = f"{count} {field.removesuffix('_list')} values"
        if found != f"{length} {kind} values":
            raise InputError(
                file,
                f"{expected} (--max_seq_length and --max_predictions_per_seq "
                "must be those that the file was made with)",
                found,
                f"record {number}",
            )


def _check_ranges(
    batch: dict[str, np.ndarray],
    places: Sequence[tuple[str, int]],
    vocab_size: int,
) -> None:
    bounds = {
        "input_ids": vocab_size,
        "masked_lm_ids": vocab_size,
        "input_mask": 2,
        "segment_ids": 2,
        "next_sentence_labels": 2,
        "masked_lm_positions": batch["input_ids"].shape[1],
    }
    for name, bound in bounds.items():
        values = batch[name]
        wrong = (values < 0) | (values >= bound)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            file, number = places[row]
            hint = " (the vocabulary's size)" if name.endswith("_ids") else ""
            raise InputError(
                file,
                f"{name} from 0 to {bound - 1}"
                f"{hint if bound == vocab_size else ''}",
                values[row, column],
                f"record {number}",
            )
    weights = batch["masked_lm_weights"]
    wrong = ~(np.isfinite(weights) & (weights >= 0)).all(axis=1)
    if wrong.any():
        file, number = places[np.flatnonzero(wrong)[0]]
        raise InputError(
            file,
            "masked_lm_weights of 0 or more",
            "others",
            f"record {number}",
        )
