package repair

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vpclab/vpclab/emu/bfd"
	"github.com/vpclab/vpclab/emu/fabric"
)

// A router with three links and a peer further away. What goes by east is
// prepared to go by north, and the other way round; what goes by south stays.
func westward() Config {
	label := func(in, out uint32, dev string) *fabric.MPLSRoute {
		return &fabric.MPLSRoute{In: in, Out: fabric.Stack{out}, Dev: dev}
	}
	dst := netip.MustParsePrefix("10.255.0.7/32")
	return Config{
		Node: "west", Carrier: true, BFD: Timers{10e6, 3},
		Links:    []Link{{Dev: "east", Peer: addr(1)}, {Dev: "north", Peer: addr(2)}, {Dev: "south", Peer: addr(3)}},
		Multihop: []Multihop{{Local: addr(9), Peer: addr(8)}},
		Routes:   []fabric.Route{{Dst: dst, Dev: "east"}, {Dst: netip.MustParsePrefix("10.1.1.0/24"), Table: 1001, Dev: "south"}},
		Protect: []Protection{
			{Dev: "east", MPLS: label(100, 200, "east"), MPLSBy: label(100, 777, "north")},
			{Dev: "east", IP: &fabric.Route{Dst: dst, Dev: "east"}, IPBy: &fabric.Route{Dst: dst, Dev: "north", Labels: fabric.Stack{778}}},
			{Dev: "north", MPLS: label(101, 201, "north"), MPLSBy: label(101, 779, "east")},
		},
	}
}

func addr(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 254, 0, n}) }

// did is what a step leads to, in words.
func did(x *reflexes) string {
	var words []string
	for _, s := range x.take() {
		words = append(words, fmt.Sprintf("%s%v %t by %s", s.Dev, map[bool]string{true: s.Peer.String()}[s.Dev == ""], s.Up, s.By))
	}
	for _, c := range x.changes() {
		words = append(words, c.String())
	}
	return strings.Join(words, "; ")
}

func told(dev string, from, to bfd.State, admin bool) bfd.Told {
	t := bfd.Told{Change: bfd.Change{From: from, To: to, Admin: admin}, Peer: bfd.Peer{Dev: dev, Index: 5}}
	if dev == "" {
		t.Peer = bfd.Peer{Local: addr(9), Remote: addr(8)}
	}
	return t
}

func TestWhatFollowsFromWhat(t *testing.T) {
	const eastGone = "switch label 100 of east; switch route 10.255.0.7/32 of east"
	const eastBack = "put back label 100 of east; put back route 10.255.0.7/32 of east"
	type step struct {
		what func(x *reflexes)
		want string
	}
	carrier := func(dev string, there bool) func(*reflexes) {
		return func(x *reflexes) { x.device(dev, there, 1) }
	}
	session := func(dev string, from, to bfd.State) func(*reflexes) {
		return func(x *reflexes) { x.session(told(dev, from, to, false)) }
	}
	for name, steps := range map[string][]step{
		"a carrier goes and comes": {
			{carrier("east", false), "east false by carrier; " + eastGone},
			{carrier("east", false), ""},
			{carrier("east", true), "east true by carrier; " + eastBack},
		},
		"a link that was found dead in both ways is back when both say so": {
			{carrier("east", false), "east false by carrier; " + eastGone},
			{session("east", bfd.Up, bfd.Down), ""},
			{carrier("east", true), ""},
			{session("east", bfd.Down, bfd.Init), ""},
			{session("east", bfd.Init, bfd.Up), "east true by bfd; " + eastBack},
		},
		"a session that was never up says nothing": {
			{session("east", bfd.Down, bfd.Init), ""},
			{session("east", bfd.Init, bfd.Down), ""},
		},
		"a neighbour that leaves on purpose is not dead": {
			{func(x *reflexes) { x.session(told("east", bfd.Up, bfd.Down, true)) }, ""},
		},
		"a link without anything prepared is news all the same": {
			{session("south", bfd.Up, bfd.Down), "south false by bfd"},
		},
		"nothing is sent into a bypass that is dead too": {
			{session("north", bfd.Up, bfd.Down), "north false by bfd; switch label 101 of north"},
			{session("east", bfd.Up, bfd.Down), "east false by bfd"},
			{session("north", bfd.Init, bfd.Up), "north true by bfd; " + eastGone + "; put back label 101 of north"},
			{session("east", bfd.Init, bfd.Up), "east true by bfd; " + eastBack},
		},
		"a router further away": {
			{session("", bfd.Up, bfd.Down), "10.254.0.8 false by bfd-multihop"},
			{session("", bfd.Down, bfd.Init), ""},
			{session("", bfd.Init, bfd.Up), "10.254.0.8 true by bfd-multihop"},
		},
		"what is nobody's": {
			{carrier("lo", false), ""},
			{session("west", bfd.Up, bfd.Down), ""},
		},
		"carriers that are not to be believed": {
			{func(x *reflexes) { c := westward(); c.Carrier = false; x.configure(c, 1) }, ""},
			{carrier("east", false), ""},
		},
		"a Config without BFD forgives what BFD found": {
			{session("east", bfd.Up, bfd.Down), "east false by bfd; " + eastGone},
			{func(x *reflexes) { c := westward(); c.BFD = Timers{}; x.configure(c, 1) }, "east true by carrier; " + eastBack},
		},
	} {
		x := newReflexes()
		x.configure(westward(), 0)
		if got := did(x); got != "" {
			t.Errorf("%s: it begins with %q", name, got)
		}
		for i, s := range steps {
			s.what(x)
			if got := did(x); got != s.want {
				t.Errorf("%s, step %d: %q, want %q", name, i+1, got, s.want)
				break
			}
		}
	}
}

func TestWhatTheKernelForgot(t *testing.T) {
	x := newReflexes()
	x.configure(westward(), 0)
	if f := x.forgotten("east"); len(f) != 1 {
		t.Errorf("east: %v", f)
	}
	x.session(told("east", bfd.Up, bfd.Down, false))
	_ = x.changes()
	if f := x.forgotten("east"); len(f) != 0 {
		t.Errorf("in the place of a prepared route: %v", f)
	}
	if f := x.forgotten("south"); len(f) != 1 || f[0].Table != 1001 {
		t.Errorf("south: %v", f)
	}
}

// TestSuccessorRecognizes: a new process finds in the kernel what an old one did.
func TestSuccessorRecognizes(t *testing.T) {
	cfg := westward()
	have := tables{map[uint32]fabric.MPLSRoute{100: *cfg.Protect[0].MPLSBy, 101: *cfg.Protect[2].MPLS}, map[slot]fabric.Route{}}
	x := newReflexes()
	x.configure(cfg, 0)
	missing := x.recognize(have, 0)
	if len(missing) != 2 {
		t.Errorf("missing: %v, want both routes", missing)
	}
	if got := did(x); got != "east false by bfd; switch route 10.255.0.7/32 of east" {
		t.Errorf("it makes of it %q", got)
	}
	// Where no neighbour will ever answer, the carrier counts.
	cfg.BFD = Timers{}
	x = newReflexes()
	x.configure(cfg, 0)
	x.recognize(have, 0)
	if got := did(x); got != "put back label 100 of east" {
		t.Errorf("without BFD it makes of it %q", got)
	}
}

// TestOrphans: what is not protected any more goes back when its link does, unless
// somebody else has replaced it.
func TestOrphans(t *testing.T) {
	cfg := westward()
	x := newReflexes()
	x.configure(cfg, 0)
	x.session(told("east", bfd.Up, bfd.Down, false))
	_ = did(x)
	have := tables{map[uint32]fabric.MPLSRoute{100: *cfg.Protect[0].MPLSBy}, map[slot]fabric.Route{}} // the IP route is somebody else's by now
	if list := x.orphans(cfg, have); len(list) != 0 {
		t.Errorf("still protected: %v", list)
	}
	next := cfg
	next.Protect, next.Routes = cfg.Protect[2:], nil
	if list := x.orphans(next, have); len(list) != 0 {
		t.Errorf("put back on a link that is dead: %v", list)
	}
	x.configure(next, 0)
	if got := did(x); got != "" {
		t.Errorf("while the link is dead: %q", got)
	}
	x.session(told("east", bfd.Init, bfd.Up, false))
	if got := did(x); got != "east true by bfd; put back label 100 of east" {
		t.Errorf("when the link is back: %q", got)
	}
}

func TestUndo(t *testing.T) {
	x := newReflexes()
	x.configure(westward(), 0)
	x.session(told("east", bfd.Up, bfd.Down, false))
	_ = did(x)
	if list := x.undo(); len(list) != 2 || len(x.undo()) != 0 {
		t.Errorf("undone: %v", list)
	}
}

func TestConfigsThatMeanNothing(t *testing.T) {
	for name, spoil := range map[string]func(c *Config){
		"of nobody":                      func(c *Config) { c.Node = "" },
		"that misses nothing":            func(c *Config) { c.BFD.Multiplier = 0 },
		"that misses too much":           func(c *Config) { c.MultihopBFD = Timers{10e6, 256} },
		"with a link to nowhere":         func(c *Config) { c.Links[0].Peer = netip.Addr{} },
		"with a session to nobody":       func(c *Config) { c.Multihop[0].Local = netip.Addr{} },
		"with a protection of nothing":   func(c *Config) { c.Protect[0] = Protection{Dev: "east"} },
		"with half a protection":         func(c *Config) { c.Protect[0].MPLSBy = nil },
		"with a protection of both":      func(c *Config) { c.Protect[0].IP, c.Protect[0].IPBy = c.Protect[1].IP, c.Protect[1].IPBy },
		"with a label for another":       func(c *Config) { c.Protect[0].MPLSBy.In = 102 },
		"with a route of another metric": func(c *Config) { c.Protect[1].IPBy.Metric = 5 },
	} {
		c := westward()
		for i := range c.Links {
			c.Links[i].Local = addr(9)
		}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		spoil(&c)
		if c.Validate() == nil {
			t.Errorf("a Config %s is taken", name)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"id":1,"op":"configure","config":{"Node":"p1","BFD":{"Interval":10000000,"Multiplier":3},"Links":[{"Dev":"p2","Local":"10.254.0.2","Peer":"10.254.0.3"}]}}`))
	f.Add([]byte(`{"id":2,"op":"stop"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeRequest(line)
		if err == nil && (r.ID == 0 || r.Op == opConfigure && r.Config.Validate() != nil) {
			t.Errorf("took %q", line)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"id":1}`))
	f.Add([]byte(`{"event":{"t_ns":1,"kind":"liveness.down","attr":{"dev":"p2"}}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if r, err := decodeReply(line); err == nil && (r.ID == 0) == (r.Event == nil) {
			t.Errorf("took %q", line)
		}
	})
}

// The lab has led the paths elsewhere while east is dead. What was prepared is
// just what the new paths want, or it is the best there is: it stays until east
// is back.
func TestOrphansOfADeadLink(t *testing.T) {
	x := newReflexes()
	x.configure(westward(), 1)
	x.device("east", false, 1)
	x.take()
	var t1 tables
	t1.labels, t1.routes = map[uint32]fabric.MPLSRoute{}, map[slot]fabric.Route{}
	for _, c := range x.changes() {
		if c.MPLS != nil {
			t1.labels[c.MPLS.In] = *c.MPLSBy
		} else {
			t1.routes[c.slot()] = *c.IPBy
		}
	}
	next := westward()
	next.Protect = nil
	next.Labels = []fabric.MPLSRoute{*westward().Protect[0].MPLSBy} // and no IP route any more that is like the prepared one
	if list := x.orphans(next, t1); len(list) != 0 {
		t.Errorf("by a dead link: %v", list)
	}
	x.configure(next, 2)
	if got := did(x); got != "" {
		t.Errorf("told of new paths: %s", got)
	}
	x.device("east", true, 3)
	if got := did(x); got != "east true by carrier; put back route 10.255.0.7/32 of east" {
		t.Errorf("east is back: %s", got)
	}
	if got := did(x); got != "" {
		t.Errorf("once is enough: %s", got)
	}
}
