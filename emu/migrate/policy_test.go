package migrate

import (
	"math/rand/v2"
	"strings"
	"testing"
)

const gib = 1 << 30 / PageSize

func TestPlans(t *testing.T) {
	for _, c := range []struct {
		opt  Options
		want func(p plan) bool
	}{
		{Options{Algorithm: StopAndCopy}, func(p plan) bool { return p.live == 0 && !p.codec.CBR && !p.codec.Zero }},
		{Options{Algorithm: Xen30}, func(p plan) bool {
			return p.live == 29 && p.factor == 3 && p.few == 50 && p.skip && p.window == 0 && !p.codec.CBR && !p.codec.Delta
		}},
		{Options{Algorithm: Xen5}, func(p plan) bool { return p.live == 5 && !p.skip && p.factor == 0 }},
		{Options{Algorithm: SmartStop}, func(p plan) bool { return p.window == 3 && p.skip && !p.codec.CBR }},
		{Options{Algorithm: CBR}, func(p plan) bool { return p.window == 0 && p.codec.CBR && !p.codec.Delta }},
		{Options{Algorithm: Deltas}, func(p plan) bool { return p.window == 0 && !p.codec.CBR && p.codec.Delta }},
		{Options{Algorithm: CloudNet, Window: 8, Block: 256, Cache: 1 << 20}, func(p plan) bool {
			return p.window == 8 && p.codec.CBR && p.codec.Delta && p.codec.Block == 256 && p.codec.Cache == 1<<20
		}},
		{Options{Algorithm: PostCopy}, func(p plan) bool { return p.post && p.live == 0 && p.codec.Zero }},
		{Options{Algorithm: Hybrid}, func(p plan) bool { return p.post && p.live == 1 }},
		{Options{Algorithm: Own}, func(p plan) bool { return p.own && p.codec.Own }},
		{Options{Algorithm: Own, Encoders: []string{"zero", "lz4"}}, func(p plan) bool { return p.own && !p.codec.Own && p.codec.Compress == "lz4" }},
		{Options{Algorithm: Xen30, Few: 7}, func(p plan) bool { return p.few == 7 }},
	} {
		p, err := c.opt.plan(gib)
		if err != nil || !c.want(p) {
			t.Errorf("%+v: %+v, %v", c.opt, p, err)
		}
	}
	if p, _ := (&Options{Algorithm: Xen30}).plan(gib / 16); p.few != 4 {
		t.Errorf("few pages of 64 MiB are %d, expected 4", p.few)
	}
	for _, c := range []struct {
		opt  Options
		says string
	}{
		{Options{Algorithm: "magic"}, "magic"},
		{Options{Algorithm: Own, Verify: "never"}, "never"},
		{Options{Algorithm: Xen30, Encoders: []string{"rot13"}}, "rot13"},
	} {
		if _, err := c.opt.plan(gib); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: error %v does not say %s", c.opt, err, c.says)
		}
	}
}

// follow plays rounds by their dirtied pages until the rules say that the last
// one is to come, and tells how many were sent with it.
func follow(opt Options, dirtied func(round int) int) int {
	p, _ := opt.plan(gib)
	r := rules{plan: p, pages: gib}
	for toSend, round := gib, 1; ; round++ {
		if r.afterRound(toSend, 0) {
			return round + 1
		}
		dirty := dirtied(round)
		if r.beforeRound(toSend, dirty) {
			return round + 1
		}
		toSend = dirty
	}
}

func TestStopRules(t *testing.T) {
	still := func(int) int { return 0 }
	busy := func(int) int { return 10000 }
	furious := func(int) int { return gib }
	// CloudNet's Fig. 7: falls, turns, and is lowest for a while in round 12.
	curve := []int{46700, 22500, 18800, 15300, 16000, 15000, 13200, 13000, 12400, 12600, 12300, 11800, 12800, 16000}
	paper := func(round int) int { return curve[min(round, len(curve)-1)] }
	for _, c := range []struct {
		name    string
		opt     Options
		dirtied func(int) int
		rounds  int
	}{
		{"xen30 sends a still VM once and looks at nothing", Options{Algorithm: Xen30}, still, 3},
		{"xen30 goes on for 30 rounds", Options{Algorithm: Xen30}, busy, 30},
		{"xen30 sends the memory three times", Options{Algorithm: Xen30}, furious, 5},
		{"xen5 ends by few pages", Options{Algorithm: Xen5}, still, 2},
		{"xen5 goes on for 5 rounds and the last", Options{Algorithm: Xen5}, furious, 6},
		{"smart stop is bounded as Xen is where nothing turns", Options{Algorithm: SmartStop}, func(n int) int { return gib - n }, 5},
		{"smart stop ends at a local minimum", Options{Algorithm: SmartStop}, paper, 9},
		{"a longer window ends later", Options{Algorithm: SmartStop, Window: 5}, paper, 11},
		{"a shorter one sooner", Options{Algorithm: SmartStop, Window: 2}, paper, 8},
	} {
		if got := follow(c.opt, c.dirtied); got != c.rounds {
			t.Errorf("%s: %d rounds, expected %d", c.name, got, c.rounds)
		}
	}
}

func TestBitmap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, pages := range []int{1, 63, 64, 65, 1000} {
		m, want := newBitmap(pages), map[int]bool{}
		for range pages / 3 {
			p := r.IntN(pages)
			m.set(p)
			want[p] = true
		}
		if m.count() != len(want) {
			t.Fatalf("%d bits, expected %d", m.count(), len(want))
		}
		for p := range pages {
			next, prev := p, p
			for next < pages && !want[next] {
				next++
			}
			for prev >= 0 && !want[prev] {
				prev--
			}
			if next == pages {
				next = -1
			}
			if m.next(p) != next || m.prev(p) != prev || m.has(p) != want[p] {
				t.Fatalf("of %d pages, page %d: next %d, previous %d, set %v; expected %d, %d, %v", pages, p, m.next(p), m.prev(p), m.has(p), next, prev, want[p])
			}
		}
		m.fill(pages)
		if m.count() != pages || m.next(pages) != -1 && pages%64 != 0 {
			t.Fatalf("filled for %d pages, it has %d", pages, m.count())
		}
	}
}

// What the VM stands at comes first, then what is around it, then the rest;
// and each page once.
func TestPusher(t *testing.T) {
	missing := newBitmap(1000)
	missing.fill(1000)
	p := newPusher(missing)
	if first := p.pick(nil, 4); first[0] != 0 || first[3] != 3 {
		t.Fatalf("without a fault: %v", first)
	}
	p.demand(500)
	around := p.pick(nil, 4)
	for _, page := range around {
		if page < 498 || page > 502 || page == 500 {
			t.Fatalf("around page 500: %v", around)
		}
	}
	p.demand(900)
	if next := p.pick(nil, 2); next[0] != 901 && next[0] != 899 {
		t.Fatalf("around page 900: %v", next)
	}
	seen := map[uint32]bool{}
	for _, list := range [][]uint32{around} {
		for _, page := range list {
			seen[page] = true
		}
	}
	for {
		list := p.pick(nil, 7)
		if len(list) == 0 {
			break
		}
		for _, page := range list {
			if seen[page] || page == 500 || page == 900 {
				t.Fatalf("page %d comes twice", page)
			}
			seen[page] = true
		}
	}
	if p.sent != 1000 || p.demanded != 2 || p.prepaged == 0 || p.left.count() != 0 {
		t.Fatalf("sent %d, demanded %d, prepaged %d, left %d", p.sent, p.demanded, p.prepaged, p.left.count())
	}
}

func TestIdleTicks(t *testing.T) {
	if n, ok := idleTicks([]byte("cpu  10 20 30 4000 50 0 0 0 0 0\ncpu0 1 2 3 4 5\n")); !ok || n != 4050 {
		t.Errorf("%d, %v", n, ok)
	}
	for _, bad := range []string{"", "cpu 1 2", "intr 1 2 3 4 5 6", "cpu a b c d e f"} {
		if _, ok := idleTicks([]byte(bad)); ok {
			t.Errorf("%q is taken for an account", bad)
		}
	}
}
