"""One real engine for all tests of the adapters, and lm-eval's own `sglang` model on that same engine."""

from collections.abc import Callable
from typing import Any

import pytest
from lm_eval.api.instance import Instance

WINDOW = 4608


@pytest.fixture(scope="package")
def lm(reference_model):
    """Our model, constructed the way lm-eval's command line does it."""
    from model_adapters.sglang_sage import SGLangSageLM

    arguments = {"pretrained": str(reference_model), "dtype": "float32", "max_length": WINDOW}
    lm = SGLangSageLM.create_from_arg_obj(
        arguments | {"attention_backend": "torch_native"}, {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"}
    )
    yield lm
    lm.close()


class Recorder:
    """A transport that keeps the payloads and lets a test spoil replies. The engine behind it is the real one."""

    repeated_tokens = 0

    def __init__(self, inner: Any, spoil: Callable[[int, dict], dict] | None = None) -> None:
        self.inner = inner
        self.payloads: list[dict] = []
        self.spoil = spoil or (lambda index, reply: reply)

    def stream(self, batch):
        self.payloads += batch
        for count, (index, reply) in enumerate(self.inner.stream(batch)):
            yield index, self.spoil(count, reply)

    def info(self):
        return self.inner.info()

    def close(self):
        self.inner.close()


@pytest.fixture
def recorder(lm, monkeypatch) -> Recorder:
    """Records what either model sends to the engine during one test."""
    recorder = Recorder(lm.arm.transport)
    monkeypatch.setattr(lm.arm, "transport", recorder)
    return recorder


class EngineFacade:
    """The part of `sgl.Engine` that lm-eval's `sglang` model calls, on the engine that `lm` has open."""

    def __init__(self, lm) -> None:
        self._lm = lm
        self.tokenizer_manager = type("TokenizerManager", (), {"tokenizer": lm.tokenizer, "context_len": WINDOW + 8})

    def generate(self, input_ids, sampling_params, return_logprob, top_logprobs_num, logprob_start_len):
        batch = [
            {
                "input_ids": ids,
                "sampling_params": params,
                "return_logprob": return_logprob,
                "top_logprobs_num": top_logprobs_num,
                "logprob_start_len": logprob_start_len,
            }
            for ids, params in zip(input_ids, sampling_params, strict=True)
        ]
        replies = dict(self._lm.arm.transport.stream(batch))
        return [replies[index] for index in range(len(batch))]


@pytest.fixture(scope="package")
def stock(lm):
    """lm-eval's `sglang` model. Its constructor insists on CUDA, so its state is set as that would leave it."""
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.sglang_causallms import SGLangLM

    model = SGLangLM.__new__(SGLangLM)
    TemplateLM.__init__(model)
    model.model = EngineFacade(lm)
    model.tokenizer = lm.tokenizer
    model.think_end_token = model.custom_prefix_token_id = model._max_length = None
    model.batch_size, model._max_gen_toks, model.add_bos_token = "auto", 256, False
    return model


@pytest.fixture(
    params=[
        "sglang-sage",
        pytest.param("sglang", marks=pytest.mark.xfail(strict=True, reason="a defect of lm-eval's own model")),
    ]
)
def model(request, lm, stock):
    """Ours, which must pass; and lm-eval's, which must fail."""
    return lm if request.param == "sglang-sage" else stock


def requests(kind: str, *arguments: tuple) -> list[Instance]:
    """lm-eval request instances of one kind."""
    return [Instance(kind, {}, args, index) for index, args in enumerate(arguments)]
