"""What the shells of both daemons need of the world: a clock, log lines, private files, the cluster folder."""
