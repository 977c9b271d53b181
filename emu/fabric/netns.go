package fabric

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/direct"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

// netnsDir is where `ip netns` looks, so that it works on our namespaces.
const netnsDir = "/run/netns"

// firstIndex leaves room for the devices that some modules put into every new
// namespace (sit0, tunl0 …).
const firstIndex = 10

// loIndex is the loopback's, everywhere.
const loIndex = 1

// node is a namespace of ours with its netlink socket. Device indexes are
// chosen by us, so that one batch can make a device and refer to it.
type node struct {
	name  string
	kind  topo.NodeKind
	ns    netns.NsHandle // -1: not open
	inode uint64         // of the namespace: which one this is, whatever its name
	conn  *rtnl.Conn
	index map[string]int // device -> interface index
	next  int            // index of the next device
	// classes of lines, by the key of the reservation
	classes map[key]rtnl.Handle
}

func newNode(name string) *node {
	return &node{name: name, ns: netns.None(), index: map[string]int{"lo": loIndex}, next: firstIndex, classes: map[key]rtnl.Handle{}}
}

// alloc gives a device an index that no device of this node ever had.
func (n *node) alloc(dev string) int {
	i := n.next
	n.next++
	n.index[dev] = i
	return i
}

func (n *node) close() { closeAll(n.release(nil)) }

// release lets go of the node and adds its descriptors to fds.
func (n *node) release(fds []int) []int {
	if n.conn != nil {
		fds = append(fds, n.conn.Release())
		n.conn = nil
	}
	if n.ns.IsOpen() {
		fds = append(fds, int(n.ns))
		n.ns = netns.None()
	}
	return fds
}

// closeAll closes descriptors, with one call for each run of numbers: those of
// nodes that were made together are one.
func closeAll(fds []int) {
	slices.Sort(fds)
	for len(fds) > 0 {
		n := 1
		for n < len(fds) && fds[n] == fds[n-1]+1 {
			n++
		}
		_ = direct.CloseRange(fds[0], fds[n-1])
		fds = fds[n:]
	}
}

// nsName is the file name of a node's namespace.
func nsName(lab, node string) string { return "vpclab-" + lab + "-" + node }

func nsPath(lab, node string) string { return netnsDir + "/" + nsName(lab, node) }

// onThread runs fn on a thread of its own, which comes back to the namespace
// it began in. If it cannot, the thread ends with the goroutine that is locked
// to it, and no other goroutine ever sees the wrong namespace.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := direct.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC)
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open the current network namespace: %w", err)
			return
		}
		err = fn()
		if back := direct.EnterNetwork(home); back == nil {
			runtime.UnlockOSThread()
		}
		_ = direct.Close(home)
		done <- err
	}()
	return <-done
}

// within runs fn in a network namespace. Who moves a VM's port waits for that
// while the VM stands, so the calls that it takes are few and direct.
func within(ns int, fn func() error) error {
	return onThread(func() error {
		if err := direct.EnterNetwork(ns); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// createNS makes the namespace of a node, leaves the calling thread, which
// must be one of onThread's, in it, and opens its netlink socket.
func createNS(lab string, n *node) (err error) {
	path := nsPath(lab, n.name)
	defer func() {
		if err != nil {
			n.close()
			err = fmt.Errorf("node %s: create namespace %s: %w", n.name, filepath.Base(path), err)
		}
	}()
	// mknod makes the mount point in one call, and refuses one that exists.
	if err := direct.Mknod(path, unix.S_IFREG|0o444); err != nil {
		return os.NewSyscallError("mknod", err)
	}
	if err := direct.Unshare(unix.CLONE_NEWNET); err != nil {
		_ = unix.Unlink(path)
		return os.NewSyscallError("unshare", err)
	}
	if err := direct.Bind("/proc/thread-self/ns/net", path); err != nil {
		_ = unix.Unlink(path)
		return os.NewSyscallError("mount", err)
	}
	return n.open()
}

// open takes hold of the namespace that the thread is in.
func (n *node) open() (err error) {
	if n.conn, err = rtnl.Dial(); err != nil {
		return err
	}
	ns, err := n.conn.Namespace()
	if err != nil {
		return err
	}
	n.ns = netns.NsHandle(ns)
	n.inode, err = direct.Inode(ns)
	return os.NewSyscallError("fstat", err)
}

// adoptNS takes hold of a namespace that a predecessor made, and leaves the
// thread, one of onThread's, in it.
func adoptNS(lab, name string) (*node, error) {
	n := newNode(name)
	path := nsPath(lab, name)
	ns, err := netns.GetFromPath(path)
	if err == nil {
		err = netns.Set(ns)
		_ = ns.Close()
	}
	if err == nil {
		err = n.open()
	}
	if err != nil {
		n.close()
		return nil, fmt.Errorf("node %s: adopt namespace %s: %w", name, filepath.Base(path), err)
	}
	return n, nil
}

// enter moves the calling thread, one of onThread's, into the node.
func (n *node) enter() error {
	if err := netns.Set(n.ns); err != nil {
		return fmt.Errorf("node %s: enter namespace: %w", n.name, err)
	}
	return nil
}

// mount gives the namespace its name back.
func (n *node) mount(path string) error {
	if err := unmountNS(path); err != nil { // an unmounted name is an empty file
		return err
	}
	err := unix.Mknod(path, unix.S_IFREG|0o444, 0)
	if err == nil {
		err = unix.Mount(fmt.Sprintf("/proc/self/fd/%d", int(n.ns)), path, "none", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("node %s: mount namespace %s again: %w", n.name, filepath.Base(path), err)
	}
	return nil
}

// inodeOf identifies the namespace mounted at path; 0: there is none, at most
// the empty file of a creator that was killed before the mount.
func inodeOf(path string) uint64 {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Statfs(path, &fs) != nil || fs.Type != unix.NSFS_MAGIC || unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// isEmptyFile says that path is what the creation or the unmount of a name
// leaves when it is interrupted.
func isEmptyFile(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0
}

// unmountNS takes the name away; the kernel ends the namespace with its last
// holder. A name that is gone is no error.
func unmountNS(path string) error {
	err := direct.Detach(path)
	if err == nil || errors.Is(err, unix.EINVAL) { // EINVAL: not mounted
		err = direct.Unlink(path)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove namespace %s: %w", filepath.Base(path), err)
	}
	return nil
}

// writeSysctl sets a value in the namespace that the thread is in.
func writeSysctl(key, value string) error { return writeProc(sysctlPath(key), value) }

// sysctlPath is the file of a sysctl. As with sysctl(8), a slash in the key
// stands for a dot in a name.
func sysctlPath(key string) string {
	return "/proc/sys/" + strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}

// readProc reads a value, its fields separated by single spaces.
func readProc(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.Join(strings.Fields(string(data)), " "), err
}

func writeProc(path, value string) error {
	fd, err := direct.Open(path, unix.O_WRONLY|unix.O_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer direct.Close(fd)
	if _, err := direct.Write(fd, []byte(value)); err != nil {
		return &os.PathError{Op: "write " + value + " to", Path: path, Err: err}
	}
	return nil
}

// ipv6Quiet says that new namespaces come with IPv6 off, or without it (the
// lab kernel is booted so): address configuration would cost more than all
// else together.
func ipv6Quiet() bool {
	v, err := readProc("/proc/sys/net/ipv6/conf/default/disable_ipv6")
	return err != nil || v == "1"
}

// quietIPv6 turns IPv6 off in the namespace the thread is in; "all" takes
// "default" along.
func quietIPv6() error { return writeSysctl("net.ipv6.conf.all.disable_ipv6", "1") }
