"""Text to TFRecord files of pre-training examples, in several processes.

A shard is a pure function of the text, the settings and its number, so it does
not matter which process makes it, or when. Its examples are those that
`TextStream` makes while training.

A shard is made in blocks of a few megabytes of text, which is what memory
holds. Random next segments come from documents of the same block, and all
copies of a block's examples are shuffled together.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilebert_tf.data.corpus import (
    TokenizedCorpus,
    split_into_sentences,
    tokenize_documents,
)
from mobilebert_tf.data.example_protos import serialize_examples
from mobilebert_tf.data.examples import (
    Instances,
    epoch_instances,
    masked_examples,
)
from mobilebert_tf.data.sources import (
    documents_of_shard,
    file_size,
    tfds_documents,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# Characters in memory at a time, and documents to draw random segments from.
BLOCK_CHARACTERS = 8_000_000
MIN_BLOCK_DOCUMENTS = 16

# Examples encoded at a time.
_BATCH_SIZE = 512
# Second word of a generator's seed, as in `stream`.
_BLOCK_STREAM = 4


@dataclasses.dataclass(frozen=True)
class ShardSettings:
    """Everything that decides the examples.

    Attributes:
        input_files: text files, if not `tfds_name`.
        tfds_name: a dataset of TensorFlow Datasets.
        tfds_data_dir: folder that the dataset was prepared in.
        vocab_file: the vocabulary, one piece a line.
        do_lower_case: whether the vocabulary is uncased.
        max_seq_length: S.
        max_predictions_per_seq: P.
        masked_lm_prob: share of the pieces that are predicted.
        short_seq_prob: probability that a document makes shorter pairs.
        whole_word_mask: mask all pieces of a word or none.
        dupe_factor: times that the text is used, with other pairs and masks.
        num_shards: number of files.
        seed: decides pairs, order and masks.
    """

    input_files: tuple[str, ...]
    tfds_name: str | None
    tfds_data_dir: str | None
    vocab_file: str
    do_lower_case: bool
    max_seq_length: int
    max_predictions_per_seq: int
    masked_lm_prob: float
    short_seq_prob: float
    whole_word_mask: bool
    dupe_factor: int
    num_shards: int
    seed: int

    def documents(self, shard: int) -> Iterator[list[str]]:
        """Reads the text of a shard."""
        if self.tfds_name:
            return tfds_documents(
                self.tfds_name,
                self.tfds_data_dir,
                shard=shard,
                num_shards=self.num_shards,
            )
        return documents_of_shard(self.input_files, shard, self.num_shards)

    def tokenizer(self) -> WordpieceTokenizer:
        """Builds the tokenizer."""
        return WordpieceTokenizer.from_vocab_file(
            self.vocab_file, self.do_lower_case
        )

    def record(self) -> dict:
        """Returns what two runs must have in common to write equal files.

        Raises:
            InputError: a file is missing.
        """
        sizes = [[name, file_size(name)] for name in self.input_files]
        file_size(self.vocab_file)
        vocabulary = Path(self.vocab_file).read_bytes()
        return dataclasses.asdict(self) | {
            "input_files": sizes,
            "vocab_file": hashlib.sha256(vocabulary).hexdigest(),
        }


@dataclasses.dataclass(frozen=True)
class ShardProgress:
    """Work done since the last report.

    Attributes:
        num_bytes: text read.
        num_tokens: pieces in the examples, without padding.
        num_examples: examples written.
        is_finished: whether the shard is complete.
    """

    num_bytes: int = 0
    num_tokens: int = 0
    num_examples: int = 0
    is_finished: bool = False


def shard_path(folder: str | os.PathLike, shard: int, num_shards: int) -> Path:
    """Returns the path of a shard's file."""
    return Path(folder) / (f"examples-{shard:05d}-of-{num_shards:05d}.tfrecord")


def missing_shards(
    folder: str | os.PathLike, settings: ShardSettings
) -> list[int]:
    """Prepares a folder and returns the numbers of the shards that it lacks.

    settings.json records what decides the examples. Files that a killed run
    left half-written are removed.

    Raises:
        InputError: the folder was made with other settings or cannot be made.
    """
    folder = Path(folder)
    record_file = folder / "settings.json"
    record = json.loads(json.dumps(settings.record()))
    paths = [
        shard_path(folder, shard, settings.num_shards)
        for shard in range(settings.num_shards)
    ]
    try:
        if record_file.exists():
            _check_record(record_file, record)
        elif any(folder.glob("*.tfrecord")):
            raise InputError(
                folder, "a new folder or settings.json", "other TFRecord files"
            )
        else:
            with atomic_file(record_file) as temporary:
                temporary.write_text(json.dumps(record, indent=2) + "\n")
        for half_written in folder.glob(".examples-*.tfrecord.*"):
            half_written.unlink()
    except OSError as error:
        raise InputError(
            folder, "a folder that can be written", error.strerror or error
        ) from error
    return [shard for shard, path in enumerate(paths) if not path.exists()]


def _check_record(record_file: Path, record: dict) -> None:
    try:
        found = json.loads(record_file.read_bytes())
    except ValueError as error:
        raise InputError(record_file, "JSON", error) from error
    if not isinstance(found, dict):
        raise InputError(record_file, "an object", type(found).__name__)
    different = sorted(
        name for name in found | record if found.get(name) != record.get(name)
    )
    if different:
        raise InputError(
            record_file,
            "the settings that the shards there were made with ("
            + ", ".join(f"{name}={found.get(name)}" for name in different)
            + "), or another folder",
            ", ".join(f"{name}={record.get(name)}" for name in different),
        )


def write_shard(
    folder: str | os.PathLike,
    settings: ShardSettings,
    tokenizer: WordpieceTokenizer,
    shard: int,
) -> Iterator[ShardProgress]:
    """Makes one shard. Its file appears when the iterator ends.

    Yields:
        A report after each block, and a last one.

    Raises:
        InputError: text cannot be read, the shard has fewer than two
            documents, or the file cannot be written.
    """
    path = shard_path(folder, shard, settings.num_shards)
    try:
        with atomic_file(path) as temporary:
            with tf.io.TFRecordWriter(os.fspath(temporary)) as writer:
                blocks = _blocks(settings.documents(shard))
                for block, documents in enumerate(blocks):
                    rng = np.random.default_rng(
                        [settings.seed, _BLOCK_STREAM, shard, block]
                    )
                    yield _write_block(
                        writer, documents, settings, tokenizer, shard, rng
                    )
    except tf.errors.OpError as error:
        raise InputError(
            path, "room and permission to write it", error.message
        ) from error
    except OSError as error:
        raise InputError(
            path, "room and permission to write it", error.strerror or error
        ) from error
    yield ShardProgress(is_finished=True)


def _blocks(documents: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    """Gathers documents into blocks that are large enough to draw from.

    A block is held back until the next is large enough as well, so that the
    last documents of a shard are not left alone.
    """
    complete, block, num_characters = [], [], 0
    for document in documents:
        block.append(document)
        num_characters += sum(map(len, document))
        if (
            num_characters >= BLOCK_CHARACTERS
            and len(block) >= MIN_BLOCK_DOCUMENTS
        ):
            if complete:
                yield complete
            complete, block, num_characters = block, [], 0
    if complete and len(block) >= MIN_BLOCK_DOCUMENTS:
        yield complete
        complete = []
    yield complete + block


def _write_block(
    writer: tf.io.TFRecordWriter,
    documents: list[list[str]],
    settings: ShardSettings,
    tokenizer: WordpieceTokenizer,
    shard: int,
    rng: np.random.Generator,
) -> ShardProgress:
    corpus = tokenize_documents(
        split_into_sentences(documents), tokenizer
    ).split_lines(settings.max_seq_length)
    if corpus.num_documents < 2:
        raise InputError(
            f"shard {shard} of {settings.num_shards}",
            "at least 2 documents, separated by blank lines (or a smaller "
            "--num_shards)",
            corpus.num_documents,
        )
    instances = _block_instances(corpus, settings, rng)
    num_tokens = 0
    for first in range(0, len(instances), _BATCH_SIZE):
        batch = masked_examples(
            corpus.tokens,
            instances.take(slice(first, first + _BATCH_SIZE)),
            tokenizer,
            max_seq_length=settings.max_seq_length,
            max_predictions_per_seq=settings.max_predictions_per_seq,
            rng=rng,
            masked_lm_prob=settings.masked_lm_prob,
            whole_word_mask=settings.whole_word_mask,
        )
        num_tokens += int(batch["input_mask"].sum())
        for record in serialize_examples(batch):
            writer.write(record)
    return ShardProgress(
        num_bytes=sum(
            len(line.encode()) + 1
            for document in documents
            for line in document
        ),
        num_tokens=num_tokens,
        num_examples=len(instances),
    )


def _block_instances(
    corpus: TokenizedCorpus, settings: ShardSettings, rng: np.random.Generator
) -> Instances:
    """Returns `dupe_factor` epochs of a block's pairs, shuffled together."""
    epochs = [
        epoch_instances(
            corpus, settings.max_seq_length, rng, settings.short_seq_prob
        )
        for _ in range(settings.dupe_factor)
    ]
    instances = Instances(
        *(
            np.concatenate([getattr(epoch, field.name) for epoch in epochs])
            for field in dataclasses.fields(Instances)
        )
    )
    return instances.take(rng.permutation(len(instances)))


def write_shards(
    folder: str | os.PathLike,
    settings: ShardSettings,
    shards: Sequence[int],
    num_processes: int,
) -> Iterator[ShardProgress]:
    """Makes shards in several processes.

    Processes are spawned: TensorFlow does not survive a fork. If the iterator
    is closed early, unfinished shards are lost and leave no file.

    Yields:
        The progress of each process since its last report; an empty report
        when a process is ready.

    Raises:
        InputError: see `write_shard`; or a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    reports, stop = context.Queue(), context.Event()
    with futures.ProcessPoolExecutor(
        min(num_processes, max(1, len(shards))),
        context,
        _prepare_process,
        (folder, settings, reports, stop),
    ) as pool:
        pending = {pool.submit(_write_in_process, shard) for shard in shards}
        try:
            while pending:
                done, pending = futures.wait(pending, timeout=0.1)
                for future in done:
                    future.result()
                yield from _available(reports)
        except BrokenProcessPool:
            raise InputError(
                "--num_processes",
                "processes that can finish (is there memory for so many?)",
                f"one of {num_processes} that was killed",
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    yield from _available(reports)


def _available(reports: multiprocessing.Queue) -> Iterator[ShardProgress]:
    while True:
        try:
            yield reports.get(timeout=0.1)
        except queue.Empty:
            return


def _prepare_process(folder, settings: ShardSettings, reports, stop) -> None:
    """Runs once in each process. Ctrl-C is handled by the parent."""
    global _write_in_this_process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tokenizer = settings.tokenizer()
    reports.put(ShardProgress())

    def write(shard: int) -> None:
        for progress in write_shard(folder, settings, tokenizer, shard):
            if stop.is_set():
                return
            reports.put(progress)

    _write_in_this_process = write


def _end_with_parent() -> None:
    # Processes of a pool would wait for a parent that was killed, for ever.
    multiprocessing.parent_process().join()
    os._exit(1)


def _write_in_process(shard: int) -> None:
    _write_in_this_process(shard)
