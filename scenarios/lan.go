package scenarios

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// The experiment lan.
//
// How much of one Ethernet a vpls is, and beside it what an l3vpn at the same
// sites does with the same frames. A trial sends frames of the kinds that make
// a LAN one and looks at every machine for them (lanframes.go); has a MAC
// learned, forgotten and flushed; finds the largest packet that crosses, takes
// round trips and the goodput of TCP by each service and by plain IP routing
// over the same links, in an order of its own (lanpath.go); and moves a VM to a
// host at another site and back (lanmove.go).

// Systems of the experiment, besides the label's other values.
const (
	systemVPLS  = topo.ServiceVPLS
	systemL3VPN = topo.ServiceL3VPN
	systemIP    = "ip" // plain IP routing by the same PEs and Ps
)

// ageingLimit is the longest MAC ageing that a trial waits for.
const ageingLimit = 10 * time.Second

func lanKind() kind {
	return kind{
		resolution: 50 * time.Millisecond,
		metricsOf:  lanMetrics,
		check: func(plan *topo.Plan, _ topo.Experiment) (msg, hint string) {
			if _, err := newLANScope(plan); err != nil {
				return err.Error(), "give a vpls machines at two clouds with hosts and at a third site, and beside it an l3vpn at the same sites"
			}
			return "", ""
		},
		open: func(o opening) (session, error) { return openLAN(o) },
	}
}

// lanMetrics are those of the experiment on a plan that check has passed:
// without an l3vpn there is nothing of one, without IPv6 nobody answers for it,
// and a MAC that is remembered for long is not waited for.
func lanMetrics(plan *topo.Plan, _ topo.Experiment) []metric {
	scope, _ := newLANScope(plan)
	services, ways, flat := bySystem(systemVPLS), bySystem(systemVPLS, systemIP), bySystem(systemVPLS)
	if scope.routed != nil {
		services, ways = append(services, labels{"system": systemL3VPN}), append(ways, labels{"system": systemL3VPN})
	}
	of := func(kinds ...string) (sets []labels) {
		for _, k := range kinds {
			sets = append(sets, labels{"system": systemVPLS, "kind": k})
		}
		return sets
	}
	var all []metric
	overheard := []string{"unknown", "learned", "flushed"}
	if scope.ages() {
		overheard = append(overheard, "aged")
		all = []metric{
			{"lan.ageing", "s", "from a MAC's last frame until the last bridge had forgotten it", flat},
			{"lan.ageing_set", "s", "mac-ageing of the VPC", flat},
		}
	}
	for _, k := range lanCasts {
		all = append(all,
			metric{"lan." + k.name + "_possible", "count", k.what + ": arrivals at machines of other sites that one Ethernet would give", services},
			metric{"lan." + k.name + "_expected", "count", "of them, those that the service promises", services},
			metric{"lan." + k.name + "_received", "count", "of them, those that there were", services})
		if k.asks && scope.answers(k.kind) {
			all = append(all,
				metric{"lan." + k.name + "_asked", "count", k.what + ": questions for addresses of machines at other sites", services},
				metric{"lan." + k.name + "_answered", "count", "of them, those that the owner answered and nobody else", services})
		}
	}
	return append(all, []metric{
		{"lan.inside_expected", "count", "arrivals of all these frames at machines of the sender's own site", services},
		{"lan.inside_received", "count", "of them, those that there were", services},
		{"lan.duplicates", "count", "frames that came to a machine again, or back to their sender", services},
		{"lan.wrong_answers", "count", "questions that somebody else than the owner answered", services},
		{"lan.bystanders", "count", "machines that are neither sender nor addressee of a unicast frame", flat},
		{"lan.overheard", "count", "of them, those that received it: while no bridge knew the addressee; once all did; after its MAC was forgotten; after the bridges were flushed", of(overheard...)},
		{"lan.mtu", "bytes", "largest IP packet that crosses in one piece", services},
		{"lan.mtu_set", "bytes", "MTU of the VPC's LANs", services},
		{"lan.mtu_larger", "count", "larger packets that were tried", services},
		{"lan.mtu_refused", "count", "of them, those that the sender's own kernel refused (EMSGSIZE)", services},
		{"lan.mtu_silent", "count", "packets of any size that were taken and never came", services},
		{"lan.fragmented", "bytes", "largest IP packet that crosses in fragments", services},
		{"lan.rtt", "s", "median round trip of a trial: the ways there and back of probes sent at the same moment", ways},
		{"lan.rtt_p95", "s", "95th percentile of a trial", ways},
		{"lan.rtt_ratio", "ratio", "lan.rtt over that of plain IP in the same trial", services},
		{"lan.throughput", "bit/s", "goodput of one greedy TCP flow, the best of a trial's rounds", ways},
		{"lan.throughput_ratio", "ratio", "lan.throughput over that of plain IP in the same trial", services},
		{"lan.move_outage", "s", "longest run of lost probes when a VM moved: to and from one that talks; to one that says nothing and is announced by its host", of("talking", "announced")},
		{"lan.move_known", "s", "from the request until the last bridge that has to knew where the VM is", of("talking", "announced")},
		{"lan.move_interval", "s", "median time between two probes: the resolution of these", of("talking", "announced")},
		{"lan.silent_sent", "count", "probes sent to a VM after a move that nobody announced, until it spoke or the bridges were flushed", of("spoke", "flushed")},
		{"lan.silent_arrived", "count", "of them, those that arrived", of("spoke", "flushed")},
		{"lan.move_recovery", "s", "from then until a probe arrived", of("spoke", "flushed")},
	}...)
}

// lanScope is what the experiment is about in a plan.
type lanScope struct {
	flat   topo.VPCPlan
	routed *topo.VPCPlan // at the same two sites at least; nil: none
	// ends are the two attachments of the vpls between which ways are
	// compared; routedEnds those of the l3vpn at the same sites.
	ends, routedEnds [2]topo.Attachment
	// vm moves between two hosts; peer is the machine that it talks with, at a
	// third site where there is one.
	vm, peer   string
	home, away lanHost
}

// lanHost is a hypervisor host.
type lanHost struct {
	name       string // as operations have it, "site/number"
	site, node string
}

// ages says that a trial waits until a silent MAC is forgotten.
func (s *lanScope) ages() bool { return s.flat.Ageing > 0 && s.flat.Ageing <= ageingLimit }

// answers says that somebody may answer a question of this kind.
func (s *lanScope) answers(k traffic.CastKind) bool { return k != traffic.CastND || s.flat.IPv6 }

// newLANScope finds the VPCs, ends and hosts; the error says what is missing.
func newLANScope(plan *topo.Plan) (lanScope, error) {
	err := fmt.Errorf("lan needs a VPC with the service vpls, and there is none")
	for _, v := range plan.VPCs {
		if v.Service != topo.ServiceVPLS {
			continue
		}
		s := lanScope{flat: v}
		if err = s.findEnds(plan); err == nil {
			err = s.findMove(plan)
		}
		if err == nil {
			return s, nil
		}
	}
	return lanScope{}, err
}

// findEnds takes two sites of the vpls at different PEs, if it can those of an
// l3vpn too.
func (s *lanScope) findEnds(plan *topo.Plan) error {
	found := false
	for _, a := range populated(s.flat) {
		for _, b := range populated(s.flat) {
			if a.PE == b.PE || found && s.routed != nil {
				continue
			}
			if !found {
				s.ends, found = [2]topo.Attachment{a, b}, true
			}
			for _, v := range plan.VPCs {
				ra, rb := atSite(v, a.Site), atSite(v, b.Site)
				if v.Service == topo.ServiceL3VPN && len(ra.Machines) > 0 && len(rb.Machines) > 0 && s.routed == nil {
					s.routed, s.ends, s.routedEnds = &v, [2]topo.Attachment{a, b}, [2]topo.Attachment{ra, rb}
				}
			}
		}
	}
	if !found {
		return fmt.Errorf("lan needs machines of %s at sites of two PEs", s.flat.Name)
	}
	return nil
}

// atSite is a VPC's attachment at a site; the zero one where it has none.
func atSite(v topo.VPCPlan, site string) (a topo.Attachment) {
	for _, a := range v.Attachments {
		if a.Site == site && a.Joined {
			return a
		}
	}
	return a
}

// populated are the joined attachments that have machines.
func populated(v topo.VPCPlan) (all []topo.Attachment) {
	for _, a := range v.Attachments {
		if a.Joined && len(a.Machines) > 0 {
			all = append(all, a)
		}
	}
	return all
}

// findMove takes a VM, a host at another site of its VPC, and a machine to
// talk with, at a third site if there is one.
func (s *lanScope) findMove(plan *topo.Plan) error {
	for _, a := range populated(s.flat) {
		for _, name := range slices.Backward(a.Machines) {
			n, _ := plan.Node(name)
			for _, b := range s.flat.Attachments {
				site, _ := plan.Site(b.Site)
				if n.Host == "" || b.Site == a.Site || !b.Joined || b.PE == a.PE || len(site.Hosts) == 0 {
					continue
				}
				here, _ := plan.Site(a.Site)
				s.vm, s.home, s.away = name, newLANHost(here, n.Host), newLANHost(site, site.Hosts[0])
				s.peer = s.partner(a.Site, b.Site)
				return nil
			}
		}
	}
	return fmt.Errorf("lan moves a VM: it needs one of %s on a host, and a host at a site of another PE that %s is joined at", s.flat.Name, s.flat.Name)
}

func newLANHost(site topo.SitePlan, node string) lanHost {
	return lanHost{fmt.Sprintf("%s/%d", site.Name, slices.Index(site.Hosts, node)+1), site.Name, node}
}

// partner is a machine at none of the two sites, or else at one of them.
func (s *lanScope) partner(from, to string) (name string) {
	for _, a := range populated(s.flat) {
		for _, m := range a.Machines {
			if m != s.vm && (name == "" || a.Site != from && a.Site != to) {
				name = m
			}
		}
		if name != "" && a.Site != from && a.Site != to {
			break
		}
	}
	return name
}

// lan is a session of the experiment.
type lan struct {
	lanScope
	lab    Lab
	base   *topo.Plan // with the plain IP machines
	plain  [2]traffic.Endpoint
	prober *traffic.Prober
}

// openLAN builds the lab as the file has it, with two machines beside it that
// plain IP routing connects.
func openLAN(o opening) (*lan, error) {
	scope, err := newLANScope(o.plan)
	if err != nil {
		return nil, err
	}
	s := &lan{lanScope: scope, lab: o.lab}
	s.base, s.plain = withPlain(o.plan, s.ends[0], s.ends[1])
	tl, err := o.lab.Apply(o.ctx, s.base)
	if err != nil {
		return nil, err
	}
	o.built(s.base, tl.Total())
	eps := s.plain[:]
	for _, n := range s.base.Machines() {
		eps = append(eps, traffic.Endpoint{Name: n.Name, VPC: n.VPC, Site: n.Site, Addr: n.Addr})
	}
	if s.prober, err = traffic.Open(o.lab.Fabric().Do, eps); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *lan) close() { s.prober.Close() }

func (s *lan) missed() int { return s.prober.Missed() }

// recover brings the VM home.
func (s *lan) recover(ctx context.Context) error {
	_, err := s.lab.Apply(ctx, s.base)
	return err
}

// trial is one trial.
func (s *lan) trial(ctx context.Context, _ point, number int, t *metrics.Trial, rng *rand.Rand) error {
	if _, err := s.lab.ApplyWith(ctx, s.base, lab.ApplyOptions{Trust: true}); err != nil {
		return err
	}
	sub := s.lab.Subscribe()
	defer sub.Close()
	if err := s.greet(ctx); err != nil {
		return err
	}
	watch, err := s.lab.Fabric().WatchMACs(s.bridges())
	if err != nil {
		return err
	}
	run := &lanTrial{lan: s, t: t, rng: rng, number: number, watch: watch}
	defer watch.Close()
	// The VM moves first, so that it is at home and known again when frames
	// are counted; a MAC ages while ways are measured.
	for _, step := range []func(context.Context) error{run.moves, run.learned, run.sizes, run.paths, run.forgotten, run.frames} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return keep(t, sub)
}

// lanTrial is a trial under way.
type lanTrial struct {
	*lan
	t        *metrics.Trial
	rng      *rand.Rand
	number   int
	watch    *fabric.MACWatch
	ether    *traffic.Ether    // with a station in every machine of both services
	stations []traffic.Station // its stations
	ageing   lanAgeing
}

// greet lets every machine say something to the next site of its VPC, so that
// nothing that follows waits for a neighbour to be found.
func (s *lan) greet(ctx context.Context) error {
	flows := []traffic.Flow{{From: s.plain[0].Name, To: s.plain[1].Name}, {From: s.plain[1].Name, To: s.plain[0].Name}}
	for _, v := range s.vpcs() {
		sites := populated(v)
		for i, a := range sites {
			for _, m := range a.Machines {
				flows = append(flows, traffic.Flow{From: m, To: sites[(i+1)%len(sites)].Machines[0]})
			}
		}
	}
	train, err := s.prober.StartTrain(traffic.TrainConfig{Flows: flows, Interval: talkInterval, UntilFirst: true})
	if err != nil {
		return err
	}
	_, err = firsts(ctx, train)
	return err
}

// vpcs are the vpls and the l3vpn, if there is one.
func (s *lan) vpcs() []topo.VPCPlan {
	if s.routed == nil {
		return []topo.VPCPlan{s.flat}
	}
	return []topo.VPCPlan{s.flat, *s.routed}
}

// bridges are all that a frame of the vpls can pass: those of PEs, CEs and
// hosts.
func (s *lan) bridges() (all []fabric.BridgeAt) {
	for _, l := range s.base.Links {
		if l.VPC != s.flat.Name {
			continue
		}
		for _, e := range []topo.Endpoint{l.A, l.B} {
			if b := (fabric.BridgeAt{Node: e.Node, Bridge: e.Bridge}); e.Bridge != "" && !slices.Contains(all, b) {
				all = append(all, b)
			}
		}
	}
	return all
}
