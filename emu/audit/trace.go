package audit

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// suspect is a leak with the probe that makes it.
type suspect struct {
	probe probe
	leak  *Leak
}

const (
	// tracesAtOnce bounds how many probes are under way: each is seen at every
	// interface that it, and what it is flooded to, passes.
	tracesAtOnce = 32
	// traceTries is how often a probe is sent that does not leak again: a link
	// may have lost it.
	traceTries = 3
)

// trace sends the probes of leaks again with taps on every interface of the
// routers, CEs, hosts and machines that may have a part in them, and finds
// where each crossed.
func trace(ctx context.Context, g *ground, enter traffic.Enter, suspects []suspect) error {
	stations := g.taps(suspects)
	e, err := traffic.OpenEther(enter, stations)
	if err != nil {
		return fmt.Errorf("trace leaks: %w", err)
	}
	defer e.Close()
	t := &tracer{g: g, e: e, stations: stations, at: index(stations), transit: g.transit()}
	for range traceTries {
		for some := range slices.Chunk(suspects, tracesAtOnce) {
			if err := t.again(ctx, some); err != nil {
				return fmt.Errorf("trace leaks: %w", err)
			}
		}
		suspects = slices.DeleteFunc(suspects, func(s suspect) bool { return s.leak.Crossed.Node != "" })
	}
	return nil
}

// taps are both ends of all links of the backbone and of the VPCs that leaks
// have to do with, and the routers themselves.
func (g *ground) taps(suspects []suspect) (stations []traffic.Station) {
	vpcs := map[string]bool{}
	for _, s := range suspects {
		vpcs[s.leak.VPC], vpcs[s.leak.ToVPC] = true, true
	}
	for _, l := range g.plan.Links {
		if !l.Core && !vpcs[l.VPC] {
			continue
		}
		for _, end := range []topo.Endpoint{l.A, l.B} {
			stations = append(stations, traffic.Station{Node: end.Node, Ifname: end.Ifname, Sent: true})
		}
	}
	return append(stations, g.computers()...)
}

type tracer struct {
	g        *ground
	e        *traffic.Ether
	stations []traffic.Station
	at       map[string]int
	transit  time.Duration
}

// view is a probe seen at a station.
type view struct {
	traffic.Station
	at     int64 // ns
	out    bool
	labels []uint32
	dst    netip.Addr // of a packet that was delivered to a router
	leak   bool
}

// again sends some probes and judges where they go.
func (t *tracer) again(ctx context.Context, suspects []suspect) error {
	views := make([][]view, len(suspects))
	first := t.e.Numbers(len(suspects))
	var buf []byte
	for i, s := range suspects {
		station, ok := t.at[s.probe.from.node+":"+s.probe.from.ifname]
		if !ok {
			return fmt.Errorf("%s:%s is no station", s.probe.from.node, s.probe.from.ifname)
		}
		buf = s.probe.frame(t.e, buf[:0], first+uint32(i))
		if _, _, err := t.e.Send(station, [][]byte{buf}); err != nil {
			return err
		}
	}
	for until := time.Now().Add(t.transit); ; {
		n, err := t.e.Read(max(0, time.Until(until)), func(f *traffic.Frame) {
			if number, _, ok := t.e.Marked(f.Data); ok && number >= first && int(number-first) < len(suspects) {
				i := number - first
				views[i] = append(views[i], t.view(suspects[i].probe.from, f))
			}
		})
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if n == 0 {
			break
		}
	}
	for i, s := range suspects {
		s.leak.Crossed = t.crossing(s.probe.from, views[i])
	}
	return nil
}

func (t *tracer) view(from *source, f *traffic.Frame) view {
	v := view{Station: t.stations[f.Station], at: f.At, out: f.Out}
	if v.Ifname != "" {
		v.labels = outerLabels(f.Data)
	} else {
		v.dst, _ = destination(f.Data)
	}
	v.leak = t.g.judge(from.vpc, v.Station, f.Data).place == placeLeak
	return v
}

// crossing finds the first place on the way of the probe that is another
// VPC's or the provider's own. What has entered the node before, has crossed
// there.
func (t *tracer) crossing(from *source, views []view) (c Crossing) {
	way := t.follow(from, views)
	at := slices.IndexFunc(way, func(v view) bool { return v.leak })
	if at < 0 {
		return t.outOfNowhere(views)
	}
	crossed := way[at]
	c.Node, c.Left = crossed.Node, t.text(crossed)
	for _, v := range way[:at] {
		c.Path = append(c.Path, t.step(v))
		if v.Node == crossed.Node && !v.out {
			c.Entered = t.text(v)
		}
	}
	c.Path = append(c.Path, t.step(crossed))
	return c
}

// outOfNowhere is for a probe that did not come to another VPC by the plan's
// links.
func (t *tracer) outOfNowhere(views []view) (c Crossing) {
	at := slices.IndexFunc(views, func(v view) bool { return v.leak })
	if at < 0 {
		c.Why = "it was done again and did not leak"
		return c
	}
	c.Node, c.Path = views[at].Node, []string{t.step(views[at])}
	if views[at].out {
		c.Entered, c.Left = "by an interface that the lab does not have", t.text(views[at])
	} else {
		c.Entered = t.text(views[at])
	}
	return c
}

// follow puts views in the order of the way: from the sender on link by link,
// and at each step what has left, or was delivered, first of all that may have.
// The time alone does not tell: a hop takes less than the kernel's clock can
// show.
func (t *tracer) follow(from *source, views []view) (way []view) {
	slices.SortStableFunc(views, func(a, b view) int { return cmp.Compare(a.at, b.at) })
	in := map[string][]view{} // by node:interface
	var next []view           // what leaves or is delivered
	for _, v := range views {
		if v.out || v.Ifname == "" {
			next = append(next, v)
		} else {
			in[v.Node+":"+v.Ifname] = append(in[v.Node+":"+v.Ifname], v)
		}
	}
	reached := map[string]bool{}
	arrive := func(end string) { // what leaves first arrives first
		if queue := in[end]; len(queue) > 0 {
			way = append(way, queue[0])
			in[end] = queue[1:]
			reached[queue[0].Node] = true
		}
	}
	// A socket does not see what it has sent itself: the first view is the
	// neighbour's.
	for arrive(t.g.peers[from.node+":"+from.ifname]); ; {
		i := slices.IndexFunc(next, func(v view) bool { return reached[v.Node] })
		if i < 0 {
			return way
		}
		v := next[i]
		next = slices.Delete(next, i, i+1)
		way = append(way, v)
		arrive(t.g.peers[v.Node+":"+v.Ifname])
	}
}

func (t *tracer) step(v view) string {
	if v.out {
		return "out " + t.text(v)
	}
	return "in " + t.text(v)
}

// text is a view in words: pe1:red-1 (circuit of red at s1) with label 20201
// (blue at pe1).
func (t *tracer) text(v view) string {
	if v.Ifname == "" {
		return fmt.Sprintf("%s itself, which has %s", v.Node, v.dst)
	}
	s := fmt.Sprintf("%s (%s)", v.Station, t.g.ends[v.Node+":"+v.Ifname].what)
	if len(v.labels) == 0 {
		return s + " unlabelled"
	}
	s += " with " + labelWords(v.labels)
	if owner, known := t.g.labels[v.labels[len(v.labels)-1]]; known {
		s += " (" + owner.what + ")"
	}
	return s
}
