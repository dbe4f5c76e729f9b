"""The fence: floating-point results that do not depend on what a compiler fuses.

XLA on the CPU contracts a·b + c into one fused multiply-add wherever product and sum land in one kernel, and picks either
product of a·b + c·d. The same role can so differ by an ulp between a program that runs it for one agent and one that
runs it for all. `isolate` rules both out:

- every product is passed through an exclusive-or of its bits with a zero that is only known at run time, so that no
  product can be contracted into a sum;
- so is every divisor, entry by entry: XLA turns x / s into x · (1/s) where it sees that s is one number, which it is for one
  agent and is not for all of them;
- the role becomes the body of a `while` whose trip count (one) is only known at run time, and whose zero depends on the
  loop counter, so that it is compiled by itself: nothing is fused across it, nothing hoisted out of it.

Optimisation barriers do neither: the CPU pipeline removes them before it fuses.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array, UInt32

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}
_PRODUCTS = {"mul", "integer_pow", "square"}
# Calls that are transparent: their bodies are fenced too, as are those of loops and branches.
_BODIES = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr",
           "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}  # fmt: skip


def isolate(role: Callable, zero: UInt32[Array, ""]) -> Callable:
    """`role`, compiled by itself and without contractions. `zero` must be a traced 0, an argument of the program."""

    def isolated(*args):
        jaxpr, shapes = jax.make_jaxpr(role, return_shape=True)(*args)
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        structure = jax.tree.structure(shapes)

        def body(carry):
            i, _ = carry
            inside = i * zero
            leaves = [_cross(leaf, inside) for leaf in jax.tree.leaves(args)]
            results = _evaluate(jaxpr.jaxpr, jaxpr.consts, leaves, inside)
            return i + 1, jax.tree.unflatten(structure, [_cross(leaf, inside) for leaf in results])

        return jax.lax.while_loop(lambda carry: carry[0] < zero + 1, body, (zero, blank))[1]

    return isolated


def _evaluate(jaxpr, consts, args, zero) -> list[Any]:
    """`jaxpr` applied to `args`, with every floating product fenced."""
    known: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else known[atom]
    for equation in jaxpr.eqns:
        inputs, primitive = [read(atom) for atom in equation.invars], equation.primitive
        if primitive.name == "div" and jnp.issubdtype(inputs[1].dtype, jnp.floating):
            inputs = [inputs[0], _cross_each(jnp.broadcast_to(inputs[1], equation.outvars[0].aval.shape), zero)]
        body = equation.params.get(_BODIES.get(primitive.name, ""))
        if body is not None:
            outputs = _evaluate(getattr(body, "jaxpr", body), getattr(body, "consts", ()), inputs, zero)
        elif primitive.name in _CONTROL:
            outputs = _CONTROL[primitive.name](equation.params, inputs, zero)
        else:
            outputs = _bind(jaxpr, equation, inputs)
        if primitive.name in _PRODUCTS:
            outputs = [_cross(out, zero) if jnp.issubdtype(out.dtype, jnp.floating) else out for out in outputs]
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _scan(params, inputs, zero) -> list[Any]:
    """`lax.scan` with a fenced body."""
    body, constants, carried = params["jaxpr"], params["num_consts"], params["num_carry"]
    fixed, first, rows = inputs[:constants], inputs[constants : constants + carried], inputs[constants + carried :]

    def step(carry, row):
        outputs = _evaluate(body.jaxpr, body.consts, [*fixed, *carry, *row], zero)
        return outputs[:carried], outputs[carried:]

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    last, stacked = jax.lax.scan(step, first, rows, **options)
    return [*last, *stacked]


def _while(params, inputs, zero) -> list[Any]:
    """`lax.while_loop` with a fenced body and condition."""
    test, body = params["cond_jaxpr"], params["body_jaxpr"]
    of_test, rest = inputs[: params["cond_nconsts"]], inputs[params["cond_nconsts"] :]
    of_body, first = rest[: params["body_nconsts"]], rest[params["body_nconsts"] :]
    test_all = lambda carry: _evaluate(test.jaxpr, test.consts, [*of_test, *carry], zero)[0]
    step = lambda carry: _evaluate(body.jaxpr, body.consts, [*of_body, *carry], zero)

    def step_those_that_go_on(carry):
        # Under vmap every agent has a condition of its own; one that has ended stays as it is.
        going = test_all(carry)
        select = lambda new, old: jnp.where(going.reshape(going.shape + (1,) * (jnp.ndim(old) - going.ndim)), new, old)
        return [select(new, old) for new, old in zip(step(carry), carry, strict=True)]

    batched = bool(params["cond_jaxpr"].out_avals[0].shape)
    return jax.lax.while_loop(lambda carry: jnp.any(test_all(carry)), step_those_that_go_on if batched else step, first)


def _cond(params, inputs, zero) -> list[Any]:
    """`lax.cond` and `lax.switch` with fenced branches."""
    index, *operands = inputs
    fenced = [lambda *args, b=branch: _evaluate(b.jaxpr, b.consts, args, zero) for branch in params["branches"]]
    return jax.lax.switch(index, fenced, *operands)


_CONTROL = {"scan": _scan, "while": _while, "cond": _cond}


def _bind(jaxpr, equation, inputs) -> list[Any]:
    """One equation, as a program of its own."""
    variables = list(dict.fromkeys(atom for atom in equation.invars if not isinstance(atom, Literal)))
    values = {atom: value for atom, value in zip(equation.invars, inputs, strict=True) if not isinstance(atom, Literal)}
    alone = jaxpr.replace(constvars=[], invars=variables, outvars=list(equation.outvars), eqns=[equation])
    return jaxpr_as_fun(ClosedJaxpr(alone, []))(*(values[atom] for atom in variables))


def bits(leaf):
    """`leaf` as integers of its size."""
    if leaf.dtype == bool:
        return leaf.astype(jnp.uint8)
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return leaf
    return jax.lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize])


def _cross(leaf, zero):
    """`leaf`, its bits combined with `zero` by exclusive-or."""
    leaf = jnp.asarray(leaf)
    if leaf.dtype == bool:
        return leaf ^ (zero != 0)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_cross(jax.random.key_data(leaf), zero))
    crossed = bits(leaf) ^ zero.astype(bits(leaf).dtype)
    return crossed if crossed.dtype == leaf.dtype else jax.lax.bitcast_convert_type(crossed, leaf.dtype)


def _cross_each(leaf, zero):
    """As `_cross`, with a zero for each entry that is not seen to be the same one."""
    leaf = jnp.asarray(leaf)
    places = jnp.arange(leaf.size, dtype=_UNSIGNED[leaf.dtype.itemsize]).reshape(leaf.shape)
    return _cross(leaf, places * zero.astype(places.dtype))
