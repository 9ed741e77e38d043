"""Slurm: what is asked of it and what it answers; pure render and parse, and backends behind one protocol."""
