package speed

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The floor is the leanest way known to make the star on this kernel: raw
// system calls on one thread, nothing remembered but a descriptor a namespace,
// messages written into one buffer. Namespaces are made by the group; the hub
// makes the group's links in one send, each with its bridge set and one end up
// at birth; each machine is filled by one send. Errors are read, successes are
// not even asked for.
//
// It leaves out all that vpclab does beside the objects: names in /run/netns,
// owner tags, MAC addresses by rule, extended error texts, looking before
// making, a record for a successor, events.

// group is how many machines are made together.
const group = 250

// Interface indexes are chosen, so that messages need no answers.
const (
	loopback  = 1
	ethernet  = 10 // eth0 in a machine, lan in a hub
	firstPort = 100
)

// floor builds the star.
func floor(n int) (*built, error) {
	var f floorStar
	took, err := timed(func() error { return onThread(func() error { return f.build(n) }) })
	if err != nil {
		return nil, err
	}
	return &built{
		took: took,
		within: func(i int, fn func() error) error {
			return onThread(func() error {
				if err := netns.Set(netns.NsHandle(f.machines[i])); err != nil {
					return err
				}
				return fn()
			})
		},
		destroy: func() (time.Duration, error) { return timed(f.destroy) },
	}, nil
}

// floorStar is a star that the floor made.
type floorStar struct {
	hubs, machines []int // namespaces
	hub, machine   messages
	sockets        []int // of the group
}

func (f *floorStar) build(n int) error {
	f.machines = make([]int, 0, n)
	socket := -1
	for at := 0; at < n; {
		h := at / perHub
		if at%perHub == 0 {
			if socket >= 0 {
				closeFD(socket)
			}
			var ns int
			var err error
			if ns, socket, err = newNamespace(); err != nil {
				return err
			}
			f.hubs = append(f.hubs, ns)
			f.hub.reset()
			f.hub.bridge(hubAddr(h))
			if err := f.hub.send(socket); err != nil {
				return fmt.Errorf("hub %d: %w", h+1, err)
			}
		}
		end := min(at+group, n, (h+1)*perHub)
		if err := f.machinesOf(socket, at, end); err != nil {
			return err
		}
		at = end
	}
	return closeFD(socket)
}

// machinesOf makes the machines [from, to) at the hub with that socket.
func (f *floorStar) machinesOf(hub, from, to int) error {
	f.sockets = f.sockets[:0]
	f.hub.reset()
	for i := from; i < to; i++ {
		ns, socket, err := newNamespace()
		if err != nil {
			return err
		}
		f.machines, f.sockets = append(f.machines, ns), append(f.sockets, socket)
		f.hub.veth(i, ns)
	}
	if err := f.hub.send(hub); err != nil {
		return fmt.Errorf("links of machines %d to %d: %w", from+1, to, err)
	}
	for k, socket := range f.sockets {
		i := from + k
		f.machine.reset()
		f.machine.fill(machineAddr(i), hubAddr(i/perHub))
		if err := f.machine.send(socket); err != nil {
			return fmt.Errorf("machine %d: %w", i+1, err)
		}
		if err := closeFD(socket); err != nil {
			return err
		}
	}
	return nil
}

// destroy closes all namespaces and waits until the kernel has taken their
// devices down: the one with the witness is the last.
func (f *floorStar) destroy() error {
	all := slices.Concat(f.hubs, f.machines)
	first, last := slices.Min(all), slices.Max(all)
	w, err := newWitness(last)
	if err != nil {
		return err
	}
	defer w.close()
	// No other descriptors are among them: the sockets were closed. Within one
	// call the kernel closes in an order of its own, so the last has another.
	if _, err := call(unix.SYS_CLOSE_RANGE, uintptr(first), uintptr(last-1), 0); err != nil {
		return fmt.Errorf("close the namespaces: %w", err)
	}
	if err := closeFD(last); err != nil {
		return err
	}
	return w.wait()
}

// newNamespace moves the thread into a new namespace and opens a netlink
// socket there. The socket tells its namespace, which is cheaper than to look
// it up in /proc.
func newNamespace() (ns, socket int, err error) {
	if _, err := call(unix.SYS_UNSHARE, unix.CLONE_NEWNET, 0, 0); err != nil {
		return 0, 0, fmt.Errorf("unshare: %w", err)
	}
	if socket, err = call(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
		return 0, 0, fmt.Errorf("netlink socket: %w", err)
	}
	if ns, err = call(unix.SYS_IOCTL, uintptr(socket), unix.SIOCGSKNS, 0); err != nil {
		return 0, 0, fmt.Errorf("namespace of a socket: %w", err)
	}
	return ns, socket, nil
}

func closeFD(fd int) error {
	_, err := call(unix.SYS_CLOSE, uintptr(fd), 0, 0)
	return err
}

// call is a system call that Go's scheduler does not hear of: telling it costs
// more than many of them do.
//
//go:uintptrescapes
func call(nr, a, b, c uintptr) (int, error) { return call6(nr, a, b, c, 0, 0, 0) }

//go:uintptrescapes
func call6(nr, a, b, c, d, e, f uintptr) (int, error) {
	r, _, errno := unix.RawSyscall6(nr, a, b, c, d, e, f)
	if errno != 0 {
		return 0, errno
	}
	return int(r), nil
}

// messages is a buffer of netlink messages.
type messages struct {
	buf  []byte
	back [4096]byte
}

func (m *messages) reset() { m.buf = m.buf[:0] }

// toKernel is where all of them go.
var toKernel = unix.RawSockaddrNetlink{Family: unix.AF_NETLINK}

// send has the messages carried out. The kernel does so within the call, and
// what it refuses is there to be read when the call returns.
func (m *messages) send(socket int) error {
	_, err := call6(unix.SYS_SENDTO, uintptr(socket), uintptr(unsafe.Pointer(&m.buf[0])), uintptr(len(m.buf)), 0,
		uintptr(unsafe.Pointer(&toKernel)), unsafe.Sizeof(toKernel))
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	got, err := call6(unix.SYS_RECVFROM, uintptr(socket), uintptr(unsafe.Pointer(&m.back)), uintptr(len(m.back)), unix.MSG_DONTWAIT, 0, 0)
	switch {
	case err == unix.EAGAIN:
		return nil
	case err != nil:
		return fmt.Errorf("receive: %w", err)
	case got >= unix.SizeofNlMsghdr+4:
		return fmt.Errorf("refused: %w", unix.Errno(-int32(binary.NativeEndian.Uint32(m.back[unix.SizeofNlMsghdr:]))))
	}
	return fmt.Errorf("refused: an answer of %d bytes", got)
}

func (m *messages) begin(typ, flags uint16) (at int) {
	at = len(m.buf)
	m.buf = append(m.buf, 0, 0, 0, 0)
	m.buf = binary.NativeEndian.AppendUint16(m.buf, typ)
	m.buf = binary.NativeEndian.AppendUint16(m.buf, flags|unix.NLM_F_REQUEST)
	m.buf = append(m.buf, 0, 0, 0, 0, 0, 0, 0, 0)
	return at
}

func (m *messages) end(at int) {
	binary.NativeEndian.PutUint32(m.buf[at:], uint32(len(m.buf)-at))
}

// link is struct ifinfomsg.
func (m *messages) link(index int, flags uint32) {
	m.buf = append(m.buf, 0, 0, 0, 0)
	for _, v := range []uint32{uint32(index), flags, flags} {
		m.buf = binary.NativeEndian.AppendUint32(m.buf, v)
	}
}

func (m *messages) attr(typ int, data []byte) {
	m.buf = binary.NativeEndian.AppendUint16(m.buf, uint16(unix.SizeofRtAttr+len(data)))
	m.buf = binary.NativeEndian.AppendUint16(m.buf, uint16(typ))
	m.buf = append(m.buf, data...)
	for len(m.buf)%unix.NLMSG_ALIGNTO != 0 {
		m.buf = append(m.buf, 0)
	}
}

func (m *messages) u32(typ int, v uint32) {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], v)
	m.attr(typ, b[:])
}

func (m *messages) str(typ int, s string) {
	var b [24]byte
	m.attr(typ, b[:copy(b[:], s)+1])
}

func (m *messages) nest(typ int) (at int) {
	at = len(m.buf)
	m.attr(typ, nil)
	return at
}

func (m *messages) endNest(at int) {
	binary.NativeEndian.PutUint16(m.buf[at:], uint16(len(m.buf)-at))
}

const create = unix.NLM_F_CREATE | unix.NLM_F_EXCL

// bridge makes a hub's bridge, up and with its address.
func (m *messages) bridge(addr [4]byte) {
	at := m.begin(unix.RTM_NEWLINK, create)
	m.link(ethernet, unix.IFF_UP)
	m.str(unix.IFLA_IFNAME, "lan")
	// A bridge without an address of its own looks at all ports for one, each
	// time that one comes.
	m.attr(unix.IFLA_ADDRESS, []byte{2, 0xb, 0, 0, 0, 1})
	info := m.nest(unix.IFLA_LINKINFO)
	m.str(nl.IFLA_INFO_KIND, "bridge")
	data := m.nest(nl.IFLA_INFO_DATA)
	m.u32(nl.IFLA_BR_STP_STATE, 0)
	m.attr(nl.IFLA_BR_MCAST_SNOOPING, []byte{0})
	m.endNest(data)
	m.endNest(info)
	m.end(at)
	m.address(addr)
}

// veth makes machine i's link from its hub: the port is in the bridge and up
// at once.
func (m *messages) veth(i, ns int) {
	at := m.begin(unix.RTM_NEWLINK, create)
	m.link(firstPort+i, unix.IFF_UP)
	var name [16]byte
	m.attr(unix.IFLA_IFNAME, append(strconv.AppendInt(append(name[:0], 'p'), int64(i+1), 10), 0))
	m.u32(unix.IFLA_MASTER, ethernet)
	m.oneQueue()
	info := m.nest(unix.IFLA_LINKINFO)
	m.str(nl.IFLA_INFO_KIND, "veth")
	data := m.nest(nl.IFLA_INFO_DATA)
	peer := m.nest(nl.VETH_INFO_PEER)
	m.link(ethernet, 0) // the kernel refuses a peer that is up at birth
	m.str(unix.IFLA_IFNAME, "eth0")
	m.oneQueue()
	m.u32(unix.IFLA_NET_NS_FD, uint32(ns))
	m.endNest(peer)
	m.endNest(data)
	m.endNest(info)
	m.end(at)
}

func (m *messages) oneQueue() {
	m.u32(unix.IFLA_NUM_TX_QUEUES, 1)
	m.u32(unix.IFLA_NUM_RX_QUEUES, 1)
}

// fill is what a machine gets: lo and eth0 up, its address, its default route.
func (m *messages) fill(addr, gateway [4]byte) {
	for _, index := range []int{loopback, ethernet} {
		at := m.begin(unix.RTM_SETLINK, 0)
		m.link(index, unix.IFF_UP)
		m.end(at)
	}
	m.address(addr)
	at := m.begin(unix.RTM_NEWROUTE, create)
	m.buf = append(m.buf, unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0)
	m.attr(unix.RTA_GATEWAY, gateway[:])
	m.u32(unix.RTA_OIF, ethernet)
	m.end(at)
}

func (m *messages) address(addr [4]byte) {
	at := m.begin(unix.RTM_NEWADDR, create)
	m.buf = append(m.buf, unix.AF_INET, starBits, 0, 0)
	m.buf = binary.NativeEndian.AppendUint32(m.buf, ethernet)
	m.attr(unix.IFA_LOCAL, addr[:])
	m.attr(unix.IFA_ADDRESS, addr[:])
	m.end(at)
}

// witness sees the end of a namespace: a veth between there and here is gone
// when that namespace is, and all those that died before it.
type witness struct{ socket int }

const witnessName = "speed-witness"

// goneDeadline is how long the kernel may take to end namespaces.
const goneDeadline = 60 * time.Second

func newWitness(ns int) (*witness, error) {
	socket, err := call(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("witness: netlink socket: %w", err)
	}
	var m messages
	at := m.begin(unix.RTM_NEWLINK, create)
	m.link(0, 0)
	m.str(unix.IFLA_IFNAME, witnessName)
	info := m.nest(unix.IFLA_LINKINFO)
	m.str(nl.IFLA_INFO_KIND, "veth")
	data := m.nest(nl.IFLA_INFO_DATA)
	peer := m.nest(nl.VETH_INFO_PEER)
	m.link(0, 0)
	m.u32(unix.IFLA_NET_NS_FD, uint32(ns))
	m.endNest(peer)
	m.endNest(data)
	m.endNest(info)
	m.end(at)
	err = m.send(socket)
	if err == nil {
		err = unix.SetsockoptInt(socket, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_LINK)
	}
	if err == nil {
		err = unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(goneDeadline.Seconds())})
	}
	if err != nil {
		closeFD(socket)
		return nil, fmt.Errorf("witness: %w", err)
	}
	return &witness{socket}, nil
}

func (w *witness) close() { closeFD(w.socket) }

// wait returns when the namespace is gone.
func (w *witness) wait() error {
	buf := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(w.socket, buf, 0)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return fmt.Errorf("waited %v for the kernel to end the namespaces", goneDeadline)
		case err != nil:
			return fmt.Errorf("witness: %w", err)
		case n >= unix.SizeofNlMsghdr && binary.NativeEndian.Uint16(buf[4:]) == unix.RTM_DELLINK:
			return nil
		}
	}
}
