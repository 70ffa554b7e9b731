"""What equalising channels saves an int8 student of published scales.

    MOBILEBERT_TF_DATA=FOLDER python benchmarks/equalization.py [SCALE ...]

For matrices at each share of their published scale (0.5, 0.65 and 0.8 by
default): how far each kind of tensor reaches in units of what its channels vary
by, before and after; and the error of int8, calibrated only, with and without.
The error is the root mean square difference of the logits to the float graph's,
over how much those differ between examples, averaged over the classes: beyond 1
nothing is left. The rounding is the graph's, which files repeat. A minute a row
on one idle core; 2.5 GB.
"""

import functools
import re
import sys
from collections import defaultdict

import numpy as np
from real_parameters import DATA, random_examples, real_parameter_model

from mobilebert_tf.mobile.calibration import calibrate, measure_ranges
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.folding import Folded, fold
from mobilebert_tf.mobile.quantization import Quantized


def reaches(folded: Folded, batches) -> dict[str, float]:
    """Range of a tensor over the mean range of its channels, by kind.

    The median over blocks; 1 is the best there is.
    """
    found = defaultdict(list)
    for name, (low, high) in measure_ranges(
        folded, batches, by_channel=True
    ).items():
        kind = re.sub(r"block_\d+/|_\d", "", name)
        whole = max(high.max(), 0.0) - min(low.min(), 0.0)
        width = np.mean(high - low)
        # The inner layer of a feed-forward network may be silent throughout.
        if width > 0.0:
            found[kind].append(whole / width)
    return {kind: float(np.median(values)) for kind, values in found.items()}


def logits(model, batches) -> np.ndarray:
    """Answers to all batches, [num, C]."""
    return np.concatenate([model(batch).numpy() for batch in batches])


def compare(scale: float) -> None:
    """Prints both tables for one scale."""
    folder = DATA / "mobilebert_real"
    plain = fold(real_parameter_model(folder, scale))
    calibration = [random_examples(seed) for seed in range(4)]
    test = [random_examples(seed) for seed in range(100, 104)]
    equalized = equalize(plain, calibration)
    wanted = logits(functools.partial(forward, plain), test)
    exact = logits(functools.partial(forward, equalized), test)
    exact = np.abs(exact - wanted).max()
    print(f"matrices at {scale} of the published scale")
    print(f"float logits differ by {exact / np.abs(wanted).max():.1e}\n")
    before, after = reaches(plain, calibration), reaches(equalized, calibration)
    print(f"{'whole range / mean range of a channel':<42} before    after")
    for kind, value in before.items():
        print(f"{kind:<42} {value:6.1f}   {after[kind]:6.1f}")
    print(f"\n{'int8 error':<15} {'plain':>8} {'equalised':>10} {'ratio':>8}")
    errors = []
    for folded in (plain, equalized):
        quantized = Quantized(folded, calibrate(folded, calibration))
        difference = logits(quantized, test) - wanted
        error = np.sqrt(np.mean(difference**2, axis=0)) / wanted.std(0)
        errors.append(float(error.mean()))
    ratio = errors[1] / errors[0]
    print(f"{'':<15} {errors[0]:8.3f} {errors[1]:10.3f} {ratio:8.3f}")
    print(flush=True)


if __name__ == "__main__":
    for argument in sys.argv[1:] or ("0.5", "0.65", "0.8"):
        compare(float(argument))
