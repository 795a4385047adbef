#!/usr/bin/env python3
"""Reads a Farshore repository of format 1 without Farshore, written from docs/format.md alone.

    farshore_read.py [--identity FILE] REPOSITORY list
    farshore_read.py [--identity FILE] REPOSITORY restore POINT DIRECTORY

REPOSITORY is a directory or s3://bucket/prefix (credentials and AWS_ENDPOINT_URL as boto3 takes them). POINT is an id, the
beginning of one, or `latest`. Each entry of each source becomes a file DIRECTORY/<source>/<path>; directories and symbolic links
of `files` are made, other attributes are left out. Needs blake3, cryptography, msgpack, pyrage, zstandard (and boto3 for S3).
"""

import argparse
import hashlib
import json
import os
import struct
import sys
from pathlib import Path

import blake3
import msgpack
import pyrage
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

DATA_PACK, CATALOGUE_PACK, INDEX, POINT, RUN = 1, 2, 3, 4, b"farshore 1 catalogue run"
MAX_CHUNK, MAX_PACK, MAX_PLAIN, MAX_LIST, MAX_RECORD = 8 << 20, 128 << 20, 512 << 20, 1 << 30, 4 << 20


class Damaged(Exception):
    """Something is not what it should be; nothing of it was used."""


def need(condition, what):
    if not condition:
        raise Damaged(what)


class Directory:
    def __init__(self, path):
        self.path = Path(path)

    def list(self, prefix):
        return sorted(path.relative_to(self.path).as_posix() for path in (self.path / prefix).rglob("*") if path.is_file())

    def get(self, key, start=0, length=-1):
        with open(self.path / key, "rb") as file:
            file.seek(start)
            return file.read(length)


class S3:
    def __init__(self, address):
        import boto3
        self.bucket, _, prefix = address.removeprefix("s3://").partition("/")
        self.prefix, self.client = prefix.rstrip("/") + "/" if prefix else "", boto3.client("s3")

    def list(self, prefix):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
        return sorted(item["Key"][len(self.prefix) :] for page in pages for item in page.get("Contents", []))

    def get(self, key, start=0, length=-1):
        ranged = {} if length < 0 else {"Range": f"bytes={start}-{start + length - 1}"}
        return self.client.get_object(Bucket=self.bucket, Key=self.prefix + key, **ranged)["Body"].read()


def unseal(key, associated, sealed, what):
    need(len(sealed) >= 28, f"{what}: too short to be sealed")
    try:
        return AESGCM(key).decrypt(sealed[:12], sealed[12:], associated)
    except Exception as error:
        raise Damaged(f"{what}: the authentication tag does not match") from error


class Repository:
    def __init__(self, store, identities):
        self.store, self.identities, self.data_keys, self.places = store, identities, {}, {}
        self.file = file = json.loads(store.get("repository.json"))
        need(file["product"] == "farshore" and file["format"] == 1, "repository.json: no Farshore repository of format 1")
        need(file["encryption"] in ("aes-256-gcm", "none"), "repository.json: unknown encryption")
        need(identities or file["encryption"] == "none", "the repository is encrypted: give --identity FILE")
        need(not (identities and file["encryption"] == "none"), "repository.json: unencrypted, and an identity was given")
        self.catalogue_id, self.salt = bytes.fromhex(file["catalogue_key"]), bytes.fromhex(file["id"])
        self.catalogue = self.key("catalogue", file["catalogue_key"])
        rest = {name: value for name, value in file.items() if name != "seal"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        seal_key = self.derive(self.salt, b"farshore 1 repository file")
        need(blake3.blake3(text, key=seal_key).hexdigest() == file["seal"], "repository.json: the seal does not match")
        names = {DATA_PACK: b"farshore 1 data chunk id", CATALOGUE_PACK: b"farshore 1 catalogue chunk id"}
        self.id_keys = {kind: self.derive(self.salt, info) for kind, info in names.items()}
        self.read_indexes()

    def key(self, kind, name):
        plain, failure = self.file["encryption"] == "none", "is missing"
        names = [one for one in self.store.list("keys/") if one.startswith(f"keys/{kind}-{name}.")]
        for object_name in sorted(names, key=lambda one: (one.count("."), one), reverse=True):  # the newest wrap first
            try:
                body = self.store.get(object_name)
                held = json.loads(body if plain else pyrage.decrypt(body, self.identities))
                need(held["kind"] == kind and held["id"] == name, "holds another key")
                return bytes.fromhex(held["key"])
            except (Damaged, ValueError, OSError, pyrage.DecryptError) as error:
                failure = f"{object_name}: {error}"
        raise Damaged(f"{kind} key {name}: {failure}")

    def derive(self, salt, info):
        return HKDF(SHA256(), 32, salt, info).derive(self.catalogue)

    def header(self, body, kind, what):
        need(len(body) >= 64 and body[:8] == b"FARSHORE" and body[8] == 1, f"{what}: no object of format 1")
        need(body[9] == kind and body[10:12] == bytes(2) and body[60:64] == bytes(4), f"{what}: of another kind")
        need(body[12:28] == self.catalogue_id, f"{what}: of another repository")
        return body[28:44]

    def open_object(self, name, kind, body):
        run = self.header(body, kind, name)
        frame = unseal(self.derive(run, RUN), body[:64], body[64:], name)
        size = zstandard.frame_content_size(frame)
        need(0 <= size <= MAX_PLAIN, f"{name}: says no sane length")
        return zstandard.ZstdDecompressor().decompress(frame, max_output_size=max(size, 1))

    def read_indexes(self):
        for name in self.store.list("indexes/"):
            try:
                self.read_index(name, self.store.get(name))
            except Damaged as error:
                print(f"left out: {error}", file=sys.stderr)

    def read_index(self, name, body):
        need(hashlib.sha256(body).hexdigest() == name.rpartition("/")[2], f"{name}: its SHA-256 is not its name")
        plain, at, found = self.open_object(name, INDEX, body), 0, {}
        while at < len(plain):
            need(len(plain) - at >= 73, f"{name}: ends within a pack")
            sha256, size, kind, run, data_key, count = struct.unpack_from("<32sIB16s16sI", plain, at)
            at += 73
            need(kind in (DATA_PACK, CATALOGUE_PACK) and size <= MAX_PACK, f"{name}: an impossible pack")
            need(len(plain) - at >= 45 * count, f"{name}: ends within the chunks of a pack")
            pack = (f"packs/{sha256.hex()[:2]}/{sha256.hex()}", kind, run, data_key)
            for _ in range(count):
                chunk, offset, sealed, length, encoding = struct.unpack_from("<32sIIIB", plain, at)
                at += 45
                possible = sealed == length + 28 if encoding == 0 else encoding == 1 and 28 <= sealed < length + 28
                need(possible and length <= MAX_CHUNK and 64 <= offset <= size - sealed, f"{name}: an impossible chunk")
                found.setdefault(chunk, []).append((pack, offset, sealed, length, encoding))
        for chunk, places in found.items():
            self.places.setdefault(chunk, []).extend(places)

    def chunk(self, kind, chunk, length):  # its plain bytes, from the first of its copies that is sound
        failure = Damaged(f"chunk {chunk.hex()}: is in no index")
        for place in self.places.get(chunk, []):
            try:
                return self.chunk_at(kind, chunk, length, place)
            except (Damaged, OSError) as error:
                failure = error
        raise failure

    def chunk_at(self, kind, chunk, length, place):
        (pack, pack_kind, run, data_key), offset, sealed, plain_length, encoding = place
        what = f"{pack}, chunk {chunk.hex()}"
        need(pack_kind == kind and plain_length == length, f"{what}: its index says otherwise")
        if kind == DATA_PACK:
            if data_key not in self.data_keys:
                self.data_keys[data_key] = self.key("data", data_key.hex())
            key = self.data_keys[data_key]
        else:
            key = self.derive(run, RUN)
        associated = chunk + bytes([encoding]) + struct.pack("<I", length)
        body = self.store.get(pack, offset, sealed)
        need(len(body) == sealed, f"{what}: cut short")
        plain = unseal(key, associated, body, what)
        if encoding == 1:
            plain = zstandard.ZstdDecompressor().decompress(plain, max_output_size=max(length, 1))
        need(len(plain) == length, f"{what}: of another length")
        need(blake3.blake3(plain, key=self.id_keys[kind]).digest() == chunk, f"{what}: its bytes are not what its id says")
        return plain

    def refs(self, level, refs):  # the level-0 refs of a chunk list
        need(0 <= level <= 3 and len(refs) % 36 == 0, "a chunk list has too many levels, or ends within a ref")
        parsed = [struct.unpack_from("<32sI", refs, at) for at in range(0, len(refs), 36)]
        if level == 0:
            return parsed
        need(sum(length for _, length in parsed) <= MAX_LIST, "a chunk list is too long")
        return self.refs(level - 1, b"".join(self.chunk(CATALOGUE_PACK, chunk, length) for chunk, length in parsed))

    def points(self):
        for name in self.store.list("points/"):
            try:
                point = json.loads(self.open_object(name, POINT, self.store.get(name)))
                time = point["consistent_at"].partition(".")[0].rstrip("Z").replace("-", "").replace(":", "")
                need(name == f"points/{point['policy']}/{time}Z-{point['id']}", f"{name}: holds another point")
                yield point
            except Damaged as error:
                print(f"unreadable: {error}", file=sys.stderr)

    def entries(self, snapshot):
        last, count, entries = None, 0, snapshot["entries"]
        for chunk, length in self.refs(entries["level"], bytes(entries["refs"])):
            body, at = self.chunk(CATALOGUE_PACK, chunk, length), 0
            while at < len(body):
                need(len(body) - at >= 4, "an entry stream ends within a length")
                (size,) = struct.unpack_from("<I", body, at)
                need(size <= MAX_RECORD and len(body) - at - 4 >= size, "an entry stream ends within a record")
                entry = msgpack.unpackb(body[at + 4 : at + 4 + size])
                at += 4 + size
                need(last is None or last < entry["p"], "entries are out of order")
                last, count = entry["p"], count + 1
                yield entry
        need(count == snapshot["entry_count"], f"source {snapshot['source']}: entries are missing")

    def contents(self, entry):
        chunks = self.refs(entry["c"]["level"], entry["c"]["refs"])
        need(sum(length for _, length in chunks) == entry["s"], f"{entry['p']!r}: its chunks are not as long as it says")
        yield from (self.chunk(DATA_PACK, chunk, length) for chunk, length in chunks)


def target(directory, path):
    """Where an entry goes: below the directory, whatever it says, and through no symbolic link."""
    parts = [part for part in path.split(b"/") if part]
    need(parts and b".." not in parts and b"." not in parts, f"{path!r}: no path that can be made")
    found = os.fsencode(directory)
    for part in parts[:-1]:
        found = os.path.join(found, part)
        need(not os.path.islink(found), f"{path!r}: lies behind a symbolic link")
        os.makedirs(found, exist_ok=True)
    return os.path.join(found, parts[-1])


def spread(pieces, ranges):
    """The bytes of a content, each with the offset at which it lies in its file."""
    offset, left = 0, 0
    for piece in pieces:
        while piece:
            while not left:
                offset, left = next(ranges)
            part, piece = piece[:left], piece[left:]
            yield offset, part
            offset, left = offset + len(part), left - len(part)


def write(path, pieces, attributes):
    """Writes a file that appears under its name when it is whole; the holes of a sparse file are back."""
    with open(path + b".part", "xb") as file:
        for offset, part in spread(pieces, iter(attributes.get("data") or [[0, 1 << 62]])):
            file.seek(offset)
            file.write(part)
        if "data" in attributes:
            file.truncate(attributes.get("size", 0))
    os.rename(path + b".part", path)


def restore(repository, point, directory):
    for snapshot in point["snapshots"]:
        root = Path(directory) / snapshot["source"]
        root.mkdir(parents=True)
        links = []
        for entry in repository.entries(snapshot):
            attributes = msgpack.unpackb(entry["a"], strict_map_key=False) if entry.get("a") else {}
            path = target(root, entry["p"])
            if entry["k"] == "directory":
                os.makedirs(path, exist_ok=True)
            elif entry["k"] == "symlink":
                links.append((attributes["link"], path))
            elif "c" in entry:
                write(path, repository.contents(entry), attributes)
        for link, path in links:  # last, so that nothing is written through one
            os.symlink(link, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identity", action="append", default=[])
    parser.add_argument("repository")
    parser.add_argument("command", choices=["list", "restore"])
    parser.add_argument("arguments", nargs="*")
    args = parser.parse_args()
    lines = [line.strip() for path in args.identity for line in Path(path).read_text().splitlines()]
    identities = [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    repository = Repository((S3 if args.repository.startswith("s3://") else Directory)(args.repository), identities)
    points = sorted(repository.points(), key=lambda point: point["consistent_at"])
    if args.command == "list":
        for point in points:
            sources = ", ".join(f"{one['source']} ({one['kind']}, {one['entry_count']})" for one in point["snapshots"])
            print(point["id"], point["consistent_at"], point["policy"], sources)
    else:
        need(len(args.arguments) == 2, "expected: restore POINT DIRECTORY")
        wanted, directory = args.arguments
        found = points[-1:] if wanted == "latest" else [point for point in points if point["id"].startswith(wanted)]
        need(len(found) == 1, f"{len(found)} points go by the name {wanted}; `list` names them")
        restore(repository, found[0], directory)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # damage may show itself as any of them
        named = "" if isinstance(error, (Damaged, OSError)) else f"{type(error).__name__}: "
        sys.exit(" ".join(f"farshore_read: {named}{error}".split()))
