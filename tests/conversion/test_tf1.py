"""TensorFlow 1 checkpoints: names, what is left behind, there and back."""

import dataclasses
import json
import os
import resource

import ml_dtypes
import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf import load
from mobilebert_tf.config import MobileBertConfig, to_google
from mobilebert_tf.conversion.names import tf1_names
from mobilebert_tf.conversion.reading import read_source
from mobilebert_tf.conversion.tensors import blank_model
from mobilebert_tf.conversion.writing import TF1_PREFIX, write_folder, write_tf1
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.weight_names import variables_by_path
from tests.conversion.checkpoints import (
    STUDENT,
    TEACHER,
    draw,
    encoder_shapes,
    head_shapes,
    read,
    write,
)
from tests.modeling import numpy_block

ARCHITECTURES = {
    "none": "MobileBertModel",
    "pretraining": "MobileBertForPreTraining",
    "masked_lm": "MobileBertForMaskedLM",
    "next_sentence": "MobileBertForNextSentencePrediction",
    "squad": "MobileBertForQuestionAnswering",
    "classes": "MobileBertForSequenceClassification",
}


def values_of(config, head, rng):
    return draw(encoder_shapes(config) | head_shapes(config, head), rng)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        assert found[name].tobytes() == value.tobytes(), name


def test_names_and_shapes_of_the_published_model(shared_data):
    """1,114 variables of the published float SQuAD model, and no other."""
    path = shared_data / "mobilebert_real/tf1_float_squad_variables.json"
    published = {
        entry["name"]: tuple(entry["shape"])
        for entry in json.loads(path.read_text())
    }
    assert len(published) == 1114
    assert published.pop("global_step") == ()
    config = MobileBertConfig.from_preset("mobilebert")
    architecture = "MobileBertForQuestionAnswering"
    model = blank_model(config, architecture, ())
    ours = variables_by_path(model)
    stored = {
        theirs: rule.source_shape(tuple(ours.pop(path).shape), 4)
        for theirs, path, rule in tf1_names(config, architecture)
        if path in ours
    }
    assert not ours
    assert stored == published


def test_published_model_loads_with_nothing_left(shared_data, tmp_path):
    """A checkpoint of its names and shapes, and of other values."""
    path = shared_data / "mobilebert_real/tf1_float_squad_variables.json"
    values = {
        entry["name"]: np.full(entry["shape"], 0.5, entry["dtype"])
        for entry in json.loads(path.read_text())
    }
    write(tmp_path / "variables/variables", values)
    config = MobileBertConfig.from_preset("mobilebert")
    found = read_source(tmp_path, config=config).match
    assert found.model.architecture == "MobileBertForQuestionAnswering"
    assert len(found.variables) == 1113
    assert found.dropped == {"training state": 1}  # global_step


@pytest.mark.parametrize("config", [STUDENT, TEACHER], ids=["NoNorm", "IB"])
@pytest.mark.parametrize("head", ARCHITECTURES)
def test_there_and_back_is_bit_identical(config, head, rng, tmp_path):
    values = values_of(config, head, rng)
    write(tmp_path / "in" / "bert_model.ckpt", values)
    conversion = read_source(tmp_path / "in", config=config)
    write_folder(conversion, tmp_path / "ours")
    model = load(tmp_path / "ours")
    assert model.architecture == ARCHITECTURES[head]
    assert model.config == config
    write_tf1(
        read_source(tmp_path / "ours"),
        tmp_path / "back",
    )
    wanted = values
    if head in ("squad", "masked_lm"):
        # These heads read no pooler, so that no model of them has one.
        wanted = {
            name: value
            for name, value in values.items()
            if "pooler" not in name
        }
    assert_same(read(tmp_path / "back" / TF1_PREFIX), wanted)
    assert (
        MobileBertConfig.from_json(tmp_path / "back/bert_config.json") == config
    )


@pytest.mark.parametrize("config", [STUDENT, TEACHER], ids=["NoNorm", "IB"])
def test_a_checkpoint_computes_what_its_names_say(config, rng, tmp_path):
    """By its outputs, against NumPy, which reads the weights by their names."""
    settings = dataclasses.replace(config, classifier_activation=False)
    weights = numpy_block.draw_weights(settings.to_dict(), 2, rng)
    write(tmp_path / "bert_model.ckpt", weights)
    conversion = read_source(tmp_path, config=settings)
    assert len(conversion.match.variables) == len(weights)
    write_folder(conversion, tmp_path / "ours")
    numpy_block.assert_computes(load(tmp_path / "ours"), weights, rng)


def test_training_state_stays_behind(rng, tmp_path):
    values = values_of(STUDENT, "classes", rng)
    slots = {
        f"{name}/{slot}": np.zeros_like(value)
        for name, value in values.items()
        for slot in ("adam_m", "adam_v")
    }
    write(
        tmp_path / "model.ckpt-7",
        values | slots | {"global_step": np.array(7, "int64")},
    )
    conversion = read_source(tmp_path / "model.ckpt-7", config=STUDENT)
    assert conversion.match.dropped == {"training state": 2 * len(values) + 1}
    assert conversion.match.model.label_names == (
        "LABEL_0",
        "LABEL_1",
        "LABEL_2",
    )


def test_ranges_of_the_published_quantised_model_stay_behind(
    shared_data, rng, tmp_path
):
    path = shared_data / "mobilebert_real/tf1_qat_fakequant_names.json"
    names = json.loads(path.read_text())
    values = values_of(STUDENT, "squad", rng)
    ranges = {name: np.array(0.0, "float32") for name in names}
    write(tmp_path / "model.ckpt", values | ranges)
    conversion = read_source(tmp_path, config=STUDENT)
    assert conversion.match.dropped == {"ranges of quantisers": len(names)}


def distillation_checkpoint(rng):
    """Student, teacher and the norms of the release's transfer loss."""
    student = values_of(STUDENT, "pretraining", rng)
    teacher = values_of(TEACHER, "masked_lm", rng)
    norms = {
        f"hidden_distill_{block}/LayerNorm{twin}/{leaf}": np.zeros(
            32, "float32"
        )
        for block in range(2)
        for twin in ("", "_1")
        for leaf in ("beta", "gamma")
    }
    scoped = {f"teacher/{name}": value for name, value in teacher.items()}
    return student, teacher, student | scoped | norms


def test_student_of_a_distillation_checkpoint(rng, tmp_path):
    student, teacher, everything = distillation_checkpoint(rng)
    write(tmp_path / "in/model.ckpt", everything)
    conversion = read_source(tmp_path / "in", config=STUDENT)
    assert conversion.match.dropped == {
        "the teacher": len(teacher),
        "norms of the transfer loss, not trained": 8,
    }
    write_tf1(conversion, tmp_path / "out")
    assert_same(read(tmp_path / "out" / TF1_PREFIX), student)


def test_teacher_of_a_distillation_checkpoint(rng, tmp_path):
    _, teacher, everything = distillation_checkpoint(rng)
    write(tmp_path / "in/model.ckpt", everything)
    conversion = read_source(tmp_path / "in", config=TEACHER, scope="teacher")
    assert conversion.match.model.architecture == "MobileBertForMaskedLM"
    assert conversion.notes["Scope"] == "`teacher/` only"
    write_tf1(conversion, tmp_path / "out")
    teacher = {
        name: value for name, value in teacher.items() if "pooler" not in name
    }
    assert_same(read(tmp_path / "out" / TF1_PREFIX), teacher)


def test_no_such_scope(rng, tmp_path):
    write(tmp_path / "model.ckpt", values_of(STUDENT, "none", rng))
    with pytest.raises(InputError, match="expected tensors below teacher/"):
        read_source(tmp_path, config=STUDENT, scope="teacher")


def test_tagger_by_name(rng, tmp_path):
    write(tmp_path / "model.ckpt", values_of(STUDENT, "classes", rng))
    conversion = read_source(
        tmp_path,
        config=STUDENT,
        architecture="MobileBertForTokenClassification",
        label_names=["O", "B", "I"],
    )
    write_folder(conversion, tmp_path / "ours")
    model = load(tmp_path / "ours")
    assert model.architecture == "MobileBertForTokenClassification"
    assert model.label_names == ("O", "B", "I")


def test_config_lies_beside(rng, tmp_path):
    write(tmp_path / "model.ckpt", values_of(TEACHER, "pretraining", rng))
    (tmp_path / "bert_config.json").write_text(json.dumps(to_google(TEACHER)))
    assert read_source(tmp_path).match.model.config == TEACHER


def test_a_pipe_in_place_of_the_data_would_block(rng, tmp_path):
    write(tmp_path / "model.ckpt", values_of(STUDENT, "none", rng))
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.unlink()
    os.mkfifo(data)
    with pytest.raises(InputError, match="no ordinary file"):
        read_source(tmp_path, config=STUDENT)


def test_a_config_of_far_more_blocks_is_refused_at_once(rng, tmp_path):
    write(tmp_path / "model.ckpt", values_of(STUDENT, "none", rng))
    config = dataclasses.replace(STUDENT, num_hidden_layers=10_000_000)
    with pytest.raises(InputError, match="num_hidden_layers .* 10,000,000 and"):
        read_source(tmp_path, config=config)


def test_presets_that_fit_are_named(rng, tmp_path):
    config = MobileBertConfig.from_preset("mobilebert_small")
    shapes = encoder_shapes(config)
    write(tmp_path / "model.ckpt", draw(shapes, rng))
    with pytest.raises(InputError, match="fit --preset=mobilebert_small\\)"):
        read_source(tmp_path)


def test_full_disk(rng, tmp_path):
    write(tmp_path / "model.ckpt", values_of(STUDENT, "none", rng))
    conversion = read_source(tmp_path, config=STUDENT)
    # Stands for a full disk: Python ignores the signal, so that writing fails.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(InputError, match="expected room and permission"):
            write_tf1(conversion, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "build, activation, expected",
    [
        (mb.MobileBertForMultipleChoice, "relu", "a class of the original"),
        (mb.MobileBertEncoder, "gelu_erf", "whose gelu is the tanh form"),
    ],
)
def test_parts_that_the_original_code_lacks(
    build, activation, expected, tmp_path
):
    config = dataclasses.replace(STUDENT, hidden_act=activation)
    build(config).save_pretrained(tmp_path / "ours")
    with pytest.raises(InputError, match=expected):
        write_tf1(read_source(tmp_path / "ours"), tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_are_read(dtype, rng, tmp_path):
    values = values_of(STUDENT, "squad", rng)
    numpy_type = getattr(ml_dtypes, dtype, dtype)
    stored = {name: value.astype(numpy_type) for name, value in values.items()}
    write(tmp_path / "in/model.ckpt", stored)
    conversion = read_source(tmp_path / "in", config=STUDENT)
    assert conversion.notes["Changed"] == f"{dtype} read as float32"
    write_folder(conversion, tmp_path / "out")
    write_tf1(read_source(tmp_path / "out"), tmp_path / "back")
    wanted = {name: value.astype("float32") for name, value in stored.items()}
    assert_same(read(tmp_path / "back" / TF1_PREFIX), wanted)


SLOTS = (
    "{}/Momentum",
    "{}/RMSProp_1",
    "{}/adafactor_vr",
    "{}/AdamWeightDecayOptimizer/m",
    "training/Adam/{}/v",
    "LAMB/{}/vhat",
    "{}/accum",
)
AVERAGES = ("{}/ExponentialMovingAverage", "ema/{}", "model/swa_average/{}")
COUNTERS = ("beta1_power", "Adam/iter", "loss_scale/good_steps", "training/lr")


def test_slots_averages_and_counters_of_any_optimizer(rng, tmp_path):
    values = values_of(STUDENT, "classes", rng)
    slots, averages = (
        {
            pattern.format(name): np.zeros_like(value)
            for name, value in values.items()
            for pattern in patterns
        }
        for patterns in (SLOTS, AVERAGES)
    )
    counters = {name: np.array(7, "int64") for name in COUNTERS}
    write(tmp_path / "model.ckpt", values | slots | averages | counters)
    conversion = read_source(tmp_path, config=STUDENT)
    assert conversion.match.dropped == {
        "training state": len(slots) + len(counters),
        "running averages of the weights": len(averages),
    }
    write_tf1(conversion, tmp_path / "out")
    assert_same(read(tmp_path / "out" / TF1_PREFIX), values)


def test_encoder_without_the_pooler_of_its_config(rng, tmp_path):
    config = dataclasses.replace(STUDENT, classifier_activation=True)
    write(tmp_path / "model.ckpt", values_of(STUDENT, "none", rng))
    conversion = read_source(tmp_path, config=config)
    assert conversion.match.model.config == STUDENT
    assert "no pooler in the weights" in conversion.notes["Changed"]


def test_a_surplus_tensor_is_left_behind_when_asked(rng, tmp_path):
    values = values_of(STUDENT, "none", rng)
    write(tmp_path / "model.ckpt", values | {"loss_fct/w": np.ones(2, "f4")})
    with pytest.raises(InputError, match="loss_fct/w surplus"):
        read_source(tmp_path, config=STUDENT)
    conversion = read_source(
        tmp_path, config=STUDENT, leave_behind=["loss_fct*"]
    )
    assert conversion.match.dropped == {"as asked for": 1}
