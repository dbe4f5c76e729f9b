"""Out of the simulator: one process per site, over a real network."""
