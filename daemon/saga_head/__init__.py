"""The head daemon: the shell around `saga_core.head.Head`. Sockets, clock, disk, HTTP."""
