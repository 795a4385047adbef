"""An S3 server at the other end of a long line (testbed/far-link; needs root)."""

import json, os, socket, subprocess, time
from pathlib import Path

from buckets import KEY
from whole import ROOT

SECRET = os.environ.get("FARSHORE_TEST_S3_SECRET_KEY", "")
WEED = os.environ.get("FARSHORE_TEST_WEED", "")


class Line:
    """A line of so much delay one way, and so many megabits a second each way, to an S3 server of its own."""

    def __init__(self, work, delay_ms, rate_mbit, probe):
        """`probe` stores something at the endpoint that it gets, or raises an error of `subprocess`."""
        self.link = subprocess.Popen([ROOT / "testbed/far-link", str(delay_ms), str(rate_mbit)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        namespace, _, there = self.link.stdout.readline().split()
        directory = Path(work) / f"server-{delay_ms}"
        (directory / "data").mkdir(parents=True, mode=0o700)
        identity = {"name": "admin", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
        # A namespace has all ports to itself, but the server names sockets in /tmp after them.
        names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
        ports = {name: 21000 + 10 * delay_ms + number for number, name in enumerate(names)}
        self.server = subprocess.Popen(
            ["ip", "netns", "exec", namespace, WEED, "server", f"-dir={directory}/data", f"-ip={there}", f"-ip.bind={there}", "-master.volumeSizeLimitMB=256",
             "-master.telemetry=false", "-volume.max=60", f"-filer.localSocket={directory}/filer.sock", "-s3", "-s3.port.iceberg=0",
             "-s3.port.lance=0", *(f"-{name}={port}" for name, port in ports.items()), f"-s3.config={directory}/s3.json", f"-s3.localSocket={directory}/s3.sock"],
            stdin=subprocess.DEVNULL, stdout=open(directory / "log", "w"), stderr=subprocess.STDOUT)
        self.endpoint = f"http://{there}:{ports['s3.port']}"
        for _ in range(300):
            try:
                socket.create_connection((there, ports["s3.port"]), timeout=1).close()
                # It answers long before it can store.
                probe(self.endpoint)
                return
            except (OSError, subprocess.SubprocessError):
                time.sleep(0.2)
        self.end()
        raise SystemExit(f"the server at the end of the line did not start: {directory}/log")

    def end(self):
        self.server.kill()
        self.server.wait()
        self.link.stdin.close()
        self.link.wait()
