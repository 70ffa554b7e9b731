"""Attention maps of one sentence as an image, while a student is taught.

The teacher's pattern grows into the student block by block; a curve of the
attention loss does not show which, and an image does. Computed outside the
train step, without a graph of its own: tracing two encoders would take longer
than all images of a run.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from mobilebert_tf.distillation.distiller import Distiller
from mobilebert_tf.training.loop import Run

IMAGE_NAME = "attention"

# More would be too small to see; the maps of a text are much like its start's.
_LONGEST = 32
_NUM_BLOCKS, _NUM_HEADS = 3, 4
# Pixels: at least so wide is a map; and between maps, and between blocks.
_MAP_PIXELS = 96
_GAP, _WIDE_GAP = 4, 16
_WHITE, _BETWEEN = 255.0, 128.0


@dataclasses.dataclass(frozen=True)
class AttentionImages:
    """Shows a student's attention maps above its teacher's.

    Attributes:
        distiller: the pair.
        inputs: encoder inputs of one sentence, [1, S], without padding.
    """

    distiller: Distiller
    inputs: Mapping[str, np.ndarray]

    def __call__(self, run: Run) -> None:
        """Computes the maps and shows them in the run's TensorBoard."""
        student, teacher = self.distiller.student, self.distiller.teacher
        number = len(student.encoder.blocks)
        blocks = sorted({0, number // 2, number - 1})[:_NUM_BLOCKS]
        theirs = [self.distiller.teacher_blocks[block] for block in blocks]
        image = attention_image(
            _attention_maps(student.encoder, self.inputs, blocks),
            _attention_maps(teacher.encoder, self.inputs, theirs),
        )
        run.log.write_image(
            IMAGE_NAME,
            image,
            run.global_step,
            f"Above: heads of the student's blocks {_list(blocks)}. Below: of "
            f"the teacher's {_list(theirs)}. A row is a query; dark is much.",
        )


def sentence_inputs(batch: Mapping) -> dict[str, np.ndarray]:
    """Returns encoder inputs of a batch's first sequence, [1, S].

    Args:
        batch: a pre-training batch.
    """
    length = min(int(np.sum(batch["input_mask"][0])), _LONGEST)
    return {
        name: np.asarray(batch[name])[:1, :length]
        for name in ("input_ids", "input_mask", "segment_ids")
    }


def attention_image(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Draws the student's maps above the teacher's.

    Args:
        student: attention probabilities, [blocks, heads, S, S].
        teacher: the same of its teacher.

    Returns:
        Grey levels, [height, width, 1], uint8.
    """
    factor = max(1, _MAP_PIXELS // student.shape[-1])
    rows = []
    for maps in (student, teacher):
        # The root, so that the lesser half of the range is seen as well.
        grey = _WHITE * (1.0 - np.sqrt(maps[:, :_NUM_HEADS]))
        large = grey.repeat(factor, axis=-2).repeat(factor, axis=-1)
        blocks = [_joined(heads, _GAP, axis=1) for heads in large]
        rows.append(_joined(blocks, _WIDE_GAP, axis=1))
    image = _joined(rows, _WIDE_GAP, axis=0)
    return image.round().astype("uint8")[..., None]


def _joined(images: Sequence[np.ndarray], gap: int, axis: int) -> np.ndarray:
    """Puts images beside or above each other, with a grey line between."""
    shape = list(images[0].shape)
    shape[axis] = gap
    between = np.full(shape, _BETWEEN)
    parts = [part for image in images for part in (between, image)]
    return np.concatenate(parts[1:], axis=axis)


def _attention_maps(encoder, inputs, blocks: Sequence[int]) -> np.ndarray:
    """Probabilities, [blocks, heads, S, S]."""
    probs = encoder(inputs, training=False).attention_probs
    chosen = [keras.ops.cast(probs[block][0], "float32") for block in blocks]
    return np.stack([keras.ops.convert_to_numpy(heads) for heads in chosen])


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
