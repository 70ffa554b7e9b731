r"""Our .tflite files beside those of other converters, in one run.

    python -m benchmarks.tflite.peers --peers_python=PEERS/bin/python

A classifier of three classes with random weights and norms, full-size unless
--preset names a small one, at lengths 128 and 384. Ours: float32, float16,
dynamic and int8 (int8_qat has the operations of int8 and needs no row), and
`naive`, the Keras model as the converter takes it. Theirs, from the same
weights: litert-torch, with ai-edge-quantizer's dynamic int8; ONNX Runtime, with
its dynamic int8. PEERS is an environment with `litert-torch`,
`ai-edge-quantizer`, `onnx`, `onnxruntime`, `torch` and `transformers`; without
it only ours are timed.

All files of a length are timed in turn, round by round: on a busy machine the
ratios at the end are more reliable than the times. `of rate` is a file's share
of the rate that large dense layers reach in the same rounds, both in their
fastest round. The first run writes the files (ten minutes on two cores, 1 GB);
later ones with the same --folder only time them.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

from benchmarks.instruments import apart, start
from benchmarks.tflite import benchmark, measurement
from mobilebert_tf.options import Options, option
from mobilebert_tf.presets import PRESETS

# Numerator, denominator, and the largest ratio to aim for.
RATIOS = (
    ("ours_int8", "ours_float32", 0.28),
    ("ours_int8", "onnx_dynamic", 0.6),
    ("ours_int8", "litert-torch_dynamic", 0.85),
    ("ours_float32", "naive_float32", 1 / 1.1),
)


@dataclasses.dataclass(frozen=True)
class PeersOptions(Options):
    """What to compare, and where the files go."""

    peers_python: str | None = option(None, "Python of the peers.")
    folder: str = option("tflite_benchmark", "Where the files go.")
    preset: str = option("mobilebert", "Architecture.", choices=list(PRESETS))
    lengths: tuple[int, ...] = option((128, 384), "Lengths.", min=1)
    threads: tuple[int, ...] = option((1, 2), "Thread counts.", min=1)
    rounds: int = option(30, "Timed inferences of each file.", min=1)


def compare(options: PeersOptions, length: int) -> None:
    """Writes the files of a length that are missing, times all, prints."""
    from benchmarks.tflite import files

    folder, python = Path(options.folder), options.peers_python
    files.write_ours(folder, options.preset, length)
    if python and not list(folder.glob(f"*_{length}.onnx")):
        script = Path(__file__).with_name("convert_peers.py")
        subprocess.run([python, script, folder, str(length)], check=True)
    python = python or sys.executable
    paths = sorted(folder.glob(f"*_{length}.*"))
    wanted = [(str(path), length) for path in paths]
    rates = [(str(path), None) for path in files.write_dense_layers(folder)]
    for threads in options.threads:
        rows = apart(
            measurement.measure,
            wanted + rates,
            threads,
            options.rounds,
            python=python,
        )
        rows = benchmark.with_memory(rows, wanted, python)
        print(f"{benchmark.table(rows)}\n{ratios(rows)}\n", flush=True)


def ratios(rows: list[dict]) -> str:
    """Formats the quotients of wall and processor time, and their aims."""
    by_name = {Path(row["file"]).stem.rpartition("_")[0]: row for row in rows}
    lines = []
    for above, below, aim in RATIOS:
        if {above, below} <= by_name.keys():
            wall, processor = (
                by_name[above][key] / by_name[below][key]
                for key in ("median_ms", "cpu_ms")
            )
            lines.append(
                f"{above} / {below}: {wall:.2f} of the wall time, "
                f"{processor:.2f} of the processor time (aim: {aim:.2f})"
            )
    return "\n".join(lines)


def main(options: PeersOptions) -> None:
    """Compares at all lengths."""
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    for length in options.lengths:
        compare(options, length)


if __name__ == "__main__":
    start(main, PeersOptions, __doc__)
