package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"surgeon/cgo"
)

// A build without CUDA hands over to the build with it, surgeon-cuda in its own directory, when a GPU is asked for, or when
// there is one and nothing else is asked for: it becomes that program, with the same arguments. There are two programs
// because the one with CUDA needs NVIDIA's libraries to start at all, which machines without a GPU do not have.

const (
	cudaProgram = "surgeon-cuda"
	// handedOver is set in the environment of the program that is handed over to. It never hands over itself, whatever it is.
	handedOver = "SURGEON_HANDED_OVER"
	// startsWithin is enough to read the CUDA libraries, a gigabyte, from a slow disk, and for the driver to wake several GPUs.
	startsWithin = 2 * time.Minute
)

// systemRoot is where driver files are looked for. Tests have a directory of their own.
var systemRoot = "/"

// onDevice is a command that has use for a GPU. deviceAsked is what it was told with --device.
type onDevice interface{ deviceAsked() string }

func (c common) deviceAsked() string     { return c.Device }
func (*infoCommand) deviceAsked() string { return "auto" } // which tells of GPUs where there are any

// handOver does not return where surgeon-cuda takes over. It is an error that it cannot where a GPU is asked for; where one
// is only there, s.noCUDA says why it is not used.
func (s *session) handOver(command *kong.Context) error {
	if cuda.Built || os.Getenv(handedOver) != "" {
		return nil
	}
	c, ok := command.Selected().Target.Addr().Interface().(onDevice)
	if !ok {
		return nil
	}
	device := c.deviceAsked()
	asked := cudaName.MatchString(device)
	if !asked && !(device == "auto" && gpuFound(systemRoot)) {
		return nil
	}
	program, err := cudaBeside()
	if err == nil {
		err = starts(s.ctx, program)
	}
	if err == nil {
		args := append([]string{os.Args[0]}, s.args...) // under its own name, so that what is printed to go on with is this command
		err = syscall.Exec(program, args, append(os.Environ(), handedOver+"=1"))
		err = fmt.Errorf("%s cannot be started: %w", program, err)
	}
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if asked {
		return refuse("--device is %s; %w; or use --device cpu", device, err)
	}
	s.noCUDA = err.Error()
	return nil
}

// gpuFound says whether the files of an NVIDIA driver with a GPU are there. They are made when the driver is loaded and finds
// a GPU, so where one is there is a driver; the driver itself is asked by surgeon-cuda.
func gpuFound(root string) bool {
	for _, pattern := range []string{
		"dev/nvidia[0-9]*",             // one for each GPU
		"proc/driver/nvidia/gpus/*",    // the same, before anyone has used it since the machine started
		"usr/lib/wsl/lib/libcuda.so.1", // the driver of Windows, in its Linux subsystem
	} {
		if found, _ := filepath.Glob(filepath.Join(root, pattern)); len(found) > 0 {
			return true
		}
	}
	return false
}

// cudaBeside is surgeon-cuda in the directory of this program, links followed.
func cudaBeside() (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fmt.Errorf("the directory of this program, where %s would be, is not known: %w", cudaProgram, err)
	}
	path := filepath.Join(filepath.Dir(self), cudaProgram)
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		return "", fmt.Errorf("this build of surgeon has no CUDA, and %s, which has it, is not beside it in %s; `make cuda` makes it (no GPU is needed for that)", cudaProgram, filepath.Dir(self))
	}
	return path, nil
}

// starts has the program say its version. Once it has taken over it is too late to put the loader's words about a missing
// library into a sentence, or to go on without.
func starts(ctx context.Context, program string) error {
	ctx, cancel := context.WithTimeout(ctx, startsWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.Env = append(os.Environ(), handedOver+"=1")
	var words strings.Builder
	cmd.Stderr = &words
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("%s does not start within %v", program, startsWithin)
	}
	reason := err.Error()
	if lines := strings.Split(strings.TrimSpace(words.String()), "\n"); lines[0] != "" {
		reason = strings.TrimPrefix(strings.TrimSpace(lines[len(lines)-1]), program+": ")
	}
	if strings.Contains(reason, "shared librar") {
		reason += "; CUDA 13 has it, in /usr/local/cuda/lib64, or in a directory to be named in LD_LIBRARY_PATH"
	}
	return fmt.Errorf("%s cannot start: %s", program, reason)
}
