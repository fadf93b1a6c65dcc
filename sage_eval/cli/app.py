"""The `sage-eval` command: its groups, and what becomes of errors.

stdout is the result, stderr is for people. Exit codes: 0 fine, 1 a gate failed or the engine did, 2 usage or a missing
prerequisite, 130 interrupted. Heavy imports happen inside the commands, so that `--help` is instant.
"""

import errno
import os
import sys
import warnings
from collections.abc import Sequence

import typer

from sage_eval import __version__
from sage_eval.cli.calibrate import balance, calibrate, diagnose, stress
from sage_eval.cli.compare import EPILOG, compare
from sage_eval.cli.doctor import doctor
from sage_eval.cli.flags import ARGV, command, with_bare
from sage_eval.cli.folders import diff, export, reproduce
from sage_eval.cli.measure import bench, fill, probe
from sage_eval.cli.prepare import prepare
from sage_eval.cli.quick import quick
from sage_eval.cli.report import leaderboard, report, schema, validate
from sage_eval.cli.watch import watch
from sage_eval.errors import SageEvalError, SettingWarning
from sage_eval.measure.quick.plan import QuickPlan

app = typer.Typer(
    name="sage-eval",
    help="Compare SageAttention with another attention backend of the same model, in SGLang: scores, paired.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
_PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""Of the parser, which typer does not name."""
_STDOUT = {errno.EPIPE: "closed", errno.ENOSPC: "full", errno.EBADF: "closed", errno.EIO: "broken"}


@app.command("lm-eval", context_settings=_PASS_THROUGH, add_help_option=False)
def lm_eval(context: typer.Context) -> None:
    """Run lm-eval itself with our model and tasks known to it: all arguments are lm_eval's."""
    from sage_eval.lm_eval_hook import run_lm_eval

    raise typer.Exit(run_lm_eval(context.args))


app.command("compare", epilog=EPILOG)(compare)
for _function in (
    watch, report, diff, reproduce, export, validate, leaderboard, schema, prepare, doctor, calibrate, diagnose,
    balance, stress,
):  # fmt: skip
    app.command()(_function)

app.command("quick")(command(QuickPlan, quick))
app.add_typer(bench, name="bench")
app.add_typer(probe, name="probe")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def _warn(message: Warning | str, category: type[Warning], *_args: object, **_kwargs: object) -> None:
    if issubclass(category, SettingWarning):
        _complain(f"warning: {message}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every error of this project is one line on stderr."""
    ARGV[:] = sys.argv[1:] if argv is None else argv
    warnings.showwarning = _warn
    if ARGV[:1] in (["bench"], ["probe"]):
        fill()
    if sys.stdout is None:
        return _refuse("stdout is closed, and results are printed there")
    try:
        code = app(args=with_bare(ARGV), prog_name="sage-eval", standalone_mode=False) or 0
        sys.stdout.flush()
    except _UsageError as error:
        # Help, where a group was given nothing, has been printed, and there is no message.
        message = getattr(error, "format_message", error.__str__)()
        return _refuse(message) if message else 2
    except SageEvalError as error:
        return _refuse(str(error), error.exit_code)
    except SystemExit:  # typer's, where a pipe has no reader any more
        return _refuse(f"stdout is {_STDOUT[errno.EPIPE]}: the rest of the result is not printed")
    except OSError as error:
        if error.errno not in _STDOUT or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere, without an error
        return _refuse(f"stdout is {_STDOUT[error.errno]}: the rest of the result is not printed")
    if code == 130:
        kept = "; finished arms are kept, the same command resumes" if ARGV[:1] == ["compare"] else ""
        _complain("interrupted" + kept)
    return int(code)


def _refuse(message: str, code: int = 2) -> int:
    _complain(f"error: {' '.join(message.split())}")
    return code


def _complain(text: str) -> None:
    sys.stderr.write(f"sage-eval: {text}\n")
