"""Files that take the text itself, with the tokenizer inside.

The tokenizer is TensorFlow Text's, whose kernels LiteRT does not bring: such a
file runs where they are registered (in Python by `TextTFLiteModel`, in an app
that compiles them in), and nowhere else. MediaPipe's tasks want a file with
metadata instead (see `metadata`).

The kernels' own normalisation folds case by NFKC, where BERT lower-cases and
strips accents: "km²" becomes "km2" and "…" three dots, in one of 285 paragraphs
of Wikipedia and books. Where that matters, the app normalises as
`data.normalization.normalize` does, and the file is made with
`do_lower_case=False`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_text
from ai_edge_litert.interpreter import InterpreterWithCustomOps
from tensorflow_text.core.pybinds import tflite_registrar

from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.runtime import open_interpreter
from mobilebert_tf.mobile.signatures import SIGNATURE, InferenceGraph
from mobilebert_tf.text.tokenizer import MAX_WORD_CHARACTERS
from mobilebert_tf.text.vocabulary import CONTINUATION_PREFIX, check_vocabulary

TEXT_NAMES = ("text", "text_b")


class TextInput(tf.Module):
    """BERT's tokenizer as a part of the graph.

    Args:
        vocabulary: the pieces, in the order of their ids.
        do_lower_case: whether to lower-case and strip accents: for an uncased
            vocabulary, unless the text arrives normalised.
        num_texts: 1, or 2 for a model of pairs.

    Call arguments:
        length: S, [CLS] and [SEP] included. What is longer is cut, of a pair
            the longer text first.
        texts: string [1], one or two.

    Returns:
        input_ids, input_mask, segment_ids: int32 [1, S].

    Raises:
        InputError: if `vocabulary` is not one.
        ValueError: for another number of texts, or a length without room.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        do_lower_case: bool = True,
        num_texts: int = 1,
    ):
        super().__init__(name="text_input")
        check_vocabulary(vocabulary)
        if num_texts not in (1, 2):
            raise ValueError(f"num_texts must be 1 or 2. Received: {num_texts}")
        vocabulary = list(vocabulary)
        self.names = TEXT_NAMES[:num_texts]
        self._cls, self._sep, self._pad = (
            vocabulary.index(piece) for piece in ("[CLS]", "[SEP]", "[PAD]")
        )
        self._tokenizer = tensorflow_text.FastBertTokenizer(
            vocabulary,
            suffix_indicator=CONTINUATION_PREFIX,
            max_bytes_per_word=MAX_WORD_CHARACTERS,
            token_out_type=tf.int32,
            unknown_token="[UNK]",
            lower_case_nfd_strip_accents=do_lower_case,
        )

    def __call__(self, length: int, *texts):
        room = length - 1 - len(texts)
        if room < len(texts):
            raise ValueError(
                f"max_seq_length must be at least {1 + 2 * len(texts)} for "
                f"{len(texts)} text(s). Received: {length}"
            )
        pieces = [self._tokenizer.tokenize(text).flat_values for text in texts]
        segments = []
        if len(pieces) == 1:
            first = pieces[0][:room]
        else:
            # The first text is the longer half.
            kept = tf.maximum(room - tf.size(pieces[1]), (room + 1) // 2)
            first = pieces[0][:kept]
            second = pieces[1][: room - tf.size(first)]
            segments = [second, [self._sep]]
        ids = tf.concat([[self._cls], first, [self._sep], *segments], axis=0)
        position = tf.range(length)
        used, first_used = tf.size(ids), tf.size(first) + 2
        missing = [[0, length - used]]
        ids = tf.pad(ids, missing, constant_values=self._pad)
        mask = tf.cast(position < used, tf.int32)
        after_first = tf.cast(position >= first_used, tf.int32)
        return tuple(
            tf.reshape(row, (1, length))
            for row in (ids, mask, mask * after_first)
        )


class TextGraph(tf.Module):
    """A graph that tokenizes, then infers.

    Args:
        tokenize: the tokenizer.
        infer: the rest.
        length: S.

    Call arguments:
        text: string [1]; for a model of pairs also `text_b`.

    Returns:
        What `infer` returns.
    """

    def __init__(self, tokenize: TextInput, infer: InferenceGraph, length: int):
        super().__init__(name="export")
        self.tokenize = tokenize
        self.infer = infer
        self._length = length

    def __call__(self, **texts):
        ordered = (texts[name] for name in self.tokenize.names)
        return self.infer(*self.tokenize(self._length, *ordered))

    def input_specs(self) -> dict[str, tf.TensorSpec]:
        """Returns the inputs, each string [1]."""
        return {
            name: tf.TensorSpec((1,), tf.string, name=name)
            for name in self.tokenize.names
        }


class TextTFLiteModel:
    """A .tflite file with the tokenizer inside, ready to predict.

    Args:
        path: a file that `export.export_tflite` wrote with `text_input`.
        num_threads: threads of the interpreter.

    Attributes:
        input_names: `text`, or `text` and `text_b`.
        output_names: the outputs of its signature.

    Raises:
        InputError: if it is no such file.
    """

    def __init__(self, path: str | os.PathLike, num_threads: int = 1):
        self.path = Path(path)
        self.interpreter = open_interpreter(
            self.path,
            num_threads,
            InterpreterWithCustomOps,
            custom_op_registerers=tflite_registrar.SELECT_TFTEXT_OPS,
        )
        signatures = self.interpreter.get_signature_list()
        found = signatures.get(SIGNATURE, {"inputs": [], "outputs": []})
        self.input_names = tuple(sorted(found["inputs"]))
        if self.input_names not in (TEXT_NAMES[:1], TEXT_NAMES):
            raise InputError(
                self.path,
                f"a signature {SIGNATURE} of text",
                {name: s["inputs"] for name, s in signatures.items()},
            )
        self.output_names = tuple(sorted(found["outputs"]))
        self._runner = self.interpreter.get_signature_runner(SIGNATURE)

    def predict(self, *texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Runs every text, or pair, by itself.

        Args:
            *texts: a list of texts; for a model of pairs two of them.

        Returns:
            The outputs by name, [num, ...].

        Raises:
            ValueError: for another number of lists, or without any text.
        """
        if len(texts) != len(self.input_names):
            raise ValueError(
                f"{self.path} takes {' and '.join(self.input_names)}. "
                f"Received: {len(texts)} list(s)"
            )
        rows = [
            self._runner(
                **{
                    name: np.array([text])
                    for name, text in zip(self.input_names, row, strict=True)
                }
            )
            for row in zip(*texts, strict=True)
        ]
        if not rows:
            raise ValueError("there is no text to predict")
        return {
            name: np.concatenate([row[name] for row in rows])
            for name in self.output_names
        }
