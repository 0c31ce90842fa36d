# make run     start TaskFlow with a private PostgreSQL and Redis; data in .taskflow
# make cluster  the whole of a deployment on this machine: nginx, two api and two worker processes, a replica
# make build   bin/taskflow, one static binary
# make test    all tests, on a PostgreSQL and a Redis of their own; ARGS='-run Task -v' for some
# make check   format, vet, staticcheck, the files of deploy/, test
# make check-deploy  Dockerfile, compose.yaml and deploy/, by the programs they are for
# make image   taskflow:latest, by Docker
# make e2e     what the tests saw against openapi.yaml, and the pages in a real browser
# make test-proxy  the tests of the API once more, through nginx; ARGS='-run Task' for some
# make bench   the API beside a bare net/http handler and pgbench; writes bench/RESULTS.md
# make bench-queue  the job queue beside asynq, BullMQ and River; writes bench/QUEUE.md
# make tools   install all that these need besides Go: PostgreSQL, Redis, gcc, Chromium, Node
# make clean   remove what was built; the data stays

SHELL := /bin/sh
VERSION = $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
RECORD = .exchanges.jsonl

# program:package (or program|program:package+package), as Debian and Ubuntu name them
SERVERS = initdb:postgresql redis-server:redis-server
CHECKERS = nginx:nginx openssl:openssl promtool:prometheus systemd-analyze:systemd
COMPILER = gcc:gcc+libc6-dev
BROWSER = chromium|chromium-browser|google-chrome:chromium node:nodejs npm:npm

.PHONY: help run cluster build image test test-proxy check check-deploy e2e tools go clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

run: go
	@[ -n "$$DATABASE_URL" ] && [ -n "$$REDIS_URL" ] || { $(call need,$(SERVERS)); }
	@$(MAKE) --no-print-directory build
	@exec bin/taskflow dev

cluster: go
	@$(call need,$(SERVERS) nginx:nginx openssl:openssl)
	@$(MAKE) --no-print-directory build
	@exec deploy/cluster.sh

build: go
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$(VERSION)" -o bin/taskflow .

image:
	docker build --build-arg VERSION=$(VERSION) --tag taskflow:$(VERSION) --tag taskflow:latest .

test-proxy: go
	@$(call need,$(SERVERS) nginx:nginx)
	go test -timeout 20m . -through-nginx $(ARGS)

# A whole run that passes leaves the record of every request and answer, for e2e. Four tests run at once, as
# many of them wait.
test: go
	@$(call need,$(SERVERS) $(COMPILER))
ifeq ($(ARGS),)
	@rm -f $(RECORD).new
	TASKFLOW_EXCHANGES='$(CURDIR)/$(RECORD).new' go test -race -shuffle=on -parallel 4 -timeout 20m ./...
	@mv $(RECORD).new $(RECORD)
else
	go test -race -shuffle=on $(ARGS) ./...
endif

$(RECORD): $(wildcard *.go *.sql migrations/*)
	@$(MAKE) --no-print-directory test ARGS=

check: go
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "gofmt -w is needed on:" $$files >&2; exit 1; }
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	@$(MAKE) --no-print-directory check-deploy ARGS=
	@$(MAKE) --no-print-directory test ARGS=

check-deploy: go
	@$(call need,$(SERVERS) $(CHECKERS))
	cd deploy/check && go test -count=1 -vet=off $(ARGS) ./... # vet would go through its large libraries too

e2e: go $(RECORD)
	@$(call need,$(BROWSER))
	cd e2e && npm ci --no-audit --no-fund && TASKFLOW_EXCHANGES='$(CURDIR)/$(RECORD)' go test -count=1 -timeout 20m $(ARGS) ./...

tools:
	@$(call need,$(SERVERS) $(COMPILER) $(CHECKERS) $(BROWSER))

go:
	@command -v go >/dev/null || { echo "Go is missing: install Go 1.26 or newer from https://go.dev/dl" >&2; exit 1; }

clean:
	rm -rf bin $(RECORD) $(RECORD).new

# need installs the packages of the programs that are not there, or says which they are.
need = missing=; \
	for pair in $(foreach pair,$(1),'$(pair)'); do \
	  found=; for program in $$(echo "$${pair%:*}" | tr '|' ' '); do \
	    command -v $$program >/dev/null && found=yes; \
	    for bin in /usr/lib/postgresql/*/bin /usr/sbin; do [ -x "$$bin/$$program" ] && found=yes; done; \
	  done; \
	  [ -n "$$found" ] || missing="$$missing $$(echo "$${pair\#\#*:}" | tr '+' ' ')"; \
	done; \
	if [ -n "$$missing" ]; then \
	  command -v apt-get >/dev/null || { echo "please install, by the names your system has for them:$$missing" >&2; exit 1; }; \
	  if [ "$$(id -u)" = 0 ]; then sudo=; elif command -v sudo >/dev/null; then sudo=sudo; \
	  else echo "please run as root: apt-get install$$missing" >&2; exit 1; fi; \
	  echo "installing:$$missing"; \
	  $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; \
	fi

.PHONY: bench bench-queue
bench: go
	@$(call need,$(SERVERS) pgbench:postgresql wrk:wrk)
	@$(MAKE) --no-print-directory build
	cd bench && go build -o ../bin/bench/ ./api && exec ../bin/bench/api $(ARGS)

bench-queue: go
	@$(call need,$(SERVERS) node:nodejs npm:npm)
	cd bench && npm ci --ignore-scripts --no-audit --no-fund && go run . $(ARGS)
