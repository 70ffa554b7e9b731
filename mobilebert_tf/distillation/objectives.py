"""What a stage minimises: loss terms, each with its weight.

`Objectives` is the paper's set with the release's weights; `LegacyObjectives`
computes the same set exactly as the release does. A term whose weight is 0 is
not computed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from keras import ops

from mobilebert_tf.distillation import legacy_losses, losses
from mobilebert_tf.modeling.losses import masked_lm_loss, next_sentence_loss

# From the name of a term to its weight and its value.
Terms = dict[str, tuple]


@dataclasses.dataclass(frozen=True)
class TransferWeights:
    """What each term of the loss counts; the defaults are the release's.

    Attributes:
        normalized_feature_map: of the normalised feature map loss.
        feature_mean: of the mean loss.
        feature_variance: of the variance loss.
        feature_map_transfer: of the paper's plain squared difference, which
            the three above replace.
        attention_transfer: of attention transfer. A block's weights are all
            divided by the number of the student's blocks.
        pretraining_distillation: of the whole sum below.
        pd_alpha: in it, the weight of the true label; 1 - alpha is the
            teacher's (paper, equation 4 and appendix D).
        next_sentence: in it, of next sentence prediction.
        temperature: of the soft labels.

    Raises:
        ValueError: for a negative weight, an alpha above 1, or a temperature
            that is not positive.
    """

    normalized_feature_map: float = 100.0
    feature_mean: float = 5000.0
    feature_variance: float = 5.0
    feature_map_transfer: float = 0.0
    attention_transfer: float = 1.0
    pretraining_distillation: float = 1.0
    pd_alpha: float = 0.5
    next_sentence: float = 1.0
    temperature: float = 1.0

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value < 0:
                raise ValueError(
                    f"{name} must not be negative. Received: {value}"
                )
        if self.pd_alpha > 1:
            raise ValueError(
                f"pd_alpha must be at most 1. Received: {self.pd_alpha}"
            )
        if not self.temperature:
            raise ValueError("temperature must be positive. Received: 0.0")

    @property
    def transfer(self) -> bool:
        """Whether any term compares blocks."""
        return any(
            (
                self.normalized_feature_map,
                self.feature_mean,
                self.feature_variance,
                self.feature_map_transfer,
                self.attention_transfer,
            )
        )

    @property
    def soft_labels(self) -> bool:
        """Whether pre-training distillation reads the teacher."""
        return self.pretraining_distillation > 0 and self.pd_alpha < 1


class BlockPair(NamedTuple):
    """A student's block and the teacher's that it learns from, in float32.

    Attributes:
        student_map, teacher_map: [B, S, D], the blocks' outputs.
        student_logits, teacher_logits: [B, N, S, S], of their attention.
        teacher_maps: all the teacher's maps that were computed.
        input_mask: [B, S].
    """

    student_map: object
    teacher_map: object
    student_logits: object
    teacher_logits: object
    teacher_maps: Sequence
    input_mask: object


class Objectives:
    """The terms as they should be: padding counts in no mean.

    Args:
        weights: `TransferWeights`.
    """

    # Whether transfer reads maps of the teacher above the block's own.
    reads_all_teacher_maps = False

    def __init__(self, weights: TransferWeights):
        self.weights = weights

    def transfer_terms(self, pair: BlockPair) -> Terms:
        """Returns the terms of one block."""
        weights, mask = self.weights, pair.input_mask
        maps = pair.student_map, pair.teacher_map, mask
        logits = pair.student_logits, pair.teacher_logits, mask
        return _computed(
            (
                weights.normalized_feature_map,
                losses.normalized_feature_map_loss,
                maps,
            ),
            (weights.feature_mean, losses.feature_mean_loss, maps),
            (weights.feature_variance, losses.feature_variance_loss, maps),
            (
                weights.feature_map_transfer,
                losses.feature_map_transfer_loss,
                maps,
            ),
            (
                weights.attention_transfer,
                losses.attention_transfer_loss,
                logits,
            ),
        )

    def soften(self, teacher_features):
        """Returns the features that the teacher's masked LM head reads."""
        return teacher_features

    def distillation_terms(
        self, student_heads: dict, teacher_logits, inputs: dict
    ) -> Terms:
        """Returns the terms of pre-training distillation.

        Args:
            student_heads: what the student's heads returned.
            teacher_logits: `masked_lm_logits` of the teacher; None where
                there are no soft labels.
            inputs: a pre-training batch.
        """
        weights, whole = self.weights, self.weights.pretraining_distillation
        logits = student_heads["masked_lm_logits"]
        return _computed(
            (
                whole * weights.pd_alpha,
                masked_lm_loss,
                (logits, inputs["masked_lm_ids"], inputs["masked_lm_weights"]),
            ),
            (
                whole * (1.0 - weights.pd_alpha),
                losses.masked_lm_distillation_loss,
                (
                    logits,
                    teacher_logits,
                    inputs["masked_lm_weights"],
                    weights.temperature,
                ),
            ),
            self._next_sentence(student_heads, inputs),
        )

    def _next_sentence(self, student_heads, inputs):
        weights = self.weights
        return (
            weights.pretraining_distillation * weights.next_sentence,
            next_sentence_loss,
            (
                student_heads["next_sentence_logits"],
                inputs["next_sentence_labels"],
            ),
        )


class LegacyObjectives(Objectives):
    """The terms as the release computes them; see `legacy_losses`.

    Raises:
        ValueError: for a weight of a term that the release does not have.
    """

    reads_all_teacher_maps = True

    def __init__(self, weights: TransferWeights):
        super().__init__(weights)
        if weights.feature_map_transfer:
            raise ValueError(
                "the release's losses have no plain feature_map_transfer. "
                f"Received: a weight of {weights.feature_map_transfer}"
            )

    def transfer_terms(self, pair: BlockPair) -> Terms:
        weights = self.weights
        maps = pair.student_map, pair.teacher_map
        to_all_maps = pair.student_map, pair.teacher_maps
        # The release has one condition for both.
        statistics = bool(weights.feature_mean and weights.feature_variance)
        return _computed(
            (
                weights.normalized_feature_map,
                legacy_losses.normalized_feature_map_loss,
                maps,
            ),
            (
                statistics * weights.feature_mean,
                legacy_losses.feature_mean_loss,
                to_all_maps,
            ),
            (
                statistics * weights.feature_variance,
                legacy_losses.feature_variance_loss,
                to_all_maps,
            ),
            (
                weights.attention_transfer,
                legacy_losses.attention_transfer_loss,
                (pair.student_logits, pair.teacher_logits),
            ),
        )

    def soften(self, teacher_features):
        return teacher_features * self.weights.temperature

    def distillation_terms(
        self, student_heads: dict, teacher_logits, inputs: dict
    ) -> Terms:
        weights = self.weights
        return _computed(
            (
                weights.pretraining_distillation,
                legacy_losses.mixed_masked_lm_loss,
                (
                    student_heads["masked_lm_logits"],
                    teacher_logits,
                    inputs["masked_lm_ids"],
                    inputs["masked_lm_weights"],
                    weights.pd_alpha,
                ),
            ),
            self._next_sentence(student_heads, inputs),
        )


def _computed(*terms: tuple[float, Callable, tuple]) -> Terms:
    """Calls the functions whose weight is not 0; names them after it."""
    return {
        function.__name__: (weight, function(*arguments))
        for weight, function, arguments in terms
        if weight
    }


def frozen(tensor):
    """Returns a teacher's tensor as a constant, in float32."""
    return ops.stop_gradient(ops.cast(tensor, "float32"))
