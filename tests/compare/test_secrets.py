"""Nothing of the environment's keys is in a run folder or in what is made of one."""

import io

import pyarrow.parquet
import pytest
import zstandard

from sage_eval.report import pages
from sage_eval.report.comparison import report
from sage_eval.report.export import EXPORTERS, export
from tests.compare.values import KEY, KEYS


def readable(name, data):
    """The bytes of a file with what is packed in it unpacked."""
    if name.endswith(".zst"):
        return zstandard.ZstdDecompressor().decompress(data)
    if name.endswith(".parquet"):
        return str(pyarrow.parquet.read_table(io.BytesIO(data)).to_pydict()).encode()
    return data


def test_no_key_is_in_any_file_of_a_run(run, tmp_path):
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert {"log.txt", "spec.json", "manifest.json", "samples.parquet"} <= {path.name for path in files}
    everything = b"".join(readable(path.name, path.read_bytes()) for path in files)
    pages.write(report(run), tmp_path)
    everything += b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"tiny_choice" in everything
    assert KEY.encode() not in everything
    assert not [name for name in KEYS if f'"{name}"'.encode() in everything]


@pytest.mark.parametrize("form", EXPORTERS)
def test_no_key_is_in_an_export(run, form, monkeypatch):
    for name in KEYS:
        monkeypatch.setenv(name, KEY)
    for name, data in export(run, form).items():
        assert KEY.encode() not in readable(name, data)
