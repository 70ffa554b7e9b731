"""Every private name of another library that the package uses, and its noise.

Each function says what it is for, why no public interface does it, and what
breaks without it. `tests/test_compat.py` checks each against the installed
libraries; checked with Keras 3.15.1, TensorFlow 2.21.0, ai-edge-litert 2.3.0.
"""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

# There is one where an NVIDIA driver is installed.
_NVIDIA_DEVICE = "/dev/nvidiactl"


def set_initializer(variable, initializer: Callable) -> Callable:
    """Replaces and returns the initializer of a variable without a value.

    Keras initialises the variables made in a `keras.StatelessScope` when the
    scope ends, and keeps their initializers in a private attribute. Without
    this, loading a model would first draw random weights: seconds, and twice
    the memory.

    Args:
        variable: a `keras.Variable` made in the current scope.
        initializer: called as `initializer(shape, dtype=dtype)`.
    """
    previous = variable._initializer
    variable._initializer = initializer
    return previous


def set_dtype(variable, dtype: str) -> None:
    """Changes the dtype of a Keras variable that has no value yet.

    A dtype policy applies to a whole layer. Without this, the blocks of a
    teacher could not be held in bfloat16 beside float32 embeddings, whose
    exact values the student copies.
    """
    variable._dtype = dtype


@contextlib.contextmanager
def changed_seeds(change: Callable) -> Iterator[None]:
    """Passes every seed that Keras draws in this context through `change`.

    Keras derives a dropout mask from a layer's `SeedGenerator` alone, and has
    no hook for the replica that draws it. Without this, all replicas of a
    distribution strategy would drop the same units.

    Args:
        change: maps a seed [2] (a layer's seed and the number of the draw) to
            the seed to use.
    """
    from keras.random import SeedGenerator

    draw = SeedGenerator.next

    def changed(generator, ordered=True):
        return change(draw(generator, ordered))

    SeedGenerator.next = changed
    try:
        yield
    finally:
        SeedGenerator.next = draw


def with_update_hooks(optimizer_class: type) -> type:
    """Class decorator: makes two steps of a Keras optimizer overridable.

    Keras offers `update_step` for one variable, but nothing public for all
    gradients at once. Without these hooks, LAMB and AdamW would clip and
    update hundreds of variables one by one instead of a few stacks.

    Args:
        optimizer_class: a subclass of `keras.optimizers.Optimizer` with
            `clip(gradients, keras_clip)`, which returns the gradients, and
            `update(gradients, variables, learning_rate, keras_update)`. The
            last argument is what Keras would have called.
    """

    def _clip_gradients(self, grads):
        keras_clip = super(optimizer_class, self)._clip_gradients
        return self.clip(grads, keras_clip)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        keras_update = super(optimizer_class, self)._backend_update_step
        self.update(grads, trainable_variables, learning_rate, keras_update)

    optimizer_class._clip_gradients = _clip_gradients
    optimizer_class._backend_update_step = _backend_update_step
    return optimizer_class


def variable_key(optimizer, variable):
    """Returns the key under which a Keras optimizer knows a variable.

    On TensorFlow, a Keras variable and the `tf.Variable` in it have the same
    key but are different objects, as are the copies of a mirrored variable, so
    that `id` does not do.
    """
    return optimizer._var_key(variable)


def leave_gradients_unsummed(optimizer) -> None:
    """Keeps a Keras optimizer from summing gradients over replicas.

    Keras clips the gradient of each replica and then sums. Our training step
    sums first, so that the norm of the whole gradient is clipped; without
    this, Keras would sum a second time.
    """
    optimizer._all_reduce_sum_gradients = list


def object_graph(serialized: bytes):
    """Parses the object graph of a TensorFlow 2 checkpoint.

    `tf.train.load_checkpoint` lists paths of objects only; the names of the
    variables, which do not depend on how a model was put together, are in this
    message. Without it, Model Garden's checkpoints cannot be read.

    Raises:
        google.protobuf.message.DecodeError: if this is not such a message.
    """
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(serialized)
    return graph


def operation_details(interpreter) -> list[dict]:
    """Lists the operations of a LiteRT interpreter's first graph.

    Each is a dict with `index`, `op_name`, `inputs` and `outputs` (indices of
    tensors). What a delegate has replaced is listed too, the delegate last.
    There is no public list; without it, we cannot tell which operations of a
    file a delegate has taken.
    """
    return interpreter._get_ops_details()


def graph_index(signature_runner) -> int:
    """Returns the index of the graph that a LiteRT signature runs.

    Without it, the tensors of a file's second length cannot be looked up.
    """
    return signature_runner._subgraph_index


@contextlib.contextmanager
def muted() -> Iterator[Callable[[], None]]:
    """Holds back stderr, C++ included, and shows it only after a failure.

    Yields a function that asks for it to be shown after a success as well.
    """
    try:
        log, kept = tempfile.TemporaryFile(), os.dup(2)
    except OSError:  # There is no stderr, or no room for it.
        yield lambda: None
        return
    shown = [True]
    with log:
        _flush_stderr()
        os.dup2(log.fileno(), 2)
        try:
            yield lambda: shown.append(True)
            shown.pop(0)
        finally:
            _flush_stderr()
            os.dup2(kept, 2)
            os.close(kept)
            if shown and sys.stderr is not None:
                log.seek(0)
                with contextlib.suppress(OSError, ValueError):
                    sys.stderr.write(log.read().decode(errors="replace"))


def _flush_stderr() -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # It may be closed.
            sys.stderr.flush()


class _QuietTensorFlow(importlib.abc.MetaPathFinder):
    """Finds TensorFlow as Python does, and mutes its import."""

    def find_spec(self, name, path=None, target=None):
        if name != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = functools.partial(
                _execute_quietly, spec.loader.exec_module
            )
        return spec


def _execute_quietly(execute: Callable, tensorflow) -> None:
    # Of what comes later, warnings and errors only.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    with muted() as show:
        execute(tensorflow)
        # TensorFlow looks for GPUs when it first computes, with more lines.
        gpus = tensorflow.config.list_physical_devices("GPU")
        if os.path.exists(_NVIDIA_DEVICE) and not gpus:
            show()


def mute_tensorflow(is_muted: bool = True) -> None:
    """Mutes TensorFlow's import, wherever it is imported first, or undoes that.

    oneDNN, CUDA and absl write a dozen lines to the file descriptor, before
    any setting of theirs could be read. They are shown if the import fails, or
    if it finds no GPU although there is a driver.
    """
    finders = [one for one in sys.meta_path if type(one) is _QuietTensorFlow]
    for finder in finders:
        sys.meta_path.remove(finder)
    if is_muted:
        sys.meta_path.insert(0, _QuietTensorFlow())


def quantize_per_tensor(converter) -> None:
    """Makes a TFLite converter give each weight matrix one scale.

    With a scale per output channel, a dynamic-range file has an operation that
    TensorFlow Lite before 2.17 does not know. No public setting chooses.
    """
    converter._experimental_disable_per_channel = True
