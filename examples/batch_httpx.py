"""A batch that downloads documents over HTTP and stores a summary of each through iii.

    python examples/batch_httpx.py --loopback      # a web server, an engine and a worker included
    III_URL=... python examples/batch_httpx.py https://example.com/a https://example.com/b

Needs: pip install 'iii-resilience[iii,testing]' httpx
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from iii import InitOptions, register_worker

from iii_resilience import Backoff, hint_for, iii_retry, load_policies, report_for, resilient
from iii_resilience.testing import LoopbackEngine

# [fetch]
http = httpx.Client(timeout=10)


@iii_retry(idempotent=True, deadline=60.0, backoff=Backoff(base=0.5, cap=30))
def fetch(url: str) -> bytes:
    """Download a document; what is transient is repeated."""
    return http.get(url).raise_for_status().content


# [end]


# [store]
def store(worker: Any, url: str, content: bytes) -> None:
    """Store a summary; the URL is the key, so a repetition is harmless."""
    worker.trigger(
        {"function_id": "documents::store", "payload": {"url": url, "size": len(content)}},
        idempotent=True,
        idempotency_key=url,
        policy="background",
    )


# [end]


# [report]
def run(worker: Any, urls: Iterable[str]) -> dict[str, str]:
    """Handle every document; what failed, and what to do about it."""

    def one(url: str) -> str | None:
        try:
            store(worker, url, fetch(url))
        except Exception as error:
            report, hint = report_for(error), hint_for(error)
            why = report.reason if report is not None else type(error).__name__
            return f"{why}: {hint.action if hint is not None else 'investigate'}"
        return None

    wanted = list(urls)
    with ThreadPoolExecutor(8) as pool:
        results = dict(zip(wanted, pool.map(one, wanted), strict=True))
    return {url: why for url, why in results.items() if why is not None}


# [end]


class _Pages(BaseHTTPRequestHandler):
    """A web server that is busy for the first request, and has no page ``/missing``."""

    busy = 1

    def do_GET(self) -> None:
        """Answer one request."""
        status = 404 if self.path == "/missing" else 200
        if status == 200 and _Pages.busy:
            _Pages.busy -= 1
            status = 503
        self.send_response(status)
        self.send_header("Content-Length", "5" if status == 200 else "0")
        self.end_headers()
        if status == 200:
            self.wfile.write(b"hello")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base names it
        """Keep quiet."""


def loopback(stack: ExitStack) -> list[str]:
    """Start a web server, an engine and a worker in this process; the documents' URLs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    engine = stack.enter_context(LoopbackEngine())
    os.environ["III_URL"] = engine.url
    worker = resilient(register_worker(engine.url, InitOptions(worker_name="document-worker")))
    stack.callback(worker.shutdown)
    worker.register_function("documents::store", lambda document: document["size"])
    engine.wait_registered("documents::store")
    base = f"http://127.0.0.1:{server.server_port}"
    return [f"{base}/a", f"{base}/b", f"{base}/missing"]


def main() -> None:
    """Run the batch."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--loopback", action="store_true", help="start everything it needs")
    parser.add_argument("urls", nargs="*")
    given = parser.parse_args()
    with ExitStack() as stack:
        urls = loopback(stack) if given.loopback else given.urls
        client = register_worker(options=InitOptions(worker_name="nightly-batch"))
        with resilient(client, policies=load_policies("builtin:background")) as worker:
            failed = run(worker, urls)
        for url, why in failed.items():
            print(f"{url}: {why}")
        print(f"{len(urls) - len(failed)} of {len(urls)} documents stored")


if __name__ == "__main__":
    main()
