package fidelity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/audit"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// labelLab has paths of one, two and three core links between its PEs, a VPC
// of each service at all of them, a VM that can move, and beside them a chain
// of plain routers that is as long as the way from a to b (F11).
const labelLab = `
name: ` + labName + `
topology:
  backbone:
    pe: [pe1, pe2, pe3, pe4]
    p: [p1, p2, p3]
    links:
      - {between: [pe1, p1]}
      - {between: [p1, p2]}
      - {between: [p2, pe2]}
      - {between: [p2, p3]}
      - {between: [p3, pe3]}
      - {between: [pe1, pe4]}
  sites:
    a: {kind: enterprise, pe: pe1}
    b: {kind: enterprise, pe: pe2}
    c: {kind: enterprise, pe: pe3}
    d: {kind: enterprise, pe: pe4}
    x: {kind: cloud, pe: pe1}
    y: {kind: cloud, pe: pe2}
  nodes:
    q0: {routes: [{to: 172.20.0.0/16, via: 172.20.1.2}]}
    q1: {forward: true, routes: [{to: 172.20.7.0/24, via: 172.20.2.2}]}
    q2: {forward: true, routes: [{to: 172.20.7.0/24, via: 172.20.3.2}, {to: 172.20.1.0/24, via: 172.20.2.1}]}
    q3: {forward: true, routes: [{to: 172.20.7.0/24, via: 172.20.4.2}, {to: 172.20.1.0/24, via: 172.20.3.1}]}
    q4: {forward: true, routes: [{to: 172.20.7.0/24, via: 172.20.5.2}, {to: 172.20.1.0/24, via: 172.20.4.1}]}
    q5: {forward: true, routes: [{to: 172.20.7.0/24, via: 172.20.6.2}, {to: 172.20.1.0/24, via: 172.20.5.1}]}
    q6: {forward: true, routes: [{to: 172.20.1.0/24, via: 172.20.6.1}]}
    q7: {routes: [{to: 172.20.0.0/16, via: 172.20.7.1}]}
  links:
    - {endpoints: [q0:eth0, q1:eth0], ipv4: [172.20.1.1/24, 172.20.1.2/24]}
    - {endpoints: [q1:eth1, q2:eth0], ipv4: [172.20.2.1/24, 172.20.2.2/24]}
    - {endpoints: [q2:eth1, q3:eth0], ipv4: [172.20.3.1/24, 172.20.3.2/24]}
    - {endpoints: [q3:eth1, q4:eth0], ipv4: [172.20.4.1/24, 172.20.4.2/24]}
    - {endpoints: [q4:eth1, q5:eth0], ipv4: [172.20.5.1/24, 172.20.5.2/24]}
    - {endpoints: [q5:eth1, q6:eth0], ipv4: [172.20.6.1/24, 172.20.6.2/24]}
    - {endpoints: [q6:eth1, q7:eth0], ipv4: [172.20.7.1/24, 172.20.7.2/24]}
vpcs:
  red: {service: l3vpn, sites: [a, b, c, d]}
  blue: {service: vpls, sites: [a, b, c, d, x, y]}
vms:
  shop: {vpc: blue, host: x/1}
`

const (
	red, blue  = "red", "blue"
	movingVM   = "shop"
	perPair    = 8 // packets
	machineTTL = 64
	// pseudowireTTL is what a PE gives a frame's labels: the most, less one for
	// its own label that leads to the LSP.
	pseudowireTTL = 254
	greetNumber   = 1 << 20 // of packets that are only to make neighbours known
	labelWait     = 2 * time.Second
)

func labelPlan() (*topo.Plan, error) {
	sc, err := topo.Parse("<"+labName+">", []byte(labelLab))
	if err != nil {
		return nil, err
	}
	return topo.Expand(sc)
}

// labels is F10: every label of every packet at both ends of every core link.
func (r *run) labels(ctx context.Context) error {
	r.say("F10", nil, "build")
	plan, err := labelPlan()
	if err != nil {
		return fmt.Errorf("F10: %w", err)
	}
	if _, err := r.lab.Apply(ctx, plan); err != nil {
		return fmt.Errorf("F10: %w", err)
	}
	for _, vpc := range []string{red, blue} {
		r.say("F10", nil, "label stacks of "+vpc)
		out, err := r.truth(ctx, vpc, pairsOf(plan, vpc, ""))
		if err != nil {
			return fmt.Errorf("F10, %s: %w", vpc, err)
		}
		r.add(out)
	}
	r.say("F10", nil, "audit")
	out, err := r.audited(ctx)
	if err != nil {
		return fmt.Errorf("F10: %w", err)
	}
	r.add(out)
	r.say("F10", nil, "a VM moves")
	if _, err := r.lab.Operate(ctx, topo.Operation{Do: "move", VM: movingVM, Host: "y/1"}, lab.ApplyOptions{}); err != nil {
		return fmt.Errorf("F10: %w", err)
	}
	out, err = r.truth(ctx, blue, pairsOf(r.lab.Plan(), blue, movingVM))
	if err != nil {
		return fmt.Errorf("F10, after the move: %w", err)
	}
	out.What, out.Set = "label stacks after a MAC moves", movingVM+" from x to y"
	r.add(out)
	return nil
}

// pair is a packet's way between two machines of a VPC.
type pair struct{ from, to topo.Node }

// pairsOf are the ordered pairs of a VPC's machines; those with one of them,
// if it has a name.
func pairsOf(plan *topo.Plan, vpc, of string) (pairs []pair) {
	for _, a := range plan.Machines() {
		for _, b := range plan.Machines() {
			if a.VPC == vpc && b.VPC == vpc && a.Name != b.Name && (of == "" || a.Name == of || b.Name == of) {
				pairs = append(pairs, pair{a, b})
			}
		}
	}
	return pairs
}

// sight is a packet at an end of a core link.
type sight struct {
	node, ifname string
	out          bool
	labels       string
}

// stackText is a stack as it is compared: label, EXP, TTL and the end of the
// stack.
func stackText(labels []label) string {
	var words []string
	for _, l := range labels {
		w := fmt.Sprintf("%d exp %d ttl %d", l.Value, l.EXP, l.TTL)
		if l.Last {
			w += " s"
		}
		words = append(words, w)
	}
	return strings.Join(words, " / ")
}

// expected are the sights of a packet from one machine to another, by the
// plan: at each core link the label of the LSP, which the router before the
// last one takes off, over the label of the service.
//
// TTLs are those of the kernel's uniform model: the PE puts what IP has left
// into all labels, each router then takes one from the outermost. Frames have
// no TTL, and begin with about the most.
func expected(plan *topo.Plan, p pair) ([]sight, error) {
	vpc, _ := plan.VPC(p.from.VPC)
	from, to := peOf(vpc, p.from), peOf(vpc, p.to)
	if from == to {
		return nil, nil
	}
	service, ttl := label{Last: true}, uint8(0)
	if vpc.Service == topo.ServiceL3VPN {
		vrf, _ := vpc.VRF(to)
		service.Value, ttl = vrf.Label, machineTTL-2 // the CE and the PE have taken theirs
	} else {
		far, _ := vpc.VSI(to)
		near, _ := vpc.VSI(from)
		service.Value, ttl = far.LabelBase+uint32(near.VEID-far.BlockOffset), pseudowireTTL
	}
	service.TTL = ttl
	path, err := plan.Path(from, to)
	if err != nil {
		return nil, err
	}
	lsp, _ := plan.LSP(to)
	var all []sight
	for m := range path[:len(path)-1] {
		hop, _ := lsp.Hop(path[m])
		stack := []label{service}
		if hop.OutLabel != 0 {
			stack = []label{{Value: hop.OutLabel, TTL: ttl - uint8(m)}, service}
		}
		far, err := otherEnd(plan, path[m], hop.Dev)
		if err != nil {
			return nil, err
		}
		text := stackText(stack)
		all = append(all, sight{path[m], hop.Dev, true, text}, sight{far.Node, far.Ifname, false, text})
	}
	return all, nil
}

func peOf(vpc *topo.VPCPlan, machine topo.Node) string {
	i := slices.IndexFunc(vpc.Attachments, func(a topo.Attachment) bool { return a.Site == machine.Site })
	if i < 0 {
		return ""
	}
	return vpc.Attachments[i].PE
}

func otherEnd(plan *topo.Plan, node, ifname string) (topo.Endpoint, error) {
	for _, l := range plan.Links {
		switch {
		case l.A.Node == node && l.A.Ifname == ifname:
			return l.B, nil
		case l.B.Node == node && l.B.Ifname == ifname:
			return l.A, nil
		}
	}
	return topo.Endpoint{}, fmt.Errorf("%s:%s is an end of no link", node, ifname)
}

// ifOf is the interface of a machine.
func ifOf(plan *topo.Plan, node string) string {
	for _, l := range plan.Links {
		for _, e := range []topo.Endpoint{l.A, l.B} {
			if e.Node == node {
				return e.Ifname
			}
		}
	}
	return ""
}

// truth sends packets between machines and holds what passes the core against
// what the plan says.
func (r *run) truth(ctx context.Context, vpc string, pairs []pair) (metrics.Calibrated, error) {
	plan := r.lab.Plan()
	w, err := r.watchCore(plan, pairs)
	if err != nil {
		return metrics.Calibrated{}, err
	}
	defer w.close()
	if err := w.greet(ctx); err != nil {
		return metrics.Calibrated{}, err
	}
	seen, came, err := w.fire(ctx)
	if err != nil {
		return metrics.Calibrated{}, err
	}
	service, _ := plan.VPC(vpc)
	return judgeTruth(plan, service.Service, pairs, seen, came)
}

// judgeTruth counts sights that are missing, wrong or too many.
func judgeTruth(plan *topo.Plan, service string, pairs []pair, seen [][]sight, came []int) (metrics.Calibrated, error) {
	out := metrics.Calibrated{Test: "F10", System: systemVPCLab, What: "label stacks", Set: fmt.Sprintf("%s, %d pairs of machines", service, len(pairs)), Unit: "wrong sights"}
	wrong, checked, first := 0, 0, ""
	note := func(format string, args ...any) {
		if wrong++; first == "" {
			first = fmt.Sprintf(format, args...)
		}
	}
	for i, p := range pairs {
		want, err := expected(plan, p)
		if err != nil {
			return out, err
		}
		for k := range perPair {
			n := i*perPair + k
			if came[n] != 1 {
				note("packet from %s came to %s %d times", p.from.Name, p.to.Name, came[n])
			}
			left := slices.Clone(seen[n])
			for _, s := range want {
				checked++
				at := slices.Index(left, s)
				if at < 0 {
					note("from %s to %s at %s:%s: want %s, have %s", p.from.Name, p.to.Name, s.node, s.ifname, s.labels, stacksAt(left, s))
					continue
				}
				left = slices.Delete(left, at, at+1)
			}
			for _, s := range left {
				note("from %s to %s: at %s:%s with %s", p.from.Name, p.to.Name, s.node, s.ifname, s.labels)
			}
		}
	}
	out.N, out.Error, out.Note = checked, float64(wrong), first
	out.Measured = fmt.Sprintf("%d stacks at core links as computed: labels, EXP, TTL; each packet came once", checked)
	if wrong > 0 {
		out.Measured = fmt.Sprintf("%d of %d sights wrong", wrong, checked)
	}
	return out.Judge(), nil
}

// stacksAt are what was seen there instead.
func stacksAt(all []sight, at sight) string {
	var words []string
	for _, s := range all {
		if s.node == at.node && s.ifname == at.ifname && s.out == at.out {
			words = append(words, s.labels)
		}
	}
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, ", and ")
}

// coreWatch has a tap at both ends of all core links and at machines, and a
// gun at each machine.
type coreWatch struct {
	enter traffic.Enter
	pairs []pair
	at    []topo.Endpoint // of each tap; those of machines come last
	core  int             // taps of the core
	taps  []*tap
	guns  map[string]*gun
	sinks []int
}

func (r *run) watchCore(plan *topo.Plan, pairs []pair) (w *coreWatch, err error) {
	w = &coreWatch{enter: r.lab.Fabric().Do, pairs: pairs, guns: map[string]*gun{}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	for _, l := range plan.Links {
		if l.Core {
			w.at = append(w.at, l.A, l.B)
		}
	}
	w.core = len(w.at)
	for _, p := range pairs {
		for _, m := range []topo.Node{p.from, p.to} {
			if w.guns[m.Name] != nil {
				continue
			}
			if w.guns[m.Name], err = openGun(w.enter, m.Name, markLen, 0); err != nil {
				return w, err
			}
			fd, err := openSink(w.enter, m.Name)
			if err != nil {
				return w, err
			}
			w.sinks = append(w.sinks, fd)
			w.at = append(w.at, topo.Endpoint{Node: m.Name, Ifname: ifOf(plan, m.Name)})
		}
	}
	for _, e := range w.at {
		t, err := openTap(w.enter, e.Node, e.Ifname, 1024)
		if err != nil {
			return w, err
		}
		w.taps = append(w.taps, t)
	}
	return w, nil
}

func (w *coreWatch) close() {
	closeTaps(w.taps)
	closeSinks(w.sinks)
	for _, g := range w.guns {
		if g != nil {
			g.close()
		}
	}
}

// shoot sends n packets a pair, numbered on from first.
func (w *coreWatch) shoot(first uint32, n int) error {
	for i, p := range w.pairs {
		g := w.guns[p.from.Name]
		for k := range n {
			g.load(p.to.Addr, first+uint32(i*n+k), markLen)
		}
		if err := g.fire(); err != nil {
			return err
		}
	}
	return nil
}

// greet sends until a packet of each pair has come, so that all neighbours
// and bridges know the machines.
func (w *coreWatch) greet(ctx context.Context) error {
	heard := map[uint32]bool{}
	for until := time.Now().Add(2 * greetLimit); ; {
		if err := w.shoot(greetNumber, 1); err != nil {
			return err
		}
		err := await(ctx, 200*time.Millisecond, w.taps, func(i int, f *frame) {
			if s, ok := parse(f.Data); ok && i >= w.core && !f.Out && s.number >= greetNumber && w.arrived(i, s) {
				heard[s.number] = true
			}
		}, func() bool { return len(heard) == len(w.pairs) })
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return err
		case time.Now().After(until):
			return fmt.Errorf("%d of %d pairs of machines do not reach each other after %v", len(w.pairs)-len(heard), len(w.pairs), 2*greetLimit)
		}
	}
}

// arrived says that a packet came to the machine that it was for.
func (w *coreWatch) arrived(tap int, s seen) bool {
	n := int(s.number)
	if n >= greetNumber {
		n = (n - greetNumber) * perPair
	}
	return n/perPair < len(w.pairs) && w.pairs[n/perPair].to.Name == w.at[tap].Node
}

// fire sends the packets that are looked at: by number, where each was seen in
// the core, and how often it came to its machine.
func (w *coreWatch) fire(ctx context.Context) (seen [][]sight, came []int, err error) {
	for _, t := range w.taps {
		t.forget()
	}
	total := len(w.pairs) * perPair
	seen, came = make([][]sight, total), make([]int, total)
	arrived := 0
	if err := w.shoot(0, perPair); err != nil {
		return nil, nil, err
	}
	see := func(i int, f *frame) {
		s, ok := parse(f.Data)
		if !ok || int(s.number) >= total {
			return
		}
		if i < w.core {
			seen[s.number] = append(seen[s.number], sight{w.at[i].Node, w.at[i].Ifname, f.Out, stackText(s.labels)})
		} else if !f.Out && w.arrived(i, s) {
			if came[s.number]++; came[s.number] == 1 {
				arrived++
			}
		}
	}
	err = await(ctx, labelWait, w.taps, see, func() bool { return arrived == total })
	if err != nil && !errors.Is(err, errLate) {
		return nil, nil, err
	}
	// What came twice, or went astray, may still be under way.
	err = await(ctx, 50*time.Millisecond, w.taps, see, func() bool { return false })
	if err != nil && !errors.Is(err, errLate) {
		return nil, nil, err
	}
	return seen, came, nil
}

// attacksTried of the audit: the pairs are what is asked for here.
const attacksTried = 500

// audited has the lab audited: who reaches whom, and each frame once (split
// horizon: RFC 4762, section 4.4).
func (r *run) audited(ctx context.Context) (metrics.Calibrated, error) {
	out := metrics.Calibrated{Test: "F10", System: systemVPCLab, What: "split horizon and isolation", Set: "by IP and by frames", Unit: "pairs"}
	rep, err := audit.Run(ctx, audit.Config{Plan: r.lab.Plan(), Enter: r.lab.Fabric().Do, Budget: attacksTried})
	if err != nil {
		return out, err
	}
	out.N = 2 * rep.Pairs()
	out.Error = float64(len(rep.Doubled) + len(rep.Leaks) + len(rep.Unreached))
	out.Measured = fmt.Sprintf("%d doubled, %d leaks, %d unreached, of %d pairs by IP and by broadcast and unicast frames, and %d attacks", len(rep.Doubled), len(rep.Leaks), len(rep.Unreached), rep.Pairs(), rep.Tried())
	return out.Judge(), nil
}
