"""The settings of the `sage_attn` backend, with one name each in every place they can be set.

A setting `variant` is `--model_args variant=…` in lm-eval, a flag of `sage-eval`, and the environment variable
`SAGE_ATTN_VARIANT`. The environment is how they reach SGLang's scheduler process, so it is also how
`python -m sglang.launch_server --attention-backend sage_attn` takes them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer

from sage_eval.errors import UsageError
from sage_eval.parsing import nearest

ENV_PREFIX = "SAGE_ATTN_"

Variant = Literal["exact", "int8-fp16", "int8-fp8", "int4-fp16"]
Smoothing = Literal["sequence", "static", "off"]


class AttentionSettings(BaseModel):
    """What `sage_attn` computes. Field descriptions are the help texts of every front end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kernel: Literal["auto", "torch", "paged", "package"] = Field(
        "auto",
        description="implementation: torch (plain PyTorch, any device), paged (our kernels over the paged KV cache, "
        "CUDA), package (the released sageattention, where it is valid); auto takes paged on CUDA, torch elsewhere",
    )
    variant: Variant = Field(
        "int8-fp16",
        description="numerics: int8-fp16 (SageAttention 1), int8-fp8 (in the manner of SageAttention 2), exact (the "
        "same code without quantisation), int4-fp16 (a positive control: known to be damaged)",
    )
    smooth_k: Smoothing = Field(
        "sequence",
        description="what is subtracted from K before quantisation: the sequence's own mean, a shift fixed once per "
        "model and layer (static, from the file named by shift), or nothing",
    )
    shift: Path | None = Field(
        None,
        description="with smooth_k=static: safetensors file of the shifts, one a layer, as `sage-eval calibrate MODEL` "
        "writes it",
    )
    balance: Path | None = Field(
        None,
        description="safetensors file of factors, one per channel and KV head: K is divided by them and Q multiplied "
        "before quantisation, which changes no product and evens out outliers; `sage-eval calibrate MODEL --balance "
        "FILE` writes it",
    )
    decode: Literal["auto", "exact", "quantised"] = Field(
        "auto",
        description="numerics of single-token decode steps: exact on CUDA; in plain PyTorch, without a GPU, quantised "
        "(auto) or exact",
    )
    min_tokens: int = Field(
        0, ge=0, description="a sequence shorter than this many tokens is computed exactly (decided per sequence)"
    )
    strict: bool = Field(
        False, description="with kernel=package: a token that the package cannot serve is an error, not a fallback"
    )

    @field_serializer("shift", "balance")
    def _path_as_text(self, path: Path | None) -> str | None:
        return None if path is None else str(path)

    def check(self) -> None:
        """Raise `UsageError` for settings that do not go together."""
        if self.smooth_k == "static" and self.shift is None:
            raise UsageError(
                "smooth_k=static needs the model's shifts: write them with `sage-eval calibrate MODEL` and pass the "
                "file as shift=FILE, or use smooth_k=sequence"
            )
        if self.smooth_k == "sequence" and self.shift is not None:
            raise UsageError(f"shift={self.shift} is read with smooth_k=static only: set that too, or leave it out")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "AttentionSettings":
        """Validate `values`; raises `UsageError` naming the setting, the bad value and the valid ones."""
        settings = cls._parse(values)
        settings.check()
        return settings

    @classmethod
    def _parse(cls, values: Mapping[str, Any]) -> "AttentionSettings":
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                known = cls.model_fields
                raise UsageError(
                    f"sage_attn has no setting {name}{nearest(name, known)}; valid: {', '.join(known)}"
                ) from None
            raise UsageError(f"sage_attn setting {name}={first['input']!r}: {first['msg']}") from None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> "AttentionSettings":
        """Read `SAGE_ATTN_*`; an unknown name with that prefix is a `UsageError`, since a typo would go unnoticed.

        Other sources may complete what the environment says, so that `check` is left to the caller.
        """
        environ = os.environ if environ is None else environ
        values = {
            name.removeprefix(ENV_PREFIX).lower(): value
            for name, value in environ.items()
            if name.startswith(ENV_PREFIX)
        }
        return cls._parse(values)

    def to_env(self) -> dict[str, str]:
        """The environment variables that make `from_env` return these settings."""
        return {ENV_PREFIX + name.upper(): str(value) for name, value in self.model_dump(exclude_none=True).items()}
