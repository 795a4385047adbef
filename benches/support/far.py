"""A site at the other end of a long line: what a round trip of 80 ms costs where the line's speed is the limit."""

import json, os, shutil, socket, statistics, subprocess, time
from pathlib import Path

from buckets import FLAGS, KEY, make_objects, rclone_environment, store
from whole import FARSHORE, ROOT, RUNS, SCALE, measure, policy, run, say

DELAYS_MS = {"near": 0, "far": 40}  # one way
RATE_MBIT = 200
SECRET = os.environ.get("FARSHORE_TEST_S3_SECRET_KEY", "")


def weed():
    """The S3 server that the testbed installs."""
    script = f'testbed="{ROOT}/testbed"; . "$testbed/versions.sh"; echo "$seaweedfs_home/weed"'
    return subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout.strip()


class Line:
    """A line of so much delay to an S3 server of its own."""

    def __init__(self, work, delay_ms):
        self.link = subprocess.Popen([ROOT / "testbed/far-link", str(delay_ms), str(RATE_MBIT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        namespace, _, there = self.link.stdout.readline().split()
        directory = Path(work) / f"server-{delay_ms}"
        (directory / "data").mkdir(parents=True, mode=0o700)
        identity = {"name": "admin", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (directory / "s3.json").write_text(json.dumps({"identities": [identity]}))
        # A namespace has all ports to itself, but the server names sockets in /tmp after them.
        names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
        ports = {name: 21000 + 10 * delay_ms + number for number, name in enumerate(names)}
        self.server = subprocess.Popen(
            ["ip", "netns", "exec", namespace, weed(), "server", f"-dir={directory}/data", f"-ip={there}", f"-ip.bind={there}", "-master.volumeSizeLimitMB=256",
             "-master.telemetry=false", "-volume.max=60", f"-filer.localSocket={directory}/filer.sock", "-s3", "-s3.port.iceberg=0",
             "-s3.port.lance=0", *(f"-{name}={port}" for name, port in ports.items()), f"-s3.config={directory}/s3.json", f"-s3.localSocket={directory}/s3.sock"],
            stdin=subprocess.DEVNULL, stdout=open(directory / "log", "w"), stderr=subprocess.STDOUT)
        self.endpoint = f"http://{there}:{ports['s3.port']}"
        self.rclone = rclone_environment(self.endpoint)
        for _ in range(300):
            try:
                socket.create_connection((there, ports["s3.port"]), timeout=1).close()
                # It answers long before it can store.
                subprocess.run(["rclone", "rcat", "near:bench-line/probe"], input=b"probe", env=self.rclone, check=True, timeout=20, capture_output=True)
                return
            except (OSError, subprocess.SubprocessError):
                time.sleep(0.2)
        raise SystemExit(f"the server at the end of the line did not start: {directory}/log")

    def end(self):
        self.server.kill()
        self.server.wait()
        self.link.stdin.close()
        self.link.wait()


def once(work, line, size, label):
    """A first point and its restore; returns both in MB/s."""
    for name in ("cache", "restored"):
        shutil.rmtree(work / name, ignore_errors=True)
    for file in work.glob("*.key"):
        file.unlink()
    path, key = policy(work, f'[[source]]\nname = "objects"\nkind = "bucket"\nstore = {store("bench-source")}\n')
    path.write_text(path.read_text().replace(f'{{ kind = "filesystem", path = "{work}/site" }}', store("bench-line", label, line.endpoint)))
    run(FARSHORE, "init", path)
    backup, peak, cpu, _ = measure(FARSHORE, "backup", path)
    restore, peak_back, cpu_back, _ = measure(FARSHORE, "restore", path, "latest", "--identity", key, "--source", "objects", "--to", work / "restored")
    run("rclone", "purge", "near:bench-line/" + label, env=line.rclone)
    say(f"  {label}: backup {backup:.1f} s, {size / backup / 1e6:.1f} MB/s ({cpu:.1f} s of CPU, {peak:.0f} MiB); "
        f"restore {restore:.1f} s, {size / restore / 1e6:.1f} MB/s ({cpu_back:.1f} s of CPU, {peak_back:.0f} MiB)")
    return size / backup / 1e6, size / restore / 1e6


def compare(work):
    objects = int(20_000 * SCALE)
    size = make_objects(work / "objects", objects)
    rclone = rclone_environment()
    run("rclone", "mkdir", "near:bench-source", env=rclone)
    run("rclone", "copy", work / "objects", "near:bench-source", *FLAGS, env=rclone)
    shutil.rmtree(work / "objects")
    say(f"bucket: {objects} objects, {size / 1e9:.2f} GB; its site at the other end of {RATE_MBIT} Mbit/s ({RATE_MBIT / 8:.0f} MB/s each way)")
    lines = {name: Line(work, delay) for name, delay in DELAYS_MS.items()}
    backups, restores = [], []
    try:
        for pair in range(RUNS + 1):
            found = {name: once(work, line, size, f"{name}-{pair}") for name, line in lines.items()}
            if pair > 0:
                backups.append(found["far"][0] / found["near"][0])
                restores.append(found["far"][1] / found["near"][1])
    finally:
        for line in lines.values():
            line.end()
    say(f"backup at {2 * DELAYS_MS['far']} ms / at none:  {statistics.median(backups):.2f} (wanted: at least 0.9)")
    say(f"restore at {2 * DELAYS_MS['far']} ms / at none: {statistics.median(restores):.2f} (wanted: at least 0.9)")
