package bgp

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhoForwards(t *testing.T) {
	var (
		first  = home{PE: addr("10.255.0.1"), Pref: 200}
		second = home{PE: addr("10.255.0.2"), Pref: 100}
		equal  = home{PE: addr("10.255.0.3"), Pref: 200}
		busy   = func(h home) home { h.Forwards = true; return h }
		well   = standing{able: true, hears: true}
	)
	for _, c := range []struct {
		name     string
		s        standing
		self     home
		others   []home
		forwards bool
	}{
		{"both begin, the first is better", well, first, []home{second}, true},
		{"both begin, the second is not", well, second, []home{first}, false},
		{"alone, and it may be early", well, second, nil, false},
		{"alone for long enough", standing{able: true, hears: true, settled: true}, second, nil, true},
		{"alone and without a session", standing{able: true, settled: true}, second, nil, false},
		{"forwards and hears nobody any more", standing{able: true, open: true}, first, nil, true},
		{"back, while the other forwards", well, first, []home{busy(second)}, false},
		{"back, and the other has closed", well, first, []home{second}, true},
		{"forwards, and the better one comes back", standing{able: true, hears: true, open: true}, second, []home{first}, false},
		{"forwards, and a worse one says that it does too", standing{able: true, hears: true, open: true}, first, []home{busy(second)}, true},
		{"no carrier, or cut off", standing{hears: true, settled: true, open: true}, first, []home{second}, false},
		{"was cut off, and may not have heard that the other forwards", standing{able: true, hears: true, stale: true}, first, []home{second}, false},
		{"of equals the lower address", well, first, []home{equal}, true},
		{"of equals not the higher", well, equal, []home{first}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.forwards, c.s.forwards(c.self, c.others))
		})
	}
}

// Whatever the order in which two PEs hear of each other, both never forward at
// once, and in the end the better one does. Each step lets one of them hear
// what the other has said last, or decide.
func TestNeverBothForward(t *testing.T) {
	type pe struct {
		self  home
		said  home // last
		heard []home
		open  bool
	}
	var explore func(a, b pe, depth int)
	seen := map[string]bool{}
	decide := func(p, _ pe) pe {
		s := standing{able: true, hears: true, settled: false, open: p.open}
		p.open = s.forwards(p.self, p.heard)
		p.said = p.self
		p.said.Forwards = p.open
		return p
	}
	hear := func(p, o pe) pe {
		if o.said.PE.IsValid() {
			p.heard = []home{o.said}
		}
		return p
	}
	ends := 0
	explore = func(a, b pe, depth int) {
		key := keyOf(a.open, a.said, a.heard) + keyOf(b.open, b.said, b.heard)
		if seen[key] {
			return
		}
		seen[key] = true
		require.False(t, a.open && b.open, "both forward")
		next := [][2]pe{{decide(a, b), b}, {a, decide(b, a)}, {hear(a, b), b}, {a, hear(b, a)}}
		quiet := true
		for _, n := range next {
			quiet = quiet && keyOf(n[0].open, n[0].said, n[0].heard)+keyOf(n[1].open, n[1].said, n[1].heard) == key
			explore(n[0], n[1], depth+1)
		}
		if quiet {
			ends++
			require.True(t, a.open && !b.open, "nobody, or the worse one, forwards in the end")
		}
	}
	first, second := home{PE: addr("10.255.0.1"), Pref: 200}, home{PE: addr("10.255.0.2"), Pref: 100}
	explore(pe{self: first}, pe{self: second}, 0)
	busy := second
	busy.Forwards = true
	explore(pe{self: first}, pe{self: second, open: true, said: busy}, 0) // the first comes back
	require.NotZero(t, ends)
}

func keyOf(open bool, said home, heard []home) string { return fmt.Sprint(open, said, heard) }
