package report

import (
	"runtime"
	"strings"
	"testing"
)

// Catches a misread line of the system's files, and a unit that is taken for another.
func TestField(t *testing.T) {
	const cpuinfo = "processor\t: 0\nmodel name\t: Example CPU: fast @ 2.00GHz\nflags\t\t: fpu\n\nprocessor\t: 1\nmodel name\t: Other\n"
	const status = "Name:\tsurgeon\nVmPeak:\t  999 kB\nVmHWM:\t   1536 kB\n"
	if got := field(strings.NewReader(cpuinfo), "model name"); got != "Example CPU: fast @ 2.00GHz" {
		t.Errorf("model name %q", got)
	}
	if got := kilobytes(field(strings.NewReader(status), "VmHWM")); got != 1536*1024 {
		t.Errorf("VmHWM is %d bytes, want %d", got, 1536*1024)
	}
	for _, s := range []string{"", "12", "12 MB", "-1 kB", "x kB", "9999999999999999999 kB", "9000000000000000000 kB"} {
		if got := kilobytes(s); got != 0 {
			t.Errorf("%q is read as %d bytes", s, got)
		}
	}
}

// Catches figures of the running process that cannot be: no memory, or more than the machine has.
func TestThisMachine(t *testing.T) {
	m := ThisMachine("cpu")
	if m.Cores != runtime.NumCPU() || m.Device != "cpu" || !strings.HasPrefix(m.OS, runtime.GOOS+"/") {
		t.Errorf("%+v", m)
	}
	if p := ThisProgram("1.2.3"); p.Version != "1.2.3" || p.Go != runtime.Version() {
		t.Errorf("%+v", p)
	}
	if runtime.GOOS != "linux" {
		t.Skip("CPU and memory are told by Linux only")
	}
	block := make([]byte, 64<<20)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1
	}
	if peak := PeakResident(); peak < int64(len(block)) || peak > m.MemoryBytes {
		t.Errorf("a peak of %d bytes with %d touched, on a machine with %d", peak, len(block), m.MemoryBytes)
	}
	runtime.KeepAlive(block)
}
