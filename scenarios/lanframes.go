package scenarios

import (
	"context"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/topo"
)

// lanCasts are the kinds of frames, by the name in the metrics.
var lanCasts = []struct {
	name, what string
	kind       traffic.CastKind
	asks       bool
}{
	{"arp", "ARP requests", traffic.CastARP, true},
	{"broadcast", "broadcasts of an unknown EtherType", traffic.CastFrame, false},
	{"multicast", "IPv4 multicast", traffic.CastGroup, false},
	{"nd", "IPv6 neighbour solicitations", traffic.CastND, true},
}

const (
	forgetDeadline  = 10 * time.Second // beyond its ageing, for a MAC to be forgotten
	addressDeadline = 10 * time.Second // for all machines' IPv6 addresses
)

// atStations runs fn with stations in all machines of both services. While
// ways are measured there are none: they would be handed every packet.
func (r *lanTrial) atStations(fn func() error) (err error) {
	r.stations = nil
	for _, v := range r.vpcs() {
		for _, a := range populated(v) {
			for _, m := range a.Machines {
				r.stations = append(r.stations, traffic.Station{Node: m, Ifname: "eth0"})
			}
		}
	}
	if r.ether, err = traffic.OpenEther(r.lab.Fabric().Do, r.stations); err != nil {
		return err
	}
	defer r.ether.Close()
	return fn()
}

// frames sends frames of every kind in both services.
func (r *lanTrial) frames(ctx context.Context) error {
	return r.atStations(func() error {
		if err := r.addressed(ctx); err != nil {
			return err
		}
		vpcs := r.vpcs()
		r.rng.Shuffle(len(vpcs), func(i, j int) { vpcs[i], vpcs[j] = vpcs[j], vpcs[i] })
		all := map[string][]lanEvidence{}
		for _, v := range vpcs {
			heard, err := r.heard(ctx, v)
			if err != nil {
				return fmt.Errorf("%s: %w", v.Name, err)
			}
			all[v.Service] = heard
		}
		return r.t.WriteJSON("frames.json", all)
	})
}

// addressed waits until every machine that has IPv6 may answer under its
// address: duplicate address detection takes a second or two from when an
// interface has come up (RFC 4862, section 5.4), and the VM's came up when it
// moved.
func (r *lanTrial) addressed(ctx context.Context) error {
	if !r.flat.IPv6 {
		return nil
	}
	wait, cancel := context.WithTimeoutCause(ctx, addressDeadline, fmt.Errorf("waited %v", addressDeadline))
	defer cancel()
	for _, p := range r.ports(r.flat) {
		if err := awaitAddress(wait, r.lab.Fabric().Do, p.Name, traffic.LinkLocal(p.MAC)); err != nil {
			return fmt.Errorf("machine %s: IPv6 address %s: %w", p.Name, traffic.LinkLocal(p.MAC), err)
		}
	}
	return nil
}

// ports are the machines of a VPC as the stations see them.
func (r *lanTrial) ports(v topo.VPCPlan) (ports []traffic.LANPort) {
	for i, st := range r.stations {
		n, _ := r.base.Node(st.Node)
		if wire, ok := wireOf(r.base, st.Node); ok && n.VPC == v.Name {
			ep := traffic.Endpoint{Name: n.Name, VPC: n.VPC, Site: n.Site, Addr: n.Addr}
			ports = append(ports, traffic.LANPort{Endpoint: ep, Station: i, MAC: wire.A.MAC})
		}
	}
	return ports
}

// lanEvidence is one frame and what became of it.
type lanEvidence struct {
	Kind    string         `json:"kind"`
	From    string         `json:"from"`
	Asks    string         `json:"asks,omitempty"`
	Arrived map[string]int `json:"arrived"` // by machine, how often
	Answers []topo.MAC     `json:"answers,omitempty"`
}

// heard has the first machine of each site send one frame of each kind, those
// that ask one for each other machine, and counts.
func (r *lanTrial) heard(ctx context.Context, v topo.VPCPlan) ([]lanEvidence, error) {
	ports := r.ports(v)
	var casts []traffic.Cast
	for i, p := range ports {
		if i > 0 && ports[i-1].Site == p.Site {
			continue // not the first of its site
		}
		for _, k := range lanCasts {
			if !k.asks {
				casts = append(casts, traffic.Cast{Kind: k.kind, From: i})
				continue
			}
			for j := range ports {
				if j != i {
					casts = append(casts, traffic.Cast{Kind: k.kind, From: i, Owner: j})
				}
			}
		}
	}
	due := func(c traffic.Cast, port int) bool {
		return v.Service == systemVPLS || ports[c.From].Site == ports[port].Site
	}
	answers := func(c traffic.Cast) bool { return c.Kind != traffic.CastND || v.IPv6 }
	results, err := r.ether.Cast(ctx, traffic.CastConfig{Ports: ports, Casts: casts, Due: due, Answers: answers})
	if err != nil {
		return nil, err
	}
	r.count(v, ports, results, due)
	return lanEvidences(ports, results), nil
}

func lanEvidences(ports []traffic.LANPort, results []traffic.CastResult) (all []lanEvidence) {
	for _, c := range results {
		e := lanEvidence{Kind: c.Kind.String(), From: ports[c.From].Name, Arrived: map[string]int{}, Answers: c.Answers}
		if c.Kind == traffic.CastARP || c.Kind == traffic.CastND {
			e.Asks = ports[c.Owner].Name
		}
		for j, n := range c.Arrived {
			if n > 0 {
				e.Arrived[ports[j].Name] = n
			}
		}
		all = append(all, e)
	}
	return all
}

// count adds the counts of a service.
func (r *lanTrial) count(v topo.VPCPlan, ports []traffic.LANPort, results []traffic.CastResult, due func(traffic.Cast, int) bool) {
	set := labels{"system": v.Service}
	add := func(name string, n int) { r.t.Add("lan."+name, "count", float64(n), set) }
	var insideDue, inside, copies, wrong int
	for _, k := range lanCasts {
		var possible, expected, received, asked, answered int
		for _, c := range results {
			if c.Kind != k.kind {
				continue
			}
			for j, n := range c.Arrived {
				switch {
				case j == c.From:
					copies += n
					continue
				case ports[j].Site == ports[c.From].Site:
					insideDue++
					inside += min(n, 1)
				default:
					possible++
					received += min(n, 1)
					if due(c.Cast, j) {
						expected++
					}
				}
				copies += max(0, n-1)
			}
			if !k.asks {
				continue
			}
			owner := ports[c.Owner]
			ok := c.AnsweredBy(owner.MAC)
			if len(c.Answers) > 0 && !ok {
				wrong++
			}
			if owner.Site != ports[c.From].Site {
				asked++
				if ok {
					answered++
				}
			}
		}
		add(k.name+"_possible", possible)
		add(k.name+"_expected", expected)
		add(k.name+"_received", received)
		if k.asks && r.answers(k.kind) {
			add(k.name+"_asked", asked)
			add(k.name+"_answered", answered)
		}
	}
	add("inside_expected", insideDue)
	add("inside_received", inside)
	add("duplicates", copies)
	add("wrong_answers", wrong)
}

// lanAgeing is a MAC that is about to be forgotten.
type lanAgeing struct {
	mac      topo.MAC
	spoke    event.Mono
	ports    []traffic.LANPort
	from, to int // ports: who asks for it, who has it
}

// learned has a station that nobody knows speak, and sends frames to it before
// and after. The station is a MAC behind a machine's interface that only this
// experiment makes speak, so that it is as silent as it should be.
func (r *lanTrial) learned(ctx context.Context) error {
	return r.atStations(func() error {
		a := lanAgeing{mac: topo.MAC{2, 0xee, 0, 0, byte(r.number >> 8), byte(r.number)}, ports: r.ports(r.flat)}
		for j, p := range a.ports {
			if p.Name == r.ends[1].Machines[0] {
				a.to = j
			}
		}
		r.ageing = a
		r.t.Add("lan.bystanders", "count", float64(len(a.ports)-2), labels{"system": systemVPLS})
		for _, step := range []func() error{
			r.flush, // a MAC of an earlier trial may be remembered
			func() error { return r.overhear(ctx, "unknown") },
			func() error { return r.speak(ctx) },
			func() error { return r.overhear(ctx, "learned") },
			r.flush,
			func() error { return r.overhear(ctx, "flushed") },
			func() error { return r.speak(ctx) }, // from here on it is silent
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
}

// speak has the station send a broadcast, and waits until every bridge knows
// it.
func (r *lanTrial) speak(ctx context.Context) error {
	r.ageing.spoke = event.Now()
	_, err := r.ether.Cast(ctx, traffic.CastConfig{
		Ports: r.ageing.ports, Casts: []traffic.Cast{{Kind: traffic.CastFrame, From: r.ageing.to, Source: r.ageing.mac}},
		Due: func(traffic.Cast, int) bool { return true },
	})
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeoutCause(ctx, forgetDeadline, fmt.Errorf("waited %v for it to be learned", forgetDeadline))
	defer cancel()
	_, err = r.watch.Wait(wait, r.ageing.mac, r.bridges(), func(_ fabric.BridgeAt, p fabric.MACPlace) bool { return p.Port != 0 })
	return err
}

// overhear sends a frame to the station and counts who else receives it.
func (r *lanTrial) overhear(ctx context.Context, kind string) error {
	a := r.ageing
	results, err := r.ether.Cast(ctx, traffic.CastConfig{
		Ports: a.ports, Casts: []traffic.Cast{{Kind: traffic.CastFrame, From: a.from, To: a.mac}},
		Due: func(_ traffic.Cast, port int) bool { return kind != "learned" || port == a.to },
	})
	if err != nil {
		return err
	}
	others := 0
	for j, n := range results[0].Arrived {
		if j != a.from && j != a.to {
			others += min(n, 1)
		}
	}
	if results[0].Arrived[a.to] == 0 {
		return fmt.Errorf("a frame from %s to a MAC behind %s (%s) did not arrive", a.ports[a.from].Name, a.ports[a.to].Name, kind)
	}
	r.t.Add("lan.overheard", "count", float64(others), labels{"system": systemVPLS, "kind": kind})
	return nil
}

// forgotten waits until the silent station is, and sends to it once more.
func (r *lanTrial) forgotten(ctx context.Context) error {
	if !r.ages() {
		return nil
	}
	most := r.flat.Ageing + forgetDeadline
	wait, cancel := context.WithTimeoutCause(ctx, most, fmt.Errorf("waited %v for it to be forgotten, mac-ageing is %v", most, r.flat.Ageing))
	defer cancel()
	gone, err := r.watch.Wait(wait, r.ageing.mac, r.bridges(), func(_ fabric.BridgeAt, p fabric.MACPlace) bool { return p.Port == 0 })
	if err != nil {
		return err
	}
	set := labels{"system": systemVPLS}
	r.t.Add("lan.ageing", "s", gone.Sub(r.ageing.spoke).Seconds(), set)
	r.t.Add("lan.ageing_set", "s", r.flat.Ageing.Seconds(), set)
	return r.atStations(func() error { return r.overhear(ctx, "aged") })
}
