"""Length S of a task's examples, if nobody asks for one.

It is what 95 % of the training examples need: a .tflite file computes all S
columns for every text. The model folder remembers it, so that evaluation and
export cut texts where training did.
"""

import os
from pathlib import Path

import numpy as np

from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.task import CONFIG_FILE, MAX_SEQ_LENGTH

# Length of the paper's GLUE tasks and of the built-in ones.
USUAL_LENGTH = 128

_SHARE = 0.95
_MULTIPLE = 8


def saved_length(folder: str | os.PathLike) -> int:
    """Returns the length that a fine-tuned model was trained with.

    128, or all of the model's positions if they are fewer, of a folder that
    does not say.

    Raises:
        InputError: it is not a length that the model can have.
    """
    path, longest = Path(folder) / CONFIG_FILE, _longest(folder)
    length = read_json_object(path).get(MAX_SEQ_LENGTH)
    if length is None:
        return min(USUAL_LENGTH, longest)
    if type(length) is not int or not _MULTIPLE <= length <= longest:
        expected = f"{MAX_SEQ_LENGTH} from {_MULTIPLE} to {longest}"
        raise InputError(path, expected, repr(length))
    return length


def length_to_train(
    folder: str | os.PathLike,
    counts: np.ndarray | None,
    fate: str,
) -> int:
    """Returns the length that suits training examples, and prints it.

    Args:
        folder: the model folder that training starts from.
        counts: pieces of each example, [N], special ones included; None for
            examples whose length is the usual one.
        fate: what happens to examples that are longer.
    """
    longest = _longest(folder)
    if counts is None:
        return min(USUAL_LENGTH, longest)
    needed = np.quantile(counts, _SHARE, method="inverted_cdf")
    length = min(_MULTIPLE * -(-int(needed) // _MULTIPLE), longest)
    share = np.mean(counts > length)
    print(
        f"max_seq_length: {length}, from the training examples; "
        f"{share:.1%} of them are longer and {fate}",
        flush=True,
    )
    return length


def _longest(folder: str | os.PathLike) -> int:
    config = MobileBertConfig.from_json(Path(folder) / CONFIG_FILE)
    return config.max_position_embeddings
