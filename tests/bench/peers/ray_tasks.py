"""No-op tasks through Ray: throughput of N tasks at once, then latency one at a time."""

import json
import sys
import time

import ray

n = int(sys.argv[1])
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR")


@ray.remote
def noop(i):
    return i


ray.get([noop.remote(i) for i in range(200)])
start = time.perf_counter()
ray.get([noop.remote(i) for i in range(n)])
rate = n / (time.perf_counter() - start)
waits = []
for i in range(300):
    start = time.perf_counter()
    ray.get(noop.remote(i))
    waits.append((time.perf_counter() - start) * 1e3)
waits.sort()
print(
    json.dumps(
        {
            "peer": "ray " + ray.__version__,
            "tasks_per_s": round(rate),
            "p50_ms": round(waits[150], 2),
            "p99_ms": round(waits[296], 2),
        }
    )
)
