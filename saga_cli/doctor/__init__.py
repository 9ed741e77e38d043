"""What can be wrong, looked at: each check is a small function that returns findings, each with its remedy."""
