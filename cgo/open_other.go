//go:build !cuda

package cuda

import "surgeon/engine/device"

// Built says whether this build can open a GPU.
const Built = false

var notBuilt = &Unavailable{"this build of surgeon has no CUDA; `make cuda` makes bin/surgeon-cuda, which has it (nvcc is fetched where there is no CUDA toolkit, and no GPU is needed to build)"}

// Open opens the GPU with that number.
func Open(ordinal int, o Options) (device.Device, error) { return nil, notBuilt }

// Devices lists the GPUs.
func Devices() ([]Info, error) { return nil, notBuilt }
