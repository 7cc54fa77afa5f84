package report

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
)

// Program is the program that made the run.
type Program struct {
	Version  string `json:"version"`
	SHA256   string `json:"sha256"`   // of the executable, "" where it cannot be read
	Commit   string `json:"commit"`   // of the source, "" where the build does not know it
	Modified bool   `json:"modified"` // the source differs from the commit
	Go       string `json:"go_version"`
	Tags     string `json:"build_tags"`
}

// ThisProgram is the program that is running, as its build recorded it.
func ThisProgram(version string) Program {
	p := Program{Version: version, Go: runtime.Version()}
	p.SHA256 = hashOfExecutable()
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return p
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			p.Commit = s.Value
		case "vcs.modified":
			p.Modified = s.Value == "true"
		case "-tags":
			p.Tags = s.Value
		}
	}
	return p
}

func hashOfExecutable() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Machine is where the run was made.
type Machine struct {
	OS          string `json:"os"`  // with the architecture: "linux/amd64"
	CPU         string `json:"cpu"` // model name, "" where the system does not tell
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memory_bytes"` // of the host, 0 where the system does not tell
	Device      string `json:"device"`       // where the matrices were, as the device names itself
}

// ThisMachine is the machine that this process runs on. CPU and memory are told by Linux only.
func ThisMachine(device string) Machine {
	m := Machine{OS: runtime.GOOS + "/" + runtime.GOARCH, Cores: runtime.NumCPU(), Device: device}
	m.CPU = fieldOfFile("/proc/cpuinfo", "model name")
	m.MemoryBytes = kilobytes(fieldOfFile("/proc/meminfo", "MemTotal"))
	return m
}

// PeakResident is the most memory this process has had resident, in bytes: VmHWM of Linux, 0 on systems without it.
func PeakResident() int64 {
	return kilobytes(fieldOfFile("/proc/self/status", "VmHWM"))
}

// fieldOfFile is the first value of a name in a file of lines "name : value", "" where there is none.
func fieldOfFile(path, name string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	return field(f, name)
}

func field(r io.Reader, name string) string {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		n, value, found := strings.Cut(lines.Text(), ":")
		if found && strings.TrimSpace(n) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// kilobytes reads "123 kB", which Linux means as 123·1024 bytes; 0 for anything else.
func kilobytes(s string) int64 {
	digits, found := strings.CutSuffix(s, " kB")
	n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
	if !found || err != nil || n < 0 || n > 1<<50 {
		return 0
	}
	return n * 1024
}
