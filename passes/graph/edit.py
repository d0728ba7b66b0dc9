"""Edits of one graph, collected and then applied at once.

graphsurgeon keeps producers and consumers in lists that are searched on every change, comparing nodes by value; on a
tensor with many consumers that is quadratic. `Edits` rewires through identities and rebuilds each list once, so that
a pass costs time linear in the graph.

What every edit respects: names of graph inputs and outputs, values that subgraphs use, initializers that callers may
override, and the order of nodes (a new node stands where the node was that it replaces).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from enginery.passes.graph.ir import all_graphs

_SMALL = 1024


def label(item: gs.Node | gs.Tensor) -> str:
    """How messages name a node: its name, or its type and first output where the exporter gave none."""
    if isinstance(item, gs.Node):
        return item.name or f"{item.op} -> {item.outputs[0].name if item.outputs else 'nothing'}"
    return item.name


def module_path(node: gs.Node) -> str:
    """The `nn.Module` that a node was exported from, such as `encoder.layer.0`; empty where that is not known."""
    return str(vars(node).get("module", ""))


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a tensor; None for inputs and constants."""
    return tensor.inputs[0] if tensor.inputs else None


def scopes(graph: gs.Graph, *, functions: bool = True) -> Iterator[gs.Graph]:
    """Every list of nodes a pass may edit: the graph, its subgraphs, and the bodies of local functions."""
    yield from all_graphs(graph)
    if functions:
        for function in graph.functions:
            yield from all_graphs(function)


class Names:
    """Fresh names for one model, derived from the names they replace, the same on every run."""

    def __init__(self, graph: gs.Graph) -> None:
        self.model = graph
        self._taken: set[str] = set()
        for scope in scopes(graph):
            self._taken.update(tensor.name for tensor in (*scope.inputs, *scope.outputs))
            for node in scope.nodes:
                self._taken.add(node.name)
                self._taken.update(tensor.name for tensor in (*node.inputs, *node.outputs))

    def fresh(self, wish: str) -> str:
        name, count = wish, 0
        while name in self._taken:
            count += 1
            name = f"{wish}_{count}"
        self._taken.add(name)
        return name


class Edits:
    """Collects the changes to one graph; `apply` carries them out.

    Nothing is rewired before `apply`, except that new nodes are already linked to their inputs. A pass therefore sees
    the graph as it was and can ask `removed` whether an earlier match already took a node.
    """

    def __init__(self, graph: gs.Graph, names: Names) -> None:
        self.graph = graph
        self.names = names
        self.changed = 0
        self._graph_outputs = {id(tensor) for tensor in graph.outputs}
        self._inputs = {id(tensor) for tensor in graph.inputs}
        self._new: dict[int, list[gs.Node]] = {}
        self._created: set[int] = set()
        self._promised: set[int] = set()  # tensors that will carry the name of a graph output
        self._replaced: dict[int, tuple[gs.Tensor, gs.Tensor]] = {}
        self._removed: dict[int, gs.Node] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}

    def is_output(self, tensor: gs.Tensor) -> bool:
        return id(tensor) in self._graph_outputs

    def is_input(self, tensor: gs.Tensor) -> bool:
        return id(tensor) in self._inputs

    def holds(self, node: gs.Node) -> bool:
        """Whether the node stands in this graph, and not in a subgraph that reads a tensor of this one."""
        return id(node) in self._nodes

    @cached_property
    def _nodes(self) -> frozenset[int]:
        return frozenset(id(node) for node in self.graph.nodes)

    def removed(self, node: gs.Node) -> bool:
        return id(node) in self._removed

    def constant(self, name: str, values: npt.NDArray[Any]) -> gs.Constant:
        """A new initializer; small equal ones of one pass are made once, so that what uses them can be merged."""
        key = (values.dtype.str, values.shape, values.tobytes()) if values.nbytes <= _SMALL else None
        if key is None or key not in self._constants:
            made = gs.Constant(self.names.fresh(name), np.ascontiguousarray(values).reshape(values.shape))
            if key is None or values.dtype.kind == "O":
                return made
            self._constants[key] = made
        return self._constants[key]

    def empty(self) -> gs.Tensor:
        """The place of an optional input that is not given."""
        return gs.Variable.empty()

    def variable(self, name: str, like: gs.Tensor | None = None) -> gs.Variable:
        """A new tensor; `like` lends its dtype and shape."""
        dtype, shape = (like.dtype, list(like.shape) if like.shape is not None else None) if like else (None, None)
        return gs.Variable(self.names.fresh(name), dtype=dtype, shape=shape)

    def node(
        self,
        op: str,
        inputs: Iterable[gs.Tensor],
        *,
        at: gs.Node,
        like: gs.Tensor | None = None,
        name: str | None = None,
        takes_name: bool = False,
        attrs: Mapping[str, Any] | None = None,
        domain: str | None = None,
        outputs: list[gs.Tensor] | None = None,
    ) -> gs.Tensor:
        """Add a node where `at` stands and return its (first) output.

        With `takes_name` the node carries on the name of `at`, which it replaces. `like` lends the output its type.
        """
        name = at.name if takes_name else self.names.fresh(name or f"{at.name or at.op}/{op}")
        made: list[gs.Tensor] = outputs if outputs is not None else [self.variable(f"{name or op}_out", like)]
        node = gs.Node(op, name, dict(attrs or {}), inputs=list(inputs), outputs=made, domain=domain)
        vars(node)["module"] = module_path(at)
        self._new.setdefault(id(at), []).append(node)
        self._created.add(id(node))
        return made[0]

    def replace(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """Let every user of `old` use `new`, and every later request for `old` too."""
        self._replaced[id(old)] = (old, new)
        if self._must_keep_name(old):
            self._promised.add(id(self._final(new)))
        self.changed += 1

    def remove(self, node: gs.Node) -> None:
        """Take a node out; its outputs must be replaced or unused."""
        self._removed[id(node)] = node

    def can_replace(self, old: gs.Tensor, new: gs.Tensor) -> bool:
        """Whether `old` may give way to `new`: a graph output keeps its name, so the maker of `new` must take it on."""
        if not self._must_keep_name(old):
            return True
        new = self._final(new)
        maker = producer(new)
        if maker is None or self.is_output(new) or self.is_input(new) or id(new) in self._promised:
            return False
        return id(maker) in self._created or any(node is maker for node in self.graph.nodes)

    def _must_keep_name(self, tensor: gs.Tensor) -> bool:
        return self.is_output(tensor) or id(tensor) in self._promised

    def apply(self) -> int:
        """Carry out everything, drop the nodes that became unused, and return the number of changes."""
        if not (self._replaced or self._removed or self._new):
            return 0
        self._place()
        replaced: list[tuple[gs.Tensor, gs.Tensor]] = []
        seeds = [maker for old, _ in self._replaced.values() if (maker := producer(old)) is not None]
        became: dict[int, gs.Tensor] = {}  # what took on the name of a graph output is that output from then on
        for old, new in self._replaced.values():
            new = became.get(id(self._final(new)), self._final(new))
            replace_uses(old, new)
            if self.is_output(old):
                _take_name(old, new)
                became[id(new)] = old
            replaced.append((old, new))
        detach(self._removed.values())
        gone = set(self._removed) | drop_unused(self.graph, seeds)
        for old, new in replaced:
            self._keep_name(old, new)
        self.graph.nodes = [node for node in self.graph.nodes if id(node) not in gone]
        return self.changed

    def _keep_name(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """A new tensor that stands for one that is gone takes its name: reports and statistics find it again."""
        maker = producer(new)
        if maker is not None and id(maker) in self._created and not old.inputs and not self.is_output(new):
            self._created.discard(id(maker))
            new.name = old.name

    def _final(self, tensor: gs.Tensor) -> gs.Tensor:
        while id(tensor) in self._replaced:
            tensor = self._replaced[id(tensor)][1]
        return tensor

    def _place(self) -> None:
        if self._new:
            placed: list[gs.Node] = []
            for node in self.graph.nodes:
                placed.extend(self._new.get(id(node), ()))
                placed.append(node)
            self.graph.nodes = placed


def drop_unused(graph: gs.Graph, seeds: Iterable[gs.Node]) -> set[int]:
    """Detach the seeds, and what only they needed, where nothing uses them; ids of the nodes that are now loose.

    Readers are counted instead of unlinked one by one: a constant may have as many readers as the graph has nodes.
    """
    queue = list(seeds)
    if not queue:
        return set()
    outputs = {id(tensor) for tensor in graph.outputs}
    members = {id(node) for node in graph.nodes}
    readers: dict[int, int] = {}
    gone: dict[int, gs.Node] = {}
    while queue:
        node = queue.pop()
        # A node that is no member is computed in an outer graph: remove-dead-code sees to it there.
        if id(node) in gone or id(node) not in members:
            continue
        if any(readers.get(id(out), len(out.outputs)) or id(out) in outputs for out in node.outputs):
            continue
        gone[id(node)] = node
        for tensor in used_tensors(node):
            readers[id(tensor)] = readers.get(id(tensor), len(tensor.outputs)) - 1
            maker = producer(tensor)
            if maker is not None:
                queue.append(maker)
    detach(gone.values())
    return set(gone)


def used_tensors(node: gs.Node) -> list[gs.Tensor]:
    """Everything a node reads: its inputs and what its subgraphs capture."""
    captured = [t for inner in node.subgraphs(recursive=True) for each in inner.nodes for t in each.inputs]
    return [*node.inputs, *captured]


def detach(nodes: Iterable[gs.Node]) -> None:
    """Unlink nodes from their tensors, each tensor's list rebuilt once."""
    loose: dict[int, gs.Node] = {}
    for node in nodes:
        loose[id(node)] = node
        for inner in node.subgraphs(recursive=True):
            loose.update((id(each), each) for each in inner.nodes)
    touched: dict[int, gs.Tensor] = {}
    for node in loose.values():
        touched.update((id(tensor), tensor) for tensor in (*node.inputs, *node.outputs))
        list.clear(node.inputs)
        list.clear(node.outputs)
    for tensor in touched.values():
        for links in (tensor.outputs, tensor.inputs):
            if any(id(node) in loose for node in links):
                list.__setitem__(links, slice(None), [node for node in links if id(node) not in loose])


def replace_uses(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let every node that reads `old` read `new`, in subgraphs too; graph outputs stay as they are."""
    for node in {id(node): node for node in old.outputs}.values():
        for index, tensor in enumerate(node.inputs):
            if tensor is old:
                list.__setitem__(node.inputs, index, new)
                list.append(new.outputs, node)
    list.clear(old.outputs)


def _take_name(output: gs.Tensor, new: gs.Tensor) -> None:
    """Let the node that makes `new` make the graph output instead, under the output's name."""
    maker = producer(new)
    assert maker is not None, f"graph output {output.name!r} needs a node that makes it"
    for old_maker in output.inputs:
        _swap_output(old_maker, output, gs.Variable(output.name + "/replaced"))
    list.clear(output.inputs)
    _swap_output(maker, new, output)
    list.clear(new.inputs)
    replace_uses(new, output)


def _swap_output(node: gs.Node, old: gs.Tensor, new: gs.Tensor) -> None:
    for index, tensor in enumerate(node.outputs):
        if tensor is old:
            list.__setitem__(node.outputs, index, new)
            list.append(new.inputs, node)
