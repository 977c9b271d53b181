package lease

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// story is the three parties on one clock, with a network that delivers in one
// unit of time what is not cut.
type story struct {
	t       *testing.T
	now     event.Mono
	c       Config
	h       [2]Holder
	w       Witness
	up      [3]bool
	cut     func(m Message) bool // nil: nothing
	flying  []Message
	boots   uint64
	mostRan int
}

func newStory(t *testing.T) *story {
	c := Config{VM: "shop", Term: 30, Renew: 5, Drift: 0.1, Silence: 20}
	s := &story{t: t, now: 1000, c: c, up: [3]bool{true, true, true}}
	s.w = NewWitness(c, Record{Gen: 1, Holder: HostA}, 0, s.now)
	s.start(HostA, Disk)
	s.start(HostB, Nothing)
	return s
}

func (s *story) start(p Party, have Have) {
	s.boots++
	s.h[p], s.up[p] = NewHolder(s.c, p, have, s.boots, s.now), true
}

// tick is one unit of time.
func (s *story) tick() {
	s.now++
	arrived := s.flying
	s.flying = nil
	for _, m := range arrived {
		if !s.up[m.To] || s.cut != nil && s.cut(m) {
			continue
		}
		if m.To == Third {
			s.flying = append(s.flying, s.w.Receive(s.now, m))
		} else {
			s.h[m.To].Receive(s.now, m)
		}
	}
	ran := 0
	for p := range s.h {
		if !s.up[p] {
			continue
		}
		s.h[p].Tick(s.now)
		if _, active := s.h[p].Active(s.now); active {
			ran++
		}
		s.flying = append(s.flying, s.h[p].Out...)
		s.h[p].Out = nil
	}
	s.mostRan = max(s.mostRan, ran)
	if ran > 1 {
		s.t.Fatalf("at %d both run the VM: %+v and %+v", s.now, s.h[0].State(s.now), s.h[1].State(s.now))
	}
}

// until lets time pass until what is said is so.
func (s *story) until(what string, within int, so func() bool) (took int) {
	s.t.Helper()
	for took = 0; !so(); took++ {
		if took == within {
			s.t.Fatalf("%s: not within %d units: A %+v, B %+v, witness %+v", what, within, s.h[0].State(s.now), s.h[1].State(s.now), s.w.Record())
		}
		s.tick()
	}
	return took
}

func (s *story) role(p Party, r Role) func() bool {
	return func() bool { return s.up[p] && s.h[p].State(s.now).Role == r }
}

// pair has A run the VM, with B in sync.
func (s *story) pair() {
	s.t.Helper()
	s.until("A begins", 10, s.role(HostA, Active))
	s.sync(HostA)
}

// sync has the standby of p in sync.
func (s *story) sync(p Party) {
	s.t.Helper()
	o := p.Other()
	s.h[p].Protect(s.now)
	s.h[o].Has(s.now, Image)
	s.h[p].Synced(s.now)
	s.until("the witness records the standby as in sync", 10, func() bool { return s.h[p].State(s.now).Record.InSync })
	s.until("the standby watches", 40, s.role(o, Standby))
	// What a predecessor of the standby may have promised ends.
	for range 40 {
		s.tick()
	}
}

func (s *story) apart(p Party) { s.cut = func(m Message) bool { return m.From == p || m.To == p } }

func TestStandbyTakesOverFromADeadHost(t *testing.T) {
	s := newStory(t)
	s.pair()
	s.up[HostA] = false
	took := s.until("B takes over", 60, s.role(HostB, Active))
	if took < 30 {
		t.Errorf("B took over after %d units, before A's lease of 30 had ended", took)
	}
	if st := s.h[HostB].State(s.now); st.From != Image || st.Unprotected {
		t.Errorf("B begins as %+v: want its image, protected", st)
	}
	// A has all that was released: until the witness knows that it will not.
	s.h[HostB].Alone(s.now)
	s.until("B runs unprotected", 4, func() bool { return s.h[HostB].State(s.now).Unprotected })
	// A comes back with nothing but its disk, and is no longer who has the VM.
	s.start(HostA, Disk)
	s.until("A learns it", 20, func() bool { return s.h[HostA].State(s.now).Record.Holder == HostB })
	s.sync(HostB)
	if err := s.h[HostB].Hand(s.now); err != nil {
		t.Fatal(err)
	}
	s.until("A has it again", 10, s.role(HostA, Active))
	s.until("B knows", 10, s.role(HostB, Fenced))
}

func TestWitnessDiesAndNobodyMinds(t *testing.T) {
	s := newStory(t)
	s.pair()
	s.up[Third] = false
	for range 200 {
		s.tick()
		if !s.role(HostA, Active)() {
			t.Fatal("A stops, though B promises")
		}
	}
	s.h[HostA].Alone(s.now)
	for range 100 {
		s.tick()
	}
	if s.h[HostA].State(s.now).Unprotected {
		t.Fatal("A runs unprotected and no witness has recorded it")
	}
	s.w, s.up[Third] = NewWitness(s.c, s.w.Record(), 0, s.now), true
	s.until("the witness records it", 20, func() bool { return s.h[HostA].State(s.now).Unprotected })
}

func TestHostCutOffStopsFirst(t *testing.T) {
	s := newStory(t)
	s.pair()
	s.apart(HostA)
	stopped := s.until("A stops", 40, s.role(HostA, Lapsed))
	took := s.until("B takes over", 60, s.role(HostB, Active))
	t.Logf("A stopped after %d units, B went on %d later", stopped, took)
	s.cut = nil
	s.until("A learns that it is out", 20, s.role(HostA, Fenced))
}

func TestUnprotectedHostCutOffGoesOnAfterwards(t *testing.T) {
	s := newStory(t)
	s.pair()
	s.up[HostB] = false
	s.h[HostA].Alone(s.now)
	s.until("A runs alone", 20, func() bool { return s.h[HostA].State(s.now).Unprotected })
	s.start(HostB, Image) // what it held; not what was released since
	s.apart(HostA)
	s.until("A stops", 40, s.role(HostA, Lapsed))
	for range 200 {
		s.tick()
		if s.role(HostB, Active)() {
			t.Fatal("a stale standby took over")
		}
	}
	s.cut = nil
	s.until("A goes on", 20, s.role(HostA, Active))
	if st := s.h[HostA].State(s.now); st.From != Machine || !st.Unprotected {
		t.Errorf("A goes on as %+v: want as it was", st)
	}
}

func TestHandOverTakesFourMessages(t *testing.T) {
	s := newStory(t)
	s.pair()
	if err := s.h[HostA].Hand(s.now); err != nil {
		t.Fatal(err)
	}
	if took := s.until("B has it", 10, s.role(HostB, Active)); took > 4 {
		t.Errorf("took %d one-way delays: want 3, and one until A's message is sent", took)
	}
	s.until("A knows", 10, s.role(HostA, Fenced))
}

func TestHandOverThatNobodyHearsIsTakenBack(t *testing.T) {
	for name, cut := range map[string]func(Message) bool{
		"the hosts cannot speak":     func(m Message) bool { return m.From != Third && m.To != Third },
		"the witness is silent":      func(m Message) bool { return m.From == Third || m.To == Third },
		"the standby hears nothing":  func(m Message) bool { return m.To == HostB },
		"the standby is not heard":   func(m Message) bool { return m.From == HostB },
		"the active can only listen": func(m Message) bool { return m.From == HostA },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			s.pair()
			if err := s.h[HostA].Hand(s.now); err != nil {
				t.Fatal(err)
			}
			s.cut = cut
			s.until("somebody has it", 120, func() bool { return s.role(HostA, Active)() || s.role(HostB, Active)() })
			s.cut = nil
			for range 200 {
				s.tick()
			}
			s.until("somebody has it when all is well again", 1, func() bool { return s.role(HostA, Active)() || s.role(HostB, Active)() })
		})
	}
}

// members are three at addresses of a network of their own.
func members(names ...string) (m [3]Member) {
	for i, name := range names {
		m[i] = Member{name, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 76, 25, byte(i + 1)}), Port)}
	}
	return m
}

func TestTermsThatCannotBeKeptAreRefused(t *testing.T) {
	good := Config{VM: "shop", Members: members("texas-h1", "illinois-h1", "oregon-h1")}
	if c, err := good.Checked(); err != nil || c.Term != 300*time.Millisecond || c.Renew != 60*time.Millisecond {
		t.Fatalf("%+v: %v", c, err)
	}
	for name, spoil := range map[string]func(*Config){
		"no name":             func(c *Config) { c.VM = "" },
		"renewed too late":    func(c *Config) { c.Term, c.Renew = time.Second, time.Second },
		"clocks from nowhere": func(c *Config) { c.Drift = 2 },
		"two hosts in one":    func(c *Config) { c.Members[1] = c.Members[0] },
		"a witness nowhere":   func(c *Config) { c.Members[2] = Member{} },
	} {
		c := good
		spoil(&c)
		if _, err := c.Checked(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
