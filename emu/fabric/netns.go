package fabric

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
)

// netnsDir is where `ip netns` looks, so that it works on our namespaces.
const netnsDir = "/run/netns"

// firstIndex leaves room for the devices that some modules put into every new
// namespace (sit0, tunl0 …).
const firstIndex = 10

// loIndex is the loopback's, everywhere.
const loIndex = 1

// node is a namespace of ours with its netlink socket.
type node struct {
	name  string
	ns    ns.NetNS
	conn  *rtnl.Conn
	index map[string]int // device -> interface index, chosen by us
	next  int
	stale map[string]int // devices, and their indexes, that are not as recorded and must go first
}

func newNode(name string) *node {
	return &node{name: name, index: map[string]int{"lo": loIndex}, next: firstIndex, stale: map[string]int{}}
}

// alloc gives a device an index that no device of this node ever had.
func (n *node) alloc(dev string) int {
	i := n.next
	n.next++
	n.index[dev] = i
	return i
}

func (n *node) close() {
	if n.conn != nil {
		n.conn.Close()
	}
	if n.ns != nil {
		n.ns.Close()
	}
}

// nsName is the file name of a node's namespace.
func nsName(lab, node string) string { return "vpclab-" + lab + "-" + node }

func nsPath(lab, node string) string { return filepath.Join(netnsDir, nsName(lab, node)) }

// onThread runs fn on an operating system thread that ends with it: whatever
// namespace fn leaves the thread in, no other goroutine ever sees it.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies
		done <- fn()
	}()
	return <-done
}

// prepareNetnsDir makes netnsDir a shared mount, as `ip netns add` does, so
// that other mount namespaces see ours come and go.
func prepareNetnsDir() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", netnsDir, err)
	}
	err := unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) {
		return os.NewSyscallError("mount --make-shared "+netnsDir, err)
	}
	if err := unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return os.NewSyscallError("mount --bind "+netnsDir, err)
	}
	return os.NewSyscallError("mount --make-shared "+netnsDir, unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, ""))
}

// createNS makes the namespace of a node and leaves the calling thread, which
// must be one of onThread's, in it.
func createNS(lab string, n *node) error {
	path := nsPath(lab, n.name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("node %s: create namespace: %w", n.name, err)
	}
	f.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("node %s: create namespace: %w", n.name, os.NewSyscallError("unshare", err))
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("node %s: create namespace: %w", n.name, os.NewSyscallError("mount "+path, err))
	}
	return n.open(lab)
}

// open takes hold of an existing namespace that the thread is in.
func (n *node) open(lab string) (err error) {
	if n.ns, err = ns.GetNS(nsPath(lab, n.name)); err != nil {
		return fmt.Errorf("node %s: open namespace: %w", n.name, err)
	}
	if n.conn, err = rtnl.Dial(); err != nil {
		return fmt.Errorf("node %s: %w", n.name, err)
	}
	return nil
}

// enter moves the calling thread, one of onThread's, into the node.
func (n *node) enter() error {
	if err := netns.Set(netns.NsHandle(n.ns.Fd())); err != nil {
		return fmt.Errorf("node %s: enter namespace: %w", n.name, err)
	}
	return nil
}

// removeNS takes the name away; the kernel ends the namespace with its last
// holder. One that is gone is no error.
func removeNS(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove namespace %s: %w", filepath.Base(path), err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove namespace %s: %w", filepath.Base(path), err)
	}
	return nil
}

// writeSysctl sets a value in the namespace that the thread is in. As with
// sysctl(8), a slash in the key stands for a dot in a name.
func writeSysctl(k, value string) error {
	path := strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, k)
	return writeProc("/proc/sys/"+path, value)
}

func writeProc(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &os.PathError{Op: "write " + value + " to", Path: path, Err: err}
	}
	return nil
}
