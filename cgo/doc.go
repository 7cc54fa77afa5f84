// Package cuda is the device on an NVIDIA GPU: device.Device by hand-written kernels (folder kernels), cuBLAS, cuBLASLt and cuSOLVER.
//
// It is there in builds with the tag cuda, which `make cuda` makes; without it the package builds, and Open says how to get
// one. gorgonia.org/cu reaches devices, contexts, memory, streams and events of the driver; what it lacks – pinned memory,
// launchers, libraries – comes through kernels/kernels.h.
//
// # How a call travels
//
//	engine ── Device.Gram ── shape checks of package device, panics on misuse
//	            │ run("Gram", …): nothing after a failure; this thread's context; the code of the launcher
//	            └─ surgeon_gram (kernels/gram.cu) ── queued on the one stream; the call returns
//
// There is one stream, so operations take effect in the order of the calls, and freed memory can be given out again at once.
// Only Download, Diagonal, FirstNonFinite, Cholesky, Eigh, EighBatch, Histogram, Compare, Smallest with marks, Sample and Sync wait.
// Bits are the same at every run on one kind of GPU: no sum is made in an order that depends on chance.
//
// An H100 runs some kernels that older GPUs lack the instructions for. SURGEON_CUDA_CAPABILITY=80 gives it those of an A100.
//
// # Failure
//
// The first call that fails is remembered with its name and code; later calls do nothing, Alloc hands out tensors without
// memory, and Sync reports. A kernel's own fault shows only when something waits: then the name is that of the call that
// noticed. SURGEON_CUDA_SYNC=1 makes every call wait, so that the name is right, and prints at the end how long
// each operation took, and in how many steps.
package cuda
