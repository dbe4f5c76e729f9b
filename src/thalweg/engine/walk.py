"""A program evaluated equation by equation, with some of them done otherwise: inside calls, loops and branches too."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

# (equation, its inputs, what does the equation as it is) → its outputs.
Rule = Callable[[Any, list[Any], Callable[[list[Any]], list[Any]]], list[Any]]
# Calls that are transparent: the rule holds in their bodies too, as in those of loops and branches.
_BODIES = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr",
           "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}  # fmt: skip


def evaluate(jaxpr, consts, args, rule: Rule) -> list[Any]:
    """`jaxpr` applied to `args`, every primitive equation by way of the `rule`."""
    known: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else known[atom]
    for equation in jaxpr.eqns:
        inputs, name = [read(atom) for atom in equation.invars], equation.primitive.name
        body = equation.params.get(_BODIES.get(name, ""))
        if body is not None:
            outputs = evaluate(getattr(body, "jaxpr", body), getattr(body, "consts", ()), inputs, rule)
        elif name in _CONTROL:
            outputs = _CONTROL[name](equation.params, inputs, rule)
        else:
            outputs = rule(equation, inputs, functools.partial(_bind, jaxpr, equation))
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def equations(jaxpr) -> Iterator[Any]:
    """All equations of `jaxpr` and of what is called in it."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def _scan(params, inputs, rule) -> list[Any]:
    """`lax.scan` with the rule in its body."""
    body, constants, carried = params["jaxpr"], params["num_consts"], params["num_carry"]
    fixed, first, rows = inputs[:constants], inputs[constants : constants + carried], inputs[constants + carried :]

    def step(carry, row):
        outputs = evaluate(body.jaxpr, body.consts, [*fixed, *carry, *row], rule)
        return outputs[:carried], outputs[carried:]

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    last, stacked = jax.lax.scan(step, first, rows, **options)
    return [*last, *stacked]


def _while(params, inputs, rule) -> list[Any]:
    """`lax.while_loop` with the rule in body and condition."""
    test, body = params["cond_jaxpr"], params["body_jaxpr"]
    of_test, rest = inputs[: params["cond_nconsts"]], inputs[params["cond_nconsts"] :]
    of_body, first = rest[: params["body_nconsts"]], rest[params["body_nconsts"] :]
    test_all = lambda carry: evaluate(test.jaxpr, test.consts, [*of_test, *carry], rule)[0]
    step = lambda carry: evaluate(body.jaxpr, body.consts, [*of_body, *carry], rule)

    def step_those_that_go_on(carry):
        # Under vmap every agent has a condition of its own; one that has ended stays as it is.
        going = test_all(carry)
        select = lambda new, old: jnp.where(going.reshape(going.shape + (1,) * (jnp.ndim(old) - going.ndim)), new, old)
        return [select(new, old) for new, old in zip(step(carry), carry, strict=True)]

    batched = bool(params["cond_jaxpr"].out_avals[0].shape)
    return jax.lax.while_loop(lambda carry: jnp.any(test_all(carry)), step_those_that_go_on if batched else step, first)


def _cond(params, inputs, rule) -> list[Any]:
    """`lax.cond` and `lax.switch` with the rule in their branches."""
    index, *operands = inputs
    branches = [lambda *args, b=branch: evaluate(b.jaxpr, b.consts, args, rule) for branch in params["branches"]]
    return jax.lax.switch(index, branches, *operands)


_CONTROL = {"scan": _scan, "while": _while, "cond": _cond}


def _bind(jaxpr, equation, inputs) -> list[Any]:
    """One equation, as a program of its own."""
    variables = list(dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, Literal)))
    values = {atom: value for atom, value in zip(equation.invars, inputs, strict=True) if not isinstance(atom, Literal)}
    alone = jaxpr.replace(constvars=[], invars=variables, outvars=list(equation.outvars), eqns=[equation])
    return jaxpr_as_fun(ClosedJaxpr(alone, []))(*(values[atom] for atom in variables))
