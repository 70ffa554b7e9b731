"""Heads, and one model for each task: the encoder with a head."""

import dataclasses
from collections.abc import Sequence

import keras
from keras import ops

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.modeling.encoder import MobileBertEncoder
from mobilebert_tf.modeling.folder import PretrainedModel
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
    """Predicts word pieces with the transposed word embedding table.

    The table is only E wide and the transformed feature D: the missing D - E
    columns are this layer's `extra_output_weights`. The norm is a true layer
    norm even in NoNorm models; the activation is that of the blocks.

    Call arguments:
        features: [..., D].
        word_embeddings: the encoder's table, [V, E].

    Returns:
        `masked_lm_logits`, [..., V].
    """

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.transform = build_dense(config.hidden_size, config, "transform")
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
                initializer=truncated_normal(config),
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
class ProjectionHead(ConfiguredLayer):
    """Dropout and one dense layer: the head of every task but masked LM.

    Args:
        config: a `MobileBertConfig`.
        units: number of classes, or 2 for answer spans.
        dropout_prob: dropout before the dense layer.

    Call arguments:
        features: [..., D].

    Returns:
        Logits, float32 [..., units].
    """

    def __init__(
        self,
        config: MobileBertConfig,
        units: int,
        dropout_prob: float = 0.0,
        **kwargs,
    ):
        super().__init__(config, **kwargs)
        self.units, self.dropout_prob = units, dropout_prob
        self.dropout = keras.layers.Dropout(dropout_prob, name="dropout")
        self.dense = build_dense(units, config, "dense")

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, features, training=None):
        logits = self.dense(self.dropout(features, training=training))
        return ops.cast(logits, "float32")

    def get_config(self):
        return super().get_config() | {
            "units": self.units,
            "dropout_prob": self.dropout_prob,
        }


class _TaskModel(PretrainedModel):
    """An encoder with a head; weights exist once constructed.

    Subclasses have `logits(outputs, training)`, which applies the head to an
    `EncoderOutput`, or a `call` of their own.

    Attributes:
        reads_pooled_output: whether the head reads `pooled_output`. If not,
            the encoder has no pooler, whatever the config says.
    """

    reads_pooled_output = True

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(config, **kwargs)
        if not self.reads_pooled_output:
            config = dataclasses.replace(config, classifier_activation=False)
        self.encoder = MobileBertEncoder(config)

    def build(self, input_shape=None):
        for layer in self.layers:
            if layer is not self.encoder:
                layer.build((None, self.config.hidden_size))

    def call(self, inputs, training=None):
        return self.logits(self.encoder(inputs, training=training), training)


class _MaskedLMModel(_TaskModel):
    """A task model with `masked_lm` among its heads."""

    further_inputs = ("masked_lm_positions",)

    def __init__(self, config, **kwargs):
        super().__init__(config, **kwargs)
        self.masked_lm = MaskedLMHead(config, name="masked_lm")

    def call(self, inputs, training=None):
        inputs = dict(inputs)
        positions = inputs.pop("masked_lm_positions", None)
        outputs = self.encoder(inputs, training=training)
        return self.heads(outputs, positions, training)

    def _masked_lm_logits(self, outputs, masked_lm_positions):
        """Returns float32 logits, [B, P, V] or [B, S, V]."""
        features = outputs.sequence_output
        if masked_lm_positions is not None:
            features = gather_positions(features, masked_lm_positions)
        table = self.encoder.embeddings.word_embeddings
        return ops.cast(self.masked_lm(features, table), "float32")


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForPretraining(_MaskedLMModel):
    """Masked LM and next sentence prediction, for teacher and student.

    Call arguments:
        inputs: the encoder's inputs and, optionally, `masked_lm_positions`
            int32 [B, P]. With them, only those positions pass the vocabulary
            projection, which is a third of a pre-training step otherwise.

    Returns:
        A dict: `masked_lm_logits` [B, P, V] ([B, S, V] without positions) and
        `next_sentence_logits` [B, 2] (class 0: B follows A).
    """

    architecture = "MobileBertForPreTraining"

    def __init__(self, config, name="pretraining", **kwargs):
        super().__init__(config, name=name, **kwargs)
        # The release puts no dropout before this head.
        self.next_sentence = ProjectionHead(config, 2, name="next_sentence")
        self.build()

    def heads(self, outputs, masked_lm_positions=None, training=None) -> dict:
        """Applies both heads to an `EncoderOutput`."""
        return {
            "masked_lm_logits": self._masked_lm_logits(
                outputs, masked_lm_positions
            ),
            "next_sentence_logits": self.next_sentence(
                outputs.pooled_output, training=training
            ),
        }


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForMaskedLM(_MaskedLMModel):
    """Masked LM alone, as language models are shared.

    Call arguments:
        inputs: those of `MobileBertForPretraining`.

    Returns:
        Logits, [B, P, V] ([B, S, V] without `masked_lm_positions`).
    """

    architecture = "MobileBertForMaskedLM"
    reads_pooled_output = False

    def __init__(self, config, name="masked_lm_model", **kwargs):
        super().__init__(config, name=name, **kwargs)
        self.build()

    def heads(self, outputs, masked_lm_positions=None, training=None):
        """Applies the head to an `EncoderOutput`."""
        return self._masked_lm_logits(outputs, masked_lm_positions)


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForNextSentencePrediction(_TaskModel):
    """Predicts whether the second segment follows the first.

    Returns:
        Logits, [B, 2] (class 0: B follows A).
    """

    architecture = "MobileBertForNextSentencePrediction"

    def __init__(self, config, name="next_sentence_model", **kwargs):
        super().__init__(config, name=name, **kwargs)
        self.next_sentence = ProjectionHead(config, 2, name="next_sentence")
        self.build()

    def logits(self, outputs, training=None):
        return self.next_sentence(outputs.pooled_output, training=training)


class _ClassModel(_TaskModel):
    """A task model with named classes."""

    has_label_names = True

    def __init__(self, config, label_names: Sequence[str], **kwargs):
        super().__init__(config, **kwargs)
        if not label_names:
            raise ValueError("label_names must name at least one output")
        self.label_names = tuple(label_names)
        self.head = ProjectionHead(
            config,
            len(self.label_names),
            config.classifier_dropout_prob,
            name="head",
        )
        self.build()

    def get_config(self):
        return super().get_config() | {"label_names": list(self.label_names)}


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForSequenceClassification(_ClassModel):
    """Classifies or, with a single label name, scores whole sequences.

    Args:
        config: a `MobileBertConfig`.
        label_names: the classes in the order of the logits.

    Returns:
        Logits [B, C]; for regression the value, [B, 1].
    """

    architecture = "MobileBertForSequenceClassification"

    def __init__(self, config, label_names, name="classifier", **kwargs):
        super().__init__(config, label_names, name=name, **kwargs)

    def logits(self, outputs, training=None):
        return self.head(outputs.pooled_output, training=training)


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForTokenClassification(_ClassModel):
    """Classifies every token: logits [B, S, C]."""

    architecture = "MobileBertForTokenClassification"
    reads_pooled_output = False

    def __init__(self, config, label_names, name="tagger", **kwargs):
        super().__init__(config, label_names, name=name, **kwargs)

    def logits(self, outputs, training=None):
        return self.head(outputs.sequence_output, training=training)


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertForQuestionAnswering(_TaskModel):
    """Marks the span of an answer.

    Returns:
        A dict: `start_logits` and `end_logits`, [B, S]. Masked positions are
        not excluded, as in the release.
    """

    architecture = "MobileBertForQuestionAnswering"
    reads_pooled_output = False

    def __init__(self, config, name="question_answering", **kwargs):
        super().__init__(config, name=name, **kwargs)
        self.head = ProjectionHead(config, 2, name="head")
        self.build()

    def logits(self, outputs, training=None):
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
    input_axes = "BCS"

    def __init__(self, config, name="multiple_choice", **kwargs):
        super().__init__(config, name=name, **kwargs)
        self.head = ProjectionHead(
            config, 1, config.classifier_dropout_prob, name="head"
        )
        self.build()

    def call(self, inputs, training=None):
        shape = ops.shape(inputs["input_ids"])  # [B, C, S]
        flat = {
            name: ops.reshape(values, (-1, shape[-1]))
            for name, values in inputs.items()
        }
        logits = self.logits(self.encoder(flat, training=training), training)
        return ops.reshape(logits, (-1, shape[1]))

    def logits(self, outputs, training=None):
        return self.head(outputs.pooled_output, training=training)
