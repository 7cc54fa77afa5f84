//go:build cuda

package telemetry

import (
	"fmt"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"surgeon/engine/report"
)

// period of the samples. The driver renews its own figures a few times a second; asking takes it some milliseconds.
const period = time.Second

// NVML is the driver's library after its Init has succeeded.
type NVML struct {
	nvml         nvml.Interface
	driver, cuda string
	reasons      bool // the library can tell why clocks are low
}

// Open finds the library. The error is a sentence that says why it tells nothing.
func Open() (*NVML, error) { return open(nvml.New()) }

func open(n nvml.Interface) (*NVML, error) {
	if r := n.Init(); r != nvml.SUCCESS {
		if r == nvml.ERROR_LIBRARY_NOT_FOUND {
			return nil, fmt.Errorf("NVML, libnvidia-ml.so.1, is not found; a container needs NVIDIA_DRIVER_CAPABILITIES=compute,utility")
		}
		return nil, fmt.Errorf("NVML does not start: %v", r)
	}
	l := &NVML{nvml: n}
	if v, r := n.SystemGetDriverVersion(); r == nvml.SUCCESS {
		l.driver = v
	}
	if v, r := n.SystemGetCudaDriverVersion(); r == nvml.SUCCESS {
		l.cuda = fmt.Sprintf("%d.%d", v/1000, v%1000/10)
	}
	l.reasons = n.Extensions().LookupSymbol("nvmlDeviceGetCurrentClocksEventReasons") == nil // since driver 535
	return l, nil
}

// Close gives the library back. No Watch may be running.
func (l *NVML) Close() { l.nvml.Shutdown() }

// Now is one sample of the GPU at a place on the bus, "0000:1b:00.0".
func (l *NVML) Now(pci string) (*report.GPU, error) {
	d, err := l.find(pci)
	if err != nil {
		return nil, err
	}
	d.sample()
	return d.summary(), nil
}

// Watch samples a GPU until it is stopped.
type Watch struct {
	mu      sync.Mutex
	gpu     *gpu
	stop    chan struct{}
	stopped sync.WaitGroup
}

// Watch begins to sample the GPU at a place on the bus.
func (l *NVML) Watch(pci string) (*Watch, error) { return l.watch(pci, period) }

func (l *NVML) watch(pci string, every time.Duration) (*Watch, error) {
	d, err := l.find(pci)
	if err != nil {
		return nil, err
	}
	w := &Watch{gpu: d, stop: make(chan struct{})}
	w.stopped.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			w.mu.Lock()
			w.gpu.sample()
			w.mu.Unlock()
			select {
			case <-w.stop:
				return
			case <-tick.C:
			}
		}
	})
	return w, nil
}

// GPU is what was seen so far; nil as long as that is nothing.
func (w *Watch) GPU() *report.GPU {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gpu.samples == 0 {
		return nil
	}
	return w.gpu.summary()
}

// Stop ends the sampling and waits for its end.
func (w *Watch) Stop() {
	close(w.stop)
	w.stopped.Wait()
}
