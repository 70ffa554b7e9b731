"""From a fine-tuned model to .tflite files, each scored on held-out examples.

Every file is scored by the code that scored the float model.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import scipy.special
import tensorflow as tf

from mobilebert_tf.config import INPUT_NAMES, inputs_of
from mobilebert_tf.data.batches import array_batches
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.calibration import (
    Range,
    calibrate,
    rounding_errors,
    write_ranges,
)
from mobilebert_tf.mobile.comparison import (
    FLOAT16_ERROR,
    LATENCY,
    MEGABYTES,
    shown_metrics,
)
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.export import export, probe_inputs
from mobilebert_tf.mobile.folding import Folded, fold
from mobilebert_tf.mobile.options import (
    CALIBRATED_KINDS,
    CALIBRATION_EXAMPLES,
    FLOAT_KINDS,
    INTEGER_KINDS,
    TRAINED_KIND,
    ExportOptions,
    QuantizationOptions,
)
from mobilebert_tf.mobile.outliers import (
    FLOAT16_LARGEST,
    bound_for_float16,
    find_outliers,
    overflows_float16,
    turn,
)
from mobilebert_tf.mobile.quantization import Quantized, train_quantized
from mobilebert_tf.mobile.rounding import (
    Clipping,
    DynamicRounding,
    Exact,
    FakeQuantization,
)
from mobilebert_tf.mobile.runtime import TFLiteModel, predict_in_float16
from mobilebert_tf.mobile.tflite_file import TextMetadata
from mobilebert_tf.tasks.task import Task
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# Batches that decide whether float files are scaled.
_NUM_FLOAT_BATCHES = 2

# Shares of the outputs' spread by which clipping and int8 may move them.
_HARMLESS_CLIPPING, _HARMLESS_ROUNDING = 0.05, 0.25
_SCORED_AT_ONCE = 64
_NUM_IN_FLOAT16 = 256


def export_and_score(
    model: keras.Model,
    task: Task,
    tokenizer: WordpieceTokenizer,
    folder: str | os.PathLike,
    options: ExportOptions,
    quantization: QuantizationOptions,
) -> dict[str, dict[str, float]]:
    """Writes `KIND.tflite` for each kind and scores it.

    Args:
        model: the fine-tuned model.
        task: its task, with examples of the files' length.
        tokenizer: its tokenizer.
        folder: for the files, their `KIND_ranges.tsv` and the run of
            quantisation-aware training; a model folder.
        options: the kinds, and whether they carry metadata.
        quantization: for the kinds that are quantised.

    Returns:
        What `score` returns, by kind.

    Raises:
        InputError: see `check_export`.
    """
    kinds, folder, scores = options.kinds, Path(folder), {}
    file_options = check_export(options, task, tokenizer)
    batches = []
    if task.num_train_examples:
        batches = calibration_batches(task, quantization)
    networks = Networks(
        fold(model), batches, task.max_seq_length, quantization.equalize, task
    )
    for kind in kinds:
        network = networks.of_kind(kind)
        if kind in INTEGER_KINDS:
            write_ranges(folder / f"{kind}_ranges.tsv", networks.integers[1])
        if kind == TRAINED_KIND:
            train_quantized(
                network,
                task,
                model,
                batches,
                training_batches(task, quantization),
                folder / f"{kind}_training",
                quantization,
            )
        path = export(
            network,
            folder / f"{kind}.tflite",
            task.max_seq_length,
            kind,
            calibration=batches,
            per_tensor=options.dynamic_per_tensor,
            **file_options,
        )
        print(f"Wrote {path}", flush=True)
        scores[kind] = score(path, task)
        if kind in FLOAT_KINDS and task.splits:
            scores[kind][FLOAT16_ERROR] = float16_error(path, task)
    return scores


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks that the kinds of files compute, each made when it is used.

    Attributes:
        folded: the fine-tuned network.
        batches: inputs to measure activations on, which integers need. Other
            kinds do with random pieces, in which position 0 is as large as
            anywhere.
        length: S of the probes.
        is_equalized: give outliers a channel of their own and the channels of
            each tensor alike ranges before rounding.
        task: measures what cutting an outlier token costs.
    """

    folded: Folded
    batches: Sequence[Mapping]
    length: int
    is_equalized: bool = True
    task: Task | None = None

    def of_kind(self, kind: str) -> Folded | Quantized:
        """Returns a new `Quantized` for integers, else what is converted."""
        if kind in INTEGER_KINDS:
            return Quantized(*self.integers)
        if kind in FLOAT_KINDS:
            return self.floats
        # The converter's own ranges of int16x8 hold all tokens.
        return self.dynamic if kind == "dynamic" else self._candidates[-1]

    @functools.cached_property
    def integers(self) -> tuple[Folded, dict[str, Range]]:
        """What integers compute, and its ranges. Reports outlier tokens."""
        ranges = [calibrate(even, self.batches) for even in self._candidates]
        chosen = _nearest(
            self._candidates,
            self.batches,
            [FakeQuantization(found) for found in ranges],
        )
        even, ranges = self._candidates[chosen], ranges[chosen]
        report_outliers(self.folded, even, ranges, self.batches, self.task)
        return even, ranges

    @functools.cached_property
    def dynamic(self) -> Folded:
        """What dynamic files compute, before rounding."""
        roundings = [DynamicRounding() for _ in self._candidates]
        chosen = _nearest(self._candidates, self._measured, roundings)
        return self._candidates[chosen]

    @functools.cached_property
    def floats(self) -> Folded:
        """What floats compute, scaled for float16 arithmetic if needed.

        Prints what still overflows in it.
        """
        batches = self._measured[:_NUM_FLOAT_BATCHES]
        if not overflows_float16(self.folded, batches):
            return self.folded
        print("float files: scaled for float16 arithmetic", flush=True)
        scaled, beyond = bound_for_float16(self._equalized[0], batches)
        for name, size in beyond.items():
            print(
                f"warning: {name} reaches {size:.3g}, which overflows in "
                f"float16 arithmetic ({FLOAT16_LARGEST:.0f})",
                flush=True,
            )
        return scaled

    @property
    def _candidates(self) -> list[Folded]:
        """The networks that may be rounded."""
        return self._equalized if self.is_equalized else [self.folded]

    @functools.cached_property
    def _equalized(self) -> list[Folded]:
        """The ways to equalise. What rounds nearest to floats is kept.

        Without outlier tokens, whose channels ranges then cut, by each mean of
        `equalize`. If there are any, also with them: their channels are scaled
        until ranges hold them. Nothing is cut then, but weights that read such
        a channel grow.
        """
        turned = turn(self.folded, self._measured)
        ways = [(False, 0.0), (False, 4.0)]
        if turned is not self.folded:
            ways.append((True, 4.0))
        return [equalize(turned, self._measured, *way) for way in ways]

    @functools.cached_property
    def _measured(self) -> Sequence[Mapping]:
        if self.batches:
            return self.batches
        config = self.folded.config
        length = min(self.length, config.max_position_embeddings)
        return [probe_inputs(config.vocab_size, length)]


def _nearest(
    networks: Sequence[Folded],
    batches: Sequence[Mapping],
    roundings: Sequence[Exact],
) -> int:
    """Returns the index of the network that its rounding moves least."""
    if len(networks) == 1:
        return 0
    errors = [
        rounding_errors(network, batches, [rounding])[0]
        for network, rounding in zip(networks, roundings, strict=True)
    ]
    return int(np.argmin(errors))


def report_outliers(
    folded: Folded,
    quantized: Folded,
    ranges: Mapping[str, Range],
    batches: Sequence[Mapping],
    task: Task | None = None,
) -> None:
    """Prints how far the largest token stands out, and what cutting it costs.

    Args:
        folded: the network of float files.
        quantized: the network of integer files.
        ranges: those of `quantized`.
        batches: what they were measured on.
        task: measures on its dev examples what rounding costs, if the answers
            move far.
    """
    found = find_outliers(folded, batches[:1])
    if not found:
        return
    rounding = FakeQuantization(ranges)
    cut, rounded = rounding_errors(
        quantized, batches, [Clipping(ranges), rounding]
    )
    print(
        f"largest token / median token: {found[0].ratio:.2g} (position "
        f"{found[0].position}, {found[0].tensor}); float answers move by "
        f"{cut:.2g} of their spread when it is clipped",
        flush=True,
    )
    if cut <= _HARMLESS_CLIPPING and rounded <= _HARMLESS_ROUNDING:
        return
    cost = ""
    if task is not None and task.labelled("dev"):
        before, after = (
            task.evaluate(functools.partial(_predict, *network), "dev")
            for network in ((folded, Exact()), (quantized, rounding))
        )
        cost = "".join(
            f"; {name} {before[name]:.4f}, in integers {after[name]:.4f}"
            for name in shown_metrics(task)
            if name in before
        )
    print(
        "warning: the outlier token carries information: integer answers move "
        f"by {rounded:.2g} of their spread{cost}. int8_qat or dynamic may lose "
        "less",
        flush=True,
    )


def _predict(folded: Folded, rounding: Exact, arrays: Mapping):
    outputs = [
        forward(
            folded,
            {
                name: arrays[name][begin : begin + _SCORED_AT_ONCE]
                for name in INPUT_NAMES
            },
            rounding,
        )
        for begin in range(0, len(arrays["input_ids"]), _SCORED_AT_ONCE)
    ]
    return tf.nest.map_structure(
        lambda *parts: np.concatenate([part.numpy() for part in parts]),
        *outputs,
    )


def check_export(
    options: ExportOptions, task: Task, tokenizer: WordpieceTokenizer
) -> dict:
    """Checks a request before anything is trained.

    Args:
        options: what is requested.
        task: the task, with examples of the files' length.
        tokenizer: the model's.

    Returns:
        Further arguments of `export.export`.

    Raises:
        InputError: metadata without files or for files that no text task of a
            phone opens, or no examples to measure ranges on.
    """
    calibrated = [kind for kind in options.kinds if kind in CALIBRATED_KINDS]
    if calibrated and not task.num_train_examples:
        expected = f"training examples for {', '.join(calibrated)}"
        raise InputError("--export", expected, "none")
    if not options.metadata:
        return task.file_options(None)
    if not options.kinds:
        raise InputError("--metadata", "--export, to have files", "none")
    file_options = task.file_options(tokenizer)
    if not tokenizer.do_lower_case:
        raise InputError(
            "--metadata",
            "an uncased vocabulary (text tasks lower-case every text)",
            "a cased one",
        )
    metadata = TextMetadata(**file_options["metadata"])
    return file_options | {"metadata": metadata}


def needs_calibration(kinds: Sequence[str]) -> bool:
    """Whether a kind needs training examples to measure ranges on."""
    return any(kind in CALIBRATED_KINDS for kind in kinds)


def training_batches(
    task: Task, options: QuantizationOptions
) -> Callable[[int], Iterable[dict]]:
    """Returns a function from a start step to endless labelled batches."""

    def batches(start_step: int) -> Iterable[dict]:
        return array_batches(
            task.splits["train"],
            batch_size=min(options.batch_size, task.num_train_examples),
            seed=options.seed,
            start_step=start_step,
        )

    return batches


def calibration_batches(task: Task, options: QuantizationOptions) -> list[dict]:
    """Returns a few hundred training examples, the same for every kind."""
    batch_size = min(options.batch_size, task.num_train_examples)
    number = min(task.num_train_examples, CALIBRATION_EXAMPLES) // batch_size
    batches = training_batches(task, options)(0)
    return list(itertools.islice(batches, max(1, number)))


def score(path: Path, task: Task) -> dict[str, float]:
    """Runs an exported file on the dev and test examples with labels.

    Returns:
        The task's metrics, `megabytes` (1e6 bytes), and `latency_ms`, the
        median of single inferences on one thread.
    """
    # On all threads, which does not change the outputs.
    model = TFLiteModel(path, os.cpu_count())

    def predict(arrays):
        outputs = model.predict(arrays)
        if model.output_names == ("probabilities",):
            return _logits(outputs)
        return outputs

    metrics = task.evaluate(predict, "dev") | task.evaluate(predict, "test")
    return metrics | {
        MEGABYTES: path.stat().st_size / 1e6,
        LATENCY: TFLiteModel(path).latency_ms(),
    }


def float16_error(path: Path, task: Task) -> float:
    """Returns how far float16 arithmetic moves a float file's dev outputs.

    The root mean square difference, as a share of the outputs' standard
    deviation, on up to 256 examples; infinite if an output is not finite.
    """
    splits = task.labelled("dev") or list(task.splits)
    inputs = {
        name: array[:_NUM_IN_FLOAT16]
        for name, array in inputs_of(task.splits[splits[0]]).items()
    }
    exact, found = (
        np.concatenate([np.ravel(part) for part in tf.nest.flatten(outputs)])
        for outputs in (
            TFLiteModel(path, os.cpu_count()).predict(inputs),
            predict_in_float16(path, inputs),
        )
    )
    if not np.isfinite(found).all():
        return np.inf
    return float(np.sqrt(np.mean((exact - found) ** 2)) / exact.std())


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Returns values that a metric decides by as it would by logits.

    They keep the order of the classes, and are positive from one half on.
    Probabilities may be rounded to 0 or 1.
    """
    tiny = np.finfo(np.float32).tiny
    return scipy.special.logit(np.clip(probabilities, tiny, 1.0 - 1e-7))
