"""Where a step runs: one device, several, several machines, or TPUs.

The loop knows only a `Distribution`. Every worker makes the whole batch, since
batch n is a pure function of n, and each replica takes its rows. So any number
of replicas sees the examples that one device would see, and a run may continue
on another number of devices than it was started with.
"""

import contextlib
import json
import os
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from mobilebert_tf import compat
from mobilebert_tf.errors import InputError
from mobilebert_tf.training.options import DeviceOptions

# Distance between the seeds of two replicas. Keras takes seeds modulo
# 2**31 - 2, which is coprime to this, so no two replicas share a seed.
_SEED_STEP = 506_952_115


class Distribution:
    """One device without a strategy; base class of the others.

    Attributes:
        num_replicas: devices that share a batch.
        is_chief: whether this process writes the run's files.
        updates_in_replica: whether a replica may update variables under a
            condition. Mirrored strategies synchronise their threads for an
            update, which is impossible inside a branch.
        spans_processes: whether several processes must act alike.
    """

    num_replicas = 1
    is_chief = True
    updates_in_replica = True
    spans_processes = False

    def scope(self) -> contextlib.AbstractContextManager:
        """Returns the context in which to make model and optimizer."""
        return contextlib.nullcontext()

    def run(self, function: Callable, *arguments):
        """Calls `function` on every replica."""
        return function(*arguments)

    def first(self, values):
        """Returns the first replica's part of a result of `run`."""
        return values

    def sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Sums each tensor over replicas; called on a replica."""
        return list(tensors)

    def distribute(self, batch: dict, axis: int = 0) -> dict:
        """Gives each replica its rows of a batch, the examples along `axis`.

        If they do not divide evenly, some replicas get one more than others,
        or none.
        """
        return batch

    def total(self, number: int) -> int:
        """Returns the sum of every process's `number`, on every process."""
        return number


class StrategyDistribution(Distribution):
    """A synchronous `tf.distribute` strategy."""

    def __init__(self, strategy: tf.distribute.Strategy):
        self.strategy = strategy
        self.num_replicas = strategy.num_replicas_in_sync
        self._is_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
        self.updates_in_replica = self._is_tpu
        self.spans_processes = isinstance(
            strategy, tf.distribute.MultiWorkerMirroredStrategy
        )
        self.is_chief = (
            not self.spans_processes or strategy.cluster_resolver.task_id == 0
        )

    def scope(self):
        return self.strategy.scope()

    def run(self, function, *arguments):
        with _seeds_by_replica():
            return self.strategy.run(function, arguments)

    def first(self, values):
        return tf.nest.map_structure(
            lambda value: self.strategy.experimental_local_results(value)[0],
            values,
        )

    def sum(self, tensors):
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors))

    def distribute(self, batch, axis=0):
        size = next(iter(batch.values())).shape[axis]
        if self._is_tpu and size % self.num_replicas:
            raise InputError(
                "batch size",
                f"a multiple of {self.num_replicas}, the TPU cores",
                size,
            )

        def rows(context):
            replica = context.replica_id_in_sync_group
            part = slice(
                size * replica // self.num_replicas,
                size * (replica + 1) // self.num_replicas,
            )
            index = (slice(None),) * axis + (part,)
            return {
                name: tf.convert_to_tensor(array[index])
                for name, array in batch.items()
            }

        return self.strategy.experimental_distribute_values_from_function(rows)

    def total(self, number):
        if not self.spans_processes:
            return number
        # Every replica reports its process's number.
        numbers = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(int(number), tf.int64)
        )
        total = self.strategy.reduce(
            tf.distribute.ReduceOp.SUM, numbers, axis=None
        )
        num_local = len(self.strategy.experimental_local_results(numbers))
        return int(total) // num_local


@contextlib.contextmanager
def _seeds_by_replica():
    """Makes every replica draw dropout masks of its own.

    Keras' seeds are equal on all replicas: the second half of a batch would be
    masked like the first. The seeds of the first replica stay as they are, and
    so do all states, which advance alike. Seeds are changed rather than the
    number of the draw, so no replica repeats a mask of another's other steps.
    """

    def seed_of_replica(seed):  # [a layer's seed, number of the draw]
        context = tf.distribute.get_replica_context()
        replica = tf.cast(context.replica_id_in_sync_group, seed.dtype)
        return seed + tf.stack([replica * _SEED_STEP, tf.zeros_like(replica)])

    with compat.changed_seeds(seed_of_replica):
        yield


def current_distribution() -> Distribution:
    """Returns the distribution whose scope this is called in."""
    if tf.distribute.has_strategy():
        return StrategyDistribution(tf.distribute.get_strategy())
    return Distribution()


def open_devices(options: DeviceOptions, num_runs: int = 1) -> Distribution:
    """Connects to devices and sets the precision of the layers to be made.

    To be called before anything is computed. Without any GPU, `mirrored` uses
    the logical CPU devices; `multi_worker` reads TF_CONFIG.

    Args:
        options: which devices, and in which precision.
        num_runs: number of runs that the command compares.

    Raises:
        InputError: there are no such devices, or several runs were asked for
            in several processes.
    """
    if options.distribution == "multi_worker" and num_runs > 1:
        # Only the chief knows which runs are over and which is the best.
        raise InputError(
            "--distribution",
            f"none, mirrored or tpu for {num_runs} runs",
            "multi_worker",
        )
    if options.mixed_precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    if options.distribution == "mirrored":
        return StrategyDistribution(_mirrored(options.num_gpus))
    if options.distribution == "multi_worker":
        _check_tf_config(os.environ.get("TF_CONFIG"))
        return StrategyDistribution(tf.distribute.MultiWorkerMirroredStrategy())
    if options.distribution == "tpu":
        return StrategyDistribution(_tpu(options.tpu))
    return Distribution()


def _mirrored(num_gpus: int | None) -> tf.distribute.Strategy:
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    if num_gpus is not None:
        if kind == "CPU" or num_gpus > len(devices):
            found = 0 if kind == "CPU" else len(devices)
            raise InputError("--num_gpus", f"at most {found} here", num_gpus)
        devices = devices[:num_gpus]
    return tf.distribute.MirroredStrategy(devices)


def _check_tf_config(text: str | None) -> None:
    expected = (
        '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
        '"worker", "index": 0}}'
    )
    if not text:
        raise InputError("TF_CONFIG", expected, "nothing")
    try:
        config = json.loads(text)
        workers = config["cluster"]["worker"]
        known = 0 <= int(config["task"]["index"]) < len(workers)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError("TF_CONFIG", expected, text) from error
    if not known or config["task"].get("type") != "worker":
        raise InputError("TF_CONFIG", f"a worker among {workers}", text)


def _tpu(name: str | None) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=name or "local"
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise InputError("--tpu", "a TPU that answers", error) from error
    return tf.distribute.TPUStrategy(resolver)
