"""Text of TensorFlow Datasets: Wikipedia and others, by name.

Reads what has been prepared on this machine and never downloads: the large
dumps take hours and packages of their own, which a training run should not
start by surprise.
"""

import re
from collections.abc import Iterator

import tensorflow_datasets as tfds

from mobilebert_tf.errors import InputError

# wiki40b's own mark-up: what follows is a title, a heading or paragraphs.
_MARKER = re.compile(r"_START_(ARTICLE|SECTION|PARAGRAPH)_")
_LINE_BREAK = "_NEWLINE_"


def tfds_documents(
    name: str,
    data_dir: str | None = None,
    split: str = "train",
    shard: int = 0,
    num_shards: int = 1,
) -> Iterator[list[str]]:
    """Reads the `text` feature of a dataset: one document an example.

    Args:
        name: such as "wikipedia/20230601.en" or "wiki40b/en".
        data_dir: where it was prepared; None for ~/tensorflow_datasets.
        split: of the dataset, such as "train" or "train[:10%]".
        shard: which of `num_shards` equal parts to read, from 0.
        num_shards: number of parts.

    Returns:
        An iterator over documents, each the list of its paragraphs, as
        `text_files.read_documents` gives them; in the same order every time.

    Raises:
        InputError: at once, if there is no dataset of that name, it is not
            prepared, or it has no such split or no text.
    """
    builder = _builder(name, data_dir)
    place = f"--tfds_name={name}"
    features = builder.info.features
    if "text" not in features or not isinstance(
        features["text"], tfds.features.Text
    ):
        raise InputError(
            place,
            "a dataset with a feature named text",
            ", ".join(features),
        )
    # The order of the files on disk, not that of the threads that read them.
    config = tfds.ReadConfig(
        interleave_cycle_length=1,
        try_autocache=False,
    )
    try:
        part = tfds.even_splits(split, num_shards)[shard]
        dataset = builder.as_dataset(split=part, read_config=config)
    except (ValueError, KeyError) as error:
        raise InputError(
            place,
            f"a split {split} (there are {', '.join(builder.info.splits)})",
            error,
        ) from error
    return (
        lines
        for example in tfds.as_numpy(dataset)
        if (lines := paragraphs(example["text"].decode("utf-8")))
    )


def _builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    place = f"--tfds_name={name}"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise InputError(
            place,
            "a name that TensorFlow Datasets knows, such as "
            "wikipedia/20230601.en or wiki40b/en",
            "an unknown one",
        ) from None
    # An unknown configuration or version; a malformed name.
    except (ValueError, AssertionError) as error:
        raise InputError(
            place,
            "NAME/CONFIGURATION, both as TensorFlow Datasets has them",
            str(error).splitlines()[0],
        ) from error
    if not builder.is_prepared():
        directory = f" --data_dir={data_dir}" if data_dir else ""
        raise InputError(
            place,
            f"a dataset in {builder.data_dir}; prepare it where there is a "
            f"network: tfds build {name}{directory}",
            "nothing there",
        )
    return builder


def paragraphs(text: str) -> list[str]:
    """Cuts an article into lines without surrounding white space.

    Of wiki40b's articles only the paragraphs stay: titles and headings are no
    sentences, and its markers are no text.
    """
    kinds_and_parts = _MARKER.split(text)
    if len(kinds_and_parts) > 1:
        text = "\n".join(
            part
            for kind, part in zip(
                kinds_and_parts[1::2], kinds_and_parts[2::2], strict=True
            )
            if kind == "PARAGRAPH"
        ).replace(_LINE_BREAK, "\n")
    return [line for line in map(str.strip, text.split("\n")) if line]
