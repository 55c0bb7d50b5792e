"""Latency and throughput of a served model, with 1, 8 and 32 clients at once.

    python -m benchmarks.serve --model ADDRESS --images FOLDER [--seconds N]

Starts `mlflow models serve` here; every request is one picture, as it lies on the disk. Clients ask
for N seconds, and requests are counted until the last answer.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import requests

from benchmarks.measure import machine_name, start, take
from tlkit.cli import parse_flags
from tlkit.data.given import find_pictures
from tlkit.errors import UserError
from tlkit.files import cache_folder

CLIENTS = (1, 8, 32)


@contextmanager
def served(model: str) -> Iterator[str]:
    """The address of a server of the model, for as long as the block lasts.

    Raises:
        UserError: it does not start; what it said is printed.
    """
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
                    print(output.read().decode(errors="replace"), file=sys.stderr)
                    raise UserError(
                        f"the server of {model} ended with {process.returncode} and never "
                        "answered; what it said stands above"
                    )
                time.sleep(0.5)
            yield url
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/ping", timeout=5).ok
    except requests.RequestException:
        return False


def ask(url: str, bodies: list[str], clients: int, seconds: float) -> tuple[list[float], float]:
    """The seconds that each request took, with so many clients that ask one after another, and
    those until the last answer, which comes after the time to ask is up.

    Raises:
        UserError: an answer that is none; all clients stop then.
    """
    taken: list[float] = []
    failed = threading.Event()
    begun = time.perf_counter()

    def client(number: int) -> None:
        session = requests.Session()
        for body in cycle(bodies[number:] + bodies[:number]):
            started = time.perf_counter()
            if started > begun + seconds or failed.is_set():
                return
            try:
                _post(session, url, body)
            except Exception:
                failed.set()
                raise
            taken.append(time.perf_counter() - started)

    with ThreadPoolExecutor(clients) as pool:
        for asking in [pool.submit(client, number) for number in range(clients)]:
            asking.result()
    return taken, time.perf_counter() - begun


def _post(session: requests.Session, url: str, body: str) -> None:
    headers = {"content-type": "application/json"}
    try:
        answer = session.post(f"{url}/invocations", data=body, headers=headers)
    except requests.RequestException as error:
        raise UserError(f"{url} does not answer any more: {error}") from None
    if not answer.ok:
        said = " ".join(answer.text.split())[:300]
        raise UserError(f"{url} answered {answer.status_code} instead of 200: {said}")


def main() -> None:
    flags = parse_flags(sys.argv[1:])
    seconds = take(flags, "seconds", 30.0)
    if set(flags) != {"model", "images"}:
        seen = ", ".join(f"--{name}" for name in flags) or "neither"
        raise UserError(f"{seen} given; needs --model ADDRESS and --images FOLDER, and no others")
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
            taken, lasted = ask(url, bodies, clients, seconds)
            taken.sort()
            p99 = taken[min(len(taken) - 1, int(0.99 * len(taken)))]
            print(
                f"| {clients} | {len(taken) / lasted:.1f} | {statistics.median(taken) * 1e3:.0f} "
                f"| {p99 * 1e3:.0f} |"
            )


if __name__ == "__main__":
    start(main)
