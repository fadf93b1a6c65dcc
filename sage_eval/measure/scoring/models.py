"""The lm-eval models of the evaluation: what each is told, so that all score the same tokens of the same text."""

import functools
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from sage_eval.arms.shape import describe, vocabulary
from sage_eval.errors import PrerequisiteError, UsageError


class Stopwatch:
    """The first and the last moment at which any function that it watches was busy; None before there was one."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last: float | None = None

    def reset(self) -> None:
        """Forget what was seen."""
        self.first = self.last = None

    def over(self, function: Callable[..., Any], settle: Callable[[], None] = lambda: None) -> Callable[..., Any]:
        """`function`, watched from each call until it has returned, and `settle` too: what a GPU still has to do."""

        @functools.wraps(function)
        def watched(*args: Any, **options: Any) -> Any:
            self._begin()
            try:
                answer = function(*args, **options)
                settle()
                return answer
            finally:
                self.last = time.perf_counter()

        return watched

    def over_iterator(self, function: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        """`function`, whose answers come one by one, watched until each of them has come."""

        @functools.wraps(function)
        def watched(*args: Any, **options: Any) -> Iterator[Any]:
            self._begin()
            for answer in function(*args, **options):
                self.last = time.perf_counter()
                yield answer

        return watched

    def _begin(self) -> None:
        if self.first is None:
            self.first = time.perf_counter()


OURS = "sglang-sage"
LmModel = Literal["sglang-sage:throughput", "sglang-sage:fidelity", "sglang", "vllm", "hf"]
HF_BATCH = 8
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def absent(name: str, *, random: bool) -> str | None:
    """Why the model `name` cannot run here, with `random` weights or not; None where nothing speaks against it."""
    needed = {"vllm": ("vllm",), "hf": ("transformers", "accelerate")}.get(name, ())
    if needed and random:
        return "cannot draw SGLang's random weights"
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    return f"{', '.join(missing)} not installed" if missing else None


def lm_arguments(name: str, model: str, window: int, backend: dict[str, Any], shared: dict[str, Any]) -> dict[str, Any]:
    """Of lm-eval's `create_from_arg_obj`, for texts of up to `window` tokens in one piece.

    `backend` chooses the attention of SGLang, `shared` has further arguments of its engine; `dtype` holds for all
    models. They count the longest input differently: lm-eval's `sglang` counts the last token of a text, which is never
    computed, and `vllm` one new token as well. Logits are in fp32 in all but `vllm`: in bf16 they have a step of 0.03
    and more, so scores computed from them could not be compared.
    """
    family, _, mode = name.partition(":")
    shared = {"disable_cuda_graph": True, **shared}
    dtype = shared.get("dtype", "auto")
    if family == OURS:
        return {"pretrained": model, "mode": mode, "max_length": window, **shared, **backend}
    if family == "sglang":
        # It hands everything to SGLang itself, which knows the settings of `sage_attn` from the environment alone.
        backend = {key: value for key, value in backend.items() if key.endswith("attention_backend")}
        engine = {"enable_fp32_lm_head": True, "random_seed": 0, "log_level": "error", **shared, **backend}
        return {"pretrained": model, "batch_size": "auto", "max_model_len": window + 1, **engine}
    if family == "vllm":
        return {"pretrained": model, "batch_size": "auto", "max_model_len": window + 2, "dtype": dtype}
    return {"pretrained": model, "batch_size": HF_BATCH, "max_length": window, "dtype": dtype}


def bits(dtype: str) -> int:
    """Of the numbers that SGLang computes in with this `dtype`; by itself ("auto") it never takes float32."""
    return 32 if dtype in ("float", "float32") else 16


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
        logits_in_fp32(lm.model)
    for owner, method in _engine_calls(lm, family):
        inner: Callable[..., Any] = getattr(owner, method)
        watched = stopwatch.over_iterator(inner) if method == "stream" else stopwatch.over(inner, *settle)
        setattr(owner, method, watched)
    return lm


def logits_in_fp32(model: Any) -> None:
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
    """Tokens so far, by the replies of SGLang's engine, and `counted` where kernels count what they prefill.

    Nothing of a model that has no such engine.
    """
    if (arm := getattr(lm, "arm", None)) is None:
        return {}
    told = {kind: getattr(arm.coverage, f"{kind}_tokens") for kind in ("prompt", "cached", "generated")}
    return told | ({"counted": round(sum(arm.coverage.prefill().values()))} if arm.coverage.counted else {})


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


def warm_up_texts(count: int) -> Iterator[str]:
    """Texts of a few hundred words that no task has."""
    for number in range(count):
        yield " ".join(f"Line {number} of page {word} is for practice." for word in range(20 + 20 * (number % 4)))


def has_tokenizer(model: Path) -> bool:
    """Whether the model folder has a tokenizer."""
    return any((model / name).is_file() for name in TOKENIZERS)


def add_tokenizer(name: str, model: Path) -> None:
    """Put the tokenizer of `name` (a folder or hub id) into the folder of a model with random weights.

    Raises `PrerequisiteError` where there is none, `UsageError` where it has more ids than the model.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise PrerequisiteError(f"--tokenizer {name}: {str(error).strip().splitlines()[0]}") from error
    if len(tokenizer) > (known := vocabulary(describe(model))):
        raise UsageError(f"--tokenizer {name} has {len(tokenizer):,} ids, the model only {known:,}")
    tokenizer.save_pretrained(model)
