package fabric

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/direct"
)

// ownSource is the source of the file system at netnsDir in a kernel that was
// booted for one lab (emu/kernel mounts it): the names of namespaces then have
// a file system of their own, and go with it in one call.
const ownSource = "vpclab"

// prepareNetnsDir makes netnsDir a shared mount, as `ip netns add` does, so
// that other mount namespaces see ours come and go.
func prepareNetnsDir() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", netnsDir, err)
	}
	shared := func() error { return unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	err := shared()
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err = unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err == nil {
			err = shared()
		}
	}
	if err != nil {
		return fmt.Errorf("make %s a shared mount: %w", netnsDir, err)
	}
	return nil
}

// mounts is what is mounted in netnsDir.
type mounts struct {
	inodes map[string]uint64 // name -> inode of the namespace it leads to; 0: something else
	own    bool              // netnsDir is a file system of our own
}

// readMounts sees all names at one look: two calls for each of them cost more
// than anything else in the end of a lab.
func readMounts() (mounts, error) {
	m := mounts{inodes: map[string]uint64{}}
	text, err := direct.ReadFile("/proc/self/mountinfo")
	for line := range bytes.Lines(text) {
		m.line(string(line))
	}
	return m, err
}

// line takes a line of mountinfo (proc_pid_mountinfo(5)):
//
//	36 35 0:4 net:[4026532245] /run/netns/vpclab-lab-pe1 rw shared:9 - nsfs nsfs rw
//
// The last one for a place is the one that is seen there.
func (m *mounts) line(text string) {
	before, after, _ := strings.Cut(text, " - ")
	fields, source := strings.Fields(before), strings.Fields(after)
	if len(fields) < 5 || len(source) < 2 {
		return
	}
	root, place := fields[3], fields[4]
	switch {
	case place == netnsDir:
		m.own = source[1] == ownSource
	case filepath.Dir(place) == netnsDir:
		number := strings.TrimSuffix(strings.TrimPrefix(root, "net:["), "]")
		inode, _ := strconv.ParseUint(number, 10, 64) // 0: no network namespace
		m.inodes[filepath.Base(place)] = inode
	}
}

// only says that the file system of names is our own and has no other mounts
// than those.
func (m *mounts) only(paths []string) bool {
	if !m.own {
		return false
	}
	rest := len(m.inodes)
	for _, p := range paths {
		if _, ok := m.inodes[filepath.Base(p)]; ok {
			rest--
		}
	}
	return rest == 0
}

// renewNetnsDir takes all names away together and leaves an empty folder for
// those to come.
func renewNetnsDir() error {
	err := direct.Detach(netnsDir)
	if err == nil {
		err = unix.Mount(ownSource, netnsDir, "tmpfs", unix.MS_NOSUID, "mode=755")
	}
	if err != nil {
		return fmt.Errorf("renew %s: %w", netnsDir, err)
	}
	return nil
}

// namesTaken are the names in netnsDir, whatever is behind them.
func namesTaken() (map[string]bool, error) {
	names, err := direct.Names(netnsDir)
	taken := make(map[string]bool, len(names))
	for _, name := range names {
		taken[name] = true
	}
	return taken, err
}
