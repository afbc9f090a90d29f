"""Settings all tests share."""

from hypothesis import HealthCheck, settings

# A loaded machine is slow, not wrong: no test here fails for time.
settings.register_profile("pointsman", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pointsman")
