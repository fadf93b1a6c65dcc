"""Adds the start-up file to editable installs, where `force-include` of the wheel target does not apply."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class EditableStartupFile(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            build_data["force_include_editable"] = {"sage_eval_startup.pth": "sage_eval_startup.pth"}
