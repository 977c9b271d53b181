package fabric

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

// Wound is what one fault does to the kernel objects of a lab, beneath the
// State that Apply is given: an Apply meanwhile converges to the State as it is
// with all wounds, so it neither mends them nor stumbles over them. Where
// several wounds are about one object each counts as long as it is there, so
// they can be healed in any order.
type Wound struct {
	// Dark are ends of links that go down: both, and either end has no carrier;
	// one, and the other end has none.
	Dark []EndAt
	// Deaf are ends of links that lose all that arrives, while nobody sees
	// anything.
	Deaf []EndAt
	// Worse are sending ends that are no better than what is said of them: rates
	// are upper bounds, delays and losses lower ones.
	Worse []Worse
	// Dead are nodes that have crashed: all their ends are dark, and they know no
	// routes, no labels, and nothing of what speakers made.
	Dead []string
}

// EndAt names an end of a link.
type EndAt struct{ Node, Ifname string }

// Worse is a bound for an end.
type Worse struct {
	EndAt
	topo.Impairment
}

// NoEndError says that a lab has no such end of a link.
type NoEndError struct{ End EndAt }

func (e *NoEndError) Error() string {
	return fmt.Sprintf("no link ends at %s:%s", e.End.Node, e.End.Ifname)
}

// wounds by number, from 1.
type wounds map[int]Wound

// goal is what the kernel is to hold of a State: that, as far as it is whole.
func (f *Fabric) goal(want State) objects { return flatten(f.wounds.on(want)) }

// injuries are what wounds come to.
type injuries struct {
	dark, deaf map[EndAt]bool
	worse      map[EndAt]topo.Impairment
	dead       map[string]bool
}

func (ws wounds) sum() injuries {
	sum := injuries{map[EndAt]bool{}, map[EndAt]bool{}, map[EndAt]topo.Impairment{}, map[string]bool{}}
	for _, w := range ws {
		for _, e := range w.Dark {
			sum.dark[e] = true
		}
		for _, e := range w.Deaf {
			sum.deaf[e] = true
		}
		for _, e := range w.Worse {
			sum.worse[e.EndAt] = worst(sum.worse[e.EndAt], e.Impairment)
		}
		for _, node := range w.Dead {
			sum.dead[node] = true
		}
	}
	return sum
}

// worst is what is left of a direction of a link of which both are said.
func worst(a, b topo.Impairment) topo.Impairment {
	if b.Rate != 0 && (a.Rate == 0 || b.Rate < a.Rate) {
		a.Rate = b.Rate
	}
	a.Delay, a.Jitter, a.Loss = max(a.Delay, b.Delay), max(a.Jitter, b.Jitter), max(a.Loss, b.Loss)
	return a
}

// on is a State as it is with the wounds. The State given stays as it is.
func (ws wounds) on(s State) State {
	if len(ws) == 0 {
		return s
	}
	sum := ws.sum()
	s.Links = maps.Clone(s.Links)
	for name, l := range s.Links {
		s.Links[name] = sum.link(l)
	}
	s.Nodes = maps.Clone(s.Nodes)
	for name := range sum.dead {
		if n, ok := s.Nodes[name]; ok {
			n.Routes, n.MPLS = nil, nil
			s.Nodes[name] = n
		}
	}
	return s
}

func (sum injuries) link(l Link) Link {
	for i, e := range []*End{&l.A, &l.B} {
		at, bit := EndAt{e.Node, e.Ifname}, endA<<i
		if sum.dark[at] || sum.dead[e.Node] {
			l.dark |= bit
		}
		if sum.deaf[at] {
			l.deaf |= bit
		}
		if bound, ok := sum.worse[at]; ok {
			e.bound(bound)
		}
	}
	if l.Seat != topo.NoSeat {
		l.dark &^= endB // up or down as its host's agent has it, which a crash takes down with it
	}
	return l
}

// bound makes an end no better than that. What is reserved on its line shrinks
// with it.
func (e *End) bound(by topo.Impairment) {
	e.Egress = worst(e.Egress, by)
	var sum topo.Rate
	for _, c := range e.Classes {
		sum += c.Rate
	}
	if e.Egress.Rate == 0 || sum <= e.Egress.Rate {
		return
	}
	e.Classes = slices.Clone(e.Classes)
	for i := range e.Classes {
		c := &e.Classes[i]
		c.Rate = topo.Rate(float64(c.Rate)*float64(e.Egress.Rate)/float64(sum)/8) * 8
	}
}

// Wounded says whether the lab has wounds.
func (f *Fabric) Wounded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.wounds) > 0
}

// Strike wounds the lab, and returns the number by which the wound is healed and
// the moment just before the kernel was told: the first message takes all of a
// crashed node's ends down, or the first end of a link. It does nothing that
// the fault itself would not do: routes that others have put in place stay.
func (f *Fabric) Strike(w Wound) (id int, at event.Mono, err error) {
	f.change.Lock()
	defer f.change.Unlock()
	if f.lock == nil {
		return 0, 0, ErrClosed
	}
	if err := f.admits(w); err != nil {
		return 0, 0, err
	}
	if len(w.Deaf) > 0 {
		if err := rtnl.PrepareDeaf(); err != nil {
			return 0, 0, err
		}
	}
	id = 1
	for f.wounds[id].any() {
		id++
	}
	f.setWound(id, w)
	goal := f.goal(f.state)
	s := strike{f: f, batches: map[string]*rtnl.Batch{}}
	s.encode(w, goal)
	at, err = s.send()
	if err == nil {
		err = errors.Join(f.strip(goal), f.flush(w.Dead))
	}
	f.mu.Lock()
	f.applied = goal
	f.mu.Unlock()
	if err == nil {
		return id, at, nil
	}
	if _, undo := f.heal(context.Background(), id); undo != nil {
		err = fmt.Errorf("%w\n  and undoing it failed: %w", err, undo)
	}
	return 0, 0, err
}

func (w Wound) any() bool {
	return len(w.Dark)+len(w.Deaf)+len(w.Worse)+len(w.Dead) > 0
}

// setWound notes a wound; one of nothing is forgotten.
func (f *Fabric) setWound(id int, w Wound) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wounds = maps.Clone(f.wounds)
	if f.wounds == nil {
		f.wounds = wounds{}
	}
	if f.wounds[id] = w; !w.any() {
		delete(f.wounds, id)
	}
}

// admits says whether there is what a wound is about.
func (f *Fabric) admits(w Wound) error {
	if !w.any() {
		return errors.New("nothing is to be broken")
	}
	ends := map[EndAt]bool{}
	for _, l := range f.state.Links {
		ends[EndAt{l.A.Node, l.A.Ifname}], ends[EndAt{l.B.Node, l.B.Ifname}] = true, true
	}
	for _, e := range w.ends() {
		if !ends[e] {
			return &NoEndError{e}
		}
	}
	for _, node := range w.Dead {
		if f.nodes[node] == nil {
			return fmt.Errorf("node %s: %w", node, ErrNoNode)
		}
	}
	return nil
}

// ends are those that a wound names.
func (w Wound) ends() []EndAt {
	ends := slices.Concat(w.Dark, w.Deaf)
	for _, e := range w.Worse {
		ends = append(ends, e.EndAt)
	}
	return ends
}

// strike is the messages of one wound: a batch a node, in order of need.
type strike struct {
	f       *Fabric
	order   []string
	batches map[string]*rtnl.Batch
}

func (s *strike) at(node string) *rtnl.Batch {
	if s.batches[node] == nil {
		s.batches[node] = &rtnl.Batch{}
		s.order = append(s.order, node)
	}
	return s.batches[node]
}

// encode writes what the wound does. What goes down goes first, the ends of dead
// nodes before all.
func (s *strike) encode(w Wound, goal objects) {
	dead := map[string]bool{}
	for _, node := range w.Dead {
		dead[node] = true
	}
	var dark []EndAt
	for _, name := range sortedKeys(s.f.state.Links) {
		l := s.f.state.Links[name]
		for _, e := range []End{l.A, l.B} {
			if dead[e.Node] {
				dark = append(dark, EndAt{e.Node, e.Ifname})
			}
		}
	}
	for _, e := range append(dark, w.Dark...) {
		if !dead[e.Node] && s.f.isSeat(e) {
			continue // its far end goes down, and takes the carrier from it
		}
		n := s.f.nodes[e.Node]
		s.at(e.Node).LinkSet(rtnl.LinkChange{Index: n.index[e.Ifname], Name: e.Ifname, Up: &down})
	}
	for _, e := range w.Deaf {
		s.at(e.Node).Deafen(s.f.nodes[e.Node].index[e.Ifname], e.Ifname)
	}
	for _, e := range w.Worse {
		n := s.f.nodes[e.Node]
		for _, k := range goal.lineOf(e.EndAt) {
			if was := s.f.applied[k]; was != goal[k] {
				n.set(s.at(e.Node), k, goal[k], was)
			}
		}
	}
}

// isSeat says whether an end is up or down as its host's agent has it.
func (f *Fabric) isSeat(e EndAt) bool {
	for _, l := range f.state.Links {
		if l.Seat != topo.NoSeat && l.B.Node == e.Node && l.B.Ifname == e.Ifname {
			return true
		}
	}
	return false
}

// lineOf are the keys of an end's disciplines and classes, in order.
func (o objects) lineOf(e EndAt) (keys []key) {
	for k := range o {
		if (k.rank == rankQdisc || k.rank == rankClass) && k.node == e.Node && k.dev == e.Ifname {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, key.compare)
	return keys
}

func (s *strike) send() (at event.Mono, err error) {
	at = event.Now()
	var errs []error
	for _, node := range s.order {
		errs = append(errs, s.f.nodes[node].send(s.batches[node]))
	}
	return at, errors.Join(errs...)
}

// strip takes away the disciplines of the ends that have lost their carrier,
// which would be no good afterwards; see flatten.
func (f *Fabric) strip(goal objects) error {
	s := strike{f: f, batches: map[string]*rtnl.Batch{}}
	for k, o := range f.applied {
		if _, stays := goal[k]; stays || k.rank != rankQdisc && k.rank != rankClass {
			continue
		}
		n := f.nodes[k.node]
		if _, ok := o.(qdiscObj); ok {
			s.at(k.node).QdiscDel(rootQdisc(k.dev, n.index[k.dev]), rtnl.IgnoreMissing)
		}
		delete(n.classes, k)
	}
	_, err := s.send()
	return err
}

// kernelProtocol is RTPROT_KERNEL: routes that come and go with addresses.
const kernelProtocol = 2

// flush takes from nodes that died what their kernels know of routes and labels
// beyond what went with the links, and the devices of speakers.
func (f *Fabric) flush(dead []string) error {
	var errs []error
	for _, name := range dead {
		if err := f.nodes[name].flush(); err != nil {
			errs = append(errs, fmt.Errorf("node %s: forget routes and labels: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (n *node) flush() error {
	routes, err := n.conn.Routes(0)
	if err != nil {
		return err
	}
	labels, err := n.conn.MPLSRoutes(0)
	if err != nil {
		return err
	}
	var b rtnl.Batch
	for _, r := range routes {
		if r.Protocol != kernelProtocol && !r.Unreachable {
			b.RouteDel(r, rtnl.IgnoreMissing)
		}
	}
	for _, l := range labels {
		b.MPLSDel(l.In, rtnl.IgnoreMissing)
	}
	b.GroupDel(rtnl.GroupSpeaker, rtnl.IgnoreMissing)
	return n.conn.Do(&b)
}

// Heal takes a wound away and gives the kernel back what it took: links come up,
// with their disciplines made anew; IP routes that went with a device come back,
// and all that a dead node forgot. It compares with what the kernel holds of the
// nodes concerned. Routes that others put in the place of the State's meanwhile
// (a router's repair process does) are left to those who did. The moment is just
// before the kernel was told.
func (f *Fabric) Heal(ctx context.Context, id int) (at event.Mono, err error) {
	f.change.Lock()
	defer f.change.Unlock()
	if f.lock == nil {
		return 0, nil // all of the lab is gone, and its wounds
	}
	return f.heal(ctx, id)
}

// heal is Heal for whoever may change the lab.
func (f *Fabric) heal(ctx context.Context, id int) (at event.Mono, err error) {
	w, ok := f.wounds[id]
	if !ok {
		return 0, nil
	}
	f.setWound(id, Wound{})
	goal := f.goal(f.state)
	h := f.healing(w)
	o, err := f.look(sortedKeys(h.nodes), goal)
	if err != nil {
		f.suspect = true
		return 0, err
	}
	work := h.work(o.have, goal)
	err = onThread(func() error {
		if err := f.remove(ctx, work, nil); err != nil {
			return err
		}
		at = event.Now()
		return f.fillNodes(ctx, work)
	})
	f.mu.Lock()
	f.applied = goal
	f.mu.Unlock()
	if err != nil {
		f.suspect = true // only the kernel knows; the next Apply asks it
		return at, fmt.Errorf("lab %s: heal: %w", f.lab, err)
	}
	return at, nil
}

// healing is what a wound was about.
type healing struct {
	nodes, dead map[string]bool // nodes of any end; those that died
	ends        map[end]bool    // both ends of each link
}

func (f *Fabric) healing(w Wound) healing {
	h := healing{nodes: map[string]bool{}, dead: map[string]bool{}, ends: map[end]bool{}}
	for _, name := range w.Dead {
		if f.nodes[name] != nil { // else it is not a part of the lab any more
			h.dead[name], h.nodes[name] = true, true
		}
	}
	named := map[EndAt]bool{}
	for _, e := range w.ends() {
		named[e] = true
	}
	for _, l := range f.state.Links {
		a, b := EndAt{l.A.Node, l.A.Ifname}, EndAt{l.B.Node, l.B.Ifname}
		if named[a] || named[b] || h.dead[a.Node] || h.dead[b.Node] {
			h.nodes[a.Node], h.nodes[b.Node] = true, true
			h.ends[end{a.Node, a.Ifname}], h.ends[end{b.Node, b.Ifname}] = true, true
		}
	}
	return h
}

// work is what leads from what there is to the goal, as far as the wound is
// concerned.
func (h healing) work(have, goal objects) *work {
	w := &work{del: objects{}, add: objects{}, old: objects{}}
	for k, want := range goal {
		was, there := have[k]
		if was == want || !h.lost(k, want, there) {
			continue
		}
		w.add[k] = want
		switch {
		case !there:
		case k.rank == rankQdisc && was.(qdiscObj).rate == 0: // of a link that was down: anew
			w.del[k] = was
		default:
			w.old[k] = was
		}
	}
	for k, was := range have {
		if _, stays := goal[k]; !stays && h.ofLine(k) {
			w.del[k] = was
		}
	}
	return w
}

// lost says whether an object that is not as it should be is not so because of
// the wound.
func (h healing) lost(k key, want object, there bool) bool {
	switch v := want.(type) {
	case linkObj:
		return there && h.ends[end{k.node, k.dev}]
	case routeObj:
		return !there && (h.dead[k.node] || h.ends[end{k.node, v.Dev}])
	case labelObj:
		return !there && (h.dead[k.node] || h.ends[end{k.node, v.Dev}])
	}
	return h.ofLine(k)
}

// ofLine says whether an object is an end's discipline, class or deafness.
func (h healing) ofLine(k key) bool {
	return (k.rank == rankQdisc || k.rank == rankClass || k.rank == rankDeaf) && h.ends[end{k.node, k.dev}]
}
