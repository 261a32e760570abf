# make prints its targets.
.DEFAULT_GOAL := help

help: ## print the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## build ./carillon
	go build -o carillon ./cmd/carillon

demo: ## the whole story in one command
	go run ./cmd/carillon demo

test: ## every test that needs only Go
	go test ./...

race: ## the same under the race detector
	go test -race ./...

lint: ## formatting, vet, staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "not gofmt-clean"; exit 1; }
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK) ./...

fuzz: ## every fuzz target for FUZZTIME (10s)
	@bash .ci/fuzz $(or $(FUZZTIME),10s)

bench: ## every bar once; see bench/README.md
	go test ./bench -run - -bench 'Walk|FanOut' -benchtime 200000x -timeout 20m
	go test ./bench -run - -bench 'TLS|Signed|Batch|Uninterested' -benchtime 100000x -timeout 20m
	go test ./bench -run - -bench Latency -benchtime 2000x
	go test ./bench -run - -bench History -benchtime 300x
	go test ./bench -run - -bench 'Idle|DeadHandler|HalfDead|Drain|Recovery|MLflow' -benchtime 1x -timeout 20m
	go test ./internal/filter -run - -bench 'Match$$/subs=(100|100000)$$/op=mixed/hits=10/event=1KB' -benchtime 1s

interop: ## real Azure SDKs against the true binary; needs Python 3 and Node
	bash interop/run

STATICCHECK = v0.8.2

.PHONY: help build demo test race lint fuzz bench interop
