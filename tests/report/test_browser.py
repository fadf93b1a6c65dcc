"""The page in a real browser: it renders, complains of nothing and asks the network for nothing."""

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((found for name in BROWSERS if (found := shutil.which(name))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars",
    # What the browser asks for by itself goes nowhere, and is not the page's.
    "--disable-features=NetworkTimeServiceQuerying", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]  # fmt: skip

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no headless browser ({', '.join(BROWSERS)}); try: apt-get install -y chromium"
)


def visit(page, folder, *, width=1280, scheme=1):
    """Screenshot's path, console messages, and addresses that the page asked for beside the file itself."""
    log, shot = folder / "net.json", folder / "page.png"
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", "--enable-logging=stderr",
         f"--window-size={width},1600", f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={shot}",
         page.as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    started = [(event["initiator"], event["url"]) for event in events if "initiator" in event and "url" in event]
    asked = [url for initiator, url in started if initiator != "not an origin" and url.startswith(("http", "ws"))]
    return shot, re.findall(r"CONSOLE.*", done.stderr), asked


@pytest.mark.parametrize(("width", "scheme"), [(1280, 1), (390, 0)], ids=["desk, light", "phone, dark"])
def test_the_page_renders_without_complaint_or_request(full_run, tmp_path, width, scheme):
    from PIL import Image

    shot, console, asked = visit(full_run.folder / "report.html", tmp_path, width=width, scheme=scheme)
    assert (console, asked) == ([], [])
    with Image.open(shot) as image:
        assert image.width == width
        corner, colours = image.convert("RGB").getpixel((2, 2)), image.convert("RGB").getcolors(1 << 24)
    assert (sum(corner) > 600) == (scheme == 1)
    assert len(colours) > 100


def test_neither_does_a_page_with_what_probes_measured(measured_run, tmp_path):
    _, console, asked = visit(measured_run.folder / "report.html", tmp_path)
    assert (console, asked) == ([], [])


def test_nothing_is_wider_than_a_phone(measured_run, tmp_path):
    page = (measured_run.folder / "report.html").read_text()
    # In a frame, as a browser's window has a least width. The copy may run a script, the page may not.
    inner = escape(re.sub("<meta http-equiv[^>]*>", "", page))
    script = """onload = () => { const inner = document.querySelector("iframe").contentDocument;
        for (const details of inner.querySelectorAll("details")) details.open = true;
        document.title = inner.documentElement.clientWidth + " " + inner.documentElement.scrollWidth }"""
    measured = tmp_path / "measured.html"
    frame = f'<iframe width="390" height="800" style="border:0" srcdoc="{inner}"></iframe>'
    measured.write_text(f"<!doctype html><meta charset=utf-8><title></title>{frame}<script>{script}</script>")
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", measured.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "<title>390 390</title>" in done.stdout


def test_complaints_and_requests_would_be_noticed(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><script>console.error('broken')</script><img src='http://127.0.0.1:9/x.png'>")
    _, console, asked = visit(page, tmp_path)
    assert any("broken" in line for line in console)
    assert any("127.0.0.1:9/x.png" in address for address in asked)


def test_a_figure_stands_alone(full_run, tmp_path):
    figure: Path = full_run.folder / "figures" / "differences.svg"
    _, console, asked = visit(figure, tmp_path)
    assert (console, asked) == ([], [])
