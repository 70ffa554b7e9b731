"""Converts a model folder with litert-torch and ONNX, for `peers.py`.

    PEERS/bin/python benchmarks/tflite/convert_peers.py FOLDER LENGTH

reads FOLDER/model with Hugging Face's transformers and writes a float32 and a
dynamic int8 file of each converter beside it. Runs in an environment without
this package.
"""

import sys
from pathlib import Path

import litert_torch
import onnxruntime.quantization as onnx_quantization
import torch
import transformers
from ai_edge_quantizer import quantizer, recipe

INPUTS = ("input_ids", "input_mask", "segment_ids")


class Network(torch.nn.Module):
    """Takes inputs by position, as the converters need."""

    def __init__(self, folder: Path):
        super().__init__()
        self.model = (
            transformers.MobileBertForSequenceClassification.from_pretrained(
                folder
            )
        )

    def forward(self, input_ids, input_mask, segment_ids):
        """Returns logits."""
        return self.model(
            input_ids=input_ids,
            attention_mask=input_mask,
            token_type_ids=segment_ids,
        ).logits


def main(folder: Path, length: int) -> None:
    """Writes the four files of one length."""
    network = Network(folder / "model").eval()
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


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
