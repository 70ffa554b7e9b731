"""The bytes of a .tflite file: order and names of tensors, and metadata.

A file has one signature per sequence length; all share their weights. Inputs
and outputs have names, but some programs on phones bind them by position, so
the order of the tensors is fixed too, which the converter leaves to chance.

MediaPipe's TextClassifier and TextEmbedder, and the Task Library's question
answerer, take text: they tokenize it themselves, with the vocabulary that they
find in the file, and know its tensors by the names in its metadata. The
metadata is a flatbuffer of its own (`TFLITE_METADATA`); the vocabulary and the
names of the labels are a ZIP archive after the model. Metadata is written last:
quantising a file afterwards loses the archive.
"""

import dataclasses
import io
import zipfile
from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from mobilebert_tf.mobile.folding import FEATURES, SEQUENCES, SPANS, Folded
from mobilebert_tf.mobile.runtime import LABELS_FILE, SIGNATURE, VOCAB_FILE

# Data of a tensor begin at a multiple of this, as the format requires.
_ALIGNMENT = 16

_ENTRY = b"TFLITE_METADATA"
_IDENTIFIER = b"M001"
# The first version whose parsers know tokenizers.
_MIN_PARSER_VERSION = "1.1.0"

# What the Task Library's question answerer was compiled for.
ANSWERER_LENGTH = 384

# The outputs (`export.OUTPUTS`) that a text task can use, by head.
_READABLE = {
    SEQUENCES: ("probabilities", "independent_probabilities"),
    SPANS: ("logits",),
    FEATURES: ("first_token", "mean"),
}

# Our tensors: the name that the tasks look for, and a description.
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
    "probabilities": ("probability", "Probabilities of the labels."),
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
    SEQUENCES: (
        "TextClassifier",
        "Classify the input text into a set of known categories.",
    ),
    FEATURES: ("TextEmbedder", "Embed the input text into a vector."),
    SPANS: (
        "BertQuestionAnswerer",
        "Answer a question with a stretch of a text.",
    ),
}


def unpack(content: bytes) -> schema.ModelT:
    """Returns a file's content as objects that can be changed."""
    return schema.ModelT.InitFromPackedBuf(content, 0)


def pack(model: schema.ModelT, files: Mapping[str, bytes] = {}) -> bytes:
    """Returns the content of a file.

    Args:
        model: the file's content.
        files: appended as a ZIP archive, uncompressed, because phones map the
            entries, and with a fixed date, so that the same model gives the
            same file.
    """
    builder = _AlignedBuilder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    stream = io.BytesIO(bytes(builder.Output()))
    if files:
        stream.seek(0, io.SEEK_END)
        with zipfile.ZipFile(stream, "a") as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


class _AlignedBuilder(flatbuffers.Builder):
    """Aligns arrays as the schema asks for, which the generated code forgets.

    Kernels read weights in place, in the mapped file.
    """

    def CreateNumpyVector(self, x):  # noqa: N802, the base class's name
        self.StartVector(x.itemsize, x.size, _ALIGNMENT)
        content = x.tobytes()
        self.head -= len(content)
        self.Bytes[self.head : self.head + len(content)] = content
        self.vectorNumElems = x.size
        return self.EndVector()


def arrange(
    model: schema.ModelT,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Names and orders the tensors of every signature, in place.

    The signature of the longest sequences becomes the file's first graph, the
    one that programs without signatures run.

    Args:
        model: the converter's result.
        inputs: names of all inputs in their order.
        outputs: names of all outputs in their order.
    """
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        graph.inputs = _named(graph, signature.inputs, inputs)
        graph.outputs = _named(graph, signature.outputs, outputs)
    model.signatureDefs.sort(
        key=lambda signature: signature.signatureKey != SIGNATURE.encode()
    )
    model.subgraphs = [
        model.subgraphs[signature.subgraphIndex]
        for signature in model.signatureDefs
    ]
    for index, signature in enumerate(model.signatureDefs):
        signature.subgraphIndex = index


def _named(graph, tensor_maps, order: Sequence[str]) -> np.ndarray:
    """Renames tensors as their signature does; returns their indices."""
    indices = {entry.name.decode(): entry.tensorIndex for entry in tensor_maps}
    for name, index in indices.items():
        graph.tensors[index].name = name.encode()
    return np.array([indices[name] for name in order], np.int32)


@dataclasses.dataclass(frozen=True)
class TextMetadata:
    """What a file carries besides its weights.

    Attributes:
        vocabulary: the pieces in the order of their ids, uncased.
        label_names: the classes in the order of the probabilities; empty for
            question answering and embeddings.
        name: the model's name, by default its task's.
        description: by default its task's.
        version: the model's version.
        author: its author.
        license: its terms.
        do_lower_case: whether the vocabulary is uncased. The tasks lower-case
            every text.

    Raises:
        ValueError: for a cased vocabulary, or labels that a list of lines
            cannot hold: with a line end or NUL, empty, or twice the same.
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
        for index, name in enumerate(self.label_names):
            if not name or set(name) & {"\n", "\r", "\0"}:
                expected = "not be empty or hold a line end or NUL"
            elif name in self.label_names[:index]:
                expected = "differ"
            else:
                continue
            raise ValueError(
                f"labels in a file must {expected}. Received: {name!r}, "
                f"number {index}"
            )

    def files(self) -> dict[str, bytes]:
        """Returns the archive's files by name, one piece or label per line."""
        files = {VOCAB_FILE: self.vocabulary}
        if self.label_names:
            files[LABELS_FILE] = self.label_names
        return {
            name: "".join(f"{line}\n" for line in lines).encode()
            for name, lines in files.items()
        }


def check_metadata(
    metadata: TextMetadata,
    folded: Folded,
    lengths: Sequence[int],
    output: str,
) -> None:
    """Checks that a text task could open the requested file.

    Args:
        metadata: what the file is to carry.
        folded: its network.
        lengths: the lengths of its sequences.
        output: what it returns (`export.OUTPUTS`).

    Raises:
        ValueError: for a head that no task serves, several lengths (the tasks
            open files with a single graph), an output that they cannot read,
            or a vocabulary or labels that do not fit the model.
    """
    head = folded.head
    if head not in _READABLE:
        raise ValueError(f"no text task on phones serves {head}")
    if len(lengths) > 1:
        raise ValueError(
            f"text tasks open files of one length. Received: {list(lengths)}"
        )
    if output not in _READABLE[head]:
        raise ValueError(
            f"text tasks read output={' or '.join(_READABLE[head])} of "
            f"{head}. Received: {output}"
        )
    counts = [("pieces", metadata.vocabulary, folded.config.vocab_size)]
    if head == SEQUENCES:
        num_labels = folded.arrays["head/bias"].shape[0]
        counts.append(("label names", metadata.label_names, num_labels))
    for what, found, wanted in counts:
        # A word table may have more rows than there are pieces.
        if len(found) > wanted or len(found) < wanted and what != "pieces":
            raise ValueError(
                f"metadata needs the model's {wanted} {what}. "
                f"Received: {len(found)}"
            )
    if head == SPANS and lengths[0] != ANSWERER_LENGTH:
        raise ValueError(
            f"the question answerer opens files of length {ANSWERER_LENGTH} "
            f"only. Received: {lengths[0]}"
        )


def add_metadata(
    model: schema.ModelT,
    metadata: TextMetadata,
    head: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Adds the metadata's flatbuffer to a model, in place.

    Args:
        model: the file's content.
        metadata: what to write; its `files` are added by `pack`.
        head: the network's.
        inputs: names of the first graph's inputs in their order.
        outputs: names of its outputs in their order.
    """
    content = _flatbuffer(metadata, head, inputs, outputs)
    model.buffers.append(schema.BufferT(data=np.frombuffer(content, np.uint8)))
    entry = schema.MetadataT(name=_ENTRY, buffer=len(model.buffers) - 1)
    model.metadata = [*(model.metadata or []), entry]


def _flatbuffer(
    metadata: TextMetadata,
    head: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> bytes:
    """Returns the content of `TFLITE_METADATA`; arguments as `add_metadata`.

    Tables are written as {slot: value}, a slot being a field's position in its
    table of TensorFlow's metadata_schema.fbs. A union takes two slots: its type
    and its value.
    """
    vocab_file = {
        0: VOCAB_FILE,
        1: "Vocabulary of the tokenizer.",
        2: _VOCABULARY,
    }
    tokenizer = {0: _BERT_TOKENIZER, 1: {0: [vocab_file]}}
    graph = {
        2: [_tensor(*_INPUTS[name]) for name in inputs],
        3: [_output(name, metadata) for name in outputs],
        5: [tokenizer],
    }
    name, description = _NAMES[head]
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
            0: LABELS_FILE,
            1: "Labels for categories that the model can recognize.",
            2: _AXIS_LABELS,
        }
        tensor[6] = [labels]
    return tensor


def _table(builder: flatbuffers.Builder, fields: dict) -> int:
    """Writes a table after what it refers to; returns its offset."""
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
