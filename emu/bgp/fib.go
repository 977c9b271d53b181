package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/emu/mpls"
)

// fib is where learned routes are programmed: the kernel, or a stand-in of
// the tests.
type fib interface {
	// apply removes and sets routes in one batch. Each answer belongs to the
	// route of the same index; nil: done.
	apply(set, del []vrfRoute) (setErrs, delErrs []error)
	// leftovers lists the routes that carry our mark: what a killed
	// predecessor left.
	leftovers() ([]vrfRoute, error)
	close()
}

// linkUp is posted when a device came up, dev "" when that may have been
// missed for any.
type linkUp struct{ dev string }

// kernelFIB programs this namespace. Routes carry rtnl.ProtocolBGP.
type kernelFIB struct {
	conn *rtnl.Conn
	ctl  int // socket for the index of a device
	stop chan struct{}
	wg   sync.WaitGroup

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
	f := &kernelFIB{conn: conn, ctl: ctl, stop: make(chan struct{}), index: map[string]int{}}
	if err := f.watchLinks(post); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// watchLinks posts a linkUp whenever a device goes from down to up. The
// kernel removes the routes of a device that goes down and does not bring
// them back.
func (f *kernelFIB) watchLinks(post func(any)) error {
	updates, err := f.subscribe()
	if err != nil {
		return err
	}
	f.wg.Go(func() {
		for {
			down := map[int32]bool{}
			for u := range updates {
				f.forget()
				if u.Header.Type == unix.RTM_DELLINK || u.IfInfomsg.Flags&unix.IFF_UP == 0 {
					down[u.Index] = true
					continue
				}
				if down[u.Index] {
					delete(down, u.Index)
					post(linkUp{u.Link.Attrs().Name})
				}
			}
			select {
			case <-f.stop:
				return
			default:
			}
			// The socket overflowed: any device may have been down.
			f.forget()
			if updates, err = f.subscribe(); err != nil {
				post(logLine{"error", err.Error()})
				return
			}
			post(linkUp{})
		}
	})
	return nil
}

// subscribe begins a stream of link changes; it is closed when f stops or
// messages are lost.
func (f *kernelFIB) subscribe() (chan netlink.LinkUpdate, error) {
	updates := make(chan netlink.LinkUpdate, 16)
	err := netlink.LinkSubscribeWithOptions(updates, f.stop, netlink.LinkSubscribeOptions{ErrorCallback: func(error) {}})
	if err != nil {
		return nil, fmt.Errorf("watch links: %w", err)
	}
	return updates, nil
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
	close(f.stop)
	f.wg.Wait()
	unix.Close(f.ctl)
	f.conn.Close()
}
