"""Opens files as an app would, in an interpreter that has MediaPipe.

    python mediapipe_answers.py REQUESTS.json ANSWERS.json

Run by `test_mediapipe` in a process of its own: MediaPipe and the packages of
this project want different versions of a common dependency.
"""

import json
import sys
from pathlib import Path

from mediapipe.tasks.metadata import metadata_schema_py_generated as schema
from mediapipe.tasks.metadata import schema_py_generated as model_schema
from mediapipe.tasks.python import text
from mediapipe.tasks.python.core.base_options import BaseOptions


def classify(path: str, texts: list[str]) -> list[dict]:
    """Returns probabilities by label, the likeliest first."""
    options = text.TextClassifierOptions(
        base_options=BaseOptions(model_asset_path=path)
    )
    with text.TextClassifier.create_from_options(options) as classifier:
        results = [classifier.classify(one) for one in texts]
    return [
        {
            category.category_name: category.score
            for category in result.classifications[0].categories
        }
        for result in results
    ]


def embed(path: str, texts: list[str]) -> list[list[float]]:
    """Returns embeddings."""
    options = text.TextEmbedderOptions(
        base_options=BaseOptions(model_asset_path=path)
    )
    with text.TextEmbedder.create_from_options(options) as embedder:
        results = [embedder.embed(one) for one in texts]
    return [result.embeddings[0].embedding.tolist() for result in results]


def describe(path: str, _) -> dict:
    """Returns the metadata as the published schema reads it."""
    model = model_schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    entries = {entry.name: entry.buffer for entry in model.metadata}
    buffer = model.buffers[entries[b"TFLITE_METADATA"]].data
    metadata = schema.ModelMetadataT.InitFromPackedBuf(bytes(buffer), 0)
    return plain(metadata)


def plain(value):
    """Objects of generated code as JSON, without what is not set."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__dict__"):
        return {
            name: plain(one)
            for name, one in vars(value).items()
            if one is not None
        }
    return value


if __name__ == "__main__":
    requests = json.loads(Path(sys.argv[1]).read_text())
    verbs = {"classify": classify, "embed": embed, "describe": describe}
    answers = [verbs[verb](path, texts) for verb, path, texts in requests]
    Path(sys.argv[2]).write_text(json.dumps(answers))
