"""`lm_eval --model sglang-sage`: SGLang with any attention backend, scored as lm-eval's `hf` model scores.

```
lm_eval --model sglang-sage --model_args pretrained=MODEL,attention_backend=sage_attn --tasks wikitext,mmlu
```
"""

import inspect
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from model_adapters._known import DECIDING, check_place, checked, claim, known, text_window, window_length
from model_adapters._windows import Truncation, Window
from sage_eval.engine.arm import Arm, facts, open_arm
from sage_eval.engine.chat import render
from sage_eval.engine.client import CONNECTIONS, RETRIES, SILENCE_SECONDS
from sage_eval.engine.gen_kwargs import generation_defaults, sampling_parameters
from sage_eval.engine.journal import fingerprint, weights_key
from sage_eval.engine.launch import START_SECONDS, ServedEngine, open_served
from sage_eval.engine.requests import GenerateRequest, Generation, Score, ScoreRequest
from sage_eval.engine.server import open_server
from sage_eval.engine.topk import TextWindow
from sage_eval.errors import UsageError
from sage_eval.lm_eval_hook import OURS

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

logger = logging.getLogger(__name__)

TOGETHER = 1024
"""Requests tokenised at a time: enough for all cores, few enough to hold in memory."""


class SGLangSageLM(TemplateLM):  # type: ignore[misc]
    """An lm-eval model on an SGLang engine.

    Arguments are those of lm-eval's `hf` model where both have them (`pretrained`, `tokenizer`, `add_bos_token`,
    `prefix_token_id`, `max_length`, `chat_template_args`, `enable_thinking`, `think_end_token`), `mode` (fidelity or
    throughput), `order_seed` (requests in a random order), the settings of `sage_attn` (`variant`, `smooth_k`, …), and
    any SGLang engine argument.

    `base_url` scores through running SGLang servers instead of an engine of its own, `http://A:30000;http://B:30000`
    for several, among which the requests are shared out. `pretrained` then names configuration and tokenizer; engine
    arguments and settings say what the servers must have been started with, or it is an error. `served_model`: their
    name of the model, where it is another. `num_concurrent` requests at a time to each (32), `timeout` seconds without
    an answer before a server counts as hanging (600), `max_retries` after 429, 503 and lost connections (6), as in
    lm-eval's own API models. A key is taken from `SGLANG_API_KEY`, or else `OPENAI_API_KEY`.

    `serve=True` starts a server of its own with these settings, asks it over HTTP, and ends it; `start_timeout` seconds
    until it is ready (1800), `server_log` a file that what it says is added to.

    `batch_size`, `max_batch_size` and `device` are accepted and ignored: SGLang batches by itself, and the engine runs
    on what is there (a `device` that it does not run on is a warning).

    The sampling parameters of the model's `generation_config.json` hold where a task says nothing, as with `hf`.

    `truncation`: what happens to a generation prompt too long for the window: `refuse` (the default) or `left`.
    Contexts to be scored lose their left end, as with `hf`, and a warning counts them.

    `top_logprobs`: how many of the most probable tokens at each position of a rolling text to keep in `text_windows`
    (0, the default: none), from which `sage-eval compare` computes the KL divergence of two arms.

    `journal`: a file that keeps answers as they arrive; the same call takes them from there. It is begun anew where
    other settings, code or weights (or another `journal_key`, which stands for the weights) made it.
    """

    def __init__(  # noqa: PLR0913 - lm-eval passes model arguments as keywords
        self,
        pretrained: str = "",
        *,
        tokenizer: str | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        truncation: Truncation = "refuse",
        top_logprobs: int = 0,
        chat_template_args: Mapping[str, Any] | None = None,
        enable_thinking: bool | None = None,
        think_end_token: str | int | None = None,
        base_url: str | Sequence[str] | None = None,
        served_model: str | None = None,
        num_concurrent: int = CONNECTIONS,
        max_retries: int = RETRIES,
        timeout: float = SILENCE_SECONDS,
        serve: bool = False,
        start_timeout: float = START_SECONDS,
        server_log: str | Path | None = None,
        journal: str | Path | None = None,
        journal_key: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        if not pretrained:
            raise UsageError("which model? pass pretrained=, a folder or a hub name")
        check_place(base_url, serve)
        if enable_thinking and think_end_token is None:
            raise UsageError("enable_thinking=True needs think_end_token, the end of the part that is not the answer")
        options, config, self.tokens = known(
            pretrained, tokenizer, add_bos_token, prefix_token_id, max_length=max_length, **arguments
        )
        self.tokenizer = self.tokens.tokenizer
        self._generation_defaults = generation_defaults(pretrained, revision=options.engine.get("revision"))
        self.window = Window(window_length(options, config, self.tokenizer), truncation)
        self.top_logprobs = checked(top_logprobs, config)
        self.text_windows: list[TextWindow] = []
        """The windows of all rolling texts so far, with `top_logprobs`; in the order of the requests."""
        self._model_sha = getattr(config, "_commit_hash", None)
        self.max_gen_toks = int(max_gen_toks)
        self.batch_size = batch_size  # shown by lm-eval, used by nobody
        self._template_args = dict(chat_template_args or {})
        if enable_thinking is not None:
            self._template_args["enable_thinking"] = enable_thinking
        self._thinking = bool(enable_thinking)
        digits = isinstance(think_end_token, str) and think_end_token.isdigit()
        self._think_end = int(think_end_token) if digits else think_end_token  # type: ignore[arg-type]
        size = int(config.get_text_config().vocab_size)
        self.arm: Arm
        if base_url is not None:
            self.arm = open_server(
                options, base_url, served_model=served_model, vocabulary=size,
                connections=int(num_concurrent), silence=float(timeout), retries=int(max_retries),
            )  # fmt: skip
            self.window.length = min(self.window.length, self.arm.usable_tokens)
        else:
            if "context_length" not in options.engine:
                options = options.model_copy(update={"max_length": self.window.length})
            log = Path(server_log) if server_log else None
            self.arm = open_served(options, size, log, float(start_timeout)) if serve else open_arm(options)
        self.server = self.arm.transport if isinstance(self.arm.transport, ServedEngine) else None
        # An engine in process and a server are two arms, each with its own answers.
        self._weights_key = (journal_key or weights_key(pretrained, self._model_sha)) + " served" * bool(serve)
        try:
            if device and not device.startswith(str(self.arm.info().get("device"))):
                logger.warning("device=%s is ignored: the engine runs on %s", device, facts(self.arm.info())["device"])
            if journal is not None:
                self.arm.keep(Path(journal), self._weights_key)
        except BaseException:
            self.arm.close()
            raise

    @classmethod
    def check(cls, **arguments: Any) -> None:
        """Raise what an engine of these arguments would be refused for; none is started."""
        from sage_eval.engine.checks import check_before_start

        named = inspect.signature(cls).parameters
        wanted = {name: arguments[name] for name in arguments if name not in named or name in DECIDING}
        check_place(arguments.get("base_url"), arguments.get("serve"))
        options, *_ = known(**wanted)
        if not arguments.get("base_url"):
            check_before_start(options)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """As in the base class, but a name given in `--model_args` too is no error: it wins."""
        extra = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**(extra | arg_dict))

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Take lm-eval's `--use_cache` where its file is this arm's or new; else `UsageError`."""
        mine = fingerprint(
            self.arm.identity(self._weights_key), self.tokenizer_name, self.tokens.settings, self.max_length,
            self.window.truncation, self.max_gen_toks, self._think_end, self._generation_defaults,
        )  # fmt: skip
        claim(cache_hook, mine)
        super().set_cache_hook(cache_hook)

    # -- what lm-eval asks about the model ----------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int | None:
        return self.tokens.eos

    @property
    def prefix_token_id(self) -> int:
        """The token before texts without context: `prefix_token_id`, else BOS, else EOS."""
        return self.tokens.prefix

    @property
    def max_length(self) -> int:
        """Longest input in tokens, by default the model's own window."""
        return self.window.length

    @property
    def tokenizer_name(self) -> str:
        """Name for lm-eval's request cache."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **_: Any
    ) -> list[int]:
        """Token ids of `string`, the last `left_truncate_len` of them where that is given."""
        return self.tokens.encode(string, add_special_tokens=add_special_tokens)[-(left_truncate_len or 0) :]

    def tok_decode(self, tokens: int | Sequence[int], skip_special_tokens: bool = True) -> str:
        return self.tokens.decode(tokens, skip_special_tokens=skip_special_tokens)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return render(
            self.tokenizer, chat_history, add_generation_prompt=add_generation_prompt, more=self._template_args
        )

    def get_model_info(self) -> dict[str, Any]:
        """What was run, for lm-eval's results file: backend, settings, versions, coverage."""
        info = self.arm.info()
        engine = facts(info)
        attention = self.arm.options.attention
        kept = {"requests": self.arm.kept_requests, "seconds": round(self.arm.kept_seconds, 3)}
        return {
            "attention_backend": self.arm.backend,
            "attention_settings": attention.model_dump() if attention else None,
            "mode": self.arm.options.mode,
            "order_seed": self.arm.options.order_seed,
            "max_running_requests": info.get("max_running_requests"),
            "sglang_version": info.get("version"),
            "model_dtype": engine["dtype"],
            "engine_device": engine["device"],
            "model_revision": info.get("revision"),
            "model_sha": self._model_sha,
            "max_length": self.max_length,
            "top_logprobs": self.top_logprobs,
            "truncated_contexts": self.window.truncated,
            "coverage": self.arm.coverage.as_dict(),
            **({"command": server.command} if (server := self.server) else {}),
            **({"kept": kept} if kept["requests"] else {}),
        }

    def close(self) -> None:
        self.arm.close()

    # -- scoring ------------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether it is the greedy one) for each (context, continuation)."""
        if self._thinking:
            raise UsageError("enable_thinking=True is for generation; loglikelihood tasks need it off")
        pairs: list[tuple[tuple[str, str] | None, list[int], list[int]]] = []
        with tqdm(total=len(requests), desc="tokenising", disable=disable_tqdm) as progress:
            for start in range(0, len(requests), TOGETHER):
                texts = [request.args for request in requests[start : start + TOGETHER]]
                # What `_encode_pair` will ask for: the two together, and the context without its trailing space.
                self.tokens.prepare(t for context, tail in texts if context for t in (context.rstrip(), context + tail))
                pairs += [((context, tail), *self._encode_request(context, tail)) for context, tail in texts]
                progress.update(len(texts))
        self.tokens.prepare(())
        return self._loglikelihood_tokens(pairs, disable_tqdm=disable_tqdm, name=_names(requests))

    def _encode_request(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """As lm-eval's `TemplateLM.loglikelihood`: a text without context follows the prefix token, once."""
        if context:
            pair: tuple[list[int], list[int]] = self._encode_pair(context, continuation)
            return pair
        ids = self.tok_encode(continuation, add_special_tokens=False)
        return ([self.prefix_token_id], ids) if ids[:1] != [self.prefix_token_id] else (ids[:1], ids[1:])

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        name: Callable[[int], str] = "request {}".format,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        fitted = self.window.fit_scores([(context, continuation) for _, context, continuation in requests], name)

        with tqdm(total=len(requests), desc="loglikelihood", disable=disable_tqdm) as progress:

            def done(index: int, score: Score) -> None:
                progress.update()
                if (key := requests[index][0]) is not None:
                    self.cache_hook.add_partial("loglikelihood", key, (score.total, score.greedy))

            scores = self.arm.score(fitted, on_result=done)
        return [(score.total, bool(score.greedy)) for score in scores]

    def loglikelihood_rolling(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each text, in disjoint windows of `max_length` tokens, each with one token of context."""
        texts = [request.args[0] for request in requests]
        self.tokens.prepare(texts)
        windows: list[ScoreRequest] = []
        owners: list[int] = []
        starts: list[int] = []
        for owner, request in enumerate(requests):
            pieces = get_rolling_token_windows(
                token_list=self._rolling_tokens(request),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            start = 0
            for context, continuation in map(make_disjoint_window, pieces):
                windows.append(ScoreRequest(tuple(context), tuple(continuation)))
                owners.append(owner)
                starts.append(start)
                start += len(continuation)
        self.tokens.prepare(())
        sizes = Counter(owners)
        parts: list[list[float]] = [[] for _ in texts]
        for owner in set(range(len(texts))) - set(sizes):  # nothing to predict in an empty text
            self.cache_hook.add_partial("loglikelihood_rolling", (texts[owner],), 0.0)

        with tqdm(total=len(windows), desc="loglikelihood_rolling", disable=disable_tqdm) as progress:

            def done(index: int, score: Score) -> None:
                progress.update()
                owner = owners[index]
                parts[owner].append(score.total)
                if len(parts[owner]) == sizes[owner]:
                    self.cache_hook.add_partial("loglikelihood_rolling", (texts[owner],), math.fsum(parts[owner]))

            scores = self.arm.score(windows, greedy=False, top=self.top_logprobs, on_result=done)
        self.text_windows += [
            text_window(requests[owner], start, window, score)
            for owner, start, window, score in zip(owners, starts, windows, scores, strict=True)
            if score.top is not None
        ]
        return [math.fsum(part) for part in parts]  # fsum: the same whatever order the windows arrived in

    def _rolling_tokens(self, request: "Instance") -> list[int]:
        """The text's tokens. BOS is the first one's context and no part of the text, where the tokenizer put it there.

        `hf` predicts it as if it were: one token more, from BOS to BOS. That is kept for lm-eval's own tasks, so that
        their values are comparable; ours follow the definition of perplexity.
        """
        ids = self.tok_encode(request.args[0])
        ours = (request.task_name or "").startswith(OURS)
        return ids[1:] if ours and ids[:1] == [self.prefix_token_id] else ids

    # -- generation ---------------------------------------------------------------------------------------------

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        """Generated text of each (prompt, generation arguments), cut at that request's own stop sequences."""
        prompts: list[tuple[list[int], int]] = []
        samplings: list[dict[str, Any]] = []
        stops: list[list[str]] = []
        self.tokens.prepare(request.args[0] for request in requests)
        for request in requests:
            text, gen_kwargs = request.args
            try:
                sampling, until = sampling_parameters(
                    gen_kwargs,
                    default_max=self.max_gen_toks,
                    eos=self.tokens.eos_text,
                    defaults=self._generation_defaults,
                )
            except UsageError as error:
                raise UsageError(f"{_name(request)}: {error}") from None
            prompts.append((self.tok_encode(text), sampling["max_new_tokens"]))
            samplings.append(sampling)
            stops.append(until)
        self.tokens.prepare(())
        fitted_prompts = self.window.fit_prompts(prompts, _names(requests))
        fitted = [GenerateRequest(*pair) for pair in zip(fitted_prompts, samplings, strict=True)]
        texts: dict[int, str] = {}

        with tqdm(total=len(requests), desc="generate_until", disable=disable_tqdm) as progress:

            def done(index: int, generation: Generation) -> None:
                progress.update()
                texts[index] = self._answer(generation, stops[index])
                self.cache_hook.add_partial("generate_until", requests[index].args, texts[index])

            self.arm.generate(fitted, on_result=done)
        return [texts[index] for index in range(len(requests))]

    def _answer(self, generation: Generation, until: list[str]) -> str:
        tokens = list(generation.tokens)
        if isinstance(self._think_end, int):
            places = [place for place, token in enumerate(tokens) if token == self._think_end]
            text = self.tok_decode(tokens[places[-1] + 1 :] if places else tokens).lstrip()
        else:
            text = self.tok_decode(tokens)
        marker = self._think_end if isinstance(self._think_end, str) else None
        return str(postprocess_generated_text(text, until, marker))


def _name(request: "Instance") -> str:
    """What a person finds the item by."""
    return f"{request.task_name or request.request_type} item {request.doc_id}"


def _names(requests: "Sequence[Instance]") -> Callable[[int], str]:
    return lambda index: _name(requests[index])
