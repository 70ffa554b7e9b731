"""What sits on the encoder: pre-training heads and task heads.

Encoder plus head: one class a task, wiring only.
"""

import dataclasses
from collections.abc import Sequence

import keras
from keras import ops

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.modeling.encoder import MobileBertEncoder
from mobilebert_tf.modeling.folder import ModelFolderMixin
from mobilebert_tf.modeling.layers import (
    ConfiguredLayer,
    activation_function,
    build_dense,
    truncated_normal,
)


def gather_positions(sequence, positions):
    """Picks the feature vectors at `positions`.

    Args:
        sequence: [B, S, D].
        positions: int [B, P].

    Returns:
        [B, P, D].
    """
    length, width = ops.shape(sequence)[1], sequence.shape[-1]
    batch = ops.arange(ops.shape(positions)[0], dtype="int32")
    rows = ops.cast(positions, "int32") + batch[:, None] * length
    flat = ops.reshape(sequence, (-1, width))
    return ops.take(flat, rows, axis=0)


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MaskedLMHead(ConfiguredLayer):
    """Predicts word pieces, through the transposed word embedding table.

    The table is only E wide and the transformed feature D: the missing D - E
    columns are this layer's `extra_output_weights`. The norm here is a true
    layer norm even in NoNorm models, and the activation the model's own.

    Args:
        config: a `MobileBertConfig`.

    Call arguments:
        features: [..., D].
        word_embeddings: the encoder's table, [V, E].

    Returns:
        `masked_lm_logits`, [..., V].
    """

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.transform = build_dense(
            config.hidden_size, config.initializer_range, "transform"
        )
        self.activation = activation_function(config.hidden_act)
        self.norm = keras.layers.LayerNormalization(
            epsilon=config.layer_norm_eps, name="norm"
        )

    def build(self, input_shape=None):
        config = self.config
        self.transform.build((None, config.hidden_size))
        self.norm.build((None, config.hidden_size))
        self.extra_output_weights = None
        extra_width = config.hidden_size - config.embedding_size
        if extra_width:
            self.extra_output_weights = self.add_weight(
                name="extra_output_weights",
                shape=(config.vocab_size, extra_width),
                initializer=truncated_normal(config.initializer_range),
            )
        self.bias = self.add_weight(
            name="bias", shape=(config.vocab_size,), initializer="zeros"
        )

    def call(self, features, word_embeddings):
        hidden = self.norm(self.activation(self.transform(features)))
        width = self.config.embedding_size
        table = ops.cast(word_embeddings, hidden.dtype)
        # Two products spare the concatenation of two V-row tables.
        logits = ops.matmul(hidden[..., :width], ops.transpose(table))
        if self.extra_output_weights is not None:
            logits = logits + ops.matmul(
                hidden[..., width:], ops.transpose(self.extra_output_weights)
            )
        return logits + self.bias


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class ProjectionHead(keras.layers.Layer):
    """Dropout and one dense layer: the head of every task but masked LM.

    Args:
        units: number of classes, or 2 for answer spans.
        dropout_prob: dropout before the dense layer.
        initializer_range: standard deviation of its kernel.

    Call arguments:
        features: [..., D].
        training: whether dropout is on.

    Returns:
        Logits, [..., units], in float32.
    """

    def __init__(
        self,
        units: int,
        dropout_prob: float = 0.0,
        initializer_range: float = 0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "units": units,
            "dropout_prob": dropout_prob,
            "initializer_range": initializer_range,
        }
        self.dropout = keras.layers.Dropout(dropout_prob, name="dropout")
        self.dense = build_dense(units, initializer_range, "dense")

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, features, training=None):
        logits = self.dense(self.dropout(features, training=training))
        return ops.cast(logits, "float32")

    def get_config(self):
        return super().get_config() | self._settings


class _TaskModel(ModelFolderMixin, keras.Model):
    """An encoder with a head; weights exist once constructed.

    Attributes:
        reads_pooled_output: whether the head reads `pooled_output`. Where it
            does not, the encoder has no pooler, whatever the config says.
    """

    reads_pooled_output = True

    def __init__(self, config: MobileBertConfig, **kwargs):
        # Autocasting would round ids that arrive as floats to bfloat16.
        super().__init__(autocast=False, **kwargs)
        self.config = config
        if not self.reads_pooled_output:
            config = dataclasses.replace(config, classifier_activation=False)
        self.encoder = MobileBertEncoder(config)

    def _head(self, units: int, dropout_prob: float, name: str):
        return ProjectionHead(
            units,
            dropout_prob=dropout_prob,
            initializer_range=self.config.initializer_range,
            name=name,
        )

    def get_config(self):
        return {"name": self.name, "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config["config"] = MobileBertConfig(**config["config"])
        return cls(**config)


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForPretraining(_TaskModel):
    """Masked LM and next sentence prediction, for teacher and student.

    Args:
        config: a `MobileBertConfig`.

    Call arguments:
        inputs: the encoder's inputs and, optionally, `masked_lm_positions`
            int32 [B, P]. With them, only those positions pass the vocabulary
            projection, which is a third of a pre-training step otherwise.
        training: whether dropout is on.

    Returns:
        A dict: `masked_lm_logits` [B, P, V] ([B, S, V] without positions) and
        `next_sentence_logits` [B, 2] (class 0: B follows A).
    """

    architecture = "MobileBertForPreTraining"

    def __init__(self, config, name="pretraining", **kwargs):
        super().__init__(config, name=name, **kwargs)
        self.masked_lm = MaskedLMHead(config, name="masked_lm")
        # The release puts no dropout before this head.
        self.next_sentence = self._head(2, 0.0, "next_sentence")
        self.build()

    def build(self, input_shape=None):
        self.masked_lm.build()
        self.next_sentence.build((None, self.config.hidden_size))

    def call(self, inputs, training=None):
        outputs = self.encoder(inputs, training=training)
        return self.heads(outputs, inputs.get("masked_lm_positions"), training)

    def heads(self, outputs, masked_lm_positions=None, training=None) -> dict:
        """Applies both heads to an `EncoderOutput`."""
        return {
            "masked_lm_logits": _masked_lm_logits(
                self, outputs, masked_lm_positions
            ),
            "next_sentence_logits": self.next_sentence(
                outputs.pooled_output, training=training
            ),
        }


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForMaskedLM(_TaskModel):
    """Masked LM alone, as language models are shared.

    Call arguments:
        inputs: as `MobileBertForPretraining`'s.
        training: whether dropout is on.

    Returns:
        Logits, [B, P, V] ([B, S, V] without `masked_lm_positions`).
    """

    architecture = "MobileBertForMaskedLM"
    reads_pooled_output = False

    def __init__(self, config, name="masked_lm_model", **kwargs):
        super().__init__(config, name=name, **kwargs)
        self.masked_lm = MaskedLMHead(config, name="masked_lm")
        self.build()

    def build(self, input_shape=None):
        self.masked_lm.build()

    def call(self, inputs, training=None):
        outputs = self.encoder(inputs, training=training)
        return _masked_lm_logits(
            self, outputs, inputs.get("masked_lm_positions")
        )


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForNextSentencePrediction(_TaskModel):
    """Says whether the second segment follows the first.

    Returns:
        Logits, [B, 2] (class 0: B follows A).
    """

    architecture = "MobileBertForNextSentencePrediction"

    def __init__(self, config, name="next_sentence_model", **kwargs):
        super().__init__(config, name=name, **kwargs)
        self.next_sentence = self._head(2, 0.0, "next_sentence")
        self.build()

    def build(self, input_shape=None):
        self.next_sentence.build((None, self.config.hidden_size))

    def call(self, inputs, training=None):
        outputs = self.encoder(inputs, training=training)
        return self.next_sentence(outputs.pooled_output, training=training)


def _masked_lm_logits(model, outputs, masked_lm_positions):
    """Float32 logits of a model's MLM head, [B, P, V] or [B, S, V]."""
    features = outputs.sequence_output
    if masked_lm_positions is not None:
        features = gather_positions(features, masked_lm_positions)
    table = model.encoder.embeddings.word_embeddings
    return ops.cast(model.masked_lm(features, table), "float32")


class _ClassModel(_TaskModel):
    """A task model with named classes (one class means regression)."""

    has_label_names = True

    def __init__(self, config, label_names: Sequence[str], **kwargs):
        super().__init__(config, **kwargs)
        if not label_names:
            raise ValueError("label_names must name at least one output")
        self.label_names = tuple(label_names)
        self.head = self._head(
            len(self.label_names), config.classifier_dropout_prob, "head"
        )
        self.build()

    def build(self, input_shape=None):
        self.head.build((None, self.config.hidden_size))

    def get_config(self):
        return super().get_config() | {"label_names": list(self.label_names)}


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForSequenceClassification(_ClassModel):
    """Classifies, or with a single label name scores, whole sequences.

    Args:
        config: a `MobileBertConfig`.
        label_names: the classes in the order of the logits.

    Call arguments:
        inputs: the encoder's inputs.
        training: whether dropout is on.

    Returns:
        Logits [B, C]; for regression the value, [B, 1].
    """

    architecture = "MobileBertForSequenceClassification"

    def __init__(self, config, label_names, name="classifier", **kwargs):
        super().__init__(config, label_names, name=name, **kwargs)

    def call(self, inputs, training=None):
        return self.logits(self.encoder(inputs, training=training), training)

    def logits(self, outputs, training=None):
        """Applies the head to an `EncoderOutput`."""
        return self.head(outputs.pooled_output, training=training)


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForTokenClassification(_ClassModel):
    """Classifies every token: logits [B, S, C]."""

    architecture = "MobileBertForTokenClassification"
    reads_pooled_output = False

    def __init__(self, config, label_names, name="tagger", **kwargs):
        super().__init__(config, label_names, name=name, **kwargs)

    def call(self, inputs, training=None):
        return self.logits(self.encoder(inputs, training=training), training)

    def logits(self, outputs, training=None):
        """Applies the head to an `EncoderOutput`."""
        return self.head(outputs.sequence_output, training=training)


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForQuestionAnswering(_TaskModel):
    """Marks an answer span.

    Returns:
        A dict: `start_logits` and `end_logits`, [B, S]. Masked positions are
        not excluded, as in the release.
    """

    architecture = "MobileBertForQuestionAnswering"
    reads_pooled_output = False

    def __init__(self, config, name="question_answering", **kwargs):
        super().__init__(config, name=name, **kwargs)
        self.head = self._head(2, 0.0, "head")
        self.build()

    def build(self, input_shape=None):
        self.head.build((None, self.config.hidden_size))

    def call(self, inputs, training=None):
        return self.logits(self.encoder(inputs, training=training), training)

    def logits(self, outputs, training=None):
        """Applies the head to an `EncoderOutput`."""
        logits = self.head(outputs.sequence_output, training=training)
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForMultipleChoice(_TaskModel):
    """Chooses among alternatives.

    Call arguments:
        inputs: the encoder's inputs with an axis of choices, [B, C, S].

    Returns:
        Logits, [B, C].
    """

    architecture = "MobileBertForMultipleChoice"

    def __init__(self, config, name="multiple_choice", **kwargs):
        super().__init__(config, name=name, **kwargs)
        self.head = self._head(1, config.classifier_dropout_prob, "head")
        self.build()

    def build(self, input_shape=None):
        self.head.build((None, self.config.hidden_size))

    def call(self, inputs, training=None):
        shape = ops.shape(inputs["input_ids"])  # [B, C, S]
        flat = {
            name: ops.reshape(inputs[name], (-1, shape[-1]))
            for name in ("input_ids", "input_mask", "segment_ids")
            if name in inputs
        }
        outputs = self.encoder(flat, training=training)
        logits = self.head(outputs.pooled_output, training=training)
        return ops.reshape(logits, (-1, shape[1]))
