"""The page in a real browser: it renders, complains of nothing and asks the network for nothing."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
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


@pytest.mark.parametrize("width", [390, 1280])
def test_no_number_is_cut_and_nothing_is_wider_than_the_window(measured_run, tmp_path, width):
    page = (measured_run.folder / "report.html").read_text()
    # In a frame, as a browser's window has a least width. The copy may run a script, the page may not.
    inner = escape(re.sub("<meta http-equiv[^>]*>", "", page))
    script = """onload = () => { const inner = document.querySelector("iframe").contentDocument;
        for (const details of inner.querySelectorAll("details")) details.open = true;
        const cut = [...inner.querySelectorAll(".scroll .n")].filter(cell =>
            cell.getBoundingClientRect().right > cell.closest(".scroll").getBoundingClientRect().right + 1);
        document.title = [inner.documentElement.clientWidth, inner.documentElement.scrollWidth, cut.length].join(" ") +
            cut.slice(0, 3).map(cell => ` ${cell.closest(".scroll").ariaLabel}: ${cell.textContent}`) }"""
    measured = tmp_path / "measured.html"
    frame = f'<iframe width="{width}" height="800" style="border:0" srcdoc="{inner}"></iframe>'
    measured.write_text(f"<!doctype html><meta charset=utf-8><title></title>{frame}<script>{script}</script>")
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900", "--dump-dom",
         measured.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert re.findall("<title>(.*?)</title>", done.stdout) == [f"{width} {width} 0"]


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


def test_the_leaderboard_sorts_filters_and_complains_of_nothing(tmp_path):
    page = Path(__file__).parents[2] / "results" / "index.html"
    _, console, asked = visit(page, tmp_path)
    assert (console, asked) == ([], [])
    acts = """onload = () => { const rows = () => [...document.querySelectorAll("#leaderboard tbody tr")];
        const heads = [...document.querySelectorAll("thead th")];
        const head = heads.find(each => each.textContent.startsWith("prefill"));
        head.firstChild.click(); head.firstChild.click();
        const order = rows().map(row => parseFloat(row.cells[head.cellIndex].textContent) || 0);
        const filter = document.querySelector("input");
        filter.value = "h200 fp8"; filter.dispatchEvent(new Event("input"));
        const left = rows().filter(row => !row.hidden).map(row => row.cells[2].textContent);
        document.title = JSON.stringify([head.ariaSort, order, left]) }"""
    copy = tmp_path / "index.html"
    copy.write_text(re.sub("<meta http-equiv[^>]*>", "", page.read_text()) + f"<script>{acts}</script>")
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    [found] = re.findall("<title>(.*?)</title>", done.stdout)
    sort, order, left = json.loads(unescape(found))
    assert sort == "descending"
    assert order == sorted(order, reverse=True)
    assert order[0] > 1
    assert {*left} == {"H200"}  # rows of other cards, and of other arms on this one, are hidden
    assert len(left) < len(order)
