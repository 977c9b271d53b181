package frr

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// FRR's daemons insist on a user of the group frrvty and change to it. Inside
// a lab kernel there is none, and no need: so the router's processes have a
// mount namespace of their own in which root is in that group. The machine's
// files are untouched.

// usersFiles are the files that say so. A group's number 0 is root's.
var usersFiles = map[string]string{
	"/etc/passwd":        "root:x:0:0:root:/:/bin/false\n",
	"/etc/group":         "root:x:0:\nfrrvty:x:0:root\n",
	"/etc/nsswitch.conf": "passwd: files\ngroup: files\n",
}

// crashDir is below where each daemon makes a folder for the story of a crash,
// which nobody would remove.
const crashDir = "/var/tmp"

// settleIn arranges this process's mount namespace. dir takes the files.
func settleIn(root, dir string) error {
	// What others mount and unmount still reaches us: a network namespace that
	// we held on to by its mount would outlive its lab.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make the mounts our own: %w", err)
	}
	for path, content := range usersFiles {
		if _, err := os.Stat(path); err != nil {
			continue // a C library without nsswitch.conf takes the files
		}
		ours := filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(ours, []byte(content), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(ours, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("put %s over %s: %w", ours, path, err)
		}
	}
	if strings.HasPrefix(root, crashDir) {
		return nil // it would hide the programs
	}
	if err := unix.Mount("tmpfs", crashDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=16m"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", crashDir, err)
	}
	return nil
}
