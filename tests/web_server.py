"""A web server for tests: files, Hugging Face's hub, and their failures."""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class WebServer(ThreadingHTTPServer):
    """Serves `files` (bytes by path) and notes what is asked for.

    Attributes:
        files: content by path, without the first slash. What lies under
            `user/model/` is a repository on the hub as well.
        claims: SHA-256 (or MD5 of an archive) to claim, by path.
        cut: number of bytes after which the connection breaks, by path; each
            is used once.
        status: answer to everything, if it is not None.
        asked: (method, path, Range) of each request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.claims, self.cut = {}, {}, {}
        self.status, self.asked = None, []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that hangs up is no news."""


@contextlib.contextmanager
def serving():
    with WebServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self._answer(with_content=False)

    def do_GET(self):
        self._answer(with_content=True)

    def _answer(self, with_content):
        path, server = self.path.lstrip("/").split("?")[0], self.server
        wanted, known = self.headers.get("Range"), self.headers.get("If-Range")
        server.asked.append((self.command, path, wanted))
        if server.status is not None:
            return self._send(server.status, b"", {}, with_content)
        info = re.fullmatch(r"api/models/([^/]+/[^/]+)(/revision/.+)?", path)
        if info:
            return self._send_info(info[1], with_content)
        tree = re.fullmatch(r"api/models/([^/]+/[^/]+)/tree/.+", path)
        if tree:
            return self._send_tree(tree[1], with_content)
        file = re.fullmatch(r"([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        path = f"{file[1]}/{file[2]}" if file else path
        if path not in server.files:
            return self._send(404, b"", {}, with_content)
        content = server.files[path]
        digest = server.claims.get(path, hashlib.sha256(content).hexdigest())
        headers = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        if file:
            headers["X-Repo-Commit"] = COMMIT
        elif path in server.claims:
            headers["x-goog-hash"] = f"crc32c=AAAAAA==,md5={digest}"
        status, size = 200, len(content)
        if wanted and known in (None, headers["ETag"]):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            status, content = 206, content[start:]
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        return self._send(
            status,
            content,
            headers,
            with_content,
            server.cut.pop(path, None) if with_content else None,
        )

    def _send_info(self, repository, with_content):
        names = [
            name.removeprefix(f"{repository}/")
            for name in self.server.files
            if name.startswith(f"{repository}/")
        ]
        if not names:
            headers = {"X-Error-Code": "RepoNotFound"}
            return self._send(404, b"", headers, with_content)
        content = json.dumps(
            {
                "id": repository,
                "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in names],
            }
        )
        headers = {"Content-Type": "application/json"}
        return self._send(200, content.encode(), headers, with_content)

    def _send_tree(self, repository, with_content):
        entries = []
        for path, content in self.server.files.items():
            if path.startswith(f"{repository}/"):
                digest = hashlib.sha256(content).hexdigest()
                digest = self.server.claims.get(path, digest)
                name = path.removeprefix(f"{repository}/")
                entry = {"type": "file", "path": name, "size": len(content)}
                large = {"oid": digest, "size": len(content), "pointerSize": 1}
                entries.append(entry | {"oid": digest[:40], "lfs": large})
        headers = {"Content-Type": "application/json"}
        content = json.dumps(entries).encode()
        return self._send(200, content, headers, with_content)

    def _send(self, status, content, headers, with_content, cut=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_content:
            self.wfile.write(content[:cut])
        if cut is not None:
            self.close_connection = True
