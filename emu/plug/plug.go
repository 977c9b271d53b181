package plug

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/rtnl"
)

// Plug is the gate of one interface of a VM. Its methods are those of
// replicate.Gate, and safe for concurrent use.
type Plug struct {
	what string // for errors
	eth  int    // index of the VM's interface
	dev  string

	mu    sync.Mutex
	conn  *rtnl.Conn // in the VM's namespace
	batch rtnl.Batch
	ring  ring
}

const (
	prioMajor = 0x7600 // of the prio discipline; those of plugs follow
	// mostHeld bytes are held of one epoch: more than TCP sends unacknowledged
	// on all connections of a VM. The kernel's default, a thousand packets, is
	// less than one connection may have under way.
	mostHeld = 1 << 30
	// filterPrio is that of the redirect among the filters of the VM's interface.
	filterPrio = 0x7600
	// leavePatience bounds the wait for packets that were let go to have left:
	// the kernel has it done within a millisecond.
	leavePatience = 5 * time.Second
	leaveLook     = 200 * time.Microsecond
)

// New makes the gate of interface dev in the namespace mounted at path netns:
// open, until Mark. It is refused (os.ErrExist) where there is one: see Adopt and
// Remove.
func New(netns, dev string) (*Plug, error) {
	p, there, err := find(netns, dev)
	if err != nil {
		return nil, err
	}
	if there {
		_ = p.Close()
		return nil, fmt.Errorf("%s: there is one: %w", p.what, os.ErrExist)
	}
	if err := p.make(); err != nil {
		return nil, errors.Join(err, p.take(), p.Close())
	}
	p.ring.open = true
	return p, nil
}

// find opens a socket in the namespace, and looks for interface and gate.
func find(netns, dev string) (p *Plug, there bool, err error) {
	p = &Plug{what: fmt.Sprintf("gate of %s in %s", dev, netns), dev: dev}
	ns, err := os.Open(netns)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", p.what, err)
	}
	defer ns.Close()
	if p.conn, err = rtnl.DialNS(int(ns.Fd())); err != nil {
		return nil, false, fmt.Errorf("%s: %w", p.what, err)
	}
	links, err := p.conn.Links()
	if err != nil {
		return nil, false, errors.Join(fmt.Errorf("%s: %w", p.what, err), p.conn.Close())
	}
	for _, l := range links {
		there = there || l.Name == p.holder()
		if l.Name == dev {
			p.eth = l.Index
		}
	}
	if p.eth == 0 {
		return nil, false, errors.Join(fmt.Errorf("%s: no such interface: %w", p.what, os.ErrNotExist), p.conn.Close())
	}
	return p, there, nil
}

// holder is the interface that holds.
func (p *Plug) holder() string { return "hold-" + p.dev }
func (p *Plug) hold() int      { return rtnl.FirstPlugIndex + p.eth }

func (p *Plug) root() rtnl.Qdisc {
	return rtnl.Qdisc{DevIndex: p.hold(), Dev: p.holder(), Parent: rtnl.Root, Handle: rtnl.MakeHandle(prioMajor, 0)}
}

func (p *Plug) plug(band uint8) rtnl.Qdisc {
	q := p.root()
	q.Parent = rtnl.MakeHandle(prioMajor, uint16(band)+1)
	q.Handle = rtnl.MakeHandle(prioMajor+1+uint16(band), 0)
	return q
}

func (p *Plug) redirect() rtnl.Filter {
	return rtnl.Filter{DevIndex: p.eth, Dev: p.dev, Parent: rtnl.Egress, Prio: filterPrio, Handle: 1,
		Actions: []rtnl.Action{rtnl.Redirect{DevIndex: p.hold()}}}
}

// make builds the gate, open.
func (p *Plug) make() error {
	p.batch.Reset()
	p.batch.IFB(rtnl.Link{Name: p.holder(), Index: p.hold(), Group: rtnl.GroupPlug})
	up := true
	p.batch.LinkSet(rtnl.LinkChange{Index: p.hold(), Name: p.holder(), Up: &up})
	p.batch.Prio(p.root(), Bands, rtnl.PrioMap{})
	for band := range uint8(Bands) {
		p.batch.Plug(p.plug(band), mostHeld)
	}
	p.batch.PlugSet(p.plug(openLane), rtnl.PlugRelease)
	p.batch.Clsact(p.eth, p.dev, 0, rtnl.IgnoreExist)
	p.batch.Filter(p.redirect())
	return p.tell("make")
}

// take removes the gate, whatever there is of it.
func (p *Plug) take() error {
	p.batch.Reset()
	p.batch.FilterDel(p.redirect(), rtnl.IgnoreMissing)
	p.batch.LinkDel(p.hold(), "", rtnl.IgnoreMissing)
	refused, err := p.conn.Run(&p.batch)
	for _, r := range refused {
		if r.Errno != unix.EINVAL { // no hook to hang a filter on
			err = errors.Join(err, r)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: remove: %w", p.what, err)
	}
	return nil
}

// tell sends the batch.
func (p *Plug) tell(doing string) error {
	if err := p.conn.Do(&p.batch); err != nil {
		return fmt.Errorf("%s: %s: %w", p.what, doing, err)
	}
	return nil
}

// Adopt takes over the gate that a process left that has ended: what it held is
// held. The epochs that it held apart are held apart, and have numbers that only
// their order is taken from: see Epoch. The error is os.ErrNotExist's kind where
// there is no gate.
func Adopt(netns, dev string) (*Plug, error) {
	p, there, err := find(netns, dev)
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, errors.Join(fmt.Errorf("%s: adopt: %w", p.what, os.ErrNotExist), p.Close())
	}
	if err := p.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: adopt: %w", p.what, err), p.Close())
	}
	return p, nil
}

// read finds out what a gate holds.
func (p *Plug) read() error {
	all, err := p.conn.Waiting(p.hold())
	if err != nil {
		return err
	}
	var lane uint8
	var waiting [Bands]int
	prio, plugs := false, 0
	for _, q := range all {
		band := int(q.Handle>>16) - prioMajor - 1
		switch {
		case q.Kind == "blackhole":
			p.ring.shut = true
			return nil
		case q.Kind == "prio" && q.Handle == p.root().Handle:
			prio, lane = true, q.Map[0]
		case q.Kind == "plug" && band >= 0 && band < Bands:
			waiting[band] = q.Packets
			plugs++
		}
	}
	if !prio || plugs != Bands {
		return fmt.Errorf("%s has %d plugs of %d: it was not made whole, and holds nothing", p.holder(), plugs, Bands)
	}
	p.ring = adopted(lane, waiting)
	return nil
}

// adopted is the ring of a gate that sends to a band, and holds so many packets
// in each.
func adopted(lane uint8, waiting [Bands]int) ring {
	if lane == openLane {
		return ring{open: true}
	}
	r := ring{current: Epochs + uint64(lane)}
	for r.released = r.current - Epochs; r.released < r.current-1 && waiting[bandOf(r.released+1)] == 0; {
		r.released++
	}
	r.left = r.released
	return r
}

// Remove takes the gate away, if there is one: what it holds is lost, and what is
// sent from then on leaves.
func Remove(netns, dev string) error {
	p, _, err := find(netns, dev)
	if err != nil {
		return err
	}
	return errors.Join(p.take(), p.Close())
}

// Close lets go of the gate, which stays as it is.
func (p *Plug) Close() error { return p.conn.Close() }

// Epoch is the one that what is sent now belongs to.
func (p *Plug) Epoch() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ring.current
}

// Mark begins the next epoch: what the VM sends from now on belongs to it, and
// is held. What was sent before belongs to epoch-1 at the latest, and may be let
// go, by Release(epoch-1), once a state of the VM that is not older than this
// call is safe. The error is ErrFull where too many are held.
func (p *Plug) Mark() (epoch uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	epoch, mustLeave, err := p.ring.next()
	if err == nil && mustLeave > 0 {
		err = p.awaitLeft(mustLeave)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: mark: %w", p.what, err)
	}
	band := bandOf(epoch)
	p.batch.Reset()
	p.batch.PlugSet(p.plug(band), rtnl.PlugBuffer)
	p.batch.Prio(p.root(), Bands, all(band))
	if err := p.tell(fmt.Sprintf("mark epoch %d", epoch)); err != nil {
		return 0, err
	}
	p.ring.marked()
	return epoch, nil
}

// all sends packets of each priority to one band.
func all(band uint8) (m rtnl.PrioMap) {
	for i := range m {
		m[i] = band
	}
	return m
}

// Release lets go what belongs to epochs up to and including epoch. The one that
// is open cannot be released: nothing says yet what it rests on.
func (p *Plug) Release(epoch uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ring.open && !p.ring.shut && epoch == p.ring.current {
		return fmt.Errorf("%s: release epoch %d: it is open; mark the next one first", p.what, epoch)
	}
	return p.release(epoch)
}

func (p *Plug) release(epoch uint64) error {
	parts, err := p.ring.parts(epoch)
	if err != nil {
		return fmt.Errorf("%s: release epoch %d: %w", p.what, epoch, err)
	}
	for _, part := range parts {
		if part.mustLeave > 0 {
			if err := p.awaitLeft(part.mustLeave); err != nil {
				return fmt.Errorf("%s: release epoch %d: %w", p.what, epoch, err)
			}
		}
		p.batch.Reset()
		for e := part.from; e <= part.to; e++ {
			p.batch.PlugSet(p.plug(bandOf(e)), rtnl.PlugRelease)
		}
		if err := p.tell(fmt.Sprintf("release epochs %d to %d", part.from, part.to)); err != nil {
			return err
		}
		p.ring.released = part.to
	}
	return nil
}

// awaitLeft waits until what belongs to epochs up to one, which were let go, has
// left: the kernel does that in its own time.
func (p *Plug) awaitLeft(epoch uint64) error {
	for deadline := time.Now().Add(leavePatience); ; time.Sleep(leaveLook) {
		all, err := p.conn.Waiting(p.hold())
		if err != nil {
			return err
		}
		packets := 0
		for e := p.ring.left + 1; e <= p.ring.released; e++ {
			for _, q := range all {
				if q.Handle == p.plug(bandOf(e)).Handle {
					packets += q.Packets
				}
			}
			if packets == 0 {
				p.ring.left = e
			}
		}
		switch {
		case p.ring.left >= epoch:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("waited %v for %d packets up to epoch %d to leave", leavePatience, packets, epoch)
		}
	}
}

// Open lets everything go, in order, now and from now on: the VM runs
// unprotected until the next Mark.
func (p *Plug) Open() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ring.open {
		return nil
	}
	if err := p.release(p.ring.current); err != nil {
		return err
	}
	if err := p.awaitLeft(p.ring.current); err != nil {
		return fmt.Errorf("%s: open: %w", p.what, err)
	}
	p.batch.Reset()
	p.batch.Prio(p.root(), Bands, all(openLane))
	if err := p.tell("open"); err != nil {
		return err
	}
	p.ring.open = true
	return nil
}

// Shut lets nothing go any more, for good, and drops what is held: the VM has
// lost its lease. It holds beyond the end of this process, until Remove.
func (p *Plug) Shut() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ring.shut {
		return nil
	}
	p.batch.Reset()
	// At once: what follows takes the kernel some milliseconds.
	for band := range uint8(Bands) {
		p.batch.PlugSet(p.plug(band), rtnl.PlugBuffer)
	}
	q := p.root()
	q.Handle = 0
	p.batch.Blackhole(q)
	if err := p.tell("shut"); err != nil {
		return err
	}
	p.ring.shut = true
	return nil
}
