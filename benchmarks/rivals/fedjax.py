"""FedAvg in FedJAX: its `federated_averaging`, one compiled step called per batch, on both its backends.

Batches keep the stored order (`skip_shuffle`). FedJAX calls `jax.tree_map`, which JAX has removed, so it needs an older JAX.
"""

import os
import time

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"  # before JAX looks

import fedjax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from . import data, measure


def logits(workload: str, params, x):
    """The models over `[b, 784]`; the CNN is NHWC with "valid" convolutions."""
    if workload == "softmax":
        return x @ params["weight"] + params["bias"]
    x = x.reshape(-1, 28, 28, 1)
    for layer in ("conv1", "conv2"):
        x = jax.lax.conv_general_dilated(
            x, params[f"{layer}.weight"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params[f"{layer}.bias"])
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID").reshape(len(x), -1)
    x = jax.nn.relu(x @ params["dense1.weight"] + params["dense1.bias"])
    return x @ params["dense2.weight"] + params["dense2.bias"]


def train(workload: str, rounds: int, seed: int, backend: str):
    """Seconds per round, test accuracy, no workers."""
    pixels, labels = data.federation(seed)
    clients = fedjax.InMemoryFederatedData({i: {"x": pixels[i], "y": labels[i]} for i in range(data.CLIENTS)})

    def loss(params, batch):
        return optax.softmax_cross_entropy_with_integer_labels(logits(workload, params, batch["x"]), batch["y"]).mean()

    with fedjax.for_each_client_backend(backend):
        algorithm = fedjax.algorithms.fed_avg.federated_averaging(
            grad_fn=lambda params, batch, rng: jax.grad(loss)(params, batch),
            client_optimizer=fedjax.optimizers.sgd(data.RATE),
            server_optimizer=fedjax.optimizers.sgd(1.0),
            client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(batch_size=data.BATCH, skip_shuffle=True),
        )
    state = algorithm.init(jax.tree.map(jnp.asarray, data.channels_last(data.initial(workload, seed))))
    keys = list(jax.random.split(jax.random.key(seed), data.COHORT))  # nothing here is random; the interface wants one each
    seconds = []
    for cohort in data.cohorts(seed, rounds).tolist():
        start = time.perf_counter()
        members = [(i, dataset, key) for (i, dataset), key in zip(clients.get_clients(cohort), keys, strict=True)]
        state, _ = algorithm.apply(state, members)
        jax.block_until_ready(state.params)
        seconds.append(time.perf_counter() - start)
    pixels, labels = data.images("t10k")
    predict = jax.jit(lambda params, x: logits(workload, params, x).argmax(1))
    guesses = [predict(state.params, x) for x in np.split(pixels, 10)]
    return seconds, float((np.concatenate(guesses) == labels).mean()), 0


def settings(workload: str):
    """One device with XLA's threads, or two devices that each take a client."""
    return {"jit": {"backend": "jit"}, "pmap over 2 devices": {"backend": "pmap"}}


if __name__ == "__main__":
    measure.main("fedjax", train, settings, ["fedjax", "jax", "numpy"])
