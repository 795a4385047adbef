"""A PostgreSQL cluster from an S3 server that is far away: how long a small database is not there."""

import contextlib, itertools, shutil, statistics, subprocess

from buckets import store
from cluster import Cluster, as_postgres, give
from line import Line
from whole import BIN, FARSHORE, RUNS, SCALE, measure, policy, run, say, with_site

ROUND_TRIPS_MS = (40, 80)
RATE_MBIT = 1000
WANTED_S = 10
ROWS = int(46_000 * SCALE)


def fill(cluster):
    """A hundred megabytes that do not become less by compression; returns how many bytes the database has."""
    cluster.sql("CREATE DATABASE away")
    cluster.sql(f"""
        CREATE TABLE files (id bigint PRIMARY KEY, bytes bytea STORAGE EXTERNAL);
        INSERT INTO files SELECT n, (SELECT string_agg(uuid_send(gen_random_uuid()), '') FROM generate_series(1, 120 + n % 2)) FROM generate_series(1, {ROWS}) n;
        CHECKPOINT""", "away")
    return int(cluster.sql("SELECT pg_database_size('away')"))


def once(cluster, path, key, *options):
    """Restores with nothing of the repository on this machine; returns seconds, and CPU seconds."""
    data = cluster.work / "restored"
    for directory in (data, cluster.work / "cache"):
        shutil.rmtree(directory, ignore_errors=True)
    data.mkdir(mode=0o700)
    give(data)
    seconds, _, cpu, _ = measure(FARSHORE, "restore", path, "latest", "--identity", key, "--source", "db", "--to", data, "--bin-directory", BIN, *options)
    if options:
        try:
            rows = int(cluster.sql("SELECT count(*) FROM files", "away"))
        finally:
            run(BIN / "pg_ctl", "stop", "-D", data, "-m", "immediate", **as_postgres())
        if rows != ROWS:
            raise SystemExit(f"of {ROWS} rows {rows} came back")
    return seconds, cpu


def compare(work):
    work.chmod(0o755)
    with contextlib.ExitStack() as ends:
        cluster = Cluster(work, "")
        ends.callback(cluster.stop)
        say(f"cluster with a database of {fill(cluster) / 1e6:.0f} MB; its site at the other end of {RATE_MBIT} Mbit/s")
        path, key = policy(work, f'[[source]]\nname = "db"\nkind = "postgres"\nmethod = "physical"\nurl = "{cluster.url}"\nbin_directory = "{BIN}"\n')
        tries, stores = itertools.count(), {}

        def probe(endpoint):
            # A try that was cut off may have left half a repository.
            stores[round_trip] = store("bench-away", f"try-{next(tries)}", endpoint)
            with_site(path, stores[round_trip])
            subprocess.run([FARSHORE, "init", path, "--create"], check=True, timeout=20, capture_output=True)

        for round_trip in ROUND_TRIPS_MS:
            ends.callback(Line(work, round_trip // 2, RATE_MBIT, probe).end)
            run(FARSHORE, "backup", path)
        # What is restored comes up in its place.
        cluster.stop()
        for round_trip in ROUND_TRIPS_MS:
            with_site(path, stores[round_trip])
            for what, options in (("restored", ()), ("restored, and takes connections", ("--start",))):
                found = [once(cluster, path, key, *options) for _ in range(RUNS)]
                seconds = [one[0] for one in found]
                say(f"round trip of {round_trip} ms: {what}: {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}; wanted: under {WANTED_S}; "
                    f"{statistics.median(one[1] for one in found):.1f} s of CPU)")
