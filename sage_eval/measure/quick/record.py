"""What one `sage-eval quick` found: the JSON that it prints. Times in seconds, log-probabilities in nats."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_eval.measure.determinism.instrument import Way

State = Literal["fine", "not fine", "could not tell"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Check(_Part):
    """One question, its answer, and the number behind it in a sentence."""

    name: str
    state: State
    said: str


class Logprobs(_Part):
    """Log-probabilities of texts, each token after all before it.

    `prompts` hashes the token ids; `values` are [texts, tokens - 1], of 5 decimals. `listed_mass` is the largest sum of
    the probabilities of the `top` most probable tokens at any position, `whole_mass` the sums over the whole vocabulary
    after each text (empty where its size is not known here). `inversions` counts positions at which a token was more
    probable than the most probable one. `decoded`: |prefill - decode| of the same greedy tokens, mean and largest.
    """

    prompts: str
    values: list[list[float]]
    top: int
    listed_mass: float
    whole_mass: list[float]
    inversions: int
    decoded_mean: float
    decoded_largest: float


class Speed(_Part):
    """At one size of input: `first` the seconds to the first token of one prompt, run by run.

    `together` prompts at once were read at `prefill` tokens a second and then went on at `decode`, all together.
    """

    size: str
    input_tokens: int
    first: list[float]
    together: int
    prefill: float | None = None
    decode: float | None = None


class Retrieval(_Part):
    """Numbers hidden in texts of a length in tokens: how many were asked for and how many found."""

    length: int
    asked: int
    found: int


class QuickRecord(_Part):
    """A server at one time. A part that was not measured is None or empty, and `missing` says why, by its name."""

    schema_version: Literal[1] = 1
    kind: Literal["quick"] = "quick"
    created: str
    """ISO 8601, UTC."""
    sage_eval: str
    """Version."""
    seconds: float = 0.0
    """That it took."""
    server: dict[str, Any]
    """What the server says of itself: model, version, backend, dtype, KV cache, and settings that decide numbers."""
    logprobs: Logprobs | None = None
    determinism: list[Way] = Field(default_factory=list)
    speed: list[Speed] = Field(default_factory=list)
    retrieval: list[Retrieval] = Field(default_factory=list)
    memory: dict[str, float] = Field(default_factory=dict)
    """GB by purpose, summed over the server's ranks, as it reports them."""
    coverage: dict[str, float] = Field(default_factory=dict)
    """Tokens by "phase/kernel" during the check, where the sage-eval plugin runs in the server."""
    missing: dict[str, str] = Field(default_factory=dict)
    failed: dict[str, str] = Field(default_factory=dict)
    """Errors of the server, by the part in which they came up."""
    checks: list[Check] = Field(default_factory=list)
