"""One measurement from its command line to `logits.json`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sage_eval.engine.arm import open_arm
from sage_eval.engine.checks import check_before_start, load_config
from sage_eval.engine.options import ArmOptions
from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.probes.arms import parse_arms, role
from sage_eval.probes.logits.chunks import STEP
from sage_eval.probes.logits.figures import figures
from sage_eval.probes.logits.plan import CLASSES, choose
from sage_eval.probes.logits.probe import Wanted, Work, probe
from sage_eval.probes.logits.record import LOGITS, LogitsRecord
from sage_eval.probes.logits.summary import classes
from sage_eval.runs.calibration import Role
from sage_eval.runs.files import write_bytes, write_json


class Options(NamedTuple):
    """What is asked of every arm: see `plan.choose`, and `generated` greedy tokens after `continuations` prompts.

    `texts` are files, a document each; without any, the articles of WikiText-2's test set.
    """

    positions: int = 4096
    prompts: int = 32
    longest: int = 8192
    seed: int = 0
    continuations: int = 32
    generated: int = 64
    texts: tuple[Path, ...] = ()
    model_args: Mapping[str, Any] = {}


def measure(
    model: str, arms: str, options: Options, *, output: Path | None, command: str, say: Callable[[str], None]
) -> tuple[LogitsRecord, Path]:
    """Measure `arms` on `model`; the record is written anew as each arm is done. Returns it and its folder.

    Raises as `probe.probe`, and `UsageError`, `PrerequisiteError` and `DataError` for what is wrong before an engine
    starts.
    """
    from model_adapters._tokens import Tokens
    from sage_eval.attention.source import source_hash
    from sage_eval.runs.manifest import describe_model, devices, find_model, host, versions

    source = find_model(model)
    parsed = parse_arms(arms)
    folder = output or Path("results") / f"logits-{source.resolve().name}"
    config = load_config(ArmOptions.from_arguments(str(source), **{**options.model_args, **parsed[0].arguments}))
    text_config = config.get_text_config()
    longest = min(options.longest, getattr(text_config, "max_position_embeddings", options.longest))
    common = {
        "max_length": max(longest, min(longest, CLASSES["medium"][1]) + options.generated),
        # Prompts are prefilled once each and few tokens decoded: capturing graphs would take longer than they save.
        "disable_cuda_graph": True,
        **options.model_args,
    }
    wanted = _wanted(str(source), {arm.name: common | arm.arguments for arm in parsed})
    tokenizer = Tokens.load(str(source), add_bos=None, prefix=None)
    documents = [tokenizer.encode(page, add_special_tokens=False) for page in _documents(options.texts)]
    chosen = choose(
        documents, prompts=options.prompts, positions=options.positions, longest=longest, seed=options.seed,
        head=tokenizer.encode(""),
    )  # fmt: skip
    after = [prompt.tokens for prompt in chosen if prompt.kind != "long"][: options.continuations]
    name = ", ".join(path.name for path in options.texts) or "WikiText-2 test"
    work = Work(chosen, int(text_config.vocab_size), name, after if options.generated else [], options.generated)
    record = LogitsRecord(
        created=datetime.now(UTC).replace(microsecond=0).isoformat(),
        command=command,
        model=describe_model(model, source),
        source=source_hash(),
        seed=options.seed,
        settings={
            "positions": sum(len(prompt.positions) for prompt in chosen),
            "prompts": options.prompts,
            "longest": longest,
            "continuations": len(work.texts_after),
            "generated": options.generated,
            "model_args": dict(options.model_args),
        },
        texts=name,
        vocabulary=work.vocabulary,
        resolution=STEP,
        classes=classes(chosen),
        versions=versions(),
        host=host(),
        devices=devices(),
    )
    for result in probe(wanted, work, lambda ids: tokenizer.decode(ids, skip_special_tokens=False)):
        record = record.model_copy(update={"arms": [*record.arms, result]})
        write_json(folder / LOGITS, record.model_dump(mode="json"))
        say(f"{result.name}: {result.error or f'started in {result.start_seconds} s, done in {result.seconds} s'}")
    for file, svg in figures(record).items():
        write_bytes(folder / f"{file}.svg", svg.encode())
    return record, folder


def _wanted(model: str, arms: Mapping[str, dict[str, Any]]) -> list[Wanted]:
    """The arms; one that computes the same as the first is the floor. Whatever is wrong with any is raised here."""
    found: list[Wanted] = []
    first: ArmOptions | None = None
    for name, arguments in arms.items():
        options = ArmOptions.from_arguments(model, **arguments)
        if not (options.engine["disable_cuda_graph"] or options.engine.get("disable_prefill_cuda_graph")):
            raise UsageError(
                "disable_cuda_graph=False: in a prefill graph prompts cannot be told apart; leave it out, or add "
                "disable_prefill_cuda_graph=True"
            )
        check_before_start(options)
        first = first or options
        same = (options.backend, options.attention) == (first.backend, first.attention)
        part: Role = "baseline" if not found else "floor" if same else role(options)

        def opened(arguments: dict[str, Any], **more: Any) -> Any:
            return open_arm(ArmOptions.from_arguments(model, **arguments, **more))

        found.append(Wanted(name, arguments, part, functools.partial(opened, arguments)))
    return found


def _documents(texts: Sequence[Path]) -> list[str]:
    from sage_eval.data.wikitext import documents, load_raw

    if not texts:
        return documents(load_raw("test"))
    try:
        return [path.read_text(encoding="utf-8") for path in texts]
    except (OSError, UnicodeDecodeError) as error:
        raise PrerequisiteError(f"--text: {error}; give files of UTF-8 text") from None
