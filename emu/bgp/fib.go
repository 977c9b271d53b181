package bgp

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
)

// fib is where what was learned is programmed: the kernel, or a stand-in of
// the tests.
type fib interface {
	// apply removes and sets routes in one batch. Each answer belongs to the
	// route of the same index; nil: done.
	apply(set, del []vrfRoute) (setErrs, delErrs []error)
	// nexthops adds and moves shared next hops, then removes others, in one
	// batch. Errors belong to the next hop of the same index; errGone: one that
	// was to move is not there any more, nor are the routes that referred to it.
	nexthops(add, move []nexthop, del []uint32) (addErrs, moveErrs []error)
	// leftovers lists the routes that carry our mark: what a killed
	// predecessor left.
	leftovers() ([]vrfRoute, error)
	// wire changes pseudowires and the flows on them in one batch, in order. Of
	// what cannot be added nothing stays.
	wire(ops []wireOp) []error
	// ports are the pseudowires' ports that there are, by their label In.
	ports() (map[uint32]port, error)
	// gates opens and closes ports to sites, and has the ports of pseudowires,
	// by their label, forget what they learned. Errors belong to the gates.
	gates(set []gate, flush []uint32) []error
	// sweep removes the pseudowires of a killed predecessor and names their
	// ports, and its shared next hops with the routes that refer to them.
	sweep() ([]string, error)
	close()
}

// errGone is the error of a next hop that the kernel has removed.
var errGone = unix.ENOENT

// What is posted about devices: linkUp when one came up, dev "" when that may
// have been missed for any; linkGone when one was removed; linkLit when one got
// a carrier, or lost it or went down; portUp when the port of a pseudowire
// forwards, which may be after the kernel took the batch.
type (
	linkUp   struct{ dev string }
	linkGone struct{ dev string }
	linkLit  struct {
		dev string
		lit bool
	}
	portUp struct{ label uint32 }
)

// kernelFIB programs this namespace. Routes carry rtnl.ProtocolBGP, devices
// are of rtnl.GroupSpeaker.
type kernelFIB struct {
	post  func(any)
	conn  *rtnl.Conn
	ctl   int // socket for the index of a device
	links *rtnl.LinkWatch
	wg    sync.WaitGroup

	batch rtnl.Batch // of routes and next hops, used again and again

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
	was, err := f.devices(nil)
	if err != nil {
		f.close()
		return nil, err
	}
	f.wg.Go(func() { f.watchLinks(was) })
	return f, nil
}

// devState is what counts of a device: whether it is up, and whether it has a
// carrier as well.
type devState struct{ up, lit bool }

// devices reads the state of each device, and posts which have a carrier where
// that is not as it was.
func (f *kernelFIB) devices(was map[int]devState) (is map[int]devState, err error) {
	links, err := f.conn.Links()
	if err != nil {
		return nil, err
	}
	is = make(map[int]devState, len(links))
	for _, l := range links {
		s := devState{l.Up, l.Up && l.Carrier}
		is[l.Index] = s
		if old, known := was[l.Index]; !known && !s.lit || known && old.lit != s.lit {
			f.post(linkLit{l.Name, s.lit})
		}
	}
	return is, nil
}

// watchLinks posts a linkUp whenever a device comes up, one that is new
// included, a linkLit when it gets or loses its carrier, and a linkGone when it
// goes. The kernel removes the routes of a device that goes down, and the next
// hops of one that loses its carrier, and does not bring them back.
func (f *kernelFIB) watchLinks(was map[int]devState) {
	for {
		events, err := f.links.Next()
		f.forget()
		if errors.Is(err, rtnl.ErrLost) {
			if was, err = f.devices(was); err == nil {
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
				delete(was, e.Index)
				f.post(linkGone{e.Name})
			case e.Index >= rtnl.FirstSpeakerIndex:
				if label, ok := labelOf(e.LinkInfo); ok && e.Port == rtnl.PortForwarding {
					f.post(portUp{label})
				}
			default:
				is, old := devState{e.Up, e.Up && e.Carrier}, was[e.Index]
				if is.lit != old.lit || !is.lit { // without one: it may have gone and come in between
					f.post(linkLit{e.Name, is.lit})
				}
				if is.up && !old.up {
					f.post(linkUp{e.Name})
				}
				was[e.Index] = is
			}
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
	f.batch.Reset()
	slots := make([]*error, 0, len(set)+len(del)) // of each message
	for i, r := range del {
		f.batch.RouteDel(rtnl.Route{Table: r.Table, Dst: r.Prefix, Metric: r.Metric, Protocol: rtnl.ProtocolBGP}, rtnl.IgnoreMissing)
		slots = append(slots, &delErrs[i])
	}
	for i, r := range set {
		m := rtnl.Route{Table: r.Table, Dst: r.Prefix, Metric: r.Metric, Nexthop: r.Nexthop, Protocol: rtnl.ProtocolBGP}
		if r.Nexthop == 0 {
			dev, err := f.indexOf(r.Way.Dev)
			if err != nil {
				setErrs[i] = fmt.Errorf("set route %s table %d: %w", r.Prefix, r.Table, err)
				continue
			}
			m.Via, m.DevIndex, m.Labels = r.Way.Via, dev, stackOf(r.Way.Labels)
		}
		f.batch.RouteReplace(m)
		slots = append(slots, &setErrs[i])
	}
	f.settle(slots)
	return setErrs, delErrs
}

// settle sends the batch and files each refusal where its message's goes.
func (f *kernelFIB) settle(slots []*error) {
	refused, err := f.conn.Run(&f.batch)
	if err != nil {
		for _, slot := range slots {
			*slot = err
		}
		return
	}
	for _, e := range refused {
		*slots[e.Index] = e
	}
}

func (f *kernelFIB) nexthops(add, move []nexthop, del []uint32) (addErrs, moveErrs []error) {
	addErrs, moveErrs = make([]error, len(add)), make([]error, len(move))
	f.batch.Reset()
	slots := make([]*error, 0, len(add)+len(move)+len(del))
	put := func(n nexthop, slot *error, put func(rtnl.Nexthop, ...rtnl.Option)) {
		dev, err := f.indexOf(n.Way.Dev)
		if err != nil {
			*slot = fmt.Errorf("set next hop %d: %w", n.ID, err)
			return
		}
		put(rtnl.Nexthop{ID: n.ID, Via: n.Way.Via, DevIndex: dev, Dev: n.Way.Dev, Labels: stackOf(n.Way.Labels), Protocol: rtnl.ProtocolBGP})
		slots = append(slots, slot)
	}
	for i, n := range move { // first: packets wait for them
		put(n, &moveErrs[i], f.batch.NexthopMove)
	}
	for i, n := range add {
		put(n, &addErrs[i], f.batch.NexthopAdd)
	}
	unasked := new(error)
	for _, id := range del {
		f.batch.NexthopDel(id, rtnl.IgnoreMissing)
		slots = append(slots, unasked)
	}
	f.settle(slots)
	return addErrs, moveErrs
}

func (f *kernelFIB) leftovers() (out []vrfRoute, err error) {
	routes, err := f.conn.Routes(rtnl.ProtocolBGP)
	if err != nil {
		return nil, fmt.Errorf("list routes left by a predecessor: %w", err)
	}
	for _, r := range routes {
		out = append(out, vrfRoute{Table: r.Table, Prefix: r.Dst, Metric: r.Metric})
	}
	return out, nil
}

func (f *kernelFIB) close() {
	f.links.Close()
	f.wg.Wait()
	unix.Close(f.ctl)
	f.conn.Close()
}
