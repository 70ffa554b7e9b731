r"""Makes TFRecord files of pre-training examples from text.

    mobilebert shards --input_files='corpus/*.txt' --vocab_file=vocab.txt \
        --output_dir=examples --max_seq_length=512 --dupe_factor=10

writes examples/examples-00000-of-00016.tfrecord and so on, in the format of
google-research/bert. `run_pretraining.py` reads these files or the text itself.
With the text it makes new pairs and masks in each epoch, which is better for
the model; files are for text that does not fit into memory, for many readers,
and for other programs.

The number of processes does not change the files. A run that was stopped
continues when the same command is given again.
"""

import dataclasses
import os
import time

from mobilebert_tf.commands.command import Command
from mobilebert_tf.errors import InputError
from mobilebert_tf.options import Options, option

_SECONDS_BETWEEN_LINES = 10.0


@dataclasses.dataclass(frozen=True)
class ShardOptions(Options):
    """Which text becomes which files."""

    group = "data"

    input_files: tuple[str, ...] = option(
        (),
        "Text files or globs, plain or .gz: one sentence or paragraph a line, "
        "a blank line between documents. A .gz file stays in one shard.",
        everyday=True,
    )
    tfds_name: str | None = option(
        None,
        "Instead of --input_files: a prepared dataset of TensorFlow Datasets, "
        "for example wikipedia/20230601.en or wiki40b/en.",
        everyday=True,
    )
    tfds_data_dir: str | None = option(
        None,
        "Folder that the dataset was prepared in; by default "
        "~/tensorflow_datasets.",
    )
    vocab_file: str | None = option(
        None, "Vocabulary, one piece a line.", required=True
    )
    do_lower_case: bool = option(
        True, "The vocabulary is uncased.", everyday=True
    )
    output_dir: str | None = option(
        None, "Folder for the TFRecord files.", required=True
    )
    max_seq_length: int = option(
        128, "Pieces in each sequence.", min=8, everyday=True
    )
    max_predictions_per_seq: int | None = option(
        None,
        "Maximum of masked pieces in a sequence; by default --masked_lm_prob "
        "times --max_seq_length.",
        min=1,
        everyday=True,
    )
    masked_lm_prob: float = option(
        0.15, "Share of pieces to mask.", min=0.0, max=1.0
    )
    dupe_factor: int = option(
        10,
        "Times that the text is used, each time with other pairs and masks.",
        min=1,
        everyday=True,
    )
    short_seq_prob: float = option(
        0.1, "Share of documents with shorter pairs.", min=0.0, max=1.0
    )
    whole_word_mask: bool = option(
        False, "Mask all pieces of a word or none.", everyday=True
    )
    num_shards: int = option(
        16, "Number of files to write.", min=1, everyday=True
    )
    num_processes: int | None = option(
        None,
        "Processes, which take 1 GB each; by default the number of cores.",
        min=1,
        everyday=True,
    )
    seed: int = option(1, "Random seed.", min=0, everyday=True)


def settings_of(options: ShardOptions):
    """Returns the `ShardSettings` that the options name.

    Raises:
        InputError: no text or two kinds of text are named, or files or the
            dataset are missing.
    """
    from mobilebert_tf.data.shards import ShardSettings
    from mobilebert_tf.data.sources import matching_files, tfds_documents

    if bool(options.input_files) == bool(options.tfds_name):
        raise InputError(
            "--input_files",
            "either this or --tfds_name",
            "both" if options.input_files else "neither",
        )
    files = []
    if options.input_files:
        files = matching_files(options.input_files)
    else:
        tfds_documents(options.tfds_name, options.tfds_data_dir)
    values = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(ShardSettings)
    }
    values["input_files"] = tuple(files)
    values["max_predictions_per_seq"] = options.max_predictions_per_seq or max(
        1, round(options.masked_lm_prob * options.max_seq_length)
    )
    return ShardSettings(**values)


class ProgressLine:
    """Adds up reports and prints the rate and the time left.

    Time counts from the first report, when a process is ready.

    Args:
        num_bytes: text to read, or None if unknown.
        num_shards: shards to make.
    """

    def __init__(self, num_bytes: int | None, num_shards: int):
        self._num_bytes = num_bytes
        self._num_shards = num_shards
        self._bytes = self._tokens = self._examples = self._shards = 0
        self._begin = self._last_line = None

    def add(self, progress) -> None:
        """Adds a report and, every ten seconds, prints a line."""
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
        from mobilebert_tf.training.log import format_duration

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


def text_size(settings, num_shards: int) -> int | None:
    """Returns the bytes of text in some shards, or None if unknown."""
    from mobilebert_tf.data.sources import file_size

    files = settings.input_files
    if not files or any(name.endswith(".gz") for name in files):
        return None
    total = sum(map(file_size, files))
    return total * num_shards // settings.num_shards


def main(options: ShardOptions) -> None:
    """Reads, masks and writes."""
    from mobilebert_tf.data.shards import missing_shards, write_shards

    settings = settings_of(options)
    settings.tokenizer()  # Refuses a bad vocabulary before a folder is made.
    shards = missing_shards(options.output_dir, settings)
    num_there = settings.num_shards - len(shards)
    if num_there:
        print(f"{num_there} of {settings.num_shards} files exist already.")
    line = ProgressLine(text_size(settings, len(shards)), len(shards))
    for progress in write_shards(
        options.output_dir,
        settings,
        shards,
        options.num_processes or len(os.sched_getaffinity(0)),
    ):
        line.add(progress)
    if shards:
        print(line)
    print(f"{options.output_dir} is complete.", flush=True)


COMMAND = Command(main, (ShardOptions,), description=__doc__)

if __name__ == "__main__":
    COMMAND()
