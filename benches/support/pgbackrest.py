"""Physical backups, restores and the archived log, side by side with pgBackRest (`FARSHORE_BENCH_PGBACKREST`, or the one on the path; 2.46 or newer).

A cluster of its own, with checksums, a log archive and summaries of the log. Both compress with zstd 3, pgBackRest with two processes, Farshore with a
thread for each processor that it may use; pgBackRest bundles files and stores blocks incrementally, and does not encrypt; Farshore always encrypts. Who begins a pair changes from pair to pair.

Both write to a directory, or with FARSHORE_BENCH_SITE=s3 to one S3 server over TLS (pgBackRest speaks to no other); with s3-apart to one that has a processor for
itself, and the database, pgBackRest and Farshore the others.
"""

import json, os, random, shutil, statistics, subprocess, sys, time

import receive
import sites
from cluster import Cluster, as_postgres, give
from whole import BIN, FARSHORE, RUNS, SCALE, fill_database, measure, policy, run, say, with_site

PGBACKREST = os.environ.get("FARSHORE_BENCH_PGBACKREST") or shutil.which("pgbackrest") or ""
SEGMENT = 16 << 20


class Bench(Cluster):
    def __init__(self, work):
        work.chmod(0o755)
        self.spool = work / "spool"
        self.spool.mkdir(mode=0o700)
        give(self.spool)
        # Before the server: what it starts inherits how the site is reached.
        wanted = os.environ.get("FARSHORE_BENCH_SITE", "directory")
        if wanted not in ("directory", "s3", "s3-apart"):
            sys.exit(f"FARSHORE_BENCH_SITE is {wanted}, and may be directory, s3 or s3-apart")
        self.site = sites.Directory(work, give) if wanted == "directory" else sites.S3(work, is_apart=wanted == "s3-apart")
        super().__init__(
            work,
            "shared_buffers = '512MB'\nmax_wal_size = '4GB'\n"
            "checkpoint_timeout = '1h'\narchive_mode = on\narchive_command = '/bin/true'\nsummarize_wal = on\nwal_keep_size = '64MB'\n",
        )
        self.config = work / "pgbackrest.conf"
        self.settings = (
            f"repo1-bundle=y\nrepo1-block=y\nrepo1-retention-full=1\ncompress-type=zst\ncompress-level=3\nprocess-max=2\nstart-fast=y\n"
            f"log-level-console=warn\nlog-level-file=off\nlock-path={self.spool}/lock\nspool-path={self.spool}\nlog-path={self.spool}/log\ncmd={PGBACKREST}\n"
            f"archive-get-queue-max=256MiB\n[main]\npg1-path={self.data}\npg1-socket-path={self.socket}\npg1-port={self.port}\npg1-user=postgres\n"
        )
        source = (
            f'[[source]]\nname = "db"\nkind = "postgres"\nmethod = "physical"\nurl = "{self.url}"\nbin_directory = "{BIN}"\n'
            f'wal = {{ spool = "{work}/farshore-spool", limit = "4GiB" }}\n'
        )
        self.policy, self.key = policy(work, source, "[limits]\ncompression_level = 3\n")

    def stop(self):
        super().stop()
        self.site.stop()

    def hand_over(self):
        """The agent is the server's own user, as an `archive_command` is."""
        if os.getuid() == 0:
            run("chown", "-R", "postgres:postgres", *self.site.directories(), self.work / "farshore-spool", *self.work.glob("*.key"), self.policy)

    def pgbackrest(self, command, *options, **more):
        return measure(PGBACKREST, f"--config={self.config}", "--stanza=main", command, *options, **{**as_postgres(), **more})

    def archive_with(self, command):
        self.sql(f"ALTER SYSTEM SET archive_command = '{command}'")
        self.sql("SELECT pg_reload_conf()")

    def at_rest(self):
        """What was changed is written, and its log summarised, as the server has done long before a daily backup. Of backups only Farshore's would wait for the latter: by
        0.4 s for one per cent of 4.6 GB that was changed a moment ago, if it came before pgBackRest's."""
        self.sql("CHECKPOINT")
        end = self.sql("SELECT pg_current_wal_insert_lsn()")
        # A page of the log's end belongs to the next checkpoint.
        ask = f"SELECT pending_lsn >= '{end}'::pg_lsn - 8192, pending_lsn FROM pg_get_wal_summarizer_state()"
        seen, since = None, time.monotonic()
        while not (said := self.sql(ask)).startswith("t"):
            if said != seen:
                seen, since = said, time.monotonic()
            elif time.monotonic() > since + 60:
                sys.exit(f"the server does not summarise its log up to {end}: {said}")
            time.sleep(0.1)

    def fresh(self):
        """Both begin anew, at a place without anything."""
        self.site.clear()
        self.config.write_text(f"[global]\n{self.site.of_pgbackrest()}{self.settings}")
        with_site(self.policy, self.site.of_farshore())
        shutil.rmtree(self.work / "cache", ignore_errors=True)
        self.pgbackrest("stanza-create")
        run(FARSHORE, "init", self.policy, "--create")

    def their_backup(self, kind):
        self.archive_with(f"{PGBACKREST} --config={self.config} --stanza=main archive-push %p")
        seconds, peak, cpu, _ = self.pgbackrest("backup", f"--type={kind}")
        self.archive_with("/bin/true")
        return seconds, peak, cpu

    def our_backup(self, expect=None):
        seconds, peak, cpu, said = measure(FARSHORE, "backup", self.policy, "--json")
        note = json.loads(said)[0]["sources"][0]["note"]
        if expect and not note.startswith(expect):
            sys.exit(f"not the backup that was wanted: {note}")
        return seconds, peak, cpu

    def target(self, name):
        directory = self.work / name
        shutil.rmtree(directory, ignore_errors=True)
        return directory

    def their_restore(self, *options):
        directory = self.work / "theirs"
        if not options:
            self.target("theirs").mkdir(mode=0o700)
            give(directory)
        return self.pgbackrest("restore", f"--pg1-path={directory}", "--archive-mode=off", *options)

    def our_restore(self, *options):
        directory = self.work / "ours" if options else self.target("ours")
        return measure(FARSHORE, "restore", self.policy, "latest", "--identity", self.key, "--source", "db", "--to", directory, "--bin-directory", BIN, *options)


class Ratios:
    """Who is how many times as fast, a pair at a time; the first pair only warms."""

    def __init__(self, what, wanted):
        self.what, self.wanted, self.ratios, self.peaks = what, wanted, [], []

    def add(self, pair, theirs, ours):
        say(f"pair {pair}: {self.what}: pgBackRest {theirs[0]:.2f} s ({theirs[2]:.1f} s CPU), farshore {ours[0]:.2f} s ({ours[2]:.1f} s CPU, {ours[1]:.0f} MiB)")
        self.peaks.append(ours[1])
        if pair > 0:
            self.ratios.append(theirs[0] / ours[0])

    def tell(self):
        say(f"{self.what} / pgBackRest: {statistics.median(self.ratios):.2f} ({min(self.ratios):.2f} to {max(self.ratios):.2f}; wanted: at least {self.wanted}); at most {max(self.peaks):.0f} MiB (wanted: under 320)")


def in_turns(pair, theirs, ours):
    """One after the other; neither pays for what the other has left to be written to the disk."""
    said = {}
    for side in (ours, theirs) if pair % 2 else (theirs, ours):
        os.sync()
        said[side] = side()
    return said[theirs], said[ours]


def damage(directory, seed):
    """Overwrites one per cent of the files of databases with noise, a MiB at a time; returns how many bytes."""
    chance = random.Random(seed)
    files = sorted((file, file.stat().st_size) for file in (directory / "base").rglob("*") if file.is_file() and file.stat().st_size > 2 << 20)
    total = sum(size for _, size in files)
    for _ in range(max(1, total // 100 >> 20)):
        file, size = chance.choices(files, weights=[size for _, size in files])[0]
        with open(file, "r+b") as out:
            out.seek(chance.randrange(0, size - (1 << 20)))
            out.write(chance.randbytes(1 << 20))
    return total


def keep_in_memory(directory, is_kept):
    """Brings what lies in a directory into the page cache, or takes it out: for both sides alike, whichever way each has written it."""
    os.sync()
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with open(path, "rb", buffering=0) as file:
                while is_kept and file.read(1 << 20):
                    pass
                if not is_kept:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def backups(bench):
    """Full backup, one after one per cent changed, full restore, restore over what is there with one per cent damaged, where what is there lies in memory,
    and where it lies on the disk."""
    fill_database("bench", 5 * SCALE, bench.url)
    full, changed = Ratios("full backup", 1.3), Ratios("backup after 1 % changed", 3)
    restored = Ratios("full restore", 1.3)
    deltas = {True: Ratios("restore over 1 % of damage, in memory", 2), False: Ratios("restore over 1 % of damage, on the disk", 2)}
    for pair in range(RUNS + 1):
        bench.at_rest()
        bench.fresh()
        full.add(pair, *in_turns(pair, lambda: bench.their_backup("full"), bench.our_backup))
        stored = bench.site.bytes("repo/backup"), bench.site.bytes("site")
        # One of them writes past the page cache: on the bad day neither repository lies in memory.
        for place in bench.site.places():
            keep_in_memory(place, False)
        restored.add(pair, *in_turns(pair, bench.their_restore, bench.our_restore))
        for is_kept, delta in deltas.items():
            for name in ("theirs", "ours"):
                total = damage(bench.work / name, 2 * pair + is_kept)
                keep_in_memory(bench.work / name, is_kept)
            delta.add(pair, *in_turns(pair, lambda: bench.their_restore("--delta", "--force"), lambda: bench.our_restore("--delta")))
        one = f"BETWEEN (SELECT max(%s) * {pair * 10} / 100 FROM %s) AND (SELECT max(%s) * {pair * 10 + 1} / 100 FROM %s)"
        bench.sql(f"UPDATE posts SET props = props || '{{\"pair\": {pair}}}' WHERE id " + one % ("id", "posts", "id", "posts"), "bench")
        bench.sql("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid " + one % ("aid", "pgbench_accounts", "aid", "pgbench_accounts"), "bench")
        bench.at_rest()
        changed.add(pair, *in_turns(pair, lambda: bench.their_backup("incr"), lambda: bench.our_backup("incremental")))
    say(f"bytes stored of {total / 2**20:.0f} MiB in databases: farshore {stored[1] / 2**20:.0f} MiB, pgBackRest {stored[0] / 2**20:.0f} MiB (wanted: no more)")
    for ratios in (full, changed, restored, *deltas.values()):
        ratios.tell()


def archived(bench, count, command, at_site):
    """The server makes `count` segments while it does not archive; when it is at rest, it begins. Returns the time until the site has all of them (as `measure` does), and their names."""
    bench.archive_with("")
    bench.sql("DROP TABLE IF EXISTS log_filler; CREATE TABLE log_filler (id bigint, message text)")
    names = []
    while len(names) < count:
        bench.sql("INSERT INTO log_filler SELECT i, md5((i * 31)::text) || ' the channel was ' || (i % 97) || md5(i::text) FROM generate_series(1, 100000) i; TRUNCATE log_filler")
        names = sorted(ready.name.removesuffix(".ready") for ready in (bench.data / "pg_wal/archive_status").glob("*.ready"))
    # Otherwise a quarter of the processors' time would go to the server's summaries of these segments, which only Farshore has use for. That takes as long for
    # either side, and so the more of what a faster one does; and it is no part of archiving, but of the load that a server has anyway.
    bench.at_rest()
    os.sync()
    start = time.monotonic()
    bench.archive_with(command)
    accepted = None
    while any((bench.data / "pg_wal/archive_status" / f"{name}.ready").exists() for name in names[-1:]) or at_site() < len(names):
        if time.monotonic() - start > 600:
            sys.exit(f"the log is not archived after ten minutes: {at_site()} of {len(names)}; see {bench.work}/server.log")
        if accepted is None and not (bench.data / "pg_wal/archive_status" / f"{names[-1]}.ready").exists():
            accepted = time.monotonic() - start
        time.sleep(bench.site.look_every)
    seconds = time.monotonic() - start
    bench.archive_with("/bin/true")
    say(f"  {len(names)} segments: accepted after {accepted or seconds:.2f} s, at the site after {seconds:.2f} s: {len(names) / seconds:.1f} a second")
    return (seconds, 0, 0), names


def alone(bench):
    """Ends what either side has left running, which waits for more to do: our uploader would go on and take what the server has ready for the other."""
    left = f"(wal (upload|prefetch)|archive-(push|get):async).*{bench.work}|{bench.work}.*(wal (upload|prefetch)|archive-(push|get):async)"
    while subprocess.run(["pkill", "-f", left]).returncode == 0:
        time.sleep(0.1)


def called(commands, target):
    """Starts a command for each file, as cheaply as a server does, which starts them by `system`, and gives each file its own name, as a server does. (Replacing the
    one before would write that to the disk.) Returns as `measure` does; peak and CPU are of the commands that were called, not of what they leave running."""
    start = time.monotonic()
    peak = cpu = 0
    before = None
    errors = f"{target}.errors"
    actions = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0), (os.POSIX_SPAWN_OPEN, 2, errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)]
    for number, command in enumerate(commands):
        child = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
        peak, cpu = max(peak, usage.ru_maxrss / 1024), cpu + usage.ru_utime + usage.ru_stime
        if status != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}:\n{open(errors).read()}")
        if os.stat(target).st_size != SEGMENT:
            raise RuntimeError(f"{' '.join(command)}: the file did not come whole")
        if before:
            os.unlink(before)
        before = f"{target}.{number}"
        os.rename(target, before)
    return time.monotonic() - start, peak, cpu


def fetched(bench, names, command):
    """Calls of a command for each file, in order, by the server's user; each must be whole."""
    directory = bench.work / f"fetched-{time.monotonic_ns()}"  # whoever fetched ahead into an earlier one may still be there
    directory.mkdir(mode=0o700)
    give(directory)
    target = directory / "RECOVERYXLOG"
    commands = [[str(word) for word in command(name, target)] for name in names]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            user = as_postgres()
            os.chdir("/")
            if user:
                os.setgroups([])
                os.setgid(user["group"])
                os.setuid(user["user"])
            said = called(commands, target)
        except BaseException as error:
            said = str(error)
        os.write(writing, json.dumps(said).encode()[:60_000])
        os._exit(0)
    os.close(writing)
    with open(reading) as said:
        said = json.load(said)
    os.waitpid(child, 0)
    shutil.rmtree(directory, ignore_errors=True)
    return said if isinstance(said, list) else sys.exit(said)


def log(bench):
    """The archived log: from the moment that the server begins to archive until all is at the site; and fetching it again, a file a call, as recovery does."""
    count = max(20, int(200 * SCALE))
    push, get = Ratios(f"archiving {count} segments", 2), Ratios(f"fetching {count} segments", 2)
    system = bench.sql("SELECT system_identifier FROM pg_control_system()")
    spool = bench.work / "farshore-spool"
    for pair in range(RUNS + 1):
        bench.fresh()
        shutil.rmtree(spool, ignore_errors=True)
        spool.mkdir(mode=0o700)
        bench.hand_over()

        def theirs():
            alone(bench)
            at_site = lambda: bench.site.count("repo/archive", ".zst")
            took, names = archived(bench, count, f"{PGBACKREST} --config={bench.config} --stanza=main --archive-async archive-push %p", at_site)
            return took, fetched(bench, names, lambda name, path: [PGBACKREST, f"--config={bench.config}", "--stanza=main", "--archive-async", "archive-get", name, path])

        def ours():
            alone(bench)
            at_site = lambda: bench.site.count("site/wal")
            took, names = archived(bench, count, f"{FARSHORE} wal push --quiet --cache-dir {bench.work}/server-cache {bench.policy} %p", at_site)
            return took, fetched(bench, names, lambda name, path: [
                FARSHORE, "wal", "get", "--quiet", "--system", system, "--identity", bench.key, bench.policy, name, path])

        (their_push, their_get), (our_push, our_get) = in_turns(pair, theirs, ours)
        push.add(pair, their_push, our_push)
        get.add(pair, their_get, our_get)
    push.tell()
    get.tell()


PARTS = {"backups": backups, "log": log, "receive": receive.receive}


def compare(work):
    if not PGBACKREST:
        sys.exit("pgBackRest is not here: install it, or say where it is in FARSHORE_BENCH_PGBACKREST")
    say(subprocess.run([PGBACKREST, "version"], check=True, capture_output=True, text=True).stdout.strip())
    say(f"site: {os.environ.get('FARSHORE_BENCH_SITE', 'directory')}")
    bench = Bench(work)
    try:
        for name in os.environ.get("FARSHORE_BENCH_PARTS", "backups log receive").split():
            PARTS[name](bench)
            alone(bench)
    finally:
        bench.stop()
