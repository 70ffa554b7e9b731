"""Pre-training files made the straightforward way, to compare with.

What `create_pretraining_data.py` of google-research/bert does, told again in
plain Python: documents as lists of lists of ids, pairs and masks drawn one
after another, a `tf.train.Example` filled field by field.
"""

import random
from collections.abc import Callable, Iterator

import tensorflow as tf

Tokenize = Callable[[list[str]], list[list[int]]]

_LINES_AT_A_TIME = 1000


def read_tokens(path: str, tokenize: Tokenize) -> list[list[list[int]]]:
    """Reads a file, a sentence a line, as documents of lines of ids."""
    lines = []
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    ids = []
    for first in range(0, len(lines), _LINES_AT_A_TIME):
        ids += tokenize(lines[first : first + _LINES_AT_A_TIME])
    documents = [[]]
    for line, line_ids in zip(lines, ids, strict=True):
        if not line:
            documents.append([])
        elif line_ids:
            documents[-1].append(line_ids)
    return [document for document in documents if document]


class PlainWriter:
    """Makes and writes examples one at a time.

    Args:
        special: ids of [PAD], [CLS], [SEP] and [MASK].
        vocab_size: random replacements are drawn from this many ids.
        max_seq_length: S.
        max_predictions_per_seq: P.
        seed: of `random.Random`.
    """

    def __init__(
        self, special, vocab_size, max_seq_length, max_predictions_per_seq, seed
    ):
        self._pad, self._cls, self._sep, self._mask = special
        self._vocab_size = vocab_size
        self._length = max_seq_length
        self._predictions = max_predictions_per_seq
        self._rng = random.Random(seed)

    def write(
        self, documents: list[list[list[int]]], dupe_factor: int, path: str
    ) -> tuple[int, int]:
        """Returns the numbers of examples and of their tokens."""
        self._rng.shuffle(documents)
        instances = [
            instance
            for _ in range(dupe_factor)
            for index in range(len(documents))
            for instance in self._instances(documents, index)
        ]
        self._rng.shuffle(instances)
        with tf.io.TFRecordWriter(path) as writer:
            for instance in instances:
                writer.write(self._example(*instance).SerializeToString())
        return len(instances), sum(len(instance[0]) for instance in instances)

    def _instances(self, documents, index) -> Iterator[tuple]:
        rng, room = self._rng, self._length - 3
        document = documents[index]
        target = rng.randint(2, room) if rng.random() < 0.1 else room
        chunk, length, i = [], 0, 0
        while i < len(document):
            chunk.append(document[i])
            length += len(document[i])
            if i == len(document) - 1 or length >= target:
                end = 1 if len(chunk) == 1 else rng.randint(1, len(chunk) - 1)
                a = [piece for line in chunk[:end] for piece in line]
                b = []
                is_random = len(chunk) == 1 or rng.random() < 0.5
                if is_random:
                    other = index
                    while other == index:
                        other = rng.randint(0, len(documents) - 1)
                    start = rng.randint(0, len(documents[other]) - 1)
                    for line in documents[other][start:]:
                        b.extend(line)
                        if len(a) + len(b) >= target:
                            break
                    i -= len(chunk) - end
                else:
                    b = [piece for line in chunk[end:] for piece in line]
                yield self._masked(*self._cut(a, b, room), is_random)
                chunk, length = [], 0
            i += 1

    def _cut(self, a, b, room):
        while len(a) + len(b) > room:
            longer = a if len(a) > len(b) else b
            if self._rng.random() < 0.5:
                del longer[0]
            else:
                longer.pop()
        return a, b

    def _masked(self, a, b, is_random):
        rng = self._rng
        ids = [self._cls, *a, self._sep, *b, self._sep]
        segments = [0] * (len(a) + 2) + [1] * (len(b) + 1)
        candidates = [
            position
            for position, piece in enumerate(ids)
            if piece not in (self._cls, self._sep)
        ]
        rng.shuffle(candidates)
        count = max(1, round(len(ids) * 0.15))
        predicted = []
        for position in candidates[: min(count, self._predictions)]:
            original = ids[position]
            if rng.random() < 0.8:
                ids[position] = self._mask
            elif rng.random() < 0.5:
                ids[position] = rng.randint(0, self._vocab_size - 1)
            predicted.append((position, original))
        predicted.sort()
        return ids, segments, predicted, int(is_random)

    def _example(self, ids, segments, predicted, label) -> tf.train.Example:
        padding = [0] * (self._length - len(ids))
        slots = [0] * (self._predictions - len(predicted))
        integers = {
            "input_ids": ids + [self._pad] * len(padding),
            "input_mask": [1] * len(ids) + padding,
            "segment_ids": segments + padding,
            "masked_lm_positions": [place for place, _ in predicted] + slots,
            "masked_lm_ids": [piece for _, piece in predicted] + slots,
            "next_sentence_labels": [label],
        }
        feature = {
            name: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
            for name, values in integers.items()
        }
        weights = [1.0] * len(predicted) + [0.0] * len(slots)
        feature["masked_lm_weights"] = tf.train.Feature(
            float_list=tf.train.FloatList(value=weights)
        )
        return tf.train.Example(features=tf.train.Features(feature=feature))
