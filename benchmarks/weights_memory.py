"""Peak memory of opening, writing and converting a model's weights.

    python -m benchmarks.weights_memory --presets=mobilebert

Each measurement has a process of its own, whose peak is the kernel's (VmHWM)
above a baseline taken when everything is imported and TensorFlow has run an
operation; for `save`, when the model is there too. The ratio is that to the
size of the weights. Needs 5 GB of disk in the folder for temporary files and,
for the teacher, 3 GB of memory.
"""

import dataclasses
import tempfile
import time
from pathlib import Path

from benchmarks.instruments import (
    MEGABYTE,
    PeakMemory,
    apart,
    print_header,
    print_row,
    start,
)
from mobilebert_tf.options import Options, option
from mobilebert_tf.presets import PRESETS

ACTIONS = ("save", "load", "to_tf1", "from_tf1", "from_hugging_face")


@dataclasses.dataclass(frozen=True)
class WeightsOptions(Options):
    """Whose weights."""

    presets: tuple[str, ...] = option(
        ("mobilebert", "ib_bert_large"), "Architectures.", choices=list(PRESETS)
    )


def measure(action: str, preset: str, folder: str) -> dict:
    """Returns megabytes and seconds of an action in this process."""
    import keras

    import mobilebert_tf as mb
    from mobilebert_tf.conversion import reading, writing

    keras.ops.zeros((2,))
    ours, tf1, again = (Path(folder) / name for name in ("ours", "tf1", "x"))
    if action == "save":
        config = mb.MobileBertConfig.from_preset(preset)
        model = mb.MobileBertForPretraining(config)
    read, write = reading.read_source, writing.write_folder
    run = {
        "save": lambda: model.save_pretrained(ours),
        "load": lambda: mb.load(ours),
        "to_tf1": lambda: writing.write_tf1(read(ours), tf1),
        "from_tf1": lambda: write(read(tf1), again),
        "from_hugging_face": lambda: write(read(ours), again),
    }[action]
    memory, start = PeakMemory(), time.perf_counter()
    run()
    seconds, peak = time.perf_counter() - start, memory.megabytes()
    size = (ours / "model.safetensors").stat().st_size / MEGABYTE
    return {
        "weights, MB": size,
        "peak, MB": peak,
        # When saving, the model itself was there before.
        "ratio": peak / size + (action == "save"),
        "seconds": seconds,
    }


def main(options: WeightsOptions) -> None:
    """Measures every action with each model."""
    for preset in options.presets:
        with tempfile.TemporaryDirectory() as folder:
            for action in ACTIONS:
                values = apart(measure, action, preset, folder)
                if action == ACTIONS[0]:
                    print_header(preset, values)
                print_row(action, values)


if __name__ == "__main__":
    start(main, WeightsOptions, __doc__)
