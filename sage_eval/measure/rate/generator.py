"""SGLang's load generator (`sglang.bench_serving`) in a process of its own, which notes when each request was sent.

Importing the generator takes longer than many a run, so it is done once. Its results do not say when a request was
sent, but its outputs do (`RequestFuncOutput.start_time`): they are taken where it looks up how to make a request.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from sage_eval.errors import EngineError
from sage_eval.measure.rate.plan import gaps
from sage_eval.measure.rate.summary import quantiles

_BACKEND = "sglang"


class LoadGenerator:
    """`words` is the folder of a tokenizer that makes every token id text (see the module of that name)."""

    def __init__(self, words: str) -> None:
        from sglang.benchmark import serving

        self._words, self._serving = words, serving
        self._request = serving.ASYNC_REQUEST_FUNCS[_BACKEND]

    def send(self, *, seed: int, rate: float | None, output_tokens: int, **more: Any) -> dict[str, Any]:
        """What came of a run: fields of a row. Or why nothing did (`failed`), and whether no server's (`own`).

        It raises nothing, so that whoever asks can tell a failure from an answer that does not come.
        """
        outputs: list[Any] = []
        self._serving.ASYNC_REQUEST_FUNCS[_BACKEND] = partial(_noted, self._request, outputs, seed)
        sys.argv = ["sglang.bench_serving", *self._arguments(seed, rate, output_tokens, **more)]
        try:
            self._serving.cli_main()
            return answers(outputs, seed, rate, output_tokens)
        except EngineError as error:
            return {"failed": str(error), "own": False}
        except (Exception, SystemExit) as error:  # whatever it is: this run has no result, and the next one may have
            traceback.print_exc()
            text = f"{type(error).__name__}: {' '.join(str(error).split())[-500:]}"
            return {"failed": f"SGLang's load generator gave up: {text}", "own": is_own(error)}

    def _arguments(
        self, seed: int, rate: float | None, output_tokens: int, *,
        url: str, requests: int, input_tokens: int, flush: bool,
    ) -> list[str]:  # fmt: skip
        """Of `python -m sglang.bench_serving`. `flush` empties the prefix cache after the generator's own warm-up."""
        return [
            "--backend", _BACKEND, "--base-url", url, "--model", self._words, "--tokenizer", self._words,
            "--dataset-name", "random-ids", "--tokenize-prompt", "--random-range-ratio", "1",
            "--random-input-len", str(input_tokens), "--random-output-len", str(output_tokens),
            "--num-prompts", str(requests), "--request-rate", "inf" if rate is None else repr(rate),
            "--seed", str(seed), "--warmup-requests", "1", "--output-file", os.devnull, "--disable-tqdm",
            *(["--flush-cache"] if flush else []),
        ]  # fmt: skip


async def _noted(
    request: Callable[..., Any], outputs: list[Any], seed: int, request_func_input: Any, pbar: Any = None
) -> Any:
    """The output of a request, which is noted. The first is the generator's own warm-up."""
    if not outputs:  # the prompts are drawn, and the gaps are not: they begin with the seed, whatever prompts took
        np.random.seed(seed)
    outputs.append(output := await request(request_func_input=request_func_input, pbar=pbar))
    return output


def answers(outputs: Sequence[Any], seed: int, rate: float | None, output_tokens: int) -> dict[str, Any]:
    """Fields of a row, of the generator's `outputs`, its warm-up first.

    Raises `EngineError` where a request failed. The generator counts one as completed that the server refused within
    its stream: no token came of it, or too few.
    """
    found = sorted(outputs, key=lambda output: output.start_time)[1:]
    if reasons := [reason for output in found if (reason := _failure(output, output_tokens))]:
        raise EngineError(f"{len(reasons)} of {len(found)} requests failed: {reasons[0]}")
    sent = [output.start_time - found[0].start_time for output in found]
    latency = [output.ttft + sum(output.itl) for output in found]
    return {
        "sent": [round(moment, 6) for moment in sent],
        "late": sent[-1] - (gaps(seed, len(found)).sum() / rate if rate else 0.0),
        "seconds": max(map(sum, zip(sent, latency, strict=True))),
        "input_tokens": sum(output.prompt_len for output in found),
        "output_tokens": sum(output.output_len for output in found),
        "ttft": [round(output.ttft, 6) for output in found],
        "latency": [round(seconds, 6) for seconds in latency],
        "itl": quantiles([gap for output in found for gap in output.itl]),
    }


def _failure(output: Any, output_tokens: int) -> str | None:
    if output.error:
        return str(output.error).strip().splitlines()[-1]
    if output.ttft <= 0:
        return "no token came of it; the server's log may say why"
    if output.output_len != output_tokens:
        return f"{output.output_len} of {output_tokens} tokens came of it; the server's log may say why"
    return None


def is_own(error: BaseException) -> bool:
    """Whether it is one of files and memory here, and not of talking to a server."""
    from requests import RequestException

    return isinstance(error, (OSError, MemoryError)) and not isinstance(error, (RequestException, ConnectionError))
