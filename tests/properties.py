"""What tests of properties take from Hypothesis, in the profile of this project: how fast the machine is decides nothing.

The quick tests (`-m "not slow …"`) look at a quarter of the examples, all tests together at all of them.
"""

import os

from hypothesis import HealthCheck, example, given, settings, strategies

settings.register_profile("slm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("slm"), max_examples=25)
settings.load_profile("quick" if os.environ.get("FEW_EXAMPLES") else "slm")

__all__ = ["HealthCheck", "example", "given", "settings", "strategies"]
