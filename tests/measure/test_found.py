"""A record of each kind as a section of a report; records that are damaged."""

import re
import shutil

import pytest

from sage_eval.errors import DataError
from sage_eval.render.sections import body
from sage_eval.report.measurements import found, read
from sage_eval.store.files import read_json, write_json
from tests.report.measured import STORED, put


def test_each_stored_record_is_a_section(tmp_path):
    put(tmp_path)
    assert read(tmp_path).keys() == STORED.keys()
    assert {part.name for part in found(tmp_path)} == {name.removesuffix(".json") for name in STORED}


@pytest.mark.parametrize(
    ("name", "title", "line", "figures"),
    [
        ("logits.json", "Full next-token distributions: prose", "| sage_attn | all | 9.47e−03 ± 4.2e−04 |", 2),
        ("drift.json", "Activation drift", "| sage_attn | same | 0.0093 |", 2),
        ("determinism.json", "Determinism", "| sage_attn | chunked: alone, `chunked_prefill_size` | 0/8 | 0.021 |", 1),
        ("serving.json", "Serving: reference_model", "**Decode**", 1),
        ("memory.json", "Memory of serving: reference_model", "| sage_attn | 32.0 | 12.0 | 3,072 |", 0),
        ("rate.json", "Request rates: reference_model", "| all at once | `sage_attn` | 12 |", 1),
        ("scoring.json", "Evaluation throughput", "| fa3/fidelity | 10 × 100 | 40% / 40% | 600 | 480 |", 1),
    ],
)
def test_a_section_has_the_title_the_numbers_and_the_figures(tmp_path, name, title, line, figures):
    [part] = found(put(tmp_path, name))
    text = body(part.parts)
    assert part.title == title
    assert line in text
    assert len(part.figures) == figures
    assert re.findall(r"^##? ", text, re.MULTILINE) == []
    assert len(re.findall("<table[ >]", part.html)) == len(re.findall(r"^\|[ :|-]+\|$", text, re.MULTILINE))


def test_a_folder_with_nothing_has_no_section(tmp_path):
    assert found(tmp_path) == []


@pytest.mark.parametrize("name", STORED)
def test_a_record_that_is_cut_or_of_another_version_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(STORED[name].read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"{name} is cut short"):
        found(tmp_path)
    write_json(path, read_json(STORED[name]) | {"schema_version": 9})
    with pytest.raises(DataError, match=rf"{name} has schema_version 9"):
        found(tmp_path)


def test_a_record_that_is_damaged_where_its_schema_is_open_is_named(tmp_path):
    shutil.copy(STORED["serving.json"], tmp_path / "serving.json")
    write_json(tmp_path / "serving.json", read_json(tmp_path / "serving.json") | {"settings": {}})
    with pytest.raises(DataError, match=r"serving\.json is damaged \(KeyError\('engine'\)\)"):
        found(tmp_path)
