package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// GPU is the GPU of a run, and what it did: its driver tells that about once a second. All of it is of the process that
// finished the run.
type GPU struct {
	Name        string `json:"name"`
	PCI         string `json:"pci"` // its place on the bus
	Driver      string `json:"driver_version"`
	CUDA        string `json:"cuda_version"` // the newest that the driver knows: "13.0"
	MemoryBytes int64  `json:"memory_bytes"`

	PowerLimit *float64 `json:"power_limit_watts"`

	Samples     int    `json:"samples"`
	Power       *Range `json:"power_watts"`
	SMClock     *Range `json:"sm_clock_mhz"`
	MemoryClock *Range `json:"memory_clock_mhz"`
	Utilisation *Range `json:"utilisation_percent"` // of the time, that some kernel ran
	MemoryUsed  *Range `json:"memory_used_bytes"`   // by all processes together
	Temperature *Range `json:"temperature_celsius"`

	// SlowedDown is, for each reason why clocks were lower than they could be, the share of samples with it; nil where the
	// driver does not tell.
	SlowedDown map[string]float64 `json:"slowed_down"`
}

// Range is a figure over the samples.
type Range struct {
	Mean float64 `json:"mean"`
	Min  float64 `json:"min"`
	Max  float64 `json:"max"`
}

// Now is what the GPU does at this moment, for a GPU with one sample: "71 W, limit 700 W; busy 0 %; …".
func (g *GPU) Now() string {
	return g.words(func(r *Range, scale float64, unit string) string { return fmt.Sprintf("%.0f%s", r.Mean*scale, unit) })
}

// During is what the GPU did: "612 W on average (75 to 702), limit 700 W; …".
func (g *GPU) During() string {
	return g.words(func(r *Range, scale float64, unit string) string {
		if r.Min == r.Max {
			return fmt.Sprintf("%.0f%s", r.Mean*scale, unit)
		}
		return fmt.Sprintf("%.0f%s on average (%.0f to %.0f)", r.Mean*scale, unit, r.Min*scale, r.Max*scale)
	})
}

func (g *GPU) words(figure func(r *Range, scale float64, unit string) string) string {
	var parts []string
	add := func(r *Range, scale float64, unit, before, after string) {
		if r != nil {
			parts = append(parts, before+figure(r, scale, unit)+after)
		}
	}
	limit := ""
	if g.PowerLimit != nil {
		limit = fmt.Sprintf(", limit %.0f W", *g.PowerLimit)
	}
	add(g.Power, 1, " W", "", limit)
	add(g.Utilisation, 1, " %", "busy ", "")
	add(g.SMClock, 1, " MHz", "SM ", "")
	add(g.MemoryClock, 1, " MHz", "memory ", "")
	add(g.MemoryUsed, 1./(1<<20), " MiB", "", " in use")
	add(g.Temperature, 1, " °C", "", "")
	for _, reason := range slices.Sorted(maps.Keys(g.SlowedDown)) {
		share := ""
		if g.Samples > 1 {
			share = fmt.Sprintf(" (%.0f %% of the time)", 100*g.SlowedDown[reason])
		}
		parts = append(parts, "slowed down: "+reason+share)
	}
	return strings.Join(parts, "; ")
}
