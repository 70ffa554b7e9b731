r"""Latency, memory and operations of .tflite files, side by side.

    python -m mobilebert_tf.tools.benchmark_tflite --threads=1,2 \
        --files=runs/sst2/float32.tflite,runs/sst2/int8_qat.tflite

Any files: those of this project and others'. All are timed in turn, round by
round, so that a busy moment of the machine hits every one of them, with large
dense layers among them: their rate is what the machine can do in these
kernels, and each file's share of it is in the table.

With each file stands the number of its operations, and which of them the
accelerated delegate (XNNPACK, on phones too) left to slower kernels. Peak
memory is that of a process of its own. `--profile` also times every kind of
operation by itself, and shows where a file's time goes.
"""

import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from absl import flags

from mobilebert_tf.commands import flags as shared
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.mobile import measurement
from mobilebert_tf.mobile.export import muted
from mobilebert_tf.mobile.matrix_rate import dense_layers
from mobilebert_tf.mobile.measurement import MeasuredFile, interleaved
from mobilebert_tf.mobile.operation_profile import (
    OperationTime,
    operation_times,
    totals_by_type,
)
from mobilebert_tf.mobile.runtime import read_tflite

FLAGS = flags.FLAGS

_RATES = {"float32": False, "int8": True}

# Kinds of operations that a profile lists one by one.
_SLOWEST = 12


def whole_numbers(name: str) -> list[int]:
    """Returns a flag's list of positive whole numbers.

    Raises:
        InputError: if it is none, or empty though it has a default.
    """
    values = getattr(FLAGS, name)
    is_missing = not values and FLAGS[name].default
    if is_missing or not all(v.isdecimal() and int(v) for v in values):
        raise InputError(f"--{name}", "whole numbers from 1 on", values)
    return [int(value) for value in values]


def open_file(path: str, num_threads: int, length: int | None) -> MeasuredFile:
    """Opens one file at one length.

    Raises:
        InputError: if it cannot be run so.
    """
    read_tflite(Path(path))
    try:
        return MeasuredFile(path, num_threads, length)
    except (ValueError, RuntimeError) as error:
        expected = "a whole .tflite file"
        if length is not None:
            expected += f" that runs at length {length}"
        raise InputError(path, expected, error) from error


def peak_megabytes(path: str, num_threads: int, length: int | None) -> float:
    """Measures a file's memory in a process that does nothing else."""
    command = [sys.executable, measurement.__file__, path, str(num_threads)]
    if length is not None:
        command.append(str(length))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def measured_rates(
    files: dict[tuple, MeasuredFile], timings: dict[tuple, dict]
) -> dict[tuple[str, int], float]:
    """Operations a second of dense layers, by type and number of threads."""
    return {
        key[1:]: files[key].matrix_operations() / (timings[key]["min_ms"] / 1e3)
        for key in files
        if key[0] == "rate"
    }


def row(key: tuple, file: MeasuredFile, timing: dict, rates: dict) -> dict:
    """Returns what is known of a file at a length with so many threads."""
    path, num_threads, length = key
    kernels = "int8" if file.has_integer_kernels() else "float32"
    # Of the fastest rounds, which nothing disturbed.
    rate = file.matrix_operations() / (timing["min_ms"] / 1e3)
    return {
        "file": path,
        "megabytes": Path(path).stat().st_size / 1e6,
        "length": file.length,
        "threads": num_threads,
        **timing,
        "peak_megabytes": peak_megabytes(path, num_threads, length),
        "giga_operations": file.matrix_operations() / 1e9,
        "kernels": kernels,
        "share_of_rate": rate / rates[kernels, num_threads],
        "operations": dict(file.operations()),
        "undelegated": dict(file.undelegated()),
    }


def benchmark(
    paths: list[str],
    threads: list[int],
    lengths: list[int | None],
    repeats: int,
) -> tuple[list[dict], dict[tuple[str, int], float]]:
    """Measures every file at every length with every number of threads.

    Args:
        paths: the files.
        threads: numbers of threads.
        lengths: lengths of sequences; None: the file's own.
        repeats: timed inferences of each.

    Returns:
        A row for each, and the measured rates of dense layers, in operations
        a second, by type and number of threads.
    """
    files = {
        (path, num_threads, length): open_file(path, num_threads, length)
        for path in paths
        for num_threads in threads
        for length in lengths
    }
    wanted = list(files)
    with tempfile.TemporaryDirectory() as folder:
        for name, is_integer in _RATES.items():
            path = Path(folder) / f"{name}.tflite"
            with muted():
                path.write_bytes(dense_layers(is_integer))
            for num_threads in threads:
                files["rate", name, num_threads] = MeasuredFile(
                    path, num_threads
                )
        timings = interleaved(
            {key: file.run for key, file in files.items()}, repeats
        )
        rates = measured_rates(files, timings)
    rows = [row(key, files[key], timings[key], rates) for key in wanted]
    return rows, rates


def table(rows: list[dict], rates: dict[tuple[str, int], float]) -> list[str]:
    """Lines of the table, and what the machine can do."""
    width = max(len(Path(one["file"]).name) for one in rows)
    lines = [
        f"{'file':<{width}}     MB  length  threads  median ms  (quartiles)"
        "     CPU ms  peak MB  of rate  operations, left to slow kernels"
    ]
    for one in rows:
        quartiles = f"({one['low_ms']:.2f}-{one['high_ms']:.2f})"
        left = Counter(one["undelegated"]).most_common()
        named = " ".join(f"{count} {name}" for name, count in left) or "none"
        lines.append(
            f"{Path(one['file']).name:<{width}} {one['megabytes']:6.1f}"
            f"  {one['length'] or '-':>6}  {one['threads']:>7}"
            f"  {one['median_ms']:9.2f}  {quartiles:<15} {one['cpu_ms']:6.2f}"
            f"  {one['peak_megabytes']:7.1f}  {one['share_of_rate']:7.0%}"
            f"  {sum(one['operations'].values())}, {named}"
        )
    lines.append("")
    for (name, num_threads), rate in rates.items():
        lines.append(
            f"{name} dense layers, {num_threads} thread(s): "
            f"{rate / 1e9:.0f} giga operations/s"
        )
    return lines


def profile(path: str, num_threads: int) -> list[OperationTime]:
    """Times a file's operations by themselves.

    Raises:
        InputError: if its shapes are left open.
    """
    try:
        return operation_times(path, num_threads, FLAGS.repeats)
    except ValueError as error:
        raise InputError(path, "shapes that are known", error) from error


def profile_table(
    path: str, num_threads: int, rows: list[OperationTime]
) -> list[str]:
    """Lines of a profile: types of operations, and the slowest kinds."""
    total = sum(row.total for row in rows)
    lines = [
        "",
        f"{Path(path).name}, {num_threads} thread(s), operations by themselves",
        f"{'type':<22} number        ms   share",
    ]
    for name, (count, milliseconds) in totals_by_type(rows).items():
        share = milliseconds / total
        lines.append(f"{name:<22} {count:6} {milliseconds:9.3f}  {share:6.1%}")
    lines += [
        f"{'all':<22} {sum(row.count for row in rows):6} {total:9.3f}",
        "",
        f"{'slowest':<22} number        ms  microseconds of one, and shapes",
    ]
    for row in rows[:_SLOWEST]:
        slow = "" if row.is_delegated else ", in slow kernels"
        lines.append(
            f"{row.name:<22} {row.count:6} {row.total:9.3f}"
            f"  {1e3 * row.milliseconds:7.1f}  {row.shapes}{slow}"
        )
    return lines


def main(_) -> None:
    """Measures, prints, writes."""
    if not FLAGS.files:
        raise InputError("--files", ".tflite files", "none")
    lengths, threads = (
        whole_numbers("lengths") or [None],
        whole_numbers("threads"),
    )
    rows, rates = benchmark(FLAGS.files, threads, lengths, FLAGS.repeats)
    print("\n".join(table(rows, rates)), flush=True)
    profiles = {}
    for key in itertools.product(FLAGS.files, threads) if FLAGS.profile else ():
        profiles[key] = profile(*key)
        print("\n".join(profile_table(*key, profiles[key])), flush=True)
    if FLAGS.json:
        content = {
            "rows": rows,
            "rates": [
                {"kernels": name, "threads": num_threads, "per_second": rate}
                for (name, num_threads), rate in rates.items()
            ],
            "profiles": [
                {
                    "file": path,
                    "threads": num_threads,
                    **dataclasses.asdict(one),
                }
                for (path, num_threads), times in profiles.items()
                for one in times
            ],
        }
        with atomic_file(FLAGS.json) as path:
            path.write_text(json.dumps(content, indent=2) + "\n")


def define_flags() -> None:
    """Defines the tool's flags, when it is run and not when imported."""
    flags.DEFINE_list("files", None, ".tflite files.", required=True)
    flags.DEFINE_list("threads", ["1"], "Numbers of threads to run with.")
    flags.DEFINE_list(
        "lengths",
        [],
        "Lengths to run at, which each file must have or leave open. By "
        "default each file's own, the longest of several.",
    )
    flags.DEFINE_integer("repeats", 50, "Timed inferences of each.", 1)
    flags.DEFINE_bool(
        "profile",
        False,
        "Also time each kind of operation by itself, of each file's first "
        "graph: that of its longest sequences.",
    )
    flags.DEFINE_string("json", None, "Also write all of it to this file.")


if __name__ == "__main__":
    define_flags()
    shared.run_script(main, goes_on=False)
