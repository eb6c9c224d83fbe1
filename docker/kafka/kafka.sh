#!/bin/sh
# Real Apache Kafka for tests and trials: one KRaft node on loopback, started from Maven Central's jars.
#
#   docker/kafka/kafka.sh jars           fetch the jars (once; Maven and network)
#   docker/kafka/kafka.sh start DIR      start; prints the broker's address. Data, log, address and process id lie in DIR
#   docker/kafka/kafka.sh stop DIR       end it in order
#   docker/kafka/kafka.sh kill DIR       end it as a crash would (SIGKILL)
#   docker/kafka/kafka.sh address DIR    print the address again
#
# The ports are free ones, chosen at the first start and kept, so that a start after stop or kill is the same broker with
# the same data. SIGHTLINE_KAFKA_HEAP (default 512m) is its heap. With SIGHTLINE_KAFKA_PROXY=PORT at the first start there is
# one more listener (its address is in DIR/proxied), for clients that come through a proxy at that port.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${SIGHTLINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sightline}
version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/pom.xml")
jars=$cache/kafka-$version
heap=${SIGHTLINE_KAFKA_HEAP:-512m}

say() { printf 'kafka: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

usage() {
    sed -n '4,8s/^# *//p' "$0" >&2
    exit 2
}

# Whole or not at all: the jars are put in place under another name.
fetch_jars() {
    [ -f "$jars/complete" ] && return 0
    command -v mvn >/dev/null 2>&1 || die "Apache Kafka's jars come through Maven, and there is no mvn (Debian package maven)"
    say "fetching Apache Kafka $version from Maven Central (43 MB)"
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/kafka.XXXXXX")
    if ! mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -DoutputDirectory="$work" >"$work/mvn.log" 2>&1; then
        reason=$(grep -m 1 ERROR "$work/mvn.log" | cut -c1-300 || true)
        rm -rf "$work"
        die "Maven could not fetch Apache Kafka $version: ${reason:-no reason given}"
    fi
    rm -f "$work/mvn.log"
    touch "$work/complete"
    rm -rf "$jars"
    # Another start may have been quicker.
    mv "$work" "$jars" 2>/dev/null || rm -rf "$work"
}

# The process id, if that process lives and is this broker.
alive() {
    [ -s "$dir/pid" ] || return 1
    pid=$(cat "$dir/pid")
    kill -0 "$pid" 2>/dev/null && tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF "$dir/server.properties"
}

# Three free ports, from the system.
ports() {
    python3 - <<'PYTHON'
import socket
sockets = [socket.socket() for _ in range(3)]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PYTHON
}

java_run() {
    java -Xmx"$heap" -Xms"$heap" -cp "$jars/*" -Dlog4j2.configurationFile="$here/log4j2.properties" \
        -Dsightline.kafka.log="$dir/kafka.log" "$@"
}

configure() {
    # shellcheck disable=SC2046 # three words
    set -- $(ports)
    mkdir -p "$dir"
    listeners= advertised= protocols=
    if [ -n "${SIGHTLINE_KAFKA_PROXY:-}" ]; then
        listeners=,PROXIED://127.0.0.1:$3
        advertised=,PROXIED://127.0.0.1:$SIGHTLINE_KAFKA_PROXY
        protocols=,PROXIED:PLAINTEXT
        echo "127.0.0.1:$3" >"$dir/proxied"
    fi
    cat >"$dir/server.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
listeners=BROKER://127.0.0.1:$1,CONTROLLER://127.0.0.1:$2$listeners
advertised.listeners=BROKER://127.0.0.1:$1,CONTROLLER://127.0.0.1:$2$advertised
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT$protocols
inter.broker.listener.name=BROKER
controller.quorum.bootstrap.servers=127.0.0.1:$2
log.dirs=$dir/data
num.partitions=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=200
auto.create.topics.enable=false
log.cleaner.backoff.ms=1000
PROPERTIES
    echo "127.0.0.1:$1" >"$dir/address"
    java_run kafka.tools.StorageTool format --standalone --cluster-id "$(java_run kafka.tools.StorageTool random-uuid)" \
        --config "$dir/server.properties" >"$dir/format.log" 2>&1 || die "the data folder cannot be formatted: $(tail -n 1 "$dir/format.log")"
}

# Whether the broker takes connections: it listens last of all, when it is ready.
answers() {
    python3 - "$(cat "$dir/address")" <<'PYTHON'
import socket, struct, sys
host, port = sys.argv[1].rsplit(":", 1)
try:
    with socket.create_connection((host, int(port)), 1) as s:
        s.settimeout(2)
        # ApiVersions, version 0: correlation 7, no client id.
        request = struct.pack(">hhih", 18, 0, 7, -1)
        s.sendall(struct.pack(">i", len(request)) + request)
        answer = s.recv(10)
        sys.exit(0 if len(answer) == 10 and answer[4:8] == b"\0\0\0\7" and answer[8:10] == b"\0\0" else 1)
except OSError:
    sys.exit(1)
PYTHON
}

start() {
    command -v java >/dev/null 2>&1 || die "there is no java (Debian package openjdk-17-jre-headless)"
    command -v python3 >/dev/null 2>&1 || die "there is no python3"
    fetch_jars
    if alive; then
        cat "$dir/address"
        return 0
    fi
    [ -s "$dir/address" ] || configure
    # A session of its own: a Ctrl-C at the terminal is for the tests, which then stop the broker in order.
    setsid java -Xmx"$heap" -Xms"$heap" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$jars/*" \
        -Dlog4j2.configurationFile="$here/log4j2.properties" -Dsightline.kafka.log="$dir/kafka.log" \
        kafka.Kafka "$dir/server.properties" >"$dir/out.log" 2>&1 </dev/null &
    echo $! >"$dir/pid"
    tries=0
    until answers; do
        alive || die "the broker has ended: $(grep -hE 'ERROR|FATAL|Exception' "$dir/out.log" "$dir/kafka.log" 2>/dev/null | tail -n 1 | cut -c1-300)"
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || { kill -9 "$(cat "$dir/pid")"; die "the broker does not answer within two minutes; see $dir/kafka.log"; }
        sleep 0.2
    done
    cat "$dir/address"
}

# end SIGNAL: and wait until the process is gone.
end() {
    alive || { rm -f "$dir/pid"; return 0; }
    kill "-$1" "$pid"
    tries=0
    while kill -0 "$pid" 2>/dev/null; do
        tries=$((tries + 1))
        # An orderly end takes some seconds; one that hangs does not stay.
        [ "$tries" -ne 150 ] || kill -9 "$pid"
        sleep 0.2
    done
    rm -f "$dir/pid"
}

[ $# -ge 1 ] || usage
if [ "$1" = jars ]; then
    fetch_jars
    exit 0
fi
[ $# -eq 2 ] || usage
mkdir -p "$2"
dir=$(cd "$2" && pwd)
case $1 in
start) start ;;
stop) end TERM ;;
kill) end KILL ;;
address) cat "$dir/address" ;;
*) usage ;;
esac
