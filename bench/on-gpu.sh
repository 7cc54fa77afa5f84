#!/bin/sh
# What only a GPU can show, on a machine that has one and need not have Go: the programs are built elsewhere,
#
#   make cuda build/cuda/cuda.test
#
# and this is run from the root of the repository, or of a copy with testdata, build/cuda/cuda.test and bin/surgeon-cuda.
# usage: on-gpu.sh OUT STEP…      everything printed is kept in OUT/STEP.txt
#
#   parity      every operation against the CPU, golden cases, whole runs of tiny models
#   memcheck    the operations under compute-sanitizer: reads and writes outside of what was allocated
#   racecheck   the same: shared memory that is read and written without a barrier. It is slow, most of all with the kernels of NVIDIA's
#               libraries: operations are left out that have none of ours with shared memory which others do not have too
#   bench       operations and shots at real shapes, into bench/results (cuda.sh)
#   older       Gram matrices and attention's backward pass by the kernels of an A100, to be set beside those of bench on an H100
#   real        the real model against the run of the CPU; needs SURGEON_SMOLLM2 and SURGEON_WIKITEXT
set -u
out=$1
shift
mkdir -p "$out"
export REQUIRE_CUDA=1
export LD_LIBRARY_PATH="$PWD/.cuda/nvidia/cu13/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" # where there is no CUDA 13 in /usr/local
tests=./build/cuda/cuda.test
failed=0
step() { # step NAME COMMAND…
  name=$1
  shift
  start=$(date +%s)
  {
    echo "\$ $*"
    bin/surgeon-cuda --version
    nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit --format=csv,noheader
  } >"$out/$name.txt"
  if "$@" >>"$out/$name.txt" 2>&1; then echo "passed $name ($(($(date +%s) - start)) s)"; else
    echo "FAILED $name"
    failed=1
  fi
  tail -n "${TAIL:-12}" "$out/$name.txt"
}
sanitizer() { # sanitizer TOOL OPTION…
  tool=$1
  shift
  SURGEON_CUDA_EXACT=1 compute-sanitizer --tool "$tool" --error-exitcode 9 "$tests" -test.v -test.run "${OPERATIONS:-TestParity}" "$@" -test.timeout 9m
}
libraries='TestParity/(Gemm|Linear|Eigh.*_warm)'
for s in "$@"; do
  case $s in
  parity) step parity "$tests" -test.v -test.timeout 9m -test.skip SmolLM2 ;;
  memcheck) step memcheck sanitizer memcheck ;;
  racecheck) step racecheck sanitizer racecheck -test.skip "$libraries" ;;
  bench) step bench bench/cuda.sh bin/surgeon-cuda ;;
  older) step older env SURGEON_CUDA_CAPABILITY=80 bin/surgeon-cuda bench ops --device cuda:0 --filter '^(Gram|AttentionBackward)' --go ;;
  real) step real "$tests" -test.v -test.timeout 9m -test.run SmolLM2 ;;
  *) echo "on-gpu.sh: no step is called $s" && exit 2 ;;
  esac
done
exit $failed
