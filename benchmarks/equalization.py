"""What equalising channels saves an int8 student of published scales.

    MOBILEBERT_TF_DATA=FOLDER python -m benchmarks.equalization --scales=0.5

For matrices at each share of their published scale (0.5, 0.65 and 0.8 by
default), the error of int8, calibrated only, with and without equalisation: the
root mean square difference of the logits to the float graph's, over how much
those differ between examples, averaged over the classes; beyond 1 nothing is
left. The rounding is the graph's, which files repeat. A minute a scale on one
idle core; 2.5 GB.
"""

import dataclasses
import functools

import numpy as np

from benchmarks.instruments import DATA, start
from benchmarks.real_parameters import random_examples, real_parameter_model
from mobilebert_tf.mobile.calibration import calibrate
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.quantization import Quantized
from mobilebert_tf.options import Options, option


@dataclasses.dataclass(frozen=True)
class EqualizationOptions(Options):
    """How large the matrices are."""

    scales: tuple[float, ...] = option(
        (0.5, 0.65, 0.8), "Shares of the published scale."
    )


def logits(model, batches) -> np.ndarray:
    """Answers to all batches, [num, C]."""
    return np.concatenate([model(batch).numpy() for batch in batches])


def compare(scale: float) -> None:
    """Prints the errors at one scale."""
    folder = DATA / "mobilebert_real"
    plain = fold(real_parameter_model(folder, scale))
    calibration = [random_examples(seed) for seed in range(4)]
    test = [random_examples(seed) for seed in range(100, 104)]
    equalized = equalize(plain, calibration)
    wanted = logits(functools.partial(forward, plain), test)
    exact = logits(functools.partial(forward, equalized), test)
    exact = np.abs(exact - wanted).max()
    print(f"matrices at {scale} of the published scale")
    print(f"float logits differ by {exact / np.abs(wanted).max():.1e}")
    print(f"{'int8 error':<15} {'plain':>8} {'equalised':>10} {'ratio':>8}")
    errors = []
    for folded in (plain, equalized):
        quantized = Quantized(folded, calibrate(folded, calibration))
        difference = logits(quantized, test) - wanted
        error = np.sqrt(np.mean(difference**2, axis=0)) / wanted.std(0)
        errors.append(float(error.mean()))
    ratio = errors[1] / errors[0]
    print(f"{'':<15} {errors[0]:8.3f} {errors[1]:10.3f} {ratio:8.3f}")
    print(flush=True)


def main(options: EqualizationOptions) -> None:
    """Compares at each scale."""
    for scale in options.scales:
        compare(scale)


if __name__ == "__main__":
    start(main, EqualizationOptions, __doc__)
