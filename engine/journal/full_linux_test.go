package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Catches a difference between what the other tests answer for a full disk and what one does, such as a write that takes
// half of its bytes: the run fills a real file system of 2 MB, made in a mount namespace of its own, which needs no rights.
func TestRealFullDisk(t *testing.T) {
	dir := t.TempDir()
	mine := func(id int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
	}
	c := child(t, "full", dir)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: mine(os.Getuid()), GidMappings: mine(os.Getgid()),
	}
	out, err := c.Output()
	if bytes.HasPrefix(out, []byte("skip: ")) {
		t.Skipf("%s", out[len("skip: "):])
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Skipf("no process with a mount namespace of its own can be started here: %v", err)
	} else if ok {
		t.Fatalf("%v\n%s", exit, out)
	}
	t.Logf("%s", out)
}

// beOnFullDisk mounts a small file system over dir and runs the scenario in it, with less room from one start to the next
// than the run needs; then makes room, and compares with a run that had it.
func beOnFullDisk(dir string) {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=6m"); err != nil {
		fmt.Printf("skip: no file system can be mounted in a namespace here: %v", err)
		os.Exit(0)
	}
	if err := fillAndGoOn(dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func fillAndGoOn(dir string) error {
	reference, run, filler := filepath.Join(dir, "reference"), filepath.Join(dir, "run"), filepath.Join(dir, "filler")
	if err := scenario(reference, Settings{}); err != nil {
		return err
	}
	var seen []int
	for free := 0; ; free += 60 << 10 {
		var s syscall.Statfs_t
		if err := syscall.Statfs(dir, &s); err != nil {
			return err
		}
		// What a stopped run left counts as room it has.
		if err := os.WriteFile(filler, make([]byte, max(0, int(s.Bavail)*int(s.Bsize)-free)), 0o600); err != nil {
			return fmt.Errorf("filling the disk but for %d bytes: %w", free, err)
		}
		err := scenario(run, Settings{})
		if err := os.Remove(filler); err != nil {
			return err
		}
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), run) {
			return fmt.Errorf("with %d bytes free: %w", free, err)
		}
		if len(seen) == 0 {
			fmt.Println(err)
		}
		seen = append(seen, free)
	}
	if len(seen) < 5 {
		return fmt.Errorf("the disk was full only with %d bytes free", seen)
	}
	for _, name := range []string{weightsName(scenarioShots), recordName(scenarioShots)} {
		a, err := os.ReadFile(filepath.Join(reference, name))
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(run, name))
		if err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			return fmt.Errorf("%s differs from that of a run that had room", name)
		}
	}
	fmt.Printf("full with %d free bytes, then went on to the same end\n", seen)
	return nil
}
