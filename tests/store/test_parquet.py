import pyarrow
import pytest
from pyarrow import parquet as files

from sage_eval.errors import DataError
from sage_eval.store import parquet
from sage_eval.store.samples import Sample

SAMPLES = [
    Sample(task="choice", doc_id=3, prompt="0a" * 16, target=1, metrics={"acc": 1.0}, logprobs=[-1.23457, -26561.48154],
           greedy=[True, False], cell={"subject": "colour", "depth": 0.5}, sizes={"acc_norm": [3, 10]}),
    Sample(task="text", doc_id=0, prompt="ff" * 16, metrics={"word_perplexity": (-1234.56789, 7)}, logprobs=[-0.00001]),
    Sample(task="needle", doc_id=0, filter="strict", prompt="00" * 16, target="42", metrics={"acc": 0.0},
           generated=["4\u20282", ""]),
]  # fmt: skip


@pytest.fixture
def path(tmp_path):
    parquet.write(tmp_path / parquet.FILE, SAMPLES * 100)
    return tmp_path / parquet.FILE


def test_what_is_read_is_what_was_written(path):
    assert parquet.read(path) == SAMPLES * 100


def test_log_probabilities_are_the_doubles_that_they_were_rounded_to(tmp_path):
    values = [round(-value * 1.7e-3, 5) for value in range(5000)]
    parquet.write(tmp_path / "a.parquet", [SAMPLES[0].model_copy(update={"logprobs": values})])
    assert parquet.read(tmp_path / "a.parquet")[0].logprobs == values


def test_other_tools_can_read_it(path):
    table = files.read_table(path)
    assert table.column("task").to_pylist()[:3] == ["choice", "text", "needle"]
    assert table.column("logprobs").to_pylist()[0] == [-123457, -2656148154]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped"])
def test_a_damaged_file_is_a_data_error(path, damage):
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes({"empty": b"", "cut": data[:-20], "flipped": bytes(data)}[damage])
    with pytest.raises(DataError, match=r"samples\.parquet is cut short or damaged .*delete it and repeat") as error:
        parquet.read(path)
    assert "\n" not in str(error.value)


def test_a_file_of_another_version_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    files.write_table(pyarrow.table({"task": ["a"]}).replace_schema_metadata({"schema_version": "4"}), path)
    with pytest.raises(DataError, match="schema_version 4; this sage-eval reads 3"):
        parquet.read(path)
