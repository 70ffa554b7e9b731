"""Batches of pre-training examples, wherever they come from.

Text (files, a dataset of TensorFlow Datasets, the built-in documentation) gets
fresh pairs and masks at each epoch; TFRecord files hold ready-made examples.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from mobilebert_tf.data.batches import pretraining_dataset
from mobilebert_tf.data.corpus import TokenizedCorpus
from mobilebert_tf.data.records import (
    RecordIndex,
    are_tfrecords,
    tfrecord_dataset,
    tfrecord_index,
)
from mobilebert_tf.data.sources import tokenize_split
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# What every model is asked, whatever it was trained with.
_HELD_OUT_SEED = 0


@dataclasses.dataclass(frozen=True)
class PretrainingInput:
    """What is trained on, and what is held out and evaluated.

    Attributes:
        train: text or records to train on.
        held_out: those to evaluate on.
        tokenizer: of the text.
        batch_size: sequences a step, over all devices.
        settings: how examples are made, of `pretraining_dataset`.
    """

    train: TokenizedCorpus | RecordIndex
    held_out: TokenizedCorpus | RecordIndex
    tokenizer: WordpieceTokenizer
    batch_size: int
    settings: Mapping

    def batches(self, seed: int, start_step: int = 0) -> tf.data.Dataset:
        """Returns endless batches from number `start_step` on.

        Raises:
            InputError: if not even one batch can be made.
        """
        return self._dataset(self.train, self.batch_size, seed, start_step)

    def held_out_batches(self) -> tuple[tf.data.Dataset, int]:
        """Returns (batches, how many of them cover the held-out part).

        Few examples give small batches rather than none; seed and masks are
        fixed, so that every model is asked the same.
        """
        if isinstance(self.held_out, RecordIndex):
            size = min(self.batch_size, self.held_out.num_records)
            dataset = self._dataset(self.held_out, size, _HELD_OUT_SEED)
            return dataset, self.held_out.num_records // size
        size = self.batch_size
        while True:
            try:
                dataset = self._dataset(self.held_out, size, _HELD_OUT_SEED)
                break
            except InputError:
                if size == 1:
                    raise
                size //= 2
        tokens_per_batch = size * self.settings["max_seq_length"]
        return dataset, max(1, self.held_out.num_tokens // tokens_per_batch)

    def summary(self) -> str:
        """Says how much there is."""
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

    def _dataset(self, part, batch_size, seed, start_step=0):
        if isinstance(part, RecordIndex):
            return tfrecord_dataset(
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
        return pretraining_dataset(
            part,
            self.tokenizer,
            batch_size=batch_size,
            seed=seed,
            start_step=start_step,
            **self.settings,
        )


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
        input_files: text files or TFRecord files, names or globs; with neither
            these nor `tfds_name`, the documentation of the installed packages.
        tokenizer: of the text, or the one that the records were made with.
        held_out_fraction: share of documents, or records, to evaluate on.
        batch_size: sequences a step.
        settings: how examples are made, of `pretraining_dataset`.
        tfds_name: a dataset of TensorFlow Datasets.
        tfds_data_dir: where that was prepared.

    Raises:
        InputError: if there is no such input, or it is unfit.
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
