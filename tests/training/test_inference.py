"""A predictor returns what the model computes, example by example."""

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.training.inference import Predictor
from tests import tiny

LENGTH = 12


def arrays(lengths):
    rng = np.random.default_rng(0)
    mask = (np.arange(LENGTH) < np.array(lengths)[:, None]).astype("int32")
    return {
        "input_ids": rng.integers(1, 20, mask.shape).astype("int32") * mask,
        "input_mask": mask,
        "segment_ids": rng.integers(0, 2, mask.shape).astype("int32") * mask,
        "labels": np.zeros(len(mask), "int32"),
    }


def by_name(outputs):
    return outputs if isinstance(outputs, dict) else {"logits": outputs}


@pytest.mark.parametrize(
    "model_class, names, shape",
    [
        (mb.MobileBertForSequenceClassification, "abc", (5, 3)),
        (mb.MobileBertForTokenClassification, "abc", (5, LENGTH, 3)),
        (mb.MobileBertForQuestionAnswering, None, (5, LENGTH)),
    ],
)
def test_outputs_are_the_models_in_order_and_at_full_length(
    model_class, names, shape
):
    config = tiny.student_config()
    model = model_class(config, *([list(names)] if names else []))
    lengths = [12, 2, 7, 3, 5]
    examples = arrays(lengths)
    predict = Predictor(model, 2, bucket_lengths=(4, 8, 512))
    found = by_name(predict(examples))
    inputs = {name: examples[name] for name in list(examples)[:3]}
    expected = by_name(model(inputs, training=False))
    assert found.keys() == expected.keys()
    for name, output in found.items():
        assert output.shape == shape and output.dtype == np.float32
        whole = expected[name].numpy()
        if len(shape) == 2 and names:
            np.testing.assert_allclose(output, whole, rtol=1e-4, atol=1e-5)
            continue
        for row, length in enumerate(lengths):
            width = 4 if length < 4 else 8 if length < 8 else LENGTH
            np.testing.assert_allclose(
                output[row, :length], whole[row, :length], rtol=1e-4, atol=1e-5
            )
            assert not output[row, width:].any()
    assert {
        len(output) for output in by_name(predict(arrays([]))).values()
    } == {0}


def test_a_trained_model_is_not_remembered_as_it_was():
    model = mb.MobileBertForSequenceClassification(
        tiny.student_config(), ["a", "b"]
    )
    predict = Predictor(model, 3)
    before = predict(arrays([4, 5]))
    model.weights[-1].assign_add([1.0, 0.0])
    np.testing.assert_allclose(
        predict(arrays([4, 5])) - before, [[1.0, 0.0]] * 2, atol=1e-5
    )
