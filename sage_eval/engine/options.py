"""What distinguishes one arm from another, validated before anything heavy starts."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sage_eval.attention.settings import AttentionSettings
from sage_eval.errors import UsageError
from sage_eval.parsing import nearest
from sage_eval.seams import server_arguments

SAGE = "sage_attn"
RESERVED_TOKENS = 8
"""SGLang serves prompts of up to `context_length - 7` tokens, and one place is kept for a new token."""

Mode = Literal["fidelity", "throughput"]
BACKEND_ARGUMENTS = ("attention_backend", "prefill_attention_backend", "decode_attention_backend")
_OWN = ("mode", "max_length", "order_seed")
_FIDELITY: dict[str, Any] = {"disable_radix_cache": True, "chunked_prefill_size": -1}
_CPU: dict[str, Any] = {
    "disable_cuda_graph": True,
    "sleep_on_idle": True,  # an idle scheduler would take half a core
    "max_prefill_tokens": 2048,  # more at a time is no faster on a CPU, and the first answers would wait for the last
}
_COMMON: dict[str, Any] = {
    "enable_fp32_lm_head": True,
    "grammar_backend": "none",
    "log_level": "error",
    "random_seed": 0,
}


class ArmOptions(BaseModel):
    """One engine configuration under test.

    `engine` holds SGLang's own engine arguments (`sglang.srt.server_args.ServerArgs`), which win over every default
    below. `fidelity` computes every prefill token afresh and in one piece; `throughput` is what a server would do.
    `order_seed` sends the requests in a random order of that seed, to see what their order does to the answers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    mode: Mode = "fidelity"
    max_length: int | None = Field(None, ge=2)
    order_seed: int | None = None
    attention: AttentionSettings | None = None
    engine: dict[str, Any] = {}

    @classmethod
    def from_arguments(cls, model: str, **arguments: Any) -> Self:
        """Sort `arguments` into this project's options, `sage_attn` settings and SGLang engine arguments.

        Raises `UsageError` for a name that is none of them (with the nearest that is), and for a `sage_attn` setting
        given to another backend.
        """
        own = {name: arguments.pop(name) for name in _OWN if name in arguments}
        settings = {name: arguments.pop(name) for name in AttentionSettings.model_fields if name in arguments}
        engine = {name: value for name, value in arguments.items() if value is not None}
        known = server_arguments()
        if unknown := next((name for name in engine if name not in known), None):
            close = nearest(unknown, [*known, *AttentionSettings.model_fields, *_OWN])
            raise UsageError(f"{unknown!r} is no argument of SGLang's engine or of ours{close}")
        try:
            options = cls(model=model, engine=engine, **own)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "options"
            raise UsageError(f"{name}={first['input']!r}: {first['msg']}") from None
        if not options.uses_sage:
            if settings:
                raise UsageError(
                    f"{', '.join(settings)}: settings of attention_backend={SAGE}, but the backend is "
                    f"{options.backend or 'the default'}; remove them or choose {SAGE}"
                )
            return options
        inherited = AttentionSettings.from_env().model_dump(exclude_unset=True)
        attention = AttentionSettings.from_mapping(inherited | settings)
        if options.mode == "fidelity" and attention.min_tokens:
            raise UsageError(
                f"min_tokens={attention.min_tokens} computes short sequences with another kernel, and mode=fidelity "
                "promises that none is: remove it, or choose mode=throughput"
            )
        return options.model_copy(update={"attention": attention})

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.max_length is not None and "context_length" in self.engine:
            raise UsageError("max_length and context_length are both given; max_length alone is enough")
        return self

    @property
    def backend(self) -> str | None:
        """The backend asked for by name, `prefill+decode` where they differ, or None for SGLang's own choice."""
        general, prefill, decode = (self.engine.get(name) for name in BACKEND_ARGUMENTS)
        prefill, decode = prefill or general, decode or general
        return prefill if prefill == decode else f"{prefill or 'default'}+{decode or 'default'}"

    @property
    def uses_sage(self) -> bool:
        """Whether `sage_attn` computes any phase."""
        return any(self.engine.get(name) == SAGE for name in BACKEND_ARGUMENTS)

    @property
    def sage_prefill(self) -> bool:
        """Whether `sage_attn` computes the prefill."""
        return (self.engine.get("prefill_attention_backend") or self.engine.get("attention_backend")) == SAGE

    def server_args(self, device: str) -> dict[str, Any]:
        """Keyword arguments for SGLang's `ServerArgs` on `device` ("cuda", "cpu")."""
        values = dict(_COMMON, model_path=self.model, device=device)
        if device == "cpu":
            values |= _CPU
        if self.mode == "fidelity":
            values |= _FIDELITY
        if self.max_length is not None:
            values["context_length"] = self.max_length + RESERVED_TOKENS
        if device != "cpu" and self.mode == "fidelity" and self.max_length is not None:
            # Without chunking a prompt must fit into one prefill batch.
            values["max_prefill_tokens"] = max(16_384, self.max_length + RESERVED_TOKENS)
        return values | self.engine | {"device": device}

    def environment(self) -> dict[str, str]:
        """Environment variables the scheduler process needs."""
        variables = self.attention.to_env() if self.attention else {}
        if self.max_length is not None:
            # The window is the model's; only SGLang's reserved places are beyond it, and no token is put there.
            variables["SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"] = "1"
        return variables
