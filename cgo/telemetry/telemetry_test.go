//go:build cuda

package telemetry

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
	"github.com/google/go-cmp/cmp"

	"surgeon/engine/report"
)

// dgx is a machine of eight GPUs that tell what they are, and, once tell has been called for one, what it does.
func dgx() *server.Server { return dgxh100.New() }

const second = "0000:01:00.0" // the second of them

// figures are what a GPU tells about one moment.
type figures struct {
	milliwatts, sm, memory, celsius uint32
	busy                            uint32
	used, reasons                   uint64
}

// tell lets the second GPU of the machine tell now().
func tell(m *server.Server, now func() figures) *server.Device {
	d := m.Devices[1].(*server.Device)
	total := uint64(80) << 30
	d.GetEnforcedPowerLimitFunc = func() (uint32, nvml.Return) { return 700_000, nvml.SUCCESS }
	d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return now().milliwatts, nvml.SUCCESS }
	d.GetClockInfoFunc = func(of nvml.ClockType) (uint32, nvml.Return) {
		switch of {
		case nvml.CLOCK_SM:
			return now().sm, nvml.SUCCESS
		case nvml.CLOCK_MEM:
			return now().memory, nvml.SUCCESS
		}
		return 0, nvml.ERROR_INVALID_ARGUMENT
	}
	d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) {
		return nvml.Utilization{Gpu: now().busy, Memory: 1}, nvml.SUCCESS
	}
	d.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) {
		return nvml.Memory{Total: total, Used: now().used, Free: total - now().used}, nvml.SUCCESS
	}
	d.GetTemperatureFunc = func(nvml.TemperatureSensors) (uint32, nvml.Return) { return now().celsius, nvml.SUCCESS }
	d.GetCurrentClocksEventReasonsFunc = func() (uint64, nvml.Return) { return now().reasons, nvml.SUCCESS }
	return d
}

func constant(x float64) *report.Range { return &report.Range{Mean: x, Min: x, Max: x} }

// What would be caught: a call after an Init that failed, which ends the process. Every method of this NVML but Init panics.
func TestNothingIsCalledAfterAFailedInit(t *testing.T) {
	for _, r := range []nvml.Return{nvml.ERROR_LIBRARY_NOT_FOUND, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH, nvml.ERROR_NO_PERMISSION} {
		closed := &mock.Interface{InitFunc: func() nvml.Return { return r }}
		l, err := open(closed)
		if l != nil || err == nil || !strings.HasPrefix(err.Error(), "NVML") {
			t.Errorf("%v: %v, %v", r, l, err)
		}
		if n := len(closed.InitCalls()); n != 1 {
			t.Errorf("%v: Init was called %d times", r, n)
		}
	}
}

// What would be caught: the real library, looked for where there is none, ending this process.
func TestThisMachine(t *testing.T) {
	l, err := Open()
	if err != nil {
		t.Logf("no NVML here, told as: %v", err)
		return
	}
	defer l.Close()
	if l.driver == "" || l.cuda == "" {
		t.Errorf("driver %q for CUDA %q", l.driver, l.cuda)
	}
}

// What would be caught: a figure in the wrong field or unit, another GPU's figures, a reason with the name of another.
func TestNow(t *testing.T) {
	machine := dgx()
	tell(machine, func() figures {
		return figures{milliwatts: 612_500, sm: 1755, memory: 2619, celsius: 61, busy: 98, used: 60 << 30,
			reasons: nvml.ClocksEventReasonSwPowerCap | nvml.ClocksThrottleReasonHwThermalSlowdown | 1<<40}
	})
	l, err := open(machine)
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Now(second)
	if err != nil {
		t.Fatal(err)
	}
	limit := 700.
	want := &report.GPU{Name: machine.Devices[1].(*server.Device).Config.Name, PCI: second, Driver: machine.DriverVersion, CUDA: "12.4", MemoryBytes: 80 << 30, PowerLimit: &limit,
		Samples: 1, Power: constant(612.5), SMClock: constant(1755), MemoryClock: constant(2619), Utilisation: constant(98), MemoryUsed: constant(60 << 30), Temperature: constant(61),
		SlowedDown: map[string]float64{"power limit": 1, "temperature, hardware slowdown": 1, "unknown reason 0x10000000000": 1}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := l.Now("0000:77:00.0"); err == nil || !strings.Contains(err.Error(), "0000:77:00.0") {
		t.Errorf("a GPU that is not there: %v", err)
	}
	l.Close()
	if n := len(machine.ShutdownCalls()); n != 1 {
		t.Errorf("%d calls of Shutdown", n)
	}
}

// What would be caught: a zero where the GPU tells nothing, a function called that an older driver lacks (here it panics), a
// GPU lost in the middle of a run that spoils what was seen before.
func TestWhatIsNotTold(t *testing.T) {
	machine := dgx()
	machine.LookupSymbolFunc = func(name string) error {
		if name == "nvmlDeviceGetCurrentClocksEventReasons" {
			return nvml.ERROR_FUNCTION_NOT_FOUND
		}
		return nil
	}
	lost := false
	d := tell(machine, func() figures { return figures{milliwatts: 100_000, sm: 1000} })
	d.GetCurrentClocksEventReasonsFunc = nil
	d.GetEnforcedPowerLimitFunc = func() (uint32, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
	d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, nvml.ERROR_NOT_SUPPORTED }
	d.GetPowerUsageFunc = func() (uint32, nvml.Return) {
		if lost {
			return 0, nvml.ERROR_GPU_IS_LOST
		}
		return 100_000, nvml.SUCCESS
	}
	l, err := open(machine)
	if err != nil {
		t.Fatal(err)
	}
	g, err := l.find(second)
	if err != nil {
		t.Fatal(err)
	}
	g.sample()
	lost = true
	g.sample()
	got := g.summary()
	if got.PowerLimit != nil || got.Utilisation != nil || got.SlowedDown != nil {
		t.Errorf("told all the same: %+v", got)
	}
	if d := cmp.Diff(constant(100), got.Power); d != "" {
		t.Error(d)
	}
}

// What would be caught: a wrong mean, share or number of samples, a watch that goes on after Stop (the bubble would not
// end), or that disturbs who asks meanwhile (with -race).
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		machine := dgx()
		start := time.Now()
		tell(machine, func() figures { // seconds 0 to 9: 100 W, 110 W, …; held back by the power limit from second 6 on
			n := uint32(time.Since(start) / time.Second)
			f := figures{milliwatts: 100_000 + 10_000*n, sm: 1980 - n, memory: 2619, celsius: 40 + n, busy: 100, used: 1 << 30, reasons: nvml.ClocksEventReasonGpuIdle}
			if n >= 6 {
				f.reasons = nvml.ClocksEventReasonSwPowerCap
			}
			return f
		})
		l, err := open(machine)
		if err != nil {
			t.Fatal(err)
		}
		w, err := l.Watch(second)
		if err != nil {
			t.Fatal(err)
		}
		for range 9 {
			time.Sleep(time.Second)
			w.GPU()
		}
		synctest.Wait()
		w.Stop()
		got := w.GPU()
		want := *got
		want.Samples = 10
		want.Power, want.SMClock, want.Temperature = &report.Range{Mean: 145, Min: 100, Max: 190}, &report.Range{Mean: 1975.5, Min: 1971, Max: 1980}, &report.Range{Mean: 44.5, Min: 40, Max: 49}
		want.SlowedDown = map[string]float64{"power limit": 0.4}
		if d := cmp.Diff(&want, got); d != "" {
			t.Error(d)
		}
		time.Sleep(time.Minute)
		if n := w.GPU().Samples; n != 10 {
			t.Errorf("%d samples a minute after Stop", n)
		}
	})
}
