"""Text and samplers small enough for every test."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from reference_model.recipe.cells import evaluation_sampler
from reference_model.recipe.haystack import Haystack
from reference_model.recipe.keys import training_key
from reference_model.recipe.samples import Sampler
from reference_model.recipe.words import Words, training_words

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def filler() -> str:
    return (ROOT / "tasks" / "retrieval" / "filler.txt").read_text()


@pytest.fixture(scope="session")
def tokenizer(reference_model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(reference_model / "tokenizer.json"))


@pytest.fixture(scope="session")
def words(prose: str) -> Words:
    return training_words([prose], least=2)


@pytest.fixture(scope="session")
def sampler(tokenizer: Tokenizer, filler: str, prose: str, words: Words) -> Sampler:
    """As in training."""
    ids = np.array(tokenizer.encode(filler + prose).ids, np.uint16)
    return Sampler(tokenizer, Haystack(tokenizer, ids), training_key(words), words)


@pytest.fixture(scope="session")
def examiner(reference_model: Path, filler: str) -> Sampler:
    """As in evaluation."""
    return evaluation_sampler(str(reference_model / "tokenizer.json"), [" ".join((filler * 8).split())])


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, filler: str, prose: str) -> Path:
    """A folder of text files, one of them with two documents."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text(f"{prose}\f{filler}")
    (folder / "b.md").write_text((ROOT / "README.md").read_text())
    return folder
