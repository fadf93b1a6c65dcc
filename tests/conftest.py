"""Fixtures for every room: the reference model, and real engines that are shared within a module."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_sessionstart() -> None:
    """A shell without job control starts background jobs with SIGINT and SIGQUIT ignored, and children inherit that:
    the tests of Ctrl-C and of dying schedulers would then test the shell.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def data_folder() -> Iterator[None]:
    """A command run in this process tells its tasks by the environment where their data lies: not those of the next."""
    from sage_eval.data.folder import DATA_ENV

    before = os.environ.get(DATA_ENV)
    yield
    os.environ.pop(DATA_ENV, None)
    if before is not None:
        os.environ[DATA_ENV] = before


@pytest.fixture(scope="session")
def reference_model() -> Path:
    """Folder of the bundled model."""
    for folder in (ROOT / "reference_model", ROOT.parent / "shared" / "reference-model"):
        if any(folder.glob("*.safetensors")):
            return folder
    pytest.fail("reference_model/ has no weights: the checkout is incomplete")


@pytest.fixture(scope="session")
def prose() -> str:
    """English text of some 10,000 characters that every checkout has."""
    return (ROOT / "LICENSE").read_text()


@pytest.fixture(scope="module")
def open_arm(reference_model: Path) -> Iterator[Callable[..., Any]]:
    """`open_arm(**arguments)`: an arm on the reference model. Closed after the module; the next closes it."""
    from sage_eval.engine.arm import Arm, open_arm
    from sage_eval.engine.options import ArmOptions

    current: list[Arm] = []

    def opened(**arguments: Any) -> Arm:
        while current:
            current.pop().close()
        arguments = {"dtype": "float32", "max_length": 4608} | arguments
        current.append(open_arm(ArmOptions.from_arguments(str(reference_model), **arguments)))
        return current[-1]

    yield opened
    while current:
        current.pop().close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Any]:
    """`disk(kib)`: a file system of its own of that size."""
    from tests.disks import Disk

    made: list[Disk] = []

    def mounted(kib: int) -> Disk:
        folder = tmp_path / f"disk-{len(made)}"
        folder.mkdir()
        made.append(Disk(folder, kib))
        return made[-1]

    yield mounted
    for each in made:
        each.close()
