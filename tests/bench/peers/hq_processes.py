"""Real /bin/true processes through HyperQueue on two cores, output not kept."""

import json
import sys
import time

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig
from hyperqueue.hyperqueue import get_hq_version

n = int(sys.argv[1])
with LocalCluster() as cluster:
    cluster.start_worker(WorkerConfig(cores=2))
    client = cluster.client()
    job = Job()
    for _ in range(n):
        job.program(["/bin/true"], stdout=None, stderr=None)
    start = time.perf_counter()
    client.wait_for_jobs([client.submit(job)])
    rate = n / (time.perf_counter() - start)
print(json.dumps({"peer": "hyperqueue " + get_hq_version(), "processes_per_s": round(rate)}))
