"""How phases meet: each transition makes the first state of a phase and reports what became of every net.

States meet by field names: a field of the same name means the same in every method. `inherit` copies such fields, says
for each whether net and optimiser were carried or are fresh, and refuses unequal shapes.
A field named ``step`` counts the phase's updates and always starts at 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from segue.errors import ConfigError, HandoverError, nearest
from segue.types import Handover, Key, Learner, Report, Spec, Trained, Transition, chain, core, replace, split

PHASE_COUNTER = "step"


def note(report: Report, name: str, what: str) -> None:
    """One line of the report; a name is reported once."""
    if name in report:
        raise ValueError(f"{name} reported twice")
    report[name] = what


@partial(jax.jit, static_argnames=("learner", "spec"))
def draw(learner: Learner, key: Key, spec: Spec) -> Any:
    """``learner.init`` as one program: drawn piece by piece it compiles for seconds."""
    return learner.init(key, spec)


@jax.jit
def retrace(state: Any) -> Any:
    """`state` with every array of its own: two names of one buffer (net and target) could not both be donated."""
    return jax.tree.map(jnp.copy, state)


def _shapes(tree: Any) -> str:
    leaves = jax.tree.leaves(tree)
    return (
        f"{type(tree).__name__} with arrays "
        + ", ".join(str(tuple(x.shape)) for x in leaves[:8])
        + (", ..." if len(leaves) > 8 else "")
    )


def _fit(name: str, new: Any, old: Any) -> Any:
    """The arrays of `old` in the tree of `new`, whose static settings (a dropout rate) are the new phase's."""
    shapes = lambda tree: [(path, leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    if type(new) is type(old) and shapes(new) == shapes(old):
        return jax.tree.unflatten(jax.tree.structure(new), jax.tree.leaves(old))
    raise HandoverError(
        f"{name!r} cannot be carried: the new phase has {_shapes(new)}; the pre-trained state has {_shapes(old)}. "
        f"Give both phases the same sizes and head (--set phases.NAME... of both), or draw it anew: "
        f"Reset(Carry(), nets=({name!r},))"
    )


def wrapper(kind: type, state: Any) -> Any | None:
    """The wrapper of type `kind` around or within `state`, wherever it stands; None without one."""
    while hasattr(state, "base"):
        if type(state) is kind:
            return state
        state = state.base
    return None


def _note_fresh(state: Any, report: Report) -> None:
    for name in (n for n in state.__dataclass_fields__ if n != "base"):
        note(report, name, "fresh")


def inherit(new: Any, old: Any, report: Report, skip: tuple[str, ...] = (), moments: bool = True) -> Any:
    """`new` with every field of the same name from `old`, through wrappers; fills `report`.

    Fields in `skip` (and their targets) stay fresh; without `moments` only nets are carried, not their optimisers'
    moments. Raises `HandoverError` where a field's trees or shapes differ.
    """
    _same_inputs(new, old)
    return _inherit(new, old, report, skip, moments)


def _same_inputs(new: Any, old: Any) -> None:
    """Refuse to carry nets from standardised inputs to raw ones, or back."""
    scaled = [any(hasattr(s, "obs_mean") for s in chain(state)) for state in (new, old)]
    if scaled[0] != scaled[1]:
        which = ("the new phase", "the pre-trained state")
        yes, no = which if scaled[0] else which[::-1]
        raise HandoverError(
            f"the nets of {yes} see standardised observations and those of {no} raw ones; "
            "wrap both phases' learners in Standardise, or neither"
        )


def _inherit(new: Any, old: Any, report: Report, skip: tuple[str, ...], moments: bool) -> Any:
    if hasattr(new, "base"):
        twin = wrapper(type(new), old)  # the same wrapper on both sides: its own fields too
        if twin is not None:
            new = _inherit_fields(new, twin, report, skip, moments, leave=("base",))
        else:
            _note_fresh(new, report)
        return replace(new, base=_inherit(new.base, old, report, skip, moments))
    return _inherit_fields(new, core(old), report, skip, moments)


def _inherit_fields(new: Any, old: Any, report: Report, skip: tuple[str, ...], moments: bool, leave: tuple = ()) -> Any:
    skipped = {*skip, *(f"target_{n}" for n in skip), PHASE_COUNTER}
    fields = {}
    for name in (n for n in new.__dataclass_fields__ if n not in leave):
        mine, theirs = getattr(new, name), getattr(old, name, None)
        is_net = isinstance(mine, Trained)
        if theirs is None or name in skipped:
            note(report, name, "reset" if theirs is not None else "fresh")
            if is_net:
                note(report, f"{name} optimiser", "reset")
            continue
        if is_net and isinstance(theirs, Trained):
            net = _fit(name, mine.net, theirs.net)
            fields[name] = Trained(net, _fit(f"{name} optimiser", mine.opt, theirs.opt) if moments else mine.opt)
            note(report, name, "carried")
            note(report, f"{name} optimiser", "carried" if moments else "reset")
        else:
            # a set of frozen nets may have grown
            fields[name] = theirs if isinstance(mine, tuple) else _fit(name, mine, theirs)
            note(report, name, "carried")
    for name in [n for n in new.__dataclass_fields__ if n.startswith("target_") and report.get(n) == "fresh"]:
        source = name.removeprefix("target_")
        if report.get(source) == "carried":  # a source without this target: it starts equal to its net
            fields[name], report[name] = fields[source].net, f"copied from {source}"
    return replace(new, **fields) if fields else new


def _source(handover: Handover, transition: str) -> Any:
    if handover.pretrained is None:
        raise HandoverError(f"{transition} needs an earlier phase to take its state from; use Fresh() in a first phase")
    return handover.pretrained


@dataclass(frozen=True)
class Fresh:
    """Everything drawn anew."""

    def __call__(self, learner: Learner, handover: Handover) -> tuple[Any, Report]:
        state, report = draw(learner, handover.key, handover.spec), {}
        inner = state
        while hasattr(inner, "base"):
            _note_fresh(inner, report)
            inner = inner.base
        _note_fresh(inner, report)
        return retrace(state), report


@dataclass(frozen=True)
class Carry:
    """Everything of the same name is carried on."""

    moments: bool = True  # the optimisers' moments too

    def __call__(self, learner: Learner, handover: Handover) -> tuple[Any, Report]:
        report: Report = {}
        pretrained = _source(handover, "Carry")
        state = draw(learner, handover.key, handover.spec)
        state = inherit(state, pretrained, report, skip=handover.skip, moments=self.moments)
        return retrace(state), report


@dataclass(frozen=True)
class CarryPolicy:
    """The actor (and its target, started equal) is carried on; everything else is drawn anew."""

    moments: bool = False

    def __call__(self, learner: Learner, handover: Handover) -> tuple[Any, Report]:
        report: Report = {}
        pretrained = _source(handover, "CarryPolicy")
        state = draw(learner, handover.key, handover.spec)
        others = tuple(n for n in core(state).__dataclass_fields__ if n not in ("actor", "target_actor"))
        state = inherit(state, pretrained, report, skip=(*others, *handover.skip), moments=self.moments)
        if report.get("actor") != "carried":
            raise HandoverError(f"CarryPolicy: the source phase has no actor to carry into {type(learner).__name__}")
        return retrace(state), report


@dataclass(frozen=True)
class Reset:
    """Another transition, after which the named nets (with targets and optimisers) are drawn anew."""

    base: Transition = field(default_factory=Carry)
    nets: tuple[str, ...] = ("critic",)

    def __call__(self, learner: Learner, handover: Handover) -> tuple[Any, Report]:
        k_base, k_fresh = split(handover.key)
        state, report = self.base(learner, handover._replace(key=k_base, skip=(*handover.skip, *self.nets)))
        names = [n for s in chain(state) for n in s.__dataclass_fields__ if n != "base"]
        known = [n for n in names if not n.startswith("target_")]
        for name in self.nets:
            if name not in known:
                raise ConfigError(f"Reset: {type(learner).__name__} has no net {name!r}{nearest(name, known)}")
        names = {n for name in self.nets for n in (name, f"target_{name}")}
        return retrace(_exchanged(state, draw(learner, k_fresh, handover.spec), names, report)), report


def _exchanged(state: Any, fresh: Any, names: set[str], report: Report) -> Any:
    """`state` with the fields of these names from `fresh`, through wrappers; fills `report`."""
    fields = {n: getattr(fresh, n) for n in state.__dataclass_fields__ if n in names}
    for name, value in fields.items():
        report[name] = "reset"
        if isinstance(value, Trained):
            report[f"{name} optimiser"] = "reset"
    if hasattr(state, "base"):
        fields["base"] = _exchanged(state.base, fresh.base, names, report)
    return replace(state, **fields) if fields else state
