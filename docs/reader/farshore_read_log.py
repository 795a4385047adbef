#!/usr/bin/env python3
"""Reads files of a PostgreSQL cluster's log from a Farshore repository without Farshore, written from docs/format.md alone.

    farshore_read_log.py [--identity FILE] REPOSITORY list
    farshore_read_log.py [--identity FILE] REPOSITORY get SYSTEM FILE TO

REPOSITORY and what it needs: see farshore_read.py. FILE is as PostgreSQL calls it. TO gets its name when all of it was checked. As a
restore_command this must be wrapped: it ends with 1 for every error, which PostgreSQL takes for the end of the log.
"""

import json
import os
import struct
import sys

import blake3
import zstandard

from farshore_read import RUN, Damaged, Directory, Repository, S3, need, unseal
import pyrage

LOG_FILE, MAX_FILE, MAX_BLOCK, MAX_HEAD = 10, 128 << 20, 4 << 20, 4096


def read(repository, name):
    body = repository.store.get(name)
    run = repository.header(body, LOG_FILE, name)
    need(len(body) >= 68, f"{name}: cut off")
    (length,) = struct.unpack_from("<I", body, 64)
    need(length <= MAX_HEAD and len(body) >= 68 + length, f"{name}: an impossible head")
    head = json.loads(unseal(repository.derive(run, RUN), body[:64], body[68 : 68 + length], name))
    need(head["object"] == name and head["size"] <= MAX_FILE, f"{name}: holds {head['object']}")
    key, at, number, plain = repository.key("log", body[44:60].hex()), 68 + length, 0, bytearray()
    while True:
        need(len(body) >= at + 9, f"{name}: block {number} is cut off")
        sealed_bytes, plain_bytes, encoding = struct.unpack_from("<IIB", body, at)
        need(encoding in (0, 1) and plain_bytes <= MAX_BLOCK, f"{name}: block {number} is impossible")
        more = sealed_bytes - plain_bytes - 28
        need(more < 0 if encoding else more == 0, f"{name}: block {number} says impossible lengths")
        end = at + 9 + sealed_bytes
        need(end <= len(body), f"{name}: block {number} is cut off")
        bound = body[:64] + struct.pack("<IIBB", number, plain_bytes, encoding, end == len(body)) + name.encode()
        block = unseal(key, bound, body[at + 9 : end], f"{name}, block {number}")
        if encoding:
            block = zstandard.ZstdDecompressor().decompress(block, max_output_size=plain_bytes)
        need(len(block) == plain_bytes, f"{name}: block {number} has another length")
        plain += block
        need(len(plain) <= head["size"], f"{name}: is longer than it says")
        if end == len(body):
            break
        at, number = end, number + 1
    hashed = blake3.blake3(bytes(plain), key=repository.derive(repository.salt, b"farshore 1 log id")).hexdigest()
    need(len(plain) == head["size"] and hashed == head["hash"], f"{name}: holds other bytes than it says")
    return bytes(plain)


def main(words):
    identities = []
    if words[:1] == ["--identity"]:
        with open(words[1]) as file:
            lines = [line.strip() for line in file if line.startswith("AGE-SECRET-KEY-")]
        identities, words = [pyrage.x25519.Identity.from_str(line) for line in lines], words[2:]
    repository = Repository(S3(words[0]) if words[0].startswith("s3://") else Directory(words[0]), identities)
    if words[1] == "list":
        print("\n".join(repository.store.list("wal/")))
        return
    _, _, system, file, to = words
    plain = read(repository, f"wal/{system}/{file[:8]}/{file}")
    with open(to + ".partial", "wb") as out:
        out.write(plain)
        out.flush()
        os.fsync(out.fileno())
    os.rename(to + ".partial", to)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Damaged, OSError, ValueError, IndexError, KeyError) as error:
        sys.exit(f"farshore_read_log: {error}")
