"""The machine's own limit: posix_spawn of /bin/true from two threads, nothing else."""

import json
import os
import sys
import threading
import time

n = int(sys.argv[1])


def spawn(count):
    for _ in range(count):
        os.waitpid(os.posix_spawn("/bin/true", ["/bin/true"], {}), 0)


threads = [threading.Thread(target=spawn, args=(n // 2,)) for _ in range(2)]
start = time.perf_counter()
for t in threads:
    t.start()
for t in threads:
    t.join()
print(json.dumps({"limit": "posix_spawn", "processes_per_s": round(n / (time.perf_counter() - start))}))
