package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"surgeon/engine"
	"surgeon/engine/device"
	"surgeon/engine/report"
)

type planCommand struct {
	runFlags `embed:""`
}

// Help stands below the summary in --help.
func (*planCommand) Help() string {
	return `Takes the arguments of prune, reads the model to see that its weights are finite, and measures for some seconds on the device, with random weights of the model's shapes. Disks are not measured. Nothing is written.`
}

func (c *planCommand) Run(s *session) error {
	o := c.options(s)
	if o.Output == "" { // a plan may be asked for before there is a name; this one has so many digits that it is free
		o.Output = filepath.Join(os.TempDir(), fmt.Sprintf("surgeon-plan-%016x", rand.Uint64()))
	}
	return plan(s, c.runFlags, o, false)
}

// plan tells what a run would need and, for a dry run, what it would write. Everything that prune would refuse before it
// begins is refused here.
func plan(s *session, flags runFlags, o engine.Options, dry bool) error {
	dev, err := s.open(flags.common, 0)
	if err != nil {
		return err
	}
	p, err := engine.Plan(s.ctx, dev, o, s.watcher)
	if err != nil {
		return err
	}
	if o, err = o.Checked(); err != nil { // for what a preset, and the name of the output, stand for
		return err
	}
	if dry {
		if err := p.CheckDisk(); err != nil {
			return err
		}
	}
	var b strings.Builder
	if flags.JSON {
		if err := writeJSON(&b, p); err != nil {
			return fmt.Errorf("the plan: %w", err)
		}
		return s.print(b.String())
	}
	planText(&b, p, dev.Memory(), report.ThisMachine("").MemoryBytes, o.Shots)
	if dry {
		until := " until it is done"
		if o.KeepsWork() {
			until = ""
		}
		fmt.Fprintf(&b, "\nEverything is in order, and nothing was written. The run would write %s, and keep its shots in %s%s.\n", strings.Join(o.Outputs(), ", "), o.Work, until)
	}
	return s.print(b.String())
}

// planText writes the plan for a device of memory m in a machine with so many bytes of main memory, 0 where that is not known.
func planText(b *strings.Builder, p *engine.PlanReport, m device.Memory, machine int64, shots int) {
	fmt.Fprintf(b, "%s, %s and %d held out, of %d tokens, %d at one time, on %s\n\n",
		report.Counted(shots, "shot"), report.Counted(p.Windows, "window"), p.HeldOut, p.Length, p.Batch, p.Device)
	for _, t := range p.Texts {
		fmt.Fprintf(b, "  %s: %s and %d held out\n", t.Name, report.Counted(t.Windows, "window"), t.HeldOut)
	}
	if len(p.Texts) > 0 {
		fmt.Fprintln(b)
	}
	if m.Host {
		memoryText(b, "memory", p.Memory, p.PeakHostBytes)
	} else {
		places := map[string][]engine.PlanPart{}
		for _, part := range p.Memory {
			places[part.Place] = append(places[part.Place], part)
		}
		memoryText(b, "memory of the device", places[engine.OnDevice], p.PeakDeviceBytes)
		if m.Total > 0 { // what does not fit is refused before there is a plan
			row(b, "of", m.Total)
		}
		fmt.Fprintln(b)
		memoryText(b, "main memory", places[engine.OnHost], p.PeakHostBytes)
	}
	if machine > 0 && p.PeakHostBytes > machine {
		fmt.Fprintf(b, "  This is more than the %s of this machine.\n", report.Gibibytes(machine))
	}
	fmt.Fprintf(b, "\n%-52s%12s\n", "disk", "MiB")
	for _, part := range p.Disk {
		row(b, part.Name, part.Bytes)
	}
	fmt.Fprintf(b, "\n%-52s%12s\n", "time", "")
	for _, stage := range p.Stages {
		fmt.Fprintf(b, "  %-50s%12s\n", stage.Name, spell(seconds(stage.Seconds)))
	}
	fmt.Fprintf(b, "  %-50s%12s\n", "all", spell(seconds(p.Seconds)))
}

func row(b *strings.Builder, name string, bytes int64) {
	fmt.Fprintf(b, "  %-50s%12.1f\n", name, float64(bytes)/(1<<20))
}

// memoryText is the table of one memory.
func memoryText(b *strings.Builder, title string, parts []engine.PlanPart, peak int64) {
	fmt.Fprintf(b, "%-52s%12s\n", title, "MiB")
	for _, part := range parts {
		name := part.Name
		if part.Phase != "" {
			name += ", during " + part.Phase
		}
		row(b, name, part.Bytes)
	}
	row(b, "at most at one time", peak)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
