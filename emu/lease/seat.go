package lease

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/vpclab/vpclab/emu/event"
)

// Seat is one VM's place at a host. Its methods may be called from any
// goroutine, and do not wait for anybody.
type Seat struct {
	node    *Node
	config  Config
	me      Party
	changed func(State)

	until atomic.Int64 // event.Mono: of an active, when its lease ends; else 0

	// Under node.mu:
	holder Holder
	follow *atomic.Int64 // holds until, too; nil: nobody asked for it
	told   State         // the last that was queued

	queue struct {
		sync.Mutex
		wake   *sync.Cond
		states []State
		ended  bool
	}
	idle chan struct{} // closed when changed is not called any more
}

// Join takes the seat of a VM at this host, with what is there of it. changed is
// told each change of State (Until aside) in order, by a goroutine of its own: it
// may take its time, but what it learns is then old, so that before anything is
// done in the VM's name Active is to be asked.
func (n *Node) Join(c Config, have Have, changed func(State)) (*Seat, error) {
	c, err := c.Checked()
	if err != nil {
		return nil, err
	}
	me, ok := c.Party(n.name)
	if !ok || me == Third {
		return nil, fmt.Errorf("lease of %s: %s is not one of its hosts %s and %s", c.VM, n.name, c.Members[HostA].Name, c.Members[HostB].Name)
	}
	s := &Seat{node: n, config: c, me: me, changed: changed, idle: make(chan struct{})}
	s.queue.wake = sync.NewCond(&s.queue)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closed:
		return nil, fmt.Errorf("lease of %s: %s has closed its leases", c.VM, n.name)
	case n.seats[c.VM] != nil:
		return nil, fmt.Errorf("lease of %s: it has a seat at %s", c.VM, n.name)
	}
	now := event.Now()
	s.holder = NewHolder(c, me, have, rand.Uint64(), now)
	n.seats[c.VM] = s
	go s.tell()
	s.holder.Tick(now)
	n.flush(s, now)
	n.sleep(now)
	return s, nil
}

// Leave gives the seat up, at once: the VM must not run here. No callback is
// under way when it returns, so it must not be called by one.
func (s *Seat) Leave() {
	s.node.mu.Lock()
	if s.node.seats[s.config.VM] == s {
		delete(s.node.seats, s.config.VM)
	}
	s.setUntil(0)
	s.node.mu.Unlock()
	s.queue.Lock()
	s.queue.ended = true
	s.queue.wake.Signal()
	s.queue.Unlock()
	<-s.idle
}

// Active is whether the VM may run at this moment. It is cheap: no lock and no
// system call.
func (s *Seat) Active() bool { return event.Now() < s.Until() }

// Until is when the lease ends by this kernel's CLOCK_MONOTONIC, and 0 when
// there is none. Only this moment's is true: it may be taken back before, where the
// witness has said that the other host has the VM.
func (s *Seat) Until() event.Mono { return event.Mono(s.until.Load()) }

// Follow has word hold Until from now on, in the place of the one before: a word
// that is shared with the guest keeps that from running longer than it may,
// whatever becomes of this process.
func (s *Seat) Follow(word *atomic.Int64) {
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	if s.follow != nil {
		s.follow.Store(0)
	}
	s.follow = word
	word.Store(s.until.Load())
}

// setUntil is for whoever holds node.mu.
func (s *Seat) setUntil(until event.Mono) {
	s.until.Store(int64(until))
	if s.follow != nil {
		s.follow.Store(int64(until))
	}
}

// State is what is known at this moment.
func (s *Seat) State() (state State) {
	s.do(func(h *Holder, now event.Mono) { state = h.State(now) })
	return state
}

// Has: see Holder.Has.
func (s *Seat) Has(have Have) { s.do(func(h *Holder, now event.Mono) { h.Has(now, have) }) }

// Alone: see Holder.Alone.
func (s *Seat) Alone() { s.do(func(h *Holder, now event.Mono) { h.Alone(now) }) }

// Protect: see Holder.Protect. No output may be released unprotected from when
// it is called.
func (s *Seat) Protect() { s.do(func(h *Holder, now event.Mono) { h.Protect(now) }) }

// Synced: see Holder.Synced.
func (s *Seat) Synced() { s.do(func(h *Holder, now event.Mono) { h.Synced(now) }) }

// Hand gives the VM, which stands, to the standby; see Holder.Hand.
func (s *Seat) Hand() (err error) {
	if !s.do(func(h *Holder, now event.Mono) { err = h.Hand(now) }) {
		err = ErrNotActive
	}
	if err != nil {
		return fmt.Errorf("lease of %s at %s: %w", s.config.VM, s.node.name, err)
	}
	return nil
}

// do is one step of the holder's; a seat that has been left does none.
func (s *Seat) do(step func(h *Holder, now event.Mono)) bool {
	n := s.node
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seats[s.config.VM] != s {
		return false
	}
	now := event.Now()
	s.holder.settle(now)
	step(&s.holder, now)
	n.flush(s, now)
	n.sleep(now)
	return true
}

// publish has the state known to everybody.
func (s *Seat) publish(now event.Mono) {
	state := s.holder.State(now)
	s.setUntil(state.Until)
	state.Until = 0
	if state == s.told {
		return
	}
	s.told = state
	s.queue.Lock()
	state.Until = event.Mono(s.until.Load())
	s.queue.states = append(s.queue.states, state)
	s.queue.wake.Signal()
	s.queue.Unlock()
}

// tell calls changed, in order.
func (s *Seat) tell() {
	defer close(s.idle)
	for {
		s.queue.Lock()
		for len(s.queue.states) == 0 && !s.queue.ended {
			s.queue.wake.Wait()
		}
		if s.queue.ended {
			s.queue.Unlock()
			return
		}
		state := s.queue.states[0]
		s.queue.states = s.queue.states[1:]
		s.queue.Unlock()
		s.changed(state)
	}
}
