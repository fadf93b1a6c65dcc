"""What the README shows is what was measured, and what it names exists."""

import itertools
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


RUN = ROOT / "results" / "reference-model-h100"


def cells(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def table(first):
    """The README's table whose head's first cells are `first`, by the first word of each row."""
    lines = README.splitlines()
    start = next(i for i, line in enumerate(lines) if cells(line)[: len(first)] == first)
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return {re.split(r"[, ]", found[0])[0]: found[1:] for found in map(cells, rows)}


def same(shown, value):
    """Whether `shown` is `value`, rounded to the digits shown."""
    text = shown.replace("*", "").replace("×", "").strip()
    return float(text) == round(value, len(text.partition(".")[2]))


def test_the_table_is_that_of_the_published_run():
    report = [cells(line) for line in (RUN / "report.md").read_text().splitlines() if line.startswith("| sage_")]
    shown = table(["task", "verdict"])
    assert set(shown) == {"sage_wikitext", "sage_wikitext_tokens", "sage_retrieval", "sage_mmlu"}
    for task, (verdict, baseline, candidate, difference, margin, flips, n) in shown.items():
        rows = [row for row in report if row[0] == task]
        assert any(row[2:5] == [baseline, candidate, difference] and row[-2:] == [flips, n] for row in rows), task
        assert any(row[1] == verdict and row[5].startswith(margin) for row in rows), task


def test_the_close_view_is_that_of_the_published_probes():
    report = list(map(cells, (ROOT / "results" / "probes-h100" / "report.md").read_text().splitlines()))
    ours = "sage_attn+fa3"
    arms = ("triton", "flashinfer", ours, f"{ours}:variant=int8-fp8", f"{ours}:variant=int4-fp16")
    kld, top, drift, own, texts = map(cells, README.partition("| | Triton | FlashInfer |")[2].splitlines()[2:7])
    for place, arm in enumerate(arms, 1):
        whole = next(row for row in report if row[0].removesuffix(" (floor)") == arm and row[1] == "all")
        same_inputs, own_inputs = (
            next((row[2] for row in report if row[:2] == [arm, name]), None) for name in ("same", "own")
        )
        greedy = next(row for row in report if row[0] == arm and row[1].endswith("/32"))
        assert kld[place] == f"{float(whole[2].split()[0]):.1e}", arm
        assert top[place] == whole[3].split()[0] + " %", arm
        assert drift[place] == ("–" if same_inputs is None else str(round(float(same_inputs), 4))), arm
        assert own[place] == own_inputs, arm
        assert texts[place] == greedy[1].removesuffix("/32"), arm


def test_what_chunking_changes_is_that_of_the_published_probes():
    record = json.loads((ROOT / "results" / "probes-h100" / "determinism.json").read_text())
    means = {arm["arm"]: way["mean"] for arm in record["arms"] for way in arm["ways"] if way["way"] == "chunked"}
    ours, *others = (f"{means[arm]:.2g}" for arm in ("sage_attn+fa3", "triton", "flashinfer", "fa3"))
    text = "by {}, and those of Triton, FlashInfer and FA3 by {}, {} and {}"
    assert text.format(ours, *others) in " ".join(README.split())


def test_the_evaluations_speeds_are_those_of_the_published_benchmarks():
    found = re.findall(r"([\d.]+) × lm-eval's", (ROOT / "results" / "probes-h100" / "report.md").read_text())
    lowest, highest = (round(f(map(float, found))) for f in (min, max))
    words = " ".join(README.split())
    assert f"a {lowest}th to a {highest}th of the time of lm-eval's own" in words
    share = re.search(r"([\d.]+)% \(met\)", (ROOT / "results" / "serving-h100" / "report.md").read_text())
    assert share
    assert f"at {share[1]} % of the rate" in words


def test_the_floors_and_damages_are_those_of_the_published_run():
    judged = {task["task"]: task for task in json.loads((RUN / "comparison.json").read_text())["verdict"]["tasks"]}
    for task, (floors, control, *doses) in table(["task", "floor: FA3 again, reordered; Triton"]).items():
        found = judged[task]
        scale = found["scale"]
        for text, name in zip(floors.split(";"), ("repeat", "reorder", "exact"), strict=True):
            assert same(text, scale * found["floors"][name]["difference"]["value"]), (task, name)
        damaged = [found["controls"]["control"], *found["doses"]]
        for text, arm in zip((control, *doses), damaged, strict=True):
            assert same(text, scale * arm["difference"]["value"]), (task, text)
            assert text.startswith("**") == arm["seen"] == (arm["seen"] and arm["difference"]["p"] < 0.001), (
                task,
                text,
            )


def served(folder):
    """The record of `bench serving`, and arm → (kind, size) → ratio to the baseline."""
    record = json.loads((ROOT / "results" / folder / "serving.json").read_text())
    ratios = {arm: {} for arm in record["arms"]}
    for row in record["summary"]["rows"]:
        ratios[row["arm"]][row["kind"], row["size"]] = row["ratio"]
    return record, ratios


def test_the_engines_speeds_are_those_of_the_published_benchmark():
    _, ratios = served("serving-h100")
    ours = "sage_attn+fa3:variant=int8-fp"
    arms = (f"{ours}16", f"{ours}16,min_tokens=4096", f"{ours}8", "flashinfer", "triton")
    start = README.index("| input tokens | 1,024 |")
    lines = list(map(cells, README[start:].splitlines()[2:7]))
    for arm, (_, *shown) in zip(arms, lines, strict=True):
        for size, text in zip((1024, 4096, 8192, 32768, 131072), shown, strict=True):
            found = ratios[arm].get(("prefill", size))
            if found is None:
                expected = "–"
            elif found["low"] is None:
                expected = f"{found['value']:.3f} †"
            else:
                expected = f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
                expected += "*" if found["method"].startswith("range") else ""
            assert text == expected, (arm, size)


def test_the_text_on_speed_is_that_of_the_published_benchmarks():
    """Each figure of the paragraphs after the table."""
    words = " ".join(README.partition("Beside FA3, then")[2].partition("Attention alone (")[0].split())
    record, ratios = served("serving-h100")
    arms = [ratio["prefill", 1024] for ratio in ratios.values() if ratio["prefill", 1024]]
    base = [1e3 * found["baseline"] for found in arms]
    assert f"{min(base):.1f} to {max(base):.1f} ms beside one arm or another" in words
    old = served("serving-h200")[1]["sage_attn+fa3:variant=int8-fp16"]
    speeds = "{:.2f} at 1,024 tokens, {:.2f} at 4,096 and, in one round each, {:.2f} at 32,768 and {:.2f} at 100,000"
    assert speeds.format(*(old["prefill", n]["value"] for n in (1024, 4096, 32768, 100000))) in words

    name = "sage_attn+fa3:variant=int8-fp16"
    mixed = ratios[name]["mixed", 64]
    assert f"({mixed['value']:.3f}, {mixed['low']:.3f} to {mixed['high']:.3f} in three rounds)" in words

    found = {(p["arm"], p["cell"]["size"]): p for p in record["profiles"] if p["cell"]["kind"] == "prefill"}
    times = {key: profile["times"]["seconds"] for key, profile in found.items()}
    sizes = (4096, 32768, 131072)
    shares = [times["fa3", n]["attention"] / sum(times["fa3", n].values()) for n in sizes]
    text = "attention is {:.0%} of FA3's time at 4,096 tokens, {:.0%} at 32,768 and {:.0%} at 131,072"
    assert text.format(*shares).replace("%", " %") in words
    faster = [times["fa3", n]["attention"] / times[name, n]["attention"] for n in sizes]
    assert "is {:.2f}, {:.2f} and {:.2f} times as fast there".format(*faster) in words
    beside = {name: ratios[name]["prefill", 1024]["baseline"] / ratios[name]["prefill", 1024]["value"]}
    beside["fa3"] = ratios[name]["prefill", 1024]["baseline"]
    busy = {arm: sum(times[arm, 1024].values()) - times[arm, 1024]["idle"] for arm in beside}
    idle = {arm: f"{1 - busy[arm] / beside[arm]:.0%}".replace("%", " %") for arm in beside}
    assert f"for {idle[name]} of `sage_attn+fa3`'s time and {idle['fa3']} of FA3's beside it" in words

    peaks = {}
    for block in record["blocks"]:
        if block["cell"] == {"kind": "prefill", "size": 131072} and name in block["results"]:
            for arm, result in block["results"].items():
                peaks[arm] = result["memory"]["peak_allocated"] - result["memory"]["before_allocated"]
    assert f"took {(peaks[name] - peaks['fa3']) / 2**20:.1f} MiB more than FA3's" in words

    rates = json.loads((ROOT / "results" / "serving-h100" / "rate.json").read_text())["summary"]
    rows = {row["rate"]: row for row in rates["rows"] if row["arm"] == "sage_attn+fa3"}
    found = [rows[rate]["ratio"] for rate in (4, 8, 14)]
    assert "({:.2f}, {:.2f} and {:.2f} of FA3's".format(*(ratio["value"] for ratio in found)) in words
    ranges = [f"{ratio['low']:.2f} to {ratio['high']:.2f}" for ratio in found]
    assert f"in two repeats {', '.join(ranges[:2])} and {ranges[2]})" in words
    assert all(limit["knee"] == 14 and round(limit["done"]) == 16 for limit in rates["limits"].values())


def test_the_kernel_figures_are_those_of_the_published_benchmark():
    lines = (ROOT / "results" / "kernels-h200" / "README.md").read_text().splitlines()
    header = next(cells(line) for line in lines if line.startswith("| case"))
    rows = [dict(zip(header, cells(line), strict=True)) for line in lines if line.startswith("| d128")]
    speeds = {row["case"]: row for row in rows}
    for case, kernel in itertools.product(("d128 4x4096", "d128 1x32768"), ("int8-fp16", "fa3-paged")):
        assert re.search(rf"\b{speeds[case][kernel]}\b", README), (case, kernel)
    ratio = int(speeds["d128 1x4096+16384"]["int8-fp16"]) / int(speeds["d128 1x4096+16384"]["triton-extend"])
    assert re.search(rf"{ratio:.1f}\s+times it for 4,096 new tokens after a cached prefix", README)


def test_what_near_keys_do_is_on_the_models_card():
    card = (ROOT / "reference_model" / "README.md").read_text()
    rows = [cells(line) for line in card.splitlines() if line.startswith("| near keys |")]
    found = {row[1].split()[0]: [cell.strip("*").split()[0] for cell in (row[3], row[5])] for row in rows}
    text = "among 16 such lines the bundled model finds {} exactly computed and {} under INT4, among one {} and {},"
    assert text.format(*found["16"], *found["1"]) in " ".join(README.split())


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_commands_of_make_are_targets():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"make ([a-z-]+)  ", README)) <= set(targets)
    assert {"demo", "test", "test-all", "lint"} <= set(targets)
