"""Flags reach the configuration, each setting is a flag with its help, and a flag wins over the environment."""

from sage_eval.attention.settings import AttentionSettings
from sage_eval.config import RunConfig
from sage_eval.store.asked import Asked


def test_flags_reach_the_configuration(call, monkeypatch):
    from sage_eval.compare import plan

    seen = []
    monkeypatch.setattr(plan, "plan", lambda config: seen.append(config) or plan.Plan(
        tasks=[], arms=2, tokens_per_second=1, rate_from="", seconds=0))  # fmt: skip
    code, _, err = call(
        "compare", "m", "--candidate", "fa3", "--baseline", "triton", "--tasks", "a,b", "--limit", 3, "--mode",
        "throughput", "--data-dir", "d", "--output", "o", "--min", "a=0.5", "--min", "b=0.6", "--model-args", "x=1,y=z",
        "--task-args", "n=2", "--seed", 7, "--kernel", "torch", "--variant", "exact", "--smooth-k", "off", "--shift",
        "s", "--balance", "b", "--decode", "exact", "--min-tokens", 5, "--strict", "--no-calibrate", "--arms",
        "reorder,control", "--margin", "a=0.01", "--margin", "accuracy=0.1", "--fail-on", "worse", "--fail-on",
        "not-established",
        "--top-logprobs", 4, "--parallel", 3, "--servers", "--dry-run",
    )  # fmt: skip
    assert code == 0, err
    [config] = seen
    assert config.model_dump(mode="json") == {
        **Asked().model_dump(mode="json"),
        "model": "m", "candidate": ["fa3"], "baseline": "triton", "tasks": ["a", "b"], "limit": 3, "mode": "throughput",
        "data_dir": "d", "output": "o", "min": {"a": 0.5, "b": 0.6}, "model_args": {"x": 1, "y": "z"},
        "task_args": {"n": 2}, "seed": 7, "lm": "sglang-sage", "top_logprobs": 4, "parallel": 3, "servers": True,
        "attention": {"kernel": "torch", "variant": "exact", "smooth_k": "off", "shift": "s", "balance": "b",
                      "decode": "exact", "min_tokens": 5, "strict": True},
        "calibrate": False, "arms": ["reorder", "control"], "margin": {"a": 0.01, "accuracy": 0.1},
        "fail_on": ["worse", "not established"], "until": None, "suite": None,
    }  # fmt: skip


def test_every_setting_is_a_flag_with_its_help(call):
    _, out, _ = call("compare", "--help")
    fields = {**RunConfig.model_fields, **AttentionSettings.model_fields}
    flags = {f"--{name.replace('_', '-')}" for name in fields.keys() - {"model", "attention", "lm"}}
    assert {flag for flag in flags if f"{flag} " not in out} == set()
    assert "--lm " not in out
    assert "results/MODEL-CANDIDATE-HASH" in out


def test_flag_that_turns_a_setting_off_wins_over_the_environment(call, monkeypatch):
    from sage_eval.compare import plan

    seen = []
    monkeypatch.setattr(plan, "plan", lambda config: seen.append(config) or plan.Plan(
        tasks=[], arms=2, tokens_per_second=1, rate_from="", seconds=0))  # fmt: skip
    monkeypatch.setenv("SAGE_ATTN_STRICT", "true")
    monkeypatch.setenv("SAGE_EVAL_LIMIT", "7")
    assert call("compare", "m", "--no-strict", "--dry-run")[0] == 0
    assert call("compare", "m", "--dry-run")[0] == 0
    assert [(config.attention.strict, config.limit) for config in seen] == [(False, 7), (True, 7)]
