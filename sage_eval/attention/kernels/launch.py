"""Start a kernel again with other tensors of the same kind, without Triton's look at each argument.

The layers of a batch start the same kernels with the same sizes and strides; only addresses differ. Triton examines
every argument of every launch, which takes the host longer than a short prompt takes the GPU.
"""

from typing import Any


class Launch:
    """Calls that differ in nothing but addresses, of which each argument's keep their alignment to 16 bytes.

    The first call of a kernel goes through Triton and keeps what it compiled, the others start that. One object serves
    one kind of call: whoever holds it sees to it that dtypes, integers, constants and alignment are always the same.
    """

    def __init__(self) -> None:
        self._compiled: dict[str, Any] = {}

    def __call__(self, kernel: Any, programs: int, *arguments: Any, options: dict[str, Any], **constants: Any) -> None:
        """Start `programs` programs of `kernel`; `options` are Triton's own (num_warps …), `constants` the kernel's.

        Constants are given in the order of the kernel's parameters.
        """
        compiled = self._compiled.get(kernel.__name__)
        if compiled is None:  # Triton's interpreter compiles nothing, and is called each time
            self._compiled[kernel.__name__] = kernel[programs,](*arguments, **constants, **options)
        else:  # constants are compiled in: they only fill their places
            compiled[programs, 1, 1](*arguments, *constants.values())
