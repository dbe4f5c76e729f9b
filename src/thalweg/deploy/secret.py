"""Secret randomness of a site."""

import os

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def system_key() -> Array:
    """A key of 64 bits from the operating system: what is drawn from it, nobody else can draw."""
    return jnp.asarray(np.frombuffer(os.urandom(8), np.uint32))
