"""What a student copies from its teacher before the first step."""

from typing import NamedTuple

import keras
from keras import ops

from mobilebert_tf.modeling.models import MobileBertForPretraining


class CopiedVariables(NamedTuple):
    """Paths of a student's variables outside its blocks: copied, or not."""

    copied: list[str]
    left: list[str]

    def __str__(self):
        text = (
            f"Copied {len(self.copied)} variables from the teacher: "
            f"{', '.join(self.copied)}"
        )
        if self.left:
            text += f"\nNot copied: {', '.join(self.left)}"
        return text


def copy_from_teacher(
    student: MobileBertForPretraining, teacher: MobileBertForPretraining
) -> CopiedVariables:
    """Copies every variable outside the blocks that both models have.

    These are the embedding tables and projection, the masked LM head and the
    next sentence head (paper, section 3.6: "embedding and classifier are
    copied"), and the pooler where both have one. The embeddings' norm is
    copied only between norms of the same type; for the others there is
    `match_embedding_norm`.
    """
    same_norm = (
        student.config.normalization_type == teacher.config.normalization_type
    )
    sources = {variable.path: variable for variable in _outside_blocks(teacher)}
    copied, left = [], []
    for variable in _outside_blocks(student):
        source = sources.get(variable.path)
        other_norm = "embeddings/norm" in variable.path and not same_norm
        if source is None or other_norm:
            left.append(variable.path)
            continue
        # Raises where the shapes differ.
        variable.assign(source.value)
        copied.append(variable.path)
    return CopiedVariables(copied, left)


def match_embedding_norm(
    student: MobileBertForPretraining,
    teacher: MobileBertForPretraining,
    inputs: dict,
) -> None:
    """Sets a NoNorm student's embedding norm to the teacher's average one.

    The teacher's layer norm computes gamma * (h - mean) / std + beta with each
    token's own mean and std. With averages over a batch in their place it is a
    NoNorm, so the student's first feature map starts on the teacher's scale.
    The scale of raw embeddings is far smaller (about `initializer_range`); in
    the release, block 0 has to undo that.

    Does nothing for other pairs of norms: equal ones were copied.

    Args:
        student: a new student, whose tables were copied from `teacher`.
        teacher: its teacher.
        inputs: one batch of encoder inputs; padding is not averaged.
    """
    norms = [m.config.normalization_type for m in (student, teacher)]
    if norms != ["no_norm", "layer_norm"]:
        return
    ours, theirs = student.encoder.embeddings, teacher.encoder.embeddings
    # A new NoNorm is the identity, so this is the input of the norm.
    raw = ours(inputs["input_ids"], inputs["segment_ids"])
    mean = ops.mean(raw, axis=-1)
    inverse_std = ops.rsqrt(ops.var(raw, axis=-1) + theirs.norm.epsilon)
    weight = ops.cast(inputs["input_mask"], raw.dtype)
    total = ops.sum(weight)
    scale = ops.sum(inverse_std * weight) / total
    shift = ops.sum(mean * inverse_std * weight) / total
    gamma = ops.cast(theirs.norm.gamma, raw.dtype)
    beta = ops.cast(theirs.norm.beta, raw.dtype)
    ours.norm.gamma.assign(gamma * scale)
    ours.norm.beta.assign(beta - gamma * shift)


def _outside_blocks(model: MobileBertForPretraining) -> list[keras.Variable]:
    inside = {
        id(variable)
        for block in model.encoder.blocks
        for variable in block.variables
    }
    return [
        variable for variable in model.weights if id(variable) not in inside
    ]
