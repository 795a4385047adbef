"""`farshore wal receive` beside a server that writes log at a steady rate: how far what is stored is behind it, in bytes and in seconds.

The log is made by `pg_logical_emit_message` from text as a table of posts has it, as fast as is asked for: rows would keep both processors busy before a hundred
megabytes a second came of them, and it is the receiver that is measured.
"""

import os, signal, statistics, subprocess, sys, time

from whole import BIN, FARSHORE, SCALE, say

SECONDS = 40
MEGABYTES = 100  # of log, each second
MESSAGE = 500_000  # bytes
SESSIONS = 2


class Load:
    """Sessions that write the log, each its part of what is due."""

    def __init__(self, bench, seconds):
        bench.sql(f"""
            DROP TABLE IF EXISTS messages;
            CREATE TABLE messages (id int PRIMARY KEY, message text STORAGE EXTERNAL);
            INSERT INTO messages SELECT n, (SELECT left(string_agg(md5((n * 7919 + g)::text) || ' the channel was ' || (g % 97) || md5(g::text), ''), {MESSAGE})
                FROM generate_series(1, {MESSAGE // 70}) g) FROM generate_series(1, 64) n""")
        each = MEGABYTES * 1_000_000 / SESSIONS / MESSAGE  # messages a second
        program = f"""
            DO $$ DECLARE texts text[] := (SELECT array_agg(message ORDER BY id) FROM messages); began timestamptz := clock_timestamp(); due float; BEGIN
              FOR n IN 1 .. {int(each * seconds)} LOOP
                PERFORM pg_logical_emit_message(false, 'bench', texts[1 + n % 64]);
                due := n / {each} - extract(epoch FROM clock_timestamp() - began);
                IF due > 0 THEN PERFORM pg_sleep(due); END IF;
              END LOOP; END $$"""
        command = [BIN / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", bench.url, "-c", program]
        self.sessions = [subprocess.Popen(command) for _ in range(SESSIONS)]

    def goes_on(self):
        return any(session.poll() is None for session in self.sessions)

    def ended_well(self):
        return all(session.wait() == 0 for session in self.sessions)


def receive(bench):
    """Beside so much log a second for forty seconds: it must keep up, and what is stored must be less than five seconds behind."""
    bench.archive_with("/bin/true")
    bench.fresh()
    seconds = max(10, int(SECONDS * min(SCALE, 1)))
    with open(bench.work / "receive.log", "w") as said:
        receiver = subprocess.Popen([FARSHORE, "wal", "receive", bench.policy], stdout=said, stderr=said)
    started = [receiver]
    try:
        beside(bench, receiver, started, seconds)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
    bench.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


def beside(bench, receiver, started, seconds):
    position = lambda: bench.sql("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn, coalesce((SELECT max(flush_lsn) - '0/0'::pg_lsn FROM pg_stat_replication), 0)")
    until = time.monotonic() + 60
    while position().endswith("|0"):
        if receiver.poll() is not None or time.monotonic() > until:
            sys.exit(f"nobody receives: {open(bench.work / 'receive.log').read()}")
        time.sleep(0.1)
    load = Load(bench, seconds)
    started.extend(load.sessions)
    began, samples = time.monotonic(), []
    while load.goes_on():
        written, stored = (int(number) for number in position().split("|"))
        samples.append((time.monotonic() - began, written, stored))
        time.sleep(0.1)
    if not load.ended_well():
        sys.exit("the load ended with an error")
    rate = (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0])
    # How old the first byte is that is not stored, at most: since the last look at which the server had written no more than is stored now.
    ages, moments = [], 0
    for now, written, stored in samples:
        while moments + 1 < len(samples) and samples[moments + 1][1] <= stored and samples[moments + 1][0] < now:
            moments += 1
        ages.append(now - samples[moments][0] if written > stored else 0)
    behind = max(written - stored for _, written, stored in samples)
    last = samples[-1][1]
    while int(position().split("|")[1]) < last:
        if time.monotonic() - began > seconds + 60:
            sys.exit("what was written is not stored a minute later")
        time.sleep(0.1)
    caught_up = time.monotonic() - began - samples[-1][0]
    # The end of the log is the beginning of a segment, which is stored in parts.
    ages.append(caught_up)
    receiver.send_signal(signal.SIGINT)
    _, status, usage = os.wait4(receiver.pid, 0)
    receiver.returncode = os.waitstatus_to_exitcode(status)
    if receiver.returncode != 0:
        sys.exit(f"the receiver ended with {receiver.returncode}: {open(bench.work / 'receive.log').read()}")
    say(f"log received: {rate / 1e6:.0f} MB/s for {seconds} s (wanted: 100), at most {behind / 1e6:.0f} MB behind; oldest of what is not stored {statistics.median(ages):.1f} s, "
        f"at most {max(ages):.1f} s (wanted: under 5), of which the end of it {caught_up:.1f} s; "
        f"{usage.ru_utime + usage.ru_stime:.1f} s of CPU, {usage.ru_maxrss / 1024:.0f} MiB (wanted: under 320)")
