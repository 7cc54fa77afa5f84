// Package telemetry reads what NVIDIA's driver tells about a GPU – power, clocks, temperature, and why it runs slower than
// it could – through NVML, with github.com/NVIDIA/go-nvml. Builds without the tag cuda have only an Open that fails.
//
// # The gate
//
// go-nvml finds NVML when Init is called. Any other call before that, or after an Init that failed, jumps to nowhere and
// ends the process; so does a function that an older driver lacks. Hence Open is the only way to an NVML, it hands one out
// only after Init has succeeded, and every function that has not been in all drivers of the last ten years is looked up
// before it is called.
//
// The package is apart from package cuda because go-nvml has the linker accept undefined symbols, of anything: what is
// linked without this package, such as the tests of package cuda, still finds a launcher that was forgotten.
package telemetry
