"""The weighted terms of a stage's loss, by name.

A term whose weight is 0 is not computed. Terms are named after the functions
that compute them.
"""

from collections.abc import Callable

from mobilebert_tf.distillation import losses
from mobilebert_tf.distillation.schedule import TransferWeights
from mobilebert_tf.modeling.losses import masked_lm_loss, next_sentence_loss

# Maps the name of a term to its weight and its value, a scalar.
Terms = dict[str, tuple]


def transfer_terms(
    weights: TransferWeights, maps: tuple, logits: tuple, input_mask
) -> Terms:
    """Returns the terms that compare two blocks, student before teacher.

    Args:
        weights: of all terms.
        maps: the blocks' outputs, float32 [B, S, D] each.
        logits: those of their attention, float32 [B, N, S, S] each.
        input_mask: [B, S].
    """
    maps, logits = (*maps, input_mask), (*logits, input_mask)
    return _computed(
        (
            weights.normalized_feature_map,
            losses.normalized_feature_map_loss,
            maps,
        ),
        (weights.feature_mean, losses.feature_mean_loss, maps),
        (weights.feature_variance, losses.feature_variance_loss, maps),
        (weights.feature_map_transfer, losses.feature_map_transfer_loss, maps),
        (weights.attention_transfer, losses.attention_transfer_loss, logits),
    )


def distillation_terms(
    weights: TransferWeights, student_heads: dict, teacher_logits, inputs: dict
) -> Terms:
    """Returns the terms of pre-training distillation.

    Args:
        weights: of all terms.
        student_heads: outputs of the student's heads.
        teacher_logits: the teacher's `masked_lm_logits`; None without soft
            labels.
        inputs: a pre-training batch.
    """
    whole = weights.pretraining_distillation
    logits = student_heads["masked_lm_logits"]
    masked_lm_weights = inputs["masked_lm_weights"]
    return _computed(
        (
            whole * weights.pd_alpha,
            masked_lm_loss,
            (logits, inputs["masked_lm_ids"], masked_lm_weights),
        ),
        (
            whole * (1.0 - weights.pd_alpha),
            losses.masked_lm_distillation_loss,
            (logits, teacher_logits, masked_lm_weights, weights.temperature),
        ),
        (
            whole * weights.next_sentence,
            next_sentence_loss,
            (
                student_heads["next_sentence_logits"],
                inputs["next_sentence_labels"],
            ),
        ),
    )


def _computed(*terms: tuple[float, Callable, tuple]) -> Terms:
    return {
        function.__name__: (weight, function(*arguments))
        for weight, function, arguments in terms
        if weight
    }
