"""From distances by position to what the record keeps of them."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from sage_eval.probes.logits.plan import Prompt
from sage_eval.probes.logits.record import LogitDistances, Part, Place, TextClass
from sage_eval.probes.logits.reduce import Distances, join
from sage_eval.runs.calibration import Role
from sage_eval.runs.distances import by_position, histogram
from sage_eval.runs.fidelity import TaskFidelity
from sage_eval.statistics.fidelity import fidelity, root_mean_square
from sage_eval.statistics.paired import mean, paired_difference

WORST = 20
_BEFORE = 60
"""Characters of context shown before one of the worst positions."""

Decode = Callable[[Sequence[int]], str]


def classes(prompts: Sequence[Prompt]) -> list[TextClass]:
    """What is served, by length class."""
    found = []
    for name in dict.fromkeys(prompt.kind for prompt in prompts):
        mine = [prompt for prompt in prompts if prompt.kind == name]
        lengths = [len(prompt.tokens) for prompt in mine]
        found.append(
            TextClass(
                name=name, low=min(lengths), high=max(lengths), prompts=len(mine), tokens=sum(lengths),
                documents=len({prompt.document for prompt in mine}),
                positions=sum(len(prompt.positions) for prompt in mine),
            )
        )  # fmt: skip
    return found


def summarise(
    prompts: Sequence[Prompt], parts: Sequence[Distances], decode: Decode, *, texts: str, arm: str, role: Role
) -> LogitDistances:
    """Statistics of one arm: `parts` are its distances by prompt. Errors are clustered by document."""
    whole = join(list(parts))
    sizes = [len(part.kl) for part in parts]
    index = np.repeat(np.arange(len(prompts)), sizes)
    documents = np.array([prompt.document for prompt in prompts])[index]
    context = np.concatenate([prompt.context for prompt in prompts])
    kinds = np.array([prompt.kind for prompt in prompts])[index]
    lengths = np.array([len(prompt.tokens) for prompt in prompts])[index]
    powers = np.frexp(context)[1] - 1  # floor(log2), exactly

    def part(name: str, low: int, high: int, chosen: npt.NDArray[np.bool_]) -> Part:
        base, cand, clusters = whole.base_true[chosen], whole.cand_true[chosen], documents[chosen]
        change = np.exp(cand) - np.exp(base)
        return Part(
            name=name, low=low, high=high, positions=int(chosen.sum()),
            kld=mean(whole.kl[chosen], clusters=clusters),
            same_top=mean((whole.tops[0] == whole.tops[1])[chosen], clusters=clusters),
            delta_p=mean(change, clusters=clusters),
            delta_p_rms=root_mean_square(change, clusters),
            nll=paired_difference(-base, -cand, clusters=clusters),
            largest=float(whole.largest[chosen].max()),
        )  # fmt: skip

    statistics = TaskFidelity(
        task=texts,
        arm=arm,
        role=role,
        k=0,  # no top-k list: every id
        statistics=fidelity(whole.divergence, whole.base_true, whole.cand_true, documents),
        kld_histogram=histogram(whole.kl),
        by_position=by_position(
            context, whole.base_true.astype(np.float32), whole.cand_true.astype(np.float32), documents
        ),
    )
    order = np.argsort(-whole.kl, kind="stable")[:WORST]
    first = np.concatenate([[0], np.cumsum(sizes)])
    return LogitDistances(
        fidelity=statistics,
        by_length=[
            part(kind, int(lengths[kinds == kind].min()), int(lengths[kinds == kind].max()) + 1, kinds == kind)
            for kind in dict.fromkeys(kinds.tolist())
        ],
        by_position=[
            part(f"{2**power:,}", 2**power, 2 ** (power + 1), powers == power)
            for power in range(int(powers.max()) + 1)
            if (powers == power).any()
        ],
        largest=float(whole.largest.max()),
        largest_true=float(np.abs(whole.cand_true - whole.base_true).max()),
        merged=(float(whole.merged.mean()), float(whole.merged.max())),
        worst=[_place(prompts, whole, at, int(index[at]), at - int(first[index[at]]), decode) for at in order.tolist()],
    )


def _place(prompts: Sequence[Prompt], whole: Distances, at: int, index: int, nth: int, decode: Decode) -> Place:
    prompt = prompts[index]
    place = prompt.positions[nth]
    return Place(
        prompt=index,
        document=prompt.document,
        context_tokens=place + 1,
        kld=float(whole.kl[at]),
        before=decode(prompt.tokens[max(0, place - 31) : place + 1])[-_BEFORE:],
        token=decode([prompt.tokens[place + 1]]),
        token_probability=(float(np.exp(whole.base_true[at])), float(np.exp(whole.cand_true[at]))),
        most_probable=(decode([int(whole.tops[0, at])]), decode([int(whole.tops[1, at])])),
    )
