"""The released `sageattention` package, where it is right: causal prefill of one sequence without a prefix.

What 1.0.6 cannot do, read in its source: keys that end inside a block of 64 are not masked without `is_causal`, its
causal mask is aligned to the start, its packed form takes one mean over the batch, and it changes the caller's K.
"""

from importlib.metadata import PackageNotFoundError, version

from torch import Tensor

from sage_eval.errors import PrerequisiteError

SUPPORTED = "1.0.6"


def package_version() -> str:
    """The installed version; raises `PrerequisiteError` where there is none, or one this project has not checked."""
    try:
        found = version("sageattention")
    except PackageNotFoundError:
        raise PrerequisiteError(
            f"kernel=package needs the released package: pip install sageattention=={SUPPORTED}, or use kernel=paged"
        ) from None
    if found != SUPPORTED:
        raise PrerequisiteError(
            f"sageattention {found} is not checked here (2.2.0 builds returned unwritten output on Hopper): "
            f"install {SUPPORTED}, or use kernel=paged"
        )
    return found


def package_attention(q: Tensor, k: Tensor, v: Tensor, out: Tensor, *, scale: float, smooth: bool) -> None:
    """Fill `out` [T, Hq, D] with the package's causal attention of one whole sequence; k and v are [T, Hkv, D]."""
    from sageattention import sageattn

    result = sageattn(
        q[None], k[None].clone(), v[None], tensor_layout="NHD", is_causal=True, sm_scale=scale, smooth_k=smooth
    )
    out.copy_(result[0])
