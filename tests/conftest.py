"""What holds for every test: one thread of torch, and property tests that repeat themselves in CI."""

import os

from hypothesis import HealthCheck, settings

# Before torch is imported, and inherited by programs that tests start. More threads only make tiny models slower, and
# change the order of sums.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
