package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// scratch is the folder of one booted kernel: its lock, the copy of our own
// program that it runs as process 1, and User Mode Linux's pid file and
// management socket. The lock is an open file description shared with the
// warden, so the folder counts as used as long as either lives; one that
// nobody holds is the rest of a crash and is swept by the next start.
type scratch struct {
	dir  string
	lock *os.File
}

// scratchName is the folder's name inside Config.Dir.
const scratchName = "kernel"

// newScratch makes the scratch folder inside dir, or in the folder for
// temporary files where dir is empty.
func newScratch(dir string) (*scratch, error) {
	if dir != "" {
		return claimScratch(filepath.Join(dir, scratchName))
	}
	root := filepath.Join(os.TempDir(), scratchRoot+strconv.Itoa(os.Getuid()))
	for {
		if err := os.MkdirAll(root, 0o700); err != nil {
			return nil, err
		}
		if err := ownFolder(root); err != nil {
			return nil, err
		}
		sweep(root)
		dir, err := os.MkdirTemp(root, "")
		if err == nil {
			return claimScratch(dir)
		}
		if !errors.Is(err, os.ErrNotExist) { // else another one's end removed the root
			return nil, err
		}
	}
}

// ownFolder refuses a folder that another user has put in our way.
func ownFolder(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil // gone again; the caller makes it anew
		}
		return fmt.Errorf("folder %s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Getuid() {
		return fmt.Errorf("folder %s belongs to somebody else: remove it, or set TMPDIR", dir)
	}
	return nil
}

// scratchRoot begins the name of a user's folder of temporary scratch folders.
const scratchRoot = "vpclab-kernel-"

// claimScratch makes dir ours, clearing what a dead owner left in it.
func claimScratch(dir string) (*scratch, error) {
	lock, err := takeFolder(dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		lock.Close()
		return nil, err
	}
	for _, e := range entries {
		if e.Name() != lockName {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
	return &scratch{dir: dir, lock: lock}, nil
}

// takeFolder makes the folder and locks it. A former owner may be removing it
// meanwhile, with the lock that we have just opened: then it is made once more.
func takeFolder(dir string) (lock *os.File, err error) {
	for range 100 {
		if err = os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if lock, err = lockFolder(dir); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			return nil, err
		}
		if isLockOf(dir, lock) {
			return lock, nil
		}
		lock.Close()
		err = fmt.Errorf("folder %s: somebody removes it all the time", dir)
	}
	return nil, err
}

// isLockOf tells whether this is the lock of the folder as it is now: its owner and
// the warden both remove the folder, and another may have taken it in between.
func isLockOf(dir string, lock *os.File) bool {
	held, err1 := lock.Stat()
	there, err2 := os.Stat(filepath.Join(dir, lockName))
	return err1 == nil && err2 == nil && os.SameFile(held, there)
}

const lockName = "lock"

// errInUse says that a living kernel holds the folder.
var errInUse = errors.New("a running kernel uses it")

func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errInUse
		}
		return nil, fmt.Errorf("folder %s: %w", dir, err)
	}
	return f, nil
}

// sweep removes the folders under root whose owners are dead.
func sweep(root string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		lock, err := lockFolder(dir)
		if err != nil {
			continue
		}
		os.RemoveAll(dir)
		lock.Close()
	}
}

// remove gives the folder up and deletes it.
func (s *scratch) remove() {
	removeScratch(s.dir, s.lock)
	s.lock.Close()
}

// removeScratch deletes the folder, and the user's root of temporary ones with
// the last of them.
func removeScratch(dir string, lock *os.File) {
	if !isLockOf(dir, lock) {
		return
	}
	// The lock goes last: who takes the folder next waits for it, and keeps what
	// it then puts there.
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != lockName {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
	os.Remove(filepath.Join(dir, lockName))
	os.Remove(dir)
	if root := filepath.Dir(dir); strings.HasPrefix(filepath.Base(root), scratchRoot) {
		os.Remove(root) // fails while it holds others
	}
}

// place puts the program at path into the folder and returns where it is. A
// running kernel opens its program again whenever it starts itself once more,
// so an upgrade that replaces the file at path must not reach it: a hard link
// where that is possible, else a copy.
func (s *scratch) place(path string) (string, error) {
	to := filepath.Join(s.dir, "vpclab")
	if os.Link(path, to) == nil {
		return to, nil
	}
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return "", fmt.Errorf("copy %s: %w", path, err)
	}
	return to, out.Close()
}

// memoryDir picks the folder for the file that is the kernel's memory. The
// file is unlinked as soon as it is made, so it needs no clearing; it must
// have room, or the kernel dies of SIGBUS when it touches what is not there.
func memoryDir(need int64) (string, error) {
	tried := ""
	seen := map[string]bool{}
	for _, dir := range []string{"/dev/shm", os.TempDir(), "/tmp", "/var/tmp"} {
		if seen[dir] {
			continue
		}
		seen[dir] = true
		free, err := roomIn(dir)
		if err == nil && free >= need {
			return dir, nil
		}
		if err != nil {
			tried += fmt.Sprintf("; %s: %v", dir, err)
		} else {
			tried += fmt.Sprintf("; %s has %s free", dir, humanBytes(free))
		}
	}
	return "", &Unusable{
		Substrate: UML,
		Missing:   fmt.Sprintf("no folder has room for %s of kernel memory%s", humanBytes(need), tried),
		Fix:       "ask for less memory, or set TMPDIR to a folder with room (in Docker: --shm-size=4g)",
	}
}

// roomIn tells how many bytes can be written to dir by us and mapped as code.
func roomIn(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	if st.Flags&unix.ST_NOEXEC != 0 {
		return 0, errors.New("mounted noexec")
	}
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// humanBytes prints n in the largest binary unit that keeps it readable.
func humanBytes(n int64) string {
	const units = "KMGT"
	f, u := float64(n), -1
	for f >= 1024 && u < len(units)-1 {
		f /= 1024
		u++
	}
	if u < 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.3g %ciB", f, units[u])
}
