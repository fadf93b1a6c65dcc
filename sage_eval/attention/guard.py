"""Refuses, before the first token, what `sage_attn` would compute wrongly or not at all.

SGLang accepts an unknown backend name on many paths written for particular backends and would then ignore a soft-cap,
a window or a scale without a word. Every refusal is a `UsageError` (a `ValueError`) that names the setting and what
to use instead.
"""

from collections.abc import Mapping
from typing import Any

from sage_eval.attention.settings import AttentionSettings
from sage_eval.errors import UsageError
from sage_eval.seams import changed

HEAD_DIMS = (64, 96, 128)

# Server argument → (values that are fine, what to do instead).
_SERVER_ARGS: dict[str, tuple[tuple[Any, ...], str]] = {
    "speculative_algorithm": ((None, "", "NONE"), "serve without speculative decoding, or with triton or fa3"),
    "enable_deterministic_inference": ((False,), "use triton or fa3 for deterministic inference"),
    "kv_cache_dtype": (("auto", "bf16", "bfloat16"), "keep the KV cache in the model's dtype (kv_cache_dtype=auto)"),
    "dcp_size": ((1,), "use tensor or data parallelism instead of decode context parallelism"),
    "attn_cp_size": ((1,), "use tensor or data parallelism instead of context parallelism"),
    "enable_two_batch_overlap": ((False,), "switch two-batch overlap off"),
    "enable_pdmux": ((False,), "switch PD multiplexing off"),
    "enable_mis": ((False,), "multi-item scoring needs flashinfer"),
    "enable_hisparse": ((False,), "hierarchical sparse attention is another attention"),
    "dllm_algorithm": ((None,), "diffusion language models attend in both directions; use triton"),
}


def refuse(setting: str, value: object, instead: str) -> UsageError:
    """The error for one setting that SageAttention cannot serve."""
    return UsageError(f"sage_attn cannot serve {setting}={value}: {instead}")


def check_server_args(server_args: Any) -> None:
    """Raise `UsageError` for an SGLang server argument that `sage_attn` cannot honour."""
    for name in _SERVER_ARGS:
        if not hasattr(server_args, name):
            raise changed(f"has no server argument {name}, which sage_attn watches")
    check_given({name: getattr(server_args, name) for name in _SERVER_ARGS})


def check_given(arguments: Mapping[str, Any]) -> None:
    """As `check_server_args`, for those arguments alone that were given."""
    for name, (fine, instead) in _SERVER_ARGS.items():
        if name in arguments and arguments[name] not in fine:
            raise refuse(name, arguments[name], instead)


def check_config(text: Any) -> None:
    """Raise `UsageError` for a model that its configuration, of its text part, says `sage_attn` cannot serve."""
    if getattr(text, "kv_lora_rank", None):
        raise _mla()
    if cap := getattr(text, "attn_logit_softcapping", None):
        raise _soft_cap(cap)
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()):
        raise refuse("layer_types", "sliding_attention", "sliding windows need triton or fa3")
    if getattr(text, "is_encoder_decoder", False):
        raise _encoder()
    check_head_dim(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def check_settings(settings: AttentionSettings, capability: tuple[int, int] | None, dtype: str | None = None) -> None:
    """Raise `UsageError` for settings that cannot be served on a GPU of this compute capability, or without one.

    `dtype` is the model's by its name in torch, or None where it is not known yet.
    """
    if capability is None:
        if settings.kernel not in ("auto", "torch"):
            raise UsageError(f"kernel={settings.kernel} needs a CUDA GPU; on this host use kernel=torch (or auto)")
        return
    if dtype not in (None, "auto", "half", "float16", "bfloat16"):
        raise UsageError(f"sage_attn cannot serve dtype={dtype} on CUDA: use dtype=bfloat16 or float16")
    if settings.decode == "quantised":
        raise UsageError(
            "decode=quantised runs in plain PyTorch without a GPU: on CUDA use decode=exact, or leave it out"
        )
    if settings.kernel == "package" and settings.smooth_k == "static":
        raise UsageError("kernel=package knows no fixed shift: use kernel=paged with smooth_k=static")
    if settings.kernel == "package" and settings.balance:
        raise UsageError(
            "kernel=package knows no balance: serve a checkpoint made by `sage-eval balance MODEL OUT`, or use "
            "kernel=paged"
        )
    if settings.kernel == "package" and settings.variant not in ("int8-fp16", "exact"):
        raise UsageError(f"kernel=package computes int8-fp16 only, not variant={settings.variant}: use kernel=paged")
    if settings.variant == "int8-fp8" and settings.kernel != "torch" and capability < (8, 9):
        raise UsageError("variant=int8-fp8 needs FP8 matrix units (compute capability 8.9 or later); use int8-fp16")


def _mla() -> UsageError:
    return refuse("attention_arch", "MLA", "DeepSeek-style latent attention needs flashinfer, fa3 or triton")


def _soft_cap(cap: float) -> UsageError:
    return refuse("logit_cap", cap, "soft-capped attention (Gemma 2, Grok) needs triton or fa3")


def _encoder() -> UsageError:
    return refuse("is_encoder_decoder", True, "encoder-decoder models need flashinfer or torch_native")


def check_head_dim(head_dim: int, v_head_dim: int | None = None) -> None:
    """Raise `UsageError` for a head size no kernel has, or for values of another size than the keys."""
    if head_dim not in HEAD_DIMS:
        sizes = ", ".join(map(str, HEAD_DIMS))
        raise refuse("head_dim", head_dim, f"the kernels have {sizes}; use triton, fa3 or torch_native for this model")
    if v_head_dim is not None and v_head_dim != head_dim:
        raise refuse("v_head_dim", v_head_dim, f"keys and values must agree in size (head_dim {head_dim}); use triton")


def check_layer(layer: Any) -> None:
    """Raise `UsageError` for one `RadixAttention` layer that needs more than causal softmax attention."""
    check_head_dim(layer.qk_head_dim, layer.v_head_dim)
    if layer.logit_cap and layer.logit_cap > 0:
        raise _soft_cap(layer.logit_cap)
    if layer.sliding_window_size is not None and layer.sliding_window_size > -1:
        raise refuse("sliding_window_size", layer.sliding_window_size, "sliding windows need triton or fa3")
    if layer.is_cross_attention:
        raise refuse("is_cross_attention", True, "encoder-decoder models need flashinfer or torch_native")
    if getattr(layer.attn_type, "value", layer.attn_type) != "decoder":
        raise refuse("attn_type", layer.attn_type, "only causal decoder attention is served; use triton")
    if layer.xai_temperature_len > 0:
        raise refuse("xai_temperature_len", layer.xai_temperature_len, "use triton for this model")
    for scale in ("k_scale", "v_scale"):
        if getattr(layer, scale, None) is not None:
            raise refuse(scale, "set", "a checkpoint with KV-cache scales needs triton or fa3")


def check_runner(runner: Any) -> list[Any]:
    """Check everything that can be known once the model is loaded; returns its attention layers.

    `runner` is SGLang's `ModelRunner`. Raises `UsageError` for anything `sage_attn` cannot serve.
    """
    check_server_args(runner.server_args)
    if runner.use_mla_backend:
        raise _mla()
    if runner.is_hybrid_swa:
        raise refuse("sliding_window", "hybrid", "models that mix window sizes need triton or fa3")
    if getattr(runner.model_config, "is_encoder_decoder", False):
        raise _encoder()
    from sglang.srt.layers.radix_attention import RadixAttention

    layers = [module for module in runner.model.modules() if isinstance(module, RadixAttention)]
    for layer in layers:
        check_layer(layer)
    return layers


def check_call(extra: dict[str, Any]) -> None:
    """Raise `UsageError` for arguments of one attention call (sinks, score functions …) that are not honoured."""
    for name, value in extra.items():
        if value is not None and value is not False:
            raise refuse(name, type(value).__name__, "this model passes it to attention; use triton or fa3")


class CheckedCalls:
    """A base before an SGLang backend: hands attention calls on once `check_call` has seen their extras.

    `layer_id` is the layer of the call under way: the methods that SGLang's backends let us replace are not told it.
    """

    layer_id = 0

    def forward_extend(
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True, **extra: Any
    ) -> Any:
        check_call(extra)
        self.layer_id = layer.layer_id
        return super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache)  # type: ignore[misc]

    def forward_decode(
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True, **extra: Any
    ) -> Any:
        check_call(extra)
        self.layer_id = layer.layer_id
        return super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache)  # type: ignore[misc]
