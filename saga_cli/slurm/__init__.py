"""A cluster in Slurm allocations: asked for from a login node, followed until it serves, reached from outside."""
