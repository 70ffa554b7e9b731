"""What the student copies."""

import numpy as np
import scipy.stats

from mobilebert_tf.distillation.initialization import (
    copy_from_teacher,
    match_embedding_norm,
)
from tests.distillation.pairs import tiny_pretraining


def by_path(model):
    return {weight.path: weight.numpy() for weight in model.weights}


def test_embeddings_and_heads_are_copied_and_nothing_else(pair):
    before = by_path(pair.student)
    report = copy_from_teacher(pair.student, pair.teacher)
    copied, left = report
    assert sorted(copied) == sorted(
        f"{prefix}/{name}"
        for prefix, names in {
            "encoder/embeddings": [
                "word_embeddings",
                "segment_embeddings",
                "position_embeddings",
                "projection/kernel",
                "projection/bias",
            ],
            "pretraining/masked_lm": [
                "transform/kernel",
                "transform/bias",
                "norm/gamma",
                "norm/beta",
                "extra_output_weights",
                "bias",
            ],
            "pretraining/next_sentence": ["dense/kernel", "dense/bias"],
        }.items()
        for name in names
    )
    teacher, after = by_path(pair.teacher), by_path(pair.student)
    for path, value in after.items():
        source = teacher if path in copied else before
        np.testing.assert_array_equal(value, source[path], err_msg=path)


def test_what_was_copied_is_listed(pair):
    text = str(copy_from_teacher(pair.student, pair.teacher))
    assert text.startswith("Copied 13 variables from the teacher: encoder/emb")
    assert text.endswith(
        "\nNot copied: encoder/embeddings/norm/gamma, "
        "encoder/embeddings/norm/beta"
    )


def test_a_layer_norm_student_copies_the_norm_and_keeps_it(pair, batch):
    student = tiny_pretraining("mobilebert_without_opt")
    norm, theirs = (
        model.encoder.embeddings.norm for model in (student, pair.teacher)
    )
    theirs.gamma.assign(np.linspace(0.5, 2.0, 16))
    assert not copy_from_teacher(student, pair.teacher).left
    match_embedding_norm(student, pair.teacher, batch)
    np.testing.assert_array_equal(norm.gamma.numpy(), theirs.gamma.numpy())
    np.testing.assert_array_equal(norm.beta.numpy(), theirs.beta.numpy())


def test_matched_norm_brings_the_first_map_to_the_teachers(pair, batch):
    copy_from_teacher(pair.student, pair.teacher)
    rng = np.random.default_rng(0)
    norm = pair.teacher.encoder.embeddings.norm
    norm.gamma.assign(rng.uniform(0.5, 2.0, 16))
    norm.beta.assign(rng.normal(size=16))
    real = batch["input_mask"].astype(bool)

    def first_map(model):
        outputs = model.encoder(batch, num_blocks=0)
        return np.asarray(outputs.sequence_output)[real]

    raw = first_map(pair.student)
    match_embedding_norm(pair.student, pair.teacher, batch)
    ours, theirs = first_map(pair.student), first_map(pair.teacher)
    # A single scale for all tokens cannot be exact, but it must be close, where
    # the raw embeddings are far off.
    error = np.sqrt(np.mean((ours - theirs) ** 2))
    assert error < 0.4 * theirs.std()
    raw_error = np.sqrt(np.mean((raw - theirs) ** 2))
    assert raw_error > 2 * error
    correlation = scipy.stats.pearsonr(ours.ravel(), theirs.ravel()).statistic
    assert correlation > 0.9
