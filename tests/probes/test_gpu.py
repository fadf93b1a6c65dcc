"""Who else is on the GPU."""

import pytest

from sage_eval.errors import PrerequisiteError
from sage_eval.probes import gpu


def test_company_on_the_gpu_is_refused_where_there_is_a_gpu():
    if gpu.state() is None:
        gpu.refuse_company()
    else:
        with pytest.raises(PrerequisiteError, match="--shared-gpu"):
            gpu.refuse_company()
