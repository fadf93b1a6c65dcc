"""A conversation, two few-shot turns, a multiple-choice and a generative task: our model in both modes against `hf`."""

import shutil
from pathlib import Path

import pytest

from tests.data.standard import write_folder

pytestmark = [pytest.mark.engine, pytest.mark.slow]

TOLERANCE = 1e-3  # nats a token
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def asked(reference_model, tmp_path_factory):
    """`asked(kind)`: samples by task of lm-eval's `hf`, or of ours in mode `kind`."""
    import lm_eval.tasks
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from model_adapters.sglang_sage import SGLangSageLM
    from sage_eval.compare.tasks import load_tasks

    model = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(reference_model, model)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    there = Path(lm_eval.tasks.__file__).parent
    tasks = [str(there / "gsm8k" / "gsm8k.yaml"), str(there / "gpqa" / "n_shot" / "gpqa_main_n_shot.yaml")]

    def asked(kind):
        arguments = {"pretrained": str(model), "dtype": "float32", "max_length": 2048}
        if kind == "hf":
            lm = HFLM(**arguments, device="cpu", batch_size=1)
        else:
            lm = SGLangSageLM(**arguments, mode=kind, attention_backend="torch_native")
        try:
            return simple_evaluate(
                lm, tasks=tasks, task_manager=manager, num_fewshot=2, limit=3, log_samples=True,
                apply_chat_template=True, fewshot_as_multiturn=True, bootstrap_iters=0, gen_kwargs="max_gen_toks=24",
            )["samples"]  # fmt: skip
        finally:
            if kind != "hf":
                lm.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAGE_EVAL_DATA", str(write_folder(tmp_path_factory.mktemp("data"))))
        # Once: GPQA shuffles its choices with a generator of its module, which goes on at each loading.
        manager, _ = load_tasks(tasks, str(model), {})
        yield asked


@pytest.fixture(scope="module")
def theirs(asked):
    return asked("hf")


@pytest.mark.parametrize("mode", ["fidelity", "throughput"])
def test_a_conversation_has_the_scores_and_texts_of_hf(asked, theirs, mode):
    ours = asked(mode)
    turns = theirs["gsm8k"][0]["arguments"][0][0]
    assert turns.count("user: Question:") == 3, "two examples and the question"
    assert turns.endswith("assistant: ")
    for task, samples in theirs.items():
        for their, our in zip(samples, ours[task], strict=True):
            assert our["arguments"] == their["arguments"]
            for our_answer, their_answer in zip(our["resps"], their["resps"], strict=True):
                if task == "gsm8k":
                    assert our_answer == their_answer
                else:
                    (our_total, our_flag), (their_total, their_flag) = our_answer[0], their_answer[0]
                    assert abs(our_total - their_total) <= TOLERANCE
                    assert our_flag == their_flag
