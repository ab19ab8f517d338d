# What a developer types. "make" alone lists the targets.
# What CI runs is "make test"; each of its checks is a target of its own.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The database that demo, drain and bench use instead of their own: make demo DSN=postgres://...
export DSN

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
# One static file without debug tables.
GOBUILD := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
# The race detector needs cgo. The limit is for two cores with cold caches.
GOTEST_RACE := env CGO_ENABLED=1 go test -race -timeout 20m
EXAMPLES := $(notdir $(patsubst %/,%,$(wildcard examples/*/)))
GENERATED := handlers/handlerpb

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##### Build

.PHONY: build
build: ## build the daemon, static, as bin/pgqrsd
	@$(GOBUILD) -o bin/pgqrsd ./cmd/pgqrsd

.PHONY: examples
examples: ## build the example handlers into bin/examples/
	@$(foreach name,$(EXAMPLES),$(GOBUILD) -o bin/examples/$(name) ./examples/$(name);)

.PHONY: install
install: ## install what was built, the unit and its configuration; DESTDIR=... stages it
	@test -x bin/pgqrsd || { echo 'nothing is built yet: make build' >&2; exit 1; }
	install -D -m 755 bin/pgqrsd $(DESTDIR)/usr/bin/pgqrsd
	install -D -m 644 systemd/pgqrsd.service $(DESTDIR)/usr/lib/systemd/system/pgqrsd.service
	install -D -m 644 systemd/pgqrsd.sysusers $(DESTDIR)/usr/lib/sysusers.d/pgqrsd.conf
	install -D -m 644 systemd/pgqrsd.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/pgqrsd.conf
	install -d -m 755 $(DESTDIR)/usr/lib/pgqrsd/plugins
	@test -e $(DESTDIR)/etc/pgqrsd/config.toml || \
		{ echo 'install systemd/config.toml'; install -D -m 640 systemd/config.toml $(DESTDIR)/etc/pgqrsd/config.toml; }

.PHONY: generate
generate: .bin/buf .bin/protoc-gen-go ## generate handlers/handlerpb from handler.proto
	@.bin/buf generate

.PHONY: fmt
fmt: ## format the Go code
	@gofmt -w .

.PHONY: clean
clean: ## remove what was built, the tools in .bin/ too
	@rm -rf bin .bin

##### See it work

.PHONY: demo
demo: build examples ## run 10,000 real jobs on SQLite, or on DSN=postgres://...
	@scripts/demo.sh

.PHONY: demo-workflow
demo-workflow: build examples ## run a workflow on SQLite, kill the daemon in the middle, carry on
	@scripts/demo-workflow.sh

.PHONY: drain
drain: build ## drain 200,000 no-op messages on Postgres, or on DSN=..., and print jobs/s
	@if [ -n "$$DSN" ]; then PGQRS_DSN=$$DSN bin/pgqrsd bench drain --queue-size 200000; \
	else scripts/with-postgres.sh --durable sh -c 'PGQRS_DSN=$$PGQRS_TEST_DSN exec bin/pgqrsd bench drain --queue-size 200000'; fi

##### Measure it beside its peers, in the module bench/

# make bench BENCH_FLAGS='-only drain -rounds 1 -scale 0.1', or -list, or -o json
BENCH_FLAGS ?=
BENCH = PGQRS_TEST_DSN="$${DSN:-$${PGQRS_TEST_DSN:-}}" scripts/with-postgres.sh --durable bin/bench

.PHONY: bench
bench: build bin/bench ## measure every target beside the peers; about an hour
	@$(BENCH) $(BENCH_FLAGS)

.PHONY: bench-latency
bench-latency: build bin/bench ## measure the latency beside River's at its defaults
	@$(BENCH) -suite latency $(BENCH_FLAGS)

.PHONY: bin/bench
bin/bench:
	@cd bench && CGO_ENABLED=0 go build -trimpath -o ../bin/bench .

.PHONY: test-bench
test-bench: ## run the tests of the module bench/
	@scripts/with-postgres.sh bash -c 'cd bench && go test ./...'

##### Test

.PHONY: test
test: check ## run everything that CI runs
	@scripts/ensure-cc.sh
	@scripts/with-postgres.sh $(GOTEST_RACE) ./...

.PHONY: test-quick
test-quick: ## run the tests without the race detector and the slow ones
	@scripts/with-postgres.sh go test -short ./...

# Each kind of kill at each place that a run passes, 1,000 runs of ten steps
# under random kills, and 100,000 runs asleep. "make test" runs a part of each.
.PHONY: test-kills
test-kills: ## run the whole matrix of kills, and the largest numbers of runs
	@PGQRS_TEST_MATRIX=all PGQRS_TEST_RUNS=1000 PGQRS_TEST_SLEEPERS=100000 scripts/with-postgres.sh \
		go test ./integration -count 1 -timeout 60m -v -run 'Matrix|ThroughKills|ThroughPostgresCrash|ManyRunsAsleep'

.PHONY: test-systemd
test-systemd: build examples ## run the unit under a real systemd in a container; needs root
	@scripts/test-systemd.sh

.PHONY: check
check: check-fmt check-mod check-builds check-systemd check-generated lint ## run the checks of "make test" that are no tests

.PHONY: check-fmt
check-fmt:
	@echo '--- gofmt'
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then printf 'make fmt would change:\n%s\n' "$$unformatted" >&2; exit 1; fi

.PHONY: check-mod
check-mod:
	@echo '--- go mod tidy, go mod verify'
	@go mod tidy -diff
	@go mod verify
	@cd bench && go mod tidy -diff

.PHONY: check-builds
check-builds: build
	@echo '--- static binary, build tags, go vet'
	@if ldd bin/pgqrsd >/dev/null 2>&1; then echo 'bin/pgqrsd is not static' >&2; exit 1; fi
	@for tag in nopostgres nosqlite; do \
		CGO_ENABLED=0 go build -tags $$tag -o bin/pgqrsd-$$tag ./cmd/pgqrsd; \
		go vet -tags $$tag ./cmd/... ./store/anystore/...; \
	done
	@go vet ./...
	@go vet -tags failpoints ./internal/failpoint ./handlers/... ./store/...
	@$(GOBUILD) -o bin/examples/transfer ./examples/transfer
	@for binary in bin/pgqrsd bin/examples/transfer; do \
		if grep -qa FAILPOINTS $$binary; then echo "$$binary has failpoints" >&2; exit 1; fi; \
	done

.PHONY: check-systemd
check-systemd:
	@echo '--- systemd units'
	@scripts/verify-systemd.sh

.PHONY: check-generated
check-generated: .bin/buf .bin/protoc-gen-go
	@echo '--- generated code'
	@.bin/buf lint
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; \
	.bin/buf generate --output "$$out"; \
	if ! diff -r --exclude='*.proto' "$$out/$(GENERATED)" $(GENERATED); then \
		echo 'the generated code is out of date: make generate' >&2; exit 1; fi

.PHONY: lint
lint: .bin/golangci-lint ## run golangci-lint
	@echo '--- golangci-lint'
	@.bin/golangci-lint run --allow-parallel-runners ./...
	@cd bench && ../.bin/golangci-lint run --allow-parallel-runners --config ../.golangci.yml ./...

##### Tools, at the versions that tools/*/go.mod pin. They land in .bin/ and are
##### built again when their module changes.

.bin/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	@echo '--- build golangci-lint (once, some minutes)'
	@cd tools/lint && CGO_ENABLED=0 go build -o ../../.bin/ tool
	@touch $@

.bin/buf: tools/buf/go.mod tools/buf/go.sum
	@echo '--- build buf (once, some minutes)'
	@cd tools/buf && CGO_ENABLED=0 go build -o ../../.bin/ tool
	@touch $@

# Builds protoc-gen-go-grpc as well.
.bin/protoc-gen-go: tools/protoc/go.mod tools/protoc/go.sum
	@cd tools/protoc && CGO_ENABLED=0 go build -o ../../.bin/ tool
	@touch $@
