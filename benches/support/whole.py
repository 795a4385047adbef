"""What the comparisons share: whole processes timed, PostgreSQL and repositories to try them on."""

import os, re, shutil, subprocess, sys, tempfile, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FARSHORE = os.environ.get("FARSHORE", str(ROOT / "target/release/farshore"))
SCALE = float(os.environ.get("FARSHORE_BENCH_SCALE", "1"))
RUNS = int(os.environ.get("FARSHORE_BENCH_RUNS", "5"))
BIN = Path(os.environ.get("FARSHORE_TEST_POSTGRES_18_BIN", "/nonexistent"))
URL = os.environ.get("FARSHORE_TEST_POSTGRES_18_URL", "")
LIMIT_MIB = 256 + 64


def say(text):
    print(text, flush=True)


def measure(*command, **options):
    """Runs to the end; returns (seconds, peak MiB, CPU seconds, the first MiB of standard output). An error ends the benchmark with what the
    command said. What this script holds when it starts a command counts towards that one's peak: a listing must not be kept here."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([str(word) for word in command], stdout=output, stderr=errors, **options)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read(1 << 20).decode(errors="replace")
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"{command[0]} ended with {process.returncode}:\n{(said + errors.read().decode(errors='replace'))[-4000:]}")
    return time.monotonic() - start, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime, said


def run(*command, **options):
    """As `measure`; returns (seconds, peak MiB)."""
    return measure(*command, **options)[:2]


def database_url(name, server=None):
    return (server or URL).replace("/postgres?", f"/{name}?")


def psql(database, sql, server=None):
    """Runs statements; returns what a query says, unadorned."""
    return measure(BIN / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", database_url(database, server), "-c", sql)[3].strip()


def policy(work, sources, more=""):
    key = work / "operator.key"
    agent = work / "agent.key"
    recipient = subprocess.run([FARSHORE, "key", "generate", "-o", key], check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run([FARSHORE, "key", "generate", "-o", agent], check=True, capture_output=True)
    path = work / "policy.toml"
    path.write_text(
        f'name = "bench"\n{sources}\n[[site]]\nname = "site"\nstore = {{ kind = "filesystem", path = "{work}/site" }}\n'
        f'[encryption]\nrecipients = ["{recipient}"]\nagent = {{ file = "{agent}" }}\n{more}'
    )
    return path, key


def with_site(path, store):
    """Has a policy of `policy` write to this store from now on."""
    path.write_text(re.sub('(name = "site"\nstore = ).*', lambda found: found[1] + store, path.read_text()))


def fresh_site(work, path):
    shutil.rmtree(work / "site", ignore_errors=True)
    shutil.rmtree(work / "cache", ignore_errors=True)
    run(FARSHORE, "init", path, "--create")


def fill_database(name, gigabytes, server=None):
    """Half pgbench's accounts, half text; with indexes and a foreign key."""
    psql("postgres", f"DROP DATABASE IF EXISTS {name}", server)
    psql("postgres", f"CREATE DATABASE {name}", server)
    run(BIN / "pgbench", "-i", "-q", "-s", max(1, int(gigabytes / 2 * 66)), "--foreign-keys", database_url(name, server))
    rows = int(gigabytes / 2 * 2_400_000)
    psql(name, f"""
        CREATE TABLE posts (id bigint PRIMARY KEY, author int NOT NULL, created timestamptz NOT NULL, props jsonb, message text);
        INSERT INTO posts SELECT i, i % 9973, timestamptz '2024-01-01' + i * interval '7 s', jsonb_build_object('pinned', i % 50 = 0, 'n', i),
          (SELECT string_agg(md5((i * 31 + g)::text) || ' the channel was ' || (i % 97), ' ') FROM generate_series(1, 2 + i % 5) g)
          FROM generate_series(1, {rows}) i;
        CREATE INDEX ON posts (author, created); ANALYZE""", server)
    say("database " + name + ": " + psql(name, f"SELECT pg_size_pretty(pg_database_size('{name}'))", server))


def settle(most=60):
    """Waits until the machine has been all but idle for two seconds: a server that was told to delete gigabytes answers at once and works on."""
    def counted():
        with open("/proc/stat") as stat:
            times = [int(word) for word in stat.readline().split()[1:]]
        return times[3] + times[4], sum(times)

    quiet = 0
    for _ in range(most):
        idle, total = counted()
        time.sleep(1)
        now_idle, now_total = counted()
        quiet = quiet + 1 if now_idle - idle > 0.9 * (now_total - total) else 0
        if quiet == 2:
            return
