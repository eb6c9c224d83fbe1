#!/bin/bash
# The topology of compose.yaml as plain processes on this machine: Kafka, Qdrant, camera nodes, embed workers, index
# workers, API. For trials without a container engine, and for the tests that kill and restart roles.
#
#   docker/local.sh up [--dir D] [--config F] [--ingest N] [--embed N] [--index N]   starts, waits until all are ready
#   docker/local.sh status [--dir D]                                                 what runs, and what is not ready
#   docker/local.sh kill ROLE [N] [--dir D]        SIGKILL: it stays away until it is started again
#   docker/local.sh stop ROLE [N] [--dir D]        SIGTERM, and waits for the end
#   docker/local.sh start ROLE [N] [--dir D]       starts it (again), with the same ports and data
#   docker/local.sh restart ROLE [N] [--dir D]     stop, then start
#   docker/local.sh down [--dir D]                 ends everything that `up` started; the data stay in D
#
# ROLE: kafka, qdrant, ingest, embed, index, api; N counts from 1. D (default: data/local) keeps everything: data, logs,
# generated configurations, pid files. The cameras of F (default: docker/demo.toml) are dealt out to the camera nodes in
# turn; everything else in F is for all roles.
#
# Environment: SIGHTLINE_BIN (folder of the binaries, default target/debug), QDRANT_BIN (a real Qdrant to start) or
# QDRANT_URL (one that runs, gRPC address; it is left as it is), KAFKA_BROKERS (a Kafka that runs), SIGHTLINE_KAFKA_PROXY
# (port at which the first camera node reaches Kafka through a proxy, which the drill cuts), SIGHTLINE_LOG;
# SIGHTLINE__SECTION__KEY reaches all roles. Without QDRANT_BIN and QDRANT_URL the double of the tests is started.
set -u -o pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
kafka=$root/docker/kafka/kafka.sh
bin=${SIGHTLINE_BIN:-$root/target/debug}
dir=$root/data/local
config=$root/docker/demo.toml
ingest=1 embed=1 index=1
patience=${SIGHTLINE_LOCAL_PATIENCE:-120} # seconds until everything has to be ready
grace=25                                  # seconds for an orderly end: bus.drain_seconds and some

say() { printf 'local: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit "$1"; }

[ $# -gt 0 ] || usage 1
command=$1
shift
words=()
while [ $# -gt 0 ]; do
    case $1 in
    --dir | --config | --ingest | --embed | --index)
        [ $# -gt 1 ] || die "$1 needs a value"
        case $1 in
        --dir) dir=$2 ;;
        --config) config=$2 ;;
        --ingest) ingest=$2 ;;
        --embed) embed=$2 ;;
        --index) index=$2 ;;
        esac
        shift 2
        ;;
    -h | --help) usage 0 ;;
    -*) die "unknown option $1" ;;
    *) words+=("$1"); shift ;;
    esac
done
case $dir in /*) ;; *) dir=$PWD/$dir ;; esac

# ---- processes: NAME.pid holds the pid and the start time of the process, so that a number which the kernel has given
# to somebody else is never signalled.

born() { # PID: when it was started, in ticks since the start of the machine
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The fields after the name, which may hold blanks: the start is the 22nd of all.
    read -ra stat <<<"${stat##*) }"
    echo "${stat[19]}"
}
pid_of() { # NAME: prints the pid if that very process lives and is not a zombie
    local pid time stat
    read -r pid time 2>/dev/null <"$dir/run/$1.pid" || return 1
    [ "$(born "$pid")" = "$time" ] || return 1
    stat=$(cat "/proc/$pid/stat" 2>/dev/null) || return 1
    case ${stat##*) } in Z*) return 1 ;; esac
    echo "$pid"
}
record() { echo "$2 $(born "$2")" >"$dir/run/$1.pid"; }
ended() { # NAME SECONDS: waits for its end
    local i
    for ((i = 0; i < $2 * 20; i++)); do
        pid_of "$1" >/dev/null || return 0
        sleep 0.05
    done
    return 1
}
stop() { # NAME
    local pid
    pid=$(pid_of "$1") || { rm -f "$dir/run/$1.pid"; return 0; }
    kill -TERM "$pid" 2>/dev/null
    if ! ended "$1" "$grace"; then
        say "$1 did not end within $grace s; killing it"
        kill -KILL "$pid" 2>/dev/null
        ended "$1" 10 || { say "$1 (pid $pid) cannot be ended"; return 1; }
    fi
    rm -f "$dir/run/$1.pid"
}
launch() { # NAME COMMAND...: in a session of its own, so that a terminal's Ctrl-C does not reach it
    local name=$1 pid
    shift
    echo "---- $(date -u +%FT%TZ) $*" >>"$dir/log/$name.log"
    setsid "$@" </dev/null >>"$dir/log/$name.log" 2>&1 &
    pid=$!
    record "$name" "$pid"
}

# ---- ports: below those that the kernel gives to outgoing connections, so that nobody takes one while its owner is away

taken=" "
free_port() { # sets $port
    local tries
    for ((tries = 0; tries < 500; tries++)); do
        port=$((15000 + RANDOM % 15000))
        case $taken in *" $port "*) continue ;; esac
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue
        taken="$taken$port "
        return 0
    done
    die "no free port found"
}

# ---- configuration: F without its cameras for every role; each camera node gets its share of them

cameras() { # NODE NODES: the [[cameras]] of F that node number NODE has
    awk -v node="$1" -v nodes="$2" '
        /^[ \t]*\[\[cameras\]\]/ { inside = 1; mine = (count++ % nodes) == node - 1 }
        /^[ \t]*\[[^[]/ { inside = 0 }
        inside && mine' "$config"
}
others() {
    awk '/^[ \t]*\[\[cameras\]\]/ { inside = 1 } /^[ \t]*\[[^[]/ { inside = 0 } !inside' "$config"
}

# ---- the roles. Settings that are this topology's go through the environment: they win over F.

settings() { # NAME: the environment of a role, one NAME=VALUE a line
    local role=${1%-*} port
    local proxied=
    [ "$1" != ingest-1 ] || [ -z "${SIGHTLINE_KAFKA_PROXY:-}" ] || proxied=127.0.0.1:$SIGHTLINE_KAFKA_PROXY
    read -r port <"$dir/run/$1.port"
    cat <<EOF
SIGHTLINE__BUS__BROKERS=${proxied:-$(cat "$dir/run/brokers")}
SIGHTLINE__VECTORS__STORE=server
SIGHTLINE__VECTORS__URL=$(cat "$dir/run/qdrant.url")
SIGHTLINE__GALLERY__URL=file://$dir/gallery
SIGHTLINE__DATA__FOLDER=$dir/$1
SIGHTLINE__MONITOR__LISTEN=127.0.0.1:$port
SIGHTLINE__MONITOR__NODE=$1@local
EOF
    [ "$role" != api ] || echo "SIGHTLINE__SERVER__LISTEN=127.0.0.1:$(cat "$dir/run/api.port")"
}

start_role() { # NAME
    local role=${1%-*} file=$dir/etc/others.toml environment
    [ "$role" != ingest ] || file=$dir/etc/$1.toml
    mapfile -t environment < <(settings "$1")
    # Relative paths in F are relative to the repository.
    cd "$root" && launch "$1" env "${environment[@]}" "$bin/sightline-$role" --config "$file"
}

start_kafka() {
    [ -z "${KAFKA_BROKERS:-}" ] || return 0
    "$kafka" start "$dir/kafka" >"$dir/run/brokers.new" 2>>"$dir/log/kafka.log" ||
        { tail -n 5 "$dir/log/kafka.log" >&2; say "Kafka does not start (log: $dir/log/kafka.log)"; return 1; }
    mv "$dir/run/brokers.new" "$dir/run/brokers"
}

start_qdrant() {
    [ -z "${QDRANT_URL:-}" ] || return 0
    local port
    read -r port <"$dir/run/qdrant.port"
    if [ -n "${QDRANT_BIN:-}" ]; then
        mkdir -p "$dir/qdrant"
        cd "$dir/qdrant" && launch qdrant env QDRANT__SERVICE__HOST=127.0.0.1 QDRANT__SERVICE__GRPC_PORT="$port" \
            QDRANT__SERVICE__HTTP_PORT="$(cat "$dir/run/qdrant.http.port")" QDRANT__STORAGE__STORAGE_PATH="$dir/qdrant/storage" \
            QDRANT__STORAGE__SNAPSHOTS_PATH="$dir/qdrant/snapshots" QDRANT__TELEMETRY_DISABLED=true "$QDRANT_BIN"
    else
        launch qdrant "$bin/qdrant-double" --listen "127.0.0.1:$port" --folder "$dir/qdrant"
    fi
}

start_one() { # NAME
    if [ "$1" = kafka ]; then start_kafka; return; fi
    if pid_of "$1" >/dev/null; then say "$1 runs already"; return 0; fi
    case $1 in
    qdrant) start_qdrant ;;
    *) start_role "$1" ;;
    esac
}

stop_one() { # NAME
    if [ "$1" = kafka ]; then
        [ ! -d "$dir/kafka" ] || "$kafka" stop "$dir/kafka" >>"$dir/log/kafka.log" 2>&1
    else
        stop "$1"
    fi
}

kill_one() { # NAME
    local pid
    if [ "$1" = kafka ]; then "$kafka" kill "$dir/kafka" >>"$dir/log/kafka.log" 2>&1; return; fi
    pid=$(pid_of "$1") || die "$1 does not run"
    kill -KILL "$pid"
    ended "$1" 10 || die "$1 (pid $pid) cannot be killed"
}

names() { cat "$dir/run/names" 2>/dev/null; } # in the order of the start
named() { # ROLE N -> NAME, of those that `up` made
    local name=$1
    case $1 in kafka | qdrant) ;; *) name=$1-${2:-1} ;; esac
    names | grep -qx "$name" || die "there is no $name here; known: $(names | paste -sd' ')"
    echo "$name"
}

ready() { # NAME: whether it is; what it says otherwise is left in $why
    local port
    why=
    case $1 in
    kafka) return 0 ;;
    qdrant)
        read -r port <"$dir/run/qdrant.port"
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { why="nothing listens on port $port"; return 1; }
        return 0
        ;;
    esac
    read -r port <"$dir/run/$1.port"
    why=$(curl -s -m 5 "http://127.0.0.1:$port/readyz") || { why="no answer on port $port"; return 1; }
    case $why in *'"ready":true'*) return 0 ;; *) return 1 ;; esac
}

alive() { [ "$1" = kafka ] || pid_of "$1" >/dev/null; } # Kafka's start waits until it answers

await_all() {
    local name end=$((SECONDS + patience))
    for name in $(names); do
        while ! ready "$name"; do
            if ! alive "$name"; then
                tail -n 5 "$dir/log/$name.log" >&2
                say "$name has ended (log: $dir/log/$name.log)"
                return 1
            fi
            if [ $SECONDS -ge $end ]; then say "$name is not ready after $patience s: $why"; return 1; fi
            sleep 0.2
        done
    done
}

# ---- commands

down() {
    local failed=0 name
    # Sources first: so every stage can finish what is on its way.
    for name in $(names | grep -v '^kafka$\|^qdrant$'); do stop_one "$name" || failed=1; done
    for name in qdrant kafka; do
        if names | grep -qx "$name"; then stop_one "$name" || failed=1; fi
    done
    return $failed
}

up() {
    local n name
    [ -r "$config" ] || die "cannot read $config"
    for n in "$ingest" "$embed" "$index"; do
        case $n in '' | *[!0-9]*) die "$n is not a number of processes" ;; esac
    done
    for n in sightline-ingest sightline-embed sightline-index sightline-api; do
        [ -x "$bin/$n" ] || die "$bin/$n is missing: run \`make roles\`"
    done
    [ -n "${QDRANT_URL:-}${QDRANT_BIN:-}" ] || [ -x "$bin/qdrant-double" ] || die "$bin/qdrant-double is missing: run \`make roles\`"
    for name in $(names); do
        if pid_of "$name" >/dev/null; then die "$name of an earlier start runs in $dir: \`$0 down --dir $dir\` first"; fi
    done
    mkdir -p "$dir/run" "$dir/log" "$dir/etc" "$dir/gallery" || exit 1
    chmod 700 "$dir"
    # Ports stay as they were: what is stored (offsets, collections) is found again under the same addresses.
    : >"$dir/run/names.new"
    others >"$dir/etc/others.toml"
    for ((n = 1; n <= ingest; n++)); do { others; cameras "$n" "$ingest"; } >"$dir/etc/ingest-$n.toml"; done
    port_for() { # NAME
        if [ -s "$dir/run/$1.port" ]; then taken="$taken$(cat "$dir/run/$1.port") "; return; fi
        free_port
        echo "$port" >"$dir/run/$1.port"
    }
    if [ -z "${KAFKA_BROKERS:-}" ]; then
        echo kafka >>"$dir/run/names.new"
    else
        echo "$KAFKA_BROKERS" >"$dir/run/brokers"
    fi
    if [ -z "${QDRANT_URL:-}" ]; then
        port_for qdrant
        port_for qdrant.http
        echo "http://127.0.0.1:$(cat "$dir/run/qdrant.port")" >"$dir/run/qdrant.url"
        echo qdrant >>"$dir/run/names.new"
    else
        echo "$QDRANT_URL" >"$dir/run/qdrant.url"
    fi
    for name in $(seq -f 'ingest-%g' "$ingest") $(seq -f 'embed-%g' "$embed") $(seq -f 'index-%g' "$index") api-1; do
        port_for "$name"
        echo "$name" >>"$dir/run/names.new"
    done
    port_for api
    mv "$dir/run/names.new" "$dir/run/names"
    trap 'trap - INT TERM EXIT; say "not up; ending what was started"; down; exit 1' INT TERM EXIT
    for name in $(names); do start_one "$name" || exit 1; done
    await_all || exit 1
    trap - INT TERM EXIT
    say "up in $dir ($ingest ingest, $embed embed, $index index); end it with: $0 down --dir $dir"
    # Read by programs: address, then token.
    sed -n 's/^ *"server": "\(.*\)",*$/\1/p;s/^ *"token": "\(.*\)",*$/\1/p' "$dir/api-1/client.json" | paste -sd' ' |
        sed 's|^\([^ ]*\) \(.*\)$|Sightline is ready: \1/#token=\2|'
}

status() {
    local name pid state bad=0
    [ -n "$(names)" ] || die "nothing was started in $dir"
    for name in $(names); do
        if [ "$name" = kafka ]; then
            # Its script keeps the pid; whether it is the broker's still shows in the command line.
            pid=$(cat "$dir/kafka/pid" 2>/dev/null) && grep -aqF "$dir/kafka/" "/proc/$pid/cmdline" 2>/dev/null || pid=
        else
            pid=$(pid_of "$name") || pid=
        fi
        if [ -z "$pid" ]; then
            state="does not run" bad=1
        elif ready "$name"; then
            state=ready
        else
            state="not ready: $why" bad=1
        fi
        printf '%-10s %-8s %s\n' "$name" "${pid:--}" "$state"
    done
    return $bad
}

case $command in
up) up ;;
down) down ;;
status) status ;;
kill) name=$(named "${words[@]}") && kill_one "$name" ;;
stop) name=$(named "${words[@]}") && stop_one "$name" ;;
start) name=$(named "${words[@]}") && start_one "$name" ;;
restart) name=$(named "${words[@]}") && stop_one "$name" && start_one "$name" ;;
help | -h | --help) usage 0 ;;
*) die "unknown command $command; known: up status kill stop start restart down" ;;
esac
