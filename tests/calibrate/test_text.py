import pytest

from sage_eval.calibrate.text import calibration
from sage_eval.errors import PrerequisiteError, UsageError


def test_a_file_is_cut_into_windows_from_its_start(reference_model, text):
    found = calibration(reference_model, text, tokens=700, window=256)
    assert [len(window) for window in found.windows] == [256, 256]
    assert found.tokens == 512
    joined = calibration(reference_model, text, tokens=512, window=512)
    assert joined.windows[0] == found.windows[0] + found.windows[1]
    assert found.source.startswith("text.txt (SHA-256 ")


def test_a_short_text_gives_what_it_has(reference_model, text):
    text.write_text(text.read_text()[:2000])
    [window] = calibration(reference_model, text, tokens=16_384).windows
    assert 128 <= len(window) < 2048


def test_less_than_two_key_blocks_is_refused(reference_model, text):
    text.write_text("A few words.")
    with pytest.raises(UsageError, match="at least 128"):
        calibration(reference_model, text, tokens=2048)


def test_a_missing_file_is_named(reference_model, tmp_path):
    with pytest.raises(PrerequisiteError, match=r"absent\.txt"):
        calibration(reference_model, tmp_path / "absent.txt", tokens=2048)


def test_every_window_begins_with_bos_where_the_tokenizer_puts_one(reference_model, text, tmp_path):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reference_model)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(tmp_path)
    found = calibration(tmp_path, text, tokens=512, window=256)
    assert [(window[0], len(window)) for window in found.windows] == [(tokenizer.bos_token_id, 256)] * 2


def test_wikitext_windows_are_seeded_and_from_the_validation_set(reference_model, tmp_path, monkeypatch):
    lines = [f" Line {i} of a text that is long enough for some windows . " for i in range(2000)]
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "wiki.valid.raw").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr("sage_eval.data.folder.pins", dict)
    monkeypatch.setenv("SAGE_EVAL_DATA", str(tmp_path))
    one, two = (calibration(reference_model, tokens=1024, window=256) for _ in range(2))
    assert one == two
    assert len(one.windows) == 4
    assert one.source.startswith("WikiText-2 validation, windows ")
