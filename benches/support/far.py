"""A site at the other end of a long line: what a round trip of 80 ms costs where the line's speed is the limit."""

import shutil, statistics, subprocess

from buckets import FLAGS, make_objects, rclone_environment, store
from line import Line
from whole import FARSHORE, RUNS, SCALE, measure, policy, run, say, with_site

DELAYS_MS = {"near": 0, "far": 40}  # one way
RATE_MBIT = 200


def probe(endpoint):
    subprocess.run(["rclone", "rcat", "near:bench-line/probe"], input=b"probe", env=rclone_environment(endpoint), check=True, timeout=20, capture_output=True)


def once(work, line, size, label):
    """A first point and its restore; returns both in MB/s."""
    for name in ("cache", "restored"):
        shutil.rmtree(work / name, ignore_errors=True)
    for file in work.glob("*.key"):
        file.unlink()
    path, key = policy(work, f'[[source]]\nname = "objects"\nkind = "bucket"\nstore = {store("bench-source")}\n')
    with_site(path, store("bench-line", label, line.endpoint))
    run(FARSHORE, "init", path)
    backup, peak, cpu, _ = measure(FARSHORE, "backup", path)
    restore, peak_back, cpu_back, _ = measure(FARSHORE, "restore", path, "latest", "--identity", key, "--source", "objects", "--to", work / "restored")
    run("rclone", "purge", "near:bench-line/" + label, env=rclone_environment(line.endpoint))
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
    lines, backups, restores = {}, [], []
    try:
        for name, delay in DELAYS_MS.items():
            lines[name] = Line(work, delay, RATE_MBIT, probe)
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
