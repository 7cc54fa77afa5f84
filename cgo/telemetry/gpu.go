//go:build cuda

package telemetry

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"surgeon/engine/report"
)

// gpu is one GPU and the sums over its samples: a run of days needs no more memory than one of seconds.
type gpu struct {
	device nvml.Device
	fixed  report.GPU // what does not change
	tells  bool       // why clocks are low

	samples                                                           int
	power, smClock, memoryClock, utilisation, memoryUsed, temperature series
	told                                                              int            // samples with reasons for low clocks
	slowed                                                            map[string]int // how many of them had each reason
}

func (l *NVML) find(pci string) (*gpu, error) {
	d, r := l.nvml.DeviceGetHandleByPciBusId(pci)
	if r != nvml.SUCCESS {
		return nil, fmt.Errorf("NVML does not know the GPU at %s: %v", pci, r)
	}
	g := &gpu{device: d, tells: l.reasons, slowed: map[string]int{}, fixed: report.GPU{PCI: pci, Driver: l.driver, CUDA: l.cuda}}
	if name, r := d.GetName(); r == nvml.SUCCESS {
		g.fixed.Name = name
	}
	if m, r := d.GetMemoryInfo(); r == nvml.SUCCESS {
		g.fixed.MemoryBytes = int64(m.Total)
	}
	if milliwatts, r := d.GetEnforcedPowerLimit(); r == nvml.SUCCESS {
		watts := float64(milliwatts) / 1e3
		g.fixed.PowerLimit = &watts
	}
	return g, nil
}

// sample asks for every figure once. What a GPU does not tell (a part of a divided one, one that was lost) is left out.
func (g *gpu) sample() {
	g.samples++
	if milliwatts, r := g.device.GetPowerUsage(); r == nvml.SUCCESS {
		g.power.add(float64(milliwatts) / 1e3)
	}
	if mhz, r := g.device.GetClockInfo(nvml.CLOCK_SM); r == nvml.SUCCESS {
		g.smClock.add(float64(mhz))
	}
	if mhz, r := g.device.GetClockInfo(nvml.CLOCK_MEM); r == nvml.SUCCESS {
		g.memoryClock.add(float64(mhz))
	}
	if u, r := g.device.GetUtilizationRates(); r == nvml.SUCCESS {
		g.utilisation.add(float64(u.Gpu))
	}
	if m, r := g.device.GetMemoryInfo(); r == nvml.SUCCESS {
		g.memoryUsed.add(float64(m.Used))
	}
	// Its successor GetTemperatureV is missing from older drivers.
	if celsius, r := g.device.GetTemperature(nvml.TEMPERATURE_GPU); r == nvml.SUCCESS {
		g.temperature.add(float64(celsius))
	}
	if !g.tells {
		return
	}
	if bits, r := g.device.GetCurrentClocksEventReasons(); r == nvml.SUCCESS {
		g.told++
		for _, reason := range reasonsOf(bits) {
			g.slowed[reason]++
		}
	}
}

func (g *gpu) summary() *report.GPU {
	s := g.fixed
	s.Samples = g.samples
	s.Power, s.SMClock, s.MemoryClock = g.power.summary(), g.smClock.summary(), g.memoryClock.summary()
	s.Utilisation, s.MemoryUsed, s.Temperature = g.utilisation.summary(), g.memoryUsed.summary(), g.temperature.summary()
	if g.told > 0 {
		s.SlowedDown = map[string]float64{}
		for reason, n := range g.slowed {
			s.SlowedDown[reason] = float64(n) / float64(g.told)
		}
	}
	return &s
}

// reasonsOf names the bits for clocks below what they could be. That nothing is to be done, bit 0, is none.
func reasonsOf(bits uint64) []string {
	names := []struct {
		bit  uint64
		name string
	}{
		{nvml.ClocksEventReasonApplicationsClocksSetting, "clocks set by the user"},
		{nvml.ClocksEventReasonSwPowerCap, "power limit"},
		{nvml.ClocksThrottleReasonHwSlowdown, "hardware slowdown"},
		{nvml.ClocksEventReasonSyncBoost, "clocks tied to another GPU"},
		{nvml.ClocksEventReasonSwThermalSlowdown, "temperature"},
		{nvml.ClocksThrottleReasonHwThermalSlowdown, "temperature, hardware slowdown"},
		{nvml.ClocksThrottleReasonHwPowerBrakeSlowdown, "power brake"},
		{nvml.ClocksEventReasonDisplayClockSetting, "display clocks"},
		{nvml.ClocksEventReasonBoardLimit, "board limit"},
		{nvml.ClocksEventReasonReliability, "reliability"},
	}
	bits &^= nvml.ClocksEventReasonGpuIdle
	var all []string
	for _, n := range names {
		if bits&n.bit != 0 {
			all = append(all, n.name)
			bits &^= n.bit
		}
	}
	if bits != 0 {
		all = append(all, fmt.Sprintf("unknown reason %#x", bits))
	}
	return all
}

// series is a figure over the samples.
type series struct {
	n             int
	sum, min, max float64
}

func (s *series) add(x float64) {
	if s.n == 0 {
		s.min, s.max = x, x
	}
	s.n++
	s.sum += x
	s.min, s.max = min(s.min, x), max(s.max, x)
}

// summary is nil where nothing was added.
func (s *series) summary() *report.Range {
	if s.n == 0 {
		return nil
	}
	return &report.Range{Mean: s.sum / float64(s.n), Min: s.min, Max: s.max}
}
