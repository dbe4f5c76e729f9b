"""Others' software, run on the same work: NumPy for the peer family, whole simulators for the federated one."""
