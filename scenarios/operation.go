package scenarios

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/bgp"
	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/lab"
	"github.com/vpclab/vpclab/emu/traffic"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

// operationStep is one operation of a trial.
type operationStep struct {
	*operations
	op     topo.Operation
	set    labels
	count  bool // also count what it changed in machines and CEs
	trial  *metrics.Trial
	record *record

	before, after *topo.Plan
	request       event.Mono
}

// do carries the operation out and measures it.
func (s *operationStep) do(ctx context.Context) (err error) {
	s.before = s.lab.Plan()
	if s.after, err = s.before.Do(s.op); err != nil {
		return err
	}
	var inside map[string]entries
	if s.count {
		if inside, err = s.customers(); err != nil {
			return err
		}
	}
	train, err := s.watch(s.old(s.flows()))
	if err != nil {
		return err
	}
	defer func() { _, _ = train.Stop(ctx) }() // a train that was stopped stays so
	was := speakerEntries(s.lab.Configs())
	tl, err := s.lab.Operate(ctx, s.op, lab.ApplyOptions{Trust: true})
	if err != nil {
		return err
	}
	s.request = tl.Request
	s.times(tl, was)
	if err := s.sockets(s.after); err != nil {
		return err
	}
	if err := s.packets(ctx, tl, train); err != nil {
		return err
	}
	if !s.count {
		return nil
	}
	return s.countCommands(inside)
}

// times stores the stages and how many routers were told something new.
func (s *operationStep) times(tl *lab.Timeline, was entries) {
	name := s.set["operation"]
	s.record.mark(name+" requested", tl.Request)
	for _, st := range stages("operation", tl) {
		at := st.at
		if st.name == "operation.programmed" {
			at = max(at, tl.Withdrawn)
		}
		s.trial.Add(st.name, "s", at.Sub(tl.Request).Seconds(), s.set)
	}
	s.record.mark(name+" programmed", max(tl.Programmed, tl.Withdrawn))
	routers := map[string]bool{}
	for _, line := range differences(was, speakerEntries(s.lab.Configs())) {
		routers[strings.Fields(line)[1]] = true
	}
	s.trial.Add("operation.routers", "count", float64(len(routers)), s.set)
}

// subjects are the machines that the operation is about: those that come, the
// one that moves, those of a site that joins.
func (s *operationStep) subjects() (names []string) {
	switch s.op.Do {
	case "move":
		return []string{s.op.VM}
	case "join":
		if a, ok := attachment(s.after, member{s.op.VPC, s.op.Site}); ok && len(a.Machines) > 0 {
			return a.Machines[:1]
		}
	case "create":
		for _, a := range s.after.Attachments() {
			if a.VPC == s.op.VPC && len(a.Machines) > 0 {
				names = append(names, a.Machines[0])
			}
		}
	case "add", "replicate":
		for _, n := range s.after.Machines() {
			if _, had := s.before.Node(n.Name); !had && (s.op.VM == "" || s.op.Do == "replicate" || n.Name == s.op.VM) {
				names = append(names, n.Name)
			}
		}
	}
	return names
}

// flows lead between each subject and a machine at every other site of its
// VPC that has joined, both ways. Where links fail, those who talk anyway are
// looked at.
func (s *operationStep) flows() (flows []traffic.Flow) {
	if s.op.Do == "fail" || s.op.Do == "restore" {
		return rings(s.bystanders(), operationTalk)
	}
	for _, name := range s.subjects() {
		n, ok := s.after.Node(name)
		if !ok {
			continue
		}
		for _, a := range s.after.Attachments() {
			if a.VPC != n.VPC || a.Site == n.Site || !a.Joined || len(a.Machines) == 0 {
				continue
			}
			for _, f := range []traffic.Flow{{From: name, To: a.Machines[0]}, {From: a.Machines[0], To: name}} {
				if !slices.Contains(flows, f) {
					flows = append(flows, f)
				}
			}
		}
	}
	return flows
}

// old are the flows between machines that are there already, at the same
// addresses as after.
func (s *operationStep) old(flows []traffic.Flow) (old []traffic.Flow) {
	same := func(name string) bool {
		was, had := s.before.Node(name)
		is, has := s.after.Node(name)
		return had && has && was.Addr == is.Addr
	}
	for _, f := range flows {
		if same(f.From) && same(f.To) {
			old = append(old, f)
		}
	}
	return old
}

// gapped tells operations that interrupt from those that only bring.
func (s *operationStep) gapped() bool {
	return s.op.Do == "move" || s.op.Do == "fail" || s.op.Do == "restore"
}

func (s *operationStep) watch(flows []traffic.Flow) (*traffic.Train, error) {
	cfg := traffic.TrainConfig{Flows: flows, Interval: trainInterval, UntilFirst: !s.gapped()}
	return s.prober.StartTrain(cfg)
}

// packets waits until the operation's flows are through, those of new machines
// from when their sockets are there.
func (s *operationStep) packets(ctx context.Context, tl *lab.Timeline, train *traffic.Train) error {
	flows := s.flows()
	if len(flows) == 0 {
		return nil
	}
	old := s.old(flows)
	fresh, err := s.watch(slices.DeleteFunc(slices.Clone(flows), func(f traffic.Flow) bool { return slices.Contains(old, f) }))
	if err != nil {
		return err
	}
	defer func() { _, _ = fresh.Stop(ctx) }() // a train that was stopped stays so
	if s.gapped() {
		return s.outage(ctx, train, fresh)
	}
	var last event.Mono
	for _, tr := range []*traffic.Train{train, fresh} {
		r, err := firsts(ctx, tr)
		if err != nil {
			return err
		}
		first, err := lastFirst(r)
		if err != nil {
			return err
		}
		last = max(last, first)
	}
	s.trial.Add("operation.first_packet", "s", last.Sub(tl.Request).Seconds(), s.set)
	s.record.mark(s.set["operation"]+": first packet of the last pair", last)
	return nil
}

// settled is how long probes go on after an interruption, so that its end is
// seen.
const settled = 200 * time.Millisecond

// outage is the longest run of lost probes of an operation that interrupts.
// Probes of machines whose address changed cannot be told from before it: for
// them it ends with the first packet.
func (s *operationStep) outage(ctx context.Context, train, fresh *traffic.Train) error {
	if err := waitFirst(ctx, fresh); err != nil {
		return err
	}
	if err := waitFirst(ctx, train); err != nil {
		return err
	}
	if err := wait(ctx, settled); err != nil {
		return err
	}
	r, err := train.Stop(ctx)
	if err != nil {
		return err
	}
	longest := time.Duration(0)
	for _, f := range r.Flows {
		for _, g := range f.Gaps {
			longest = max(longest, g.Length())
		}
		if n := len(f.Gaps); n > 0 && f.Gaps[n-1].Seq+f.Gaps[n-1].Lost == f.Sent {
			return fmt.Errorf("%v after it was done, %s still does not reach %s", settled, f.From, f.To)
		}
	}
	s.trial.Add("operation.outage", "s", longest.Seconds(), s.set)
	return nil
}

// customers reads machines and CEs that are there before the operation.
func (s *operationStep) customers() (map[string]entries, error) {
	found := map[string]entries{}
	for _, n := range s.before.OfKind(topo.KindMachine, topo.KindCE) {
		if _, stays := s.after.Node(n.Name); !stays || s.op.Do == "move" && n.Name == s.op.VM {
			continue
		}
		e, err := nodeEntries(s.lab.Fabric(), n.Name)
		if err != nil {
			return nil, err
		}
		found[n.Name] = e
	}
	return found, nil
}

// countCommands reads them again and counts what has changed, but for what
// comes and goes with a wire that the operation plugged in or out: the circuit
// at a CE with its link address and route, and the port of a machine that came
// to a LAN or left it.
func (s *operationStep) countCommands(before map[string]entries) error {
	after, err := s.customers()
	if err != nil {
		return err
	}
	ports := s.plugged()
	commands := 0
	for node, was := range before {
		for _, line := range differences(was, after[node]) {
			ofWire := func(dev string) bool {
				return strings.Contains(line, " "+dev+":") || strings.HasSuffix(line, " dev "+dev)
			}
			if !slices.ContainsFunc(ports[node], ofWire) {
				commands++
			}
		}
	}
	s.trial.Add("operation.vm_commands", "count", float64(commands), s.set)
	return nil
}

// plugged are the ports of each node whose wire came or went.
func (s *operationStep) plugged() map[string][]string {
	ports := map[string][]string{}
	note := func(here, there *topo.Plan) {
		for _, l := range here.Links {
			if slices.ContainsFunc(there.Links, func(o topo.Link) bool { return o.Name() == l.Name() }) {
				continue
			}
			ports[l.B.Node] = append(ports[l.B.Node], l.B.Ifname)
		}
	}
	note(s.before, s.after)
	note(s.after, s.before)
	return ports
}

// announcements stores the lab's events and counts the BGP updates of the
// operation's VPC, since its request, at the PE that received most. Only PEs
// that have a part in the VPC are counted: for the others nobody waits, and
// what an operation before this one caused there may come at any time.
func (s *operationStep) announcements(sub *lab.Subscription) (died error) {
	received := map[string]int{}
	rds, pes := s.instances()
	most := 0
	for {
		select {
		case e := <-sub.C:
			s.trial.Event(e)
			switch e.Kind {
			case "bgp.received", "bgp.lost":
				if pes[e.Node] && rds[e.Attr["rd"]] && e.T >= s.request {
					received[e.Node] += announced(e)
					most = max(most, received[e.Node])
				}
			case "speaker.exit":
				died = errors.Join(died, fmt.Errorf("BGP speaker of %s died during the trial: %s", e.Node, e.Attr["status"]))
			}
		default:
			if sub.Refill() {
				continue
			}
			s.trial.Add("operation.announcements", "count", float64(most), s.set)
			return died
		}
	}
}

// announced is how many routes or label blocks an event of BGP is about.
func announced(e event.Event) int {
	run, err := bgp.Prefixes(e)
	if err != nil {
		return 1
	}
	return run.Count
}

// instances are the RDs of the operation's VPC, before it and after, and the
// PEs that have an instance of it.
func (s *operationStep) instances() (rds, pes map[string]bool) {
	vpc := s.op.VPC
	for _, plan := range []*topo.Plan{s.before, s.after} {
		if n, ok := plan.Node(s.op.VM); ok && vpc == "" {
			vpc = n.VPC
		}
	}
	rds, pes = map[string]bool{}, map[string]bool{}
	for _, plan := range []*topo.Plan{s.before, s.after} {
		v, ok := plan.VPC(vpc)
		if !ok {
			continue
		}
		for _, f := range v.VRFs {
			rds[f.RD], pes[f.PE] = true, true
		}
		for _, i := range v.VSIs {
			rds[i.RD], pes[i.PE] = true, true
		}
	}
	return rds, pes
}
