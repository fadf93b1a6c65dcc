"""lm-eval's options put to loaded tasks, and what they cannot be asked: said before an engine is started.

A run and a dry run go this one way, so that each refuses what the other does. What is set here is what lm-eval's
`simple_evaluate` would set; the conversation's form is told to it (`told`), as only it builds the requests of a run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_eval.errors import DataError, SageEvalError, UsageError
from sage_eval.parsing import nearest
from sage_eval.store.asked import Asked
from sage_eval.store.spec import ArmSpec

if TYPE_CHECKING:
    from sage_eval.engine.tokens import Tokens

Template = Callable[..., str]
"""`LM.apply_chat_template`."""


def prepare(tasks: Mapping[str, Any], options: Asked, seed: int) -> None:
    """Set the options that tasks keep themselves. Raises `UsageError` for those that these tasks cannot follow."""
    generating = [task for task in tasks.values() if task.OUTPUT_TYPE == "generate_until"]
    if options.gen_kwargs and not generating:
        raise UsageError(f"--gen-kwargs {', '.join(options.gen_kwargs)}: no task of this run generates text")
    for task in generating:
        if options.gen_kwargs:
            task.set_config(key="generation_kwargs", value=dict(options.gen_kwargs), update=True)
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False) and not options.confirm_run_unsafe_code:
            raise UsageError(f"{name} executes code that the model writes: allow it by --confirm-run-unsafe-code")
        if getattr(task, "MULTIMODAL", False):
            raise UsageError(f"{name} asks about images or sound, and only text is compared")
        if options.predict_only:
            task.override_metric(metric_name="bypass")
        own = task.get_config("num_fewshot")
        # As lm-eval has it: a task that says 0 is never given examples.
        if own != 0:
            task.set_config(key="num_fewshot", value=(own or 0) if options.num_fewshot is None else options.num_fewshot)
        task.set_fewshot_seed(seed=seed)
    _check_samples(tasks, options.samples)


def _check_samples(tasks: Mapping[str, Any], samples: Mapping[str, list[int]]) -> None:
    for name, numbers in samples.items():
        if name not in tasks:
            raise UsageError(f"--samples {name}: no task of this run{nearest(name, tasks)}")
        if numbers[-1] >= (count := len(tasks[name].eval_docs)):
            raise UsageError(f"--samples {name}: item {numbers[-1]} is not among its {count:,} (0 to {count - 1})")


def tokens(arguments: Mapping[str, Any]) -> "Tokens":
    """The tokenizer of a model's arguments, as `sglang-sage` has it."""
    from sage_eval.engine.tokens import Tokens

    return Tokens.load(
        arguments.get("tokenizer") or arguments["pretrained"],
        add_bos=arguments.get("add_bos_token"),
        prefix=arguments.get("prefix_token_id"),
        revision=arguments.get("revision"),
        trust_remote_code=arguments.get("trust_remote_code"),
    )


def template(options: Asked, arguments: Mapping[str, Any]) -> Template | None:
    """How a conversation becomes a prompt, by the tokenizer of a model's `arguments`; None where none is asked for.

    Raises `UsageError` where the tokenizer has no such template.
    """
    if not options.apply_chat_template:
        return None
    from sage_eval.engine.chat import choose, render

    loaded = tokens(arguments).tokenizer
    choose(loaded, options.apply_chat_template)
    more = dict(arguments.get("chat_template_args") or {})
    if (thinking := arguments.get("enable_thinking")) is not None:
        more["enable_thinking"] = thinking

    def apply(chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return render(loaded, chat_history, add_generation_prompt=add_generation_prompt, more=more)

    return apply


def told(options: Asked) -> dict[str, Any]:
    """What `simple_evaluate` is told of the options: those that `prepare` has not set."""
    return {
        "limit": options.limit,
        "samples": options.samples or None,
        "apply_chat_template": options.apply_chat_template,
        "fewshot_as_multiturn": options.fewshot_as_multiturn,
        "system_instruction": options.system_instruction,
        "confirm_run_unsafe_code": options.confirm_run_unsafe_code,
        "bootstrap_iters": 0,  # its standard errors are of one arm, and nobody reads them
    }


def build(name: str, task: Any, options: Asked, chat: Template | None, limit: float | None) -> list[Any]:
    """The requests of `limit` items of a prepared task (None: all, a share below 1), as a run will make them.

    Raises `DataError` that names the task for whatever its own code raises meanwhile.
    """
    from lm_eval.evaluator_utils import get_sample_size

    try:
        task.build_all_requests(
            limit=get_sample_size(task, limit),
            samples=options.samples.get(name),
            rank=0,
            world_size=1,
            system_instruction=options.system_instruction,
            apply_chat_template=chat is not None,
            fewshot_as_multiturn=options.fewshot_as_multiturn,
            chat_template=chat,
        )
    except SageEvalError:
        raise
    except Exception as error:
        raise DataError(
            f"{name}: its requests cannot be made: {' '.join(str(error).split()) or repr(error)}"
        ) from error
    return list(task.instances)


def rehearse(spec: ArmSpec, tasks: Mapping[str, Any]) -> None:
    """Make each task's first requests, as far as it can be done without an engine; raises what the run would raise."""
    chat = template(spec, spec.model_args)
    first = spec.model_copy(update={"samples": {name: numbers[:1] for name, numbers in spec.samples.items()}})
    for name, task in tasks.items():
        check(spec.lm, spec.model_args, build(name, task, first, chat, 1))
        task.set_fewshot_seed(seed=spec.seed)


def check(lm: str, arguments: Mapping[str, Any], requests: Sequence[Any]) -> None:
    """Raise `UsageError` for what `sglang-sage` refuses in the first of a task's `requests`."""
    if lm != "sglang-sage":
        return
    instance = requests[0]
    if instance.request_type == "loglikelihood_rolling":
        _ = tokens(arguments).prefix  # a token to put before a text
    if instance.request_type == "loglikelihood" and arguments.get("enable_thinking"):
        raise UsageError("enable_thinking=True is for generation; loglikelihood tasks need it off")
    if instance.request_type == "generate_until":
        from sage_eval.engine.gen_kwargs import sampling_parameters

        try:
            sampling_parameters(instance.args[1], default_max=256, eos=None)
        except UsageError as error:
            raise UsageError(f"{instance.task_name} item {instance.doc_id}: {error}") from None
