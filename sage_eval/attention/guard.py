"""Refuses, before the first token, what `sage_attn` would compute wrongly or not at all.

SGLang accepts an unknown backend name on many paths written for particular backends and would then ignore a soft-cap,
a window or a scale without a word. Every refusal is a `UsageError` (a `ValueError`) that names the setting and what
to use instead.
"""

from typing import Any

from sage_eval.errors import UsageError

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
    for name, (fine, instead) in _SERVER_ARGS.items():
        value = getattr(server_args, name, fine[0])
        if value not in fine:
            raise refuse(name, value, instead)


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
        raise refuse("logit_cap", layer.logit_cap, "soft-capped attention (Gemma 2, Grok) needs triton or fa3")
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
        raise refuse("attention_arch", "MLA", "DeepSeek-style latent attention needs flashinfer, fa3 or triton")
    if runner.is_hybrid_swa:
        raise refuse("sliding_window", "hybrid", "models that mix window sizes need triton or fa3")
    if getattr(runner.model_config, "is_encoder_decoder", False):
        raise refuse("is_encoder_decoder", True, "encoder-decoder models need flashinfer or torch_native")
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
