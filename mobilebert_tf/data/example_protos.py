"""Pre-training examples as records: google-research/bert's `tf.Example`.

Owns the wire format: names, types and lengths of the features, and the bytes
that stand for them. Files written by the original `create_pretraining_data.py`
are read, and its readers read ours.

Why the bytes are assembled here: building a protobuf message in Python takes
longer than making the example did. NumPy encodes the integers of a whole batch
at once; the bytes are those of protobuf's own deterministic serialisation.

Shape letters: B batch, S sequence length, P predictions per sequence.
"""

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from mobilebert_tf.errors import InputError

# Protobuf: field number and wire type 2, "a length, then so many bytes".
_FIELD_1, _FIELD_2, _FIELD_3 = b"\x0a", b"\x12", b"\x1a"


def feature_lengths(
    max_seq_length: int, max_predictions_per_seq: int
) -> dict[str, int]:
    """Returns the length of every feature of a record, by name.

    All are int64 on the wire but `masked_lm_weights`, which is float32.
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


def serialize_examples(batch: dict[str, np.ndarray]) -> list[bytes]:
    """Returns a batch's examples as serialised `tf.Example` messages.

    Args:
        batch: integer arrays, 0 or more, and float32 arrays, each [B, ...].

    Returns:
        B messages, their features in the order of their names.
    """
    names = sorted(batch)
    payloads = [_payloads(batch[name]) for name in names]
    kinds = [
        _FIELD_2 if batch[name].dtype == np.float32 else _FIELD_3
        for name in names
    ]
    records = []
    for row in zip(*payloads, strict=True):
        parts = []
        for name, kind, payload in zip(names, kinds, row, strict=True):
            parts += [_feature_header(name, kind, len(payload)), payload]
        content = b"".join(parts)
        records.append(_FIELD_1 + _varint(len(content)) + content)
    return records


def _payloads(array: np.ndarray) -> list[bytes]:
    """Each row's values as a packed list."""
    if array.dtype == np.float32:
        return [row.tobytes() for row in array.astype("<f4")]
    values = array.reshape(len(array), -1)
    largest = int(values.max(initial=0))
    if largest <= 0x7F:
        return [row.tobytes() for row in values.astype(np.uint8)]
    # Seven bits a byte, the lowest first; the high bit says that more follow.
    num_bytes = np.ones(values.shape, np.int64)
    for shift in range(7, largest.bit_length(), 7):
        num_bytes += values >> shift > 0
    ends = np.cumsum(num_bytes)
    starts = ends.reshape(values.shape) - num_bytes
    encoded = np.empty(ends[-1], np.uint8)
    for index in range(num_bytes.max()):
        chosen = num_bytes > index
        seven_bits = values[chosen] >> 7 * index & 0x7F
        more = num_bytes[chosen] > index + 1
        encoded[starts[chosen] + index] = seven_bits | more << 7
    content = encoded.tobytes()
    bounds = [*starts[:, 0].tolist(), len(content)]
    return [
        content[start:end]
        for start, end in zip(bounds[:-1], bounds[1:], strict=True)
    ]


@functools.lru_cache(maxsize=4096)
def _feature_header(name: str, kind: bytes, length: int) -> bytes:
    """What stands before a packed list: a map entry's key, three lengths."""
    packed = _FIELD_1 + _varint(length)
    values = kind + _varint(len(packed) + length) + packed
    feature = _FIELD_2 + _varint(len(values) + length) + values
    key = _FIELD_1 + _varint(len(name)) + name.encode()
    return _FIELD_1 + _varint(len(key) + len(feature) + length) + key + feature


@functools.lru_cache(maxsize=4096)
def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def parse_examples(
    records: Sequence[bytes],
    places: Sequence[tuple[str, int]],
    *,
    max_seq_length: int,
    max_predictions_per_seq: int,
    vocab_size: int,
) -> dict[str, np.ndarray]:
    """Reads serialised examples; the reverse of `serialize_examples`.

    Args:
        records: B messages.
        places: file and number, from 0, of each record, for errors.
        max_seq_length: S.
        max_predictions_per_seq: P.
        vocab_size: ids reach up to here.

    Returns:
        The arrays of `batching.pretraining_dataset`: int32 and, for
        `masked_lm_weights`, float32.

    Raises:
        InputError: a feature is missing, is of another type or length, or
            holds what no model with this vocabulary could read.
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
    # The second when TensorFlow's message quotes bytes that are no text.
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
    """Says what is wrong with a record that TensorFlow could not parse."""
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
