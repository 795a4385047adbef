"""Buckets from an S3 server to an S3 server, against rclone and restic. All on one machine, so that a ratio says what a line says."""

import os, random, shutil, statistics, subprocess
from pathlib import Path

from whole import FARSHORE, RUNS, SCALE, measure, policy, run, say, settle, with_site

ENDPOINT = os.environ.get("FARSHORE_TEST_S3_ENDPOINT", "")
KEY = os.environ.get("FARSHORE_TEST_S3_ACCESS_KEY", "")
FLAGS = ("--transfers", "32", "--checkers", "32", "--fast-list")


def make_objects(directory, objects):
    """Log-normal around 100 KB, of bytes that no compression makes shorter, as pictures and films are."""
    chance = random.Random(7)
    sizes = [min(int(chance.lognormvariate(11.0, 1.0)), 50_000_000) for _ in range(objects)]
    for number, size in enumerate(sizes):
        folder = directory / f"{number % 97:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06d}").write_bytes(chance.randbytes(size))
    return sum(sizes)


def server_environment():
    """The S3 server as the providers' own tools are told of one."""
    return {**os.environ, "AWS_ENDPOINT_URL": ENDPOINT, "AWS_ACCESS_KEY_ID": KEY, "AWS_REGION": "us-east-1",
            "AWS_SECRET_ACCESS_KEY": os.environ.get("FARSHORE_TEST_S3_SECRET_KEY", "")}


def rclone_environment(endpoint=ENDPOINT):
    """The server under two names: what has but one would be copied by the server itself."""
    remotes = {}
    for name in ("NEAR", "FAR"):
        for option, value in (("TYPE", "s3"), ("PROVIDER", "SeaweedFS"), ("ENDPOINT", endpoint), ("ACCESS_KEY_ID", KEY),
                              ("SECRET_ACCESS_KEY", os.environ.get("FARSHORE_TEST_S3_SECRET_KEY", "")), ("FORCE_PATH_STYLE", "true")):
            remotes[f"RCLONE_CONFIG_{name}_{option}"] = value
    # Debian's rclone does not start where a bundle of certificates is named, and needs none here.
    inherited = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}
    return {**inherited, **remotes, "RCLONE_CONFIG": "/dev/null"}


def store(bucket, prefix="", endpoint=ENDPOINT):
    prefix = f'prefix = "{prefix}", ' if prefix else ""
    return (f'{{ kind = "s3", bucket = "{bucket}", {prefix}region = "us-east-1", endpoint = "{endpoint}", access_key = "{KEY}", '
            'secret_key = { env = "FARSHORE_TEST_S3_SECRET_KEY" } }')


def s3_policy(work, pair):
    path, key = policy(work, f'[[source]]\nname = "objects"\nkind = "bucket"\nstore = {store("bench-near")}\n')
    with_site(path, store("bench-far", f"site-{pair}"))
    return path, key


def purge(rclone, name):
    subprocess.run(["rclone", "purge", f"far:{name}"], env=rclone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def restic(work, rclone, pair):
    """A first backup of what rclone mounts, to the server; nothing where nothing can be mounted."""
    mount = work / "mount"
    mount.mkdir(exist_ok=True)
    mounting = subprocess.Popen(["rclone", "mount", "near:bench-near", mount, "--read-only", "--vfs-cache-mode", "off"], env=rclone)
    try:
        for _ in range(100):
            if os.path.ismount(mount) or mounting.poll() is not None:
                break
            subprocess.run(["sleep", "0.1"])
        if not os.path.ismount(mount):
            return None
        environment = {**server_environment(), "RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": f"s3:{ENDPOINT}/bench-far/restic-{pair}",
                       "XDG_CACHE_HOME": str(work / "restic")}
        run("restic", "init", env=environment)
        seconds, _ = run("restic", "backup", mount, env=environment)
        return seconds
    finally:
        subprocess.run(["umount", "-l", mount], stderr=subprocess.DEVNULL)
        mounting.terminate()
        mounting.wait()


def compare(work):
    if not shutil.which("rclone"):
        say("LEFT OUT: the comparison with rclone, which is not on this machine (apt-get install rclone restic)")
        return
    rclone = rclone_environment()
    objects = int(20_000 * SCALE)
    size = make_objects(work / "objects", objects)
    for name in ("near:bench-near", "far:bench-far", "far:bench-copy", "far:bench-back", "far:bench-ours"):
        run("rclone", "mkdir", name, env=rclone)
    run("rclone", "copy", work / "objects", "near:bench-near", *FLAGS, env=rclone)
    shutil.rmtree(work / "objects")
    say(f"bucket: {objects} objects, {size / 1e9:.2f} GB")
    first, again, back, mounted = [], [], [], []
    for pair in range(RUNS + 1):
        for name in ("bench-copy", "bench-back", "bench-ours", "bench-far"):
            purge(rclone, name)
            run("rclone", "mkdir", f"far:{name}", env=rclone)
        settle()
        theirs, _ = run("rclone", "sync", "near:bench-near", "far:bench-copy", *FLAGS, env=rclone)
        theirs_again, _ = run("rclone", "sync", "near:bench-near", "far:bench-copy", *FLAGS, env=rclone)
        theirs_back, _ = run("rclone", "copy", "far:bench-copy", "near:bench-back", *FLAGS, env=rclone)
        purge(rclone, "bench-copy")
        shutil.rmtree(work / "cache", ignore_errors=True)
        for file in work.glob("*.key"):
            file.unlink()
        path, key = s3_policy(work, pair)
        run(FARSHORE, "init", path)
        settle()
        ours, peak, cpu, _ = measure(FARSHORE, "backup", path)
        ours_again, peak_again = run(FARSHORE, "backup", path)
        target = ("--to", "s3://bench-ours/back")
        ours_back, peak_back = run(FARSHORE, "restore", path, "latest", "--identity", key, *target, env=server_environment())
        say(f"pair {pair}: rclone sync {theirs:.1f} s, again {theirs_again:.2f}, copy back {theirs_back:.1f}; farshore backup {ours:.1f} s "
                f"({peak:.0f} MiB, {cpu:.0f} s of CPU), again {ours_again:.2f} ({peak_again:.0f} MiB), restore {ours_back:.1f} ({peak_back:.0f} MiB)")
        if pair < 2 and shutil.which("restic"):
            seconds = restic(work, rclone, pair)
            say(f"        restic over a mount {seconds:.1f} s" if seconds else "        LEFT OUT: restic (nothing can be mounted here)")
            if seconds:
                mounted.append(seconds / ours)
        if pair > 0:
            first.append(theirs / ours)
            again.append(theirs_again / ours_again)
            back.append(theirs_back / ours_back)
    say(f"first backup speed / rclone sync:  {statistics.median(first):.2f} (wanted: at least 1.5)")
    say(f"unchanged speed / rclone sync:     {statistics.median(again):.2f} (wanted: at least 1)")
    say(f"restore speed / rclone copy:       {statistics.median(back):.2f} (wanted: at least 1)")
    if mounted:
        say(f"first backup speed / restic over rclone mount: {statistics.median(mounted):.2f} (wanted: at least 3)")
