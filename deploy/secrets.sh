#!/bin/sh
# Makes what compose.yaml keeps outside the repository: deploy/secrets/, with random passwords and, unless
# there is one already, a certificate signed by itself; and .env, with the address that people use.
#
#   deploy/secrets.sh tasks.example.org
#
# What is there is never overwritten: a password that changed would fit the database no more.
set -eu
umask 077

domain=${1:-}
case $domain in
'' | -* | *[!a-zA-Z0-9.-]*)
	echo "usage: deploy/secrets.sh domain, such as tasks.example.org or localhost" >&2
	exit 2
	;;
esac
cd "$(dirname "$0")/.."
dir=deploy/secrets
for name in postgres_password database_url redis_conf redis_url jwt_secret; do
	if [ -e "$dir/$name" ]; then
		echo "$dir/$name is there already. Nothing was changed." >&2
		exit 1
	fi
done
command -v openssl >/dev/null || { echo "openssl is missing: install it first" >&2; exit 1; }
mkdir -p "$dir"
chmod 700 "$dir" # keeps other users of this machine out; the files themselves are read by containers, as several users

postgres=$(openssl rand -hex 32)
redis=$(openssl rand -hex 32)
jwt=$(openssl rand -hex 32)
echo "$postgres" >"$dir/postgres_password"
echo "postgres://taskflow:$postgres@postgres:5432/taskflow?sslmode=disable" >"$dir/database_url"
echo "requirepass $redis" >"$dir/redis_conf"
echo "redis://:$redis@redis:6379/0" >"$dir/redis_url"
echo "$jwt" >"$dir/jwt_secret"
if [ ! -e "$dir/tls_cert" ] && [ ! -e "$dir/tls_key" ]; then
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 825 -subj "/CN=$domain" \
		-addext "subjectAltName=DNS:$domain" -keyout "$dir/tls_key" -out "$dir/tls_cert" 2>/dev/null
	echo "Made a certificate signed by itself, which browsers warn of: put a real one into $dir/tls_cert (with its chain) and $dir/tls_key."
fi
chmod 444 "$dir"/*
[ -e .env ] || echo "PUBLIC_URL=https://$domain" >.env
echo "Made $dir. Keep a copy of it in a safe place."
