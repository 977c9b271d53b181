package frr

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
)

// Protocol numbers of the routes and labels that FRR's daemons make, by way of
// zebra (rt_protos of iproute2).
const (
	protoZebra  = 11
	protoOSPF   = 188
	protoLDP    = 193
	protoStatic = 196
)

// questionDeadline bounds a question to bgpd about the routes of a VRF.
const questionDeadline = 5 * time.Second

// vpnRoute is a labelled route of a VRF table, as the kernel has it.
type vpnRoute struct {
	labels string // outermost first, with slashes
	via    string
	dev    int
}

type place struct {
	table  int
	prefix netip.Prefix
}

func (p place) compare(q place) int {
	if p.table != q.table {
		return p.table - q.table
	}
	if c := p.prefix.Addr().Compare(q.prefix.Addr()); c != 0 {
		return c
	}
	return p.prefix.Bits() - q.prefix.Bits()
}

// watch follows the VRF tables of this namespace and reports what BGP's routes
// there do. The kernel is asked, not FRR: a route counts when packets take it.
type watch struct {
	node     string
	sink     event.Sink
	nextHops func(ctx context.Context, vrf string) (map[netip.Prefix]netip.Addr, error)
	blind    func(error) // called when the kernel cannot be watched any more
	stop     chan struct{}
	done     chan struct{}
	ending   sync.Once

	mu     sync.Mutex
	tables map[int]string     // VRF by table, those of the past too
	have   map[place]vpnRoute // as reported
}

func startWatch(node string, sink event.Sink, nextHops func(context.Context, string) (map[netip.Prefix]netip.Addr, error), blind func(error)) (*watch, error) {
	w := &watch{node: node, sink: sink, nextHops: nextHops, blind: blind, stop: make(chan struct{}), done: make(chan struct{}),
		tables: map[int]string{}, have: map[place]vpnRoute{}}
	s, err := w.subscribe()
	if err != nil {
		return nil, err
	}
	go w.follow(s)
	return w, nil
}

// setTables names the VRFs. It is told before a route can be in one.
func (w *watch) setTables(vrfs []bgp.VRF) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range vrfs {
		w.tables[v.Table] = v.Name
	}
}

// stream is what the kernel tells. A channel that is closed says that
// something was missed.
type stream struct {
	routes chan netlink.RouteUpdate
	links  chan netlink.LinkUpdate
	stop   chan struct{}
}

// subscribe begins a stream.
func (w *watch) subscribe() (*stream, error) {
	s := &stream{make(chan netlink.RouteUpdate, 256), make(chan netlink.LinkUpdate, 16), make(chan struct{})}
	quiet := func(error) {} // the closed channel says it
	err := netlink.RouteSubscribeWithOptions(s.routes, s.stop, netlink.RouteSubscribeOptions{ErrorCallback: quiet})
	if err == nil {
		err = netlink.LinkSubscribeWithOptions(s.links, s.stop, netlink.LinkSubscribeOptions{ErrorCallback: quiet})
	}
	if err != nil {
		close(s.stop)
		return nil, fmt.Errorf("watch routes and links: %w", err)
	}
	return s, nil
}

// follow reports until the watch is closed.
func (w *watch) follow(s *stream) {
	defer close(w.done)
	defer func() { close(s.stop) }()
	for {
		whole := false // the tables must be read again
		changed := map[place]*vpnRoute{}
		open := true
		select {
		case <-w.stop:
			return
		case u, ok := <-s.routes:
			open = ok
			note(changed, u)
		case u, ok := <-s.links:
			open = ok
			whole = lost(u)
		}
		now := event.Now()
		for more := true; more && open; { // what else is there already
			select {
			case u, ok := <-s.routes:
				open = ok
				note(changed, u)
			case u, ok := <-s.links:
				open = ok
				whole = whole || lost(u)
			default:
				more = false
			}
		}
		if !open {
			close(s.stop)
			next, err := w.subscribe()
			if err != nil {
				s = &stream{stop: make(chan struct{})} // nothing comes of it
				w.blind(err)
				continue
			}
			s, whole = next, true
		}
		w.report(now, changed, whole)
	}
}

// lost says that a link went down: with it go its routes, and the kernel does
// not tell them one by one.
func lost(u netlink.LinkUpdate) bool {
	return u.Header.Type == unix.RTM_DELLINK || u.IfInfomsg.Flags&unix.IFF_UP == 0 || u.IfInfomsg.Flags&unix.IFF_RUNNING == 0
}

// note files a route message; nil stands for a route that is gone.
func note(changed map[place]*vpnRoute, u netlink.RouteUpdate) {
	at, r, ok := readRoute(u.Route)
	if !ok {
		return
	}
	if u.Type == unix.RTM_DELROUTE {
		changed[at] = nil
		return
	}
	changed[at] = &r
}

// readRoute takes a labelled route of BGP's; other routes are not ok.
func readRoute(r netlink.Route) (at place, out vpnRoute, ok bool) {
	if int(r.Protocol) != rtnl.ProtocolBGP || r.Dst == nil {
		return at, out, false
	}
	addr, ok := netip.AddrFromSlice(r.Dst.IP.To4())
	if !ok {
		return at, out, false
	}
	ones, _ := r.Dst.Mask.Size()
	at = place{r.Table, netip.PrefixFrom(addr, ones)}
	encap, gw, dev := r.Encap, r.Gw, r.LinkIndex
	if len(r.MultiPath) > 0 {
		encap, gw, dev = r.MultiPath[0].Encap, r.MultiPath[0].Gw, r.MultiPath[0].LinkIndex
	}
	e, labelled := encap.(*netlink.MPLSEncap)
	if !labelled || e == nil {
		return at, out, false
	}
	words := make([]string, len(e.Labels))
	for i, l := range e.Labels {
		words[i] = strconv.Itoa(l)
	}
	return at, vpnRoute{labels: strings.Join(words, "/"), via: gw.String(), dev: dev}, true
}

// read lists the labelled routes of BGP's in all tables.
func read() (out map[place]vpnRoute, err error) {
	var routes []netlink.Route
	const attempts = 5
	for range attempts {
		routes, err = netlink.RouteListFiltered(netlink.FAMILY_V4,
			&netlink.Route{Table: unix.RT_TABLE_UNSPEC, Protocol: rtnl.ProtocolBGP}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read VPN routes: %w", err)
	}
	out = map[place]vpnRoute{}
	for _, r := range routes {
		if at, v, ok := readRoute(r); ok {
			out[at] = v
		}
	}
	return out, nil
}

// report compares with what was reported and tells the difference, in the
// order of tables. whole: changed is not all that did.
func (w *watch) report(t event.Mono, changed map[place]*vpnRoute, whole bool) {
	if whole {
		all, err := read()
		if err != nil {
			w.say("bgp.log", t, map[string]string{"level": "error", "text": err.Error()})
		} else {
			changed = map[place]*vpnRoute{}
			w.mu.Lock()
			for at := range w.have {
				changed[at] = nil
			}
			w.mu.Unlock()
			for at, r := range all {
				changed[at] = &r
			}
		}
	}
	hops := map[string]map[netip.Prefix]netip.Addr{}
	for _, at := range slices.SortedFunc(maps.Keys(changed), place.compare) {
		w.change(t, at, changed[at], hops)
	}
}

// change reports what one route does, if that is new. hops keeps the answers
// of bgpd.
func (w *watch) change(t event.Mono, at place, r *vpnRoute, hops map[string]map[netip.Prefix]netip.Addr) {
	w.mu.Lock()
	vrf, known := w.tables[at.table]
	had, reported := w.have[at]
	if !known || (r == nil && !reported) || (r != nil && reported && had == *r) {
		w.mu.Unlock()
		return
	}
	if r == nil {
		delete(w.have, at)
	} else {
		w.have[at] = *r
	}
	w.mu.Unlock()
	attr := map[string]string{"vrf": vrf, "table": strconv.Itoa(at.table), "prefix": at.prefix.String()}
	if r == nil {
		w.say("route.removed", t, attr)
		return
	}
	attr["labels"] = r.labels
	if _, asked := hops[vrf]; !asked {
		ctx, cancel := context.WithTimeout(context.Background(), questionDeadline)
		hops[vrf], _ = w.nextHops(ctx, vrf) // without an answer the event lacks the egress
		cancel()
	}
	if hop, ok := hops[vrf][at.prefix]; ok {
		attr["egress"] = hop.String()
	}
	w.say("route.programmed", t, attr)
}

func (w *watch) say(kind string, t event.Mono, attr map[string]string) {
	e := event.New(w.node, kind, attr)
	e.Wall = e.Wall.Add(t.Sub(e.T))
	e.T = t
	w.sink(e)
}

// finish reports what has happened until now, and ends the watch.
func (w *watch) finish() error {
	w.close()
	w.report(event.Now(), nil, true)
	return nil
}

func (w *watch) close() {
	w.ending.Do(func() { close(w.stop) })
	<-w.done
}

// sweep removes the routes and labels of FRR's from this namespace: those of a
// zebra that was killed, which nobody else would.
func sweep() error {
	conn, err := rtnl.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	var b rtnl.Batch
	for _, p := range []uint8{rtnl.ProtocolBGP, protoZebra, protoOSPF, protoLDP, protoStatic} {
		routes, err := conn.Routes(p)
		if err != nil {
			return err
		}
		for _, r := range routes {
			b.RouteDel(rtnl.Route{Table: r.Table, Dst: r.Dst, Metric: r.Metric, Protocol: p, Unreachable: r.Unreachable}, rtnl.IgnoreMissing)
		}
		labels, err := conn.MPLSRoutes(p)
		if err != nil {
			return err
		}
		for _, l := range labels {
			b.MPLSDel(l.In, rtnl.IgnoreMissing)
		}
	}
	refused, err := conn.Run(&b)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range refused {
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}
