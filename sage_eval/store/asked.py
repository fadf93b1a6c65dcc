"""What lm-eval is asked beside the tasks' names: the options of its own command, by their names there.

A configuration has them as flags, and every arm as what it was told, so that its fingerprint says "asked the same".
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, model_validator

from sage_eval.parsing import parse_pairs

_PANEL: dict[str, Any] = {"panel": "lm-eval"}


def _limit(value: float | None) -> float | None:
    """A share of the items below 1, else a number of items: 5 and 5.0 are the same limit and have one fingerprint."""
    if value is None or value < 1:
        return value
    if value != int(value):
        raise ValueError("a share of the items is below 1, a number of items is whole")
    return int(value)


def _template(value: Any) -> Any:
    """A name, or what YAML calls true or false."""
    if isinstance(value, str):
        return {"true": True, "false": False, "1": True, "0": False, "": False}.get(value.lower(), value)
    return value


def _samples(value: Any) -> Any:
    """JSON objects, or the files that hold them, as one mapping; each task's numbers in the data set's order."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list | tuple):
        found: dict[str, Any] = {}
        for text in value:
            found |= _json(text)
        value = found
    if not isinstance(value, Mapping):
        raise ValueError('not of the form {"TASK": [0, 3, 6]}')
    for task, numbers in value.items():
        if not isinstance(numbers, list | tuple) or not numbers or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"{task}: want a list of item numbers, which begin with 0")
    # lm-eval reads the documents in their own order, and would put the numbers of a list in another order to them.
    return {task: sorted(set(numbers)) for task, numbers in value.items()}


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text())
    except OSError as error:
        raise ValueError(f"neither JSON nor a file that can be read ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError('not of the form {"TASK": [0, 3, 6]}')
    return value


class Asked(BaseModel):
    """lm-eval's options. Descriptions are the help texts of the flags."""

    limit: Annotated[float | int | None, AfterValidator(_limit)] = Field(
        None,
        gt=0,
        description="items per task (per subject of MMLU), or their share where below 1; default: all",
        json_schema_extra=_PANEL,
    )
    samples: Annotated[dict[str, list[int]], BeforeValidator(_samples)] = Field(
        default_factory=dict,
        description="items by number, such as '{\"sage_prose\": [0, 2]}', or a JSON file of that form; tasks that are "
        "not named answer all of theirs",
        json_schema_extra=_PANEL,
    )
    num_fewshot: int | None = Field(
        None,
        ge=0,
        description="examples before each question; default: each task's own number. A task that is defined without "
        "examples stays so",
        json_schema_extra=_PANEL,
    )
    apply_chat_template: Annotated[str | bool, BeforeValidator(_template)] = Field(
        False,
        description="ask as a conversation, by the tokenizer's chat template, or by the one of that NAME where it has "
        "several",
        json_schema_extra={**_PANEL, "bare": "true", "metavar": "[NAME]"},
    )
    fewshot_as_multiturn: bool = Field(
        True,
        description="with a chat template: each example is a turn of its own; false: all are in one",
        json_schema_extra={**_PANEL, "bare": "true", "metavar": "[BOOL]"},
    )
    system_instruction: str | None = Field(
        None, description="text before every prompt, with a chat template the system's turn", json_schema_extra=_PANEL
    )
    gen_kwargs: Annotated[dict[str, Any], BeforeValidator(parse_pairs)] = Field(
        default_factory=dict,
        description="name=value,… over the tasks' own arguments of generation, such as max_gen_toks=64",
        json_schema_extra=_PANEL,
    )
    include_path: tuple[Path, ...] = Field(
        (), description="folder with task files of yours; may be given several times", json_schema_extra=_PANEL
    )
    predict_only: bool = Field(
        False,
        description="keep the answers and compute no metric: the report says how many differ, and there is no verdict",
        json_schema_extra={**_PANEL, "single": True},
    )
    confirm_run_unsafe_code: bool = Field(
        False,
        description="run tasks that execute the code which the model writes",
        json_schema_extra={**_PANEL, "single": True},
    )

    @model_validator(mode="after")
    def _one_selection(self) -> Self:
        if self.limit is not None and self.samples:
            raise ValueError("limit and samples are both given: one of them chooses the items")
        return self
