"""Where both sides of the comparison with pgBackRest write to: a directory, or an S3 server over TLS."""

import json, os, shutil, signal, socket, subprocess, sys, time, urllib.request

from whole import run


class Directory:
    """`repo` and `site` beside each other in a directory."""

    look_every = 0.02

    def __init__(self, work, give):
        self.work, self.give = work, give

    def directories(self):
        return [self.work / "site"]

    def places(self):
        """Where the repositories lie on the disk."""
        return [self.work / "repo", self.work / "site"]

    def clear(self):
        for name in ("repo", "site"):
            shutil.rmtree(self.work / name, ignore_errors=True)
        (self.work / "repo").mkdir(mode=0o700)
        self.give(self.work / "repo")

    def of_pgbackrest(self):
        return f"repo1-path={self.work}/repo\n"

    def of_farshore(self):
        return f'{{ kind = "filesystem", path = "{self.work}/site" }}'

    def files(self, below):
        return (file for file in (self.work / below).rglob("*") if file.is_file())

    def count(self, below, ending=""):
        return sum(1 for file in self.files(below) if file.name.endswith(ending))

    def bytes(self, below):
        return sum(file.stat().st_size for file in self.files(below))

    def stop(self):
        pass


class S3:
    """SeaweedFS with a certificate of its own; each round has a bucket of its own. What lies there is asked of its filer, which is no part of what is measured.

    It takes half as much of the processors as its client. Apart, it has the last of them for itself, and all else the others, as if it were another machine."""

    look_every = 0.2

    def __init__(self, work, is_apart):
        weed = os.environ.get("FARSHORE_TEST_WEED") or shutil.which("weed") or ""
        if not weed:
            sys.exit("SeaweedFS is not here: run this through testbed/with-servers")
        self.round, self.work = 0, work
        place = work / "weed"
        (place / "data").mkdir(parents=True)
        place.chmod(0o755)
        self.certificate = place / "certificate.pem"
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", place / "key.pem", "-out", self.certificate)
        self.certificate.chmod(0o644)
        self.secret = os.urandom(16).hex()
        (place / "s3.json").write_text(json.dumps({"identities": [{"name": "bench", "credentials": [{"accessKey": "bench", "secretKey": self.secret}],
                                                                   "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}))
        ports = free_ports(9)
        self.port, self.filer = ports[6], ports[4]
        names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port.https", "s3.port.grpc", "s3.port"]
        processors = os.sched_getaffinity(0)
        if is_apart and len(processors) < 2:
            sys.exit("a server apart needs a processor for itself, and here is one in all")
        own = {max(processors)} if is_apart else processors
        self.server = subprocess.Popen(
            ["taskset", "--cpu-list", ",".join(map(str, sorted(own))), weed, "server", f"-dir={place}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=1024", "-volume.max=200", "-master.telemetry=false",
             "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={place}/s3.json", f"-s3.cert.file={self.certificate}",
             f"-s3.key.file={place}/key.pem", f"-filer.localSocket={place}/filer.sock", f"-s3.localSocket={place}/s3.sock",
             *(f"-{name}={port}" for name, port in zip(names, ports))],
            stdout=open(place / "log", "w"), stderr=subprocess.STDOUT)
        if is_apart:
            # What is started from here on inherits it.
            os.sched_setaffinity(0, processors - own)
        os.environ["SSL_CERT_FILE"] = str(self.certificate)
        os.environ["FARSHORE_BENCH_S3_SECRET"] = self.secret
        until = time.monotonic() + 90
        while True:
            try:
                # A folder of the filer's below `buckets` is a bucket.
                urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.filer}/buckets/probe/one", data=b"1", method="PUT"), timeout=5).read()
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError as error:
                if time.monotonic() > until or self.server.poll() is not None:
                    sys.exit(f"SeaweedFS does not start: {error}; see {place}/log")
                time.sleep(0.5)

    def directories(self):
        return []

    def places(self):
        return [self.work / "weed" / "data"]

    def bucket(self):
        return f"bench-{self.round}"

    def clear(self):
        if self.round:
            self.request("DELETE", f"/buckets/{self.bucket()}?recursive=true&ignoreRecursiveError=true")
        self.round += 1
        self.request("POST", f"/buckets/{self.bucket()}/")

    def request(self, method, path):
        return urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{self.filer}{path}", method=method), timeout=120).read()

    def of_pgbackrest(self):
        return (f"repo1-type=s3\nrepo1-path=/repo\nrepo1-s3-bucket={self.bucket()}\nrepo1-s3-endpoint=localhost\nrepo1-storage-host=localhost\nrepo1-storage-port={self.port}\n"
                f"repo1-s3-region=us-east-1\nrepo1-s3-uri-style=path\nrepo1-s3-key=bench\nrepo1-s3-key-secret={self.secret}\nrepo1-storage-ca-file={self.certificate}\n")

    def of_farshore(self):
        return (f'{{ kind = "s3", bucket = "{self.bucket()}", prefix = "site", region = "us-east-1", endpoint = "https://localhost:{self.port}", access_key = "bench", '
                'secret_key = { env = "FARSHORE_BENCH_S3_SECRET" } }')

    def files(self, below):
        """Names and sizes."""
        waiting = [f"/buckets/{self.bucket()}/{below}"]
        while waiting:
            folder, last = waiting.pop(), ""
            while True:
                try:
                    asked = urllib.request.Request(f"http://127.0.0.1:{self.filer}{folder}/?limit=1000&lastFileName={last}", headers={"Accept": "application/json"})
                    page = json.load(urllib.request.urlopen(asked, timeout=60))
                except urllib.error.HTTPError as error:
                    if error.code != 404:
                        raise
                    break
                for entry in page.get("Entries") or []:
                    # Only files have chunks or bytes of their own; a folder has its mode's highest bit.
                    if entry["Mode"] >> 31:
                        waiting.append(entry["FullPath"])
                    else:
                        yield entry["FullPath"], entry["FileSize"]
                last = page.get("LastFileName") or ""
                if not page.get("ShouldDisplayLoadMore"):
                    break

    def count(self, below, ending=""):
        return sum(1 for name, _ in self.files(below) if name.endswith(ending))

    def bytes(self, below):
        return sum(size for _, size in self.files(below))

    def stop(self):
        self.server.send_signal(signal.SIGKILL)
        self.server.wait()


def free_ports(count):
    """Ports that nobody listens on; SeaweedFS takes a port and that port and 10,000, so they are low."""
    found = []
    held = []
    for port in range(18000, 22000):
        with_ten_thousand = []
        try:
            for one in (port, port + 10000):
                listener = socket.socket()
                listener.bind(("127.0.0.1", one))
                with_ten_thousand.append(listener)
        except OSError:
            [one.close() for one in with_ten_thousand]
            continue
        held.extend(with_ten_thousand)
        found.append(port)
        if len(found) == count:
            break
    [one.close() for one in held]
    return found
