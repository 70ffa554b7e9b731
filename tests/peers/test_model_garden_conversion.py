"""Model Garden's own object checkpoints, read as ours.

Each is written the way its users write it, converted into a model folder and
opened; then both compute the same.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import mobilebert_tf as mb
from mobilebert_tf.config import to_google
from mobilebert_tf.conversion.model_garden import normalization_type
from mobilebert_tf.conversion.names import tf1_names
from mobilebert_tf.conversion.reading import read_source
from mobilebert_tf.conversion.writing import write_folder
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.weight_names import variables_by_path
from tests.peers.test_model_garden import activation, build_peer, call_peer
from tests.peers.weights import GAMMA_STDDEV, KERNEL_STDDEV, SHIFT_STDDEV

pytestmark = [
    pytest.mark.peers,
    # Its pretrainer hands the encoder one input more than that has.
    pytest.mark.filterwarnings("ignore:Input dict contained keys:UserWarning"),
]

LIMIT = 1e-5  # of the tensor's largest value
PROBABILITY_LIMIT = 2e-6
# Narrow models need larger kernels for their attention to be far from uniform.
NARROW_STDDEV = 0.2

SIZES = dict(
    vocab_size=60,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=40,
)
STUDENT = mb.MobileBertConfig(
    **SIZES,
    intra_bottleneck_size=16,
    intermediate_size=24,
    num_feedforward_networks=3,
)
TEACHER = mb.MobileBertConfig(
    **SIZES,
    intra_bottleneck_size=48,
    intermediate_size=64,
    num_feedforward_networks=1,
    key_query_shared_bottleneck=False,
    normalization_type="layer_norm",
    hidden_act="gelu",
    classifier_activation=True,
)
CONFIGS = {
    "student": STUDENT,
    "tiny": mb.MobileBertConfig(
        **SIZES,
        intra_bottleneck_size=16,
        intermediate_size=24,
        num_feedforward_networks=2,
        key_query_shared_bottleneck=False,
        use_bottleneck_attention=True,
    ),
    "teacher": TEACHER,
}


def draw(name, shape, rng, kernel_stddev=NARROW_STDDEV):
    """Random values for a variable, by the kind that its name tells."""
    drawn = rng.standard_normal(shape).astype("float32")
    leaf = name.removesuffix(":0").split("/")[-1]
    if leaf == "gamma":
        return 1.0 + GAMMA_STDDEV * drawn
    if leaf in ("beta", "bias"):
        return SHIFT_STDDEV * drawn
    return kernel_stddev * drawn


def randomise_peer(peer, rng, kernel_stddev=NARROW_STDDEV):
    for variable in peer.variables:
        drawn = draw(variable.name, variable.shape, rng, kernel_stddev)
        variable.assign(drawn)


def random_peer(config, rng, kernel_stddev=NARROW_STDDEV):
    peer = build_peer(config)
    randomise_peer(peer, rng, kernel_stddev)
    return peer


def build_pretrainer(peer, config, heads=()):
    from official.nlp.modeling import layers, models

    masked_lm = layers.MobileBertMaskedLM(
        embedding_table=peer.get_embedding_table(),
        activation=activation(config),
        name="cls/predictions",
    )
    pretrainer = models.BertPretrainerV2(
        encoder_network=peer,
        customized_masked_lm=masked_lm,
        classification_heads=list(heads),
    )
    pretrainer({tensor.name: tensor for tensor in pretrainer.inputs})
    return pretrainer


def save(folder, **objects):
    return tf.train.Checkpoint(**objects).save(str(folder / "theirs" / "ckpt"))


def converted(prefix, config, folder, **options):
    """The model that a checkpoint becomes, from its folder."""
    folder = folder / "ours"
    folder.mkdir()
    write_folder(read_source(prefix, config=config, **options), folder)
    return mb.load(folder)


def their_inputs(batch, **more):
    return {
        "input_word_ids": batch["input_ids"],
        "input_mask": batch["input_mask"],
        "input_type_ids": batch["segment_ids"],
    } | more


def assert_same_encoder(ours, theirs, note):
    maps = zip(ours.feature_maps, theirs["encoder_outputs"], strict=True)
    for block, (our_map, their_map) in enumerate(maps):
        found = note("feature maps", our_map, their_map)
        assert found <= LIMIT, f"feature map {block}"
    probs = zip(ours.attention_probs, theirs["attention_scores"], strict=True)
    for block, (our_probs, their_probs) in enumerate(probs):
        found = note("probabilities", our_probs, their_probs, relative=False)
        assert found <= PROBABILITY_LIMIT, f"block {block}"
    pooled = note("pooled", ours.pooled_output, theirs["pooled_output"])
    assert pooled <= LIMIT


@pytest.mark.parametrize("saved_as", ["model", "encoder"])
@pytest.mark.parametrize("name", CONFIGS)
def test_encoder(name, saved_as, rng, padded_batch, differences, tmp_path):
    config = CONFIGS[name]
    peer = random_peer(config, rng)
    prefix = save(tmp_path, **{saved_as: peer})
    assert normalization_type(prefix) == config.normalization_type
    model = converted(prefix, config, tmp_path)
    assert isinstance(model, mb.MobileBertEncoder)
    batch = padded_batch(config.vocab_size)
    note = functools.partial(differences, "Model Garden's checkpoint", name)
    assert_same_encoder(model(batch), call_peer(peer, batch), note)


def test_encoder_of_full_size(rng, padded_batch, differences, tmp_path):
    config = mb.MobileBertConfig.from_preset("mobilebert")
    peer = random_peer(config, rng, KERNEL_STDDEV)
    prefix = save(tmp_path, model=peer)
    model = converted(prefix, config, tmp_path)
    batch = padded_batch(config.vocab_size)
    note = functools.partial(differences, "Model Garden's checkpoint", "full")
    assert_same_encoder(model(batch), call_peer(peer, batch), note)


def test_encoder_in_a_saved_model(rng, padded_batch, differences, tmp_path):
    peer = random_peer(STUDENT, rng)
    tf.saved_model.save(peer, str(tmp_path / "theirs"))
    model = converted(tmp_path / "theirs", STUDENT, tmp_path)
    batch = padded_batch(STUDENT.vocab_size)
    note = functools.partial(differences, "Model Garden's checkpoint", "saved")
    assert_same_encoder(model(batch), call_peer(peer, batch), note)


@pytest.mark.parametrize("saved_as", ["checkpoint_items", "model"])
@pytest.mark.parametrize("name", ["student", "teacher"])
def test_pretrainer(name, saved_as, rng, padded_batch, differences, tmp_path):
    from official.nlp.modeling import layers

    config = CONFIGS[name]
    next_sentence = layers.ClassificationHead(
        inner_dim=config.hidden_size, num_classes=2, name="next_sentence"
    )
    pretrainer = build_pretrainer(build_peer(config), config, [next_sentence])
    randomise_peer(pretrainer, rng)
    if saved_as == "model":
        optimizer = tf_keras.optimizers.Adam()
        optimizer.build(pretrainer.trainable_variables)
        prefix = save(tmp_path, model=pretrainer, optimizer=optimizer)
    else:
        prefix = save(tmp_path, **pretrainer.checkpoint_items)
    model = converted(prefix, config, tmp_path)
    assert isinstance(model, mb.MobileBertForMaskedLM)

    batch = padded_batch(config.vocab_size)
    positions = np.array([[1, 5, 30], [20, 0, 7], [8, 2, 2]], "int32")
    masked = tf.constant(positions)
    theirs = pretrainer(their_inputs(batch, masked_lm_positions=masked))
    ours = model(batch | {"masked_lm_positions": positions})
    note = functools.partial(differences, "Model Garden's checkpoint", name)
    assert note("MLM logits", ours, theirs["mlm_logits"]) <= LIMIT
    maps = model.encoder(batch).feature_maps
    for our_map, their_map in zip(maps, theirs["encoder_outputs"], strict=True):
        assert note("feature maps", our_map, their_map) <= LIMIT


def build_task(name, peer):
    from official.nlp.modeling import models

    if name == "spans":
        return models.BertSpanLabeler(peer)
    if name == "tokens":
        return models.BertTokenClassifier(peer, num_classes=3)
    return models.BertClassifier(
        peer, num_classes=3, use_encoder_pooler=name == "encoder's pooler"
    )


@pytest.mark.parametrize(
    "config", [STUDENT, TEACHER], ids=["student", "teacher"]
)
@pytest.mark.parametrize(
    "name", ["spans", "tokens", "encoder's pooler", "own pooler"]
)
def test_tasks(name, config, rng, padded_batch, differences, tmp_path):
    peer = build_task(name, build_peer(config))
    randomise_peer(peer, rng)
    if name == "own pooler":
        fields = config.to_dict() | {"classifier_activation": True}
        config = mb.MobileBertConfig(**fields)
    prefix = save(tmp_path, model=peer)
    model = converted(prefix, config, tmp_path)
    batch = padded_batch(config.vocab_size)
    ours, theirs = model(batch), call_peer(peer, batch)
    if name == "spans":
        pairs = zip((ours["start_logits"], ours["end_logits"]), theirs)
    elif name == "tokens":
        pairs = [(ours, theirs["logits"])]
    else:
        pairs = [(ours, theirs)]
    for our_logits, their_logits in pairs:
        found = differences(
            "Model Garden's checkpoint",
            name,
            "logits",
            our_logits,
            their_logits,
        )
        assert found <= LIMIT


def write_tf1(prefix, config, rng):
    """A TensorFlow 1 checkpoint of random values, and these by our paths."""
    paths = variables_by_path(mb.MobileBertForPretraining(config))
    names, tensors, by_path = [], [], {}
    for theirs, ours, rule in tf1_names(config, "MobileBertForPreTraining"):
        if ours in paths:
            shape = tuple(paths[ours].shape)
            by_path[ours] = draw(ours, shape, rng)
            names.append(theirs)
            stored = by_path[ours].T if rule.transposed else by_path[ours]
            tensors.append(stored)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=[*names, "global_step"],
        shape_and_slices=[""] * (len(names) + 1),
        tensors=[*tensors, np.int64(7)],
    )
    return by_path


@pytest.mark.parametrize("name", ["student", "tiny", "teacher"])
def test_what_its_converter_writes(name, rng, tmp_path, monkeypatch):
    from official.projects.mobilebert import (
        model_utils,
    )
    from official.projects.mobilebert import (
        tf2_model_checkpoint_converter as converter,
    )

    # Model Garden 2.20 uses the module without importing it.
    monkeypatch.setattr(model_utils, "tf_keras", tf_keras, raising=False)
    # Without a name scope around the encoder, as by default; layers are found
    # by name, so that none may be numbered.
    replacements = [("bert/", ""), *converter._NAME_REPLACEMENT[1:]]
    tf_keras.backend.clear_session()
    config = CONFIGS[name]
    values = write_tf1(tmp_path / "tf1.ckpt", config, rng)
    their_config = model_utils.BertConfig.from_dict(to_google(config))
    converter.convert(
        str(tmp_path / "tf1.ckpt"),
        str(tmp_path / "tf2" / "ckpt"),
        replacements,
        [],
        their_config,
        converter._EXCLUDE_PATTERNS,
    )
    prefix = tmp_path / "tf2" / "ckpt-1"
    model = converted(prefix, config, tmp_path)
    found = variables_by_path(model)
    left_behind = {"next_sentence/dense/kernel", "next_sentence/dense/bias"}
    # A masked LM has no pooler.
    left_behind |= {"encoder/pooler/kernel", "encoder/pooler/bias"}
    assert set(found) == set(values) - left_behind
    for path, variable in found.items():
        value = keras.ops.convert_to_numpy(variable.value)
        np.testing.assert_array_equal(value, values[path], err_msg=path)


def test_teacher_and_student_in_one_checkpoint(rng, tmp_path):
    student, teacher = (
        build_pretrainer(random_peer(config, rng), config)
        for config in (STUDENT, TEACHER)
    )
    # As its progressive distillation saves them.
    prefix = save(
        tmp_path,
        student_pretrainer=student,
        teacher_pretrainer=teacher,
        encoder=student.encoder_network,
    )
    with pytest.raises(InputError, match="student_pretrainer, teacher_pretr"):
        read_source(prefix, config=TEACHER)
    model = converted(prefix, TEACHER, tmp_path, scope="teacher_pretrainer")
    np.testing.assert_array_equal(
        model.encoder.embeddings.word_embeddings,
        teacher.encoder_network.get_embedding_table(),
    )
