"""A server here that acts as the Hugging Face Hub and as a release host."""

import hashlib
import re
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

#: A published model without a size or a hash on record, so that a `Server` can offer it.
UNPINNED = "flownet_cogvideo.pkl"


class Server(ThreadingHTTPServer):
    """The Hub at /owner/repo/resolve/main/FILE and a release at /releases/FILE.

    Both redirect to /files/FILE. `stop_at`: send so many bytes, then wait for `gate` and break the
    connection. `status`, `page`: what to answer instead of the file. `raw`: headers and pieces to
    send for it, as they are. `log`: requests seen.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.gate = threading.Event()
        self.gate.set()
        self.content = b""
        self.etag = '"first"'
        self.stated = None
        self.stop_at = self.status = self.page = self.raw = None
        self.range = None
        self.sent = 0
        self.log = []

    def handle_error(self, *args):
        """A client that goes away is no error here."""

    def ranges(self):
        """The Range of each request for the bytes."""
        return [h["Range"] for method, path, h in self.log if "/files/" in path and method == "GET"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        if not self.path.startswith("/api/"):
            server.log.append((self.command, self.path, self.headers))
        if self.path.startswith("/api/"):  # huggingface_hub asks for more than the file
            self.answer(404, {})
        elif "/files/" not in self.path:
            hub = {"X-Repo-Commit": "0" * 40, "X-Linked-Size": len(server.content)}
            hub["X-Linked-Etag"] = (
                f'"{server.stated or hashlib.sha256(server.content).hexdigest()}"'
            )
            name = self.path.rsplit("/", 1)[1]
            to = f"http://localhost:{server.server_port}/files/{name}"  # another host, to the Hub
            self.answer(server.status or 302, {"Location": to, **hub})
        elif server.raw:
            self.send_raw(*server.raw)
        elif server.page:
            self.answer(200, {"Content-Type": server.page[0]}, server.page[1])
        else:
            start = int(re.sub(r"\D", "", self.headers["Range"] or "0"))
            if start >= len(server.content):
                return self.answer(416, {})
            headers = {"ETag": server.etag}
            if start:
                end = len(server.content)
                headers["Content-Range"] = server.range or f"bytes {start}-{end - 1}/{end}"
            self.answer(206 if start else 200, headers, server.content[start:])

    def send_raw(self, headers, pieces):
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n")
        with suppress(ConnectionError):
            for piece in pieces() if self.command == "GET" else ():
                self.wfile.write(piece)
                self.server.sent += len(piece)

    def answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body or self.command == "HEAD":
            return
        stop_at, self.server.stop_at = self.server.stop_at, None
        self.wfile.write(body[:stop_at])
        if stop_at is not None:
            self.server.gate.wait(30)
            self.close_connection = True

    def log_message(self, *args):
        pass


@contextmanager
def serving(content):
    """A running Server, whose every file is `content`."""
    server = Server()
    server.content = content
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        server.server_close()
