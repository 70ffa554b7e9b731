"""Images of attention maps: what is where, and that TensorBoard has them."""

import types

import numpy as np
import tensorflow as tf
from tensorflow.core.util import event_pb2

from mobilebert_tf.training.attention_images import (
    IMAGE_NAME,
    AttentionImages,
    attention_image,
    sentence_inputs,
)
from mobilebert_tf.training.log import MetricsLog
from tests.distillation.pairs import tiny_batch, tiny_pair


def test_the_student_is_above_and_dark_is_much():
    student, teacher = np.zeros((2, 2, 2, 48, 48))
    # First block, second head: the first query looks at the last key.
    student[0, 1, 0, 47] = 1.0
    # Second block, first head, at a quarter, whose root is a half.
    teacher[1, 0, 47, 0] = 0.25
    image = attention_image(student, teacher)
    # Maps of 48 x 48 at two pixels each; gaps of 4 and of 16.
    assert image.shape == (2 * 96 + 16, 4 * 96 + 2 * 4 + 16, 1)
    assert image.dtype == np.uint8
    (dark,) = np.unique(image[(image < 64)])
    assert dark == 0
    rows, columns, _ = np.nonzero(image == 0)
    assert sorted({*rows}) == [0, 1]
    assert sorted({*columns}) == [96 + 4 + 94, 96 + 4 + 95]
    # 255 / 2, as the gaps are 128: look inside the teacher's third map only.
    third = image[112:, 2 * 96 + 4 + 16 :][:, :96, 0]
    assert third[94:, :2].tolist() == [[128, 128], [128, 128]]
    assert (np.delete(third, [94, 95], axis=0) == 255).all()


def test_a_sentence_is_cut_at_its_end():
    inputs = sentence_inputs(tiny_batch())
    assert {name: array.shape for name, array in inputs.items()} == {
        "input_ids": (1, 12),
        "input_mask": (1, 12),
        "segment_ids": (1, 12),
    }
    batch = {name: array[1:] for name, array in tiny_batch().items()}
    inputs = sentence_inputs(batch)
    assert inputs["input_ids"].shape == (1, 7) and inputs["input_mask"].all()


def test_tensorboard_shows_both_models(tmp_path):
    pair = tiny_pair()
    inputs = sentence_inputs(tiny_batch())
    weights = [weight.numpy() for weight in pair.weights]
    log = MetricsLog(tmp_path)
    run = types.SimpleNamespace(log=log, global_step=20)
    AttentionImages(pair, inputs)(run)
    log.close()
    for before, weight in zip(weights, pair.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), before)
    (path,) = (tmp_path / "tensorboard").iterdir()
    (event,) = [
        event
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        if (event := event_pb2.Event.FromString(record)).summary.value
    ]
    (value,) = event.summary.value
    assert (event.step, value.tag) == (20, IMAGE_NAME)
    assert b"student" in value.metadata.summary_description.encode()
    *_, encoded = tf.make_ndarray(value.tensor)
    shown = tf.io.decode_png(encoded).numpy()
    maps = []
    for model in (pair.student, pair.teacher):
        probs = model.encoder(inputs, training=False).attention_probs
        maps.append(np.stack([block[0] for block in probs]))
    np.testing.assert_array_equal(shown, attention_image(*maps))
