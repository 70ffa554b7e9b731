"""Teacher and student as one Keras model whose output is its loss."""

import dataclasses

import keras
from keras import ops

from mobilebert_tf.distillation import losses
from mobilebert_tf.distillation.schedule import TransferStage
from mobilebert_tf.modeling.losses import masked_lm_loss, next_sentence_loss
from mobilebert_tf.modeling.models import MobileBertForPretraining


@dataclasses.dataclass(frozen=True)
class TransferWeights:
    """What each term of the loss counts; the defaults are the release's.

    Attributes:
        feature_map: of the normalised feature map loss.
        feature_mean: of the mean loss.
        feature_variance: of the variance loss.
        attention: of attention transfer. A block's weights are all divided by
            the number of blocks.
        pd_alpha: in pre-training distillation, the weight of the true label;
            1 - alpha is the teacher's (paper, equation 4 and appendix D).
        temperature: of the soft labels.
    """

    feature_map: float = 100.0
    feature_mean: float = 5000.0
    feature_variance: float = 5.0
    attention: float = 1.0
    pd_alpha: float = 0.5
    temperature: float = 1.0


class Distiller(keras.Model):
    """Pairs a student with a teacher and computes a stage's loss.

    A stage runs only the blocks, and the heads, that its loss needs. The
    teacher runs in inference mode and gets no gradient. The student runs
    without dropout, as in the release.

    Calling the model on a batch returns its loss terms, so our own loop, which
    calls it, and Keras' `fit`, through `compute_loss`, train alike.

    Args:
        student: a `MobileBertForPretraining`.
        teacher: a `MobileBertForPretraining` of the same depth, feature map
            width, heads and vocabulary.
        weights: `TransferWeights`.

    Call arguments:
        inputs: a pre-training batch (`input_ids`, `input_mask`, `segment_ids`,
            `masked_lm_positions`, `masked_lm_ids`, `masked_lm_weights`,
            `next_sentence_labels`).

    Returns:
        A dict of scalars: `loss` and the terms it was summed from, by the name
        of their function; transfer terms end in `_block_NN`.

    Raises:
        ValueError: if the two do not fit each other.
    """

    def __init__(
        self,
        student: MobileBertForPretraining,
        teacher: MobileBertForPretraining,
        weights: TransferWeights | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_pair(student.config, teacher.config)
        self.student = student
        self.teacher = teacher
        self.teacher.trainable = False
        self.transfer_weights = weights or TransferWeights()
        self.stage = None
        self.built = True

    def set_stage(self, stage: TransferStage) -> None:
        """Makes `stage` current and marks what it trains as trainable.

        Transfer stages train the blocks up to their highest one, and neither
        embeddings nor heads, which were copied from the teacher. Recompile or
        retrace after a change.
        """
        blocks = self.student.encoder.blocks
        if stage.transfer_blocks and max(stage.transfer_blocks) >= len(blocks):
            raise ValueError(
                f"the student has {len(blocks)} blocks. Received: a stage for "
                f"block {max(stage.transfer_blocks)}"
            )
        self.stage = stage
        self.student.trainable = True
        whole = stage.pretraining_distillation
        self.student.encoder.embeddings.trainable = whole
        self.student.masked_lm.trainable = whole
        self.student.next_sentence.trainable = whole
        if self.student.encoder.pooler is not None:
            self.student.encoder.pooler.trainable = whole
        for index, block in enumerate(blocks):
            block.trainable = whole or index < stage.num_blocks

    def lower_block_variables(self) -> list[keras.Variable]:
        """The variables that a progressive stage trains at a lower rate.

        These are the blocks below the one being transferred, whose own
        stages are over.
        """
        if self.stage.pretraining_distillation:
            return []
        lowest = min(self.stage.transfer_blocks)
        return [
            variable
            for block in self.student.encoder.blocks[:lowest]
            for variable in block.trainable_variables
        ]

    def call(self, inputs, training=None):
        if self.stage is None:
            raise ValueError("set_stage must be called first")
        num_blocks = self.stage.num_blocks
        student = self.student.encoder(
            inputs, training=False, num_blocks=num_blocks
        )
        teacher = self.teacher.encoder(
            inputs, training=False, num_blocks=num_blocks
        )
        terms = self._transfer_terms(student, teacher, inputs["input_mask"])
        if self.stage.pretraining_distillation:
            terms |= self._distillation_terms(student, teacher, inputs)
        loss = sum(weight * value for weight, value in terms.values())
        return {"loss": loss} | {
            name: value for name, (_, value) in terms.items()
        }

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return y_pred["loss"]

    def _transfer_terms(self, student, teacher, input_mask) -> dict:
        weights = self.transfer_weights
        share = 1.0 / len(self.student.encoder.blocks)
        terms = {}
        for block in self.stage.transfer_blocks:
            ours = ops.cast(student.feature_maps[block + 1], "float32")
            theirs = _frozen(teacher.feature_maps[block + 1])
            maps = {
                losses.normalized_feature_map_loss: weights.feature_map,
                losses.feature_mean_loss: weights.feature_mean,
                losses.feature_variance_loss: weights.feature_variance,
            }
            for function, weight in maps.items():
                terms[f"{function.__name__}_block_{block:02d}"] = (
                    weight * share,
                    function(ours, theirs, input_mask),
                )
            terms[f"attention_transfer_loss_block_{block:02d}"] = (
                weights.attention * share,
                losses.attention_transfer_loss(
                    ops.cast(student.attention_logits[block], "float32"),
                    _frozen(teacher.attention_logits[block]),
                    input_mask,
                ),
            )
        return terms

    def _distillation_terms(self, student, teacher, inputs) -> dict:
        weights = self.transfer_weights
        positions = inputs["masked_lm_positions"]
        ours = self.student.heads(student, positions)
        theirs = self.teacher.heads(teacher, positions)
        return {
            "masked_lm_loss": (
                weights.pd_alpha,
                masked_lm_loss(
                    ours["masked_lm_logits"],
                    inputs["masked_lm_ids"],
                    inputs["masked_lm_weights"],
                ),
            ),
            "masked_lm_distillation_loss": (
                1.0 - weights.pd_alpha,
                losses.masked_lm_distillation_loss(
                    ours["masked_lm_logits"],
                    _frozen(theirs["masked_lm_logits"]),
                    inputs["masked_lm_weights"],
                    weights.temperature,
                ),
            ),
            "next_sentence_loss": (
                1.0,
                next_sentence_loss(
                    ours["next_sentence_logits"], inputs["next_sentence_labels"]
                ),
            ),
        }


def check_pair(student, teacher) -> None:
    """Checks that two configs can be paired.

    Raises:
        ValueError: naming the field that differs.
    """
    for name in (
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
    ):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise ValueError(
                f"student and teacher must have the same {name}. "
                f"Received: {ours} and {theirs}"
            )


def _frozen(tensor):
    return ops.stop_gradient(ops.cast(tensor, "float32"))
