import hashlib
import http.server
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pytest
import requests

from sage_eval.data import DATA_ENV
from sage_eval.data.loads import HUB, NLTK, WEB, find_nltk, recording
from sage_eval.data.prepare import fetch_repository
from sage_eval.errors import DataError, PrerequisiteError
from sage_eval.lm_eval_hook import install
from tests.data import standard
from tests.data.hub_stub import COMMIT, hub, serving, use_hub

GSM8K = {f"datasets/{name}": body for name, body in standard.repositories().items() if name.startswith("openai/")}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder in use, and lm-eval's modules patched as its start-up file patches them."""
    import lm_eval.api.task  # noqa: F401

    install()
    (tmp_path / "data").mkdir()
    monkeypatch.setenv(DATA_ENV, str(tmp_path / "data"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


@contextmanager
def website(files: dict[str, bytes]) -> Iterator[str]:
    """Serve `files` by path; the value is the address of "/"."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

    with serving(Handler) as address:
        yield address


def test_a_hub_data_set_is_brought_once_and_read_without_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(GSM8K) as endpoint:
        use_hub(monkeypatch, endpoint)
        with recording(folder, fetch_repository) as recorded:
            first = datasets.load_dataset("openai/gsm8k", "main")
            datasets.load_dataset("openai/gsm8k", "socratic")
    assert recorded.commits == {"openai/gsm8k": COMMIT}
    again = datasets.load_dataset("openai/gsm8k", "main", revision="main")
    assert again["train"][3] == first["train"][3]
    assert again["train"][3]["answer"].endswith("#### 8")
    assert datasets.load_dataset("openai/gsm8k", "main", split="test").num_rows == 8


def test_a_data_set_that_could_not_be_brought_whole_is_no_data_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with recording(folder, fetch_repository), pytest.raises(PrerequisiteError, match=r"cannot fetch openai/gsm8k: "):
        datasets.load_dataset("openai/gsm8k", "main")
    assert not (folder / HUB / "openai/gsm8k").exists()


def test_formats_and_folders_are_no_hub_data_sets(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "rows.json").write_text('{"a": 1}\n')
    with recording(folder, fetch_repository) as recorded:
        assert datasets.load_dataset("json", data_files=str(rows / "rows.json"))["train"][0] == {"a": 1}
        assert datasets.load_dataset(str(rows))["train"][0] == {"a": 1}
    assert recorded.commits == {}


def test_a_file_of_the_web_is_kept_under_its_address_and_read_from_there(folder: Path) -> None:
    with website({"/a/set.json": b'{"text": "d\xc3\xa9"}', "/a/set.json?v=2": b"[2]"}) as address:
        with recording(folder, fetch_repository):
            first = requests.get(f"{address}/a/set.json", timeout=5)
            requests.get(f"{address}/a/set.json?v=2", timeout=5)
            assert requests.get(f"{address}/absent", timeout=5).status_code == 404
        host = address.removeprefix("http://")
    again = requests.get(f"{address}/a/set.json", timeout=5)
    again.raise_for_status()
    assert again.json() == first.json() == {"text": "dé"}
    assert requests.get(f"{address}/a/set.json?v=2", timeout=5).json() == [2]
    assert sorted(path.name for path in (folder / WEB / host).rglob("*") if path.is_file()) == [
        "set.json", "set.json%3Fv%3D2",
    ]  # fmt: skip


def test_without_recording_nothing_is_kept(folder: Path) -> None:
    with website({"/set.json": b"1"}) as address:
        assert requests.get(f"{address}/set.json", timeout=5).json() == 1
    assert not (folder / WEB).exists()


NLTK_SCRIPT = """
import sys, nltk
from sage_eval.data.loads import find_nltk
find_nltk()
if len(sys.argv) > 1:
    from nltk import downloader, pathsec
    pathsec.ENFORCE = False  # it fetches from no server on this host
    downloader._downloader._url = sys.argv[1]
    assert nltk.download("punkt_tab")
print(nltk.sent_tokenize("It is old. It stands."))
"""


def test_what_nltk_fetches_goes_into_the_folder_and_is_found_there(folder: Path, tmp_path: Path) -> None:
    package = standard.punkt_zip()
    index = (
        '<?xml version="1.0"?><nltk_data><packages><package id="punkt_tab" name="Punkt" subdir="tokenizers" unzip="1" '
        f'size="{len(package)}" unzipped_size="0" checksum="{{}}" url="{{}}/punkt_tab.zip"/></packages></nltk_data>'
    )
    files = {"/punkt_tab.zip": package}
    environment = {**os.environ, "HOME": str(tmp_path)}
    with recording(folder, fetch_repository), website(files) as address:
        files["/index.xml"] = index.format(hashlib.md5(package).hexdigest(), address).encode()
        for more in ([f"{address}/index.xml"], []):
            done = subprocess.run(
                [sys.executable, "-c", NLTK_SCRIPT, *more], env=environment, capture_output=True, text=True, check=False
            )
            assert done.stdout.endswith("['It is old.', 'It stands.']\n"), done.stderr
    assert (folder / NLTK / "tokenizers" / "punkt_tab" / "english" / "abbrev_types.txt").exists()


def test_nltk_looks_into_the_folder_first_even_where_it_is_imported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk.data

    monkeypatch.setattr("nltk.data.path", ["/usr/share/nltk_data"])
    monkeypatch.setenv("NLTK_DATA", "/own")
    find_nltk()
    assert nltk.data.path == ["/usr/share/nltk_data"], "a folder without NLTK's data changes nothing"
    (folder / NLTK).mkdir()
    find_nltk()
    find_nltk()
    assert nltk.data.path == [str(folder / NLTK), "/usr/share/nltk_data"]
    assert os.environ["NLTK_DATA"] == os.pathsep.join([str(folder / NLTK), "/own"])


def test_everything_can_come_from_another_folder(folder: Path, tmp_path: Path) -> None:
    source = standard.write_folder(tmp_path / "source")
    with recording(folder, fetch_repository, source) as recorded:
        assert datasets.load_dataset("openai/gsm8k", "main")["test"].num_rows == 8
        assert requests.get(f"https://{standard.SQUAD}", timeout=5).json()["version"] == "v2.0"
        with pytest.raises(DataError, match=r"source has no hub/someone/else"):
            datasets.load_dataset("someone/else")
    assert recorded.commits == {"openai/gsm8k": None}
    assert (folder / NLTK / "tokenizers").is_dir()
