"""`--attention-backend sage_attn` in the form of SGLang's own backend tests: a launched server, generation, MMLU,
and the outputs of two backends compared.
"""

import os
import sys
import unittest
from pathlib import Path

import pytest
import requests
from sglang.srt.utils import kill_process_tree
from sglang.srt.utils.network import get_open_port
from sglang.test.test_utils import CustomTestCase, popen_launch_server
from transformers import AutoTokenizer

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1200)]

MODEL = Path(__file__).resolve().parents[2] / "reference_model"
PROMPTS = [
    "The captain of the ship looked out over the water and",
    "In the morning they went down to the village, where",
    "A special magic number is hidden here. One of the special magic numbers for apple-tree is: 4711009. "
    "What is the special magic number for apple-tree mentioned in the provided text? "
    "The special magic number for apple-tree mentioned in the provided text is",
]
QUESTIONS = [  # MMLU's form, made up here: the real set is the business of tests/tasks
    ("Which of these is a colour?", ["red", "seven", "to run", "Monday"], "A"),
    ("How many legs has a horse?", ["two", "three", "four", "five"], "C"),
] * 16


class TestSageAttentionBackend(CustomTestCase):
    """One server with `sage_attn`, one with SGLang's choice for this host."""

    @classmethod
    def setUpClass(cls):
        cls.answers = {}
        for backend in ("torch_native", "sage_attn"):
            cls.answers[backend] = cls.ask(backend)

    @classmethod
    def ask(cls, backend):
        url = f"http://127.0.0.1:{get_open_port()}"
        server = popen_launch_server(
            str(MODEL),
            url,
            timeout=600,
            other_args=["--attention-backend", backend, "--device", "cpu", "--disable-cuda-graph"],
            # The launcher calls the `sglang` command of the environment that runs this test.
            env={"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])},
            device="cpu",
        )
        try:

            def post(text, **options):
                sampling = {"max_new_tokens": 16, "temperature": 0} | options.pop("sampling", {})
                body = {"text": text, "sampling_params": sampling, **options}
                return requests.post(f"{url}/generate", json=body, timeout=300).json()

            ids = [AutoTokenizer.from_pretrained(MODEL).encode(f" {letter}")[-1] for letter in "ABCD"]
            questions = [
                post(
                    f"{text}\n" + "\n".join(f"{c}. {o}" for c, o in zip("ABCD", options, strict=True)) + "\nAnswer:",
                    sampling={"max_new_tokens": 1},
                    return_logprob=True,
                    token_ids_logprob=ids,
                )
                for text, options, _ in QUESTIONS
            ]
            return {
                "texts": [post(text)["text"] for text in PROMPTS],
                "again": [post(text)["text"] for text in PROMPTS],
                "logprobs": [
                    [
                        entry[0]
                        for entry in post(text, return_logprob=True, logprob_start_len=0)["meta_info"][
                            "input_token_logprobs"
                        ][1:]
                    ]
                    for text in PROMPTS
                ],
                "letters": [
                    [entry[0] for entry in reply["meta_info"]["output_token_ids_logprobs"][0]] for reply in questions
                ],
                "info": requests.get(f"{url}/get_server_info", timeout=60).json(),
            }
        finally:
            kill_process_tree(server.pid)

    def test_generation(self):
        texts = self.answers["sage_attn"]["texts"]
        self.assertTrue(all(text.strip() for text in texts))
        self.assertIn("4711009", texts[2])

    def test_generation_after_a_prefix_hit(self):
        self.assertIn("4711009", self.answers["sage_attn"]["again"][2])

    def test_mmlu_form(self):
        """Every question is answered, and as the exact backend answers it but for near ties."""
        for exact, sage in zip(*(self.answers[b]["letters"] for b in ("torch_native", "sage_attn")), strict=True):
            self.assertEqual(len(sage), 4)
            gap = sorted(exact)[-1] - sorted(exact)[-2]
            if gap > 0.05:
                self.assertEqual(sage.index(max(sage)), exact.index(max(exact)))

    def test_outputs_between_backends(self):
        """Close to the exact backend, and not the exact backend."""
        pairs = [
            (a, b)
            for exact, sage in zip(*(self.answers[b]["logprobs"] for b in ("torch_native", "sage_attn")), strict=True)
            for a, b in zip(exact, sage, strict=True)
        ]
        mean = sum(abs(a - b) for a, b in pairs) / len(pairs)
        self.assertLess(mean, 0.05)
        self.assertGreater(mean, 1e-5)

    def test_server_says_which_kernel_ran(self):
        state = self.answers["sage_attn"]["info"]["internal_states"][0]["sage_attn_coverage"]
        self.assertGreater(state["tokens"]["prefill/sage-torch-int8-fp16"], 0)
        self.assertGreater(state["tokens"]["prefill_prefix/sage-torch-int8-fp16"], 0)
        self.assertGreater(state["tokens"]["decode/sage-torch-int8-fp16"], 0)
        self.assertNotIn("sage_attn_coverage", self.answers["torch_native"]["info"]["internal_states"][0])


if __name__ == "__main__":
    unittest.main()
