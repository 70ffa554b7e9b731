"""Exported graphs have no form that GPU delegates misread or refuse.

`tests/phone` runs files on the GPU accelerator; this reads what is in them.
"""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import mobilebert_tf as mb
from mobilebert_tf.mobile.calibration import calibrate
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.quantization import Quantized
from tests import tiny

LENGTH = 10
NAMES = {
    number: name
    for name, number in vars(schema.BuiltinOperator).items()
    if not name.startswith("_")
}


class Graph:
    """The first graph of a file, as stored."""

    def __init__(self, path):
        content = path.read_bytes()
        self.model = schema.ModelT.InitFromPackedBuf(content, 0)
        self.graph = self.model.subgraphs[0]

    def shape(self, index):
        shape = self.graph.tensors[index].shape
        return [] if shape is None else list(shape)

    def is_constant(self, index):
        buffer = self.graph.tensors[index].buffer
        return self.model.buffers[buffer].data is not None

    def operations(self):
        for operator in self.graph.operators:
            code = self.model.operatorCodes[operator.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            yield NAMES[number], operator

    def faults(self) -> set[str]:
        """What LiteRT 2.3 on GPUs misreads, refuses or leaves to the CPU."""
        found = set()
        for name, operator in self.operations():
            shapes = [self.shape(i) for i in operator.inputs if i >= 0]
            several = [s for s in shapes if np.prod(s[:-1]) > 1]
            options = operator.builtinOptions
            if name in ("ADD", "MUL", "SUB"):
                if len({len(shape) for shape in several}) > 1:
                    found.add(f"{name} of {shapes}")
                for index in operator.inputs:
                    shape = self.shape(index)
                    if self.is_constant(index) and len(shape) == 2:
                        if shape[0] > 1:
                            found.add(f"{name} of a constant matrix")
            elif name == "FULLY_CONNECTED":
                output = self.shape(operator.outputs[0])
                if len(output) != len(shapes[0]):
                    found.add("FULLY_CONNECTED changes the rank")
                elif len(output) > 2 and not options.keepNumDims:
                    found.add("FULLY_CONNECTED without keep_num_dims")
            elif name == "GATHER":
                if len(shapes[1]) != 1:
                    found.add("GATHER with ids of another rank than 1")
                if not self.is_constant(operator.inputs[0]):
                    found.add("GATHER from a computed table")
            elif name == "STRIDED_SLICE":
                if options.shrinkAxisMask or options.newAxisMask:
                    found.add("STRIDED_SLICE changes the rank")
        return found


def computed_shapes(path):
    """The shapes of all outputs of operations that kernels find."""
    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=(
            OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
    )
    interpreter.allocate_tensors()
    details = interpreter.get_tensor_details()
    return {d["index"]: d["shape"].tolist() for d in details}


def assert_sound(path, allowed=frozenset()):
    graph, computed = Graph(path), computed_shapes(path)
    assert graph.faults() <= allowed
    for name, operator in graph.operations():
        for index in operator.outputs:
            assert graph.shape(index) == computed[index], name


def make(head, **changes):
    config = tiny.student_config(num_hidden_layers=1, **changes)
    labels = () if head in ("Encoder", "ForQuestionAnswering") else ("abc",)
    model = getattr(mb, f"MobileBert{head}")(config, *labels)
    tiny.randomise(model, np.random.default_rng(1))
    return fold(model)


def quantized(folded):
    batch = tiny.batch(2, (LENGTH, 7, 4))
    return Quantized(folded, calibrate(folded, [batch]))


# The table of a float16 file is widened as a whole: GPUs leave its look-ups to
# the CPU, in the order that they can read as in the other.
WIDENED = {"float16": {"GATHER from a computed table"}}


def test_classifiers_of_every_kind(files):
    for kind, path in files.items():
        assert_sound(path, WIDENED.get(kind, set()))


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize(
    ("head", "output", "changes"),
    [
        ("ForSequenceClassification", "probabilities", {}),
        ("ForTokenClassification", "probabilities", {}),
        ("ForQuestionAnswering", "logits", {"trigram_input": False}),
        ("Encoder", "mean", {"attention_mask_form": "multiply_add"}),
        (
            "Encoder",
            "first_token",
            {"normalization_type": "layer_norm", "hidden_act": "gelu"},
        ),
    ],
)
def test_other_outputs(head, output, changes, kind, tmp_path):
    folded = make(head, **changes)
    network = quantized(folded) if kind == "int8" else folded
    assert_sound(
        export(network, tmp_path / "x.tflite", LENGTH, kind, output=output)
    )


def test_wide_dynamic_files_dequantise_rows_instead_of_tables(tmp_path):
    # The converter rounds tables of 1,024 numbers or more.
    folded = make("ForSequenceClassification", hidden_size=512)
    path = export(folded, tmp_path / "x.tflite", LENGTH, "dynamic")
    assert_sound(path)
    graph = Graph(path)
    tables = [
        graph.graph.tensors[operator.inputs[0]].type
        for name, operator in graph.operations()
        if name == "GATHER"
    ]
    assert schema.TensorType.INT8 in tables


def test_the_converter_makes_graphs_that_gpus_misread(tmp_path, monkeypatch):
    monkeypatch.setattr("mobilebert_tf.mobile.export.suit_gpus", lambda _: None)
    folded = make("ForSequenceClassification", hidden_size=512)
    path = export(folded, tmp_path / "x.tflite", LENGTH, "dynamic")
    assert Graph(path).faults() >= {
        "FULLY_CONNECTED changes the rank",
        "GATHER from a computed table",
    }
