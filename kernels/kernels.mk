# How the kernels are built: by nvcc for GPUs, or by g++ for the emulated device. Included by the Makefile.
#
#   CUDA_HOME   the toolkit: as set, else /usr/local/cuda where that has nvcc 13, else .cuda, which `make toolkit` fills

TOOLKIT    = .cuda/nvidia/cu13
CUDA_HOME ?= $(if $(shell /usr/local/cuda/bin/nvcc --version 2>/dev/null | grep 'release 13'),/usr/local/cuda,$(CURDIR)/$(TOOLKIT))
CUDA_LIB   = $(firstword $(wildcard $(CUDA_HOME)/lib64) $(CUDA_HOME)/lib)

# Wheels of the toolkit, without their dependencies: compiler, headers, and the libraries that the program is linked with.
WHEELS = nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 \
         nvidia-cuda-nvrtc==13.0.88 nvidia-cublas==13.1.0.3 nvidia-cusolver==12.0.4.66 nvidia-cusparse==12.6.3.3 nvidia-nvjitlink==13.0.88

.PHONY: toolkit cuda check-cuda lint-cuda test-emu test-cuda emu-there

toolkit: $(CUDA_HOME)/include/cuda.h
$(CURDIR)/$(TOOLKIT)/include/cuda.h:
	@echo "fetching nvcc 13.0, its headers and libraries into .cuda (about 2 GB)"
	@rm -rf .cuda && python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target .cuda $(WHEELS)

KERNELS    = $(basename $(notdir $(wildcard kernels/*.cu)))
LIBRARIES  = $(basename $(notdir $(wildcard kernels/*.cpp)))
HEADERS    = $(wildcard kernels/*.h kernels/*.cuh kernels/emu/*.h kernels/driver/*.h)

# sm_80 and sm_90 as machine code, and PTX from which a driver makes code for what comes later.
NVCC       = $(CUDA_HOME)/bin/nvcc
ARCHS      = -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 -gencode arch=compute_90,code=compute_90
NVCCFLAGS  = -O3 -std=c++17 -lineinfo $(ARCHS) --threads 0 -Xcompiler -fPIC,-Wall -Xptxas -warn-spills -Werror all-warnings
# What only compute capability 9.0 has, its own instructions: no GPU after it has them.
WARPGROUPS = $(patsubst kernels/%.cu,build/cuda/%.o,$(wildcard kernels/*_warpgroup.cu))
$(WARPGROUPS): ARCHS = -gencode arch=compute_90a,code=sm_90a
HOSTFLAGS  = -O2 -std=c++17 -fPIC -Wall -Werror -I$(CUDA_HOME)/include

.DELETE_ON_ERROR:

build/cuda/%.o: kernels/%.cu $(HEADERS) | $(CUDA_HOME)/include/cuda.h
	@mkdir -p $(@D)
	$(NVCC) $(NVCCFLAGS) -c $< -o $@
build/cuda/%.o: kernels/%.cpp $(HEADERS) | $(CUDA_HOME)/include/cuda.h
	@mkdir -p $(@D)
	$(CXX) $(HOSTFLAGS) -c $< -o $@
build/cuda/libsurgeon_kernels.a: $(KERNELS:%=build/cuda/%.o) $(LIBRARIES:%=build/cuda/%.o)
	rm -f $@ && $(AR) rcs $@ $^

# The driver's functions, each a jump through a table that is filled at start: see driver/driver.c.
build/%/trampolines.S: kernels/driver/trampolines.sh kernels/driver/cuda.h | $(CUDA_HOME)/include/cuda.h
	@mkdir -p $(@D)
	sh kernels/driver/trampolines.sh $(CC) -Ikernels/driver -I$(CUDA_HOME)/include >$@
build/%/trampolines.o: build/%/trampolines.S
	$(CC) -c -fPIC $< -o $@
build/cuda/driver.o build/emu/driver.o: kernels/driver/driver.c $(HEADERS)
	$(CC) -O2 -fPIC -Wall -Werror -c $< -o $@
build/cuda/libcuda.o: kernels/driver/libcuda.c $(HEADERS)
	$(CC) -O2 -fPIC -Wall -Werror -c $< -o $@
build/cuda/libcuda.a: build/cuda/trampolines.o build/cuda/driver.o build/cuda/libcuda.o
	rm -f $@ && $(AR) rcs $@ $^

# What cgo needs to compile and link with either. Go looks for changes in a package's own directory, and kernels.h is beside it: its checksum tells.
CGO_CUDA = CGO_ENABLED=1 CGO_CFLAGS="-O2 -Wno-deprecated-declarations -I$(CURDIR)/kernels/driver -I$(CUDA_HOME)/include -DSURGEON_KERNELS=$(firstword $(shell cksum kernels/kernels.h))"
# The libraries are looked for in the toolkit of this checkout, from bin and from build/cuda, then where CUDA is usually. lazy:
# NVML's functions are bound when they are called, after it was found; some compilers bind everything at the start. Symbols
# of the archives stay inside the program: its stand-ins for the driver are not for the driver's own libraries.
LINK_CUDA = $(CGO_CUDA) CGO_LDFLAGS="-L$(CURDIR)/build/cuda -L$(CUDA_LIB) -Wl,-z,lazy -Wl,--exclude-libs,ALL -Wl,-rpath,\$$ORIGIN/../$(TOOLKIT)/lib -Wl,-rpath,\$$ORIGIN/../../$(TOOLKIT)/lib -Wl,-rpath,/usr/local/cuda/lib64 \
  -lsurgeon_kernels $(CUDA_LIB)/libcudart_static.a -l:libcublas.so.13 -l:libcublasLt.so.13 -l:libcusolver.so.12 -Wl,-rpath-link,$(CUDA_LIB) -lstdc++ -lrt -lpthread -ldl -lm"

# go-nvml makes the linker accept what is undefined, so that must be looked for afterwards. Names without a version (@) are in
# no library; only NVML may have such.
cuda: build/cuda/libsurgeon_kernels.a build/cuda/libcuda.a
	@rm -f bin/surgeon-cuda # go build looks at Go files alone to see whether a program is up to date, not at the kernels
	$(LINK_CUDA) $(GO) build -trimpath -tags cuda -ldflags "$(LDFLAGS)" -o bin/surgeon-cuda ./cmd/surgeon
	@if nm -D --undefined-only bin/surgeon-cuda | grep -v -e @ -e ' w ' -e ' U nvml'; then echo "the functions above are called and nowhere defined"; rm bin/surgeon-cuda; exit 1; fi

# What can be known of the program without running it.
CUOBJDUMP  = $(firstword $(wildcard $(CUDA_HOME)/bin/cuobjdump) $(CURDIR)/build/cuobjdump/nvidia/cu13/bin/cuobjdump)
$(CURDIR)/build/cuobjdump/nvidia/cu13/bin/cuobjdump:
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target build/cuobjdump nvidia-cuda-cuobjdump==13.2.51 nvidia-cuda-nvdisasm==13.2.51
check-cuda: cuda $(CUOBJDUMP)
	kernels/check-program.sh bin/surgeon-cuda $(CUOBJDUMP)
	kernels/check-registers.sh $(CUOBJDUMP) $(WARPGROUPS)
	CGO_ENABLED=0 SURGEON_CUDA_PROGRAM=$(CURDIR)/bin/surgeon-cuda $(GO) test -count 1 -v -run CUDAProgramWithout ./cmd/surgeon

lint-cuda: $(CUDA_HOME)/include/cuda.h
	$(CGO_CUDA) $(GO) vet -tags cuda ./cgo/... ./cmd/... ./bench/...
	$(CGO_CUDA) $(GO) tool staticcheck -tags cuda ./cgo/... ./cmd/... ./bench/...

RUN_CUDA = REQUIRE_CUDA=1 LD_LIBRARY_PATH=$(CUDA_LIB)$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}
# -v, here and below: tests that are left out say so, and how many parity cases ran.
test-cuda: build/cuda/libsurgeon_kernels.a build/cuda/libcuda.a
	$(LINK_CUDA) $(RUN_CUDA) kernels/few.sh $(GO) test -tags cuda -count 1 -v -timeout 60m ./cgo/...

# The emulated device. AddressSanitizer and UBSan look at the kernels; Go's own memory is none of their business.
# -Og takes half the time of -O1 to compile the large kernels, and what it makes is as fast; lines of a fault are in -g1 too.
SANITIZE  = -fsanitize=address,undefined -fno-sanitize-recover=undefined
EMUFLAGS  = -Og -g1 -std=c++17 -fPIC -Wall -Werror -Wno-unknown-pragmas -Wno-psabi -DSURGEON_EMU -I$(CUDA_HOME)/include $(SANITIZE)
EMULATION = $(basename $(notdir $(wildcard kernels/emu/*.cpp)))

emu-there:
	@printf '#include <boost/context/detail/fcontext.hpp>\nint main(){return 0;}\n' | $(CXX) -x c++ - -o /dev/null -fsanitize=address,undefined -lboost_context 2>/dev/null \
	  || { echo "the emulated device needs g++ with its sanitizers, and Boost.Context: on Debian or Ubuntu the packages g++ libboost-context-dev"; exit 1; }

build/emu/%.o: kernels/%.cu $(HEADERS) | $(CUDA_HOME)/include/cuda.h
	@mkdir -p $(@D)
	$(CXX) $(EMUFLAGS) -x c++ -c $< -o $@
build/emu/%.o: kernels/%.cpp $(HEADERS) | $(CUDA_HOME)/include/cuda.h
	@mkdir -p $(@D)
	$(CXX) $(EMUFLAGS) -c $< -o $@
# The stand-ins for NVIDIA's libraries do most of the arithmetic of a whole run, the scheduler is at work between any two barriers.
build/emu/emu_library.o build/emu/emu_lt.o build/emu/emu_emu.o: EMUFLAGS += -O3
build/emu/emu_%.o: kernels/emu/%.cpp $(HEADERS) | $(CUDA_HOME)/include/cuda.h
	@mkdir -p $(@D)
	$(CXX) $(EMUFLAGS) -Ikernels/driver -c $< -o $@
build/emu/libsurgeon_kernels.a: $(KERNELS:%=build/emu/%.o) $(LIBRARIES:%=build/emu/%.o) $(EMULATION:%=build/emu/emu_%.o)
	rm -f $@ && $(AR) rcs $@ $^
# The program on the emulated device, for the tests of the command line.
build/emu/surgeon-cuda: build/emu/libsurgeon_kernels.a build/emu/libcuda.a $(shell find cgo cmd engine -name '*.go')
	@rm -f $@
	$(LINK_EMU) $(GO) build -tags cuda -ldflags "$(LDFLAGS)" -o $@ ./cmd/surgeon

build/emu/libcuda.a: build/emu/trampolines.o build/emu/driver.o build/emu/emu_driver.o
	rm -f $@ && $(AR) rcs $@ $^

LINK_EMU_WITH = $(CGO_CUDA) CGO_LDFLAGS="-L$(CURDIR)/$(1) -L$(CURDIR)/$(2) -Wl,-z,lazy $(3) -lsurgeon_kernels -lboost_context -lstdc++ -lpthread -ldl -lm"
LINK_EMU = $(call LINK_EMU_WITH,build/emu,build/emu,$(SANITIZE))
# Go does not free what it gives to C at the end, and handles faults itself.
RUN_EMU  = REQUIRE_CUDA=1 ASAN_OPTIONS=detect_leaks=0:handle_segv=0:allow_user_segv_handler=1 UBSAN_OPTIONS=print_stacktrace=1

test-emu: emu-there build/emu/libsurgeon_kernels.a build/emu/libcuda.a build/emu/surgeon-cuda
	@kernels/emu/halves.sh build/emu/parity.log '$(LINK_EMU) $(RUN_EMU) $(GO) test -tags cuda -count 1 -v -timeout 60m -run TestParity ./cgo' \
	  '$(LINK_EMU) $(RUN_EMU) $(GO) test -tags cuda -count 1 -v -timeout 60m -skip TestParity ./cgo/...'
	CGO_ENABLED=0 $(RUN_EMU) SURGEON_EMU_PROGRAM=$(CURDIR)/build/emu/surgeon-cuda $(GO) test -count 1 -v -run CUDAProgramOnAnEmulatedGPU ./cmd/surgeon

# The tests of the CUDA device as one program, to be carried to a machine with a GPU and without Go.
build/cuda/cuda.test: build/cuda/libsurgeon_kernels.a build/cuda/libcuda.a $(shell find cgo engine -name '*.go')
	@rm -f $@
	$(LINK_CUDA) $(GO) test -tags cuda -ldflags "-s -w" -c -o $@ ./cgo

# Faults planted in the kernels one by one, each of which the emulated device has to catch. The tests are linked with a shared
# library for this, so that only that is made anew for each.
EMU_OBJECTS = $(KERNELS:%=build/emu/%.o) $(LIBRARIES:%=build/emu/%.o) $(EMULATION:%=build/emu/emu_%.o)
EMU_SHARED  = $(CXX) -shared $(SANITIZE)
build/emu/shared/libsurgeon_kernels.so: $(EMU_OBJECTS)
	@mkdir -p $(@D)
	$(EMU_SHARED) $^ -lboost_context -o $@

.PHONY: test-faults
test-faults: emu-there build/emu/shared/libsurgeon_kernels.so build/emu/libcuda.a
	$(call LINK_EMU_WITH,build/emu/shared,build/emu,$(SANITIZE)) $(GO) test -tags cuda -c -o build/emu/faults.test ./cgo
	@EMU_COMPILE="$(CXX) $(EMUFLAGS) -g0" EMU_SHARED="$(EMU_SHARED)" EMU_OBJECTS="$(EMU_OBJECTS)" $(RUN_EMU) kernels/emu/faults.sh build/emu/faults.test kernels/emu/faults.txt

# The emulated device again, with a detector of races in place of AddressSanitizer: see emu/races.cpp.
RACEFLAGS = $(filter-out $(SANITIZE),$(EMUFLAGS)) -DSURGEON_EMU_RACES
RACES_KERNEL = $(CXX) $(RACEFLAGS) -fsanitize=thread --param tsan-instrument-func-entry-exit=0
build/races/%.o: kernels/%.cu $(HEADERS) | $(CUDA_HOME)/include/cuda.h
	@mkdir -p $(@D)
	$(RACES_KERNEL) -x c++ -c $< -o $@
build/races/%.o: kernels/%.cpp $(HEADERS) | $(CUDA_HOME)/include/cuda.h
	@mkdir -p $(@D)
	$(CXX) $(RACEFLAGS) -c $< -o $@
build/races/emu_races.o build/races/emu_library.o build/races/emu_lt.o build/races/emu_emu.o: RACEFLAGS += -O3
build/races/emu_%.o: kernels/emu/%.cpp $(HEADERS) | $(CUDA_HOME)/include/cuda.h
	@mkdir -p $(@D)
	$(CXX) $(RACEFLAGS) -Ikernels/driver -c $< -o $@
build/races/libcuda.a: build/emu/trampolines.o build/emu/driver.o build/races/emu_driver.o
	rm -f $@ && $(AR) rcs $@ $^

RACES_OBJECTS = $(EMU_OBJECTS:build/emu/%=build/races/%)
build/races/shared/libsurgeon_kernels.so: $(RACES_OBJECTS)
	@mkdir -p $(@D)
	$(CXX) -shared $^ -lboost_context -o $@

# The tests of single operations, in two halves that take about as long, then races that are planted. All with a shared library, as above.
RACE_TESTS = cd cgo && REQUIRE_CUDA=1 LD_LIBRARY_PATH=$(CURDIR)/build/races/shared $(CURDIR)/build/races/races.test -test.v -test.timeout 30m -test.run
.PHONY: test-races
test-races: emu-there build/races/shared/libsurgeon_kernels.so build/races/libcuda.a
	$(call LINK_EMU_WITH,build/races/shared,build/races,) $(GO) test -tags cuda -c -o build/races/races.test ./cgo
	@kernels/emu/halves.sh build/races/half.log '$(RACE_TESTS) "TestParity/^[A-D]|Versions|Many"' '$(RACE_TESTS) "TestParity/^[E-Z]|KernelsOf"'
	@EMU_COMPILE="$(RACES_KERNEL)" EMU_SHARED="$(CXX) -shared" EMU_OBJECTS="$(RACES_OBJECTS)" REQUIRE_CUDA=1 kernels/emu/faults.sh build/races/races.test kernels/emu/races.txt "emulated device: a race"
