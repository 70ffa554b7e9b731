"""What the student takes over from the teacher before the first step."""

from typing import NamedTuple

import keras
from keras import ops

from mobilebert_tf.modeling.models import MobileBertForPretraining


class CopiedVariables(NamedTuple):
    """Which of a student's variables outside its blocks were copied.

    Attributes:
        copied: their paths.
        left: the paths of the others.
    """

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
    """Copies everything outside the blocks that the two have in common.

    By name: embedding tables and projection, masked LM head and next sentence
    head (paper, section 3.6: "embedding and classifier are copied"). The
    norm of the embeddings is not the same function in a NoNorm student;
    `match_embedding_norm` takes care of it. Pooler and norms are copied where
    both have the same kind.

    Returns:
        The paths that were copied and those that were not.
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

    The teacher's layer norm computes gamma * (h - mean) / std + beta with a
    token's own mean and std. With both replaced by their averages over a
    batch it is a NoNorm, so the student's first feature map starts on the
    teacher's scale instead of that of raw embeddings (which is smaller by the
    order of `initializer_range`, and which the release makes block 0 undo).

    Does nothing for any other pair of norms: equal ones were copied.

    Args:
        student: a student whose tables were copied from `teacher`.
        teacher: its teacher.
        inputs: one batch of encoder inputs.
    """
    kinds = [m.config.normalization_type for m in (student, teacher)]
    if kinds != ["no_norm", "layer_norm"]:
        return
    ours, theirs = student.encoder.embeddings, teacher.encoder.embeddings
    mask = inputs["input_mask"]
    raw = _input_of_norm(ours, inputs)
    mean = ops.mean(raw, axis=-1)
    inverse_std = ops.rsqrt(ops.var(raw, axis=-1) + theirs.norm.epsilon)
    weight = ops.cast(mask, raw.dtype)
    total = ops.sum(weight)
    scale = ops.sum(inverse_std * weight) / total
    shift = ops.sum(mean * inverse_std * weight) / total
    gamma = ops.cast(theirs.norm.gamma, raw.dtype)
    beta = ops.cast(theirs.norm.beta, raw.dtype)
    ours.norm.gamma.assign(gamma * scale)
    ours.norm.beta.assign(beta - gamma * shift)


def _input_of_norm(embeddings, inputs):
    """The embedding sum before its norm; the student's norm must be identity.

    A fresh NoNorm (gamma 1, beta 0) is the identity, so the embedding output
    of a student that was just made is the norm's input.
    """
    return embeddings(inputs["input_ids"], inputs["segment_ids"])


def _outside_blocks(model: MobileBertForPretraining) -> list[keras.Variable]:
    inside = {
        id(variable)
        for block in model.encoder.blocks
        for variable in block.variables
    }
    return [
        variable for variable in model.weights if id(variable) not in inside
    ]
