package bgp

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/liveness"
)

// twoExits is PE 1 with tunnels to PE 2, by p1 and prepared by p2, and to PE 3
// by p2 only.
func twoExits() *importer {
	return newImporter(&Config{Node: "pe1", RouterID: addr("10.255.0.1"), Tunnels: []Tunnel{
		{Egress: addr("10.255.0.2"), Label: 1102, Via: addr("10.1.0.1"), Dev: "p1", Backup: &Backup{Labels: []uint32{5001, 1202}, Via: addr("10.1.0.3"), Dev: "p2"}},
		{Egress: addr("10.255.0.3"), Label: 1203, Via: addr("10.1.0.3"), Dev: "p2"},
	}})
}

func TestChoose(t *testing.T) {
	const (
		none   = ""
		usual2 = "1102/2012 p1"
		round2 = "5001/1202/2012 p2"
		usual3 = "1203/2013 p2"
	)
	two, three := target{addr("10.255.0.2"), 2012}, target{addr("10.255.0.3"), 2013}
	both, alone, other := pair{two, three}, pair{best: two}, pair{best: three}
	peer := func(a string) liveness.State { return liveness.State{Peer: addr(a), By: "bfd-multihop"} }
	link := func(dev, by string) liveness.State { return liveness.State{Dev: dev, Peer: addr("10.1.0.1"), By: by} }
	for _, c := range []struct {
		name       string
		pair       pair
		down       []liveness.State
		dark       []string
		use, spare string
	}{
		{"all is well", both, nil, nil, usual2, round2},
		{"the best PE is gone", both, []liveness.State{peer("10.255.0.2")}, nil, usual3, usual3},
		{"the second PE is gone, which nobody misses", both, []liveness.State{peer("10.255.0.3")}, nil, usual2, round2},
		{"both PEs are said to be gone: BGP decides", both, []liveness.State{peer("10.255.0.2"), peer("10.255.0.3")}, nil, usual2, round2},
		{"the link is silent", both, []liveness.State{link("p1", "bfd")}, nil, round2, round2},
		{"the link is silent and the PE behind it gone", both, []liveness.State{link("p1", "bfd"), peer("10.255.0.2")}, nil, usual3, usual3},
		{"the link is dark: the kernel has gone to the spare", both, nil, []string{"p1"}, none, round2},
		{"dark, and silent of course", both, []liveness.State{link("p1", "bfd")}, []string{"p1"}, none, round2},
		{"its carrier is said to be gone before the kernel says so", both, []liveness.State{link("p1", "carrier")}, nil, usual2, round2},
		{"dark, and the PE gone", both, []liveness.State{peer("10.255.0.2")}, []string{"p1"}, usual3, none},
		{"the spare's link is dark", both, nil, []string{"p2"}, usual2, none},
		{"the spare's link is dark and the link silent", both, []liveness.State{link("p1", "bfd")}, []string{"p2"}, usual2, none},
		{"both are dark", both, nil, []string{"p1", "p2"}, none, none},
		{"one PE, two ways", alone, nil, nil, usual2, round2},
		{"one PE is gone: no other", alone, []liveness.State{peer("10.255.0.2")}, nil, usual2, round2},
		{"one way: no spare", other, nil, nil, usual3, none},
		{"one way, and silent", other, []liveness.State{link("p2", "bfd")}, nil, usual3, none},
		{"one way, and dark", other, nil, []string{"p2"}, none, none},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := newReach()
			for _, s := range c.down {
				require.True(t, up.hear(s))
			}
			for _, dev := range c.dark {
				up.dark[dev] = true
			}
			got := twoExits().choose(c.pair, up)
			text := func(w way) string {
				if w.isZero() {
					return none
				}
				return w.stack() + " " + w.Dev
			}
			require.Equal(t, [2]string{c.use, c.spare}, [2]string{text(got.use), text(got.spare)})
		})
	}
}

func TestReachForgetsWhatIsUpAgain(t *testing.T) {
	r := newReach()
	down := liveness.State{At: 7, Peer: addr("10.255.0.2"), By: "bfd-multihop"}
	require.True(t, r.hear(down))
	down.At = 8
	require.False(t, r.hear(down), "no news")
	require.True(t, r.peers[addr("10.255.0.2")])
	link := liveness.State{Dev: "p1", Peer: addr("10.1.0.1"), By: "carrier"}
	require.True(t, r.hear(link))
	require.True(t, r.downDev("p1"))
	require.False(t, r.silent["p1"])
	link.By, link.Up = "bfd", true
	require.True(t, r.hear(link), "whoever finds it up")
	require.False(t, r.hear(link))
	require.False(t, r.downDev("p1"))
	require.True(t, r.deaf())
	require.False(t, r.deaf())
	require.Empty(t, r.peers)
}

// Numbers are given out from the lowest on and come back.
func TestNexthopNumbers(t *testing.T) {
	n := newNexthops()
	a, b, c := pair{best: target{Label: 16}}, pair{best: target{Label: 17}}, pair{best: target{Label: 18}}
	first, spare := n.ids(a)
	require.Equal(t, first+1, spare)
	second, _ := n.ids(b)
	require.Equal(t, first+2, second)
	again, _ := n.ids(a)
	require.Equal(t, first, again)
	n.have[first], n.have[second] = nexthop{ID: first}, nexthop{ID: second}
	n.count(second, 3)
	require.Equal(t, []uint32{first}, n.idle())
	n.lost(first)
	third, _ := n.ids(c)
	require.Equal(t, first, third, "the place of a pair that is gone")
	n.count(second, -3)
	require.Empty(t, n.users)
}

// What the controller holds to be out of reach is down as what a router misses
// itself, until the controller says otherwise.
func TestReachTakesTheControllersWord(t *testing.T) {
	r, two := newReach(), addr("10.255.0.2")
	r.told([]Tunnel{{Egress: two, Lost: true}, {Egress: addr("10.255.0.3")}})
	require.Equal(t, map[netip.Addr]bool{two: true}, r.peers)
	require.True(t, r.hear(liveness.State{Peer: addr("10.255.0.3"), By: "bfd-multihop"}))
	require.True(t, r.deaf())
	require.Equal(t, map[netip.Addr]bool{two: true}, r.peers, "who is deaf to routers hears the controller")
	r.told([]Tunnel{{Egress: two}})
	require.Empty(t, r.peers)
}

// What is down may change the way of next hops, which is moved, or whether there
// are two, which takes routes.
func TestNexthopsFit(t *testing.T) {
	im, n, up := twoExits(), newNexthops(), newReach()
	p := pair{target{addr("10.255.0.2"), 2012}, target{addr("10.255.0.3"), 2013}}
	choose := func(p pair) choice { return im.choose(p, up) }
	use, spare := n.ids(p)
	require.False(t, n.fits(choose))
	add, _ := n.changes(choose)
	require.Len(t, add, 2)
	for _, h := range add {
		n.have[h.ID] = h
	}
	require.True(t, n.fits(choose))
	up.hear(liveness.State{Peer: addr("10.255.0.2"), By: "bfd-multihop"})
	add, move := n.changes(choose)
	require.Empty(t, add)
	require.Len(t, move, 2)
	require.True(t, n.fits(choose))
	up.dark["p2"] = true
	n.lost(use)
	n.lost(spare)
	require.False(t, n.fits(choose))
}
