r"""Our .tflite files beside those of other converters, in one run.

    python benchmarks/tflite.py --peers_python=PEERS/bin/python

Full-size `mobilebert` with random weights and norms, a classifier of three
classes at lengths 128 and 384. Ours: float32, naive (the Keras model as the
converter takes it, norms and all) and folded; float16; dynamic; int8. Files of
int8_qat have the operations of int8 and need no row. Theirs, from the same
weights:
litert-torch, with ai-edge-quantizer's dynamic int8; ONNX Runtime, with its
dynamic int8. PEERS is an environment with `litert-torch`, `ai-edge-quantizer`,
`onnx`, `onnxruntime`, `torch` and `transformers`; without it ours are timed by
themselves.

All files of a length are timed in turn, round by round: on a machine that does
other work the ratios at the end say more than the times. `of rate` is a file's
share of what large dense layers reach in the same rounds, fastest rounds
compared. The first run writes the files (ten minutes on two cores, 1 GB); with
the same --folder later ones only time them.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

import mobilebert_tf as mb  # noqa: E402
from mobilebert_tf.mobile.deployment import deployment_model  # noqa: E402
from mobilebert_tf.mobile.export import (
    export_tflite,  # noqa: E402
    muted,  # noqa: E402
)
from mobilebert_tf.mobile.matrix_rate import dense_layers  # noqa: E402
from mobilebert_tf.mobile.quantization import QuantizationAwareModel  # noqa: E402
from mobilebert_tf.tools.operations import (
    KerasGraph,  # noqa: E402
    converted,  # noqa: E402
)

FLAGS = flags.FLAGS
LABELS = ("a", "b", "c")
KINDS = ("float32", "float16", "dynamic", "int8")
PEERS_SCRIPT = Path(__file__).with_name("tflite_peers.py")

# What is divided by what, and what the quotient is to be at most.
RATIOS = (
    ("ours_int8", "ours_float32", 0.28),
    ("ours_int8", "onnx_dynamic", 0.6),
    ("ours_int8", "litert-torch_dynamic", 0.85),
    ("ours_float32", "naive_float32", 1 / 1.1),
)

flags.DEFINE_string("peers_python", None, "Python with the peers.")
flags.DEFINE_string("folder", "tflite_benchmark", "Where the files go.")
flags.DEFINE_string("preset", "mobilebert", "Architecture.")
flags.DEFINE_list("lengths", ["128", "384"], "Lengths of sequences.")
flags.DEFINE_list("threads", ["1", "2"], "Numbers of threads.")
flags.DEFINE_integer("rounds", 30, "Timed inferences of each file.", 1)


def random_examples(config, length: int) -> dict[str, np.ndarray]:
    """A batch without padding, to calibrate on."""
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (2, length))
    return {
        "input_ids": ids.astype(np.int32),
        "input_mask": np.ones_like(ids, np.int32),
        "segment_ids": np.zeros_like(ids, np.int32),
    }


def train_norms(model: keras.Model) -> None:
    """Moves norms and biases away from their start.

    Converters drop a multiplication by one and a sum with zero, which a
    trained model does not have.
    """
    random = np.random.default_rng(1)
    for variable in model.weights:
        if variable.name in ("gamma", "beta", "bias"):
            noise = random.normal(0, 0.1, variable.shape)
            variable.assign_add(noise.astype(np.float32))


def write_ours(folder: Path, length: int) -> None:
    """Writes the files of a length that are not there yet."""
    paths = {kind: folder / f"ours_{kind}_{length}.tflite" for kind in KINDS}
    naive = folder / f"naive_float32_{length}.tflite"
    if all(path.exists() for path in (naive, *paths.values())):
        return
    keras.utils.set_random_seed(1)
    config = mb.MobileBertConfig.from_preset(FLAGS.preset)
    model = mb.MobileBertForSequenceClassification(config, LABELS)
    train_norms(model)
    if not (folder / "model").exists():
        model.save_pretrained(folder / "model")
    with muted():
        naive.write_bytes(converted(KerasGraph(model), length))
    quantized = QuantizationAwareModel(deployment_model(model))
    quantized.calibrate([random_examples(config, length)])
    for kind, path in paths.items():
        print(f"{path}", flush=True)
        export_tflite(
            model, kind, path, max_seq_length=length, quantized=quantized
        )


def write_all(folder: Path, lengths: list[str]) -> None:
    """Writes what is missing, ours and theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, is_integer in {"float32": False, "int8": True}.items():
        path = folder / f"rate_{name}.tflite"
        if not path.exists():
            with muted():
                path.write_bytes(dense_layers(is_integer))
    for length in lengths:
        write_ours(folder, int(length))
        theirs = folder / f"onnx_dynamic_{length}.onnx"
        if FLAGS.peers_python and not theirs.exists():
            run_peers("make", folder, length)


def run_peers(*arguments) -> str:
    """Runs the other script; returns what it printed."""
    return subprocess.run(
        [
            FLAGS.peers_python or sys.executable,
            PEERS_SCRIPT,
            *map(str, arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    ).stdout


def report(rows: dict[str, dict], length: str, threads: str) -> None:
    """Prints the table and the ratios of one length."""
    print(f"\nlength {length}, {threads} thread(s)")
    print(
        f"{'file':<22}   median (quartiles) ms    fastest  of rate"
        "  operations, left to slow kernels"
    )
    rates = {
        row["is_integer"]: row["giga_operations"] / row["min_ms"]
        for name, row in rows.items()
        if name.startswith("rate_")
    }
    for name, row in rows.items():
        line = (
            f"{name.removesuffix('_' + length):<22} {row['median_ms']:8.2f}"
            f" ({row['low_ms']:.2f}-{row['high_ms']:.2f})".ljust(48)
            + f"{row['min_ms']:8.2f}"
        )
        if "operations" in row:
            share = row["giga_operations"] / row["min_ms"]
            left = " ".join(f"{n} {op}" for op, n in row["undelegated"].items())
            line += (
                f"  {share / rates[row['is_integer']]:6.0%}"
                f"  {row['operations']:5}, {left or 'none'}"
            )
        print(line)
    for above, below, wanted in RATIOS:
        pair = [rows.get(f"{name}_{length}") for name in (above, below)]
        if all(pair):
            wall, processor = (
                pair[0][key] / pair[1][key] for key in ("median_ms", "cpu_ms")
            )
            print(
                f"{above} / {below}: {wall:.2f} of the wall's time, "
                f"{processor:.2f} of the processor's (aim: {wanted:.2f})"
            )


def main(_) -> None:
    """Writes, times, prints."""
    folder = Path(FLAGS.folder)
    write_all(folder, FLAGS.lengths)
    for length in FLAGS.lengths:
        for threads in FLAGS.threads:
            printed = run_peers("time", folder, length, threads, FLAGS.rounds)
            report(json.loads(printed), length, threads)


if __name__ == "__main__":
    app.run(main)
