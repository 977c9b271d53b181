package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fault"
	"github.com/vpclab/vpclab/emu/hypervisor"
	"github.com/vpclab/vpclab/topo"
)

// wound breaks links and nodes. Nodes that crash are dark before their processes
// end, and those are not started again until it is over. The caller has the turn.
func (i *Injected) wound(plan *topo.Plan) error {
	l, f := i.lab, i.lab.Fabric()
	if f == nil {
		return ErrNotBuilt
	}
	w := fault.Wound(plan, i.Fault)
	if len(w.Dark)+len(w.Deaf)+len(w.Worse)+len(w.Dead) == 0 {
		return errors.New("the lab has nothing that it would break")
	}
	l.holds.keep(w.Dead)
	id, at, err := f.Strike(w)
	if err != nil {
		l.holds.let(w.Dead)
		return err
	}
	i.At = at
	i.undo = func(ctx context.Context) (event.Mono, error) {
		at, err := f.Heal(ctx, id)
		l.holds.let(w.Dead)
		return at, errors.Join(err, l.boot(w.Dead))
	}
	if err := l.powerOff(plan, w.Dead); err != nil {
		_, undo := i.undo(context.Background())
		return errors.Join(err, undo)
	}
	return nil
}

// powerOff ends all that runs in nodes that have crashed, and in the VMs of those
// that are hosts, and takes their memories.
func (l *Lab) powerOff(plan *topo.Plan, nodes []string) error {
	if len(nodes) == 0 {
		return nil
	}
	all := slices.Clone(nodes)
	for _, n := range plan.Nodes {
		if n.Host != "" && slices.Contains(nodes, n.Host) {
			all = append(all, n.Name)
		}
	}
	if err := fault.PowerOff(l.Fabric(), all...); err != nil {
		return err
	}
	if l.hypers.record() == nil {
		return nil
	}
	var errs []error
	for _, node := range nodes {
		errs = append(errs, hypervisor.LosePower(l.hypers.dir, node))
	}
	return errors.Join(errs...)
}

// boot starts what runs in nodes that are up again, those apart that another
// fault keeps down. It does not wait for all of it.
func (l *Lab) boot(nodes []string) error {
	f := l.Fabric()
	if f == nil {
		return nil // the lab has gone meanwhile
	}
	for _, node := range nodes {
		if l.down(node) {
			continue
		}
		l.speakers.boot(f, node)
		l.repairs.boot(f, node)
		l.bootHost(node)
	}
	return nil
}

// bootHost starts a host's agent, with the guests that are its, and its witness.
func (l *Lab) bootHost(node string) {
	plan := l.planOrPending()
	if plan == nil || l.hypers.record() == nil {
		return
	}
	if n, ok := plan.Node(node); !ok || n.Kind != topo.KindHost {
		return
	}
	l.faults.wg.Go(func() {
		ctx, cancel := context.WithTimeoutCause(context.Background(), ownDeadline, fmt.Errorf("waited %v for %s to boot", ownDeadline, node))
		defer cancel()
		if err := errors.Join(l.witnesses.revive(ctx, node), l.hypers.own(ctx, node)); err != nil {
			l.log.Error("host not booted", "host", node, "error", err)
			l.observe(event.New(node, "host.failed", map[string]string{"error": err.Error()}))
		}
	})
}

// kill ends a process. With a time it is not started again until then. The
// caller has the turn.
func (i *Injected) kill(ctx context.Context) error {
	l, f := i.lab, i.lab.Fabric()
	if f == nil {
		return ErrNotBuilt
	}
	node, err := i.runsAt()
	if err != nil {
		return err
	}
	what := heldProcess{node, i.Fault.Process}
	hold := i.Fault.For > 0
	if hold {
		l.holds.keep(nil, what)
	}
	release := func() error {
		if hold {
			l.holds.let(nil, what)
		}
		return l.bootProcess(what)
	}
	if hold && what.process == guestProcess {
		err = l.hypers.abandon(ctx, node)
	}
	n := 0
	if err == nil {
		i.At = event.Now()
		n, err = fault.Kill(f, node, commandOf(i.Fault.Process))
	}
	if err == nil && n == 0 {
		err = fmt.Errorf("no %s runs in %s", i.Fault.Process, node)
	}
	if err != nil {
		if hold {
			err = errors.Join(err, release())
		}
		return err
	}
	i.undo = func(context.Context) (event.Mono, error) { return event.Now(), release() }
	return nil
}

// runsAt is the node in which the process that is to be killed runs.
func (i *Injected) runsAt() (string, error) {
	switch i.Fault.Process {
	case guestProcess:
		return i.lab.pairs.seatOf(i.Fault.VM), nil
	case agentProcess, witnessProcess:
		plan := i.lab.planOrPending()
		nodes := plan.FaultNodes(topo.Fault{Kind: topo.FaultHostCrash, Host: i.Fault.Host})
		if len(nodes) != 1 {
			return "", fmt.Errorf("no host %s", i.Fault.Host)
		}
		return nodes[0], nil
	}
	return i.Fault.Node, nil
}

// commandOf tells by its command line whether a process is meant: those of
// vpclab by their hidden verb, FRR's daemons by their program.
func commandOf(process string) func(argv []string) bool {
	verbs := map[string][]string{
		speakerProcess: {"speaker", "frr"}, repairProcess: {"repair"}, agentProcess: {"hypervisor"},
		witnessProcess: {"witness"}, guestProcess: {"guest"},
	}[process]
	return func(argv []string) bool {
		if verbs != nil {
			return len(argv) > 1 && slices.Contains(verbs, argv[1])
		}
		return len(argv) > 0 && program(argv[0]) == process
	}
}

// program is the last part of a path.
func program(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}

// bootProcess starts a process that nothing holds any more.
func (l *Lab) bootProcess(p heldProcess) error {
	f := l.Fabric()
	if f == nil || l.held(p.node, p.process) {
		return nil
	}
	switch p.process {
	case speakerProcess:
		l.speakers.boot(f, p.node)
	case repairProcess:
		l.repairs.boot(f, p.node)
	case agentProcess, witnessProcess:
		l.bootHost(p.node)
	case guestProcess:
		plan := l.planOrPending()
		if plan == nil {
			return nil
		}
		if n, ok := plan.Node(p.node); ok && n.Host != "" {
			l.bootHost(n.Host)
		}
	}
	return nil
}

// bgpPort is BGP's (RFC 4271, section 8).
const bgpPort = 179

// reset cuts off a router's BGP sessions. The caller has the turn.
func (i *Injected) reset() error {
	f := i.lab.Fabric()
	if f == nil {
		return ErrNotBuilt
	}
	i.At = event.Now()
	n, err := fault.Reset(f, i.Fault.Node, bgpPort)
	if err == nil && n == 0 {
		err = fmt.Errorf("%s has no BGP session", i.Fault.Node)
	}
	return err
}

// faultWords are a fault as the attributes of an event.
func faultWords(f topo.Fault) map[string]string {
	var all map[string]any
	text, err := json.Marshal(f)
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		return map[string]string{"fault": f.Kind}
	}
	words := map[string]string{}
	for k, v := range all {
		words[k] = fmt.Sprint(v)
	}
	return words
}
