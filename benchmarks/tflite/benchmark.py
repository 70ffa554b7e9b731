r"""Latency, memory and operations of .tflite files, side by side.

    python benchmarks/tflite/benchmark.py --threads=1,2 \
        --files=runs/sst2/float32.tflite,runs/sst2/int8_qat.tflite

Takes any files, this project's and others'. All are timed in turn, round by
round, so that a busy moment of the machine affects every one of them. Large
dense layers are timed among them: their rate is what this machine reaches in
the same kernels, and the table shows each file's share of it.

The table also counts a file's operations and names those that the accelerated
delegate (XNNPACK, on phones too) left to slower kernels. Peak memory is that of
a separate process. `--profile` also times every distinct operation by itself.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import argparse  # noqa: E402
import dataclasses  # noqa: E402
import json  # noqa: E402
import tempfile  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Sequence  # noqa: E402

from benchmarks.tflite.files import write_dense_layers  # noqa: E402
from benchmarks.tflite.measurement import (  # noqa: E402
    MeasuredFile,
    measure,
    run_apart,
)
from benchmarks.tflite.profile import (  # noqa: E402
    operation_times,
    profile_table,
)
from mobilebert_tf.errors import InputError  # noqa: E402
from mobilebert_tf.mobile.runtime import read_tflite  # noqa: E402


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


def benchmark(
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
        row["peak_megabytes"] = run_apart(
            "peak_megabytes", path, row["threads"], length, python=python
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


def whole_numbers(text: str) -> list[int]:
    """Parses a command line's list of positive whole numbers."""
    values = text.split(",")
    if not all(value.isdecimal() and int(value) for value in values):
        raise argparse.ArgumentTypeError(
            f"expected whole numbers from 1 on, found {text!r}"
        )
    return [int(value) for value in values]


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", required=True, help=".tflite files.")
    parser.add_argument(
        "--threads", type=whole_numbers, default=[1], help="Thread counts."
    )
    parser.add_argument(
        "--lengths",
        type=whole_numbers,
        default=[None],
        help="Sequence lengths, which each file must have or leave open. By "
        "default each file's own, the longest of several.",
    )
    parser.add_argument(
        "--repeats", type=int, default=50, help="Timed inferences of each."
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="Also time each distinct operation by itself, in each file's "
        "first graph: that of its longest sequences.",
    )
    parser.add_argument("--json", help="Also write the results to this file.")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or not options.files:
        parser.error("--files must name a file, and --repeats be positive")
    return options


def run(options: argparse.Namespace) -> None:
    """Measures, prints, and writes the JSON file if asked."""
    paths, rows, profiles = options.files.split(","), [], []
    for threads in options.threads:
        new = benchmark(paths, threads, options.lengths, options.repeats)
        print(table(new), end="\n\n", flush=True)
        rows += new
        for path in paths if options.profile else ():
            try:
                times = operation_times(path, threads, options.repeats)
            except ValueError as error:
                raise InputError(path, "known shapes", error) from error
            print(profile_table(path, threads, times), end="\n\n", flush=True)
            profiles += [
                {"file": path, "threads": threads, **dataclasses.asdict(one)}
                for one in times
            ]
    if options.json:
        content = {"rows": rows, "profiles": profiles}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    """Runs the command; bad input ends in one line and exit code 2."""
    options = parse_options()
    try:
        run(options)
    except InputError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
