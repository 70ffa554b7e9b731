"""GLUE's files (official, small ones of every task, broken), submissions."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.glue import GLUE_TASKS, read_glue, write_submission

# A row of each file as GLUE hands it out; labels are what is filled in.
LABELLED = {
    "cola": "gj04\t{label}\t\tHe left.",
    "sst2": "sentence\tlabel\nHe left.\t{label}",
    "mrpc": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    '{label}\t7\t8\tHe left.\t" He stayed .',
    "stsb": "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\t"
    "sentence1\tsentence2\tscore\n"
    '0\tnews\tx\t2012\t1\tnone\tnone\tHe left.\t" He stayed .\t{label}',
    "qqp": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    '5\t6\t7\tHe left.\t" He stayed .\t{label}',
    "mnli": "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label\n"
    '0\t31n\tHe left.\t" He stayed .\tneutral\t{label}',
    "qnli": "index\tquestion\tsentence\tlabel\n"
    '0\tHe left.\t" He stayed .\t{label}',
    "rte": "index\tsentence1\tsentence2\tlabel\n"
    '0\tHe left.\t" He stayed .\t{label}',
    "wnli": "index\tsentence1\tsentence2\tlabel\n"
    '0\tHe left.\t" He stayed .\t{label}',
}
UNLABELLED = {
    "cola": "index\tsentence\n0\tHe left.",
    "sst2": "index\tsentence\n0\tHe left.",
    "mrpc": "index\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    '0\t7\t8\tHe left.\t" He stayed .',
    "qqp": 'id\tquestion1\tquestion2\n0\tHe left.\t" He stayed .',
    "qnli": 'index\tquestion\tsentence\n0\tHe left.\t" He stayed .',
    "ax": 'index\tsentence1\tsentence2\n0\tHe left.\t" He stayed .',
}
PAIR_TO_PREDICT = 'index\tsentence1\tsentence2\n0\tHe left.\t" He stayed .'


def write_task(folder, name, label=None):
    task = GLUE_TASKS[name]
    folder.mkdir(parents=True, exist_ok=True)
    for split in task.splits.values():
        if split.submission:
            text = UNLABELLED.get(name, PAIR_TO_PREDICT)
        else:
            spelled = label or (task.file_labels[1] if name != "stsb" else 3.8)
            text = LABELLED[name].format(label=spelled)
        (folder / split.file).write_text(text + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["sst2", "rte", "cola", "stsb"])
def test_the_official_files_have_the_official_sizes(name, shared_data):
    task = GLUE_TASKS[name]
    read = read_glue(name, shared_data / "glue", list(task.splits))
    for split, examples in read.items():
        assert len(examples) == task.splits[split].num_examples
        assert (examples.labels is None) == (split == "test")
    if task.label_names:
        assert set(read["dev"].labels) == set(task.label_names)
    else:
        assert min(read["dev"].labels) == 0 and max(read["dev"].labels) == 5


@pytest.mark.parametrize("name", sorted(GLUE_TASKS))
def test_every_tasks_columns(name, tmp_path):
    task = GLUE_TASKS[name]
    # Under its official name in a folder of all tasks, and by itself.
    folder = write_task(tmp_path / "glue" / task.folder, name)
    for place in (folder, folder.parent):
        read = read_glue(name, place, list(task.splits))
        assert list(read) == list(task.splits)
        for split, examples in read.items():
            assert examples.texts_a == ["He left."]
            if len(task.text_columns) == 2:
                assert examples.texts_b == ['" He stayed .']
            else:
                assert examples.texts_b is None
            if task.splits[split].submission:
                assert examples.labels is None
            elif name == "stsb":
                assert examples.labels == [3.8]
            else:
                assert examples.labels == [task.label_names[1]]


# Content of train.tsv: what is broken in the eyes of one task only.
BROKEN = [
    ("sst2", LABELLED["rte"], "line 1: .*'sentence'"),
    ("rte", "0\ta\tb\tentailment", "line 1: .*'sentence1'"),
    ("cola", "source\tlabel\tmark\tsentence", "line 1, column 'acceptable'"),
    ("wnli", LABELLED["rte"].format(label="entailment"), "line 2.*of '0', '1'"),
    # Annotators did not agree.
    ("mnli", LABELLED["mnli"].format(label="-"), "line 2.*found '-'"),
    ("stsb", LABELLED["stsb"].format(label="high"), "line 2.*a number"),
    ("stsb", LABELLED["stsb"].format(label=""), "line 2.*a number, found ''"),
    ("rte", LABELLED["rte"].replace("He left.", " "), "'sentence1': .*empty"),
    # A question over two lines.
    ("qqp", LABELLED["qqp"].replace("He ", "He\n"), "line 2: expected 6 col"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_broken_files_say_where(name, content, message, tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        read_glue(name, tmp_path, ["train"])
    assert str(error.value).startswith(str(path))


def test_an_empty_question_of_qqp_is_one(tmp_path):
    text = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\ta\t\t0"
    (tmp_path / "train.tsv").write_text(text)
    examples = read_glue("qqp", tmp_path, ["train"])["train"]
    assert examples.texts_b == [""]


def test_missing_folders_and_files(tmp_path):
    with pytest.raises(InputError, match="found no such folder"):
        read_glue("rte", tmp_path / "nowhere", ["train"])
    with pytest.raises(InputError, match="dev_matched.tsv: expected a file"):
        read_glue("mnli", tmp_path, ["dev_matched"])


def test_submissions_are_as_the_server_takes_them(tmp_path):
    path = write_submission(tmp_path, "mnli", "test_mismatched", [2, 0])
    assert path == tmp_path / "MNLI-mm.tsv"
    assert path.read_text() == (
        "index\tprediction\n0\tcontradiction\n1\tentailment\n"
    )
    path = write_submission(tmp_path, "sst2", "test", np.array([1, 0]))
    assert path.name == "SST-2.tsv"
    assert path.read_text() == "index\tprediction\n0\t1\n1\t0\n"
    path = write_submission(tmp_path, "stsb", "test", [5.3, -0.1, 2.5])
    assert path.read_text().split() == [
        "index", "prediction", "0", "5.0000", "1", "0.0000", "2", "2.5000",
    ]  # fmt: skip
    names = {
        split.submission
        for task in GLUE_TASKS.values()
        for split in task.splits.values()
        if split.submission
    }
    assert names == {
        f"{name}.tsv"
        for name in "AX CoLA MNLI-m MNLI-mm MRPC QNLI QQP RTE SST-2 STS-B "
        "WNLI".split()
    }


def prepare(data_dir, name, rows_by_split):
    """Writes a prepared data set where `tfds build` would."""
    builder = tfds.builder(name, data_dir=str(data_dir))
    folder = builder.data_path
    folder.mkdir(parents=True)
    infos = []
    for split, rows in rows_by_split.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=builder.name,
            split=split,
            filetype_suffix="tfrecord",
        )
        path = template.sharded_filepath(shard_index=0, num_shards=1)
        with tf.io.TFRecordWriter(str(path)) as writer:
            for row in rows:
                writer.write(builder.info.features.serialize_example(row))
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(rows)],
                num_bytes=1,
                filename_template=template,
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=builder.info.features, split_infos=infos
    )


def test_the_names_are_those_of_tensorflow_datasets(tmp_path):
    for task in GLUE_TASKS.values():
        builder = tfds.builder(task.tfds_name, data_dir=str(tmp_path))
        features = builder.info.features
        for column in task.tfds_columns:
            assert isinstance(features[column], tfds.features.Text)
        if task.label_names:
            assert tuple(features["label"].names) == task.label_names


def test_tensorflow_datasets_in_the_order_of_the_files(tmp_path, monkeypatch):
    rows = [
        {"premise": f"p{n}", "hypothesis": "h", "label": n, "idx": n}
        for n in (2, 0, 1)
    ]
    test = [{"premise": "p", "hypothesis": "h", "label": -1, "idx": 0}]
    prepare(
        tmp_path,
        "glue/mnli",
        {"validation_mismatched": rows, "test_matched": test},
    )
    builder = tfds.builder
    monkeypatch.setattr(
        tfds, "builder", lambda name: builder(name, data_dir=str(tmp_path))
    )
    read = read_glue("mnli", None, ["dev_mismatched", "test_matched"])
    assert read["dev_mismatched"].texts_a == ["p0", "p1", "p2"]
    assert read["dev_mismatched"].labels == [
        "entailment",
        "neutral",
        "contradiction",
    ]
    assert read["test_matched"].labels is None
    with pytest.raises(InputError, match="--task=rte: .*tfds build glue/rte"):
        read_glue("rte", None, ["train"])
