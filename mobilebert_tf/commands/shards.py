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
import operator
import os
import time

from mobilebert_tf.commands.command import Command
from mobilebert_tf.data.options import ShardOptions
from mobilebert_tf.options import Options, option

_SECONDS_BETWEEN_LINES = 10.0


@dataclasses.dataclass(frozen=True)
class WritingOptions(Options):
    """Where the files are written, and by how many processes."""

    group = "data"

    output_dir: str | None = option(
        None, "Folder for the TFRecord files.", required=True
    )
    num_processes: int | None = option(
        None,
        "Processes, which take 1 GB each; by default the number of cores.",
        min=1,
        everyday=True,
    )


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
        self._total = (0, 0, 0, 0)
        self._begin = self._last_line = None

    def add(self, progress: tuple[int, int, int, int]) -> None:
        """Adds a `ShardProgress` and, every ten seconds, prints a line."""
        self._total = tuple(map(operator.add, self._total, progress))
        now = time.monotonic()
        if self._begin is None:
            self._begin = self._last_line = now
        is_time = now - self._last_line >= _SECONDS_BETWEEN_LINES
        num_bytes, _, _, num_shards = self._total
        if is_time and num_bytes and num_shards < self._num_shards:
            self._last_line = now
            print(self, flush=True)

    def __str__(self) -> str:
        from mobilebert_tf.training.log import format_duration

        seconds = time.monotonic() - self._begin
        num_bytes, num_tokens, num_examples, num_shards = self._total
        line = (
            f"{num_shards} of {self._num_shards} files, "
            f"{num_examples:,} examples, {num_bytes / 1e6:,.1f} MB of text, "
            f"{num_bytes / 1e6 / seconds:.2f} MB/s, "
            f"{num_tokens / seconds:,.0f} tokens/s"
        )
        if num_shards == self._num_shards:
            return f"{line}, took {format_duration(seconds)}"
        share = num_shards / self._num_shards
        if self._num_bytes:
            share = min(1.0, num_bytes / self._num_bytes)
        if share:
            line += f", {format_duration(seconds * (1 / share - 1))} left"
        return line


def text_size(options: ShardOptions, num_shards: int) -> int | None:
    """Returns the bytes of text in some shards, or None if unknown."""
    files = options.input_files
    if not files or any(name.endswith(".gz") for name in files):
        return None
    total = sum(map(os.path.getsize, files))
    return total * num_shards // options.num_shards


def main(options: ShardOptions, writing: WritingOptions) -> None:
    """Reads, masks and writes."""
    from mobilebert_tf.data.shards import missing_shards, resolve, write_shards

    options = resolve(options)
    folder = writing.output_dir
    shards = missing_shards(folder, options)
    num_there = options.num_shards - len(shards)
    if num_there:
        print(f"{num_there} of {options.num_shards} files exist already.")
    line = ProgressLine(text_size(options, len(shards)), len(shards))
    processes = writing.num_processes or len(os.sched_getaffinity(0))
    for progress in write_shards(folder, options, shards, processes):
        line.add(progress)
    if shards:
        print(line)
    print(f"{folder} is complete.", flush=True)


COMMAND = Command(main, (ShardOptions, WritingOptions), description=__doc__)

if __name__ == "__main__":
    COMMAND()
