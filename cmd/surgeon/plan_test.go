package main

import (
	"strings"
	"testing"

	"surgeon/engine"
	"surgeon/engine/device"
)

// What would be caught: parts told under the wrong memory, a peak without what it is a peak of, a machine that is too small
// and nobody is told.
func TestPlanText(t *testing.T) {
	p := &engine.PlanReport{Device: "cuda:0", Windows: 128, HeldOut: 16, Length: 2048, Batch: 4, PeakDeviceBytes: 70 << 30, PeakHostBytes: 40 << 30, Seconds: 60,
		Memory: []engine.PlanPart{
			{Name: "masters", Place: engine.OnHost, Bytes: 24 << 30},
			{Name: "weights", Place: engine.OnDevice, Bytes: 12 << 30},
			{Name: "factors", Phase: "curvature", Place: engine.OnDevice, Bytes: 32 << 30},
		},
		Disk:   []engine.DiskPart{{Name: "model", Bytes: 13 << 30}, {Name: "2 shots", Bytes: 48 << 30}},
		Stages: []engine.PlanStage{{Name: "load", Seconds: 60}},
	}
	text := func(m device.Memory, machine int64) string {
		var b strings.Builder
		planText(&b, p, m, machine, 20)
		return strings.Join(strings.Fields(b.String()), " ")
	}
	const head = "20 shots, 128 windows and 16 held out, of 2048 tokens, 4 at one time, on cuda:0 "
	const times = " disk MiB model 13312.0 2 shots 49152.0 time load 1 min 00 s all 1 min 00 s"
	for _, test := range []struct {
		m       device.Memory
		machine int64
		want    string
	}{
		{device.Memory{Total: 80 << 30}, 0, head + "memory of the device MiB weights 12288.0 factors, during curvature 32768.0 at most at one time 71680.0 of 81920.0 " +
			"main memory MiB masters 24576.0 at most at one time 40960.0" + times},
		{device.Memory{}, 32 << 30, head + "memory of the device MiB weights 12288.0 factors, during curvature 32768.0 at most at one time 71680.0 " +
			"main memory MiB masters 24576.0 at most at one time 40960.0 This is more than the 32.00 GiB of this machine." + times},
		{device.Memory{Host: true}, 64 << 30, head + "memory MiB masters 24576.0 weights 12288.0 factors, during curvature 32768.0 at most at one time 40960.0" + times},
	} {
		if got := text(test.m, test.machine); got != test.want {
			t.Errorf("memory %+v:\n got %s\nwant %s", test.m, got, test.want)
		}
	}
}

// What would be caught: a plan that is refused on account of an output that nobody named; one that counts the shots that a
// preset does not make; a dry run that names another work directory than the run uses.
func TestPlanOutput(t *testing.T) {
	dir := tiny(t)
	writeFile(t, "model-pruned/something", "x")
	before := listing(t, dir)
	code, stdout, stderr := invoke("plan", "model", "--text", "text.txt", "--preset", "magnitude", "--target", "0.3", "--samples", "4", "--length", "32")
	if code != 0 || !strings.Contains(stdout, "1 shot, 4 windows") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	code, stdout, stderr = invoke(pruneArgs("-o", "out/", "--dry-run")...)
	if code != 0 || !strings.Contains(stdout, "and keep its shots in out.work until") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("something was written:\n%s\n%s", before, after)
	}
}
