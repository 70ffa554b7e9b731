"""Object checkpoints put together by hand, with Model Garden's names.

What its real models write is compared in `tests/peers`.
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.core.protobuf.trackable_object_graph_pb2 import (
    TrackableObjectGraph,
)

from mobilebert_tf import load
from mobilebert_tf.conversion.model_garden import (
    OBJECT_GRAPH,
    is_object_checkpoint,
    normalization_type,
    read_model_garden,
)
from mobilebert_tf.conversion.names import (
    MODEL_GARDEN_DROPPED,
    MODEL_GARDEN_HEADS,
    model_garden_names,
)
from mobilebert_tf.conversion.reading import read_source
from mobilebert_tf.conversion.tensors import blank_model, match
from mobilebert_tf.conversion.tf1 import open_checkpoint
from mobilebert_tf.conversion.writing import write_folder
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.weight_names import variables_by_path
from tests import tiny
from tests.conversion import checkpoints
from tests.modeling import numpy_block

CONFIG = tiny.student_config()
NUM_HEADS, HEAD_SIZE = 4, 4

# TensorFlow 1's names of layers, under which the NumPy block knows them, and
# Model Garden's, as its encoder lists them.
EMBEDDINGS = {
    "bert/embeddings/word_embeddings": "word_embedding/embeddings",
    "bert/embeddings/token_type_embeddings": "type_embedding/embeddings",
    "bert/embeddings/position_embeddings": "position_embedding/embeddings",
    "bert/embeddings/embedding_transformation": "embedding_projection",
    "bert/embeddings/FakeLayerNorm": "embedding_norm",
}
BLOCK = {
    "bottleneck/input/dense": "bottleneck_input/dense",
    "bottleneck/input/FakeLayerNorm": "bottleneck_input/norm",
    "bottleneck/attention/dense": "kq_shared_bottleneck/dense",
    "bottleneck/attention/FakeLayerNorm": "kq_shared_bottleneck/norm",
    "attention/self/query": "attention/query",
    "attention/self/key": "attention/key",
    "attention/self/value": "attention/value",
    "attention/output/dense": "attention/attention_output",
    "attention/output/FakeLayerNorm": "attention/norm",
    "output/bottleneck/dense": "bottleneck_output/dense",
    "output/bottleneck/FakeLayerNorm": "bottleneck_output/norm",
    "ffn_layer_0/intermediate/dense": "ffn_layer_0/intermediate_dense",
    "ffn_layer_0/output/dense": "ffn_layer_0/output_dense",
    "ffn_layer_0/output/FakeLayerNorm": "ffn_layer_0/norm",
    # TensorFlow 1 has BERT's names for the last network.
    "intermediate/dense": "ffn_layer_1/intermediate_dense",
    "output/dense": "ffn_layer_1/output_dense",
    "output/FakeLayerNorm": "ffn_layer_1/norm",
}


def model_garden_name(name: str) -> str:
    """Model Garden's name of one of TensorFlow 1's variables."""
    if name.startswith("cls/"):
        name = f"bert/{name}"
        return f"{name}/bias" if name.endswith("output_bias") else name
    if name in EMBEDDINGS:
        return f"mobile_bert_embedding/{EMBEDDINGS[name]}"
    layer, leaf = name.rsplit("/", 1)
    if layer in EMBEDDINGS:
        return f"mobile_bert_embedding/{EMBEDDINGS[layer]}/{leaf}"
    _, block, layer = re.split(r"bert/encoder/layer_(\d)/", layer)
    return f"transformer_layer_{block}/{BLOCK[layer]}/{leaf}"


def model_garden_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Attention has an axis of heads."""
    if re.search("attention/(query|key|value)", name):
        return (*shape[:-1], NUM_HEADS, HEAD_SIZE)
    if name.endswith("attention_output/kernel"):
        return (NUM_HEADS, HEAD_SIZE, *shape[1:])
    return shape


def shapes_of(tf1_shapes) -> dict[str, tuple[int, ...]]:
    return {
        model_garden_name(name): model_garden_shape(
            model_garden_name(name), shape
        )
        for name, shape in tf1_shapes.items()
    }


def encoder_shapes() -> dict[str, tuple[int, ...]]:
    return shapes_of(checkpoints.encoder_shapes(CONFIG))


class Objects(tf.Module):
    """Variables at paths that say nothing, like `variables/17`."""

    def __init__(self, shapes, rng, rename=str):
        super().__init__()
        self.held = [
            tf.Variable(
                rng.standard_normal(shape).astype("float32"), name=rename(name)
            )
            for name, shape in shapes.items()
        ]


def save(folder: Path, **objects) -> str:
    return tf.train.Checkpoint(**objects).save(str(folder / "ckpt"))


def save_again(prefix: str, edited) -> str:
    """Writes a checkpoint with an edited graph of objects."""
    reader = open_checkpoint(prefix)
    values = {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
    }
    graph = TrackableObjectGraph.FromString(values[OBJECT_GRAPH])
    result = edited(graph)
    if not isinstance(result, bytes):
        result = graph.SerializeToString()
    values[OBJECT_GRAPH] = result
    tf.raw_ops.SaveV2(
        prefix=f"{prefix}-edited",
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values.values()],
    )
    return f"{prefix}-edited"


def held_values(objects: Objects) -> dict[str, np.ndarray]:
    return {
        variable.name.removesuffix(":0"): variable.numpy()
        for variable in objects.held
    }


def bookkeeping(tensors) -> list[str]:
    return [
        name
        for name in tensors
        if any(
            re.fullmatch(pattern, name) for pattern, _ in MODEL_GARDEN_DROPPED
        )
    ]


@pytest.mark.parametrize(
    "rename",
    [
        pytest.param(str, id="as_is"),
        pytest.param(
            lambda name: name.replace("embedding/", "embedding_13/", 1),
            id="numbered_embedding",
        ),
        pytest.param(lambda name: f"student/encoder/{name}", id="nested"),
        pytest.param(
            lambda name: re.sub(r"(_layer_\d+)/", r"\1_2/", name, count=1),
            id="numbered_blocks",
        ),
    ],
)
def test_lists_every_variable_by_its_own_name(tmp_path, rng, rename):
    shapes = encoder_shapes()
    objects = Objects(shapes, rng, rename)
    tensors = read_model_garden(save(tmp_path, model=objects))
    assert bookkeeping(tensors) == ["save_counter"]
    del tensors["save_counter"]
    assert {name: tensors[name].shape for name in tensors} == shapes
    assert {tensor.dtype for tensor in tensors.values()} == {"float32"}
    for name, value in held_values(objects).items():
        plain = next(plain for plain in shapes if rename(plain) == name)
        np.testing.assert_array_equal(tensors[plain].read(), value)


def test_strange_variables_are_listed_by_their_paths(tmp_path, rng):
    shapes = {"alien/kernel": (2, 3), "pooler/kernel": (8, 8)}
    prefix = save(tmp_path, model=Objects(shapes, rng))
    assert set(read_model_garden(prefix)) == {
        "alien/kernel (model/held/0)",
        "pooler/kernel",
        "save_counter",
    }

    def without_names(graph):
        for node in graph.nodes:
            for attribute in node.attributes:
                attribute.full_name = ""

    prefix = save_again(prefix, edited=without_names)
    assert set(read_model_garden(prefix)) == {
        "model/held/0",
        "model/held/1",
        "save_counter",
    }


@pytest.mark.parametrize("optimizers", ["legacy", "current"])
def test_training_state_is_dropped(tmp_path, rng, optimizers):
    objects = Objects(encoder_shapes(), rng)
    if optimizers == "legacy":
        optimizer = tf_keras.optimizers.legacy.Adam()
    else:
        optimizer = tf_keras.optimizers.Adam()
    gradients = [tf.ones_like(variable) for variable in objects.held]
    optimizer.apply_gradients(zip(gradients, objects.held, strict=True))
    prefix = save(
        tmp_path,
        model=objects,
        optimizer=optimizer,
        global_step=tf.Variable(3, dtype=tf.int64, name="iteration"),
    )
    tensors = read_model_garden(prefix)
    kept = set(tensors) - set(bookkeeping(tensors))
    assert kept == set(encoder_shapes())
    assert len(tensors) > 3 * len(kept)  # Two moments a variable were there.
    for name, value in held_values(objects).items():
        np.testing.assert_array_equal(tensors[name].read(), value)


def test_the_head_with_a_hidden_layer_is_dropped(tmp_path, rng):
    head = {
        "bert/next_sentence/pooler_dense/kernel": (8, 8),
        "bert/next_sentence/pooler_dense/bias": (8,),
        "bert/next_sentence/logits/kernel": (8, 2),
        "bert/next_sentence/logits/bias": (2,),
    }
    masked_lm = shapes_of(checkpoints.head_shapes(CONFIG, "masked_lm"))
    objects = Objects(encoder_shapes() | masked_lm | head, rng)
    tensors = read_model_garden(save(tmp_path, model=objects))
    model = blank_model(CONFIG, "MobileBertForMaskedLM", ())
    rows = model_garden_names(CONFIG, "MobileBertForMaskedLM")
    matched = match(tmp_path, model, tensors, rows, MODEL_GARDEN_DROPPED)
    assert matched.dropped == {
        "training state": 1,
        "next sentence head with a hidden layer of its own": 4,
    }


def test_a_checkpoint_computes_what_its_names_say(tmp_path, rng):
    """By its outputs, against NumPy, which has the weights under other names.

    Heads have an axis of their own: an `einsum` over it is a product with the
    matrix that has them side by side.
    """
    weights = numpy_block.draw_weights(CONFIG.to_dict(), 2, rng)
    shapes = shapes_of({name: value.shape for name, value in weights.items()})
    objects = Objects(shapes, rng)
    for variable, value in zip(objects.held, weights.values(), strict=True):
        variable.assign(value.reshape(variable.shape))
    conversion = read_source(save(tmp_path, model=objects), config=CONFIG)
    assert len(conversion.match.variables) == len(weights)
    write_folder(conversion, tmp_path / "ours")
    model = load(tmp_path / "ours")
    assert model.architecture == "MobileBertForMaskedLM"
    numpy_block.assert_computes(model, weights, rng)


@pytest.mark.parametrize("architecture", MODEL_GARDEN_HEADS)
def test_every_variable_has_one_row(architecture):
    model = blank_model(CONFIG, architecture, ("no", "yes"))
    rows = list(model_garden_names(CONFIG, architecture))
    theirs, ours, _ = zip(*rows, strict=True)
    assert len(set(theirs)) == len(set(ours)) == len(rows)
    assert set(variables_by_path(model)) <= set(ours)


def test_a_classifiers_hidden_layer_is_a_pooler(tmp_path, rng):
    head = {
        "sentence_prediction/pooler_dense/kernel": (8, 8),
        "sentence_prediction/pooler_dense/bias": (8,),
        "sentence_prediction/logits/kernel": (8, 3),
        "sentence_prediction/logits/bias": (3,),
    }
    unread = {"pooler/kernel": (8, 8), "pooler/bias": (8,)}
    objects = Objects(head | unread, rng)
    tensors = read_model_garden(save(tmp_path, model=objects))
    assert sorted(bookkeeping(tensors)) == [
        "save_counter",
        "unread_pooler/bias",
        "unread_pooler/kernel",
    ]
    np.testing.assert_array_equal(
        tensors["pooler/kernel"].read(),
        held_values(objects)["sentence_prediction/pooler_dense/kernel"],
    )


def test_one_of_several_models_is_named_by_its_scope(tmp_path, rng):
    student, teacher = (Objects(encoder_shapes(), rng) for _ in range(2))
    prefix = save(tmp_path, student=student, teacher=teacher)
    with pytest.raises(InputError, match="one model, .*student, teacher"):
        read_model_garden(prefix)
    with pytest.raises(InputError, match="one of student, teacher .*'?tutor"):
        read_model_garden(prefix, scope="tutor")
    for scope, objects in (("student", student), ("teacher", teacher)):
        tensors = read_model_garden(prefix, scope=scope)
        values = held_values(objects)
        assert set(tensors) == set(values)
        for name, value in values.items():
            np.testing.assert_array_equal(tensors[name].read(), value)


def test_the_kind_of_norm_is_seen(tmp_path):
    norm = tf_keras.layers.LayerNormalization()
    norm.build((None, 4))
    prefix = save(tmp_path, model=norm)
    assert normalization_type(prefix) == "layer_norm"

    student = tf.Module()
    student.head, student.no_norm = norm, tf.Module()
    student.no_norm.beta = student.no_norm.bias = tf.Variable([0.0])
    student.no_norm.gamma = student.no_norm.scale = tf.Variable([1.0])
    assert normalization_type(save(tmp_path, model=student)) == "no_norm"
    assert normalization_type(save(tmp_path, model=tf.Module())) is None


def test_other_checkpoints_are_refused(tmp_path):
    prefix = str(tmp_path / "tf1")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=["bert/pooler/dense/bias"],
        shape_and_slices=[""],
        tensors=[tf.zeros(3)],
    )
    assert not is_object_checkpoint(open_checkpoint(prefix))
    with pytest.raises(InputError, match="expected a TensorFlow 2 object"):
        read_model_garden(prefix)
    with pytest.raises(InputError, match="no such file"):
        read_model_garden(tmp_path / "nothing")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_truncated_files_are_refused(tmp_path, rng, suffix, share):
    prefix = save(tmp_path, model=Objects(encoder_shapes(), rng))
    assert is_object_checkpoint(open_checkpoint(prefix))
    path = Path(prefix + suffix)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        for tensor in read_model_garden(prefix).values():
            tensor.read()


def test_a_flipped_bit_is_refused(tmp_path, rng):
    prefix = save(tmp_path, model=Objects(encoder_shapes(), rng))
    path = Path(prefix + ".data-00000-of-00001")
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="expected readable data"):
        for tensor in read_model_garden(prefix).values():
            tensor.read()


def no_objects(graph):
    del graph.nodes[:]


def children_nowhere(graph):
    graph.nodes[0].children.add(node_id=10_000, local_name="model")


@pytest.mark.parametrize(
    "edited", [no_objects, children_nowhere, lambda graph: b"\xff no graph"]
)
def test_a_damaged_graph_is_refused(tmp_path, rng, edited):
    prefix = save(tmp_path, model=Objects({"pooler/bias": (3,)}, rng))
    with pytest.raises(InputError, match=OBJECT_GRAPH):
        read_model_garden(save_again(prefix, edited))
