package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The booted kernel's root is the host's root folder, read-only. On top come
// the kernel's own file systems, empty memory file systems where programs
// expect to write, and the host folders that the lab may write.

// emptied are the folders that start empty inside. What the lab needs of the
// host below them is put back, see hold.
var emptied = []string{"/tmp", "/run", "/dev/shm"}

// mountAll builds the tree that the orders ask for.
func mountAll(o *orders) error {
	type mount struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}
	held, err := hold(o.Visible)
	if err != nil {
		return err
	}
	for _, m := range []mount{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID, "mode=755"},
		{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID, "mode=1777"},
	} {
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
		}
	}
	if err := mountDev(); err != nil {
		return err
	}
	if err := show(held); err != nil {
		return err
	}
	if err := openWritable(o.Substrate, o.Writable); err != nil {
		return err
	}
	mountModules(o.ModuleDir)
	return mountNames()
}

// mountNames gives the names of network namespaces a file system of their own.
// By its source the fabric knows that it may take all of them away at once.
func mountNames() error {
	const dir = "/run/netns"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("vpclab", dir, "tmpfs", unix.MS_NOSUID, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	return nil
}

// mountDev completes /dev, where the kernel has put its nodes by itself.
func mountDev() error {
	if _, err := os.Lstat("/dev/ttyS0"); err != nil {
		return fmt.Errorf("/dev: the kernel has not mounted devtmpfs: %w", err)
	}
	for _, dir := range []string{"/dev/pts", "/dev/shm"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"); err != nil {
		return fmt.Errorf("mount devpts: %w", err)
	}
	if err := unix.Mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return fmt.Errorf("mount tmpfs on /dev/shm: %w", err)
	}
	for name, to := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, name); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// hold opens what the empty folders are about to hide, by path.
func hold(visible []string) (map[string]int, error) {
	held := map[string]int{}
	for _, path := range visible {
		root := hiddenRoot(path)
		if root == "" {
			continue
		}
		if _, ok := held[root]; ok {
			continue
		}
		fd, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", root, err)
		}
		held[root] = fd
	}
	return held, nil
}

// show puts the held files and folders back at their own paths, read-only as
// the root they come from.
func show(held map[string]int) error {
	for path, fd := range held {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("stat %s: %w", path, err)
		}
		var err error
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = os.Mkdir(path, 0o755)
		} else {
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("show the host's %s: %w", path, err)
		}
		unix.Close(fd)
	}
	return nil
}

// openWritable mounts host folders read-write at their own paths.
func openWritable(s Substrate, paths []string) error {
	for n, path := range paths {
		if _, err := os.Lstat(path); os.IsNotExist(err) && hiddenRoot(path) != "" {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
		}
		var err error
		if s == QEMU {
			err = unix.Mount(shareTag(n), path, "9p", unix.MS_NOSUID, shareOptions)
		} else {
			err = unix.Mount("hostfs", path, "hostfs", unix.MS_NOSUID, path)
		}
		if err != nil {
			return fmt.Errorf("mount the host's %s read-write: %w", path, err)
		}
	}
	return nil
}

// hiddenRoot gives the highest folder on the way to path that an emptied
// folder hides: /tmp/a for /tmp/a/b. It is empty for paths that are not
// hidden, and for the emptied folders themselves, which stay empty.
func hiddenRoot(path string) string {
	for _, top := range emptied {
		rest, ok := strings.CutPrefix(path, top+"/")
		if !ok {
			continue
		}
		first, _, _ := strings.Cut(rest, "/")
		return filepath.Join(top, first)
	}
	return ""
}

// mountModules puts the module folder where modprobe looks for it. It is a
// convenience: what a lab needs has its own way in, so failing is no error.
func mountModules(dir string) {
	const lib = "/lib/modules"
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0) // it may lie below lib
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if unix.Mount("tmpfs", lib, "tmpfs", 0, "mode=755") != nil {
		return
	}
	to := filepath.Join(lib, filepath.Base(dir))
	if os.Mkdir(to, 0o755) == nil {
		_ = unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), to, "", unix.MS_BIND, "")
	}
}
