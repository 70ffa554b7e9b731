"""Peak memory of opening, writing and converting a model's weights.

    python benchmarks/weights_memory.py

Each measurement has a process of its own, whose peak is the kernel's (VmHWM)
above a baseline taken when everything is imported and TensorFlow has run an
operation; for `save`, when the model is there too. The ratio is that to the
size of the weights. Needs 5 GB of disk in the folder for temporary files and,
for the teacher, 3 GB of memory.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PRESETS = ("mobilebert", "ib_bert_large")
ACTIONS = ("save", "load", "to_tf1", "from_tf1", "from_hugging_face")
_MEBI = 2**20


def measure(action: str, preset: str, folder: str) -> None:
    """Runs in a process of its own: prints one row of the table."""
    import keras

    import mobilebert_tf as mb
    from mobilebert_tf.conversion import reading, writing

    keras.ops.zeros((2,))
    ours, tf1, again = (Path(folder) / name for name in ("ours", "tf1", "x"))
    config = mb.MobileBertConfig.from_preset(preset)
    if action == "save":
        model = mb.MobileBertForPretraining(config)
    baseline = _memory("VmRSS")
    # From here on the peak is this action's.
    Path("/proc/self/clear_refs").write_text("5")
    start = time.perf_counter()
    if action == "save":
        model.save_pretrained(ours)
    elif action == "load":
        mb.load(ours)
    elif action == "to_tf1":
        writing.write_tf1(reading.read_source(ours), tf1)
    elif action == "from_tf1":
        writing.write_folder(reading.read_source(tf1), again)
    else:
        writing.write_folder(reading.read_source(ours), again)
    seconds = time.perf_counter() - start
    peak = _memory("VmHWM")
    size = (ours / "model.safetensors").stat().st_size
    ratio = (peak - baseline) / size
    if action == "save":
        # The model itself was there before.
        ratio += 1
    print(
        f"{preset:<14} {action:<17} {size / _MEBI:8.1f}"
        f" {baseline / _MEBI:9.1f} {peak / _MEBI:8.1f} {ratio:6.2f}"
        f" {seconds:8.1f}",
        flush=True,
    )


def _memory(field: str) -> int:
    """Bytes that a line of this process's status says."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def main() -> None:
    """Measures both models, every action."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    print(
        f"{'MiB':<15}{'action':<18} weights  baseline     peak  ratio  seconds"
    )
    for preset in PRESETS:
        with tempfile.TemporaryDirectory() as folder:
            for action in ACTIONS:
                subprocess.run(
                    [sys.executable, __file__, action, preset, folder],
                    env=environment,
                    stderr=subprocess.DEVNULL,
                    check=True,
                )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(*sys.argv[1:])
    else:
        main()
