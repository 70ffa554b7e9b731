"""Text files, whole and in shards; TensorFlow Datasets; the held-out choice.

The datasets are written here as TFDS itself writes them.
"""

import gzip
import random

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mobilebert_tf.data import sources
from mobilebert_tf.data.options import TextOptions
from mobilebert_tf.data.sources import (
    are_tfrecords,
    documents_of_shard,
    held_out_documents,
    matching_files,
    paragraphs,
    read_documents,
    read_text,
    tfds_documents,
    tokenize_split,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.text.vocabulary import SPECIAL_TOKENS

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


def test_documents_end_at_blank_lines_and_files(tmp_path):
    (tmp_path / "2.txt").write_bytes(b"\xef\xbb\xbfone\r\n two \r\n \t\r\n")
    (tmp_path / "1.txt").write_text("\n\n\nthree\n\n\nfour\x85five\u2028six")
    with gzip.open(tmp_path / "3.txt.gz", "wt", encoding="utf-8") as file:
        file.write("sévèn\n")
    documents = list(read_documents([str(tmp_path / "*")]))
    assert documents == [
        ["three"],
        ["four\x85five\u2028six"],
        ["one", "two"],
        ["sévèn"],
    ]


def test_files_are_read_once_in_the_order_of_patterns(tmp_path):
    for name in ("a.txt", "b.txt", "c[1].txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "d.txt").mkdir()

    def read(*names):
        patterns = [f"{tmp_path}/{name}" for name in names]
        return [line for (line,) in read_documents(patterns)]

    assert read("b.txt", "[ab].txt") == ["b.txt", "a.txt"]
    assert read("c[1].txt") == ["c[1].txt"]
    assert read("*.txt") == ["a.txt", "b.txt", "c[1].txt"]
    for name in ("b*x", ""):
        with pytest.raises(InputError, match="expected .* no such file"):
            read_documents([f"{tmp_path}/a.txt", name])


def test_invalid_utf8_names_file_and_line(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("good é\n\ncafé\n".encode() + b"caf\xe9\n")
    documents = read_documents([str(path)])
    assert next(documents) == ["good é"]
    message = f"{path}, line 4: expected UTF-8 text, found byte 0xe9"
    with pytest.raises(InputError) as error:
        next(documents)
    assert str(error.value) == message


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n", b"\xef\xbb\xbf\n"])
def test_a_file_without_text_is_refused(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match="a.txt: expected text, found blank"):
        list(read_documents([str(tmp_path / "a.txt")]))


def damaged(content, kind):
    if kind == "truncated":
        return content[:-20]
    if kind == "not gzip":
        return b"plain text\n"
    if kind == "checksum":
        return content[:-8] + bytes(8)
    # An impossible block type right behind the ten-byte header.
    return content[:10] + b"\xff" + content[11:]


@pytest.mark.parametrize(
    "kind", ["truncated", "not gzip", "checksum", "corrupted"]
)
def test_a_damaged_gzip_file_is_refused(tmp_path, kind):
    path = tmp_path / "a.gz"
    lines = "".join(f"line {number}\n" for number in range(5000))
    path.write_bytes(damaged(gzip.compress(lines.encode()), kind))
    with pytest.raises(InputError, match="a whole gzip file") as error:
        list(read_documents([str(path)]))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_a_line_has_a_longest_length(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sources, "_LONGEST_LINE", 2**20)
    write = gzip.open if name.endswith(".gz") else open
    with write(tmp_path / name, "wb") as file:
        file.write(b"a\n" + b"b" * (2**20 - 1) + b"\n" + b"c" * 2**21 + b"\n")
    documents = read_documents([str(tmp_path / name)])
    message = "line 3: expected lines of at most 1 MB"
    with pytest.raises(InputError, match=message):
        list(documents)


def test_reading_streams(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    documents = read_documents([str(tmp_path / "a.txt")])
    (tmp_path / "a.txt").unlink()
    # The file is opened only when its turn comes.
    with pytest.raises(InputError, match="readable file, found No such file"):
        next(documents)
    with pytest.raises(InputError, match="a.txt: expected a readable file"):
        list(documents_of_shard([str(tmp_path / "a.txt")], 0, 1))


def write_random_files(folder, seed):
    """Files with blank lines of all kinds, and without an end of line."""
    rng = random.Random(seed)
    for name in range(rng.randint(1, 4)):
        parts = []
        for number in range(rng.randint(0, 12)):
            parts.append(
                "".join(
                    f"doc {name} {number} é {'x' * rng.randint(0, 30)}\n"
                    for _ in range(rng.randint(1, 3))
                )
            )
        blanks = ["\n", "\n\n", " \t\n", "\r\n", "\u3000\n"]
        text = rng.choice(["", "\ufeff", "\n"])
        for part in parts:
            text += part + rng.choice(blanks)
        text += rng.choice(["", "last", "last\n"])
        (folder / f"{name}.txt").write_text(text + "z", newline="")


@pytest.mark.parametrize("seed", range(8))
def test_shards_hold_every_document_once(tmp_path, seed):
    write_random_files(tmp_path, seed)
    files = matching_files([str(tmp_path / "*.txt")])
    expected = list(read_documents(files))
    for num_shards in (1, 2, 3, 7, 40):
        shards = [
            list(documents_of_shard(files, shard, num_shards))
            for shard in range(num_shards)
        ]
        assert sum(shards, []) == expected


def test_shards_are_alike_in_size_and_read_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    good = "".join(f"line {n:04d}\n\n" for n in range(1000)).encode()
    path.write_bytes(good + b"\xff\n" + good)
    files = [str(path)]
    # The first has no line before it.
    assert len(list(documents_of_shard(files, 0, 4))) == 501
    assert len(list(documents_of_shard(files, 3, 4))) == 500
    with pytest.raises(InputError) as error:
        list(documents_of_shard(files, 1, 4))
    assert str(error.value) == (
        f"{path}, line 2001: expected UTF-8 text, found byte 0xff"
    )


def test_a_compressed_file_is_in_one_shard(tmp_path):
    plain = "".join(f"plain {n}\n\n" for n in range(100))
    (tmp_path / "a.txt").write_text(plain)
    packed = "".join(f"packed {n}\n\n" for n in range(100))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(packed.encode()))
    files = matching_files([str(tmp_path / "*")])
    shards = [list(documents_of_shard(files, n, 5)) for n in range(5)]
    assert sum(shards, []) == list(read_documents(files))
    holding = [any(d[0].startswith("packed") for d in s) for s in shards]
    assert sum(holding) == 1


@pytest.fixture
def text_file(tmp_path):
    """A hundred documents; number n has the word w<n> twice."""
    path = tmp_path / "text.txt"
    path.write_text(
        "".join(f"w{number}. W{number}\n\n" for number in range(100))
    )
    return str(path)


def test_every_document_is_on_one_side(text_file):
    tokenizer = WordpieceTokenizer(
        [*SPECIAL_TOKENS, *(f"w{number}" for number in range(100)), "."]
    )
    options = TextOptions(
        input_files=(text_file,), max_seq_length=16, held_out_fraction=0.1
    )
    train, held_out = tokenize_split(options, tokenizer)
    assert (train.num_documents, held_out.num_documents) == (90, 10)
    sides = [set(side.tokens.tolist()) for side in (train, held_out)]
    assert sides[0] & sides[1] == {105}
    assert sides[0] | sides[1] == set(range(5, 106))


def test_a_document_stays_on_its_side_when_others_leave():
    documents = [[f"document {number}"] for number in range(400)]
    held_out = held_out_documents(documents, 0.1)
    fewer = [documents[n] for n in range(400) if n in held_out or n % 2]
    still = held_out_documents(fewer, 40 / len(fewer))
    assert {fewer[n][0] for n in still} == {documents[n][0] for n in held_out}


def test_both_sides_get_two_documents():
    documents = [["a"], ["b"], ["c"], ["d"]]
    assert len(held_out_documents(documents, 0.0)) == 2
    assert len(held_out_documents(documents, 0.5)) == 2
    with pytest.raises(InputError, match="at least 4 documents.*found 3"):
        held_out_documents(documents[:3], 0.1)


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


def dataset(name, data_dir, **changes):
    return TextOptions(tfds_name=name, tfds_data_dir=data_dir, **changes)


def test_datasets_are_documents_of_paragraphs(data_dir):
    wikipedia = tfds_documents(dataset("wikipedia/20230601.en", data_dir))
    assert list(wikipedia) == [
        [f"First of {number}.", "Second.", "Étude."] for number in range(4)
    ]
    wiki40b = dataset("wiki40b/en", data_dir)
    assert list(tfds_documents(wiki40b)) == expected(range(10))
    parts = [list(tfds_documents(wiki40b, n, 3)) for n in range(3)]
    assert sum(parts, []) == expected(range(10))
    assert {len(part) for part in parts} == {3, 4}
    assert list(read_text(wiki40b))[3] == [
        "It began in 3.",
        "Then it went on.",
        "Second paragraph.",
        "Third.",
    ]


@pytest.mark.parametrize(
    "name, message",
    [
        ("wikipedai", "wikipedai: expected a name .* an unknown one"),
        ("wiki40b/xx", "expected NAME/CONFIGURATION.*not found"),
        ("not a name!", "expected NAME/CONFIGURATION"),
        ("wiki40b/de", "tfds build wiki40b/de --data_dir=.* nothing"),
        ("mnist", "named text, found image, label"),
        ("wiki40b/fr", "a split named train, found test"),
    ],
)
def test_datasets_that_are_refused(data_dir, name, message):
    if name in ("mnist", "wiki40b/fr"):
        prepare_empty(data_dir, name, "test")
    with pytest.raises(InputError, match=message) as error:
        tfds_documents(dataset(name, data_dir))
    assert str(error.value).startswith("--tfds_name=")
    assert "\n" not in str(error.value)


def prepare_empty(data_dir, name, split):
    builder = tfds.builder(name, data_dir=data_dir)
    builder.data_path.mkdir(parents=True)
    (
        builder.data_path / f"{builder.name}-{split}.tfrecord-00000-of-00001"
    ).touch()
    tfds.folder_dataset.write_metadata(
        data_dir=builder.data_path,
        features=builder.info.features,
        split_infos=[
            tfds.core.SplitInfo(name=split, shard_lengths=[0], num_bytes=0)
        ],
        check_data=False,
    )


def test_two_sources_are_refused():
    options = dataset("wiki40b/en", None, input_files=("a.txt",))
    with pytest.raises(InputError, match="--tfds_name, found both"):
        read_text(options)


def test_names_tell_records_from_text():
    assert are_tfrecords(["a/*.tfrecord", "b.tfrecord-00000-of-00001"])
    assert are_tfrecords(["a/train.tf_record"])
    assert not are_tfrecords(["a/*.txt", "b.txt.gz"])
    assert not are_tfrecords([])
    with pytest.raises(InputError, match="files, found both"):
        are_tfrecords(["a.tfrecord", "b.txt"])


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
