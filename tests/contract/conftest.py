"""Contract tests compile many small programs and run them for a moment."""

import jax
import pytest

# Where nothing is compared between differently compiled programs, an optimising compiler only takes time.
UNOPTIMISED = {"test_epochs", "test_exports", "test_server_exports", "test_price_exports", "test_failures", "test_bad_input", "test_stop"}


@pytest.fixture(autouse=True, scope="module")
def compile_quickly(request):
    """Half the time of compilation, for the modules named above."""
    jax.config.update("jax_disable_most_optimizations", request.module.__name__.split(".")[-1] in UNOPTIMISED)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
