"""Policies: small pure functions behind one signature each, chosen by name in a profile."""
