"""Latency and throughput of a served model, with 1, 8 and 32 clients at once.

    python -m benchmarks.serve --model ADDRESS --images FOLDER [--seconds N]

Starts `mlflow models serve` here; every request is one picture, as it lies on the disk.
"""

import base64
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import requests

from benchmarks.measure import machine_name
from tlkit.cli import parse_flags
from tlkit.data.given import find_pictures
from tlkit.files import cache_folder

CLIENTS = (1, 8, 32)


@contextmanager
def served(model: str) -> Iterator[str]:
    """The address of a server of the model, for as long as the block lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "models", "serve", "-m", model),
                *("--env-manager", "local", "-p", str(port)),
            ],
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            while not _answers(url):
                if process.poll() is not None:
                    output.seek(0)
                    sys.exit(output.read().decode())
                time.sleep(0.5)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/ping", timeout=5).ok
    except requests.ConnectionError:
        return False


def ask(url: str, bodies: list[str], clients: int, seconds: float) -> list[float]:
    """The seconds that each request took, with so many clients that ask one after another."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        session = requests.Session()
        for body in cycle(bodies[number:] + bodies[:number]):
            started = time.perf_counter()
            if started > end:
                return
            answer = session.post(
                f"{url}/invocations", data=body, headers={"content-type": "application/json"}
            )
            answer.raise_for_status()
            taken.append(time.perf_counter() - started)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def main() -> None:
    flags = parse_flags(sys.argv[1:])
    seconds = float(flags.pop("seconds", "30"))
    given = find_pictures(flags["images"], cache_folder() / "data")
    bodies = [
        json.dumps(
            {"inputs": [{"image": base64.b64encode((given.root / n).read_bytes()).decode()}]}
        )
        for n in given.names
    ]
    print(f"{machine_name()}; {len(bodies)} pictures, {seconds:.0f} s each")
    print("| clients | requests a second | p50 (ms) | p99 (ms) |")
    print("|---|---|---|---|")
    with served(flags["model"]) as url:
        ask(url, bodies, 1, 5.0)  # the first requests warm the server up
        for clients in CLIENTS:
            taken = sorted(ask(url, bodies, clients, seconds))
            p99 = taken[min(len(taken) - 1, int(0.99 * len(taken)))]
            print(
                f"| {clients} | {len(taken) / seconds:.1f} | {statistics.median(taken) * 1e3:.0f} "
                f"| {p99 * 1e3:.0f} |"
            )


if __name__ == "__main__":
    main()
