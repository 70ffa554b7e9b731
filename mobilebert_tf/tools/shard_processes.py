"""Several processes that make shards, and end together.

Processes are spawned, each with its own TensorFlow and tokenizer: a TensorFlow
that has run something does not survive a fork. The shards are given out one
by one; which process makes which decides nothing.
"""

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal
from collections.abc import Iterator, Sequence

import tensorflow as tf

from mobilebert_tf.data.example_shards import (
    ShardProgress,
    ShardSettings,
    write_shard,
)
from mobilebert_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class _Failure:
    """An `InputError`'s arguments: exceptions lose theirs between processes."""

    path: str
    expected: str
    found: str
    place: str | int | None


def write_shards(
    folder: str | os.PathLike,
    settings: ShardSettings,
    shards: Sequence[int],
    num_processes: int,
) -> Iterator[ShardProgress]:
    """Makes shards in several processes.

    Yields:
        What each process made since its last report; first an empty report,
        when it is ready. When the iterator is closed, the processes end and
        the shards in work are lost.

    Raises:
        InputError: of `write_shard`; or a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(shards)
    processes = {}
    try:
        for _ in range(min(num_processes, len(waiting))):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, folder, settings), daemon=True
            )
            process.start()
            theirs.close()
            processes[ours] = process
            ours.send(waiting.pop(0))
        while processes:
            for connection in multiprocessing.connection.wait(list(processes)):
                progress = _receive(connection, processes[connection])
                yield progress
                if progress.is_finished and waiting:
                    connection.send(waiting.pop(0))
                elif progress.is_finished:
                    connection.send(None)
                    processes.pop(connection).join()
    finally:
        for process in processes.values():
            process.terminate()
            process.join()


def _receive(
    connection: multiprocessing.connection.Connection,
    process: multiprocessing.Process,
) -> ShardProgress:
    try:
        message = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise InputError(
            "--num_processes",
            "processes that can finish (is there memory for so many?)",
            f"one that ended with code {process.exitcode}",
        ) from None
    if isinstance(message, _Failure):
        raise InputError(*dataclasses.astuple(message))
    return message


def _work(
    connection: multiprocessing.connection.Connection,
    folder: str | os.PathLike,
    settings: ShardSettings,
) -> None:
    """Makes the shards that it is told to, until there are no more.

    Ctrl-C reaches all processes; the first one ends the others. If that one
    was killed, the connection is closed, and the next report ends this one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    try:
        tokenizer = settings.tokenizer()
        connection.send(ShardProgress())
        while (shard := connection.recv()) is not None:
            for progress in write_shard(folder, settings, tokenizer, shard):
                connection.send(progress)
    except InputError as error:
        connection.send(
            _Failure(error.path, error.expected, str(error.found), error.place)
        )
    except (BrokenPipeError, EOFError):
        return
