"""A cluster on this machine: its daemons as detached processes of the person who ran `saga up`."""
