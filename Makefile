# Tools are pinned here and run through the module proxy, so that go.mod lists
# only what the server runs on.
GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.12.2
GOVULN   := go run golang.org/x/vuln/cmd/govulncheck@v1.1.4
HELM     := go run helm.sh/helm/v3/cmd/helm@v3.22.0
BUF      := go run github.com/bufbuild/buf/cmd/buf@v1.75.0
PKGS     := ./...
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

.DEFAULT_GOAL := help
.PHONY: help run build test docs sim sim-bugs access-bugs check fmt lint proto proto-check fuzz bench bench-100k bench-peers chaos conformance clients releases manifests release

help: ## show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## three nodes and the embedded S2, in one process
	go run ./cmd/fantail dev --nodes 3

build: ## the binary, static, into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION) -X main.revision=$(REVISION)' -o bin/fantail ./cmd/fantail

test: ## every test, with the race detector
	go test -race -shuffle=on -timeout 20m $(PKGS)
	TEST_EDGE_HANDLERS=1 go test -race -shuffle=on -timeout 5m ./edge
	TEST_EDGE_TLS=1 go test -race -shuffle=on -timeout 5m ./edge

SEEDS ?= 200
FIRST ?= 0
LIMIT ?= 0
sim: ## whole fleets in a bubble, under faults: SEEDS=20000 for a night, from seed FIRST on
	go test -c -o bin/sim.test ./cluster/sim
	bin/sim.test -test.run=TestSim -test.timeout=$(LIMIT) -first=$(FIRST) -seeds=$(SEEDS)

sim-bugs: ## does the simulation notice the bugs that it is there for?
	cluster/sim/bugs/run

access-bugs: ## do the tests notice it when a check of rights is missing?
	go run ./edge/access/bugs

check: fmt lint test ## before every commit

fmt: ## fail if a file is not formatted
	@out=$$($(GOLANGCI) fmt --diff) || { echo "$$out"; exit 1; }; if [ -n "$$out" ]; then echo "$$out"; exit 1; fi

lint: ## static checks: correctness, shape, directions of import
	$(GOLANGCI) run

vuln: ## known vulnerabilities in what we link
	$(GOVULN) $(PKGS)

proto: ## regenerate the contract between nodes
	cd proto && $(BUF) generate

proto-check: ## fail if the generated code is not the contract's
	cd proto && $(BUF) lint && $(BUF) generate
	@git diff --exit-code -- proto || { echo 'proto/relaypb is not what relay.proto says: make proto'; exit 1; }

bench: build ## the measurements, into bench/results
	{ go run ./bench/append -s2=; bench/with-lite go run ./bench/append; } | tee bench/results/append.txt
	{ go run ./bench/relay; echo; go run ./bench/relay -s2 -streams 2000; } | tee bench/results/relay.txt
	go run ./bench/scale | tee bench/results/scale.txt
	{ go run ./bench/readers; echo; go run ./bench/readers -quiet -readers 15000; } | tee bench/results/readers.txt
	{ go run ./bench/sessions; echo; bench/with-lite go run ./bench/sessions -s2 http://127.0.0.1:4430; } | tee bench/results/sessions.txt
	go run ./bench/collapse | tee bench/results/collapse.txt
	go run ./bench/cost -svg bench/results/cost.svg | tee bench/results/cost.txt
	{ go run ./bench/beyond; echo; go run ./bench/beyond -streams 10000 -rate 1; } | tee bench/results/beyond.txt

bench-100k: ## 100,000 readers on seven nodes, one of which is restarted; over 1,000 streams, then one (15 minutes)
	go run ./bench/load -fleet 7 -clients 7 -readers 100000 -streams 1000 -rate 100 -for 5m -restart \
	  -json bench/results/100k-streams.json -svg bench/results/100k-streams.svg | tee bench/results/100k-streams.txt
	go run ./bench/load -fleet 7 -clients 7 -readers 100000 -mode fanout -rate 0.1 -for 5m -restart \
	  -json bench/results/100k-fanout.json -svg bench/results/100k-fanout.svg | tee bench/results/100k-fanout.txt

bench-peers: ## beside nchan, Mercure, Centrifugo, the Durable Streams servers and a loop in C (cc, cargo, npm; an hour)
	bench/peers/install
	go run ./bench/peers -rounds 5 -json bench/results/peers.json | tee bench/results/peers.md

chaos: ## a fleet of processes under every fault, with an oracle, into bench/results (root; 20 minutes)
	go run ./bench/chaos -table bench/results/chaos.md

conformance: build bench/conformance/node_modules ## the published suite: one node, the second of three, all in turn; s2-lite, where installed
	rm -f bin/conformance.json
	node bench/conformance/run.mjs all --table bin/conformance.json
	@if test -x "$${S2_LITE:-$${CARGO_HOME:-$$HOME/.cargo}/bin/s2}"; then \
	  bench/with-lite node bench/conformance/run.mjs all --s2 http://127.0.0.1:4430 --table bin/conformance.json; \
	else echo 'not on s2-lite: cargo install --locked s2-cli --version 0.43.4'; fi

releases: ## a fleet is rolled from an older release and back, over one log
	bench/with-release go test -v -count=1 -run Release ./cmd/fantail

clients: build bench/clients/node_modules ## real clients (TypeScript, Python, Go, a browser, curl), against three nodes
	node bench/clients/run.mjs

bench/%/node_modules: bench/%/package-lock.json
	cd $(@D) && npm ci --no-audit --no-fund

manifests: ## deploy/kubernetes.yaml from the chart
	mkdir -p bin
	deploy/helm/render "$(HELM)" > bin/kubernetes.yaml && mv bin/kubernetes.yaml deploy/kubernetes.yaml

docs: bench/clients/node_modules ## the commands and programs of the documentation, against fantail dev (Node, Python, Chromium)
	TEST_DOCS=1 go test -v -count=1 -timeout 20m -run TestDocs ./cmd/fantail

release: ## tarballs for Linux and macOS with checksums, into bin/release
	deploy/release $(VERSION) $(REVISION) bin/release

fuzz: ## every fuzz target for half a minute
	@for p in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$p | grep ^Fuzz); do \
	  echo "$$p $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime 30s $$p || exit 1; done; done
