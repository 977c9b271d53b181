package fidelity

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// labName is the lab that calibrations build.
const labName = "calibrate"

// A bench is a star of links that are measured:
//
//	src ── near ══ far1     src ── near is as fast as the kernel makes it;
//	         ║ ╚══ far2     near forwards, and each link from near to a far
//	         ╚════ far3     node is impaired in that direction
//
// What src sends is stamped by the kernel where it enters near and where it
// comes off the link at far, so that the difference is the link's.
type bench struct {
	system string
	enter  traffic.Enter
	// set makes the links what it is given.
	set func(ctx context.Context, links []topo.Impairment) error
	// live says that set changes a rate in place and leaves what queues.
	live bool
	// links that there can be; 0: as many as one wants.
	limit int
}

const (
	srcNode, nearNode = "src", "near"
	srcIf             = "eth0"
)

func farNode(i int) string { return fmt.Sprintf("far%d", i+1) }

func nearIf(i int) string { return fmt.Sprintf("eth%d", i+1) }

// Addresses of the two ends of link i; the link to src is number -1.
func nearAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(i + 1), 1}) }

func farAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(i + 1), 2}) }

// labBench is a bench of the lab's own links. beside are further pairs of
// nodes, each with a link of its own.
func labBench(l Lab, beside ...topo.Impairment) *bench {
	return &bench{
		system: systemVPCLab, live: true,
		enter: func(node string, fn func() error) error { return l.Fabric().Do(node, fn) },
		set: func(ctx context.Context, links []topo.Impairment) error {
			plan, err := starPlan(links, beside)
			if err != nil {
				return err
			}
			_, err = l.Apply(ctx, plan)
			return err
		},
	}
}

// starPlan is the bench as a scenario: what a user would write.
func starPlan(links, beside []topo.Impairment) (*topo.Plan, error) {
	sc := &topo.Scenario{Name: labName}
	node := func(name string, n topo.Plain) {
		sc.Topology.Nodes = append(sc.Topology.Nodes, topo.Entry[topo.Plain]{Name: name, Value: n})
	}
	link := func(a, b string, i int, forward *topo.Impairment) {
		sc.Topology.Links = append(sc.Topology.Links, topo.PlainLink{
			Endpoints: []string{a, b}, Forward: forward,
			IPv4: []topo.Prefix{netip.PrefixFrom(nearAddr(i), 30), netip.PrefixFrom(farAddr(i), 30)},
		})
	}
	others := netip.MustParsePrefix("10.9.0.0/16")
	by := func(a netip.Addr) topo.Plain {
		return topo.Plain{Routes: []topo.PlainRoute{{To: others, Via: a}}}
	}
	node(nearNode, topo.Plain{Forward: true})
	node(srcNode, by(nearAddr(-1)))
	link(nearNode+":"+srcIf, srcNode+":"+srcIf, -1, nil)
	for i, l := range links {
		node(farNode(i), by(nearAddr(i)))
		link(nearNode+":"+nearIf(i), farNode(i)+":"+srcIf, i, &l)
	}
	for i, l := range beside {
		node(busyNode(i), topo.Plain{})
		node(idleNode(i), topo.Plain{})
		link(busyNode(i)+":"+srcIf, idleNode(i)+":"+srcIf, 128+i, &l)
	}
	plan, err := topo.Expand(sc)
	if err != nil {
		return nil, fmt.Errorf("plan the bench: %w", err)
	}
	return plan, nil
}

func busyNode(i int) string { return fmt.Sprintf("busy%d", i+1) }

func idleNode(i int) string { return fmt.Sprintf("idle%d", i+1) }

// lane is a bench with its instruments: sinks and taps at all far nodes.
type lane struct {
	*bench
	links []topo.Impairment
	in    *tap // what enters near from src; nil: not wanted
	out   []*tap
	sinks []int
}

// lay sets the links and opens the instruments; room is how many packets each
// tap holds. entry also watches what comes to near.
func (b *bench) lay(ctx context.Context, links []topo.Impairment, room int, entry bool) (l *lane, err error) {
	if err := b.set(ctx, links); err != nil {
		return nil, err
	}
	l = &lane{bench: b, links: links}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if entry {
		if l.in, err = openTap(b.enter, nearNode, srcIf, room*len(links)); err != nil {
			return l, err
		}
	}
	for i := range links {
		t, err := openTap(b.enter, farNode(i), srcIf, room)
		if err != nil {
			return l, err
		}
		l.out = append(l.out, t)
		fd, err := openSink(b.enter, farNode(i))
		if err != nil {
			return l, err
		}
		l.sinks = append(l.sinks, fd)
	}
	return l, l.greet(ctx)
}

// greetLimit is how long the first packet may take; it may be lost, too, and is
// sent again.
const greetLimit = 5 * time.Second

// greet sends packets until each far node has got one from src and from near,
// so that every neighbour is known to the others.
func (l *lane) greet(ctx context.Context) error {
	froms := []string{nearNode}
	if l.in != nil {
		froms = append(froms, srcNode)
	}
	for _, from := range froms {
		g, err := openGun(l.enter, from, markLen, 0)
		if err != nil {
			return err
		}
		err = l.greetFrom(ctx, g)
		g.close()
		if err != nil {
			return fmt.Errorf("first packet from %s: %w", from, err)
		}
	}
	return nil
}

func (l *lane) greetFrom(ctx context.Context, g *gun) error {
	missing := map[int]bool{}
	for i := range l.out {
		missing[i] = true
	}
	for until := time.Now().Add(greetLimit); len(missing) > 0; {
		longest := time.Duration(0)
		for i := range missing {
			longest = max(longest, time.Duration(l.links[i].Delay+4*l.links[i].Jitter))
			g.load(farAddr(i), 0, markLen)
		}
		if err := g.fire(); err != nil {
			return err
		}
		err := await(ctx, longest+50*time.Millisecond, l.out, func(i int, f *frame) {
			if _, ok := parse(f.Data); ok {
				delete(missing, i)
			}
		}, func() bool { return len(missing) == 0 })
		if err != nil && (ctx.Err() != nil || time.Now().After(until)) {
			return fmt.Errorf("%d links bring nothing after %v: %w", len(missing), greetLimit, err)
		}
	}
	// Packets that were sent again may still be under way.
	longest := time.Duration(0)
	for _, i := range l.links {
		longest = max(longest, time.Duration(i.Delay+4*i.Jitter))
	}
	err := await(ctx, longest+10*time.Millisecond, l.out, func(int, *frame) {}, func() bool { return false })
	if ctx.Err() != nil {
		return err
	}
	if l.in != nil {
		l.in.forget()
	}
	return nil
}

func (l *lane) close() {
	closeTaps(l.out)
	if l.in != nil {
		l.in.close()
	}
	closeSinks(l.sinks)
}
