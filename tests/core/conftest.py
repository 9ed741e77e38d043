"""Hypothesis: few examples by default, the same ones each time; `HYPOTHESIS_PROFILE=nightly` for many."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile(
    "default", max_examples=40, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
settings.register_profile(
    "nightly", max_examples=600, stateful_step_count=120, deadline=None, suppress_health_check=slow
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
