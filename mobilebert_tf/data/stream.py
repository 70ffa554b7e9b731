"""Batch n of pre-training examples, a pure function of n.

Text (files, a dataset of TensorFlow Datasets, the built-in documentation) gets
new pairs and masks in each epoch. TFRecord files hold examples that are ready.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mobilebert_tf.data.batches import Arrays, made_ahead
from mobilebert_tf.data.corpus import TokenizedCorpus
from mobilebert_tf.data.examples import (
    Instances,
    epoch_instances,
    masked_examples,
)
from mobilebert_tf.data.records import (
    RecordIndex,
    are_tfrecords,
    record_batches,
    tfrecord_index,
)
from mobilebert_tf.data.sources import tokenize_split
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# Held-out text is paired and masked alike for every model.
_HELD_OUT_SEED = 0

# Second word of a generator's seed. NumPy pads seeds with zeros, so [seed, 1]
# and [seed, 1, 0] are the same stream: streams must differ in the second word.
_INSTANCE_STREAM = 0
_MASK_STREAM = 1


@dataclasses.dataclass(frozen=True)
class TextStream:
    """Batches of segment pairs out of a corpus, masked.

    Attributes:
        corpus: at least two documents.
        tokenizer: the one that made the corpus.
        batch_size: B, over all replicas.
        seed: decides pairs, order and masks.
        max_seq_length: S.
        max_predictions_per_seq: P.
        masked_lm_prob: share of the pieces that are predicted.
        short_seq_prob: probability that a document makes shorter pairs.
        whole_word_mask: mask all pieces of a word or none.
    """

    corpus: TokenizedCorpus
    tokenizer: WordpieceTokenizer
    batch_size: int
    seed: int
    max_seq_length: int
    max_predictions_per_seq: int
    masked_lm_prob: float = 0.15
    short_seq_prob: float = 0.1
    whole_word_mask: bool = False

    def batches(self, start_step: int = 0) -> Iterator[Arrays]:
        """Yields batches without end. Pairs left over by an epoch are dropped.

        Args:
            start_step: number of the first batch. Skipped epochs are packed
                again, to learn how many batches they held (0.1 s for 2.5
                million pieces); skipped batches are not made.

        Returns:
            `input_ids`, `input_mask`, `segment_ids` int32 [B, S];
            `masked_lm_positions`, `masked_lm_ids` int32 [B, P];
            `masked_lm_weights` float32 [B, P]; `next_sentence_labels` int32
            [B, 1].

        Raises:
            InputError: an epoch does not fill one batch, or there is only one
                document.
            ValueError: `max_seq_length` has no room for two segments.
        """
        # Found here rather than in the generator, so that bad input is an
        # error of the call and not of the first batch.
        epoch, index, instances = self._locate(start_step)
        return made_ahead(self._generate(start_step, epoch, index, instances))

    def _generate(
        self, step: int, epoch: int, index: int, instances: Instances
    ) -> Iterator[Arrays]:
        while True:
            while (index + 1) * self.batch_size <= len(instances):
                first = index * self.batch_size
                rows = slice(first, first + self.batch_size)
                yield masked_examples(
                    self.corpus.tokens,
                    instances.take(rows),
                    self.tokenizer,
                    max_seq_length=self.max_seq_length,
                    max_predictions_per_seq=self.max_predictions_per_seq,
                    rng=np.random.default_rng([self.seed, _MASK_STREAM, step]),
                    masked_lm_prob=self.masked_lm_prob,
                    whole_word_mask=self.whole_word_mask,
                )
                step, index = step + 1, index + 1
            epoch, index = epoch + 1, 0
            instances = self._epoch(epoch)

    def _locate(self, step: int) -> tuple[int, int, Instances]:
        """Returns a batch's epoch, its index there, and the epoch's pairs."""
        epoch, index, instances = 0, step, self._epoch(0)
        if len(instances) < self.batch_size:
            raise InputError(
                "training text",
                f"a batch of {self.batch_size} pairs of segments an epoch "
                "(use a smaller batch or more text)",
                f"{len(instances)} pairs",
            )
        while index >= len(instances) // self.batch_size:
            index -= len(instances) // self.batch_size
            epoch += 1
            instances = self._epoch(epoch)
        return epoch, index, instances

    def _epoch(self, epoch: int) -> Instances:
        return epoch_instances(
            self.corpus,
            self.max_seq_length,
            np.random.default_rng([self.seed, _INSTANCE_STREAM, epoch]),
            self.short_seq_prob,
        )


@dataclasses.dataclass(frozen=True)
class PretrainingInput:
    """Text or records to train on, and those held out for evaluation.

    Attributes:
        train: text or records.
        held_out: text or records.
        tokenizer: the one that made them.
        batch_size: sequences a step, over all devices.
        settings: how examples are made: fields of `TextStream`.
    """

    train: TokenizedCorpus | RecordIndex
    held_out: TokenizedCorpus | RecordIndex
    tokenizer: WordpieceTokenizer
    batch_size: int
    settings: Mapping

    def batches(self, seed: int, start_step: int = 0) -> Iterator[Arrays]:
        """Yields batches without end, from number `start_step` on.

        Raises:
            InputError: there is not enough for one batch.
        """
        return self._batches(self.train, self.batch_size, seed, start_step)

    def held_out_batches(self) -> tuple[Iterator[Arrays], int]:
        """Returns batches, and how many of them cover the held-out part.

        Where it does not fill a batch, batches are smaller.
        """
        size = self.batch_size
        if isinstance(self.held_out, RecordIndex):
            size = min(size, self.held_out.num_records)
            batches = self._batches(self.held_out, size, _HELD_OUT_SEED)
            return batches, self.held_out.num_records // size
        while True:
            try:
                batches = self._batches(self.held_out, size, _HELD_OUT_SEED)
                break
            except InputError:
                if size == 1:
                    raise
                size //= 2
        tokens_per_batch = size * self.settings["max_seq_length"]
        return batches, max(1, self.held_out.num_tokens // tokens_per_batch)

    def summary(self) -> str:
        """Describes how much text or how many records there are."""
        if isinstance(self.train, RecordIndex):
            return (
                f"{self.train.num_records:,} records "
                f"({self.held_out.num_records:,} held out)"
            )
        return (
            f"{self.train.num_documents:,} documents, "
            f"{self.train.num_tokens:,} tokens "
            f"({self.held_out.num_tokens:,} held out), vocabulary "
            f"{self.tokenizer.vocab_size:,}"
        )

    def _batches(self, part, batch_size, seed, start_step=0):
        if isinstance(part, RecordIndex):
            return record_batches(
                part,
                batch_size=batch_size,
                max_seq_length=self.settings["max_seq_length"],
                max_predictions_per_seq=self.settings[
                    "max_predictions_per_seq"
                ],
                vocab_size=self.tokenizer.vocab_size,
                seed=seed,
                start_step=start_step,
            )
        stream = TextStream(
            part, self.tokenizer, batch_size, seed, **self.settings
        )
        return stream.batches(start_step)


def open_pretraining_input(
    input_files: Sequence[str],
    tokenizer: WordpieceTokenizer,
    *,
    held_out_fraction: float,
    batch_size: int,
    settings: Mapping,
    tfds_name: str | None = None,
    tfds_data_dir: str | None = None,
) -> PretrainingInput:
    """Opens text or records.

    Args:
        input_files: names or globs of text files or TFRecord files. Without
            these and `tfds_name`: the installed packages' documentation.
        tokenizer: for the text, or the one that the records were made with.
        held_out_fraction: share of documents or records held out.
        batch_size: sequences a step.
        settings: how examples are made: fields of `TextStream`.
        tfds_name: a dataset of TensorFlow Datasets.
        tfds_data_dir: folder that the dataset was prepared in.

    Raises:
        InputError: the input does not exist, is malformed or is too short.
    """
    if are_tfrecords(input_files):
        if tfds_name:
            raise InputError(
                "--input_files", "either this or --tfds_name", "both"
            )
        parts = tfrecord_index(input_files).split(held_out_fraction)
    else:
        parts = tokenize_split(
            input_files,
            tokenizer,
            settings["max_seq_length"],
            held_out_fraction,
            tfds_name=tfds_name,
            tfds_data_dir=tfds_data_dir,
        )
    return PretrainingInput(*parts, tokenizer, batch_size, settings)
