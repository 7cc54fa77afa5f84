package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"
)

// MayWrite refuses a directory that Write could not make or must not replace, before any work is done. source is the path
// of the model that is read. It writes nothing.
func MayWrite(dir, source string, force bool) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return mayMake(dir)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("it exists and is not a directory; give another name")
	}
	if !force {
		return errors.New("the directory exists and nothing is overwritten; give another name, or ask for replacement with force")
	}
	// The source, or a directory around it, would be removed together with the only intact model.
	for at, err := filepath.Abs(source); err == nil; at = filepath.Dir(at) {
		if real, e := filepath.EvalSymlinks(at); e == nil {
			at = real
		}
		if there, e := os.Stat(at); e == nil && os.SameFile(there, info) {
			return fmt.Errorf("the model that is read, %s, lies in it; a source is not replaced, give another name", source)
		}
		if at == filepath.Dir(at) {
			break
		}
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, configName)); len(list) > 0 && err != nil {
		return fmt.Errorf("the directory holds other things than a model (no %s); it is not removed, give another name", configName)
	}
	return nil
}

// mayMake refuses a directory that cannot be made: where the path to it ends for now, this user must be allowed to write. A
// read-only disk says so here too; a full one does not.
func mayMake(dir string) error {
	for at := filepath.Dir(dir); ; at = filepath.Dir(at) {
		if _, err := os.Lstat(at); errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at) {
			continue
		} else if err != nil {
			return err
		}
		return mayPutInto(at)
	}
}

// MayWriteIn refuses a directory that can neither be written in nor, where it is not there, be made. It writes nothing.
func MayWriteIn(dir string) error {
	_, err := os.Lstat(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		if err != nil {
			return err
		}
		return mayPutInto(dir)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	return mayMake(dir)
}

// mayPutInto refuses a place that is there and in which nothing can be made: a link that leads nowhere, what is no directory, and
// one that this user may not write in.
func mayPutInto(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("nothing can be made in %s, a link that leads nowhere: %w; give another name", dir, err)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("nothing can be made in %s, which is not a directory; give another name", dir)
	}
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("nothing can be written in %s: %w; give another name", dir, err)
	}
	return nil
}

// makeParent makes the directories above dir that are missing, each so that its name lasts through a power cut.
func makeParent(dir string) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeParent(parent); err != nil {
		return err
	}
	if err := os.Mkdir(parent, 0o777); err != nil && !errors.Is(err, fs.ErrExist) { // another process may be as far
		return err
	}
	return syncDir(filepath.Dir(parent))
}

// sibling makes a new directory beside dir, so that a rename between them stays on one file system. The mode is that of any
// new directory; os.MkdirTemp would keep others out of the finished model.
func sibling(dir, what string) (string, error) {
	for i := range 1000 {
		path := filepath.Join(filepath.Dir(dir), fmt.Sprintf(".%s.%s.%d.%d", filepath.Base(dir), what, os.Getpid(), i))
		if err := os.Mkdir(path, 0o777); !errors.Is(err, fs.ErrExist) {
			return path, err
		}
	}
	return "", fmt.Errorf("no name is free for a temporary directory beside %s", dir)
}

// hold tells other processes that path is being written, for as long as the file is open and its process lives.
func hold(path string) (*os.File, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// RemoveLeft removes what sibling made for processes that were killed while they wrote dir, each a copy of the model. Their
// number must be that of no other process, and nobody may hold the directory: in another container or on another machine a
// process with a number that is free here may be writing to the same disk. What the killed process had moved out of the way
// stays, and so does what it was about to put in its place.
//
// Nothing comes of an error: what cannot be removed hinders nobody.
func RemoveLeft(dir string) {
	parent := filepath.Dir(dir)
	list, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	left := regexp.MustCompile(`^\.` + regexp.QuoteMeta(filepath.Base(dir)) + `\.(new|old)\.(\d+)\.\d+$`)
	unfinished, replacing := map[string]string{}, map[string]bool{} // by the process' number
	for _, entry := range list {
		switch m := left.FindStringSubmatch(entry.Name()); {
		case m == nil || !entry.IsDir():
		case m[1] == "old":
			replacing[m[2]] = true
		default:
			unfinished[entry.Name()] = m[2]
		}
	}
	for name, number := range unfinished {
		process, err := strconv.Atoi(number)
		if err != nil || replacing[number] || process != os.Getpid() && !errors.Is(unix.Kill(process, 0), unix.ESRCH) {
			continue
		}
		path := filepath.Join(parent, name)
		if d, err := hold(path); err == nil {
			os.RemoveAll(path)
			d.Close()
		}
	}
}

// replace renames temporary to dir and makes the rename last. A directory that stands there is moved into a fresh one
// beside it and removed at the end; if the program is killed between the two renames, both are there under the names that
// sibling gives.
func replace(dir, temporary string, force bool) error {
	if _, e := os.Lstat(dir); e == nil && force {
		aside, err := sibling(dir, "old")
		if err != nil {
			return err
		}
		old := filepath.Join(aside, filepath.Base(dir))
		if err := os.Rename(dir, old); err != nil {
			return errors.Join(err, os.Remove(aside))
		}
		if err := os.Rename(temporary, dir); err != nil {
			return errors.Join(err, os.Rename(old, dir), os.Remove(aside))
		}
		if err := syncParent(dir); err != nil {
			return err
		}
		if err := os.RemoveAll(aside); err != nil {
			return fmt.Errorf("the model is complete, but what it replaced could not be removed: %w", err)
		}
		return nil
	}
	if err := os.Rename(temporary, dir); err != nil { // also where a directory has appeared there in the meantime
		return err
	}
	return syncParent(dir)
}

func syncParent(dir string) error {
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return fmt.Errorf("the model is complete, but a power cut could still undo its renaming: %w", err)
	}
	return nil
}

// syncDir makes the names in a directory last through a power cut.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
