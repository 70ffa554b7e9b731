"""Reading Model Garden's TensorFlow 2 object checkpoints.

Such a checkpoint names a tensor by the path of its object, for example
`model/layer_with_weights-3/...`, whose numbers depend on how the model was put
together and saved. It also stores the graph of all objects, with the names of
their variables, which do not. We read those, without the parts that depend on
the process: prefixes of outer models and Keras's numbering.

A checkpoint does not tell one thing that a model needs: Model Garden computes
the exact form of "gelu" where a config names it, and the tanh form in models
that its converter made from TensorFlow 1.
"""

import re
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError

from mobilebert_tf import compat
from mobilebert_tf.conversion.names import (
    MODEL_GARDEN_BOOKKEEPING,
    MODEL_GARDEN_LAYERS,
)
from mobilebert_tf.conversion.tensors import Tensor
from mobilebert_tf.conversion.tf1 import open_checkpoint, read_checkpoint
from mobilebert_tf.errors import InputError

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
# TensorFlow reports data that end too early as an IndexError.
_READ_ERRORS = (tf.errors.OpError, IndexError, DecodeError)


def is_object_checkpoint(reader) -> bool:
    """Whether a checkpoint stores a graph of objects.

    The `variables/` of a TensorFlow 2 SavedModel do as well.

    Args:
        reader: result of `open_checkpoint`.
    """
    return reader.has_tensor(OBJECT_GRAPH)


def read_model_garden(
    prefix: str | Path, scope: str | None = None
) -> dict[str, Tensor]:
    """Lists a checkpoint's tensors by Model Garden's variable names.

    Tensors outside the model (moments of an optimizer, counters) and variables
    without a name are listed by the path of their object; variables whose name
    is not in any table, by name and path.

    Args:
        prefix: path of the checkpoint without `.index`.
        scope: name of the object to read, if several models were saved
            (`tf.train.Checkpoint(teacher=..., student=...)`).

    Raises:
        InputError: this is not an object checkpoint, is damaged, has nothing
            in that scope, or has several variables of the same name; when a
            tensor is read: its data are damaged.
    """
    graph = _read_graph(prefix)
    nodes = _nodes_in_scope(prefix, graph, scope)
    names = _names_by_key(graph, nodes)
    tensors, keys = {}, {}
    for key, tensor in sorted(read_checkpoint(prefix).items()):
        if key == OBJECT_GRAPH or (scope is not None and key not in names):
            continue
        name = _table_name(key, names.get(key, ""))
        if name in tensors:
            roots = ", ".join(sorted(_roots(graph)))
            raise InputError(
                prefix,
                f"one model, or as --scope the one that is meant of: {roots}",
                f"{keys[name]} and {key}",
                place=name,
            )
        tensors[name], keys[name] = tensor, key
    return _with_span_scope(graph, nodes, _with_one_pooler(tensors))


def normalization_type(
    prefix: str | Path, scope: str | None = None
) -> str | None:
    """Tells a NoNorm model from one with layer norms, whose names are equal.

    Model Garden's NoNorm has its gamma also as an attribute `scale`.

    Returns:
        "no_norm", "layer_norm", or None if the graph shows neither.
    """
    graph = _read_graph(prefix)
    nodes = _nodes_in_scope(prefix, graph, scope)
    attributes = [
        {child.local_name for child in graph.nodes[node].children}
        for node in nodes
    ]
    norms = [names for names in attributes if {"gamma", "beta"} <= names]
    if not norms:
        return None
    # The masked LM head has a layer norm in every model.
    is_no_norm = any("scale" in names for names in norms)
    return "no_norm" if is_no_norm else "layer_norm"


def _read_graph(prefix: str | Path):
    """Returns the TrackableObjectGraph of a checkpoint."""
    reader = open_checkpoint(prefix)
    if not is_object_checkpoint(reader):
        raise InputError(
            f"{prefix}.index",
            "a TensorFlow 2 object checkpoint",
            "no object graph in it",
        )
    try:
        graph = compat.object_graph(reader.get_tensor(OBJECT_GRAPH))
    except _READ_ERRORS as error:
        raise InputError(
            f"{prefix}.data", "readable data", error, place=OBJECT_GRAPH
        ) from error
    children = {
        child.node_id for node in graph.nodes for child in node.children
    }
    if not graph.nodes or not children <= set(range(len(graph.nodes))):
        raise InputError(
            f"{prefix}.data",
            "a graph of objects",
            "a damaged one",
            OBJECT_GRAPH,
        )
    return graph


def _roots(graph) -> dict[str, int]:
    """Returns the saved objects that hold others, by name."""
    return {
        child.local_name: child.node_id
        for child in graph.nodes[0].children
        if graph.nodes[child.node_id].children
    }


def _nodes_in_scope(prefix: str | Path, graph, scope: str | None) -> set[int]:
    """Returns the nodes below a saved object; all nodes without a scope."""
    if scope is None:
        return set(range(len(graph.nodes)))
    roots = _roots(graph)
    if scope not in roots:
        expected = f"one of {', '.join(sorted(roots))} as --scope"
        raise InputError(prefix, expected, scope)
    found, waiting = set(), [roots[scope]]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(
                child.node_id for child in graph.nodes[node].children
            )
    return found


def _names_by_key(graph, nodes: set[int]) -> dict[str, str]:
    return {
        attribute.checkpoint_key: attribute.full_name
        for node in nodes
        for attribute in graph.nodes[node].attributes
    }


def _table_name(key: str, full_name: str) -> str:
    """Returns the name in our tables of what a checkpoint stores as `key`."""
    path = key.removesuffix(_VALUE_SUFFIX)
    is_bookkeeping = any(
        re.fullmatch(pattern, path) for pattern, _ in MODEL_GARDEN_BOOKKEEPING
    )
    if is_bookkeeping or not full_name:
        return path
    for layer, name in MODEL_GARDEN_LAYERS:
        found = re.fullmatch(rf"(?:.*/)?{layer}/(\w[\w/]*)", full_name)
        if found:
            return f"{found.expand(name)}/{found[found.lastindex]}"
    return f"{full_name} ({path})"


def _with_one_pooler(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the hidden layer of a classifier to the pooler.

    It does what a pooler does, reads the first vector and ends in a tanh, and
    ignores the pooler of the encoder if there is one.
    """
    own, encoders = "sentence_prediction/pooler_dense/", "pooler/"
    if f"{own}kernel" not in tensors:
        return tensors
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith(encoders):
            name = f"unread_{name}"
        elif name.startswith(own):
            name = encoders + name.removeprefix(own)
        renamed[name] = tensor
    return renamed


def _with_span_scope(
    graph, nodes: set[int], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Tells the head for answer spans from that for tokens by its object.

    Their variables have the same names.
    """
    scope, head = "span_labeling", "predictions/transform/logits/"
    is_span_labeler = any(
        child.local_name == scope
        for node in nodes
        for child in graph.nodes[node].children
    )
    if not is_span_labeler:
        return tensors
    return {
        f"{scope}/{name}" if name.startswith(head) else name: tensor
        for name, tensor in tensors.items()
    }
