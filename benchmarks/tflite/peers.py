r"""Our .tflite files beside those of other converters, in one run.

    python benchmarks/tflite/peers.py --peers_python=PEERS/bin/python

Full-size `mobilebert` with random weights and norms, a classifier of three
classes at lengths 128 and 384. Ours: float32, float16, dynamic and int8
(int8_qat has the operations of int8 and needs no row), and `naive`, the Keras
model as the converter takes it. Theirs, from the same weights: litert-torch,
with ai-edge-quantizer's dynamic int8; ONNX Runtime, with its dynamic int8.
PEERS is an environment with `litert-torch`, `ai-edge-quantizer`, `onnx`,
`onnxruntime`, `torch` and `transformers`; without it only ours are timed.

All files of a length are timed in turn, round by round: on a busy machine the
ratios at the end are more reliable than the times. `of rate` is a file's share
of the rate that large dense layers reach in the same rounds, both in their
fastest round. The first run writes the files (ten minutes on two cores, 1 GB);
later ones with the same --folder only time them.
"""

import os
import sys
from pathlib import Path

# This file also runs under PEERS, where this package is not installed.
if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import argparse  # noqa: E402
import subprocess  # noqa: E402

from benchmarks.tflite.measurement import run_apart  # noqa: E402

INPUTS = ("input_ids", "input_mask", "segment_ids")
# Numerator, denominator, and the largest ratio to aim for.
RATIOS = (
    ("ours_int8", "ours_float32", 0.28),
    ("ours_int8", "onnx_dynamic", 0.6),
    ("ours_int8", "litert-torch_dynamic", 0.85),
    ("ours_float32", "naive_float32", 1 / 1.1),
)


def convert(folder: Path, length: int) -> None:
    """Writes the peers' files of one length; runs under PEERS."""
    import litert_torch
    import onnxruntime.quantization as onnx_quantization
    import torch
    import transformers
    from ai_edge_quantizer import quantizer, recipe

    class Network(torch.nn.Module):
        """Takes inputs by position, as the converters need."""

        def __init__(self):
            super().__init__()
            self.model = (
                transformers.MobileBertForSequenceClassification
            ).from_pretrained(folder / "model")

        def forward(self, input_ids, input_mask, segment_ids):
            return self.model(
                input_ids=input_ids,
                attention_mask=input_mask,
                token_type_ids=segment_ids,
            ).logits

    network = Network().eval()
    # Three tensors: the same one thrice would become one input.
    ones = tuple(torch.ones((1, length), dtype=torch.int32) for _ in INPUTS)
    path = folder / f"litert-torch_float32_{length}.tflite"
    litert_torch.convert(network, ones).export(str(path))
    quantized = quantizer.Quantizer(str(path))
    quantized.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    quantized.quantize().export_model(
        str(folder / f"litert-torch_dynamic_{length}.tflite"), overwrite=True
    )
    path = folder / f"onnx_float32_{length}.onnx"
    torch.onnx.export(
        network,
        ones,
        str(path),
        input_names=INPUTS,
        opset_version=17,
        dynamo=False,
    )
    onnx_quantization.quantize_dynamic(
        str(path),
        str(folder / f"onnx_dynamic_{length}.onnx"),
        per_channel=True,
        weight_type=onnx_quantization.QuantType.QInt8,
    )


def compare(options: argparse.Namespace, length: int) -> None:
    """Writes the files of a length that are missing, times all, prints."""
    from benchmarks.tflite import benchmark, files

    folder, python = Path(options.folder), options.peers_python
    files.write_ours(folder, options.preset, length)
    if python and not list(folder.glob(f"*_{length}.onnx")):
        subprocess.run(
            [python, __file__, f"--folder={folder}", f"--convert={length}"],
            check=True,
        )
    python = python or sys.executable
    paths = sorted(folder.glob(f"*_{length}.*"))
    wanted = [(str(path), length) for path in paths]
    rates = [(str(path), None) for path in files.write_dense_layers(folder)]
    for threads in map(int, options.threads.split(",")):
        rows = run_apart(
            "measure", wanted + rates, threads, options.rounds, python=python
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


def main() -> None:
    """Compares all lengths, or, as called under PEERS, converts one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers_python", help="Python of the peers.")
    parser.add_argument(
        "--folder", default="tflite_benchmark", help="Where the files go."
    )
    parser.add_argument("--preset", default="mobilebert", help="Architecture.")
    parser.add_argument("--lengths", default="128,384", help="Lengths.")
    parser.add_argument("--threads", default="1,2", help="Thread counts.")
    parser.add_argument(
        "--rounds", type=int, default=30, help="Timed inferences of each file."
    )
    parser.add_argument("--convert", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.convert:
        return convert(Path(options.folder), options.convert)
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    for length in map(int, options.lengths.split(",")):
        compare(options, length)


if __name__ == "__main__":
    main()
