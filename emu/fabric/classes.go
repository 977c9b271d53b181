package fabric

import (
	"fmt"
	"strconv"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
	"github.com/vpclab/vpclab/topo"
)

// A line on which bandwidth is set aside is divided. Beside the class 10:1 of
// every line (impair.go) there is a tree, to which new packets go:
//
//	10:ffff         all of it: an upper limit at the line's rate
//	10:2            what nobody reserved; its link share is what is left
//	10:3, 10:4 …    reservations: real-time and link-share curve at their rate
//	1002:, 1003: …  the queue of each of them, in bytes
//	filters of 10:  one a reservation, by a label at a depth of the stack
//
// A reservation gets its rate by its real-time curve, whatever the others
// send, and what it does not use is theirs by the link shares. All of it is
// one schedule, as for a line alone, so that late timers lose nothing. 10:1
// stays as it is, so that what queues there when the first reservation comes
// is not lost: it leaves by the line of before while the tree fills.
type (
	// shared is the tree without its reservations.
	shared struct {
		rate, rest uint64 // bits a second: of the line, of what nobody reserved
		queue      int    // bytes, of what nobody reserved
		idle       bool   // packets go to 10:1; never wanted, but it happens
	}
	// reserved is one reservation.
	reserved struct {
		label uint32
		depth int
		rate  uint64 // bits a second, a multiple of 8
		queue int    // bytes
	}
	// stray is a class or a filter of the tree that is a part of nothing.
	stray struct {
		class  rtnl.Handle
		filter uint32
	}
)

const (
	allMinor     = 0xffff
	restMinor    = 2
	firstMinor   = 3 // of reservations
	queueMajor   = 0x1000
	reservedPrio = 1
	maxDepth     = 7 // of a label that a filter can see (FLOW_DIS_MPLS_MAX)
	labelBits    = 20
	// What nobody reserved keeps a hundredth of the line as its link share: on
	// a line that is reserved to the last bit it lives on what is not used.
	leastRest = 100
)

var allClass, restClass = lineHandle | allMinor, lineHandle | restMinor

// reservedOn is the class on a line of that rate.
func (c Class) reservedOn(i topo.Impairment, line uint64) reserved {
	r := reserved{label: c.Label, depth: c.Depth, rate: min(uint64(c.Rate)/8, maxRate) * 8}
	r.queue = queueOf(i, r.rate, line)
	return r
}

// addClasses files the division of an end's line.
func (o objects) addClasses(e End, line egress) {
	if line.rate == 0 || len(e.Classes) == 0 {
		return
	}
	s := shared{rate: line.rate, rest: line.rate, queue: line.queue}
	for _, c := range e.Classes {
		r := c.reservedOn(e.Egress, line.rate)
		s.rest -= min(r.rate, s.rest)
		o[classKey(e.Node, e.Ifname, r)] = classObj{r}
	}
	s.rest = max(s.rest, line.rate/leastRest/8*8, 8)
	o[key{rankClass, e.Node, e.Ifname, ""}] = sharedObj{s} // sorts before its reservations
}

func classKey(node, dev string, r reserved) key {
	return key{rankClass, node, dev, fmt.Sprintf("label %d at depth %d", r.label, r.depth)}
}

func (s shared) String() string {
	words := fmt.Sprintf("rate %v, %v of it not reserved, queue %d KiB", topo.Rate(s.rate), topo.Rate(s.rest), s.queue>>10)
	if s.idle {
		words += ", not in use"
	}
	return words
}

func (r reserved) String() string {
	return fmt.Sprintf("rate %v, queue %d KiB", topo.Rate(r.rate), r.queue>>10)
}

func (s stray) String() string {
	if s.filter != 0 {
		return "stray filter " + strconv.FormatUint(uint64(s.filter), 10)
	}
	return "stray class " + s.class.String()
}

// checkClasses finds reservations that HFSC could not keep: real-time curves
// beyond the line's rate would make the line faster than it is.
func (e End) checkClasses() error {
	line := egressOf(e.Egress).rate
	if line == 0 {
		return nil
	}
	wrong := func(text string, args ...any) error {
		return fmt.Errorf("%s:%s: %w", e.Node, e.Ifname, fmt.Errorf(text, args...))
	}
	var sum uint64
	seen := map[uint32]bool{}
	for _, c := range e.Classes {
		r := c.reservedOn(e.Egress, line)
		switch {
		case c.Label == 0 || c.Label >= 1<<labelBits || c.Depth < 1 || c.Depth > maxDepth:
			return wrong("reserved label %d at depth %d: want a label of 1 to %d at a depth of 1 to %d", c.Label, c.Depth, 1<<labelBits-1, maxDepth)
		case r.rate == 0:
			return wrong("reserved label %d: want a rate of at least 8 bit/s, got %v", c.Label, c.Rate)
		case seen[r.filter()]:
			return wrong("label %d at depth %d is reserved for twice", c.Label, c.Depth)
		}
		seen[r.filter()] = true
		sum += r.rate
	}
	if sum > line {
		return wrong("%v reserved on a line of %v", topo.Rate(sum), topo.Rate(line))
	}
	return nil
}

// filter is the number of the filter of a reservation; it says which label.
func (r reserved) filter() uint32 { return uint32(r.depth)<<labelBits | r.label }

// tree names the places in the line of one interface.
type tree struct {
	dev   string
	index int
}

func (t tree) at(parent, handle rtnl.Handle) rtnl.Qdisc {
	return rtnl.Qdisc{Dev: t.dev, DevIndex: t.index, Parent: parent, Handle: handle}
}

// queue is where the packets of a class of the tree wait.
func (t tree) queue(class rtnl.Handle) rtnl.Qdisc {
	return t.at(class, rtnl.MakeHandle(queueMajor+uint16(class), 0))
}

func (t tree) filter(number uint32) rtnl.Filter {
	return rtnl.Filter{Dev: t.dev, DevIndex: t.index, Parent: lineHandle, Prio: reservedPrio, Handle: number,
		Protocol: rtnl.EtherMPLS, Flower: &rtnl.Flower{}}
}

// divide makes or changes the tree; with the last message packets go there.
func (t tree) divide(b *rtnl.Batch, s shared) {
	b.HFSCClass(t.at(lineHandle, allClass), rtnl.HFSCClass{LinkShare: s.rate, UpperLimit: s.rate})
	b.HFSCClass(t.at(allClass, restClass), rtnl.HFSCClass{LinkShare: s.rest})
	b.ByteFIFO(t.queue(restClass), s.queue)
	b.HFSC(t.at(wireChild, lineHandle), restMinor)
}

// unite sends packets by the line alone again and takes away the tree, whose
// reservations are gone.
func (t tree) unite(b *rtnl.Batch) {
	b.HFSC(t.at(wireChild, lineHandle), lineMinor)
	b.ClassDel(t.at(allClass, restClass), rtnl.IgnoreMissing)
	b.ClassDel(t.at(lineHandle, allClass), rtnl.IgnoreMissing)
}

func (t tree) reserve(b *rtnl.Batch, r reserved, class rtnl.Handle) {
	b.HFSCClass(t.at(allClass, class), rtnl.HFSCClass{RealTime: r.rate, LinkShare: r.rate})
	b.ByteFIFO(t.queue(class), r.queue)
	f := t.filter(r.filter())
	f.Class, f.Flower.Label, f.Flower.Depth = class, r.label, r.depth
	b.Filter(f)
}

// release takes a reservation away, and the packets that wait in it.
func (t tree) release(b *rtnl.Batch, r reserved, class rtnl.Handle) {
	b.FilterDel(t.filter(r.filter()), rtnl.IgnoreMissing)
	b.ClassDel(t.at(allClass, class), rtnl.IgnoreMissing)
}

func (t tree) clear(b *rtnl.Batch, s stray) {
	if s.filter != 0 {
		b.FilterDel(t.filter(s.filter), rtnl.IgnoreMissing)
	} else {
		b.ClassDel(t.at(allClass, s.class), rtnl.IgnoreMissing)
	}
}

// class is the class of a reservation: the one it has, or the first that is
// free on its device.
func (n *node) class(k key) rtnl.Handle {
	if c, ok := n.classes[k]; ok {
		return c
	}
	taken := map[rtnl.Handle]bool{}
	for other, c := range n.classes {
		taken[c] = taken[c] || other.dev == k.dev
	}
	c := lineHandle | firstMinor
	for taken[c] {
		c++
	}
	n.classes[k] = c
	return c
}

// division is what was seen in the tree of a line.
type division struct {
	shared  *shared // nil: there is no tree
	classes map[rtnl.Handle]rtnl.ClassInfo
	by      map[rtnl.Handle]reserved // class -> whose it is
	stray   []stray
}

// leads says that packets go to a class that is there.
func (d division) leads(line rtnl.QdiscInfo) bool {
	return line.Default == lineMinor || line.Default == restMinor && d.shared != nil && d.shared.rest != 0
}

// readDivision reads the tree of a line. Only where there is one this takes a
// system call more than the classes did.
func readDivision(conn *rtnl.Conn, line rtnl.QdiscInfo, classes []rtnl.ClassInfo, qdiscs []rtnl.QdiscInfo) (d division, err error) {
	d.classes, d.by = map[rtnl.Handle]rtnl.ClassInfo{}, map[rtnl.Handle]reserved{}
	for _, c := range classes {
		if c.Handle == allClass {
			d.shared = &shared{rate: c.Ceil, idle: line.Default != restMinor}
		}
		if c.Parent == allClass {
			d.classes[c.Handle] = c
		}
	}
	if d.shared == nil {
		return division{}, nil
	}
	queues := map[rtnl.Handle]int{}
	for _, q := range qdiscs {
		if q.Index == line.Index && q.Kind == "bfifo" {
			queues[q.Parent] = q.Limit
		}
	}
	d.shared.rest, d.shared.queue = d.classes[restClass].Share, queues[restClass]
	filters, err := conn.Filters(0, line.Index, lineHandle)
	if err != nil {
		return division{}, err
	}
	for _, f := range filters {
		if f.Prio == reservedPrio { // others are somebody else's
			d.join(f, queues)
		}
	}
	for h := range d.classes {
		if _, ok := d.by[h]; !ok && h != restClass {
			d.stray = append(d.stray, stray{class: h})
		}
	}
	return d, nil
}

// join finds the reservation that a filter belongs to.
func (d *division) join(f rtnl.Filter, queues map[rtnl.Handle]int) {
	c, ok := d.classes[f.Class]
	_, twice := d.by[f.Class]
	if f.Flower == nil || !ok || twice || f.Class == restClass {
		d.stray = append(d.stray, stray{filter: f.Handle})
		return
	}
	r := reserved{label: f.Flower.Label, depth: f.Flower.Depth, rate: c.Rate, queue: queues[f.Class]}
	if r.filter() != f.Handle {
		d.stray = append(d.stray, stray{filter: f.Handle})
		return
	}
	if c.Share != c.Rate {
		r.rate = 0 // not as anybody wants it
	}
	d.by[f.Class] = r
}

// division files what was seen on a device.
func (o *observation) division(n *node, dev string, l line) {
	if l.shared == nil || l.rate == 0 {
		return // without the line itself, all is made anew
	}
	o.have[key{rankClass, n.name, dev, ""}] = sharedObj{*l.shared}
	for class, r := range l.by {
		k := classKey(n.name, dev, r)
		o.have[k] = classObj{r}
		n.classes[k] = class
	}
	for _, s := range l.stray {
		o.have[key{rankClass, n.name, dev, s.String()}] = strayObj{s}
	}
}
