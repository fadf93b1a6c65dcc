"""Which module of the probes imports which: rooms know what they share, and nothing of each other."""

import re
from pathlib import Path

import pytest

import sage_eval.probes

ROOT = Path(sage_eval.probes.__file__).parent
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def rooms_in(path: Path) -> set[str]:
    """The rooms of which a file imports something."""
    found = re.findall(r"^ *(?:from|import) sage_eval\.probes[. ](?:import )?(\w+)", path.read_text(), re.MULTILINE)
    return set(found) & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_nothing_of_another(room):
    paths = list((ROOT / room).glob("*.py"))
    assert any(rooms_in(path) == {room} for path in paths)
    assert {path.name: others for path in paths if (others := rooms_in(path) - {room})} == {}


def test_what_they_share_imports_no_room_but_the_reports_sections_all():
    found = {path.name: rooms for path in ROOT.glob("*.py") if (rooms := rooms_in(path))}
    assert found == {"sections.py": set(ROOMS)}
