"""What the student copies, and where its embedding norm starts."""

import numpy as np

from mobilebert_tf.config import inputs_of
from mobilebert_tf.distillation.initialization import (
    copy_from_teacher,
    match_embedding_norm,
)
from mobilebert_tf.modeling.models import MobileBertForPretraining
from tests.distillation import pairs

COPIED = {
    "encoder/embeddings": "word_embeddings segment_embeddings "
    "position_embeddings projection/kernel projection/bias",
    "pretraining/masked_lm": "transform/kernel transform/bias norm/gamma "
    "norm/beta extra_output_weights bias",
    "pretraining/next_sentence": "dense/kernel dense/bias",
}


def by_path(model):
    return {weight.path: weight.numpy() for weight in model.weights}


def test_embeddings_and_heads_are_copied_and_nothing_else(pair):
    before = by_path(pair.student)
    report = copy_from_teacher(pair.student, pair.teacher)
    assert sorted(report.copied) == sorted(
        f"{prefix}/{name}"
        for prefix, names in COPIED.items()
        for name in names.split()
    )
    teacher, after = by_path(pair.teacher), by_path(pair.student)
    for path, value in after.items():
        source = teacher if path in report.copied else before
        np.testing.assert_array_equal(value, source[path], err_msg=path)
    assert str(report).startswith("Copied 13 variables from the teacher: enc")
    assert str(report).endswith(
        "\nNot copied: encoder/embeddings/norm/gamma, "
        "encoder/embeddings/norm/beta"
    )


def test_a_layer_norm_student_copies_the_norm_and_keeps_it(pair, batch):
    student = MobileBertForPretraining(
        pairs.preset_config("mobilebert_without_opt")
    )
    norm, theirs = (
        model.encoder.embeddings.norm for model in (student, pair.teacher)
    )
    theirs.gamma.assign(np.linspace(0.5, 2.0, 32))
    assert not copy_from_teacher(student, pair.teacher).left
    match_embedding_norm(student, pair.teacher, batch)
    np.testing.assert_array_equal(norm.gamma.numpy(), theirs.gamma.numpy())
    np.testing.assert_array_equal(norm.beta.numpy(), theirs.beta.numpy())


def test_the_matched_norm_is_the_teachers_with_its_average_statistics(
    pair, batch
):
    """Averages over real tokens only, in NumPy; padding is very different."""
    copy_from_teacher(pair.student, pair.teacher)
    rng = np.random.default_rng(0)
    norm = pair.teacher.encoder.embeddings.norm
    gamma, beta = rng.uniform(0.5, 2.0, 32), rng.normal(size=32)
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    # The last position of longer sequences, and padding of the others.
    batch["input_ids"][batch["input_mask"] == 0] = 7

    def first_map(model):
        outputs = model.encoder(inputs_of(batch), num_blocks=0)
        return np.asarray(outputs.sequence_output, "float64")

    raw = first_map(pair.student)  # A new NoNorm is the identity.
    real = batch["input_mask"].astype(bool)
    means = raw.mean(-1)[real]
    inverses = 1.0 / np.sqrt(raw.var(-1)[real] + norm.epsilon)
    match_embedding_norm(pair.student, pair.teacher, batch)
    ours = pair.student.encoder.embeddings.norm
    np.testing.assert_allclose(
        ours.gamma.numpy(), gamma * inverses.mean(), rtol=1e-5
    )
    np.testing.assert_allclose(
        ours.beta.numpy(),
        beta - gamma * (means * inverses).mean(),
        rtol=1e-4,
        atol=1e-6,
    )
    # One scale for all tokens cannot be exact, but raw embeddings are far off.
    theirs = first_map(pair.teacher)[real]
    errors = [
        np.sqrt(np.mean((found[real] - theirs) ** 2))
        for found in (first_map(pair.student), raw)
    ]
    assert errors[0] < 0.4 * theirs.std() and errors[1] > 2 * errors[0]
