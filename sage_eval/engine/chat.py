"""A conversation as one prompt."""

import logging
from collections.abc import Mapping
from typing import Any

import jinja2

from sage_eval.errors import UsageError
from sage_eval.parsing import nearest

logger = logging.getLogger(__name__)
Conversation = list[dict[str, str]]


def choose(tokenizer: Any, name: bool | str) -> None:
    """Make the template `name` the tokenizer's only one (True: the one it takes by itself).

    Raises `UsageError` where it has no such one. lm-eval checks a name too, and then renders by the default template.
    """
    found = tokenizer.chat_template
    if found is None:
        raise UsageError(f"{tokenizer.name_or_path} has no chat template; run without applying one")
    several = found if isinstance(found, dict) else {}
    if isinstance(name, bool):
        if several and "default" not in several:
            raise UsageError(f"{tokenizer.name_or_path} has several chat templates: name one ({', '.join(several)})")
    elif name in several:
        tokenizer.chat_template = several[name]
    else:
        names = f"it has {', '.join(several)}" if several else "it has one, without a name"
        raise UsageError(f"{tokenizer.name_or_path} has no chat template {name!r}{nearest(name, several)}; {names}")


def render(tokenizer: Any, conversation: Conversation, *, add_generation_prompt: bool, more: Mapping[str, Any]) -> str:
    """By the tokenizer's template, given `more`; without the system message where the template knows no such role."""
    choose(tokenizer, True)

    def rendered(messages: Conversation) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **more,
            )
        )

    try:
        return rendered(conversation)
    except jinja2.TemplateError:
        logger.warning("the chat template refused the conversation; trying without its system message")
        return rendered([message for message in conversation if message["role"] != "system"])
