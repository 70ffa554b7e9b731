"""What a .tflite file offers: signatures, names, and the order of tensors.

A file has one signature a sequence length; all share their weights. Inputs and
outputs have names, but not every program on a phone looks at them: the order
of the tensors is therefore fixed too, which the converter leaves to chance.
"""

from collections.abc import Sequence

import flatbuffers
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from mobilebert_tf.mobile.deployment import INPUT_NAMES, DeploymentModel
from mobilebert_tf.mobile.rounding import Rounding

# The signature of the longest sequences.
SIGNATURE = "serving_default"

# What a file of each task can return; the first is what it returns by default.
OUTPUTS = {
    "sequence_classification": (
        "logits",
        "probabilities",
        "independent_probabilities",
    ),
    "token_classification": ("logits", "probabilities"),
    "question_answering": ("logits",),
    "features": ("sequence_output", "first_token", "mean"),
}

# Data of a tensor begin at a multiple of this, as the format wants it.
_ALIGNMENT = 16


class InferenceGraph(tf.Module):
    """One inference with named outputs.

    Args:
        deployment: the folded network.
        rounding: what happens where an integer kernel would round.
        output: one of `OUTPUTS` of its task. `probabilities` add up to one,
            `independent_probabilities` are those of a model for several
            labels at once; `first_token` and `mean` (over real tokens) are
            embeddings of a text.

    Call arguments:
        input_ids, input_mask, segment_ids: int32 [1, S].

    Returns:
        A dict of float32 tensors: `logits` or `probabilities`, [1, C] for
        sequences, [1, S, C] for tokens; `start_logits` and `end_logits`
        [1, S] for question answering; `sequence_output` [1, S, D] or
        `embedding` [1, D] for an encoder.

    Raises:
        ValueError: for another output than the task has.
    """

    def __init__(
        self,
        deployment: DeploymentModel,
        rounding: Rounding,
        output: str | None = None,
    ):
        super().__init__(name="export")
        known = OUTPUTS[deployment.task]
        if output is not None and output not in known:
            raise ValueError(
                f"output must be one of {known} for {deployment.task}. "
                f"Received: {output!r}"
            )
        self.deployment = deployment
        self.output = output or known[0]
        self._rounding = rounding

    def __call__(self, input_ids, input_mask, segment_ids):
        outputs = self.deployment(
            input_ids,
            input_mask,
            segment_ids,
            rounding=self._rounding,
            first_only=self.output == "first_token",
        )
        if self.deployment.task == "question_answering":
            start, end = tf.unstack(outputs, axis=-1)
            return {"start_logits": start, "end_logits": end}
        if self.output == "probabilities":
            return {"probabilities": _float_softmax(outputs, input_mask)}
        if self.output == "independent_probabilities":
            # The logistic function, spelled without its integer kernel.
            return {"probabilities": 0.5 + 0.5 * tf.tanh(0.5 * outputs)}
        if self.output == "first_token":
            return {"embedding": outputs}
        if self.output == "mean":
            return {"embedding": _mean(outputs, input_mask)}
        return {self.output: outputs}


def _float_softmax(logits, input_mask):
    """Softmax over the last axis that stays in float in an integer file.

    The converter knows the range of a softmax and makes it integer, with steps
    of 1/256, unless its input is float. Hence the first token's mask, added to
    all logits alike: it vanishes in the softmax.
    """
    shape = (-1, *[1] * (len(logits.shape) - 1))
    first = tf.reshape(tf.cast(input_mask[:, 0], tf.float32), shape)
    return tf.nn.softmax(logits + first)


def _mean(rows, input_mask):
    """Mean of the real tokens' rows: [B, S, D] to [B, D]."""
    keep = tf.cast(input_mask, tf.float32)[:, :, None]
    total = tf.reduce_sum(rows * keep, axis=1)
    return total / tf.reduce_sum(keep, axis=1)


def signature_names(lengths: Sequence[int]) -> dict[str, int]:
    """Returns the signature of each length, the longest one's first.

    Raises:
        ValueError: if there is no length, one is there twice or below 1.
    """
    ordered = sorted(lengths, reverse=True)
    if not ordered or ordered[-1] < 1 or len(set(ordered)) < len(ordered):
        raise ValueError(
            f"max_seq_length must be a positive length or several different "
            f"ones. Received: {list(lengths)}"
        )
    names = {SIGNATURE: ordered[0]}
    return names | {f"serving_{length}": length for length in ordered[1:]}


def input_specs(length: int) -> dict[str, tf.TensorSpec]:
    """Returns the three inputs, int32 [1, `length`]."""
    return {
        name: tf.TensorSpec((1, length), tf.int32, name=name)
        for name in INPUT_NAMES
    }


def unpacked(content: bytes) -> schema.ModelT:
    """Returns a file's content as objects that can be changed."""
    return schema.ModelT.InitFromPackedBuf(content, 0)


def packed(model: schema.ModelT) -> bytes:
    """Returns the content of a file."""
    builder = _AlignedBuilder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _AlignedBuilder(flatbuffers.Builder):
    """Aligns arrays as the schema asks for, which the generated code forgets.

    Kernels read weights where they lie in the file.
    """

    def CreateNumpyVector(self, x):  # noqa: N802, the base class's name
        self.StartVector(x.itemsize, x.size, _ALIGNMENT)
        content = x.tobytes()
        self.head -= len(content)
        self.Bytes[self.head : self.head + len(content)] = content
        self.vectorNumElems = x.size
        return self.EndVector()


def arrange(
    model: schema.ModelT,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Names and orders the tensors of every signature, in place.

    The signature of the longest sequences becomes the file's first graph, the
    one that programs without signatures run.

    Args:
        model: what the converter made.
        inputs: names of all inputs in their order.
        outputs: names of all outputs in their order.
    """
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        graph.inputs = _named(graph, signature.inputs, inputs)
        graph.outputs = _named(graph, signature.outputs, outputs)
    model.signatureDefs.sort(
        key=lambda one: one.signatureKey != SIGNATURE.encode()
    )
    model.subgraphs = [
        model.subgraphs[signature.subgraphIndex]
        for signature in model.signatureDefs
    ]
    for index, signature in enumerate(model.signatureDefs):
        signature.subgraphIndex = index


def _named(graph, tensor_maps, order: Sequence[str]) -> np.ndarray:
    """Renames tensors as their signature does; returns their indices."""
    indices = {one.name.decode(): one.tensorIndex for one in tensor_maps}
    for name, index in indices.items():
        graph.tensors[index].name = name.encode()
    return np.array([indices[name] for name in order], np.int32)
