#!/usr/bin/env bash
# TaskFlow as it is deployed, whole and on this machine: nginx with TLS before two api processes, two
# workers, PostgreSQL with a streaming replica, and Redis. It is for trying and testing; all listens on
# loopback. Linux only.
#
#   deploy/cluster.sh            start everything and stay; Ctrl-C stops it, the data is kept
#   deploy/cluster.sh roll       start one process after the other again, from another terminal
#   deploy/cluster.sh psql [primary|replica] [arguments]
#
# CLUSTER_DIR   where data, secrets and logs are kept (.cluster)
# CLUSTER_PORT  the first of ten ports (8440): the service is at https://localhost:8443
# TASKFLOW      the program (bin/taskflow)
# Settings of TaskFlow are passed on to its processes, such as RATE_LIMIT or SMTP_URL.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dir=$(realpath -m "${CLUSTER_DIR:-$here/../.cluster}")
program=$(realpath -m "${TASKFLOW:-$here/../bin/taskflow}")
port=${CLUSTER_PORT:-8440}
[[ $port =~ ^[0-9]+$ ]] && ((port > 0 && port < 65526)) || { echo "cluster: CLUSTER_PORT must be a number of at most 65525" >&2; exit 1; }
http=$port api_1=$((port + 1)) api_2=$((port + 2)) https=$((port + 3))
worker_1=$((port + 5)) worker_2=$((port + 6)) primary=$((port + 7)) replica=$((port + 8)) redis=$((port + 9))
members=(api_1 api_2 worker_1 worker_2)

PATH=$PATH:/usr/sbin:/sbin # ordinary users of Debian lack these
for bin in /usr/lib/postgresql/*/bin; do PATH=$bin:$PATH; done # the newest comes first

declare -A pids=() began=()
stopping=

die() {
    echo "cluster: $*" >&2
    exit 1
}

# launch NAME PROGRAM... starts a child that writes to log/NAME. It has a process group of its own, so that
# Ctrl-C reaches this script only, and is told to end when this script is gone, however that came.
launch() {
    local name=$1
    shift
    setsid setpriv --pdeathsig TERM "$@" </dev/null >>"$dir/log/$name" 2>&1 &
    pids[$name]=$! began[$name]=$SECONDS
    echo $! >"$dir/run/$name.tmp" && mv "$dir/run/$name.tmp" "$dir/run/$name" # whole at once, for roll
}

# as_postgres runs a program of PostgreSQL, which refuses root: as the user of Debian's package then.
as_postgres() { exec setpriv "${drop[@]}" --pdeathsig TERM "$@"; }

# within SECONDS COMMAND... repeats a command until it succeeds; not beyond the end of a child.
within() {
    local end=$((SECONDS + $1)) name
    shift
    until "$@" >/dev/null 2>&1; do
        for name in "${!pids[@]}"; do
            kill -0 "${pids[$name]}" 2>/dev/null || { tail -n 5 "$dir/log/$name" >&2; die "$name ended at once; see $dir/log/$name"; }
        done
        ((SECONDS < end)) || return 1
        sleep 0.05
    done
}

# ready PORT tells whether a process wants requests. No curl: a bare machine has none.
ready() {
    local status
    exec 7<>"/dev/tcp/127.0.0.1/$1" || return 1
    printf 'GET /ready HTTP/1.0\r\n\r\n' >&7
    read -r -t 5 _ status _ <&7 || status=
    exec 7>&-
    [[ $status == 200 ]]
}

# secret NAME makes a file of 32 random bytes in hex, once.
secret() {
    [[ -s $dir/$1 ]] || (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$dir/$1.tmp" && mv "$dir/$1.tmp" "$dir/$1")
    cat "$dir/$1"
}

sql() { PGPASSWORD=$(cat "$dir/postgres_secret") PGCONNECT_TIMEOUT=5 psql -X -q -h 127.0.0.1 -p "$1" -U postgres -d taskflow "${@:2}"; }

start_postgres() {
    local settings=(-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c timezone=UTC -c log_timezone=UTC
        -c wal_level=replica -c max_wal_senders=5 -c max_slot_wal_keep_size=1GB -c hot_standby=on -c max_connections=200)
    local home=$dir/postgres
    [[ $home != *[[:space:]\'\"\\]* ]] || die "$dir: set CLUSTER_DIR to a path without spaces and quotes"
    export LC_ALL=C.UTF-8
    if [[ ! -e $home/primary ]]; then
        echo "cluster: making the database (first start)"
        rm -rf "$home/new" && (umask 077 && cp "$dir/postgres_secret" "$home/secret") && own "$home/secret"
        (as_postgres initdb -D "$home/new" -U postgres --pwfile "$home/secret" -A scram-sha-256 -E UTF8 --locale=C.UTF-8 --no-instructions --no-sync) >>"$dir/log/primary" 2>&1 ||
            die "initdb failed; see $dir/log/primary"
        mv "$home/new" "$home/primary"
    fi
    rm -f "$home/secret"
    launch primary setpriv "${drop[@]}" --pdeathsig INT postgres -D "$home/primary" -p "$primary" "${settings[@]}"
    export PGPASSWORD
    PGPASSWORD=$(cat "$dir/postgres_secret")
    within 60 psql -X -q -h 127.0.0.1 -p "$primary" -U postgres -d postgres -c 'SELECT 1' || die "PostgreSQL does not answer; see $dir/log/primary"
    # The owner of the database is no superuser, as it should be anywhere.
    psql -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$primary" -U postgres -d postgres >>"$dir/log/primary" 2>&1 <<-SQL || die "PostgreSQL cannot be set up; see $dir/log/primary"
	SELECT 'CREATE ROLE taskflow LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'taskflow') \gexec
	ALTER ROLE taskflow PASSWORD '$PGPASSWORD';
	SELECT 'CREATE DATABASE taskflow OWNER taskflow' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'taskflow') \gexec
	SELECT pg_create_physical_replication_slot('replica') WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'replica');
	SQL
    if [[ ! -e $home/replica ]]; then
        rm -rf "$home/new"
        (as_postgres pg_basebackup -D "$home/new" -R -X stream -c fast --no-sync -S replica -d "host=127.0.0.1 port=$primary user=postgres") >>"$dir/log/replica" 2>&1 ||
            die "pg_basebackup failed; see $dir/log/replica"
        mv "$home/new" "$home/replica"
    fi
    (umask 077 && echo "127.0.0.1:$primary:*:postgres:$PGPASSWORD" >"$home/pass") && own "$home/pass"
    launch replica setpriv "${drop[@]}" --pdeathsig INT postgres -D "$home/replica" -p "$replica" "${settings[@]}" \
        -c "primary_conninfo=host=127.0.0.1 port=$primary user=postgres passfile=$home/pass"
    within 60 sql "$replica" -c 'SELECT 1' || die "the replica does not answer; see $dir/log/replica"
    unset PGPASSWORD
}

start_redis() {
    (umask 077 && cat >"$dir/redis/redis.conf" <<-EOC)
	bind 127.0.0.1
	port $redis
	requirepass $(secret redis_secret)
	dir $dir/redis
	appendonly yes
	appendfsync everysec
	save ""
	maxmemory 256mb
	maxmemory-policy noeviction
	EOC
    launch redis redis-server "$dir/redis/redis.conf"
    within 30 redis_answers || die "Redis does not answer; see $dir/log/redis"
}

redis_answers() { [[ $(REDISCLI_AUTH=$(cat "$dir/redis_secret") redis-cli -h 127.0.0.1 -p "$redis" ping) == PONG ]]; }

start_member() {
    local role=${1%_*} address=${!1}
    launch "$1" "$program" serve "-role=$role" "-listen=127.0.0.1:$address"
}

start_nginx() {
    local at=$dir/nginx
    if ! openssl x509 -checkend 604800 -noout -in "$at/tls.crt" >/dev/null 2>&1; then
        (umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$at/tls.key" -out "$at/tls.crt" -days 365 \
            -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1) >>"$dir/log/nginx" 2>&1 || die "openssl cannot make a certificate; see $dir/log/nginx"
    fi
    cp "$here/nginx.conf" "$at/nginx.conf"
    cat >"$at/nginx.listen.conf" <<-EOC
	listen 127.0.0.1:$http;
	listen 127.0.0.1:$https ssl http2;
	ssl_certificate tls.crt;
	ssl_certificate_key tls.key;
	set \$public https://localhost:$https;
	EOC
    # A process that stops answers for 3 s more, each time telling to close the connection. Unused ones are closed
    # before that is over, so no request meets one that ends.
    cat >"$at/nginx.site.conf" <<-EOC
	access_log "$dir/log/access" requests;
	client_body_temp_path "$at/tmp/body";
	proxy_temp_path "$at/tmp/proxy";
	fastcgi_temp_path "$at/tmp/fastcgi";
	uwsgi_temp_path "$at/tmp/uwsgi";
	scgi_temp_path "$at/tmp/scgi";
	upstream taskflow {
	    zone taskflow 64k;
	    server 127.0.0.1:$api_1 max_fails=10 fail_timeout=2s;
	    server 127.0.0.1:$api_2 max_fails=10 fail_timeout=2s;
	    keepalive 64;
	    keepalive_timeout 2s;
	}
	EOC
    launch nginx nginx -e stderr -p "$at" -c "$at/nginx.conf" -g "pid '$at/pid'; daemon off;"
    within 30 ready "$http" || die "nginx does not answer; see $dir/log/nginx"
}

# own hands a path to the user that PostgreSQL runs as.
own() { [[ ${#drop[@]} == 0 ]] || chown "$owner" "$1"; }

# stop ends what runs, in the order that loses nothing: what takes requests, what works, what keeps.
stop() {
    stopping=yes
    trap '' INT TERM HUP
    finish nginx TERM
    finish api_1 TERM api_2 TERM worker_1 TERM worker_2 TERM
    finish redis TERM replica INT primary INT
}

# finish NAME SIGNAL... signals children, waits for all, and kills those that stay.
finish() {
    local name names=()
    while (($#)); do
        [[ -z ${pids[$1]:-} ]] || { kill -"$2" "${pids[$1]}" 2>/dev/null || true; names+=("$1"); }
        shift 2
    done
    for name in "${names[@]}"; do
        for ((i = 0; i < 600; i++)); do
            kill -0 "${pids[$name]}" 2>/dev/null || break
            sleep 0.05
        done
        kill -KILL "${pids[$name]}" 2>/dev/null || true
        wait "${pids[$name]}" 2>/dev/null || true
        rm -f "$dir/run/$name"
        unset "pids[$name]"
    done
}

start() {
    local name gone tool
    for tool in postgres initdb pg_basebackup psql redis-server redis-cli nginx openssl setpriv setsid flock; do
        command -v "$tool" >/dev/null || die "$tool is missing; on Debian or Ubuntu: apt-get install postgresql redis-server nginx openssl util-linux"
    done
    [[ -x $program ]] || die "there is no $program: make build, or set TASKFLOW"
    drop=()
    mkdir -p "$dir" || die "$dir cannot be made"
    chmod 711 "$dir"
    exec 9>"$dir/lock" # children keep it open: what a killed run has left must end first
    flock -w 40 9 || die "$dir is in use by another cluster"
    for name in log run redis nginx files postgres; do mkdir -p "$dir/$name"; done
    mkdir -p "$dir/nginx/tmp"
    chmod 700 "$dir/log" "$dir/run" "$dir/redis" "$dir/files" "$dir/postgres"
    chmod 711 "$dir/nginx" "$dir/nginx/tmp"
    if ((EUID == 0)); then
        owner=postgres drop=(--reuid=postgres --regid=postgres --init-groups)
        id postgres >/dev/null 2>&1 || die "PostgreSQL refuses to run as root, and there is no user postgres"
        own "$dir/postgres"
        setpriv "${drop[@]}" test -w "$dir/postgres" || die "PostgreSQL refuses to run as root, and its user cannot reach $dir: set CLUSTER_DIR to a folder within reach, such as /var/lib/taskflow-cluster"
    fi
    rm -f "$dir"/run/* "$dir"/log/*
    ulimit -n "$(ulimit -Hn)" # for connections
    secret postgres_secret >/dev/null
    secret redis_secret >/dev/null
    secret jwt_secret >/dev/null

    trap 'stop; exit 0' INT TERM HUP
    trap '[[ $stopping ]] || stop' EXIT
    start_postgres
    start_redis

    (umask 077 && echo "postgres://taskflow:$(cat "$dir/postgres_secret")@127.0.0.1:$primary/taskflow" >"$dir/database_url")
    (umask 077 && echo "redis://:$(cat "$dir/redis_secret")@127.0.0.1:$redis/0" >"$dir/redis_url")
    unset DATABASE_URL REDIS_URL JWT_SECRET LISTEN_ADDR ROLE
    export DATABASE_URL_FILE=$dir/database_url REDIS_URL_FILE=$dir/redis_url JWT_SECRET_FILE=$dir/jwt_secret
    export PUBLIC_URL=${PUBLIC_URL:-https://localhost:$https} TRUSTED_PROXIES=127.0.0.1 MIGRATE=off
    export STORAGE_URL=${STORAGE_URL:-file://$dir/files} SMTP_URL=${SMTP_URL:-off}
    "$program" migrate 2>>"$dir/log/migrate" || { tail -n 5 "$dir/log/migrate" >&2; die "the database cannot be migrated; see $dir/log/migrate"; }

    for name in "${members[@]}"; do start_member "$name"; done
    for name in "${members[@]}"; do within 60 ready "${!name}" || die "$name does not get ready; see $dir/log/$name"; done
    start_nginx
    cat <<-EOT

	TaskFlow runs as a cluster.

	  Service    https://localhost:$https  (a certificate of its own: curl --cacert $dir/nginx/tls.crt)
	  API page   https://localhost:$https/docs
	  Behind it  api at 127.0.0.1:$api_1 and $api_2, workers at $worker_1 and $worker_2, PostgreSQL at $primary, replica at $replica, Redis at $redis
	  Roll       deploy/cluster.sh roll  (each process again, one after the other, from another terminal)
	  Data       $dir, logs in $dir/log  (stop with Ctrl-C; everything is kept)

	EOT

    # A process of TaskFlow that ends is started again, as systemd or ECS would; stores and nginx must not end.
    while :; do
        wait -n -p gone "${pids[@]}" || true
        for name in "${!pids[@]}"; do
            [[ ${pids[$name]} == "${gone:-}" ]] || continue
            case $name in
            api_* | worker_*)
                echo "cluster: $name ended; starting it again"
                ((SECONDS - began[$name] > 2)) || sleep 1
                start_member "$name"
                ;;
            *)
                tail -n 5 "$dir/log/$name" >&2
                die "$name ended; see $dir/log/$name"
                ;;
            esac
        done
    done
}

# roll ends each process in turn and waits until another has taken its place and is ready. Between the two
# api processes it leaves nginx the time to use the first again.
roll() {
    local name old new
    [[ -s $dir/run/nginx ]] || die "no cluster runs in $dir"
    for name in "${members[@]}"; do
        old=$(cat "$dir/run/$name")
        kill -TERM "$old" || die "$name is not there"
        new=$old
        for ((i = 0; i < 1200; i++)); do
            new=$(cat "$dir/run/$name" 2>/dev/null || echo "$old")
            if [[ $new != "$old" ]] && ready "${!name}" 2>/dev/null; then break; fi
            sleep 0.05
        done
        ((i < 1200)) || die "$name does not get ready; see $dir/log/$name"
        echo "cluster: $name was started again"
        [[ $name != api_1 ]] || sleep 2.5
    done
}

case ${1:-start} in
start) start ;;
roll) roll ;;
psql)
    shift
    server=primary
    case ${1:-} in primary | replica)
        server=$1
        shift
        ;;
    esac
    sql "${!server}" "$@"
    ;;
*) sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
