package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"surgeon/engine/report"
)

// built is the path of a program that a make target has built and named in the environment; without it the test is left out
// aloud.
func built(t *testing.T, variable, target string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Skipf("not tested: no surgeon-cuda is named in %s, as `make %s` does", variable, target)
	}
	return path
}

// What would be caught: a CUDA build that needs a driver where none is needed, or says nothing sensible where one is.
func TestCUDAProgramWithoutADriver(t *testing.T) {
	program := built(t, "SURGEON_CUDA_PROGRAM", "check-cuda")
	if gpuFound("/") {
		t.Skip("not tested: this machine has an NVIDIA driver")
	}
	tiny(t)
	const noDriver = "there is no NVIDIA driver on this machine (libcuda.so.1 is not found; in a container, start it with --gpus all)"
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"--help"}, 0, "Makes trained language models smaller", ""},
		{[]string{"--version"}, 0, "surgeon ", ""},
		{[]string{"info"}, 0, "no CUDA: " + noDriver, ""},
		{[]string{"eval", "model", "--text", "text.txt", "--length", "32", "--device", "cuda:1"}, exitRequest, "", "surgeon: --device is cuda:1; " + noDriver},
		{[]string{"eval", "model", "--text", "text.txt", "--length", "32"}, 0, "Perplexity", "chosen because " + noDriver},
		{pruneArgs(), 0, "out written", "chosen because " + noDriver},
	} {
		code, stdout, stderr := execute(t, program, nil, c.args...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%v: exit code %d, %q, %q; want %d, %q, %q", c.args, code, stdout, stderr, c.code, c.stdout, c.stderr)
		}
	}
	r, err := report.Read("out/report.json")
	if err != nil {
		t.Fatal(err)
	}
	if r.GPU != nil {
		t.Errorf("a run on the CPU reports a GPU: %+v", r.GPU)
	}
}

// What would be caught: a hand-over to a program that the loader refuses.
func TestCUDAProgramWithoutItsLibraries(t *testing.T) {
	surgeon := beside(t, "", built(t, "SURGEON_CUDA_PROGRAM", "check-cuda"))
	if code, _, _ := execute(t, filepath.Join(filepath.Dir(surgeon), cudaProgram), nil, "--version"); code == 0 {
		t.Skip("not tested: this machine has the CUDA libraries")
	}
	code, _, stderr := execute(t, surgeon, nil, "info")
	if code != 0 {
		t.Errorf("info: exit code %d, %q", code, stderr)
	}
	code, _, stderr = execute(t, surgeon, nil, "plan", "x", "--text", "y", "--target", "0.3", "--device", "cuda")
	if code != exitRequest || !strings.Contains(stderr, "surgeon-cuda cannot start: error while loading shared libraries: libcu") || !strings.Contains(stderr, "LD_LIBRARY_PATH") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

// What would be caught: a GPU that cannot be used and is not refused, is refused as a failed run, or without the reason; an
// automatic choice that does not say why; a GPU that is too full to be opened and advises what helps a run.
func TestCUDAProgramOnAnEmulatedGPU(t *testing.T) {
	surgeon := beside(t, "", built(t, "SURGEON_EMU_PROGRAM", "test-emu"))
	tiny(t)
	with := func(variable, value string) []string { return append(machine(t, "dev/nvidia0"), variable+"="+value) }
	on := func(device string) []string {
		return []string{"eval", "model", "--text", "text.txt", "--length", "32", "--windows", "1", "--device", device}
	}
	for _, c := range []struct {
		env            []string
		args           []string
		code           int
		stdout, stderr string
	}{
		{with("SURGEON_EMU_DEVICES", "1"), []string{"info"}, 0, "device         cuda:0 emulated, 4.00 GiB, compute capability 9.0", ""},
		{with("SURGEON_EMU_DEVICES", "1"), on("cuda:7"), exitRequest, "", "surgeon: --device is cuda:7; there is no cuda:7; this machine has one GPU, cuda:0\n"},
		{with("SURGEON_EMU_DEVICES", "3"), on("cuda:3"), exitRequest, "", "surgeon: --device is cuda:3; there is no cuda:3; this machine has 3 GPUs, cuda:0 to cuda:2\n"},
		{with("SURGEON_EMU_DEVICES", "2"), on("auto"), 0, "Perplexity", "device: cuda:0 emulated; chosen because it is the first GPU that can be used"},
		{with("SURGEON_EMU_DEVICES", "0"), on("cuda"), exitRequest, "", "surgeon: --device is cuda; there is an NVIDIA driver on this machine, but no GPU\n"},
		{with("SURGEON_EMU_DEVICES", "0"), on("auto"), 0, "Perplexity", "chosen because there is an NVIDIA driver on this machine, but no GPU"},
		{with("SURGEON_EMU_DEVICES", "0"), []string{"info"}, 0, "no CUDA: there is an NVIDIA driver on this machine, but no GPU", ""},
		{with("SURGEON_EMU_CAPABILITY", "75"), on("cuda:0"), exitRequest, "", "surgeon: --device is cuda:0; cuda:0, emulated, has compute capability 7.5; at least 8.0 is needed (A100 or newer)\n"},
		{with("SURGEON_EMU_CAPABILITY", "75"), on("auto"), 0, "Perplexity", "device: cpu (gonum"},
		{with("SURGEON_EMU_CAPABILITY", "75"), append(on("auto"), "--gpu-memory", "1GiB"), exitRequest, "", "surgeon: --gpu-memory limits a GPU, and none can be used: cuda:0, emulated, has compute capability 7.5"},
		{with("SURGEON_EMU_DEVICES", "1"), append(on("cuda"), "--gpu-memory", "1TiB"), exitRequest, "", "surgeon: --device is cuda; --gpu-memory asks for 1024.00 GiB; 4.00 GiB are free\n"},
		{with("SURGEON_EMU_CAPABILITY", "75"), []string{"info"}, 0, "cannot be used: compute capability 7.5", ""},
		{with("SURGEON_EMU_DRIVER", "12080"), on("cuda"), exitRequest, "", "surgeon: --device is cuda; the NVIDIA driver is for CUDA 12.8; this build needs one for 13.0 or newer (driver 580)\n"},
		{with("SURGEON_EMU_DRIVER", "12080"), on("auto"), 0, "Perplexity", "chosen because the NVIDIA driver is for CUDA 12.8"},
		{with("SURGEON_EMU_MEMORY", "4200000"), on("cuda"), exitRequest, "", "surgeon: --device is cuda; opening cuda:0 takes 36.0 MiB and more, and 4.0 MiB are free; wait until other programs give memory back, or use another GPU, or --device cpu\n"},
		{with("SURGEON_EMU_MEMORY", "4200000"), on("auto"), 0, "Perplexity", "chosen because opening cuda:0 takes 36.0 MiB and more"},
		{with("SURGEON_EMU_DEVICES", "1"), append(on("cuda"), "--gpu-memory", "1MB"), exitRequest, "", "MiB and more, and --gpu-memory gives it 1.0 MiB; give it more, or leave that out\n"},
		{with("SURGEON_CUDA_CAPABILITY", "95"), on("cuda"), exitRequest, "", "surgeon: --device is cuda; SURGEON_CUDA_CAPABILITY is \"95\"; it is the compute capability whose kernels are used, from 80 to the GPU's own 90\n"},
	} {
		code, stdout, stderr := execute(t, surgeon, c.env, c.args...)
		if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%v %v:\nexit code %d, %q, %q;\nwant      %d, %q, %q", c.env[1:], c.args, code, stdout, stderr, c.code, c.stdout, c.stderr)
		}
		if strings.Contains(stderr, "goroutine") {
			t.Errorf("%v %v: a stack trace", c.env[1:], c.args)
		}
	}

	code, stdout, stderr := execute(t, surgeon, with("SURGEON_EMU_CAPABILITY", "75"), "info", "--json")
	var f facts
	if err := json.Unmarshal([]byte(stdout), &f); code != 0 || err != nil {
		t.Fatalf("exit code %d, %v: %s%s", code, err, stdout, stderr)
	}
	if len(f.Devices) != 2 || f.Devices[1].ID != "cuda:0" || f.Devices[1].Capability != "7.5" || f.Devices[1].Problem == "" || f.NoCUDA != "" || f.NoNVML == "" {
		t.Errorf("as JSON: %+v", f)
	}
}

// What would be caught: a lost GPU that ends in something else than a sentence and exit code 1, or after which the run does
// not go on, or to another end; a report without the GPU that does not say why.
func TestCUDAProgramOnAnEmulatedGPUThatIsLost(t *testing.T) {
	surgeon := beside(t, "", built(t, "SURGEON_EMU_PROGRAM", "test-emu"))
	tiny(t)
	gpu := machine(t, "dev/nvidia0")
	args := pruneArgs("--samples", "4")
	code, _, stderr := execute(t, surgeon, gpu, append(args, "-o", "whole")...)
	if code != 0 || !strings.Contains(stderr, "the report will not tell the GPU's power and clocks: NVML, libnvidia-ml.so.1, is not found") {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	// Of the 1,600 launches or so of this run the 1000th is in the second shot.
	code, stdout, stderr := execute(t, surgeon, append(gpu, "SURGEON_EMU_FAIL_AT=1000"), args...)
	if code != exitFailed || stdout != "" || !strings.Contains(lastLine(stderr), "give the same command again to go on") || strings.Contains(stderr, "goroutine") {
		t.Fatalf("lost in the run: exit code %d, %q, %q", code, stdout, stderr)
	}
	t.Log(lastLine(stderr))
	if code, _, stderr := execute(t, surgeon, gpu, args...); code != 0 || !strings.Contains(stderr, "going on after shot 1 of 2") {
		t.Fatalf("given again: exit code %d: %s", code, stderr)
	}
	if readFile(t, "out/model.safetensors") != readFile(t, "whole/model.safetensors") {
		t.Error("the run that lost its GPU ends with other weights")
	}
}
