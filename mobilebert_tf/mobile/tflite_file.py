"""What a text task on a phone must find inside a .tflite file.

MediaPipe's TextClassifier and TextEmbedder, and the Task Library's question
answerer, take text: they tokenize it themselves, with the vocabulary that
they find in the file, and know its tensors by the names in its metadata. The
metadata is a flatbuffer of its own (`TFLITE_METADATA`), the vocabulary and the
names of the labels a ZIP archive behind the model.

Metadata is the last thing to be written: quantising a file afterwards loses
the archive.
"""

import dataclasses
import io
import zipfile
from collections.abc import Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from mobilebert_tf.mobile.deployment import DeploymentModel

_ENTRY = b"TFLITE_METADATA"
_IDENTIFIER = b"M001"
# The first version whose parsers know tokenizers.
_MIN_PARSER_VERSION = "1.1.0"
_VOCAB_FILE, _LABELS_FILE = "vocab.txt", "labels.txt"

# What the Task Library's question answerer was compiled for.
ANSWERER_LENGTH = 384

# The outputs (`signatures.OUTPUTS`) that a text task can make use of.
_READABLE = {
    "sequence_classification": ("probabilities", "independent_probabilities"),
    "question_answering": ("logits",),
    "features": ("first_token", "mean"),
}

# Our name to the name that the tasks look for, and what it says of it.
_INPUTS = {
    "input_ids": ("ids", "Tokenized ids of the input text."),
    "input_mask": (
        "mask",
        "Mask with 1 for real tokens and 0 for padding tokens.",
    ),
    "segment_ids": (
        "segment_ids",
        "0 for the first sequence, 1 for the second sequence if exists.",
    ),
}
_OUTPUTS = {
    "probabilities": ("score", "Score of the labels respectively."),
    "embedding": ("embedding", "Embedding of the input text."),
    "start_logits": (
        "start_logits",
        "Logits over the sequence for the first token of the answer.",
    ),
    "end_logits": (
        "end_logits",
        "Logits over the sequence for the last token of the answer.",
    ),
}
_NAMES = {
    "sequence_classification": (
        "TextClassifier",
        "Classify the input text into a set of known categories.",
    ),
    "features": ("TextEmbedder", "Embed the input text into a vector."),
    "question_answering": (
        "BertQuestionAnswerer",
        "Answer a question with a stretch of a text.",
    ),
}


@dataclasses.dataclass(frozen=True)
class TextMetadata:
    """What goes into a file beside its weights.

    Attributes:
        vocabulary: the pieces in the order of their ids, of an uncased
            vocabulary.
        label_names: the classes in the order of the probabilities; empty for
            question answering and embeddings.
        name: of the model; by default that of its task.
        description: of the model; by default that of its task.
        version: of the model.
        author: whose it is.
        license: its terms.
        do_lower_case: whether the vocabulary is uncased. The tasks lower-case
            every text.

    Raises:
        ValueError: for a cased vocabulary.
    """

    vocabulary: Sequence[str]
    label_names: Sequence[str] = ()
    name: str = ""
    description: str = ""
    version: str = ""
    author: str = ""
    license: str = ""
    do_lower_case: bool = True

    def __post_init__(self):
        if not self.do_lower_case:
            raise ValueError(
                "text tasks lower-case every text: a file with a cased "
                "vocabulary would be fed tokens that it was not trained on"
            )

    def files(self) -> dict[str, bytes]:
        """Returns the packed files by name, one piece or label a line."""
        files = {_VOCAB_FILE: self.vocabulary}
        if self.label_names:
            files[_LABELS_FILE] = self.label_names
        return {
            name: "".join(f"{line}\n" for line in lines).encode()
            for name, lines in files.items()
        }


def check_metadata(
    metadata: TextMetadata,
    deployment: DeploymentModel,
    lengths: Sequence[int],
    output: str,
) -> None:
    """Checks that a text task could open the file that is asked for.

    Args:
        metadata: what it is to carry.
        deployment: the network of the file.
        lengths: of its sequences.
        output: what it returns (`signatures.OUTPUTS`).

    Raises:
        ValueError: for a task that none serves, several lengths (they take a
            file with a single graph), an output that they cannot read, or a
            vocabulary or labels that are not the model's.
    """
    task = deployment.task
    if task not in _READABLE:
        raise ValueError(f"no text task on phones serves {task}")
    if len(lengths) > 1:
        raise ValueError(
            "text tasks open files of one length. Received: "
            f"max_seq_length={list(lengths)}"
        )
    if output not in _READABLE[task]:
        raise ValueError(
            f"text tasks read output={' or '.join(_READABLE[task])} of "
            f"{task}. Received: {output}"
        )
    counts = [("pieces", metadata.vocabulary, deployment.config.vocab_size)]
    if task == "sequence_classification":
        num_labels = deployment.weights["head/bias"].shape[0]
        counts.append(("label names", metadata.label_names, num_labels))
    for what, found, wanted in counts:
        if len(found) != wanted:
            raise ValueError(
                f"metadata needs the model's {wanted} {what}. "
                f"Received: {len(found)}"
            )
    if task == "question_answering" and lengths[0] != ANSWERER_LENGTH:
        raise ValueError(
            f"the question answerer opens files of length {ANSWERER_LENGTH} "
            f"only. Received: {lengths[0]}"
        )


def add_metadata(
    model: schema.ModelT,
    metadata: TextMetadata,
    task: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Puts the metadata's flatbuffer into a model, in place.

    Args:
        model: the file's content.
        metadata: what to write.
        task: of the deployment graph.
        inputs: names of the first graph's inputs in their order.
        outputs: names of its outputs in their order.
    """
    content = metadata_flatbuffer(metadata, task, inputs, outputs)
    model.buffers.append(schema.BufferT(data=np.frombuffer(content, np.uint8)))
    entry = schema.MetadataT(name=_ENTRY, buffer=len(model.buffers) - 1)
    model.metadata = [*(model.metadata or []), entry]


def with_files(content: bytes, files: dict[str, bytes]) -> bytes:
    """Appends a ZIP archive to a file's content.

    Uncompressed: phones map the entries. With a fixed date: the same model
    makes the same file.
    """
    stream = io.BytesIO(content)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


def metadata_flatbuffer(
    metadata: TextMetadata,
    task: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> bytes:
    """Returns the content of `TFLITE_METADATA`; arguments as `add_metadata`.

    Tables are written as {slot: value}, a slot being a field's place in its
    table of TensorFlow's metadata_schema.fbs, a union taking two: its type
    and its value.
    """
    vocab_file = {
        0: _VOCAB_FILE,
        1: "Vocabulary of the tokenizer.",
        2: _VOCABULARY,
    }
    tokenizer = {0: _BERT_TOKENIZER, 1: {0: [vocab_file]}}
    graph = {
        2: [_tensor(*_INPUTS[name]) for name in inputs],
        3: [_output(name, metadata) for name in outputs],
        5: [tokenizer],
    }
    name, description = _NAMES[task]
    model = {
        0: metadata.name or name,
        1: metadata.description or description,
        3: [graph],
        7: _MIN_PARSER_VERSION,
    }
    model |= {
        slot: text
        for slot, text in {
            2: metadata.version,
            4: metadata.author,
            5: metadata.license,
        }.items()
        if text
    }
    builder = flatbuffers.Builder(1024)
    builder.Finish(_table(builder, model), _IDENTIFIER)
    return bytes(builder.Output())


# AssociatedFileType, ContentProperties and ProcessUnitOptions of the schema.
_AXIS_LABELS, _VOCABULARY = 2, 5
_FEATURE = 1
_BERT_TOKENIZER = 4


def _tensor(name: str, description: str) -> dict:
    return {0: name, 1: description, 3: {0: _FEATURE, 1: {}}, 5: {}}


def _output(name: str, metadata: TextMetadata) -> dict:
    tensor = _tensor(*_OUTPUTS[name])
    if name == "probabilities":
        tensor[5] = {0: [1.0], 1: [0.0]}
    if metadata.label_names and name == "probabilities":
        labels = {
            0: _LABELS_FILE,
            1: "Labels for categories that the model can recognize.",
            2: _AXIS_LABELS,
        }
        tensor[6] = [labels]
    return tensor


def _table(builder: flatbuffers.Builder, fields: dict) -> int:
    """Writes a table, what it refers to first; returns its offset."""
    offsets = {
        slot: _value(builder, value)
        for slot, value in fields.items()
        if not isinstance(value, int)
    }
    builder.StartObject(max(fields, default=-1) + 1)
    for slot, value in fields.items():
        if slot in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[slot], 0)
        else:
            builder.PrependUint8Slot(slot, value, 0)
    return builder.EndObject()


def _value(builder: flatbuffers.Builder, value: str | dict | list) -> int:
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, dict):
        return _table(builder, value)
    if isinstance(value[0], float):
        return builder.CreateNumpyVector(np.array(value, np.float32))
    offsets = [_table(builder, fields) for fields in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()
