package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/mpls"
)

// fib is where what was learned is programmed: the kernel, or a stand-in of
// the tests.
type fib interface {
	// apply removes and sets routes in one batch. Each answer belongs to the
	// route of the same index; nil: done.
	apply(set, del []vrfRoute) (setErrs, delErrs []error)
	// leftovers lists the routes that carry our mark: what a killed
	// predecessor left.
	leftovers() ([]vrfRoute, error)
	// wire changes pseudowires and the flows on them in one batch, in order. Of
	// what cannot be added nothing stays.
	wire(ops []wireOp) []error
	// ports are the pseudowires' ports that there are, by their label In.
	ports() (map[uint32]port, error)
	// sweep removes the pseudowires of a killed predecessor and names their
	// ports.
	sweep() ([]string, error)
	close()
}

// What is posted about devices: linkUp when one came up, dev "" when that may
// have been missed for any; linkGone when one was removed; portUp when the port
// of a pseudowire forwards, which may be after the kernel took the batch.
type (
	linkUp   struct{ dev string }
	linkGone struct{ dev string }
	portUp   struct{ label uint32 }
)

// kernelFIB programs this namespace. Routes carry rtnl.ProtocolBGP, devices
// are of rtnl.GroupSpeaker.
type kernelFIB struct {
	post  func(any)
	conn  *rtnl.Conn
	ctl   int // socket for the index of a device
	links *rtnl.LinkWatch
	wg    sync.WaitGroup

	mu    sync.Mutex
	index map[string]int // of devices, until a link changes
}

func openKernelFIB(post func(any)) (fib, error) {
	conn, err := rtnl.Dial()
	if err != nil {
		return nil, err
	}
	ctl, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open a socket for device indexes: %w", err)
	}
	links, err := rtnl.WatchLinks()
	if err != nil {
		conn.Close()
		unix.Close(ctl)
		return nil, err
	}
	f := &kernelFIB{post: post, conn: conn, ctl: ctl, links: links, index: map[string]int{}}
	up, err := f.devices()
	if err != nil {
		f.close()
		return nil, err
	}
	f.wg.Go(func() { f.watchLinks(up) })
	return f, nil
}

// devices says of each device whether it is up.
func (f *kernelFIB) devices() (up map[int]bool, err error) {
	links, err := f.conn.Links()
	if err != nil {
		return nil, err
	}
	up = make(map[int]bool, len(links))
	for _, l := range links {
		up[l.Index] = l.Up
	}
	return up, nil
}

// watchLinks posts a linkUp whenever a device comes up, one that is new
// included, and a linkGone when one goes. The kernel removes the routes of a
// device that goes down and does not bring them back.
func (f *kernelFIB) watchLinks(up map[int]bool) {
	for {
		events, err := f.links.Next()
		f.forget()
		if errors.Is(err, rtnl.ErrLost) {
			if up, err = f.devices(); err == nil {
				f.post(linkUp{})
				continue
			}
		}
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				f.post(logLine{"error", err.Error()})
			}
			return
		}
		for _, e := range events {
			switch {
			case e.Gone:
				delete(up, e.Index)
				f.post(linkGone{e.Name})
				continue
			case e.Index >= rtnl.FirstSpeakerIndex:
				if label, ok := labelOf(e.LinkInfo); ok && e.Port == rtnl.PortForwarding {
					f.post(portUp{label})
				}
				continue
			case e.Up && !up[e.Index]:
				f.post(linkUp{e.Name})
			}
			up[e.Index] = e.Up
		}
	}
}

func (f *kernelFIB) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.index)
}

// indexOf asks the kernel once for each device.
func (f *kernelFIB) indexOf(dev string) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.index[dev]; i != 0 {
		return i, nil
	}
	req, err := unix.NewIfreq(dev)
	if err == nil {
		err = unix.IoctlIfreq(f.ctl, unix.SIOCGIFINDEX, req)
	}
	if err != nil {
		return 0, fmt.Errorf("device %s: %w", dev, err)
	}
	f.index[dev] = int(req.Uint32())
	return f.index[dev], nil
}

func (f *kernelFIB) apply(set, del []vrfRoute) (setErrs, delErrs []error) {
	setErrs, delErrs = make([]error, len(set)), make([]error, len(del))
	var b rtnl.Batch
	var slots []*error // of each message
	for i, r := range del {
		b.RouteDel(rtnl.Route{Table: r.Table, Dst: r.Prefix, Protocol: rtnl.ProtocolBGP}, rtnl.IgnoreMissing)
		slots = append(slots, &delErrs[i])
	}
	for i, r := range set {
		dev, err := f.indexOf(r.Dev)
		if err != nil {
			setErrs[i] = fmt.Errorf("set route %s table %d: %w", r.Prefix, r.Table, err)
			continue
		}
		m := mpls.VPNRoute(r.Table, r.Prefix, r.LSP, r.Label, r.Via, r.Dev)
		labels := m.Labels[:1]
		if r.LSP != 0 {
			labels = m.Labels[:2]
		}
		b.RouteReplace(rtnl.Route{Table: m.Table, Dst: m.Dst, Via: m.Via, DevIndex: dev, Labels: labels, Protocol: rtnl.ProtocolBGP})
		slots = append(slots, &setErrs[i])
	}
	refused, err := f.conn.Run(&b)
	if err != nil {
		for _, slot := range slots {
			*slot = err
		}
		return setErrs, delErrs
	}
	for _, e := range refused {
		*slots[e.Index] = e
	}
	return setErrs, delErrs
}

// dumpAttempts bounds how often a dump is read again because the table
// changed while it was read.
const dumpAttempts = 5

func (f *kernelFIB) leftovers() (out []vrfRoute, err error) {
	var routes []netlink.Route
	for range dumpAttempts {
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_V4,
			&netlink.Route{Table: unix.RT_TABLE_UNSPEC, Protocol: rtnl.ProtocolBGP}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list routes left by a predecessor: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		addr, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		if !ok {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		out = append(out, vrfRoute{Table: r.Table, Prefix: netip.PrefixFrom(addr, ones)})
	}
	return out, nil
}

func (f *kernelFIB) close() {
	f.links.Close()
	f.wg.Wait()
	unix.Close(f.ctl)
	f.conn.Close()
}
