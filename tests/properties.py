"""What tests of properties take from Hypothesis, in the profile of this project: how fast the machine is decides nothing."""

from hypothesis import HealthCheck, example, given, settings, strategies

settings.register_profile("slm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slm")

__all__ = ["HealthCheck", "example", "given", "settings", "strategies"]
