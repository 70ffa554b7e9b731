"""Text to TFRecord files of pre-training examples, in several processes.

A shard is a pure function of the text, the settings and its number, so it does
not matter which process makes it, or when. Its examples are those that
`TextStream` makes while training.

A shard is made in blocks of a few megabytes of text, which is what memory
holds. Random next segments come from documents of the same block, and all
copies of a block's examples are shuffled together.
"""

import dataclasses
import itertools
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mobilebert_tf.data.corpus import split_into_sentences, tokenize_documents
from mobilebert_tf.data.examples import epoch_instances, masked_examples
from mobilebert_tf.data.options import ShardOptions
from mobilebert_tf.data.records import serialize_examples
from mobilebert_tf.data.sources import (
    documents_of_shard,
    file_size,
    matching_files,
    read_text,
    refuse_two_sources,
    text_sources,
    tfds_documents,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file, sha256
from mobilebert_tf.options import settings
from mobilebert_tf.ownership import Identity, claim_folder, fingerprints
from mobilebert_tf.text.casing import check_uncased
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# Characters in memory at a time, and documents to draw random segments from.
BLOCK_CHARACTERS = 8_000_000
MIN_BLOCK_DOCUMENTS = 16

# Examples encoded at a time.
_BATCH_SIZE = 512
# Second word of a generator's seed, as in `stream`.
_BLOCK_STREAM = 4


def resolve(options: ShardOptions) -> ShardOptions:
    """Returns the options with names in place of globs, and with P.

    Raises:
        InputError: no text or two kinds of text are named, or the files, the
            dataset or the vocabulary are unfit.
    """
    refuse_two_sources(options)
    files = ()
    if options.tfds_name:
        tfds_documents(options)
    elif options.input_files:
        files = tuple(matching_files(options.input_files))
    else:
        raise InputError("--input_files", "this or --tfds_name", "neither")
    lower = options.do_lower_case
    if lower is None:
        check_uncased(itertools.chain.from_iterable(read_text(options)))
        lower = True
    tokenizer_of(options)
    return dataclasses.replace(
        options,
        do_lower_case=lower,
        input_files=files,
        max_predictions_per_seq=options.num_predictions,
    )


def tokenizer_of(options: ShardOptions) -> WordpieceTokenizer:
    """Reads the vocabulary, which is uncased unless the options deny it."""
    return WordpieceTokenizer.from_vocab_file(
        options.vocab_file, options.do_lower_case is not False
    )


class ShardProgress(NamedTuple):
    """Work done since the last report.

    Attributes:
        num_bytes: text read.
        num_tokens: pieces in the examples, without padding.
        num_examples: examples written.
        num_shards: shards completed.
    """

    num_bytes: int = 0
    num_tokens: int = 0
    num_examples: int = 0
    num_shards: int = 0


def shard_path(folder: str | os.PathLike, shard: int, num_shards: int) -> Path:
    """Returns the path of a shard's file."""
    return Path(folder) / f"examples-{shard:05d}-of-{num_shards:05d}.tfrecord"


def missing_shards(
    folder: str | os.PathLike, options: ShardOptions
) -> list[int]:
    """Prepares a folder and returns the numbers of the shards that it lacks.

    settings.json records the options, which must be resolved (see `resolve`),
    and the fingerprints of the text and the vocabulary.

    Raises:
        InputError: the folder is not that of these shards (see
            `ownership.check_folder`) or cannot be written to.
    """
    folder = Path(folder)
    record = folder / "settings.json"
    sources = text_sources(options) | {"vocab_file": options.vocab_file}
    values = dataclasses.asdict(options) | {
        # By these, versions without fingerprints knew the files.
        "input_files": [
            [name, file_size(name)] for name in options.input_files
        ],
        "vocab_file": sha256(Path(options.vocab_file)),
    }
    identity = Identity(
        values, settings(type(options)), fingerprints(record, sources)
    )
    claim_folder(record, identity)
    return [
        shard
        for shard in range(options.num_shards)
        if not shard_path(folder, shard, options.num_shards).exists()
    ]


def write_shard(
    folder: str | os.PathLike,
    options: ShardOptions,
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
    if options.tfds_name:
        documents = tfds_documents(options, shard, options.num_shards)
    else:
        documents = documents_of_shard(
            options.input_files, shard, options.num_shards
        )
    path = shard_path(folder, shard, options.num_shards)
    try:
        with atomic_file(path) as temporary:
            with tf.io.TFRecordWriter(os.fspath(temporary)) as writer:
                for number, block in enumerate(_blocks(documents)):
                    rng = np.random.default_rng(
                        [options.seed, _BLOCK_STREAM, shard, number]
                    )
                    yield _write_block(
                        writer, block, options, tokenizer, shard, rng
                    )
    except (tf.errors.OpError, OSError) as error:
        by_python = isinstance(error, OSError)
        reason = error.strerror if by_python else error.message
        raise InputError(
            path, "room and permission to write it", reason or error
        ) from error
    yield ShardProgress(num_shards=1)


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
    options: ShardOptions,
    tokenizer: WordpieceTokenizer,
    shard: int,
    rng: np.random.Generator,
) -> ShardProgress:
    corpus = tokenize_documents(
        split_into_sentences(documents), tokenizer
    ).split_lines(options.max_seq_length)
    if corpus.num_documents < 2:
        raise InputError(
            f"shard {shard} of {options.num_shards}",
            "at least 2 documents, separated by blank lines (or a smaller "
            "--num_shards)",
            corpus.num_documents,
        )
    instances = np.concatenate(
        [
            epoch_instances(
                corpus, options.max_seq_length, rng, options.short_seq_prob
            )
            for _ in range(options.dupe_factor)
        ]
    )
    instances = instances[rng.permutation(len(instances))].view(np.recarray)
    num_tokens = 0
    for first in range(0, len(instances), _BATCH_SIZE):
        batch = masked_examples(
            corpus.tokens,
            instances[first : first + _BATCH_SIZE],
            tokenizer,
            options,
            rng,
        )
        num_tokens += int(batch["input_mask"].sum())
        for record in serialize_examples(batch):
            writer.write(record)
    lines = (line for document in documents for line in document)
    num_bytes = sum(len(line.encode()) + 1 for line in lines)
    return ShardProgress(num_bytes, num_tokens, len(instances))


def write_shards(
    folder: str | os.PathLike,
    options: ShardOptions,
    shards: Sequence[int],
    num_processes: int,
) -> Iterator[ShardProgress]:
    """Makes shards in several processes.

    Processes are spawned: TensorFlow does not survive a fork. If the iterator
    is closed early, unfinished shards are lost and leave no file.

    Yields:
        The reports of all processes; an empty one when a process is ready.

    Raises:
        InputError: see `write_shard`; or a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    reports, stop = context.Queue(), context.Event()
    with futures.ProcessPoolExecutor(
        min(num_processes, max(1, len(shards))),
        context,
        _prepare_process,
        (folder, options, reports, stop),
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


def _prepare_process(folder, options: ShardOptions, reports, stop) -> None:
    """Runs once in each process. Signals are handled by the parent."""
    global _write_in_this_process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tokenizer = tokenizer_of(options)
    reports.put(ShardProgress())

    def write(shard: int) -> None:
        for progress in write_shard(folder, options, tokenizer, shard):
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
