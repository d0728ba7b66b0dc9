"""`remove-redundant-channels`: dead channels go, and equal ones become one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from enginery.errors import PassError, UsageError
from enginery.passes.base import ModuleContext, PassResult, Refusal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RemoveRedundantChannels:
    """Removes channels that the answers do not depend on; the exported graph is physically smaller.

    1. Dead by its readers: every weight that reads the channel is zero.
    2. Dead by itself: no input moves it (its filters are zero in all layers that make it, or the batch normalizations
       after them scale it by zero) and its readers find zero there.
    3. `observe=true`: dead on the data, that is, zero at its readers on all of `samples` batches of the training
       data, such as a channel that its ReLU has silenced.
    4. Equal: all that makes two channels is equal, bias and normalization included. The weights that read the second
       are added to those that read the first, and the second goes.
    5. Coupled layers shrink together, as in `prune-channels`, and the same groups are kept whole, with a reason; so are
       groups of normalizations over channels. One channel always stays.
    6. The answers on the example stay as they were; the largest error, relative to the outputs' scale, is reported
       under `proved`. Anything above 1e-4 is an error.
    7. A module with masks or codebooks is an error: list it before `prune-weights` and `share-weights`.
    """

    name: ClassVar[str] = "remove-redundant-channels"

    observe: bool = False
    samples: int = 64
    layers: str = ".*"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError(f"{self.name}: samples={self.samples} is out of range; expected 1 or more")

    def apply(self, module: torch.nn.Module, context: ModuleContext) -> tuple[torch.nn.Module, PassResult]:
        from enginery.passes.module.agreement import agreement
        from enginery.passes.module.outputs import infer
        from enginery.passes.module.prune.channel_map import channel_map, silent
        from enginery.passes.module.prune.dependency import cut, trace
        from enginery.passes.module.prune.equal import dead, equal, merge
        from enginery.passes.module.prune.proof import unsound

        dependencies = trace(module, context.example, self.layers)
        expected = infer(module, context.example)
        refusals = [*dependencies.refusals, *unsound(module, dependencies, context.example)]
        refused = {refusal.node for refusal in refusals}
        maps = {g.root: channel_map(dependencies, module, g) for g in dependencies.groups if g.root not in refused}
        for root, one in list(maps.items()):
            if one.mixed is not None:
                refusals.append(Refusal(root, f"{one.mixed} normalizes over its channels"))
                del maps[root]
        quiet = silent(module, maps, self._batches(context))
        gone: dict[str, list[int]] = {}
        figures: dict[str, dict[str, int]] = {}
        for root, one in maps.items():
            lost = dead(one, quiet[root], certain=not self.observe)
            twins = equal(one, lost)
            merge(one, twins)
            # One channel stays, or there would be no layer left.
            gone[root] = sorted([*lost, *twins])[: one.size - 1]
            if gone[root]:
                figures[root] = {"channels": one.size, "dead": len(lost), "equal": len(twins)}
        cut(dependencies, module, gone)
        details: dict[str, Any] = {"channels": figures}
        details["proved"] = agreement(module, expected, context.example)
        return module, PassResult(changed=sum(map(len, gone.values())), refusals=tuple(refusals), details=details)

    def _batches(self, context: ModuleContext) -> Any:
        """The inputs on which a channel has to be silent: the example, or the training data."""
        from itertools import islice

        if not self.observe:
            return [context.example]
        if context.batches is None:
            raise PassError(
                f"{self.name}: observe=true watches channels and was given no data; name `data: training:` in the "
                "recipe"
            )
        return (feeds for feeds, _ in islice(context.batches(), self.samples))
