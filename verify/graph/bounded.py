"""A torch module as a bounded graph: traced to ATen calls, every call an operator with sound rules.

The graph is auto_LiRPA's `BoundedModule`, and bounds begin with its `compute_bounds`. What we replace is where it goes
wrong, cannot go or is slow: the parser (TorchScript and ONNX, in `trace`), the copies of buffers (`Leaf` reads the
user's module), how neurons are bounded before they are relaxed (`check_prior_bounds`), and the walks of interval
propagation (`IBP_general`) and of CROWN (`backward_general`).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from verify.graph.building import INPUT, Builder
from verify.graph.lirpa import Bound, BoundedModule
from verify.graph.tracing import copies, evaluated, kept_random_state
from verify.operators import LinearOperator, UnsupportedOperator
from verify.operators.arithmetic import absolute_inner, weighed
from verify.operators.base import Activation, Coefficients
from verify.operators.layout import flat, listed, picked
from verify.operators.normalisation import BatchNorm, Moments, Statistics
from verify.propagation.affine import AffineSweep, row_size
from verify.propagation.worst_points import SlopeChoice, WorstPoints, adaptive
from verify.rounding import IGNORED, rounding_for

Intervals: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""Lower and upper bounds of relaxed neurons, "b *shape" each, by the name of their node."""
Sides: TypeAlias = tuple[Coefficients, Coefficients]
"""Coefficients of a node in a lower and in an upper bound."""

MEMORY = 4096.0
"""MiB that affine forms may take, if nothing else is said."""
UNSTABLE = 0.25
"""The part of a network's neurons that count as unstable where images share the memory."""
CACHED = {"cpu": 256.0}
"""MiB of forms beyond which images take longer together than one after the other: operators read them from memory, not
from a cache. (Two images of the benchmark's network took 2.5 times as long each.)"""
ROWS_AT_ONCE = {"cpu": 2**20, "cuda": 2**26}
"""A backward pass for many neurons is split so that no coefficient tensor holds more elements than this: on a CPU as
many as its caches hold."""


class _Shell(nn.Module):
    """What BoundedModule is built from in place of the user's model, of which it would touch mode and buffers."""

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)  # not a submodule
        self.training = False
        with kept_random_state(example.device), torch.no_grad():
            self.output = evaluated(model, copies(model), example.clone())
        if not isinstance(self.output, Tensor) or self.output.dim() != 2:
            raise UnsupportedOperator(
                'the network must have one output, of shape "b k": wrap it so that it has (verify.Binary, if it is "b")'
            )

    def forward(self, *_: Tensor) -> Tensor:
        return self.output


class BoundedGraph(BoundedModule):
    """The bounded graph of a model.

    Args:
        model: any module of one input "b *shape" and one output "b *classes".
        example: an input; its values do not matter.

    Raises:
        UnsupportedOperator: naming the first call that has no sound rule.
    """

    def __init__(self, model: nn.Module, example: Float[Tensor, "b *shape"]) -> None:
        self.rounding, self.memory = IGNORED, MEMORY
        self.accounted: set[str] = set()
        self.begin()
        super().__init__(_Shell(model, example), example, {"conv_mode": "matrix"}, device=example.device)

        self.forget_statistics()

    def begin(
        self,
        sweep: bool = True,
        refine: bool = True,
        reference: Intervals | None = None,
        given: Intervals | None = None,
    ) -> None:
        """Set up one computation of bounds.

        Args:
            sweep: whether a sweep of affine forms bounds the neurons.
            refine: whether neurons that the affine sweep leaves unstable get a backward pass of their own.
            reference: bounds of relaxed neurons that hold over the region anyway.
            given: bounds of all relaxed neurons, to be taken as they are: none are computed.
        """
        self.sweep, self.refine, self.reference, self.given = sweep, refine, reference or {}, given
        self.tightened: Intervals = {}
        self.swept: AffineSweep | None = None
        self.finite: Bool[Tensor, " b"] | None = None
        self.allowances: dict[str, Tensor] = {}

    @property
    def nodes(self) -> list[Bound]:
        """Every node, inputs before their users."""
        return list(self._modules.values())

    def confirm(self) -> None:
        """Let all bounds give way so that they hold in real arithmetic, from now on."""
        operators = (node for node in self.nodes if node.from_input and node.inputs)
        self.rounding = rounding_for(max((node.summands for node in operators), default=1))
        self.accounted = {
            node.name for node in self.nodes if not all(isinstance(user, LinearOperator) for user in self._users(node))
        }

    def images_at_once(self, sweep: bool = True) -> int:
        """How many images to bound together: as many as fit into the memory, or are fast.

        With affine forms each has rows of errors for a part of its neurons, and images share them. With too few for
        each, errors are merged that would have had a row in an image of its own: bounds would be looser for the
        company, and no sooner there. On a CPU they would be later, too, see `CACHED`.

        Args:
            sweep: whether bounds are by a method with affine forms; others need a row for each of the outputs, or, in
                deep networks, the values of all nodes and their derivatives.
        """
        nodes = [node for node in self.nodes if node.from_input]
        item = self.example_dtype.itemsize
        if sweep:
            neurons = sum(self[name].output_shape[1:].numel() for name in self.relaxed)
            rows = self[INPUT].output_shape[1:].numel() + UNSTABLE * neurons
            memory = min(self.memory, CACHED.get(self.device.type, self.memory))
            return max(1, int(memory / (rows * row_size(nodes, item))))
        values = 2 * sum(node.output_shape[1:].numel() for node in nodes) * item / 2**20
        return max(1, int(self.memory / max(self.final_shape[-1] * row_size(nodes, item), values)))

    @property
    def batch_norms(self) -> list[BatchNorm]:
        """The normalisations that use a batch's statistics."""
        return [node for node in self.nodes if isinstance(node, BatchNorm) and node.on_batch]

    def evaluate(
        self, x: Float[Tensor, "b *shape"], record: Moments | None = None
    ) -> Float[Tensor, "b *classes"]:
        """The network's output, node by node; nothing is kept.

        Args:
            record: x is the clean batch whose statistics batch norm in training mode is to use; computes them.
        """
        return self.values(x, record)[self.final_name]

    def values(
        self, x: Float[Tensor, "b *shape"], record: Moments | None = None, constant: bool = False
    ) -> dict[str, Tensor]:
        """The value of every node, by its name; see `evaluate`.

        Args:
            constant: keep no autograd graph of what depends on x; of weights, such as softmax(alpha), there is one.
        """
        values: dict[str, Tensor] = {}
        differentiable = torch.is_grad_enabled()
        for node in self.nodes:
            inputs = [values[parent.name] for parent in node.inputs]
            if record is not None and isinstance(node, BatchNorm) and node.on_batch:
                node.record(inputs[0], record)
            with torch.set_grad_enabled(differentiable and not (constant and node.from_input)):
                values[node.name] = x if node.name == INPUT else node.forward(*inputs)
        return values

    def pullback(
        self, rows: Float[Tensor, "b *classes"], values: dict[str, Tensor]
    ) -> Float[Tensor, "b *shape"]:
        """J^T rows, J the Jacobian of the outputs at the input whose `values` these are."""
        reached = {self.final_name: rows}
        for node in reversed(self.nodes):
            if node.name not in reached or node.name == INPUT:
                continue
            parts = node.pullback(reached.pop(node.name), [values[parent.name] for parent in node.inputs])
            for position, part in zip(node.varying, parts, strict=True):
                name = node.inputs[position].name
                reached[name] = reached[name] + part if name in reached else part
        return reached[INPUT]

    @property
    def relaxed(self) -> list[str]:
        """Names of the nodes whose neurons an operator relaxes, and so needs bounds of."""
        read = {
            user.inputs[position].name
            for user in self.nodes
            for position in getattr(user, "requires_input_bounds", [])
            if user.from_input
        }
        return [node.name for node in self.nodes if node.name in read]

    def forget_statistics(self) -> None:
        """Require a new clean batch before the next evaluation in training mode."""
        for node in self.batch_norms:
            node.statistics = None

    def copy_statistics(self, other: BoundedGraph) -> None:
        """Take the statistics of another graph of the same model, in this one's precision."""
        for mine, theirs in zip(self.batch_norms, other.batch_norms, strict=True):
            if theirs.statistics is not None:
                dtype = self.example_dtype
                mine.statistics = Statistics(*(value.detach().to(dtype) for value in theirs.statistics))

    # What we replace of BoundedModule. Loops, where it recurses: a deep network would exhaust the stack.

    def _convert_nodes(self, model: _Shell, global_input: tuple[Tensor]) -> tuple[list, list, list, None]:
        """Operators, leaves and outputs of the traced graph, in BoundedModule's terms."""
        self.example_dtype = global_input[0].dtype
        return Builder(model.__dict__["model"], global_input[0]).build()

    def get_forward_value(self, node: Bound) -> Tensor:
        """The value at a node and at all before it."""
        for before in self.nodes:
            if getattr(before, "forward_value", None) is None:
                self._evaluate(before)
            if before is node:
                break
        return node.forward_value

    def _evaluate(self, node: Bound) -> None:
        node.forward_value = node.forward(*(parent.forward_value for parent in node.inputs))
        node.output_shape = node.forward_value.shape
        node.batch_dim = 0 if node.from_input else -1

    def IBP_general(self, node: Bound, C: Tensor | None = None, **options: Any) -> tuple[Tensor, Tensor]:
        """Intervals of every node up to this one, and of C y at this one; a last linear call is merged with C.

        Args:
            C: "b s *out", rows of a specification.
        """
        for before in self.nodes:
            if not hasattr(before, "interval"):
                self._propagate(before)
            if before is node:
                break
        if C is None:
            return node.interval
        rows = C.transpose(0, 1)
        if isinstance(node, LinearOperator):
            centres, radii, _ = node.halves([parent.interval for parent in node.inputs])
            centre, radius = node.specified(rows, centres, radii)
            if self.rounding.total:  # terms that the merging has made cancel
                radius = radius + self.rounding.total * absolute_inner(rows, 1 + node.terms(node.largest())).T
        else:
            lower, upper = node.interval
            centre, radius = weighed(rows, (lower + upper) / 2, (upper - lower) / 2)
        return centre - radius, centre + radius

    def _propagate(self, node: Bound) -> None:
        if not node.from_input:
            self._evaluate(node)
            node.interval = (node.forward_value, node.forward_value)
        else:
            intervals = [parent.interval for parent in node.inputs]
            hidden = node.hidden([lower for lower, _ in intervals]) if self.rounding.step else 0.0
            lower, upper = node.interval_propagate(*intervals)
            node.interval = self._widened(lower, upper, self.rounding.step, hidden)
        node.lower, node.upper = node.interval

    def backward_general(
        self,
        C: Tensor,
        node: Bound,
        bound_lower: bool = True,
        bound_upper: bool = True,
        slopes: SlopeChoice | None = None,
        **_: Any,
    ) -> tuple[Tensor | None, Tensor | None]:
        """CROWN: bounds "b s" of rows of a node's values, linear in each node before it and at last in the input.

        Both sides are the same function, and computed once, until a relaxation parts them. Afterwards `coefficients`
        has those of the input for the lower side, "b s n".

        Args:
            C: "b s *out", the rows.
            slopes: their lower slopes; of rows of the outputs those of `slopes_for`, if nothing else is said.
        """
        choice, accounted = slopes or self.slopes_for(C), {node.name, *self.accounted}
        rows = C.transpose(0, 1)
        lower = upper = rows.new_zeros(rows.shape[:2])
        sides = {node.name: (rows if bound_lower else None, rows if bound_upper else None)}
        nodes = self.nodes
        for before in reversed(nodes[: nodes.index(node) + 1]):
            if before.name not in sides or before.name == INPUT:
                continue
            options = {"slopes": choice(before)} if isinstance(before, Activation) else {}
            mine = sides.pop(before.name)
            parts, low, high = before.backward(*mine, *before.inputs, **options)
            lower, upper = lower + low, upper + high
            if self.rounding.total and self.given is None and before.name in accounted:
                lower, upper = self._giving_way(lower, upper, before, mine)
            for position in before.varying:
                name = before.inputs[position].name
                sides[name] = _sum_of_sides(sides[name], parts[position]) if name in sides else parts[position]
        below, above = (None if A is None else A.transpose(0, 1).flatten(2) for A in sides[INPUT])
        self.coefficients = below
        region = self[INPUT].perturbation
        return (
            None if below is None else lower.T + region.least(below),
            None if above is None else upper.T - region.least(-above),
        )

    def _giving_way(self, lower: Tensor, upper: Tensor, node: Bound, sides: Sides) -> tuple[Tensor, Tensor]:
        """Bounds "s b" less what rounding may do to them by way of the coefficients of a node."""
        error, (lA, uA) = self.rounding.total * self._allowance(node), sides
        below = 0.0 if lA is None else absolute_inner(lA, error)
        above = below if uA is lA else 0.0 if uA is None else absolute_inner(uA, error)
        return lower - below, upper + above

    def _allowance(self, node: Bound) -> Float[Tensor, "b *shape"]:
        """What the rounding errors of a backward pass are relative to, where it reaches a node with coefficients A.

        However much cancels in A T, or between the constants that the bound adds up, the error is relative to |A| times
        the `terms` of the node. For the nodes before it that only linear ones read it is, as |A T| <= |A| |T|, relative
        to |A| times what |T| makes of their terms: so those are in here, and the pass need not account for them.
        """
        for before in self.nodes:
            if before.from_input and before.inputs and before.name not in self.allowances:
                carried = self.allowances.keys() - self.accounted
                largest = [
                    value + self.allowances[parent.name] if parent.name in carried else value
                    for parent, value in zip(before.inputs, before.largest(), strict=True)
                ]
                self.allowances[before.name] = before.terms(largest) + (0.0 if before.exact else 1.0)
            if before is node:
                break
        return self.allowances[node.name]

    def slopes_for(self, C: Float[Tensor, "b s *classes"]) -> SlopeChoice:
        """Lower slopes of rows of the outputs, once the neurons are bounded; those of `adaptive` without a sweep."""
        if self.swept is None:
            return adaptive
        outputs = self.swept.forms[self.final_name].rows
        return WorstPoints(self.swept, torch.einsum("rbk,bsk->rbs", outputs.detach(), C.detach()))

    def check_prior_bounds(self, node: Bound) -> None:
        """Bounds of every relaxed input, in the order of the graph, so that each profits from those before."""
        for before in self.nodes:
            if not before.from_input:
                self._propagate(before)
        relaxed = self.relaxed
        for before in self.nodes:
            before.rounding = self.rounding if self.given is None else IGNORED
        if self.given is not None:
            for name in relaxed:
                self[name].interval = self[name].lower, self[name].upper = self.given[name]
            return
        nodes = [before for before in self.nodes if before.from_input]
        last = max((number for number, before in enumerate(nodes) if before.name in relaxed), default=-1)
        sweep = AffineSweep(nodes, self[INPUT].perturbation, self.memory, self.rounding) if self.sweep else None
        for number, before in enumerate(nodes):
            if sweep is not None and number <= last:
                sweep.advance(before)
            elif sweep is not None and sweep.kept:  # to the outputs, whose rows have slopes, too
                with torch.no_grad():
                    sweep.advance(before)
            if before.name in relaxed:
                self._bound_neurons(before, sweep, linear=not self.tightened)
        if sweep is not None and self.final_name in sweep.forms:
            self.swept = sweep
        if self.rounding.total:
            self.IBP_general(node)  # magnitudes, which the last pass' rounding errors are relative to

    def _bound_neurons(self, node: Bound, sweep: AffineSweep | None, linear: bool) -> None:
        """Bounds of the neurons of a relaxed input: of all methods in use, intersected.

        Method "crown-ibp" has its intervals already, and goes by them alone. Where a node is linear in the pixels the
        affine form is exact, and a backward pass adds nothing.
        """
        if sweep is not None:
            lower, upper = self.IBP_general(node)
            for low, high in (sweep.interval(node), self.reference.get(node.name, (lower, upper))):
                lower, upper = torch.maximum(lower, low), torch.minimum(upper, high)
            needed = self._rows_needed(node, lower, upper)
            if needed.any() and self.refine and not linear:
                lower, upper = self._tighten(node, lower, upper, needed, sweep)
            # Where an interval is a point, rounding can leave the ends of two methods crossed: a negative width, which
            # would grow from layer to layer, as widths do.
            lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)
            node.interval = self._widened(lower, upper, self.rounding.total)
        node.lower, node.upper = lower, upper = node.interval
        if sweep is not None:
            sweep.keep(node, listed(self._free(node)))
        self.tightened[node.name] = node.interval
        finite = flat(torch.isfinite(lower) & torch.isfinite(upper)).all(1)
        self.finite = finite if self.finite is None else self.finite & finite

    def _rows_needed(self, node: Bound, lower: Tensor, upper: Tensor) -> Bool[Tensor, "b n"]:
        needed = torch.zeros_like(lower, dtype=torch.bool)
        for user in self._users(node):
            if hasattr(user, "requires_input_bounds"):
                needed |= user.rows_needed(lower.detach(), upper.detach())
        return flat(needed)

    def _users(self, node: Bound) -> list[Bound]:
        return [self[name] for name in set(node.output_name)]

    def _free(self, node: Bound) -> Bool[Tensor, "b n"]:
        """Which of the node's neurons have a slope to choose."""
        free = torch.zeros_like(node.lower, dtype=torch.bool)
        for user in self._users(node):
            if isinstance(user, Activation):
                free |= user.free(node.lower.detach(), node.upper.detach())
        return flat(free)

    def _tighten(
        self, node: Bound, lower: Tensor, upper: Tensor, needed: Tensor, sweep: AffineSweep
    ) -> tuple[Tensor, Tensor]:
        """Intersect with CROWN's bounds of the neurons that are `needed` ("b n"), and of no other.

        Each image has its own list: one row of coefficients serves another neuron in every image. Images that need
        fewer rows than the neediest have rows to spare; used, they would make an image's bounds depend on the others
        in its batch.
        """
        batch, neurons = needed.shape
        index, forms = listed(needed), sweep.forms[node.name].rows
        widest = max(before.output_shape[1:].numel() for before in self.nodes if before.from_input)
        at_once = max(1, ROWS_AT_ONCE.get(lower.device.type, 2**26) // (batch * widest))
        lows, highs = [], []
        for part in index.split(at_once, dim=1):
            C = lower.new_zeros(neurons, batch, part.shape[1]).permute(1, 2, 0).scatter_(2, part.unsqueeze(2), 1)
            slopes = WorstPoints(sweep, picked(forms.detach(), part))
            low, high = self.backward_general(C.view(*C.shape[:2], *lower.shape[1:]), node, slopes=slopes)
            assert low is not None and high is not None
            lows.append(low.reshape(batch, -1))
            highs.append(high.reshape(batch, -1))
        low, high = flat(lower).gather(1, index), flat(upper).gather(1, index)
        spare = ~needed.gather(1, index)
        low = torch.where(spare, low, torch.maximum(low, torch.cat(lows, 1)))
        high = torch.where(spare, high, torch.minimum(high, torch.cat(highs, 1)))
        return (
            flat(lower).scatter(1, index, low).view_as(lower),
            flat(upper).scatter(1, index, high).view_as(upper),
        )

    @staticmethod
    def _widened(
        lower: Tensor, upper: Tensor, rounding: float, hidden: Tensor | float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """See `IntervalSweep` for what rounding is relative to."""
        if not rounding:
            return lower, upper
        slack = rounding * (1 + torch.maximum(lower.abs(), upper.abs()) + hidden)
        return lower - slack, upper + slack


def _sum_of_sides(first: Sides, second: Sides) -> Sides:
    """The coefficients of a node from two of its users."""
    lower = _sum(first[0], second[0])
    one = first[0] is first[1] and second[0] is second[1]
    return lower, lower if one else _sum(first[1], second[1])


def _sum(first: Coefficients, second: Coefficients) -> Coefficients:
    return None if first is None or second is None else first + second
