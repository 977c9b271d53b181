package vmm

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
)

// guestIf is a VM's interface in its namespace.
const guestIf = "eth0"

// wire is the VM's end of its port: eth0 in the keeper's namespace. All that comes
// in there goes to the tap of the QEMU that the VM runs in, and what the VM sends
// leaves by it. The namespace's own kernel sees nothing of either.
type wire struct {
	conn    *rtnl.Conn
	index   int
	mac     net.HardwareAddr
	mtu     int
	address netip.Prefix
	gateway netip.Addr // zero: none
}

// openWire looks at eth0; nil: there is none, and the VM has no network. A namespace
// that this process shares with who started it is no VM's, whatever it has of that
// name.
func openWire() (*wire, error) {
	own, err := ownNamespace()
	if err != nil || !own {
		return nil, err
	}
	link, err := net.InterfaceByName(guestIf)
	if err != nil {
		return nil, nil // there is no other reason
	}
	w := &wire{index: link.Index, mac: link.HardwareAddr, mtu: link.MTU}
	if w.conn, err = rtnl.Dial(); err != nil {
		return nil, err
	}
	if err := w.look(); err != nil {
		w.conn.Close()
		return nil, fmt.Errorf("%s of the VM: %w", guestIf, err)
	}
	return w, nil
}

// ownNamespace tells whether this process is in a network namespace that whoever
// started it is not in.
func ownNamespace() (bool, error) {
	var ours, theirs unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &ours); err != nil {
		return false, fmt.Errorf("look at this network namespace: %w", err)
	}
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/net", os.Getppid()), &theirs); err != nil {
		return false, fmt.Errorf("look at the network namespace of who started this process: %w", err)
	}
	return ours.Ino != theirs.Ino, nil
}

// look reads address and gateway, and has eth0 ready for filters.
func (w *wire) look() error {
	addrs, err := w.conn.Addrs()
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Index == w.index {
			w.address = a.Prefix
		}
	}
	routes, err := w.conn.Routes(0)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.Dst.Bits() == 0 && r.DevIndex == w.index && r.Via.IsValid() {
			w.gateway = r.Via
		}
	}
	var b rtnl.Batch
	b.Clsact(w.index, guestIf, 0, rtnl.IgnoreExist)
	return w.conn.Do(&b)
}

// Close ends the use of eth0; what it does with frames stays as it is.
func (w *wire) Close() error {
	if w == nil {
		return nil
	}
	return w.conn.Close()
}

// tap is the end of a QEMU's network device. It is gone when nobody has the
// descriptor any more.
type tap struct {
	file  *os.File
	name  string
	index int
}

// tap makes one, whose frames from the VM leave by eth0.
func (w *wire) tap() (t *tap, err error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	t = &tap{file: os.NewFile(uintptr(fd), "tap")}
	defer func() {
		if err != nil {
			t.file.Close()
		}
	}()
	q, err := unix.NewIfreq("vm%d")
	if err != nil {
		return nil, err
	}
	q.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, q); err != nil {
		return nil, fmt.Errorf("make a tap: %w", err)
	}
	t.name = q.Name()
	link, err := net.InterfaceByName(t.name)
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", t.name, err)
	}
	t.index = link.Index
	up := true
	var b rtnl.Batch
	b.LinkSet(rtnl.LinkChange{Index: t.index, Name: t.name, MTU: w.mtu, NoIPv6Address: true})
	b.LinkSet(rtnl.LinkChange{Index: t.index, Name: t.name, Up: &up})
	b.Clsact(t.index, t.name, 0)
	b.Filter(toward(t.index, t.name, w.index))
	return t, w.conn.Do(&b)
}

// lead has frames for the VM go to this tap from now on.
func (w *wire) lead(to *tap) error {
	if w == nil || to == nil {
		return nil
	}
	f := toward(w.index, guestIf, to.index)
	var b rtnl.Batch
	b.FilterDel(rtnl.Filter{DevIndex: f.DevIndex, Dev: f.Dev, Parent: f.Parent, Prio: f.Prio}, rtnl.IgnoreMissing)
	b.Filter(f)
	if err := w.conn.Do(&b); err != nil {
		return fmt.Errorf("lead %s to %s: %w", guestIf, to.name, err)
	}
	return nil
}

// toward is the filter that has all that comes in at an interface leave by another.
func toward(index int, name string, to int) rtnl.Filter {
	return rtnl.Filter{
		DevIndex: index, Dev: name, Parent: rtnl.Ingress, Prio: 1, Handle: 1,
		Actions: []rtnl.Action{rtnl.Redirect{DevIndex: to}},
	}
}
