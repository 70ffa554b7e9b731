r"""Makes TFRecord files of pre-training examples from text.

    python -m mobilebert_tf.commands.shards \
        --input_files='corpus/*.txt' --vocab_file=vocab.txt \
        --output_dir=examples --max_seq_length=512 --dupe_factor=10

writes examples/examples-00000-of-00016.tfrecord and so on, in the format of
google-research/bert, which its readers and `run_pretraining.py` read.

run_pretraining.py also takes the text itself and makes new pairs and masks in
every epoch, which is better for the model; files are for text that memory does
not hold, for many readers, and for other programs.

The files are the same whatever the number of processes. A run that was stopped
goes on when it is given again: finished files stay, and others are made.
"""

import os
import time

from absl import flags

from mobilebert_tf.commands.flags import run_script
from mobilebert_tf.data.shards import (
    ShardProgress,
    ShardSettings,
    missing_shards,
    write_shards,
)
from mobilebert_tf.data.sources import file_size, matching_files, tfds_documents
from mobilebert_tf.errors import InputError
from mobilebert_tf.training.log import format_duration

FLAGS = flags.FLAGS

_SECONDS_BETWEEN_LINES = 10.0


def define_flags() -> None:
    """Defines the command's flags, when it is run and not when imported."""
    flags.DEFINE_list(
        "input_files",
        [],
        "Text files or globs, plain or .gz: a sentence or paragraph a line, a "
        "blank line between documents. A .gz file is not divided among shards.",
    )
    flags.DEFINE_string(
        "tfds_name",
        None,
        "Instead of --input_files: a prepared dataset of TensorFlow Datasets, "
        "such as wikipedia/20230601.en or wiki40b/en.",
    )
    flags.DEFINE_string(
        "tfds_data_dir",
        None,
        "Where it is; ~/tensorflow_datasets if not given.",
    )
    flags.DEFINE_string(
        "vocab_file", None, "Vocabulary, a piece a line.", required=True
    )
    flags.DEFINE_bool("do_lower_case", True, "Uncased vocabulary.")
    flags.DEFINE_string(
        "output_dir", None, "Folder for the TFRecord files.", required=True
    )
    flags.DEFINE_integer("max_seq_length", 128, "Length of every sequence.", 8)
    flags.DEFINE_integer(
        "max_predictions_per_seq",
        None,
        "Most masked pieces in a sequence; --masked_lm_prob of "
        "--max_seq_length if not given.",
        lower_bound=1,
    )
    flags.DEFINE_float(
        "masked_lm_prob", 0.15, "Share of pieces to mask.", 0.0, 1.0
    )
    flags.DEFINE_integer(
        "dupe_factor",
        10,
        "How often all text is used, each time with other pairs and masks.",
        lower_bound=1,
    )
    flags.DEFINE_float(
        "short_seq_prob",
        0.1,
        "Share of documents with shorter pairs.",
        0.0,
        1.0,
    )
    flags.DEFINE_bool("whole_word_mask", False, "Mask whole words.")
    flags.DEFINE_integer("num_shards", 16, "Number of files to write.", 1)
    flags.DEFINE_integer(
        "num_processes",
        None,
        "Processes at a time, of 1 GB each; as many as cores if not given.",
        lower_bound=1,
    )
    flags.DEFINE_integer("seed", 1, "Of pairs and masks.", 0)


def settings_from_flags() -> ShardSettings:
    """Returns what the flags say.

    Raises:
        InputError: no text or two kinds of text are named, or files or the
            dataset are missing.
    """
    if bool(FLAGS.input_files) == bool(FLAGS.tfds_name):
        raise InputError(
            "--input_files",
            "either this or --tfds_name",
            "both" if FLAGS.input_files else "neither",
        )
    files = []
    if FLAGS.input_files:
        files = matching_files(FLAGS.input_files)
    else:
        tfds_documents(FLAGS.tfds_name, FLAGS.tfds_data_dir)
    predictions = FLAGS.max_predictions_per_seq or max(
        1, round(FLAGS.masked_lm_prob * FLAGS.max_seq_length)
    )
    return ShardSettings(
        input_files=tuple(files),
        max_predictions_per_seq=predictions,
        **{
            name: FLAGS[name].value
            for name in (
                "tfds_name",
                "tfds_data_dir",
                "vocab_file",
                "do_lower_case",
                "max_seq_length",
                "masked_lm_prob",
                "short_seq_prob",
                "whole_word_mask",
                "dupe_factor",
                "num_shards",
                "seed",
            )
        },
    )


class ProgressLine:
    """Sums up reports and says how fast it goes and how long it will take.

    Time counts from the first report, when a process is ready to work.

    Args:
        num_bytes: text to read; None if that is not known.
        num_shards: shards to make.
    """

    def __init__(self, num_bytes: int | None, num_shards: int):
        self._num_bytes = num_bytes
        self._num_shards = num_shards
        self._bytes = self._tokens = self._examples = self._shards = 0
        self._begin = self._last_line = None

    def add(self, progress: ShardProgress) -> None:
        """Adds a report; prints a line if it is time for one."""
        self._bytes += progress.num_bytes
        self._tokens += progress.num_tokens
        self._examples += progress.num_examples
        self._shards += progress.is_finished
        now = time.monotonic()
        if self._begin is None:
            self._begin = self._last_line = now
        is_time = now - self._last_line >= _SECONDS_BETWEEN_LINES
        if is_time and self._bytes and self._shards < self._num_shards:
            self._last_line = now
            print(self, flush=True)

    def __str__(self) -> str:
        seconds = time.monotonic() - self._begin
        parts = [
            f"{self._shards} of {self._num_shards} files",
            f"{self._examples:,} examples",
            f"{self._bytes / 1e6:,.1f} MB of text",
            f"{self._bytes / 1e6 / seconds:.2f} MB/s",
            f"{self._tokens / seconds:,.0f} tokens/s",
        ]
        share = self._shards / self._num_shards
        if self._num_bytes:
            share = self._bytes / self._num_bytes
        if self._shards == self._num_shards:
            parts.append(f"took {format_duration(seconds)}")
        elif share:
            left = seconds * max(0.0, 1 - share) / share
            parts.append(f"{format_duration(left)} left")
        return ", ".join(parts)


def text_size(settings: ShardSettings, num_shards: int) -> int | None:
    """Bytes of text in so many shards; None where they cannot be known."""
    files = settings.input_files
    if not files or any(name.endswith(".gz") for name in files):
        return None
    total = sum(map(file_size, files))
    return total * num_shards // settings.num_shards


def main(_) -> None:
    """Reads, masks, writes."""
    settings = settings_from_flags()
    settings.tokenizer()  # An unfit vocabulary is refused before a folder.
    shards = missing_shards(FLAGS.output_dir, settings)
    num_there = settings.num_shards - len(shards)
    if num_there:
        print(f"{num_there} of {settings.num_shards} files are there.")
    line = ProgressLine(text_size(settings, len(shards)), len(shards))
    for progress in write_shards(
        FLAGS.output_dir,
        settings,
        shards,
        FLAGS.num_processes or len(os.sched_getaffinity(0)),
    ):
        line.add(progress)
    if shards:
        print(line)
    print(f"{FLAGS.output_dir} is complete.", flush=True)


if __name__ == "__main__":
    define_flags()
    run_script(main)
