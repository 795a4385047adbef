# How PostgreSQL, SeaweedFS and Azurite are started, awaited and killed. Sourced by with-servers and demo/run, after versions.sh.
#
# Servers belong to the shell that starts them: they die with it, even if it is killed. The caller's exit trap calls
# kill_servers. Nothing is durable (fsync is off): these servers are for tests and demonstrations.
# shellcheck shell=bash disable=SC2034,SC2154

say() { printf 'testbed: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

servers=() # process ids
seaweedfs_sockets=()

# PostgreSQL refuses to run as root; the user postgres comes with Debian's package.
postgres_user="$(id -un)"
as_postgres=(env)
postgres_dying_with_us=(setpriv --pdeathsig QUIT)
if [ "$(id -u)" = 0 ]; then
    postgres_user=postgres
    id postgres >/dev/null 2>&1 || die "PostgreSQL refuses to run as root and there is no user postgres: useradd --system postgres"
    as_postgres=(setpriv --reuid postgres --regid postgres --init-groups)
    postgres_dying_with_us=(setpriv --reuid postgres --regid postgres --init-groups --pdeathsig QUIT)
fi

# A server that did not come up: say which, show its last words.
server_failed() {
    say "$1 did not start:"
    tail -n 25 "$2" >&2 || true
    exit 1
}

# Prints $1 free ports, below the range that outgoing connections take theirs from, so that none is taken before it is used.
free_ports() {
    python3 - "$1" <<'PYTHON'
import random, socket, sys

found = []
while len(found) < int(sys.argv[1]):
    port = random.randrange(20000, 32000)
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
    if port not in found:
        found.append(port)
print(*found)
PYTHON
}

# Starts SeaweedFS in the new directory $1. Sets seaweedfs_pid, s3_endpoint, s3_access_key, s3_secret_key.
# The identities writer and pruner have the same secret, and neither may administer or lift locks. It takes no more than FARSHORE_TEST_S3_VOLUMES
# volumes of 256 MiB, of which each bucket has seven or more: with no more volumes it answers 500 to a write. They take room only as they fill.
start_seaweedfs() {
    local directory="$1" free_kib s3_grpc master master_grpc volume volume_grpc filer_grpc
    free_kib=$(df --output=avail "$(dirname "$directory")" | tail -n 1)
    [ "$free_kib" -gt 4194304 ] || die "less than 4 GiB free for $directory: SeaweedFS would answer 500 to every write; set TMPDIR to a larger file system"
    read -r seaweedfs_s3 s3_grpc master master_grpc volume volume_grpc seaweedfs_filer filer_grpc < <(free_ports 8)
    # It puts these there wherever its other files lie.
    seaweedfs_sockets=(/tmp/seaweedfs-{"s3-grpc-$s3_grpc","master-grpc-$master_grpc","volume-grpc-$volume_grpc","filer-grpc-$filer_grpc"}.sock)
    s3_endpoint="http://127.0.0.1:$seaweedfs_s3"
    s3_access_key=farshore-test
    s3_secret_key="$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
    mkdir -m 700 "$directory"
    mkdir "$directory/data"
    cat >"$directory/s3.json" <<JSON
{"identities": [
  {"name": "admin", "credentials": [{"accessKey": "$s3_access_key", "secretKey": "$s3_secret_key"}],
   "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
  {"name": "writer", "credentials": [{"accessKey": "farshore-writer", "secretKey": "$s3_secret_key"}],
   "actions": ["Read", "Write", "List", "GetObjectRetention", "PutObjectRetention"]},
  {"name": "pruner", "credentials": [{"accessKey": "farshore-pruner", "secretKey": "$s3_secret_key"}],
   "actions": ["Read", "Write", "List", "GetObjectRetention", "PutObjectRetention"]}]}
JSON
    setpriv --pdeathsig KILL "$seaweedfs_home/weed" server -dir="$directory/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 \
        -master.port="$master" -master.port.grpc="$master_grpc" -master.volumeSizeLimitMB=256 -master.telemetry=false \
        -volume.port="$volume" -volume.port.grpc="$volume_grpc" -volume.max="${FARSHORE_TEST_S3_VOLUMES:-200}" \
        -filer.port="$seaweedfs_filer" -filer.port.grpc="$filer_grpc" -filer.localSocket="$directory/filer.sock" \
        -s3 -s3.port="$seaweedfs_s3" -s3.port.grpc="$s3_grpc" -s3.port.iceberg=0 -s3.port.lance=0 -s3.config="$directory/s3.json" \
        -s3.localSocket="$directory/s3.sock" \
        >"$directory/log" 2>&1 </dev/null &
    seaweedfs_pid="$!"
    servers+=("$seaweedfs_pid")
}

# SeaweedFS answers long before it can store: a write must have gone through, and S3 must know who may enter. $1: directory
await_seaweedfs() {
    python3 "$testbed/await-seaweedfs" "$seaweedfs_pid" "$seaweedfs_filer" "$seaweedfs_s3" || server_failed SeaweedFS "$1/log"
}

# Starts Azurite in the new directory $1. Sets azurite_pid, azure_endpoint, azure_account, azure_key, azure_sas (all rights for a day)
# and azure_read_sas (read and list).
start_azurite() {
    local directory="$1"
    read -r azurite_port < <(free_ports 1)
    azure_account=farshoretest
    azure_endpoint="http://127.0.0.1:$azurite_port/$azure_account"
    azure_key="$(head -c 64 /dev/urandom | base64 --wrap 0)"
    azure_sas="$(account_sas rwdlacupitfx)"
    azure_read_sas="$(account_sas rl)"
    mkdir -m 700 "$directory"
    AZURITE_ACCOUNTS="$azure_account:$azure_key" setpriv --pdeathsig KILL \
        node "$azurite_home/node_modules/azurite/dist/src/blob/main.js" --blobHost 127.0.0.1 --blobPort "$azurite_port" \
        --location "$directory" --disableTelemetry --silent >"$directory/log" 2>&1 </dev/null &
    azurite_pid="$!"
    servers+=("$azurite_pid")
}

# Prints a shared access signature of the account for the rights $1 (Microsoft's "Create an account SAS").
account_sas() {
    AZURE_ACCOUNT="$azure_account" AZURE_KEY="$azure_key" python3 - "$1" <<'PYTHON'
import base64, datetime, hashlib, hmac, os, sys, urllib.parse

version, services, types, protocols = "2021-12-02", "b", "sco", "https,http"
expires = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
fields = [os.environ["AZURE_ACCOUNT"], sys.argv[1], services, types, "", expires, "", protocols, version, "", ""]
digest = hmac.new(base64.b64decode(os.environ["AZURE_KEY"]), "\n".join(fields).encode(), hashlib.sha256).digest()
signature = base64.b64encode(digest).decode()
print(urllib.parse.urlencode({"sv": version, "ss": services, "srt": types, "sp": sys.argv[1], "se": expires, "spr": protocols, "sig": signature}))
PYTHON
}

# $1: directory
await_azurite() {
    local until=$((SECONDS + 60))
    until (exec 3<>"/dev/tcp/127.0.0.1/$azurite_port") 2>/dev/null; do
        [ "$SECONDS" -lt "$until" ] || server_failed "Azurite (60 s)" "$1/log"
        kill -0 "$azurite_pid" 2>/dev/null || server_failed Azurite "$1/log"
        sleep 0.05
    done
}

# Prints a directory with the programs of the PostgreSQL in $1 that the server's user can read. Root's cache may be closed to
# others: then the programs are linked or copied into the new directory $2.
postgres_programs() {
    if ! "${as_postgres[@]}" test -x "$1/bin/postgres"; then
        cp -al "$1" "$2" 2>/dev/null || {
            rm -rf "$2"
            cp -a "$1" "$2"
        }
        echo "$2/bin"
    else
        echo "$1/bin"
    fi
}

# Makes a cluster. $1: directory of the programs, $2: the new directory, which will hold data/, log and the socket
init_postgres() {
    mkdir "$2"
    [ "$(id -u)" != 0 ] || chown postgres:postgres "$2"
    (cd "$2" && "${as_postgres[@]}" "$1/initdb" --pgdata "$2/data" --username postgres --auth trust --data-checksums --no-sync \
        --encoding UTF8 --locale C.UTF-8) >"$2.log" 2>&1 || server_failed "PostgreSQL (initdb)" "$2.log"
}

# Starts a cluster; its superuser is postgres, trusted, on a socket in its directory and on 127.0.0.1. Sets postgres_pid.
# $1: directory of the programs, $2: the cluster's directory, $3: port
start_postgres() {
    local arguments=() setting
    for setting in listen_addresses=127.0.0.1 "unix_socket_directories=$2" max_connections=300 wal_level=logical fsync=off \
        synchronous_commit=off shared_buffers=64MB max_prepared_transactions=10 logging_collector=off; do
        arguments+=(-c "$setting")
    done
    (cd "$2" && exec "${postgres_dying_with_us[@]}" "$1/postgres" -D "$2/data" -p "$3" "${arguments[@]}") >>"$2.log" 2>&1 </dev/null &
    postgres_pid="$!"
    servers+=("$postgres_pid")
}

# $1: directory of the programs, $2: the cluster's directory, $3: port, $4: process
await_postgres() {
    local until=$((SECONDS + 60))
    until "$1/psql" -X -q -h "$2" -p "$3" -U postgres -c 'SELECT 1' postgres >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || server_failed "PostgreSQL (60 s)" "$2.log"
        kill -0 "$4" 2>/dev/null || server_failed PostgreSQL "$2.log"
        sleep 0.05
    done
}

# Kills servers and waits until they are gone. $*: processes
kill_servers() {
    local pid
    {
        for pid in "$@"; do
            # A killed postmaster leaves children for a moment, so it is asked to stop at once; SeaweedFS takes 20 s when asked.
            case "$(cat "/proc/$pid/comm")" in
                postgres) kill -QUIT "$pid" || true ;;
                weed)
                    kill -KILL "$pid" || true
                    rm -f "${seaweedfs_sockets[@]}"
                    ;;
                node | MainThread) kill -KILL "$pid" || true ;;
            esac
        done
        for pid in "$@"; do wait "$pid" || true; done
    } 2>/dev/null # bash would tell of every process killed
}
