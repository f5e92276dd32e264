"""No-op tasks through Dask distributed: throughput of N tasks at once, then latency one at a time."""

import json
import sys
import time

import distributed
from distributed import Client, LocalCluster, wait


def noop(i):
    return i


if __name__ == "__main__":
    n = int(sys.argv[1])
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        client.gather(client.map(noop, range(200)))
        start = time.perf_counter()
        wait(client.map(noop, range(1000, 1000 + n)))
        rate = n / (time.perf_counter() - start)
        waits = []
        for i in range(300):
            start = time.perf_counter()
            client.submit(noop, -i - 10**6).result()
            waits.append((time.perf_counter() - start) * 1e3)
        waits.sort()
        print(
            json.dumps(
                {
                    "peer": "dask " + distributed.__version__,
                    "tasks_per_s": round(rate),
                    "p50_ms": round(waits[150], 2),
                    "p99_ms": round(waits[296], 2),
                }
            )
        )
