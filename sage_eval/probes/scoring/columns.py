"""The lm-eval models of the evaluation part: what each is told, so that all score the same tokens of the same text."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sage_eval.probes.scoring.stopwatch import Stopwatch

OURS = "sglang-sage"
MODELS = (f"{OURS}:throughput", f"{OURS}:fidelity", "sglang", "vllm", "hf")
HF_BATCH = 8


def absent(name: str, *, random_weights: bool = False) -> str | None:
    """Why the model `name` cannot be run here; None where nothing speaks against it."""
    needed = {"vllm": ("vllm",), "hf": ("transformers", "accelerate")}.get(name, ())
    if needed and random_weights:
        return "has no random weights that are SGLang's"
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    return f"{', '.join(missing)} not installed" if missing else None


def arguments(name: str, model: Path, window: int, backend: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """Of lm-eval's `create_from_arg_obj`, for texts of up to `window` tokens in one piece.

    `backend` chooses the attention of SGLang, `shared` are further arguments of its engine; of them `dtype` holds for
    all. What each model calls the longest input differs by what it reserves: lm-eval's `sglang` counts the last token
    of a text, which is never computed, and `vllm` one new token as well. Logits are in fp32 throughout, `vllm`'s aside:
    in bf16 they have a step of 0.03 and more, and what is computed from them is no score to be compared.
    """
    family, _, mode = name.partition(":")
    shared = {"disable_cuda_graph": True, **shared}
    dtype = shared.get("dtype", "auto")
    if family == OURS:
        return {"pretrained": str(model), "mode": mode, "max_length": window, **shared, **backend}
    if family == "sglang":
        # The rest is its own defaults.
        engine = {"enable_fp32_lm_head": True, "random_seed": 0, "log_level": "error", **shared, **backend}
        return {"pretrained": str(model), "batch_size": "auto", "max_model_len": window + 1, **engine}
    if family == "vllm":
        return {"pretrained": str(model), "batch_size": "auto", "max_model_len": window + 2, "dtype": dtype}
    return {"pretrained": str(model), "batch_size": HF_BATCH, "max_length": window, "dtype": dtype}


def open_model(name: str, arguments: dict[str, Any], stopwatch: Stopwatch) -> Any:
    """The lm-eval model, with `stopwatch` on what it sends and gets back."""
    import torch

    from sage_eval import lm_eval_hook

    lm_eval_hook.install()
    from lm_eval.api.registry import get_model

    family = name.partition(":")[0]
    cuda = torch.cuda.is_available()
    if family in ("sglang", "vllm"):
        arguments = {**arguments, "add_bos_token": _adds_bos(arguments["pretrained"])}
    if family == "sglang" and not cuda:
        _allow_cpu()
    if family in ("sglang", "hf"):
        arguments = {**arguments, "device": "cuda" if cuda or family == "sglang" else "cpu"}
    lm = get_model(family).create_from_arg_obj(arguments, {})
    settle = [torch.cuda.synchronize] if cuda and family == "hf" else []
    if family == "hf":
        # The model's own `max_new_tokens` would win over the length that a task asks for.
        lm.model.generation_config.max_new_tokens = None
        _logits_in_fp32(lm.model)
    for owner, method in _engine_calls(lm, family):
        inner: Callable[..., Any] = getattr(owner, method)
        watched = stopwatch.over_iterator(inner) if method == "stream" else stopwatch.over(inner, *settle)
        setattr(owner, method, watched)
    return lm


def _logits_in_fp32(model: Any) -> None:
    """The last layer of a transformers model, as SGLang's `enable_fp32_lm_head`; what lm-eval makes of logits follows.

    Its weights are copied, since embeddings may share them.
    """
    import torch

    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.float(), requires_grad=False)
    head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def _engine_calls(lm: Any, family: str) -> list[tuple[Any, str]]:
    """Objects and methods by which `lm` hands requests to what computes."""
    match family:
        case "sglang-sage":
            return [(lm.arm.transport, "stream")]
        case "sglang" | "vllm":
            return [(lm.model, "generate")]
    return [(lm, "_model_call"), (lm, "_model_generate")]


def tokens(lm: Any) -> dict[str, int]:
    """Tokens that `lm` has counted so far; nothing where it does not count."""
    arm = getattr(lm, "arm", None)
    if arm is None:
        return {}
    coverage = arm.coverage
    return {
        "prompt": coverage.prompt_tokens,
        "cached": coverage.cached_tokens,
        "generated": coverage.generated_tokens,
    }


def close(lm: Any) -> None:
    """End the model's engine, where it has one of its own."""
    for owner, method in ((lm, "close"), (getattr(lm, "model", None), "shutdown")):
        if callable(end := getattr(owner, method, None)):
            end()
            return


def _adds_bos(model: str) -> bool:
    """Whether the tokenizer begins a text with its BOS: `hf` and ours follow it, the others have to be told."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    return bool(tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id])


def _allow_cpu() -> None:
    """Let lm-eval's `sglang` model, which asserts that its device is CUDA, build its engine on the CPU."""
    from types import SimpleNamespace

    import sglang
    from lm_eval.models import sglang_causallms

    def engine(**options: Any) -> Any:
        return sglang.Engine(**{**options, "device": "cpu", "disable_cuda_graph": True})

    sglang_causallms.sgl = SimpleNamespace(Engine=engine)


def vocabulary(model: Path) -> int:
    """Tokens that the model at this folder knows."""
    config: dict[str, Any] = json.loads((model / "config.json").read_text())
    return int(config.get("text_config", config)["vocab_size"])


def bits(dtype: str) -> int:
    """Of the numbers that SGLang computes in with this `dtype`; by itself ("auto") it never takes float32."""
    return 32 if dtype in ("float", "float32") else 16


def each(texts: int) -> Iterator[str]:
    """Texts that no task has, of a few hundred words, to warm an engine up with."""
    for number in range(texts):
        yield " ".join(f"Line {number} of page {word} is for practice." for word in range(20 + 20 * (number % 4)))
