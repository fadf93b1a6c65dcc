"""Writes this folder's YAML files: `python tasks/mmlu/generate.py [FOLDER]`.

One file a subject and one a group, as lm-eval has them, since its names, sizes and subgroups are what tools expect.
"""

import sys
from pathlib import Path

import yaml

from sage_eval.data.mmlu import CATEGORIES, SUBJECTS

ACCURACY = [{"metric": "acc", "weight_by_size": True}]


def subject_file(subject: str) -> dict[str, object]:
    """The task of one subject."""
    name = subject.replace("_", " ")
    return {
        "include": "_template_yaml",
        "task": f"sage_mmlu_{subject}",
        "task_alias": subject,
        "dataset_name": subject,
        "description": f"The following are multiple choice questions (with answers) about {name}.\n\n",
    }


def group_files() -> dict[str, dict[str, object]]:
    """The group of all 57 subjects and its four subgroups, their accuracies weighted by size."""
    groups: dict[str, dict[str, object]] = {
        "sage_mmlu": {"group": "sage_mmlu", "task": [f"sage_mmlu_{category}" for category in CATEGORIES]}
    }
    for category, members in CATEGORIES.items():
        name = f"sage_mmlu_{category}"
        tasks = [f"sage_mmlu_{subject}" for subject in members.split()]
        groups[name] = {"group": name, "group_alias": category.replace("_", " "), "task": tasks}
    return {
        name: group | {"aggregate_metric_list": ACCURACY, "metadata": {"version": 2}} for name, group in groups.items()
    }


def write(folder: Path) -> None:
    """Write all 62 files into `folder`."""
    files = {f"_{name}": group for name, group in group_files().items()}
    files |= {f"sage_mmlu_{subject}": subject_file(subject) for subject in SUBJECTS}
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False, width=120))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
