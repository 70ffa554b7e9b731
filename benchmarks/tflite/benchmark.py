r"""Latency, memory and operations of .tflite files, side by side.

    python -m benchmarks.tflite.benchmark --threads=1,2 \
        --files=runs/sst2/float32.tflite,runs/sst2/int8_qat.tflite

Takes any files, this project's and others'. All are timed in turn, round by
round, so that a busy moment of the machine affects every one of them. Large
dense layers are timed among them: their rate is what this machine reaches in
the same kernels, and the table shows each file's share of it.

The table also counts a file's operations and names those that the accelerated
delegate (XNNPACK, on phones too) left to slower kernels. Peak memory is that of
a separate process.
"""

import dataclasses
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.instruments import apart, start
from benchmarks.tflite.measurement import MeasuredFile, measure, peak_megabytes
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.runtime import read_tflite
from mobilebert_tf.options import Options, option


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions(Options):
    """Which files, and how often."""

    files: tuple[str, ...] = option((), ".tflite files.", required=True)
    threads: tuple[int, ...] = option((1,), "Thread counts.", min=1)
    lengths: tuple[int, ...] | None = option(
        None,
        "Sequence lengths, which each file must have or leave open. By default "
        "each file's own, the longest of several.",
        min=1,
    )
    repeats: int = option(50, "Timed inferences of each.", min=1)
    json: str | None = option(None, "Also write the results to this file.")


def open_file(path: str, num_threads: int, length: int | None) -> MeasuredFile:
    """Opens a file at one length.

    Raises:
        InputError: if it cannot run at that length.
    """
    read_tflite(Path(path))
    try:
        return MeasuredFile(path, num_threads, length)
    except (ValueError, RuntimeError) as error:
        expected = "a whole .tflite file"
        if length is not None:
            expected += f" that runs at length {length}"
        raise InputError(path, expected, error) from error


def measure_files(
    paths: Sequence[str],
    num_threads: int,
    lengths: Sequence[int | None] = (None,),
    repeats: int = 50,
) -> list[dict]:
    """Measures files at several lengths, with dense layers among them.

    Args:
        paths: the files.
        num_threads: threads of the interpreter.
        lengths: sequence lengths; None: the file's own.
        repeats: timed inferences of each.

    Returns:
        Rows as of `measure`, with `peak_megabytes`.
    """
    # Imports TensorFlow, which converts them.
    from benchmarks.tflite.files import write_dense_layers

    wanted = [(path, length) for path in paths for length in lengths]
    for path, length in wanted:
        open_file(path, num_threads, length)
    with tempfile.TemporaryDirectory() as folder:
        rates = [(path, None) for path in write_dense_layers(Path(folder))]
        rows = measure(wanted + rates, num_threads, repeats)
    return with_memory(rows, wanted)


def with_memory(
    rows: list[dict],
    files: Sequence[tuple[str, int | None]],
    python: str = sys.executable,
) -> list[dict]:
    """Adds `peak_megabytes` to the first rows, those of `files`."""
    for row, (path, length) in zip(rows, files, strict=False):
        row["peak_megabytes"] = apart(
            peak_megabytes, str(path), row["threads"], length, python=python
        )
    return rows


def table(rows: Sequence[dict]) -> str:
    """Formats rows of one thread count, the machine's rates last.

    A rate is that of a row's fastest round, which nothing disturbed.
    """
    rates = {
        row["kernels"]: row["giga_operations"] / row["min_ms"]
        for row in rows
        if _is_rate(row)
    }
    files = [row for row in rows if not _is_rate(row)]
    width = max(len(Path(row["file"]).name) for row in files)
    lines = [
        f"{'file':<{width}}     MB  length  threads  median ms  (quartiles)"
        "     CPU ms  peak MB  of rate  operations, not delegated"
    ]
    for row in files:
        quartiles = f"({row['low_ms']:.2f}-{row['high_ms']:.2f})"
        line = (
            f"{Path(row['file']).name:<{width}} {row['megabytes']:6.1f}"
            f"  {row['length'] or '-':>6}  {row['threads']:>7}"
            f"  {row['median_ms']:9.2f}  {quartiles:<15} {row['cpu_ms']:6.2f}"
            f"  {row['peak_megabytes']:7.1f}"
        )
        if "operations" in row:
            rate = row["giga_operations"] / row["min_ms"]
            left = Counter(row["undelegated"]).most_common()
            named = " ".join(f"{count} {name}" for name, count in left)
            line += f"  {rate / rates[row['kernels']]:7.0%}"
            line += f"  {sum(row['operations'].values())}, {named or 'none'}"
        lines.append(line)
    for name, rate in rates.items():
        lines.append(f"{name} dense layers: {1e3 * rate:.0f} giga operations/s")
    return "\n".join(lines)


def _is_rate(row: dict) -> bool:
    return Path(row["file"]).name.startswith("rate_")


def main(options: BenchmarkOptions) -> None:
    """Measures, prints, and writes the JSON file if asked."""
    rows = []
    for threads in options.threads:
        new = measure_files(
            options.files, threads, options.lengths or (None,), options.repeats
        )
        print(table(new), end="\n\n", flush=True)
        rows += new
    if options.json:
        content = json.dumps({"rows": rows}, indent=2)
        Path(options.json).write_text(content + "\n")


if __name__ == "__main__":
    start(main, BenchmarkOptions, __doc__)
