"""How fast one core makes pre-training examples, writes them and reads them.

    MOBILEBERT_TF_DATA=FOLDER python benchmarks/input_pipeline.py

with FOLDER/corpus/*.txt and FOLDER/vocab/*.txt, or --input_files and
--vocab_file; without either, the documentation of the installed packages and a
vocabulary learned from it. Everything runs on one core and one thread, and
times are CPU seconds of the process. What is compared is measured in turn, and
medians are printed.

The comparison with the plain Python implementation needs the package
`tokenizers` (which transformers brings) for its first row.
"""

import os

# Before TensorFlow and tokenizers count the cores.
_CORE = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, {_CORE})
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402

import tensorflow as tf  # noqa: E402
import tensorflow_text  # noqa: E402
from absl import app, flags  # noqa: E402
from plain_pretraining_data import (  # noqa: E402
    PlainWriter,
    Tokenize,
    read_tokens,
)

from mobilebert_tf.data.corpus import tokenize_documents  # noqa: E402
from mobilebert_tf.data.records import (  # noqa: E402
    record_batches,  # noqa: E402
    tfrecord_index,  # noqa: E402
)
from mobilebert_tf.data.shards import (  # noqa: E402
    ShardSettings,  # noqa: E402
    shard_path,  # noqa: E402
    write_shard,  # noqa: E402
)
from mobilebert_tf.data.sources import (  # noqa: E402
    matching_files,  # noqa: E402
    read_documents,  # noqa: E402
    read_text,  # noqa: E402
)
from mobilebert_tf.data.stream import TextStream  # noqa: E402
from mobilebert_tf.text.tokenizer import WordpieceTokenizer  # noqa: E402
from mobilebert_tf.text.vocabulary import learn_vocabulary  # noqa: E402

FLAGS = flags.FLAGS
_DATA = os.environ.get("MOBILEBERT_TF_DATA")

flags.DEFINE_list(
    "input_files", [f"{_DATA}/corpus/*.txt"] if _DATA else [], "Text."
)
flags.DEFINE_string(
    "vocab_file",
    f"{_DATA}/vocab/bert-base-uncased-vocab.txt" if _DATA else None,
    "Vocabulary, uncased.",
)
flags.DEFINE_float("megabytes", 4.0, "Text to read, of each of the files.")
flags.DEFINE_integer("max_seq_length", 128, "S.")
flags.DEFINE_integer("dupe_factor", 2, "Copies of the text in the files.")
flags.DEFINE_integer("repeats", 3, "Measurements of each row.")
flags.DEFINE_float(
    "student_examples_per_second",
    8.0,
    "What a training step of `mobilebert` consumes on one core.",
)


class Text:
    """The text of the benchmark: a file with a sentence a line, and its size.

    Args:
        folder: where to put files.
    """

    def __init__(self, folder: Path):
        self.path = os.fspath(folder / "text.txt")
        files = matching_files(FLAGS.input_files) if FLAGS.input_files else []
        sources = [[name] for name in files] or [[]]
        with open(self.path, "w", encoding="utf-8") as file:
            for source in sources:
                num_characters = 0
                for document in read_text(source):
                    file.write("\n".join(document) + "\n\n")
                    num_characters += sum(map(len, document))
                    if num_characters > 1e6 * FLAGS.megabytes:
                        break
        self.vocab_file = FLAGS.vocab_file
        if not self.vocab_file:
            self.vocab_file = os.fspath(folder / "vocab.txt")
            lines = (
                line for lines in read_documents(self.path) for line in lines
            )
            pieces = learn_vocabulary(lines, 8000, True)
            Path(self.vocab_file).write_text("\n".join(pieces) + "\n")
        self.tokenizer = WordpieceTokenizer.from_vocab_file(self.vocab_file)
        self.megabytes = os.path.getsize(self.path) / 1e6


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of the process that a call takes."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def medians(rows: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median CPU seconds of each row, measured in turn."""
    times = {name: [] for name in rows}
    for _ in range(FLAGS.repeats):
        for name, work in rows.items():
            times[name].append(cpu_seconds(work))
    return {name: statistics.median(values) for name, values in times.items()}


def shard_settings(text: Text) -> ShardSettings:
    """All text in one file."""
    return ShardSettings(
        input_files=(text.path,),
        tfds_name=None,
        tfds_data_dir=None,
        vocab_file=text.vocab_file,
        do_lower_case=True,
        max_seq_length=FLAGS.max_seq_length,
        max_predictions_per_seq=predictions(),
        masked_lm_prob=0.15,
        short_seq_prob=0.1,
        whole_word_mask=False,
        dupe_factor=FLAGS.dupe_factor,
        num_shards=1,
        seed=1,
    )


def predictions() -> int:
    """P, as the scripts choose it."""
    return round(0.15 * FLAGS.max_seq_length)


def public_tokenizers(text: Text) -> dict[str, Tokenize]:
    """Tokenizers of other people's, by name."""
    fast_bert = tensorflow_text.FastBertTokenizer(
        list(text.tokenizer.vocab),
        token_out_type=tf.int32,
        lower_case_nfd_strip_accents=True,
    )
    tokenizers = {
        "tensorflow_text FastBertTokenizer": lambda lines: fast_bert.tokenize(
            lines
        ).to_list()
    }
    try:
        from tokenizers import BertWordPieceTokenizer
    except ImportError:
        print("tokenizers is not installed: its row is left out")
        return tokenizers
    # The wrapped object has the method that computes no offsets.
    hugging_face = BertWordPieceTokenizer(text.vocab_file)._tokenizer
    return {
        "Hugging Face encode_batch_fast": lambda lines: [
            encoding.ids
            for encoding in hugging_face.encode_batch_fast(
                lines, add_special_tokens=False
            )
        ]
    } | tokenizers


def compare_writers(text: Text, folder: Path) -> None:
    """Prints the rate of our writer and of plain Python."""
    settings = shard_settings(text)
    counts = {}

    def ours() -> None:
        reports = list(write_shard(folder, settings, text.tokenizer, 0))
        counts["ours"] = (
            sum(report.num_examples for report in reports),
            sum(report.num_tokens for report in reports),
        )

    def plain(name: str, tokenize: Tokenize) -> Callable[[], None]:
        def run() -> None:
            tokenizer = text.tokenizer
            special = (
                tokenizer.pad_id,
                tokenizer.cls_id,
                tokenizer.sep_id,
                tokenizer.mask_id,
            )
            writer = PlainWriter(
                special,
                tokenizer.vocab_size,
                settings.max_seq_length,
                settings.max_predictions_per_seq,
                seed=1,
            )
            counts[name] = writer.write(
                read_tokens(text.path, tokenize),
                settings.dupe_factor,
                os.fspath(folder / "plain.tfrecord"),
            )

        return run

    rows = {"ours": ours} | {
        name: plain(name, tokenize)
        for name, tokenize in public_tokenizers(text).items()
    }
    seconds = medians(rows)
    print(f"\nWriting TFRecords, {settings.dupe_factor} copies, one core")
    print(f"{'':43}{'examples':>10}{'MB/s':>8}{'tokens/s':>12}{'ratio':>8}")
    for name, time_taken in seconds.items():
        num_examples, num_tokens = counts[name]
        label = name if name == "ours" else f"plain, {name}"
        print(
            f"{label:43}{num_examples:10,}"
            f"{text.megabytes / time_taken:8.2f}"
            f"{num_tokens / time_taken:12,.0f}"
            f"{time_taken / seconds['ours']:8.1f}"
        )


def take(batches: Iterator[dict], num_batches: int) -> Callable[[], None]:
    """Returns a call that draws batches from a running iterator."""
    next(batches)

    def work() -> None:
        for _ in range(num_batches):
            next(batches)

    return work


def compare_readers(text: Text, folder: Path) -> None:
    """Prints the rate of both kinds of input, against the student's needs."""
    corpus = tokenize_documents(read_documents(text.path), text.tokenizer)
    seconds = medians(
        {
            "tokenize": lambda: tokenize_documents(
                read_documents(text.path), text.tokenizer
            )
        }
    )["tokenize"]
    print(
        f"\nReading and tokenizing text, one core: "
        f"{text.megabytes / seconds:.1f} MB/s, "
        f"{corpus.num_tokens / seconds:,.0f} pieces/s"
    )
    lengths = {
        "max_seq_length": FLAGS.max_seq_length,
        "max_predictions_per_seq": predictions(),
        "seed": 1,
    }
    corpus = corpus.split_lines(FLAGS.max_seq_length)
    index = tfrecord_index([os.fspath(shard_path(folder, 0, 1))])
    rows, sizes = {}, {}
    for batch_size in (8, 256):
        datasets = {
            "made on the fly": TextStream(
                corpus, text.tokenizer, batch_size, **lengths
            ).batches(),
            "TFRecord": record_batches(
                index,
                batch_size=batch_size,
                vocab_size=text.tokenizer.vocab_size,
                **lengths,
            ),
        }
        for kind, dataset in datasets.items():
            name = f"{kind}, batches of {batch_size}"
            sizes[name] = 8192
            rows[name] = take(dataset, 8192 // batch_size)
    print_readers(medians(rows), sizes)


def print_readers(seconds: dict[str, float], sizes: dict[str, int]) -> None:
    """Prints what `compare_readers` measured."""
    needed = FLAGS.student_examples_per_second
    print(f"\nInput, one core; a student step consumes {needed:g} examples/s")
    print(f"{'':34}{'examples/s':>12}{'tokens/s':>12}{'x student':>12}")
    for name, time_taken in seconds.items():
        rate = sizes[name] / time_taken
        print(
            f"{name:34}{rate:12,.0f}{rate * FLAGS.max_seq_length:12,.0f}"
            f"{rate / needed:12,.0f}"
        )


def main(arguments: Sequence[str]) -> None:
    """Prints three tables."""
    del arguments
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = Text(folder)
        print(
            f"{text.megabytes:.1f} MB of text, vocabulary "
            f"{text.tokenizer.vocab_size:,}, length {FLAGS.max_seq_length}"
        )
        compare_writers(text, folder)
        compare_readers(text, folder)


if __name__ == "__main__":
    app.run(main)
