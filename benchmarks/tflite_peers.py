"""The part of `tflite.py` that runs where the peers are installed.

    python benchmarks/tflite_peers.py make FOLDER LENGTH
    python benchmarks/tflite_peers.py time FOLDER LENGTH THREADS ROUNDS

`make` reads FOLDER/model, a model folder, and writes what PyTorch's converters
make of it: litert-torch (and ai-edge-quantizer's dynamic int8), and ONNX (and
ONNX Runtime's dynamic int8, per channel). `time` runs all files of a length in
turn, ours and theirs, and prints JSON. Imports nothing of this package but its
measuring file, which imports nothing of it either.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

MOBILE = Path(__file__).resolve().parents[1] / "mobilebert_tf" / "mobile"
sys.path.insert(0, str(MOBILE))

from measurement import MeasuredFile, interleaved  # noqa: E402

INPUTS = ("input_ids", "input_mask", "segment_ids")


def make(folder: Path, length: int) -> None:
    """Writes the peers' files of one length."""
    import litert_torch
    import onnxruntime.quantization as onnx_quantization
    import torch
    import transformers
    from ai_edge_quantizer import quantizer, recipe

    class Network(torch.nn.Module):
        """Takes inputs by position, as the converters want them."""

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
    # Three tensors: one taken thrice would become one input.
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


def onnx_run(path: Path, num_threads: int, length: int) -> Callable[[], None]:
    """Returns a function that runs one inference of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    ones = np.ones((1, length), np.int32)
    inputs = {one.name: ones for one in session.get_inputs()}
    return lambda: session.run(None, inputs)


def time_all(folder: Path, length: int, num_threads: int, rounds: int) -> dict:
    """Times every file of a length; rates of dense layers with them."""
    paths = [
        *sorted(folder.glob(f"*_{length}.tflite")),
        *sorted(folder.glob("rate_*.tflite")),
    ]
    files = {path.stem: MeasuredFile(path, num_threads) for path in paths}
    runs = {name: file.run for name, file in files.items()}
    for path in sorted(folder.glob(f"*_{length}.onnx")):
        runs[path.stem] = onnx_run(path, num_threads, length)
    rows = interleaved(runs, rounds)
    for name, file in files.items():
        rows[name] |= {
            "giga_operations": file.matrix_operations() / 1e9,
            "is_integer": file.has_integer_kernels(),
            "operations": sum(file.operations().values()),
            "undelegated": dict(file.undelegated()),
        }
    return rows


if __name__ == "__main__":
    verb, target, *numbers = sys.argv[1:]
    if verb == "make":
        make(Path(target), *map(int, numbers))
    else:
        print(json.dumps(time_all(Path(target), *map(int, numbers))))
