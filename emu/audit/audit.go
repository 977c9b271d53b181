package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// Config is an audit of a running lab.
type Config struct {
	Plan  *topo.Plan    // what the lab was made of
	Enter traffic.Enter // of its nodes: fabric.Do
	// Deadline is how long pairs that should reach each other are asked again;
	// default 5 s.
	Deadline time.Duration
	// Budget bounds the attacks; above it only every so many-th is tried.
	// Default 200,000.
	Budget int
	// Seed orders the questions.
	Seed uint64
}

const (
	defaultDeadline = 5 * time.Second
	defaultBudget   = 200_000

	// maxTraces bounds the leaks of which the hop is looked for.
	maxTraces = 256
)

// Run asks everything and returns what was found; leaks are no error. Nobody
// may change the lab meanwhile.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if cfg.Deadline <= 0 {
		cfg.Deadline = defaultDeadline
	}
	if cfg.Budget <= 0 {
		cfg.Budget = defaultBudget
	}
	r := &run{cfg: cfg, g: newGround(cfg.Plan), report: &Report{
		Lab: cfg.Plan.Lab, VPCs: len(cfg.Plan.Customers()), Leaks: []Leak{}, Unreached: []Pair{}, Doubled: []Pair{}, // [] in JSON, not null
	}}
	r.report.Machines, r.report.Sites = len(r.g.machines), r.g.sites()
	if len(r.g.machines) == 0 {
		return nil, fmt.Errorf("audit of lab %s: it has no machines to ask", cfg.Plan.Lab)
	}
	if err := r.do(ctx); err != nil {
		return nil, fmt.Errorf("audit of lab %s: %w", cfg.Plan.Lab, err)
	}
	return r.report, nil
}

// run is an audit under way.
type run struct {
	cfg      Config
	g        *ground
	report   *Report
	index    map[string]int // of a machine, by name
	sources  []source       // one a machine
	prober   *traffic.Prober
	suspects []suspect
}

// do goes through the questions. Pairs come first: they show that paths work
// before silence is taken for isolation.
func (r *run) do(ctx context.Context) error {
	began := event.Now()
	defer func() { r.report.Seconds.All = event.Now().Sub(began).Seconds() }()
	r.index = map[string]int{}
	for i, m := range r.g.machines {
		r.index[m.Name] = i
		r.sources = append(r.sources, r.g.machineSource(m))
	}
	if err := timed(&r.report.Seconds.Sockets, func() (err error) {
		r.prober, err = traffic.Open(r.cfg.Enter, r.speakers())
		return err
	}); err != nil {
		return err
	}
	defer r.prober.Close()
	if err := timed(&r.report.Seconds.IP, func() error { return r.packets(ctx) }); err != nil {
		return err
	}
	if err := r.below(ctx); err != nil {
		return err
	}
	if err := timed(&r.report.Seconds.Again, func() error { return r.again(ctx) }); err != nil {
		return err
	}
	return timed(&r.report.Seconds.Traces, func() error { return r.traces(ctx) })
}

// below asks what is asked below IP. Its sockets see every frame that passes:
// they are open as long as they are read, and no longer.
func (r *run) below(ctx context.Context) error {
	stations := r.g.stations()
	var e *traffic.Ether
	if err := timed(&r.report.Seconds.Sockets, func() (err error) {
		e, err = traffic.OpenEther(r.cfg.Enter, stations)
		return err
	}); err != nil {
		return err
	}
	defer e.Close()
	if err := timed(&r.report.Seconds.Frames, func() error { return r.frames(ctx, e, stations) }); err != nil {
		return err
	}
	if err := timed(&r.report.Seconds.Attacks, func() error { return r.attack(ctx, e, stations) }); err != nil {
		return err
	}
	drops, err := e.Drops()
	if err == nil && drops > 0 {
		err = fmt.Errorf("%d frames came faster than they were read, so that a leak may not have been seen: do it again", drops)
	}
	return err
}

// timed adds how long do takes.
func timed(seconds *float64, do func() error) error {
	began := event.Now()
	err := do()
	*seconds += event.Now().Sub(began).Seconds()
	return err
}

// speakers are the machines that are asked by IP: those that sockets can be opened
// in.
func (r *run) speakers() (eps []traffic.Endpoint) {
	for i, ep := range r.endpoints() {
		if r.g.machines[i].OwnKernel() {
			r.note("VM %s is not asked by IP: its kernel is its own, and no socket can be opened in it from here; frames are sent from its network card, and seen where they reach that", ep.Name)
			continue
		}
		eps = append(eps, ep)
	}
	return eps
}

func (r *run) endpoints() (eps []traffic.Endpoint) {
	for _, m := range r.g.machines {
		eps = append(eps, traffic.Endpoint{Name: m.Name, VPC: m.VPC, Site: m.Site, Addr: m.Addr})
	}
	return eps
}

// packets asks every pair by IP.
func (r *run) packets(ctx context.Context) error {
	m, err := r.matrix(ctx, 0)
	if err != nil {
		return err
	}
	r.report.IP = Matrix{Endpoints: endpoints(m.Endpoints), Cells: m.Cells, Allowed: m.Allowed, Reached: m.Reached, Forbidden: m.Forbidden, Leaks: m.Leaks, Sent: m.Probes}
	for _, pair := range m.Missing {
		r.report.Unreached = append(r.report.Unreached, Pair{By: "ip", From: pair.From, To: pair.To, Seen: pair.String()})
	}
	for _, pair := range m.Leaked {
		from, to := r.index[pair.From], &r.g.machines[r.index[pair.To]]
		r.suspect(r.g.packetTo(&r.sources[from], to), to, pair.String())
	}
	return nil
}

// again asks every pair by IP after the attacks: they must not have cut
// anybody off, nor opened a way. What was wrong before is known already.
func (r *run) again(ctx context.Context) error {
	if len(r.report.Unreached) > 0 || r.report.IP.Leaks > 0 {
		return nil
	}
	m, err := r.matrix(ctx, 1)
	if err != nil {
		return err
	}
	for _, pair := range m.Missing {
		r.report.Unreached = append(r.report.Unreached, Pair{By: "ip", From: pair.From, To: pair.To, Seen: "since the attacks " + pair.String()})
	}
	for _, pair := range m.Leaked {
		from, to := r.index[pair.From], &r.g.machines[r.index[pair.To]]
		r.suspect(r.g.packetTo(&r.sources[from], to), to, "since the attacks "+pair.String())
	}
	return nil
}

// matrix asks with so many rounds for forbidden pairs; 0: as many as usual.
func (r *run) matrix(ctx context.Context, rounds int) (*traffic.Matrix, error) {
	m, err := r.prober.Matrix(ctx, traffic.MatrixConfig{
		Allowed: r.g.reach, Deadline: r.cfg.Deadline, DespiteMissing: true, Rounds: rounds, MinGrace: r.g.transit(), Seed: r.cfg.Seed,
	})
	var incomplete *traffic.Incomplete
	if errors.As(err, &incomplete) {
		err = nil // it is in the matrix
	}
	return m, err
}

// packetTo is the honest packet from one machine to another's address.
func (g *ground) packetTo(from *source, to *machine) probe {
	p := probe{kind: KindIP, from: from, dst: to.mac, src: from.mac, ip: true, ipSrc: from.addr, ipDst: to.Addr}
	if from.lan.service == topo.ServiceL3VPN && !from.lan.Subnet.Contains(to.Addr) {
		p.dst = from.lan.gateway
	}
	return p
}

// frames asks every pair below IP.
func (r *run) frames(ctx context.Context, e *traffic.Ether, stations []traffic.Station) error {
	strays := map[[2]string]sighting{} // by sender and VPC: the deepest
	cfg := traffic.FrameConfig{
		Allowed: r.g.oneLAN, Deadline: r.cfg.Deadline, Grace: r.g.transit(), Burst: r.burst(), Seed: r.cfg.Seed,
		Stray: func(from traffic.Endpoint, f *traffic.Frame) {
			if seen := r.g.judge(from.VPC, stations[f.Station], f.Data); seen.place == placeLeak {
				at := [2]string{from.Name, seen.vpc}
				strays[at] = r.g.deepest(strays[at], seen)
			}
		},
	}
	for i, ep := range r.endpoints() {
		cfg.Ports = append(cfg.Ports, traffic.LANPort{Endpoint: ep, Station: i, MAC: r.g.machines[i].mac})
	}
	m, err := e.Frames(ctx, cfg)
	if err != nil {
		return err
	}
	r.report.Frames = Matrix{Endpoints: endpoints(m.Endpoints), Cells: m.Cells, Allowed: m.Allowed, Reached: m.Reached, Forbidden: m.Forbidden, Leaks: m.Leaks, Sent: m.Frames}
	for _, pair := range m.Missing {
		r.report.Unreached = append(r.report.Unreached, Pair{By: "frame", From: pair.From, To: pair.To, Seen: pair.String()})
	}
	for _, pair := range m.Doubled {
		r.report.Doubled = append(r.report.Doubled, Pair{By: "frame", From: pair.From, To: pair.To, Seen: pair.String()})
	}
	for _, pair := range m.Leaked {
		to := &r.g.machines[r.index[pair.To]]
		p := r.broadcastOf(r.index[pair.From])
		if pair.Broadcasts == 0 {
			p.dst = to.mac
		}
		r.suspect(p, to, pair.String())
		delete(strays, [2]string{pair.From, to.VPC}) // they were on the way there
	}
	for i := range r.g.machines {
		for _, v := range append([]string{""}, r.vpcs()...) {
			if seen, ok := strays[[2]string{r.g.machines[i].Name, v}]; ok {
				r.stray(r.broadcastOf(i), seen)
			}
		}
	}
	if m.Untried > 0 {
		r.note("of %d pairs that are on no common LAN, %d were tried with unicast frames, each address by some machine of each LAN; broadcasts were tried by all", m.Tried+m.Untried, m.Tried)
	}
	return nil
}

func (r *run) vpcs() (names []string) {
	for _, v := range r.cfg.Plan.VPCs {
		names = append(names, v.Name)
	}
	return names
}

func (r *run) broadcastOf(i int) probe {
	return probe{kind: KindFrame, from: &r.sources[i], dst: broadcast, src: r.sources[i].mac}
}

// burst is how many frames the shortest queue of a link holds for sure.
func (r *run) burst() int {
	n := 256
	for _, l := range r.cfg.Plan.Links {
		for _, i := range []topo.Impairment{l.AtoB, l.BtoA} {
			if i.Rate > 0 {
				n = min(n, max(1, i.Queue/2))
			}
		}
	}
	return n
}

// attack has hostile customers try everything.
func (r *run) attack(ctx context.Context, e *traffic.Ether, stations []traffic.Station) error {
	a := newAssault(r.g, e, stations, r.cfg.Budget)
	if err := a.run(ctx); err != nil {
		return err
	}
	lost, down := 0, 0
	for _, kind := range attackKinds {
		c := Attack{Kind: kind}
		for i := range a.sources {
			had := c.Tried
			for k := range a.of[i] {
				if a.of[i][k].kind != kind {
					continue
				}
				c.Tried++
				flags := *a.flags(i, k)
				c.Entered += int(flags & entered / entered)
				c.Stayed += int(flags & stayed / stayed)
				c.Leaked += int(flags & leaked / leaked)
				switch {
				case flags&refused != 0:
					down++
				case a.sources[i].wire && flags&entered == 0:
					lost++
				}
			}
			if c.Tried > had {
				c.Sources++
			}
		}
		r.report.Attacks = append(r.report.Attacks, c)
	}
	r.attackLeaks(a)
	if a.thinned > 1 {
		r.note("there were too many attacks to try all: every %d. was tried, %d of them", a.thinned, len(a.state))
	}
	if lost > 0 {
		r.note("%d attacks from CEs did not come to their PE, sent %d times: nothing is known of them", lost, resends+1)
	}
	if down > 0 {
		r.note("%d attacks could not be sent: their interface is down", down)
	}
	return nil
}

// attackLeaks makes each attack that leaked a suspect.
func (r *run) attackLeaks(a *assault) {
	for i := range a.sources {
		for k := range a.of[i] {
			if seen := a.leaks[a.first[i]+uint32(k)]; len(seen) > 0 {
				r.stray(a.of[i][k], r.g.deepest(seen...))
			}
		}
	}
}

func (r *run) note(format string, args ...any) {
	r.report.Notes = append(r.report.Notes, fmt.Sprintf(format, args...))
}

// suspect books a leak to a machine.
func (r *run) suspect(p probe, to *machine, seen string) {
	r.suspects = append(r.suspects, suspect{p, &Leak{Kind: p.kind, From: p.from.node, VPC: p.from.vpc, What: p.what(), To: to.Name, ToVPC: to.VPC, Seen: seen}})
}

// stray books a leak to any place.
func (r *run) stray(p probe, seen sighting) {
	to := seen.station.String()
	if r.g.kinds[seen.station.Node] == topo.KindMachine {
		to = seen.station.Node
	}
	r.suspects = append(r.suspects, suspect{p, &Leak{Kind: p.kind, From: p.from.node, VPC: p.from.vpc, What: p.what(), To: to, ToVPC: seen.vpc, Seen: seen.where}})
}

// traces finds the hop of each leak and puts them all into the report.
func (r *run) traces(ctx context.Context) error {
	if n := len(r.suspects); n > maxTraces {
		r.note("the hop of %d leaks was looked for, of %d", maxTraces, n)
		for _, s := range r.suspects[maxTraces:] {
			s.leak.Crossed.Why = "not looked for"
		}
	}
	if len(r.suspects) > 0 {
		some := append([]suspect(nil), r.suspects[:min(len(r.suspects), maxTraces)]...)
		if err := trace(ctx, r.g, r.cfg.Enter, some); err != nil {
			return err
		}
	}
	for _, s := range r.suspects {
		r.report.Leaks = append(r.report.Leaks, *s.leak)
	}
	return nil
}
