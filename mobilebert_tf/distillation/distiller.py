"""Teacher and student as one Keras model whose output is its loss."""

from collections.abc import Sequence

import keras
from keras import ops

from mobilebert_tf.config import inputs_of
from mobilebert_tf.distillation.objectives import (
    distillation_terms,
    transfer_terms,
)
from mobilebert_tf.distillation.schedule import (
    TransferStage,
    TransferWeights,
    check_teacher_blocks,
    uniform_teacher_blocks,
)
from mobilebert_tf.modeling.models import MobileBertForPretraining

# Fields that copying or comparing needs to be equal.
_SHARED_FIELDS = (
    "vocab_size",
    "embedding_size",
    "hidden_size",
    "num_attention_heads",
    "trigram_input",
    "trigram_order",
    "type_vocab_size",
    "max_position_embeddings",
)


class Distiller(keras.Model):
    """Pairs a student with a teacher and computes a stage's loss.

    A stage runs only the blocks and heads that its loss needs. The teacher runs
    in inference mode and gets no gradient. The student runs without dropout, as
    in the release, unless its loss does not read the teacher at all
    (pre-training distillation with a `pd_alpha` of 1).

    Calling the model on a batch returns its loss terms, so our own loop, which
    calls it, and Keras' `fit`, through `compute_loss`, train alike. The
    teacher may have a dtype of its own: its tensors become float32 where they
    meet the student's.

    Args:
        student: a `MobileBertForPretraining`.
        teacher: a `MobileBertForPretraining` with the same embeddings, feature
            map width, heads and vocabulary.
        weights: of the loss terms.
        teacher_blocks: for each student block the number of the teacher block
            it learns from; `uniform_teacher_blocks` when None.

    Call arguments:
        inputs: a pre-training batch (`input_ids`, `input_mask`, `segment_ids`,
            `masked_lm_positions`, `masked_lm_ids`, `masked_lm_weights`,
            `next_sentence_labels`).

    Returns:
        A dict of scalars: `loss` and the terms it was summed from, named after
        their functions; names of transfer terms end in `_block_NN`, the
        student's.

    Raises:
        ValueError: the two do not fit each other.
    """

    def __init__(
        self,
        student: MobileBertForPretraining,
        teacher: MobileBertForPretraining,
        weights: TransferWeights = TransferWeights(),
        *,
        teacher_blocks: Sequence[int] | None = None,
        **kwargs,
    ):
        # Autocasting would round the batch's weights to bfloat16.
        super().__init__(autocast=False, **kwargs)
        check_pair(student.config, teacher.config)
        depths = len(student.encoder.blocks), len(teacher.encoder.blocks)
        if teacher_blocks is None:
            self.teacher_blocks = uniform_teacher_blocks(*depths)
        else:
            self.teacher_blocks = check_teacher_blocks(teacher_blocks, *depths)
        self.student = student
        self.teacher = teacher
        self.teacher.trainable = False
        self.transfer_weights = weights
        self.stage = None
        self.built = True

    def set_stage(
        self, stage: TransferStage, freeze_lower_blocks: bool = False
    ) -> None:
        """Makes `stage` current and marks its variables as trainable.

        Transfer stages train the blocks up to their highest one, but neither
        embeddings nor heads, which were copied from the teacher. Recompile or
        retrace after a change.

        Args:
            stage: the stage to train next.
            freeze_lower_blocks: train only the stage's own blocks.

        Raises:
            ValueError: the student has no such block, or all terms of the
                stage's loss have weight 0.
        """
        student, weights = self.student, self.transfer_weights
        blocks = student.encoder.blocks
        if max(stage.transfer_blocks, default=0) >= len(blocks):
            raise ValueError(
                f"the student has {len(blocks)} blocks. Received: a stage for "
                f"block {max(stage.transfer_blocks)}"
            )
        whole = self._distils = bool(
            stage.pretraining_distillation and weights.pretraining_distillation
        )
        self._transfers = bool(stage.transfer_blocks and weights.transfer)
        if not (self._distils or self._transfers):
            raise ValueError(f"all weights of stage {stage.name} are 0")
        self.stage = stage
        student.trainable = True
        outside = [student.encoder.embeddings, student.encoder.pooler]
        outside += [student.masked_lm, student.next_sentence]
        for layer in outside:
            if layer is not None:
                layer.trainable = whole
        lowest = min(stage.transfer_blocks, default=0)
        for index, block in enumerate(blocks):
            in_reach = stage.num_blocks is None or index < stage.num_blocks
            is_lower = index < lowest and not whole
            block.trainable = in_reach and not (
                is_lower and freeze_lower_blocks
            )

    def lower_block_variables(self) -> list[keras.Variable]:
        """Returns the variables that a transfer stage trains at a lower rate.

        They belong to the blocks below the one being transferred, whose own
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
        soft_labels = self._distils and self.transfer_weights.soft_labels
        reads_teacher = self._transfers or soft_labels
        read = inputs_of(inputs)
        student = self.student.encoder(
            read,
            training=bool(training) and not reads_teacher,
            num_blocks=self.stage.num_blocks,
        )
        teacher = None
        if reads_teacher:
            teacher = self.teacher.encoder(
                read,
                training=False,
                num_blocks=self._num_teacher_blocks(soft_labels),
            )
        terms = {}
        if self._transfers:
            terms |= self._transfer_terms(
                student, teacher, inputs["input_mask"]
            )
        if self._distils:
            terms |= self._distillation_terms(
                student, teacher if soft_labels else None, inputs
            )
        loss = sum(weight * value for weight, value in terms.values())
        return {"loss": loss} | {
            name: value for name, (_, value) in terms.items()
        }

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return y_pred["loss"]

    def _num_teacher_blocks(self, soft_labels) -> int | None:
        if soft_labels:
            return None
        return self.teacher_blocks[max(self.stage.transfer_blocks)] + 1

    def _transfer_terms(self, student, teacher, input_mask) -> dict:
        share = 1.0 / len(self.student.encoder.blocks)
        terms = {}
        for block in self.stage.transfer_blocks:
            theirs = self.teacher_blocks[block]
            found = transfer_terms(
                self.transfer_weights,
                (
                    ops.cast(student.feature_maps[block + 1], "float32"),
                    _frozen(teacher.feature_maps[theirs + 1]),
                ),
                (
                    ops.cast(student.attention_logits[block], "float32"),
                    _frozen(teacher.attention_logits[theirs]),
                ),
                input_mask,
            )
            for name, (weight, value) in found.items():
                terms[f"{name}_block_{block:02d}"] = (weight * share, value)
        return terms

    def _distillation_terms(self, student, teacher, inputs) -> dict:
        positions = inputs["masked_lm_positions"]
        teacher_logits = None
        if teacher is not None:
            theirs = self.teacher.heads(teacher, positions)
            teacher_logits = _frozen(theirs["masked_lm_logits"])
        heads = self.student.heads(student, positions)
        return distillation_terms(
            self.transfer_weights, heads, teacher_logits, inputs
        )


def _frozen(tensor):
    """A teacher's tensor as a constant, in float32."""
    return ops.stop_gradient(ops.cast(tensor, "float32"))


def check_pair(student, teacher) -> None:
    """Checks that two configs can be paired.

    Raises:
        ValueError: a field differs.
    """
    for name in _SHARED_FIELDS:
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise ValueError(
                f"student and teacher must have the same {name}. "
                f"Received: {ours} and {theirs}"
            )
