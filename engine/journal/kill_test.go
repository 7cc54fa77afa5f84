//go:build unix

package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The tests start this test binary again as another process, told by these what to be.
const (
	childRole = "JOURNAL_TEST_CHILD" // "kill at N", "hold" or "full"
	childDir  = "JOURNAL_TEST_DIR"
)

func TestMain(m *testing.M) {
	role, dir := os.Getenv(childRole), os.Getenv(childDir)
	var n int
	switch {
	case role == "":
		os.Exit(m.Run())
	case role == "hold":
		beHolder(dir)
	case role == "full":
		beOnFullDisk(dir)
	default:
		if _, err := fmt.Sscanf(role, "kill at %d", &n); err != nil {
			fmt.Fprintf(os.Stderr, "unknown role %q: %v\n", role, err)
			os.Exit(3)
		}
		beKilled(dir, n)
	}
}

// child makes the command of another process in a role.
func child(t *testing.T, role, dir string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), childRole+"="+role, childDir+"="+dir)
	c.Stderr = os.Stderr
	return c
}

// beKilled runs the scenario and dies by kill -9 just before the n-th change; exit status 0 means there was none.
func beKilled(dir string, n int) {
	before := func(i int, _, _ string) error {
		if i == n {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
		return nil
	}
	if err := scenario(dir, Settings{Hooks: Hooks{Before: before}}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// runKilled starts the scenario in another process that is killed at its n-th change, and tells whether it was.
func runKilled(t *testing.T, dir string, n int) bool {
	t.Helper()
	err := child(t, fmt.Sprintf("kill at %d", n), dir).Run()
	if err == nil {
		return false
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process to be killed at change %d ended by itself: %v", n, err)
	}
	return true
}

// Catches any order of writes, renames and removals in which a kill -9 loses a complete shot, believes an incomplete one,
// or leaves something behind: the run is killed at every single change it makes, and must then go on from the right shot
// and end with the same bytes.
func TestKillAtEveryChange(t *testing.T) {
	t.Parallel() // it mostly waits for the disk
	changes, want := uninterrupted(t)
	pieces := 0
	for k := 1; k <= len(changes); k++ {
		c := changes[k-1]
		if c == (change{"write", weightsName(2)}) {
			pieces++
		}
		dir := filepath.Join(t.TempDir(), "run")
		if !runKilled(t, dir, k) {
			t.Fatalf("the process made fewer than %d changes", k)
		}
		j := open(t, dir, Settings{})
		if got, want := j.lastNumber(), lastAfter(changes, k-1); got != want {
			t.Errorf("killed at change %d (%s %s): goes on after shot %d, want %d; %q", k, c.op, c.file, got, want, j.Warnings())
		}
		if err := goOn(j, scenarioShots); err != nil {
			t.Fatalf("killed at change %d (%s %s): %v", k, c.op, c.file, err)
		}
		j.Close()
		same(t, content(t, dir), want)
		if t.Failed() {
			t.Fatalf("killed at change %d: %s %s", k, c.op, c.file)
		}
		os.RemoveAll(dir)
	}
	if pieces < 3 {
		t.Errorf("a weights file was written in %d pieces: the test does not kill in the middle of one", pieces)
	}
	t.Logf("%d kills", len(changes))
}

// Catches a recovery that cannot itself be killed: the run is killed again and again at random changes until it ends.
func TestKillAgainAndAgain(t *testing.T) {
	t.Parallel() // it mostly waits for the disk
	const seed = 20
	_, want := uninterrupted(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	kills := 0
	for range 4 {
		dir := filepath.Join(t.TempDir(), "run")
		for runKilled(t, dir, 1+rng.IntN(30)) {
			kills++
			if kills > 200 {
				t.Fatal("the run never ends")
			}
		}
		same(t, content(t, dir), want)
		os.RemoveAll(dir)
	}
	t.Logf("seed %d: %d kills in 4 runs", seed, kills)
}

// beHolder opens dir, says so, and waits to be killed, or for the end of its input, which comes when the test is gone.
func beHolder(dir string) {
	if _, err := Open(context.Background(), dir, wantedOptions, Settings{}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// Catches two processes in one directory, a message that does not say which process it is, and a lock that outlives the
// process that had it.
func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	c := child(t, "hold", dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer c.Wait()
	defer c.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	before := listing(t, dir)
	_, err = Open(context.Background(), dir, wantedOptions, Settings{})
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok || !refusal.InUse || refusal.Process != c.Process.Pid {
		t.Fatalf("opening a directory that process %d works in: %v", c.Process.Pid, err)
	}
	if !strings.Contains(err.Error(), "is in use by process "+strconv.Itoa(c.Process.Pid)) {
		t.Errorf("the message does not say who: %v", err)
	}
	same(t, listing(t, dir), before)

	c.Process.Kill()
	c.Wait()
	j := open(t, dir, Settings{})
	// The lock is the file's, not the process': a second Open here is refused as well.
	if _, err := Open(context.Background(), dir, wantedOptions, Settings{}); err == nil {
		t.Error("a directory can be opened twice")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir, Settings{})
}
