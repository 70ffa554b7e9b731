"""Shards: what is in them, that nothing but settings decides it, and room."""

import itertools
import json
import resource

import numpy as np
import pytest

from mobilebert_tf.data import shards as example_shards
from mobilebert_tf.data.options import ShardOptions
from mobilebert_tf.data.records import index_records, parse_records
from mobilebert_tf.data.shards import (
    missing_shards,
    shard_path,
    tokenizer_of,
    write_shard,
)
from mobilebert_tf.errors import InputError
from tests.tiny import SPECIAL

NUM_WORDS = 900
WORDS = [f"w{k}" for k in range(NUM_WORDS)] + ["."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty documents whose lines are sentences, and a vocabulary."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n")
    rng = np.random.default_rng(0)
    for name in "ab":
        with open(folder / f"{name}.txt", "w") as file:
            for _ in range(30):
                for _ in range(rng.integers(5, 30)):
                    line = rng.integers(0, NUM_WORDS, rng.integers(3, 12))
                    file.write(" ".join(f"w{k}" for k in line) + " .\n")
                file.write("\n")
    return folder


def make_settings(folder, **changes):
    options = dict(
        input_files=(f"{folder}/a.txt", f"{folder}/b.txt"),
        vocab_file=f"{folder}/vocab.txt",
        do_lower_case=True,
        max_seq_length=48,
        max_predictions_per_seq=7,
        dupe_factor=2,
        num_shards=2,
    )
    return ShardOptions(**(options | changes))


def write(output, settings, shard=0):
    reports = list(write_shard(output, settings, tokenizer_of(settings), shard))
    return reports, shard_path(output, shard, settings.num_shards)


def read(path, settings):
    index = index_records([path])
    chunks = range(len(index.chunks))
    records = [record for chunk in chunks for record in index.read_chunk(chunk)]
    return parse_records(
        records,
        settings.max_seq_length,
        settings.max_predictions_per_seq,
        len(SPECIAL) + len(WORDS),
    )


def unmasked(examples):
    ids = examples["input_ids"].copy()
    rows, slots = np.nonzero(examples["masked_lm_weights"])
    columns = examples["masked_lm_positions"][rows, slots]
    ids[rows, columns] = examples["masked_lm_ids"][rows, slots]
    return ids


def test_shards_hold_all_the_text(tmp_path, folder):
    settings = make_settings(folder)
    seen = set()
    for shard in range(2):
        reports, path = write(tmp_path, settings, shard)
        examples = read(path, settings)
        seen.update(unmasked(examples).ravel().tolist())
        total = [sum(column) for column in zip(*reports, strict=True)]
        assert total[1] == examples["input_mask"].sum()
        assert total[2:] == [len(examples["input_ids"]), 1]
        assert set(examples["next_sentence_labels"].ravel()) == {0, 1}
    ids = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    text = "".join((folder / f"{name}.txt").read_text() for name in "ab")
    used = {ids[word] for word in text.split()}
    # Random cuts may lose a word in both copies of the text.
    assert len(used & seen) > 0.99 * len(used)


def test_copies_of_the_text_have_other_masks(tmp_path, folder):
    settings = make_settings(folder, dupe_factor=4, num_shards=1)
    examples = read(write(tmp_path, settings)[1], settings)
    # The same beginning of a document, again and again, with other masks.
    pairs = {}
    for ids, where in zip(
        unmasked(examples), examples["masked_lm_positions"], strict=True
    ):
        pairs.setdefault(ids.tobytes(), []).append(where.tobytes())
    repeated = [where for where in pairs.values() if len(where) > 1]
    assert repeated
    assert all(len(where) == len(set(where)) for where in repeated)


def test_the_seed_decides(tmp_path, folder):
    contents = [
        write(tmp_path / str(number), make_settings(folder, seed=seed))[1]
        for number, seed in enumerate((1, 1, 2))
    ]
    one, same, other = (path.read_bytes() for path in contents)
    assert one == same != other


def test_memory_holds_a_block(folder, monkeypatch):
    monkeypatch.setattr(example_shards, "BLOCK_CHARACTERS", 500)
    monkeypatch.setattr(example_shards, "MIN_BLOCK_DOCUMENTS", 3)
    taken = 0

    def endless():
        nonlocal taken
        for taken in itertools.count(1):
            yield ["x" * 100]

    blocks = example_shards._blocks(endless())
    for number in range(1, 50):
        assert len(next(blocks)) == 5
        assert taken <= 5 * (number + 1)


@pytest.mark.parametrize("count", [*range(1, 14)])
def test_no_block_is_left_with_few_documents(monkeypatch, count):
    monkeypatch.setattr(example_shards, "BLOCK_CHARACTERS", 500)
    monkeypatch.setattr(example_shards, "MIN_BLOCK_DOCUMENTS", 3)
    documents = [[f"{number:100}"] for number in range(count)]
    blocks = list(example_shards._blocks(iter(documents)))
    assert sum(blocks, []) == documents
    assert all(len(block) >= min(3, count) for block in blocks)
    assert len(blocks) == max(1, (count + 2) // 5)


def test_blocks_make_no_pairs_with_each_other(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(example_shards, "BLOCK_CHARACTERS", 4000)
    monkeypatch.setattr(example_shards, "MIN_BLOCK_DOCUMENTS", 4)
    reports, path = write(tmp_path, make_settings(folder))
    assert len(reports) > 4
    assert reports[-1].num_shards == 1
    examples = read(path, make_settings(folder))
    assert len(examples["input_ids"]) == sum(r.num_examples for r in reports)


def test_too_many_shards_are_refused(tmp_path, folder):
    settings = make_settings(folder, num_shards=500)
    with pytest.raises(InputError, match="shard 0 of 500: .*--num_shards"):
        write(tmp_path, settings)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, folder):
    # A limit on the size of files is the same to the writer as a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limits[1]))
    try:
        with pytest.raises(InputError) as error:
            write(tmp_path, make_settings(folder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = str(error.value)
    assert "00000-of-00002.tfrecord: expected room and permission" in message
    assert "\n" not in message
    assert not list(tmp_path.iterdir())


def test_finished_shards_are_not_missing(tmp_path, folder):
    settings = make_settings(folder)
    assert missing_shards(tmp_path, settings) == [0, 1]
    _, path = write(tmp_path, settings, 1)
    part = ".examples-00000-of-00002.tfrecord.abcd1234.partial"
    (tmp_path / part).touch()
    assert missing_shards(tmp_path, settings) == [0]
    assert {path.name for path in tmp_path.iterdir()} == {
        "examples-00001-of-00002.tfrecord",
        "run.lock",
        "settings.json",
    }


def test_other_settings_are_refused_with_the_difference(tmp_path, folder):
    missing_shards(tmp_path, make_settings(folder))
    other = make_settings(folder, seed=2, dupe_factor=5)
    with pytest.raises(InputError) as error:
        missing_shards(tmp_path, other)
    assert str(error.value) == (
        f"{tmp_path / 'settings.json'}: expected the inputs and settings that "
        "this run began with (use another folder), found dupe_factor=2 then, "
        "5 now; seed=1 then, 2 now"
    )


def test_another_vocabulary_or_text_is_refused(tmp_path, folder):
    vocab_file, text_file = tmp_path / "vocab.txt", tmp_path / "a.txt"
    vocab_file.write_text("\n".join([*SPECIAL, *WORDS]) + "\n")
    text_file.write_text("w1 .\n\nw2 .\n")
    settings = make_settings(
        folder, vocab_file=str(vocab_file), input_files=(str(text_file),)
    )
    missing_shards(tmp_path / "out", settings)
    # Of the same size.
    text_file.write_text("w1 .\n\nw3 .\n")
    with pytest.raises(InputError, match="a.txt: other content than then"):
        missing_shards(tmp_path / "out", settings)
    text_file.write_text("w1 .\n\nw2 .\n")
    vocab_file.write_text("\n".join([*SPECIAL, *WORDS[::-1]]) + "\n")
    with pytest.raises(InputError, match="vocab.txt: other content than then"):
        missing_shards(tmp_path / "out", settings)


def test_shards_of_a_version_without_fingerprints_continue(tmp_path, folder):
    settings = make_settings(folder)
    missing_shards(tmp_path, settings)
    record = tmp_path / "settings.json"
    values = json.loads(record.read_text())
    del values["inputs"]
    record.write_text(json.dumps(values))
    assert missing_shards(tmp_path, settings) == [0, 1]
    assert json.loads(record.read_text())["inputs"].keys() == {
        "input_files",
        "vocab_file",
    }


@pytest.mark.parametrize(
    "place, content, message",
    [
        ("out", "in the way", "out: expected a folder to write into"),
        ("out/theirs.tfrecord", "", "or one with a settings.json"),
        ("out/settings.json", "{", "settings.json, line 1: expected JSON"),
        ("out/settings.json", "[]", "settings.json: expected a JSON object"),
    ],
)
def test_unfit_folders_are_refused(tmp_path, folder, place, content, message):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        missing_shards(tmp_path / "out", make_settings(folder))
