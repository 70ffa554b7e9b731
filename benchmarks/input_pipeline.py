"""How fast one core makes pre-training examples, writes them and reads them.

    MOBILEBERT_TF_DATA=FOLDER python -m benchmarks.input_pipeline

with FOLDER/corpus/*.txt and FOLDER/vocab/*.txt, or --input_files and
--vocab_file; without either, the documentation of the installed packages and a
vocabulary learned from it. Everything runs on one core and one thread, and
times are CPU seconds of the process: medians of turns.
"""

import os

# Before TensorFlow and tokenizers count the cores.
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import dataclasses  # noqa: E402
import itertools  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

from benchmarks.instruments import DATA, VOCABULARY, interleaved, start  # noqa: E402# noqa: E402
from mobilebert_tf.data import shards, sources  # noqa: E402
from mobilebert_tf.data.corpus import tokenize_documents  # noqa: E402
from mobilebert_tf.data.options import (  # noqa: E402
    ShardOptions,
    TextOptions,
)
from mobilebert_tf.data.records import index_records  # noqa: E402
from mobilebert_tf.data.stream import RecordStream, TextStream  # noqa: E402
from mobilebert_tf.options import Options, option  # noqa: E402
from mobilebert_tf.text.tokenizer import WordpieceTokenizer  # noqa: E402
from mobilebert_tf.text.vocabulary import learn_vocabulary  # noqa: E402

NUM_EXAMPLES = 8192
TOKENIZE, WRITE = "reading and tokenizing", "writing TFRecords"


@dataclasses.dataclass(frozen=True)
class PipelineOptions(Options):
    """Which text, and how much of it."""

    input_files: tuple[str, ...] = option(
        (f"{DATA}/corpus/*.txt",) if DATA.exists() else (), "Text."
    )
    vocab_file: str | None = option(
        f"{VOCABULARY}" if VOCABULARY.exists() else None, "Vocabulary, uncased."
    )
    megabytes: float = option(4.0, "Text to read, of each of the files.")
    max_seq_length: int = option(128, "S.", min=8)
    dupe_factor: int = option(2, "Copies of the text in the files.", min=1)
    repeats: int = option(3, "Measurements of each row.", min=1)

    @property
    def predictions(self) -> int:
        """P, as the commands choose it."""
        return round(0.15 * self.max_seq_length)


def write_text(options: PipelineOptions, folder: Path) -> tuple[str, str]:
    """Writes the text, a sentence a line; returns it and the vocabulary."""
    path = folder / "text.txt"
    files = sources.matching_files(options.input_files or ())
    with open(path, "w", encoding="utf-8") as file:
        for source in [[name] for name in files] or [[]]:
            num_characters = 0
            for document in sources.read_text(TextOptions(tuple(source))):
                file.write("\n".join(document) + "\n\n")
                num_characters += sum(map(len, document))
                if num_characters > 1e6 * options.megabytes:
                    break
    if options.vocab_file:
        return str(path), options.vocab_file
    lines = (
        line for lines in sources.read_documents([str(path)]) for line in lines
    )
    vocab_file = folder / "vocab.txt"
    pieces = learn_vocabulary(lines, 8000, True)
    vocab_file.write_text("\n".join(pieces) + "\n")
    return str(path), str(vocab_file)


def write_shard(options, path, vocab_file, tokenizer, folder) -> int:
    """Writes the text as one file; returns the number of examples."""
    settings = ShardOptions(
        input_files=(path,),
        vocab_file=vocab_file,
        max_seq_length=options.max_seq_length,
        max_predictions_per_seq=options.predictions,
        dupe_factor=options.dupe_factor,
        num_shards=1,
    )
    reports = list(shards.write_shard(folder, settings, tokenizer, 0))
    return sum(report.num_examples for report in reports)


def take(batches: Iterator[dict], num_batches: int) -> Callable[[], list]:
    """Returns a call that draws batches from a running iterator."""
    next(batches)
    return lambda: list(itertools.islice(batches, num_batches))


def readers(options, corpus, tokenizer, folder: Path) -> dict[str, Callable]:
    """Returns calls that read `NUM_EXAMPLES` examples, by name."""
    lengths = TextOptions(
        max_seq_length=options.max_seq_length,
        max_predictions_per_seq=options.predictions,
    )
    corpus = corpus.split_lines(options.max_seq_length)
    index = index_records([shards.shard_path(folder, 0, 1)])
    rows = {}
    for size in (8, 256):
        made = TextStream(corpus, tokenizer, size, 1, lengths)
        read = RecordStream(index, tokenizer, size, 1, lengths)
        for kind, stream in (("made on the fly", made), ("TFRecord", read)):
            rows[f"{kind}, batches of {size}"] = take(
                stream.batches(), NUM_EXAMPLES // size
            )
    return rows


def main(options: PipelineOptions) -> None:
    """Prints the rate of each part of the pipeline."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path, vocab_file = write_text(options, folder)
        tokenizer = WordpieceTokenizer.from_vocab_file(vocab_file)
        megabytes = os.path.getsize(path) / 1e6
        print(
            f"{megabytes:.1f} MB of text, vocabulary {tokenizer.vocab_size:,}, "
            f"length {options.max_seq_length}, one core"
        )

        def write() -> int:
            return write_shard(options, path, vocab_file, tokenizer, folder)

        def tokenize():
            return tokenize_documents(
                sources.read_documents([str(path)]), tokenizer
            )

        num_written, corpus = write(), tokenize()
        rows = {WRITE: write, TOKENIZE: tokenize}
        rows |= readers(options, corpus, tokenizer, folder)
        times = interleaved(rows, options.repeats, warm_up=0)
    seconds = {name: row["cpu_ms"] / 1e3 for name, row in times.items()}
    tokenizing, writing = seconds.pop(TOKENIZE), seconds.pop(WRITE)
    print(
        f"{TOKENIZE}: {megabytes / tokenizing:.1f} MB/s, "
        f"{corpus.num_tokens / tokenizing:,.0f} pieces/s\n"
        f"{WRITE}: {megabytes / writing:.1f} MB/s, "
        f"{num_written / writing:,.0f} examples/s"
    )
    for name, value in seconds.items():
        print(f"{name}: {NUM_EXAMPLES / value:,.0f} examples/s")


if __name__ == "__main__":
    start(main, PipelineOptions, __doc__)
