"""lm-eval's options: each reaches the requests, belongs to the fingerprint, and is refused alike by run and dry run."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from sage_eval.compare import run as runner
from sage_eval.compare.asking import told
from sage_eval.compare.plan import plan
from sage_eval.compare.run import compare
from sage_eval.compare.spec import arms
from sage_eval.compare.worker import answer
from sage_eval.errors import DataError, UsageError
from sage_eval.store.asked import Asked
from sage_eval.store.provenance import versions
from tests.compare.conftest import TASKS
from tests.compare.values import in_this_process, rendered

CHOICE, PERPLEXITY, NEEDLE = TASKS
GROUP = "tests/compare/tasks/tiny_group.yaml"
LOUD = "{% for m in messages %}<{{ m.role|upper }}>{{ m.content }}{% endfor %}"


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    """A model folder whose tokenizer has two chat templates."""
    folder = tmp_path_factory.mktemp("chatty")
    tokenizer = AutoTokenizer.from_pretrained("reference_model")
    tokenizer.chat_template = {"default": LOUD.replace("|upper", ""), "loud": LOUD}
    tokenizer.save_pretrained(folder)
    for file in [Path("reference_model/config.json"), *Path("reference_model").glob("model*")]:
        (folder / file.name).symlink_to(file.resolve())
    return folder


@pytest.fixture
def asked(tiny, chatty, tmp_path):
    """`asked(**options)`: an arm's prompts in full, by task, asked without an engine."""

    def ask(**options):
        config = tiny(**{"model": str(chatty), "lm": "tests.compare.lms:ChatLM", **options})
        spec = arms(config, "hash", versions())[0]
        answer(spec, tmp_path)
        from sage_eval.store.folder import PROMPTS, read_prompts

        found = {}
        for prompt in read_prompts(tmp_path / PROMPTS).values():
            found.setdefault(prompt["task"], []).append(prompt)
        return found

    return ask


@pytest.mark.parametrize(
    "option",
    [
        {"limit": 0.5},
        {"samples": {"tiny_choice": [1]}},
        {"num_fewshot": 2},
        {"apply_chat_template": True},
        {"apply_chat_template": "loud"},
        {"fewshot_as_multiturn": False},
        {"system_instruction": "be brief"},
        {"gen_kwargs": {"max_gen_toks": 3}},
        {"include_path": (Path("tests/compare/tasks"),)},
        {"predict_only": True},
    ],
    ids=lambda option: "-".join(f"{name}={value}" for name, value in option.items()),
)
def test_every_option_is_every_arm_s_and_part_of_its_fingerprint(tiny, option):
    plain, told = ([*arms(tiny(**given), "hash", versions())] for given in ({}, option))
    assert not {spec.fingerprint() for spec in plain} & {spec.fingerprint() for spec in told}
    assert all(getattr(spec, name) == value for spec in told for name, value in option.items())


def test_a_run_that_was_asked_otherwise_says_what_differs(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_job", in_this_process)
    config = {"output": tmp_path / "run", "tasks": (NEEDLE,), "limit": 4}
    compare(tiny(**config))
    with pytest.raises(UsageError, match=r"another comparison \(num_fewshot: None -> 2\)"):
        compare(tiny(**config, num_fewshot=2))


def test_task_files_are_told_apart_by_what_they_say_wherever_they_lie(tiny, tmp_path):
    text = Path(CHOICE).read_text()
    found = []
    for folder, more in (("a", ""), ("b", ""), ("c", "num_fewshot: 1\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text(text + more)
        found.append(arms(tiny(include_path=(tmp_path / folder,)), "hash", versions())[0].fingerprint())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("typed", "value"),
    [("0.25", 0.25), ("5.0", 5), (5, 5)],
)
def test_a_limit_is_a_share_or_a_number(typed, value):
    assert Asked(limit=typed).limit == value
    assert type(Asked(limit=typed).limit) is type(value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"limit": 2.5}, "a number of items is whole"),
        ({"limit": 3, "samples": {"t": [1]}}, "limit and samples are both given"),
        ({"samples": '{"t": [1, -2]}'}, "want a list of item numbers"),
        ({"samples": '{"t": '}, "not JSON"),
        ({"samples": "nowhere.json"}, "neither JSON nor a file"),
        ({"samples": "[1]"}, "neither JSON nor a file"),
    ],
)
def test_what_an_option_cannot_be(given, message):
    with pytest.raises(ValidationError, match=message):
        Asked(**given)


def test_samples_are_read_from_a_file_and_sorted(tmp_path):
    (tmp_path / "s.json").write_text('{"t": [3, 1, 3]}')
    assert Asked(samples=str(tmp_path / "s.json")).samples == {"t": [1, 3]}


def test_options_reach_the_prompts(asked):
    few = asked(tasks=(CHOICE,), limit=2, num_fewshot=2, system_instruction="Be brief.")
    assert [prompt["context"].count("Answer:") for prompt in few["tiny_choice"]] == [3, 3]
    assert few["tiny_choice"][0]["context"].startswith("Be brief.")


def test_a_chat_template_is_applied_by_its_name_and_each_example_is_a_turn(asked):
    options = {"tasks": (CHOICE,), "limit": 1, "num_fewshot": 2}
    [turns] = asked(**options, apply_chat_template="loud")["tiny_choice"]
    assert turns["context"].count("<USER>") == 3
    [one] = asked(**options, apply_chat_template=True, fewshot_as_multiturn=False)["tiny_choice"]
    assert one["context"].count("<user>") == 1


def test_generation_arguments_are_laid_over_the_task_s_own(asked):
    [prompt] = asked(tasks=(NEEDLE,), limit=1, gen_kwargs="max_gen_toks=3")["tiny_needle"]
    assert prompt["requests"] == [[{"until": [], "max_gen_toks": 3}]]


def test_samples_choose_items_and_a_limit_may_be_a_share(asked):
    found = asked(tasks=(CHOICE, NEEDLE), samples={"tiny_choice": [70, 3]})
    assert [prompt["doc_id"] for prompt in found["tiny_choice"]] == [3, 70]
    assert len(found["tiny_needle"]) == 60
    assert len(asked(tasks=(NEEDLE,), limit=0.1)["tiny_needle"]) == 6


def test_a_dry_run_counts_what_a_run_asks(tiny, chatty, asked):
    options = {"tasks": (CHOICE, NEEDLE), "limit": 0.1, "num_fewshot": 2, "apply_chat_template": "loud"}
    found = asked(**options)
    planned = plan(tiny(model=str(chatty), **options))
    assert {task.task: task.items for task in planned.tasks} == {name: len(texts) for name, texts in found.items()}
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    longest = max(len(tokenizer(prompt["context"])["input_ids"]) for prompt in found["tiny_needle"])
    assert next(task.longest for task in planned.tasks if task.task == "tiny_needle") == longest


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"gen_kwargs": {"temperature": 0}, "tasks": (CHOICE,)}, UsageError, "no task of this run generates text"),
        ({"gen_kwargs": {"temperatur": 1}, "tasks": (NEEDLE,)}, UsageError, "item 0: SGLang has no .*temperatur"),
        ({"samples": {"tiny_choices": [0]}, "tasks": (CHOICE,)}, UsageError, "did you mean tiny_choice"),
        ({"samples": {"tiny_choice": [80]}, "tasks": (CHOICE,)}, UsageError, r"item 80 is not among its 80 \(0 to 79"),
        ({"apply_chat_template": "lout", "tasks": (CHOICE,)}, UsageError, "did you mean loud.* it has default, loud"),
        ({"apply_chat_template": True, "model": "reference_model"}, UsageError, "has no chat template"),
        ({"include_path": (Path("nowhere"),)}, UsageError, "nowhere is not a folder"),
        ({"num_fewshot": 500, "tasks": (CHOICE,)}, DataError, "tiny_choice: its requests cannot be made"),
        ({"model_args": {"enable_thinking": True}, "tasks": (CHOICE,)}, UsageError, "enable_thinking"),
    ],
)
def test_run_and_dry_run_refuse_the_same_and_no_engine_is_started(tiny, chatty, tmp_path, options, kind, message):
    config = tiny(**{"model": str(chatty), "lm": "sglang-sage", **options})
    with pytest.raises(kind, match=message):
        plan(config)
    with pytest.raises(kind, match=message):
        answer(arms(config, "hash", versions())[0], tmp_path)


def test_a_group_in_a_file_finds_its_members_beside_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_job", in_this_process)
    run = compare(tiny(tasks=(GROUP,), output=tmp_path / "run"))
    rows = run.comparison.pairs[0].tasks
    assert (rows[0].task, rows[0].group, rows[0].n) == ("tiny_group", True, 140)
    assert {row.task for row in rows[1:]} == {"tiny_choice", "tiny_needle"}


def test_without_metrics_the_report_says_how_many_answers_differ(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_job", in_this_process)
    run = compare(tiny(output=tmp_path / "run", tasks=(CHOICE, NEEDLE), predict_only=True))
    [pair] = run.comparison.pairs
    assert pair.tasks == []
    assert run.comparison.verdict.verdict == "not established"
    text = rendered(run)
    assert "of 80 answers differ" in text
    assert "of 60 answers differ" in text


def test_no_bootstrap_is_computed():
    assert told(Asked())["bootstrap_iters"] == 0
