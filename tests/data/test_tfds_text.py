"""Text of TensorFlow Datasets, prepared here as TFDS itself would."""

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mobilebert_tf.data.sources import load_text, paragraphs, tfds_documents
from mobilebert_tf.errors import InputError

ARTICLE = (
    "\n_START_ARTICLE_\nTitle {number}\n_START_SECTION_\nHistory"
    "\n_START_PARAGRAPH_\nIt began in {number}. Then it went on._NEWLINE_Second"
    " paragraph.\n_START_SECTION_\nLater\n_START_PARAGRAPH_\nThird."
)
PARAGRAPHS = [
    "It began in {number}. Then it went on.",
    "Second paragraph.",
    "Third.",
]


def prepare(data_dir, name, texts, others):
    """Writes a dataset of two files where `tfds build` would."""
    builder = tfds.builder(name, data_dir=str(data_dir))
    folder = builder.data_path
    folder.mkdir(parents=True)
    half = len(texts) // 2
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder,
        dataset_name=builder.name,
        split="train",
        filetype_suffix="tfrecord",
    )
    features = builder.info.features
    for number, part in enumerate((texts[:half], texts[half:])):
        path = template.sharded_filepath(shard_index=number, num_shards=2)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for text in part:
                example = {"text": text} | dict.fromkeys(others, "Q1")
                writer.write(features.serialize_example(example))
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=[
            tfds.core.SplitInfo(
                name="train",
                shard_lengths=[half, len(texts) - half],
                num_bytes=1,
                filename_template=template,
            )
        ],
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    prepare(
        folder,
        "wiki40b/en",
        [ARTICLE.format(number=number) for number in range(10)],
        ["version_id", "wikidata_id"],
    )
    prepare(
        folder,
        "wikipedia/20230601.en",
        [f"First of {number}.\n\n Second. \nÉtude.\n" for number in range(4)],
        ["title"],
    )
    return str(folder)


def expected(numbers):
    return [
        [line.format(number=number) for line in PARAGRAPHS]
        for number in numbers
    ]


def test_wiki40b_without_its_mark_up(data_dir):
    documents = list(tfds_documents("wiki40b/en", data_dir))
    assert documents == expected(range(10))


def test_wikipedia(data_dir):
    documents = list(tfds_documents("wikipedia/20230601.en", data_dir))
    assert documents == [
        [f"First of {number}.", "Second.", "Étude."] for number in range(4)
    ]


def test_shards_are_parts(data_dir):
    parts = [
        list(tfds_documents("wiki40b/en", data_dir, shard=n, num_shards=3))
        for n in range(3)
    ]
    assert sum(parts, []) == expected(range(10))
    assert {len(part) for part in parts} == {3, 4}


def test_a_part_of_a_split(data_dir):
    documents = list(tfds_documents("wiki40b/en", data_dir, "train[:20%]"))
    assert documents == expected(range(2))


def test_as_a_source_of_sentences(data_dir):
    documents = load_text([], "wiki40b/en", data_dir)
    assert len(documents) == 10
    assert documents[3] == [
        "It began in 3.",
        "Then it went on.",
        "Second paragraph.",
        "Third.",
    ]
    with pytest.raises(InputError, match="--tfds_name, found both"):
        load_text(["a.txt"], "wiki40b/en", data_dir)


@pytest.mark.parametrize(
    "name, split, message",
    [
        ("wikipedai", "train", "wikipedai: expected a name .* an unknown one"),
        ("wiki40b/xx", "train", "expected NAME/CONFIGURATION.*not found"),
        ("not a name!", "train", "expected NAME/CONFIGURATION"),
        ("wiki40b/de", "train", "tfds build wiki40b/de --data_dir=.* nothing"),
        ("wiki40b/en", "tset", "expected a split tset .there are train"),
    ],
)
def test_what_is_not_there_is_refused(data_dir, name, split, message):
    with pytest.raises(InputError, match=message) as error:
        tfds_documents(name, data_dir, split)
    assert str(error.value).startswith("--tfds_name=")
    assert "\n" not in str(error.value)


def test_a_dataset_without_text_is_refused(tmp_path):
    builder = tfds.builder("mnist", data_dir=str(tmp_path))
    builder.data_path.mkdir(parents=True)
    (builder.data_path / "mnist-train.tfrecord-00000-of-00001").touch()
    tfds.folder_dataset.write_metadata(
        data_dir=builder.data_path,
        features=builder.info.features,
        split_infos=[
            tfds.core.SplitInfo(name="train", shard_lengths=[0], num_bytes=0)
        ],
        check_data=False,
    )
    with pytest.raises(InputError, match="named text, found image, label"):
        tfds_documents("mnist", str(tmp_path))


@pytest.mark.parametrize(
    "text, lines",
    [
        ("", []),
        ("one\ntwo", ["one", "two"]),
        ("_START_ARTICLE_\nTitle\n", []),
        ("_START_PARAGRAPH_\na_NEWLINE__NEWLINE_b", ["a", "b"]),
    ],
)
def test_paragraphs(text, lines):
    assert paragraphs(text) == lines
