"""Run at every interpreter start by `sage_eval_startup.pth`: waits for lm-eval, does nothing else.

No lm-eval release discovers task folders, and 0.4.12 and 0.4.13 do not discover models either, so `lm_eval --model
sglang-sage --tasks sage_mmlu` needs something that acts when lm-eval is imported; what that does is in
`lm_eval_hook.py`. Every interpreter of the environment runs this file, so it imports nothing but `sys` (`typing` alone
would cost each some 20 ms). To forbid it, delete the .pth file and use `sage-eval lm-eval`.
"""

import sys


class WaitForLmEval:
    """A finder that finds nothing; the first import of `lm_eval` makes it install the hook and leave."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: object = None) -> None:
        """Always None, so that the ordinary finders go on; an error in the hook is a warning, never a failed import."""
        if fullname != "lm_eval":
            return
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not WaitForLmEval]
        try:
            from sage_eval.lm_eval_hook import install

            install()
        except Exception as error:
            sys.stderr.write(f"sage-eval: lm-eval goes on without the sage tasks and model: {error!r}\n")


if "lm_eval" not in sys.modules and WaitForLmEval not in sys.meta_path:
    sys.meta_path.insert(0, WaitForLmEval)  # a class with a static find_spec is a finder
