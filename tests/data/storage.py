"""A stand-in for Google's Cloud Storage: what array_record asks of it to read a file."""

import contextlib
import http.server
import re
import threading
import urllib.parse
from collections.abc import Iterator


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[str]:
    """The address of a server on this machine that has `files`, by "bucket/name"."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = urllib.parse.urlparse(self.path).path
            bucket, name = re.fullmatch(r"/storage/v1/b/([^/]+)/o/([^/]+)", path).groups()
            data = files[f"{bucket}/{urllib.parse.unquote(name)}"]
            first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers["Range"]).groups()
            start = int(first) if first else max(0, len(data) - int(last))
            end = min(len(data), int(last) + 1) if first and last else len(data)
            self.send_response(206)
            self.send_header("Content-Length", str(end - start))
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            self.send_header("x-goog-generation", "1")
            self.end_headers()
            self.wfile.write(data[start:end])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
