"""A PostgreSQL cluster that a comparison has for itself."""

import os, pwd, shutil, signal, subprocess, sys, time

from whole import BIN, psql, run


def as_postgres():
    """What `subprocess` needs to start a program as the user postgres, which servers want when all else runs as root."""
    if os.getuid() != 0:
        return {}
    entry = pwd.getpwnam("postgres")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": "/"}


def give(*paths):
    if os.getuid() == 0:
        for path in paths:
            shutil.chown(path, "postgres", "postgres")


class Cluster:
    """With checksums; its server runs until `stop`."""

    def __init__(self, work, settings):
        self.work, self.port = work, 5599
        self.data, self.socket = work / "primary", work / "socket"
        for directory in (self.data, self.socket):
            directory.mkdir(mode=0o700)
        self.socket.chmod(0o755)
        give(self.data, self.socket)
        run(BIN / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--data-checksums", "-E", "UTF8", "--locale", "C", **as_postgres())
        with open(self.data / "postgresql.conf", "a") as file:
            file.write(f"port = {self.port}\nunix_socket_directories = '{self.socket}'\nlisten_addresses = ''\nautovacuum = off\n{settings}")
        self.server = subprocess.Popen([BIN / "postgres", "-D", self.data], stdout=open(work / "server.log", "w"), stderr=subprocess.STDOUT, **as_postgres())
        self.url = f"postgresql://postgres@/postgres?host={self.socket}&port={self.port}"
        for _ in range(100):
            if subprocess.run([BIN / "pg_isready", "-q", "-h", self.socket, "-p", str(self.port)]).returncode == 0:
                return
            time.sleep(0.1)
        self.stop()
        sys.exit(f"the server did not start: {(work / 'server.log').read_text()}")

    def stop(self):
        self.server.send_signal(signal.SIGINT)
        self.server.wait()

    def sql(self, statements, database="postgres"):
        return psql(database, statements, self.url)
