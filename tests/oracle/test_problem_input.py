"""Mistakes in stating a problem: what was got, what is expected, how to mend it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg.problem as tp


def loss(x, data):
    return jnp.sum((x - data) ** 2)


def risk(x, example):
    return (example[0] @ x - example[1]) ** 2


def consensus(data=None, x0=None, function=loss, **keywords):
    return tp.Consensus(function, np.ones((3, 2)) if data is None else data, np.zeros(2) if x0 is None else x0, **keywords)


def examples(*counts):
    return [(np.ones((m, 2)), np.ones(m)) for m in counts]


def poisoned(value):
    data = np.ones((3, 2))
    data[1, 0] = value
    return data


def poisoned_examples():
    data = examples(3, 4)
    data[1][0][2, 1] = np.nan
    return data


def from_root(x, data):
    return jnp.sqrt(jnp.sum((x - data) ** 2))


class Opaque:
    """A function that cannot be hashed, as one that holds arrays."""

    __hash__ = None

    def __call__(self, x, data):
        return loss(x, data)


VALUE_ERRORS = {
    "no_examples": (lambda: tp.EmpiricalRisk(risk, examples(3, 0), np.zeros(2)), r"agent 1 has no data: got 0 examples"),
    "no_examples_named": (
        lambda: tp.EmpiricalRisk(risk, examples(3, 0), np.zeros(2), names=["zurich", "basel"]),
        r"agent 1 \('basel'\) has no data",
    ),
    "no_agents": (lambda: consensus([]), "data has no agents"),
    "no_agents_stacked": (lambda: consensus(np.ones((0, 2))), "data has no agents"),
    "nan": (lambda: consensus(poisoned(np.nan)), r"data of agent 1 has NaN or infinite values: first at data\[0\]"),
    "inf": (lambda: consensus(poisoned(np.inf), names=["a", "b", "c"]), r"data of agent 1 \('b'\) has NaN or infinite"),
    "nan_example": (
        lambda: tp.EmpiricalRisk(risk, poisoned_examples(), np.zeros(2)),
        r"data of agent 1 has NaN .* first at data\[0\]\[2, 1\]",
    ),
    "nan_stacked_examples": (
        lambda: tp.EmpiricalRisk(risk, (np.full((2, 3, 2), np.nan), np.ones((2, 3))), np.zeros(2)),
        r"data of agent 0 has NaN .* first at data\[0\]\[0, 0\]",
    ),
    "shapes": (
        lambda: consensus([np.ones(2), np.ones(2), np.ones(3)]),
        r"shapes differ between agents: data of agent 2 has shape \(3,\), expected \(2,\) as for agent 0",
    ),
    "structures": (lambda: consensus([{"a": np.ones(2)}, {"b": np.ones(2)}]), "data of agent 1 has structure"),
    "feature_shapes": (
        lambda: tp.EmpiricalRisk(risk, [(np.ones((3, 2)), np.ones(3)), (np.ones((4, 5)), np.ones(4))], np.zeros(2)),
        r"shapes differ between agents: data\[0\] of agent 1 has shape \(4, 5\)",
    ),
    "unpaired": (
        lambda: tp.EmpiricalRisk(risk, [(np.ones((3, 2)), np.ones(4))], np.zeros(2)),
        "data of agent 0: got lengths .* features and labels must pair up",
    ),
    "leading_axes": (lambda: consensus({"a": np.ones((3, 2)), "b": np.ones(4)}), "one leading axis over agents: got lengths"),
    "stacked_examples": (
        lambda: tp.EmpiricalRisk(risk, (np.ones((2, 3, 2)), np.ones((2, 4))), np.zeros(2)),
        "got example axes of lengths",
    ),
    "negative_weight": (lambda: consensus(weights=[1, -1, 1]), r"weights: got -1.0 for agent 1, expected finite numbers ≥ 0"),
    "nan_weight": (lambda: consensus(weights=[1, np.nan, 1]), "weights: got nan for agent 1"),
    "weights_length": (lambda: consensus(weights=[1, 1]), r"weights: got shape \(2,\), expected \(3,\)"),
    "weights_zero": (lambda: consensus(weights=[0, 0, 0]), "weights: got all zero"),
    "weights_word": (
        lambda: tp.EmpiricalRisk(risk, examples(3, 3), np.zeros(2), weights="equal"),
        "weights: got 'equal', expected 'examples', 'uniform'",
    ),
    "not_scalar": (lambda: consensus(function=lambda x, d: x - d), r"must be scalar: got shape \(2,\), expected shape \(\)"),
    "two_values": (lambda: consensus(function=lambda x, d: (loss(x, d), 1)), "must be scalar: got PyTreeDef"),
    "integer_loss": (
        lambda: consensus(function=lambda x, d: jnp.sum(x > d)),
        "is not differentiable: got a value of type int",
    ),
    "no_reverse_mode": (
        lambda: consensus(function=lambda x, d: jax.lax.while_loop(lambda s: s < 10, lambda s: s + jnp.sum(x**2) + 1, 0.0)),
        "loss.* is not differentiable: ",
    ),
    "kink_at_start": (
        lambda: consensus(np.array([[1.0, 1.0], [0.0, 0.0]]), function=from_root),
        r"gradient of the loss of agent 1 is not finite at x0: got NaN or infinity \(1 of 2 agents\)",
    ),
    "infinite_loss": (lambda: consensus(function=lambda x, d: jnp.sum(1 / x)), "loss of agent 0 is not finite at x0"),
    "nan_start": (lambda: consensus(x0=np.array([np.nan, 0])), "x0 has NaN or infinite entries"),
    "names": (lambda: consensus(names=["a", "b"]), "names: got 2 .* expected 3 different ones"),
    "names_twice": (lambda: consensus(names=["a", "b", "b"]), r"names: got 3 \(2 different\)"),
    "gradient_noise": (lambda: consensus(gradient_noise=-1), "gradient_noise: got -1"),
    "batch_size": (
        lambda: tp.EmpiricalRisk(risk, examples(3), np.zeros(2), batch_size=0),
        "batch_size: got 0, expected an integer ≥ 1",
    ),
    "regularizer_shape": (
        lambda: consensus(regularizer=tp.regularizer(jnp.sum, lambda v, s: v[:1])),
        "regularizer prox changes x: got",
    ),
    "regularizer_value": (
        lambda: consensus(regularizer=tp.regularizer(jnp.abs, lambda v, s: v)),
        r"regularizer value must be scalar: got shape \(2,\)",
    ),
    "not_foldable": (
        lambda: consensus(regularizer=tp.l1(1)).folded(),
        "which is not smooth, expected a smooth one such as tw.l2",
    ),
    "quadratic_shapes": (lambda: tp.quadratic(np.ones((2, 3, 3)), np.ones((2, 2))), r"expected \[n, d, d\] and \[n, d\]"),
    "quadratic_skew": (
        lambda: tp.quadratic(np.array([np.eye(2), [[1, 1], [0, 1]]]), np.zeros((2, 2))),
        "A of agent 1 is not symmetric",
    ),
    "quadratic_nan": (
        lambda: tp.quadratic(np.full((2, 1, 1), np.nan), np.zeros((2, 1))),
        r"data of agent 0 has NaN or infinite values: first at data\['A'\]",
    ),
    "quadratic_constant": (lambda: tp.quadratic(np.ones((2, 1, 1)), np.ones((2, 1)), np.ones(3)), r"got c of shape \(3,\)"),
    "measurement_noise": (lambda: tp.Measurements([1.0], noise=-1), "noise: got -1"),
    "measurement_nan": (lambda: tp.Measurements([1.0, np.nan]), "data of agent 1 has NaN"),
    "signal": (
        lambda: tp.Measurements([1.0, 2.0], signal=lambda v, k: jnp.stack([v, v])),
        "must return something like one value",
    ),
}

TYPE_ERRORS = {
    "integer_start": (lambda: consensus(x0=np.zeros(2, int)), "x0 must be floating: got int64"),
    "named_integer_start": (lambda: consensus(x0={"w": np.zeros(2, int)}), r"x0\['w'\] must be floating"),
    "function_in_start": (lambda: consensus(x0=[np.zeros(2), jnp.tanh]), r"x0\[1\] must be floating: got .*eqx.partition"),
    "empty_start": (lambda: consensus(x0={}), "x0 is empty"),
    "integer_measurements": (lambda: tp.Measurements([1, 2]), "values must be floating: got int64"),
    "not_a_loss": (lambda: consensus(function=3.0), "loss: got float, expected a function"),
    "unhashable_loss": (lambda: consensus(function=Opaque()), "loss holds arrays"),
    "not_a_regularizer": (lambda: consensus(regularizer=0.1), "regularizer: got float, expected one of tw.l1"),
}


@pytest.mark.parametrize("case", VALUE_ERRORS)
def test_value_errors(case):
    make, message = VALUE_ERRORS[case]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("case", TYPE_ERRORS)
def test_type_errors(case):
    make, message = TYPE_ERRORS[case]
    with pytest.raises(TypeError, match=message):
        make()


def test_errors_inside_the_loss_keep_their_type_and_get_a_note():
    with pytest.raises(TypeError) as caught:
        consensus(np.ones((3, 5)), function=lambda x, d: d @ x)
    assert any("raised while tracing loss(x, data_i)" in note for note in caught.value.__notes__)


def test_zero_weight_of_one_agent_is_allowed():
    problem = consensus(np.array([[1.0, 1.0], [5.0, 5.0]]), weights=[1, 0])
    np.testing.assert_allclose(tp.reference(problem).x, [1, 1])
    assert tp.heterogeneity(problem).smoothness_spread == 1
